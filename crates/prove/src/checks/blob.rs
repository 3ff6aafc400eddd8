//! Accounts of blobs: who reads and who writes, asked by the wire format that clients speak.

use api::{audit::Outcome, blob::AUDIENCE, client::Client};
use bytes::Bytes;
use model::{Principal, Resource};

use crate::{Lab, Miss, Seen, Site, claim::Call, miss, must, site::until};

/// A client of an account without credentials.
fn nobody(site: &Site, account: &str) -> Result<Client, Miss> {
    site.client(&site.url(&format!("blob.{account}"))?)
}

async fn as_workload(site: &Site, account: &str, workload: &str) -> Result<Client, Miss> {
    Ok(nobody(site, account)?.bearer(site.token(workload, AUDIENCE).await?))
}

/// The statuses of a list, a read of a blob that is not there, a block that nobody will ever commit, and a deletion of what
/// is not there. Nothing of it is seen by others.
async fn tried(client: &Client, container: &str, name: &str) -> Result<[u16; 4], Miss> {
    let ask = async |method: &str, path: String| -> Result<u16, Miss> {
        let body = (method == "PUT").then(|| ("application/octet-stream", Bytes::from_static(b"check")));
        Ok(client.send(method, &path, body).await?.status.as_u16())
    };
    Ok([
        ask("GET", format!("/{container}?restype=container&comp=list&maxresults=1")).await?,
        ask("GET", format!("/{container}/{name}")).await?,
        ask("PUT", format!("/{container}/{name}?comp=block&blockid=QQ%3D%3D")).await?,
        ask("DELETE", format!("/{container}/{name}")).await?,
    ])
}

/// `blob_reader(ACCOUNT, CONTAINER, SERVICE)`: the service reads and does not write; services without a role do neither.
pub async fn reader(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (account, container) = (c.argument(0, "main"), c.argument(1, "main"));
    let reader = format!("service.{}", c.argument(2, "web"));
    let name = format!("check-{}", uuid::Uuid::new_v4().simple());
    let declared = site.system.resources.values().find_map(|resource| match resource {
        Resource::Blob(blob) if blob.containers.contains_key(container) => Some(&blob.access),
        _ => None,
    });
    let declared = declared.ok_or_else(|| Miss::Failed(format!("no account has a container `{container}`")))?;
    let saw = tried(&as_workload(&site, account, &reader).await?, container, &name).await?;
    must!(saw == [200, 404, 403, 403], "{reader} lists, reads, writes and deletes with {saw:?}");
    let saw = tried(&nobody(&site, account)?, container, &name).await?;
    must!(saw == [401; 4], "without a token it is {saw:?}");
    let other = nobody(&site, account)?.bearer(site.token(&reader, "https://vault.azure.net").await?);
    let saw = tried(&other, container, &name).await?;
    must!(saw == [401; 4], "with a token for the vault it is {saw:?}");
    let mut refused = Vec::new();
    for (id, _) in site.system.services() {
        let named =
            |who: &Principal| matches!(who, Principal::Workload(known) | Principal::Migrate(known) if known == id);
        if declared.iter().any(|a| named(&a.to)) {
            continue;
        }
        let saw = tried(&as_workload(&site, account, &id.to_string()).await?, container, &name).await?;
        must!(saw == [403; 4], "{id}, which has no role there, gets {saw:?}");
        refused.push(id.to_string());
    }
    let event = until("the refused write is in the record", async || {
        let events = site.audited(&reader).await?;
        let of = |e: &&api::audit::Event| {
            e.action == "blob.block.put" && e.object.ends_with(&name) && e.outcome == Outcome::Denied
        };
        events.iter().find(of).cloned().ok_or_else(|| Miss::Failed(format!("{} records, none of it", events.len())))
    })
    .await?;
    Ok(format!(
        "{reader} lists and reads, and is refused to write and delete ({} is in the record); without its token 401; refused altogether: {}",
        event.object,
        if refused.is_empty() { "nobody else is there".to_owned() } else { refused.join(", ") }
    ))
}

/// `blob_immutable(ACCOUNT, CONTAINER, WRITER)`: what the WRITER's last run has put there is overwritten and deleted by nobody, and the
/// record says who tried.
pub async fn immutable(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (account, container, writer) = (c.argument(0, "main"), c.argument(1, "main"), c.argument(2, ""));
    super::story::run_job(&site, writer).await?;
    let client = as_workload(&site, account, writer).await?;
    let list = client.send("GET", &format!("/{container}?restype=container&comp=list"), None).await?;
    let text = String::from_utf8_lossy(&list.body).into_owned();
    let name = text.split("<Name>").skip(1).filter_map(|t| t.split("</Name>").next()).last();
    let Some(name) = name else { miss!("{writer} has put nothing into {container}: {}", list.status) };
    let path = format!("/{container}/{name}");
    let read = async || {
        let answer = client.send("GET", &path, None).await?;
        must!(answer.status.is_success(), "{path} is answered {}", answer.status);
        Ok::<String, Miss>(crate::inside::sha256(&answer.body))
    };
    let before = read().await?;
    let mut statuses = Vec::new();
    for (who, client) in [(writer, client.clone()), ("supervisor", as_workload(&site, account, "supervisor").await?)] {
        let put = http::HeaderName::from_static("x-ms-blob-type");
        let body = Some(("application/octet-stream", Bytes::from_static(b"spoilt")));
        let written = client.clone().header(put, "BlockBlob").send("PUT", &path, body).await?.status.as_u16();
        let deleted = client.send("DELETE", &path, None).await?.status.as_u16();
        must!(
            (400..500).contains(&written) && (400..500).contains(&deleted),
            "{who} writes {written}, deletes {deleted}"
        );
        statuses.push(format!("{who} {written} and {deleted}"));
    }
    must!(read().await? == before, "{path} is another than before");
    let last = name.rsplit('/').next().unwrap_or(name).to_owned();
    let tries = until("the refused attempts are in the record", async || {
        let events = site.audited(writer).await?;
        let mine = events.iter().filter(|e| e.object.contains(&last) && e.outcome != Outcome::Ok);
        let actions: Vec<String> = mine.map(|e| format!("{} {:?}", e.action, e.outcome)).collect();
        must!(actions.len() >= 2, "{} records, of these attempts {actions:?}", events.len());
        Ok(actions)
    })
    .await?;
    Ok(format!(
        "{path}: overwritten and deleted by {}; its digest is the same; recorded: {}",
        statuses.join(", "),
        tries.join(", ")
    ))
}

/// `blob_has_set(ACCOUNT, CONTAINER, JOB, SHARE OF FILES)`: a run of the job puts a set there: its manifest, and each part that it names with
/// the digest that it names; the files are those of the share.
pub async fn has_set(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (account, container, job) = (c.argument(0, "main"), c.argument(1, "main"), c.argument(2, ""));
    let share = site.places.get(c.argument(3, "")).map(|place| place.join("data"));
    let share = share.ok_or_else(|| Miss::Failed(format!("there is no {}", c.argument(3, ""))))?;
    super::story::run_job(&site, job).await?;
    let client = as_workload(&site, account, job).await?;
    let list = client.send("GET", &format!("/{container}?restype=container&comp=list"), None).await?;
    let text = String::from_utf8_lossy(&list.body).into_owned();
    let names: Vec<&str> = text.split("<Name>").skip(1).filter_map(|t| t.split("</Name>").next()).collect();
    let Some(last) = names.iter().copied().filter(|n| n.ends_with("/manifest.json")).max() else {
        miss!("no set is in {container}: {} {names:?}", list.status)
    };
    let get = async |name: &str| {
        let answer = client.send("GET", &format!("/{container}/{name}"), None).await?;
        must!(answer.status.is_success(), "{name} is answered {}", answer.status);
        Ok::<Bytes, Miss>(answer.body)
    };
    let manifest: serde_json::Value = serde_json::from_slice(&get(last).await?)?;
    let set = last.trim_end_matches("/manifest.json");
    let mut tables = 0;
    for (table, said) in manifest["tables"].as_object().into_iter().flatten() {
        let digest = crate::inside::sha256(&get(&format!("{set}/tables/{table}.copy")).await?);
        must!(said["sha256"] == digest, "the dump of {table} has the digest {digest}, not {}", said["sha256"]);
        tables += 1;
    }
    let mut files = 0;
    for (address, said) in manifest["media"].as_object().into_iter().flatten() {
        let digest = crate::inside::sha256(&get(&format!("{set}/media/{address}")).await?);
        let own = crate::inside::sha256(&std::fs::read(share.join(address))?);
        must!(said == &digest && digest == own, "{address} is {digest} there and {own} on the share");
        files += 1;
    }
    let mut live = 0;
    for kind in std::fs::read_dir(&share)?.flatten().filter(|e| e.path().is_dir()) {
        live += std::fs::read_dir(kind.path())?
            .flatten()
            .filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."))
            .count();
    }
    must!(
        tables > 0 && files > 0 && files == live,
        "{tables} tables and {files} files are there, the share has {live}"
    );
    Ok(format!(
        "{set}: {tables} tables and {files} files, each with the digest that its manifest names, as many as the share has"
    ))
}
