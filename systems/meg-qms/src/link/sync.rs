//! User records on their way up: name, e-mail address, home region and whether the record stands; nothing else of a person.
//!
//! A change of a person and its message are written in one transaction. The messages go up in order, one at a time, are tried
//! again until the centre has them, and may arrive twice.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use sdk::database::{Database, Queries};
use serde::{Deserialize, Serialize};

use super::{CENTRE, Face, LinkError, Links, now};
use crate::fault::Fault;

/// A look at the outbox when nothing was heard.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest time between two attempts, in seconds.
const LONGEST: i32 = 60;

/// Everything that the centre is told. A field more is refused there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub iss: String,
    pub aud: String,
    pub exp: u64,
    /// The number of the message in its region: the centre applies none twice and none late.
    pub seq: i64,
    pub email: String,
    pub name: String,
    pub region: String,
    /// False withdraws the record.
    pub active: bool,
}

impl Links {
    /// Reads a record that `from` signed for us.
    ///
    /// # Errors
    /// It is not acceptable, or speaks for another region.
    pub fn record(&self, from: &Face, text: &str) -> Result<Record, LinkError> {
        let record: Record = self.verify(from, "users", text)?;
        if record.region != from.name {
            return Err(LinkError::Refused("it speaks for another region"));
        }
        Ok(record)
    }
}

/// Notes that a person's record must go up, in the transaction that changed it.
///
/// # Errors
/// No database.
pub async fn note(queries: &impl Queries, user: i64) -> Result<(), Fault> {
    let sql = r#"INSERT INTO "Outbox" ("Email", "Name", "IsActive")
                 SELECT lower("Email"), "Name", "IsActive" FROM "Users" WHERE "Id" = $1"#;
    queries.execute(sql, &[&user]).await?;
    Ok(())
}

/// How the outbox stands: waiting, refused, and why the last attempt gave nothing.
///
/// # Errors
/// No database.
pub async fn standing(queries: &impl Queries) -> Result<(i64, i64, String), Fault> {
    let sql = r#"SELECT count(*) FILTER (WHERE NOT "Refused"), count(*) FILTER (WHERE "Refused"),
                        coalesce((SELECT "Detail" FROM "Outbox" WHERE "DeliveredAt" IS NULL ORDER BY "Id" LIMIT 1), '')
                 FROM "Outbox" WHERE "DeliveredAt" IS NULL"#;
    let row = queries.first(sql, &[]).await?.ok_or(Fault::NotFound)?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

/// Sends what waits, for as long as the process lives.
pub async fn run(database: Database, links: Links) {
    loop {
        match deliver(&database, &links).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the outbox cannot be read"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends the oldest message that waits; whether there may be another.
///
/// # Errors
/// No database.
pub async fn deliver(database: &Database, links: &Links) -> Result<bool, Fault> {
    let mut connection = database.get().await?;
    let transaction = connection.begin().await?;
    // One instance at a time, and none past a message that waits for its next attempt: the order holds.
    let alone = transaction.first("SELECT pg_try_advisory_xact_lock(7101)", &[]).await?;
    if !alone.is_some_and(|row| row.get(0)) {
        return Ok(false);
    }
    let row = transaction
        .first(
            r#"SELECT "Id", "Email", "Name", "IsActive", "Attempts", "NextAt" <= now() FROM "Outbox"
               WHERE "DeliveredAt" IS NULL AND NOT "Refused" ORDER BY "Id" LIMIT 1"#,
            &[],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    if !row.get::<_, bool>(5) {
        return Ok(false);
    }
    let (id, attempts): (i64, i32) = (row.get(0), row.get(4));
    let record = Record {
        iss: links.inner.name.clone(),
        aud: "users".to_owned(),
        exp: now() + 60,
        seq: id,
        email: row.get(1),
        name: row.get(2),
        region: links.inner.name.clone(),
        active: row.get(3),
    };
    match up(links, &record).await {
        Ok(()) => {
            let sql = r#"UPDATE "Outbox" SET "DeliveredAt" = now(), "Detail" = '', "Attempts" = "Attempts" + 1 WHERE "Id" = $1"#;
            transaction.execute(sql, &[&id]).await?;
            transaction.commit().await?;
            Ok(true)
        }
        // The centre understood and said no: asking again changes nothing, a person must.
        Err(LinkError::Status { status: 409, .. }) => {
            let detail = "The centre has this e-mail address in another region.";
            let sql =
                r#"UPDATE "Outbox" SET "Refused" = true, "Detail" = $2, "Attempts" = "Attempts" + 1 WHERE "Id" = $1"#;
            transaction.execute(sql, &[&id, &detail]).await?;
            transaction.commit().await?;
            Ok(true)
        }
        Err(error) => {
            let seconds = f64::from(LONGEST.min(1 << attempts.clamp(0, 6)));
            let sql = r#"UPDATE "Outbox" SET "Attempts" = "Attempts" + 1, "Detail" = $2,
                             "NextAt" = now() + make_interval(secs => $3) WHERE "Id" = $1"#;
            let detail = error.to_string();
            transaction.execute(sql, &[&id, &detail, &seconds]).await?;
            transaction.commit().await?;
            tracing::warn!(message = id, error = %detail, retry_in_s = seconds, "a user record did not go up");
            Ok(false)
        }
    }
}

async fn up(links: &Links, record: &Record) -> Result<(), LinkError> {
    let peer = links.inner.peers.get(CENTRE).ok_or_else(|| LinkError::Unknown(CENTRE.to_owned()))?;
    let body = Bytes::from(links.sign(record)?);
    links.send(CENTRE, Method::POST, "/link/users", body, peer).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::links, *};

    fn record() -> Record {
        Record {
            iss: "uk".into(),
            aud: "users".into(),
            exp: now() + 60,
            seq: 1,
            email: "ann@example.com".into(),
            name: "Ann".into(),
            region: "uk".into(),
            active: true,
        }
    }

    #[test]
    fn a_record_holds_name_address_and_region_and_a_field_more_is_refused() {
        let (uk, eu) = (
            links("uk", "thirty-two characters of the uk stamp"),
            links("eu", "thirty-two characters of the eu stamp"),
        );
        let face = uk.face("https://uk").unwrap();
        let good = uk.sign(&record()).unwrap();
        assert_eq!(eu.record(&face, &good).unwrap(), record());
        let mut more = serde_json::to_value(record()).unwrap();
        more["roles"] = serde_json::json!(["admin"]);
        assert!(eu.record(&face, &uk.sign(&more).unwrap()).is_err());
        let keys: Vec<String> = serde_json::to_value(record()).unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["iss", "aud", "exp", "seq", "email", "name", "region", "active"]);
    }

    #[test]
    fn a_region_speaks_for_itself_only() {
        let (uk, eu) = (
            links("uk", "thirty-two characters of the uk stamp"),
            links("eu", "thirty-two characters of the eu stamp"),
        );
        let face = uk.face("https://uk").unwrap();
        let other = Record { region: "uae".into(), ..record() };
        assert!(eu.record(&face, &uk.sign(&other).unwrap()).is_err());
    }
}
