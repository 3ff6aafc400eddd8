//! Sessions of a region: one row each, so that one can be ended from here.

use sdk::database::{Error, Queries};

use crate::access::Caller;

/// A session ends after a working day, however busy it is, and after this much of doing nothing.
pub const HOURS: i32 = 8;
const IDLE_MINUTES: i32 = 60;
pub const EXPIRE: &str = r#"DELETE FROM "Sessions" WHERE "ExpiresAt" < now()"#;

/// Who a session belongs to; None when it has ended, was idle too long, or its user is no longer active.
///
/// # Errors
/// The database does not answer.
pub async fn find(queries: &impl Queries, id: &str) -> Result<Option<Caller>, Error> {
    let row = queries
        .first(
            r#"SELECT u."Id", u."Name", u."Email", u."Roles", s."LastSeenAt" < now() - interval '1 minute'
               FROM "Sessions" s JOIN "Users" u ON u."Id" = s."UserId"
               WHERE s."Id" = $1 AND s."ExpiresAt" > now() AND u."IsActive"
                   AND s."LastSeenAt" > now() - make_interval(mins => $2)"#,
            &[&id, &IDLE_MINUTES],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.get(4) {
        queries.execute(r#"UPDATE "Sessions" SET "LastSeenAt" = now() WHERE "Id" = $1"#, &[&id]).await?;
    }
    Ok(Some(Caller::of_session(row.get(0), row.get(1), row.get(2), row.get(3))))
}

/// Begins a session. `id_token` is sealed text, where the person came by the stamp's own sign-in.
///
/// # Errors
/// The database does not answer.
pub async fn begin(queries: &impl Queries, id: &str, user: i64, id_token: Option<&str>) -> Result<(), Error> {
    let sql = r#"INSERT INTO "Sessions" ("Id", "UserId", "IdToken", "ExpiresAt") VALUES ($1, $2, $3, now() + make_interval(hours => $4))"#;
    queries.execute(sql, &[&id, &user, &id_token, &HOURS]).await?;
    Ok(())
}

/// Ends a session; gives its sealed ID token. Centre and region have this table alike.
///
/// # Errors
/// The database does not answer.
pub async fn end(queries: &impl Queries, id: &str) -> Result<Option<String>, Error> {
    let row = queries.first(r#"DELETE FROM "Sessions" WHERE "Id" = $1 RETURNING "IdToken""#, &[&id]).await?;
    Ok(row.and_then(|r| r.get(0)))
}

/// Uses a ticket up; false if it was used already.
///
/// # Errors
/// The database does not answer.
pub async fn use_ticket(queries: &impl Queries, id: &str) -> Result<bool, Error> {
    queries.execute(r#"DELETE FROM "UsedTickets" WHERE "ExpiresAt" < now()"#, &[]).await?;
    // Kept for longer than any ticket holds, so that clocks may differ.
    let sql = r#"INSERT INTO "UsedTickets" ("Id", "ExpiresAt") VALUES ($1, now() + interval '10 minutes') ON CONFLICT DO NOTHING"#;
    Ok(queries.execute(sql, &[&id]).await? == 1)
}
