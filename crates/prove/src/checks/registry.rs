//! The registry: who pulls and pushes, how long images stay, which tags move. Everything by the wire format that clients speak.

use std::{collections::BTreeSet, time::Duration};

use api::{
    Secret,
    audit::Outcome,
    client::Client,
    registry::{AUDIENCE, RegistryStatus, TOKEN_USER, Tier},
    supervisor::{BuildRequest, Built, StampRef},
};
use base64::Engine as _;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::{Lab, Miss, Seen, Site, claim::Call, inside::sha256, must, site::until};

const DAY_MS: i64 = 86_400_000;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The repository of the checks, which is the application's own.
const REPOSITORY: &str = "time-tracker";

/// A tag that no other check uses.
fn fresh() -> String {
    format!("check-{}", uuid::Uuid::new_v4().simple())
}

/// A client of the registry without credentials.
pub(super) fn nobody(site: &Site) -> Result<Client, Miss> {
    site.client(&site.url(&site.first("registry")?)?)
}

pub(super) fn basic(user: &str, password: &Secret) -> String {
    let text = format!("{user}:{}", password.expose());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

/// What asking for an access token with user and password answers, and the token.
async fn login(site: &Site, user: &str, password: &Secret) -> Result<(u16, Option<Secret>), Miss> {
    let client = nobody(site)?.header(AUTHORIZATION, &basic(user, password));
    let host = client.target().trim_start_matches("https://").to_owned();
    let path = format!("/oauth2/token?service={host}&scope=repository:{REPOSITORY}:pull,push");
    let answer = client.send("GET", &path, None).await?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    Ok((answer.status.as_u16(), body["access_token"].as_str().map(Secret::new)))
}

/// A refresh token of a workload: its token of the directory, exchanged as `az acr login` does.
pub(super) async fn exchanged(site: &Site, workload: &str) -> Result<Secret, Miss> {
    let token = site.token(workload, AUDIENCE).await?;
    let form = format!("grant_type=access_token&service=registry&access_token={}", token.expose());
    let answer = nobody(site)?
        .send("POST", "/oauth2/exchange", Some(("application/x-www-form-urlencoded", Bytes::from(form))))
        .await?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let refresh = body["refresh_token"].as_str().map(Secret::new);
    refresh.ok_or_else(|| Miss::Failed(format!("{workload}'s token is exchanged for {}", answer.status)))
}

/// A client that speaks as a workload.
async fn as_workload(site: &Site, workload: &str) -> Result<Client, Miss> {
    let refresh = exchanged(site, workload).await?;
    let (status, token) = login(site, TOKEN_USER, &refresh).await?;
    let token = token.ok_or_else(|| Miss::Failed(format!("{workload} gets {status} and no access token")))?;
    Ok(nobody(site)?.bearer(token))
}

/// Pushes an image with one small layer that says `mark`; its digest, or the answer that refused it.
async fn push(client: &Client, tag: &str, mark: &str) -> Result<Result<String, u16>, Miss> {
    let config =
        json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": [] } });
    let mut named = Vec::new();
    for content in [config.to_string(), format!("layer of {mark}")] {
        let digest = format!("sha256:{}", sha256(content.as_bytes()));
        let path = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={digest}");
        let answer =
            client.send("POST", &path, Some(("application/octet-stream", Bytes::from(content.clone())))).await?;
        if answer.status != 201 {
            return Ok(Err(answer.status.as_u16()));
        }
        named.push((digest, content.len()));
    }
    let entry = |kind: &str, of: &(String, usize)| json!({ "mediaType": kind, "digest": of.0, "size": of.1 });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": entry("application/vnd.oci.image.config.v1+json", &named[0]),
        "layers": [entry("application/vnd.oci.image.layer.v1.tar", &named[1])],
    });
    let manifest = manifest.to_string();
    let digest = format!("sha256:{}", sha256(manifest.as_bytes()));
    let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
    let answer = client.send("PUT", &path, Some((MANIFEST, Bytes::from(manifest)))).await?;
    Ok(if answer.status == 201 { Ok(digest) } else { Err(answer.status.as_u16()) })
}

/// Pulls an image with all that it names, each content verified; its digest and its bytes.
async fn pull(client: &Client, reference: &str) -> Result<Result<(String, usize), u16>, Miss> {
    let answer = client.send("GET", &format!("/v2/{REPOSITORY}/manifests/{reference}"), None).await?;
    if answer.status != 200 {
        return Ok(Err(answer.status.as_u16()));
    }
    let digest = format!("sha256:{}", sha256(&answer.body));
    let manifest: Value = serde_json::from_slice(&answer.body)?;
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let mut bytes = answer.body.len();
    for one in std::iter::once(&manifest["config"]).chain(&layers) {
        let named = one["digest"].as_str().unwrap_or_default();
        let blob = client.send("GET", &format!("/v2/{REPOSITORY}/blobs/{named}"), None).await?;
        if blob.status != 200 {
            return Ok(Err(blob.status.as_u16()));
        }
        must!(format!("sha256:{}", sha256(&blob.body)) == named, "what comes as {named} has another digest");
        bytes += blob.body.len();
    }
    Ok(Ok((digest, bytes)))
}

async fn pushed(client: &Client, tag: &str, mark: &str) -> Result<String, Miss> {
    push(client, tag, mark).await?.map_err(|status| Miss::Failed(format!("pushing {tag} answers {status}")))
}

async fn pulled(client: &Client, reference: &str) -> Result<(String, usize), Miss> {
    pull(client, reference).await?.map_err(|status| Miss::Failed(format!("pulling {reference} answers {status}")))
}

/// The value of a vault's secret, as the supervisor reads it.
async fn secret(site: &Site, name: &str) -> Result<Secret, Miss> {
    let path = format!("/secrets/{name}?api-version=7.4");
    let bundle: api::vault::SecretBundle = site.vault("supervisor").await?.get(&path).await?;
    bundle.value.ok_or_else(|| Miss::Failed(format!("the vault's {name} has no value")))
}

fn admin(site: &Site) -> Result<String, Miss> {
    Ok(site.first("registry")?.trim_start_matches("registry.").to_owned())
}

/// `registry_password(SECRET)`.
pub async fn password(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let name = c.argument(0, "ACR--Password");
    let (user, password) = (admin(&site)?, secret(&site, name).await?);
    let (status, token) = login(&site, &user, &password).await?;
    let Some(token) = token else {
        return Err(Miss::Failed(format!("with {name} of the vault the login answers {status}")));
    };
    let client = nobody(&site)?.bearer(token);
    let tag = fresh();
    let digest = pushed(&client, &tag, &tag).await?;
    let (there, bytes) = pulled(&client, &tag).await?;
    must!(there == digest, "{tag} was pushed as {digest} and is pulled as {there}");
    let value = password.expose();
    // Of the same length and alphabet; the last letter alone differs.
    let last = if value.ends_with('A') { 'B' } else { 'A' };
    let near = format!("{}{last}", &value[..value.len().saturating_sub(1)]);
    let mut refused = Vec::new();
    for other in [near, fresh(), String::new()] {
        let other = Secret::new(other);
        let (status, token) = login(&site, &user, &other).await?;
        must!(status == 401 && token.is_none(), "another password is answered {status}");
        let direct = nobody(&site)?.header(AUTHORIZATION, &basic(&user, &other));
        let answer = pull(&direct, &tag).await?;
        must!(answer == Err(401), "with another password a pull answers {answer:?}");
        refused.push(status.to_string());
    }
    Ok(format!(
        "{name}: login {status}, an image pushed and pulled ({bytes} bytes, {digest}); others {}",
        refused.join(", ")
    ))
}

/// `registry_private(SERVICE)`: SERVICE has the right to pull, and no more.
pub async fn private(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let workload = format!("service.{}", c.argument(0, "web"));
    let tag = fresh();
    let operator = as_workload(&site, "supervisor").await?;
    let digest = pushed(&operator, &tag, &tag).await?;
    let without = nobody(&site)?;
    let mut refused = Vec::new();
    for reference in [tag.as_str(), digest.as_str()] {
        let answer = pull(&without, reference).await?;
        must!(answer == Err(401), "nobody pulls {reference} and gets {answer:?}");
        refused.push("401");
    }
    let path = format!("/oauth2/token?service=registry&scope=repository:{REPOSITORY}:pull");
    let anonymous = without.send("GET", &path, None).await?.status;
    must!(anonymous == 401, "a token without credentials is answered {anonymous}");
    let client = as_workload(&site, &workload).await?;
    let (there, bytes) = pulled(&client, &tag).await?;
    must!(there == digest, "pulled {there}, pushed {digest}");
    let own = push(&client, &tag, &fresh()).await?;
    must!(matches!(own, Err(401 | 403)), "{workload}, who only pulls, pushes and gets {own:?}");
    let event = until("the pull is in the record", async || {
        let events = site.audited(&workload).await?;
        let of = |e: &&api::audit::Event| {
            e.action == "image.pull" && e.object.ends_with(&format!(":{tag}")) && e.outcome == Outcome::Ok
        };
        events.iter().find(of).cloned().ok_or_else(|| Miss::Failed(format!("{} records, none of it", events.len())))
    })
    .await?;
    Ok(format!(
        "nobody: by tag and digest {}, for a token {anonymous}; {workload} pulls {bytes} bytes, as {}, and may not push",
        refused.join(" and "),
        event.object
    ))
}

/// `admin_for_set_up(SECRET)`: the login, its record, and the flag once the registry is set up.
pub async fn admin_user(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (user, password) = (admin(&site)?, secret(&site, c.argument(0, "ACR--Password")).await?);
    let registry = site.first("registry")?;
    let (status, token) = login(&site, &user, &password).await?;
    let Some(token) = token else { return Err(Miss::Failed(format!("the admin's login answers {status}"))) };
    pushed(&nobody(&site)?.bearer(token), &fresh(), "set-up").await?;
    until("the login is in the record", async || {
        let events = site.audited(&format!("admin:{user}")).await?;
        let of = |e: &&api::audit::Event| e.action == "registry.login" && e.outcome == Outcome::Ok;
        events.iter().find(of).map(drop).ok_or_else(|| Miss::Failed(format!("{} records, no login", events.len())))
    })
    .await?;
    let told = |site: &Site| {
        let resource = site.status.resources.iter().find(|r| r.name == registry);
        resource.map(|r| r.note.clone()).unwrap_or_default()
    };
    let site = lab.restore(on).await?;
    let flag = told(&site);
    must!(flag.contains("admin user is still enabled"), "after set-up the status of {registry} says `{flag}`");
    let name = registry.trim_start_matches("registry.");
    let off = async {
        let site = lab.changed(on, &format!("registry.{name}.admin_user = false")).await?;
        let refused = until("the admin user is off", async || {
            let (status, _) = login(&site, &user, &password).await?;
            must!(status == 401, "switched off, the admin's login answers {status}");
            Ok(status)
        })
        .await?;
        must!(told(&site).is_empty(), "switched off, the status still says `{}`", told(&site));
        Ok(refused)
    }
    .await;
    lab.restore(on).await?;
    Ok(format!("login {status}, recorded; flagged after the first push (`{flag}`); switched off {}, and no flag", off?))
}

/// `untagged_kept(DAYS)`.
pub async fn untagged(lab: &Lab, on: &str, c: &Call) -> Seen {
    let days: i64 = c.argument(0, "7").parse()?;
    let site = lab.site(on).await?;
    let client = as_workload(&site, "supervisor").await?;
    let tag = fresh();
    let lost = pushed(&client, &tag, "the first").await?;
    let stays = pushed(&client, &tag, "the second").await?;
    let later = async {
        let site = lab.at(on, (days - 1) * DAY_MS).await?;
        let client = as_workload(&site, "supervisor").await?;
        let (there, _) = pulled(&client, &lost).await?;
        must!(there == lost, "on day {} it is another", days - 1);
        let site = lab.at(on, (days + 1) * DAY_MS).await?;
        let client = as_workload(&site, "supervisor").await?;
        let gone = pull(&client, &lost).await?;
        must!(gone == Err(404), "on day {} the image without a tag answers {gone:?}", days + 1);
        let (tagged, bytes) = pulled(&client, &tag).await?;
        must!(tagged == stays, "on day {} the tag leads to {tagged}", days + 1);
        Ok(format!(
            "{lost} pulls on day {} and is not found on day {}; the tagged one pulls then ({bytes} bytes)",
            days - 1,
            days + 1
        ))
    }
    .await;
    lab.restore(on).await?;
    later
}

/// Builds an image of a service, as `stamp build` does.
async fn build(site: &Site, service: &str, release: Option<String>) -> Result<Built, Miss> {
    let StampRef { system, stamp } = site.of();
    let ask = BuildRequest { system, stamp, service: service.into(), release };
    let supervisor = site.supervisor.clone().timeout(Duration::from_secs(120));
    let built: Built = supervisor.post("/build", &ask).await?;
    must!(built.repository == REPOSITORY, "{service} is built into {}", built.repository);
    Ok(built)
}

/// `latest_is_newest(SERVICE)`.
pub async fn latest(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let service = c.argument(0, "web");
    let client = as_workload(&site, &format!("service.{service}")).await?;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let built = build(&site, service, None).await?;
        let (digest, bytes) = pulled(&client, "latest").await?;
        must!(digest == built.digest, "after a build of {} `latest` is {digest}", built.digest);
        must!(bytes as u64 > built.bytes, "what is pulled has {bytes} bytes, its layer alone {}", built.bytes);
        seen.push(digest);
    }
    must!(seen[0] != seen[1], "two builds are one image");
    let (first, _) = pulled(&client, &seen[0]).await?;
    Ok(format!("built twice: `latest` was {first}, and is {}", seen[1]))
}

/// `build_tags(SERVICE)`.
pub async fn build_tags(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let service = c.argument(0, "web");
    let client = as_workload(&site, &format!("service.{service}")).await?;
    let list = async || -> Result<BTreeSet<String>, Miss> {
        let body: Value = client.get(&format!("/v2/{REPOSITORY}/tags/list")).await?;
        let tags = body["tags"].as_array().cloned().unwrap_or_default();
        Ok(tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect())
    };
    // There is a repository from the first build on.
    build(&site, service, None).await?;
    let known = list().await?;
    let before = jiff::Timestamp::now();
    let built = build(&site, service, None).await?;
    let after = jiff::Timestamp::now();
    let now = list().await?;
    let new: Vec<&String> = now.difference(&known).collect();
    let second = |at: jiff::Timestamp| at.strftime("%Y%m%d-%H%M%S").to_string();
    let times: Vec<&&String> =
        new.iter().filter(|tag| jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", tag).is_ok()).collect();
    let [tag] = times.as_slice() else { return Err(Miss::Failed(format!("the build got the new tags {new:?}"))) };
    let (from, to) = (second(before), second(after));
    must!(**tag >= &from && **tag <= &to, "it is called {tag}, and was built between {from} and {to}");
    let (digest, _) = pulled(&client, tag).await?;
    must!(digest == built.digest, "{tag} is {digest}, and the build {}", built.digest);
    Ok(format!("built between {from} and {to}: tag {tag}, which is {digest}"))
}

/// `release_stays(SERVICE)`.
pub async fn release(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let client = as_workload(&site, "supervisor").await?;
    // A version that nobody released before: a stamp may be looked at twice.
    let number = uuid::Uuid::new_v4().as_u128() % 1_000_000_000;
    let tag = format!("v1.0.{number}");
    let first = build(&site, c.argument(0, "web"), Some(tag.clone())).await?.digest;
    let (resolved, _) = pulled(&client, &tag).await?;
    must!(resolved == first, "{tag} was released as {first} and is {resolved}");
    let second = push(&client, &tag, &fresh()).await?;
    must!(second == Err(409), "another image on {tag} is answered {second:?}");
    let (after, _) = pulled(&client, &tag).await?;
    must!(after == first, "after the refused push {tag} is {after}");
    let moving = fresh();
    pushed(&client, &moving, &fresh()).await?;
    pushed(&client, &moving, &fresh()).await?;
    Ok(format!("{tag} is {first}; another image on it 409, and it is the same after; other tags move"))
}

/// `registry_tier(STAMP, TIER, STAMP, TIER)`: what each registry says it is, and what it has room for, tried by a blob that is
/// announced and never sent.
pub async fn tier(lab: &Lab, _: &str, c: &Call) -> Seen {
    let mut said = Vec::new();
    for at in [0, 2] {
        let (stamp, wanted) = (c.argument(at, ""), c.argument(at + 1, ""));
        let site = lab.site(stamp).await?;
        let registry = site.first("registry")?;
        let status: RegistryStatus = site.control(&registry)?.get("/status").await?;
        let tier = Tier::named(wanted);
        must!(status.tier == tier, "{stamp}: {registry} is {:?}, not {wanted}", status.tier);
        let room = tier.storage_bytes().ok_or_else(|| Miss::Failed(format!("{wanted} is no tier")))?;
        must!(status.storage_bytes == Some(room), "{stamp}: it has room for {:?} bytes", status.storage_bytes);
        let client = as_workload(&site, "supervisor").await?;
        let fits = announced(&site, &client, room / 2).await?;
        let more = announced(&site, &client, room + 1).await?;
        must!(fits == 100 && more == 413, "{stamp}: half of {room} bytes is answered {fits}, one more than all {more}");
        said.push(format!("{stamp}: {wanted}, {} GiB: half of it {fits}, one byte more {more}", room >> 30));
    }
    Ok(said.join("; "))
}

/// What a registry answers to a piece of so many bytes before it comes: 100, or why not.
async fn announced(site: &Site, client: &Client, bytes: u64) -> Result<u16, Miss> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let begun = client.send("POST", &format!("/v2/{REPOSITORY}/blobs/uploads/"), None).await?;
    let location = begun.headers.get("location").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    must!(begun.status == 202, "beginning an upload answers {}", begun.status);
    let (refresh, host) = (exchanged(site, "supervisor").await?, client.target());
    let way = site.way(&site.first("registry")?)?;
    let mut stream = crate::tls::encrypted(&way, &site.ca_pem).await?;
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nContent-Length: {bytes}\r\nExpect: 100-continue\r\n\r\n",
        host.trim_start_matches("https://"),
        basic(TOKEN_USER, &refresh),
    );
    stream.write_all(head.as_bytes()).await?;
    let mut said = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut said)).await;
    read.map_err(|_| Miss::Failed("no answer in 10 s to an announced piece".into()))??;
    drop(stream);
    // "HTTP/1.1 100"
    let status = std::str::from_utf8(&said[9..]).ok().and_then(|text| text.parse().ok());
    status.ok_or_else(|| Miss::Failed(format!("an answer begins `{}`", String::from_utf8_lossy(&said))))
}
