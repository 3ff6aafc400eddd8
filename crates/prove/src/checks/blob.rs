//! Accounts of blobs: who reads and who writes, asked by the wire format that clients speak.

use api::{audit::Outcome, blob::AUDIENCE, client::Client};
use bytes::Bytes;
use model::{Principal, Resource};

use crate::{Lab, Miss, Seen, Site, claim::Call, must, site::until};

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
