//! The centre's one table of people: who belongs where.

use sdk::{
    database::{Error, Queries},
    seal::Sealer,
};
use serde::Serialize;

use crate::{access::Caller, fault::Fault, link::sync::Record};

/// Who belongs where.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub email: String,
    pub name: String,
    pub region: String,
    pub is_active: bool,
}

/// Applies what a region says of one of its people. An older message than the last one changes nothing.
///
/// # Errors
/// The address belongs to another region, or no database.
pub async fn apply(queries: &impl Queries, record: &Record) -> Result<(), Fault> {
    let (email, name) = (crate::domain::email(&record.email), crate::domain::line(&record.name, 200));
    let (Some(email), Some(name)) = (email, name) else {
        return Err(Fault::Malformed("A record has an e-mail address and a name of 1 to 200 characters."));
    };
    // A withdrawn record may pass to another region; a standing one may not.
    let sql = r#"INSERT INTO "Members" AS m ("Email", "Name", "Region", "IsActive", "Sequence") VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT ("Email") DO UPDATE SET "Name" = $2, "Region" = $3, "IsActive" = $4, "Sequence" = $5, "ChangedAt" = now()
                 WHERE (m."Region" = $3 AND m."Sequence" < $5) OR (m."Region" <> $3 AND NOT m."IsActive")"#;
    let changed = queries.execute(sql, &[&email, &name, &record.region, &record.active, &record.seq]).await?;
    if changed == 0 {
        let row = queries.first(r#"SELECT "Region" FROM "Members" WHERE "Email" = $1"#, &[&email]).await?;
        if row.is_some_and(|r| r.get::<_, String>(0) != record.region) {
            return Err(Fault::Conflict("This e-mail address belongs to another region.".into()));
        }
    }
    Ok(())
}

/// Where somebody belongs; None for whom no region stands.
///
/// # Errors
/// No database.
pub async fn region_of(queries: &impl Queries, email: &str) -> Result<Option<String>, Error> {
    let sql = r#"SELECT "Region" FROM "Members" WHERE "Email" = lower($1) AND "IsActive""#;
    Ok(queries.first(sql, &[&email]).await?.map(|r| r.get(0)))
}

/// Everybody, by address.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries) -> Result<Vec<Member>, Error> {
    let sql = r#"SELECT "Email", "Name", "Region", "IsActive" FROM "Members" ORDER BY "Region", "Email" LIMIT 2000"#;
    let rows = queries.query(sql, &[]).await?;
    Ok(rows.iter().map(|r| Member { email: r.get(0), name: r.get(1), region: r.get(2), is_active: r.get(3) }).collect())
}

/// A session at the centre, which is of an address and not of a person that the centre keeps.
///
/// # Errors
/// No database.
pub async fn session(queries: &impl Queries, id: &str) -> Result<Option<Caller>, Error> {
    let sql = r#"SELECT "Email", "Name", "Roles" FROM "Sessions" WHERE "Id" = $1 AND "ExpiresAt" > now()"#;
    let row = queries.first(sql, &[&id]).await?;
    Ok(row.map(|r| Caller::of_session(0, r.get(1), r.get(0), r.get(2))))
}

/// Begins a session at the centre: an hour, since it only hands down.
///
/// # Errors
/// No database.
pub async fn begin(
    queries: &impl Queries,
    id: &str,
    email: &str,
    name: &str,
    roles: &Vec<String>,
    token: &str,
) -> Result<(), Error> {
    let sql = r#"INSERT INTO "Sessions" ("Id", "Email", "Name", "Roles", "IdToken", "ExpiresAt")
                 VALUES ($1, $2, $3, $4, $5, now() + interval '1 hour')"#;
    queries.execute(sql, &[&id, &email, &name, &roles, &token]).await?;
    Ok(())
}

/// Fingerprint of a session's cookie, the row's key.
pub fn key(sealer: &Sealer, cookie: &str) -> String {
    sealer.fingerprint("session", cookie.as_bytes())
}
