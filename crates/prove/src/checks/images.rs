//! What a registry holds of a system whose services are several.

use std::{collections::BTreeSet, time::Duration};

use api::{
    client::Client,
    registry::TOKEN_USER,
    supervisor::{BuildRequest, Built, StampRef},
};
use serde_json::Value;

use super::registry::{basic, exchanged, nobody};
use crate::{Lab, Miss, Seen, Site, claim::Call, inside::sha256, miss, must};

/// A client of the registry with the right to what is in `scope`, as the stamp's operator.
async fn operator(site: &Site, scope: &str) -> Result<Client, Miss> {
    let refresh = exchanged(site, "supervisor").await?;
    let client = nobody(site)?.header(http::header::AUTHORIZATION, &basic(TOKEN_USER, &refresh));
    let host = client.target().trim_start_matches("https://").to_owned();
    let answer = client.send("GET", &format!("/oauth2/token?service={host}&scope={scope}"), None).await?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let Some(token) = body["access_token"].as_str() else { miss!("for {scope} a token is answered {}", answer.status) };
    Ok(nobody(site)?.bearer(api::Secret::new(token)))
}

/// The texts of a list in an answer.
async fn list(client: &Client, path: &str, key: &str) -> Result<BTreeSet<String>, Miss> {
    let answer = client.send("GET", path, None).await?;
    must!(answer.status == 200, "{path} is answered {}", answer.status);
    let body: Value = serde_json::from_slice(&answer.body)?;
    let all = body[key].as_array().cloned().unwrap_or_default();
    Ok(all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
}

/// An image with all that it names, each content verified by its digest; its bytes.
async fn pulled(client: &Client, repository: &str, digest: &str) -> Result<usize, Miss> {
    let answer = client.send("GET", &format!("/v2/{repository}/manifests/{digest}"), None).await?;
    must!(answer.status == 200, "{repository}@{digest} is answered {}", answer.status);
    must!(format!("sha256:{}", sha256(&answer.body)) == digest, "what comes as {digest} has another digest");
    let manifest: Value = serde_json::from_slice(&answer.body)?;
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    must!(!layers.is_empty(), "{repository}@{digest} has no layer");
    let mut bytes = answer.body.len();
    for one in std::iter::once(&manifest["config"]).chain(&layers) {
        let named = one["digest"].as_str().unwrap_or_default();
        let blob = client.send("GET", &format!("/v2/{repository}/blobs/{named}"), None).await?;
        must!(blob.status == 200, "{named} of {repository} is answered {}", blob.status);
        must!(format!("sha256:{}", sha256(&blob.body)) == named, "what comes as {named} has another digest");
        bytes += blob.body.len();
    }
    Ok(bytes)
}

/// `registry_holds(SERVICE, REPOSITORY, ...)`: an image of each service is built; the catalogue and the tags name it, and it is pulled
/// by its digest.
pub async fn holds(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mut seen = Vec::new();
    let mut wanted = BTreeSet::new();
    for pair in c.arguments.chunks_exact(2) {
        let (service, repository) = (&pair[0], &pair[1]);
        let StampRef { system, stamp } = site.of();
        let ask = BuildRequest { system, stamp, service: service.clone(), release: None };
        let supervisor = site.supervisor.clone().timeout(Duration::from_secs(120));
        let built: Built = supervisor.post("/build", &ask).await?;
        must!(built.repository == *repository, "{service} is built into {}", built.repository);
        let client = operator(&site, &format!("repository:{repository}:pull")).await?;
        let client = client.timeout(Duration::from_secs(60));
        let tags = list(&client, &format!("/v2/{repository}/tags/list"), "tags").await?;
        must!(
            built.tags.iter().all(|tag| tags.contains(tag)),
            "{repository} has {tags:?}, built were {:?}",
            built.tags
        );
        let bytes = pulled(&client, repository, &built.digest).await?;
        seen.push(format!("{repository}@{}: {bytes} bytes, tags {}", built.digest, built.tags.join(", ")));
        wanted.insert(repository.clone());
    }
    must!(!wanted.is_empty(), "no service is named");
    let found = list(&operator(&site, "registry:catalog:*").await?, "/v2/_catalog", "repositories").await?;
    must!(wanted.is_subset(&found), "the catalogue has {found:?}");
    Ok(format!("catalogue {found:?}; {}", seen.join("; ")))
}
