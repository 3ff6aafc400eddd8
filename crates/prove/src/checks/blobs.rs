//! What becomes of blobs: they cool, are archived, are brought back, and keep their versions. All by the wire format.

use api::{
    blob::AUDIENCE,
    client::{Answer, Client},
};
use bytes::Bytes;
use http::HeaderName;

use crate::{Lab, Miss, Seen, Site, claim::Call, must, site::until};

const DAY_MS: i64 = 86_400_000;
/// The version of the wire format that is spoken.
const VERSION: &str = "2021-12-02";

/// One blob of a container, as a service that may write there.
struct Held {
    client: Client,
    path: String,
}

impl Held {
    /// From the arguments ACCOUNT, CONTAINER, SERVICE; a name that no other check uses.
    async fn of(site: &Site, c: &Call) -> Result<Self, Miss> {
        let name = format!("check-{}", uuid::Uuid::new_v4().simple());
        Self::named(site, c, format!("/{}/{name}", c.argument(1, "main"))).await
    }

    /// The same blob, once the stamp was brought up anew.
    async fn again(&self, site: &Site, c: &Call) -> Result<Self, Miss> {
        Self::named(site, c, self.path.clone()).await
    }

    async fn named(site: &Site, c: &Call, path: String) -> Result<Self, Miss> {
        let token = site.token(&format!("service.{}", c.argument(2, "web")), AUDIENCE).await?;
        let client = site.client(&site.url(&format!("blob.{}", c.argument(0, "main")))?)?.bearer(token);
        Ok(Self { client: client.header(HeaderName::from_static("x-ms-version"), VERSION), path })
    }

    async fn ask(&self, method: &str, query: &str, body: Option<&str>) -> Result<Answer, Miss> {
        let body = body.map(|text| ("application/octet-stream", Bytes::from(text.to_owned())));
        Ok(self.client.send(method, &format!("{}{query}", self.path), body).await?)
    }

    /// Writes it; the id of the version, where the account keeps versions.
    async fn put(&self, text: &str) -> Result<String, Miss> {
        let client = self.client.clone().header(HeaderName::from_static("x-ms-blob-type"), "BlockBlob");
        let body = Some(("application/octet-stream", Bytes::from(text.to_owned())));
        let answer = client.send("PUT", &self.path, body).await?;
        must!(answer.status.as_u16() == 201, "writing {} is answered {}", self.path, answer.status);
        Ok(header(&answer, "x-ms-version-id"))
    }

    /// Read: the status, and its tier or what it holds.
    async fn read(&self, query: &str) -> Result<(u16, String), Miss> {
        let answer = self.ask("GET", query, None).await?;
        Ok((answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned()))
    }

    async fn tier(&self) -> Result<String, Miss> {
        let answer = self.ask("HEAD", "", None).await?;
        must!(answer.status.as_u16() == 200, "looking at {} is answered {}", self.path, answer.status);
        Ok(header(&answer, "x-ms-access-tier"))
    }
}

fn header(answer: &Answer, name: &str) -> String {
    answer.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// `blob_tiers(ACCOUNT, CONTAINER, SERVICE, DAYS TO COOL, DAYS TO ARCHIVE)`.
pub async fn tiers(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (cool, archive): (i64, i64) = (c.argument(3, "30").parse()?, c.argument(4, "180").parse()?);
    let site = lab.site(on).await?;
    let blob = Held::of(&site, c).await?;
    blob.put("a blob of a check").await?;
    let mut seen = vec![format!("new: {}", blob.tier().await?)];
    let later = async {
        let days = [(cool - 1, "Hot"), (cool + 1, "Cool"), (archive - 1, "Cool"), (archive + 1, "Archive")];
        for (day, wanted) in days {
            let site = lab.at(on, day * DAY_MS).await?;
            let blob = blob.again(&site, c).await?;
            until(&format!("the tier {wanted} on day {day}"), async || {
                let tier = blob.tier().await?;
                must!(tier == wanted, "it is {tier}");
                Ok(())
            })
            .await?;
            let status = blob.read("").await?.0;
            must!(
                status == if wanted == "Archive" { 409 } else { 200 },
                "in the tier {wanted} it is answered {status}"
            );
            seen.push(format!("day {day}: {wanted}, read: {status}"));
        }
        let site = lab.at(on, (archive + 1) * DAY_MS).await?;
        let blob = blob.again(&site, c).await?;
        let asking = Held {
            client: blob.client.clone().header(HeaderName::from_static("x-ms-access-tier"), "Hot"),
            path: blob.path.clone(),
        };
        let taken = asking.ask("PUT", "?comp=tier", Some("")).await?.status;
        must!(taken.is_success(), "taking it out of the archive is answered {taken}");
        until("it is read again", async || {
            let (status, text) = blob.read("").await?;
            must!(status == 200 && text == "a blob of a check", "it is answered {status}");
            Ok(())
        })
        .await?;
        Ok(format!("{}; taken out of the archive ({}) it is read", seen.join("; "), taken.as_u16()))
    }
    .await;
    lab.restore(on).await?;
    later
}

/// `blob_undeleted(ACCOUNT, CONTAINER, SERVICE, DAYS)`.
pub async fn undeleted(lab: &Lab, on: &str, c: &Call) -> Seen {
    let days: i64 = c.argument(3, "7").parse()?;
    let site = lab.site(on).await?;
    let (kept, lost) = (Held::of(&site, c).await?, Held::of(&site, c).await?);
    let mut read = String::new();
    for blob in [&lost, &kept] {
        let version = blob.put("a blob of a check").await?;
        let deleted = blob.ask("DELETE", "", None).await?.status.as_u16();
        let gone = blob.read("").await?.0;
        must!((deleted, gone) == (202, 404), "deleting is answered {deleted}, reading then {gone}");
        // Where an account keeps versions, what was deleted is one of them, until that is deleted as well.
        if !version.is_empty() {
            let id = percent_encoding::utf8_percent_encode(&version, percent_encoding::NON_ALPHANUMERIC);
            read = format!("?versionid={id}");
            let deleted = blob.ask("DELETE", &read, None).await?.status.as_u16();
            let gone = blob.read(&read).await?.0;
            must!((deleted, gone) == (202, 404), "deleting the version is answered {deleted}, reading then {gone}");
        }
    }
    let later = async {
        let site = lab.at(on, (days - 1) * DAY_MS).await?;
        let kept = kept.again(&site, c).await?;
        let back = kept.ask("PUT", "?comp=undelete", Some("")).await?.status;
        let found = kept.read(&read).await?;
        must!(back.is_success(), "on day {} bringing it back is answered {back}", days - 1);
        must!(found == (200, "a blob of a check".into()), "brought back on day {} it is {found:?}", days - 1);
        let site = lab.at(on, (days + 1) * DAY_MS).await?;
        let lost = lost.again(&site, c).await?;
        until(&format!("it is gone on day {}", days + 1), async || {
            let back = lost.ask("PUT", "?comp=undelete", Some("")).await?.status.as_u16();
            must!(back == 404, "bringing it back is answered {back}");
            Ok(())
        })
        .await?;
        Ok(format!("day {}: brought back and read; day {}: not found", days - 1, days + 1))
    }
    .await;
    lab.restore(on).await?;
    later
}

/// `blob_versions(ACCOUNT, CONTAINER, SERVICE)`.
pub async fn versions(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let blob = Held::of(&site, c).await?;
    let first = blob.put("what was written first").await?;
    let second = blob.put("what was written last").await?;
    must!(!first.is_empty() && first != second, "the versions are `{first}` and `{second}`");
    let now = blob.read("").await?;
    must!(now == (200, "what was written last".into()), "the blob is {now:?}");
    let id = percent_encoding::utf8_percent_encode(&first, percent_encoding::NON_ALPHANUMERIC);
    let before = blob.read(&format!("?versionid={id}")).await?;
    must!(before == (200, "what was written first".into()), "the version {first} is {before:?}");
    Ok(format!("overwritten, the version {first} is read as it was, and the blob as it is"))
}
