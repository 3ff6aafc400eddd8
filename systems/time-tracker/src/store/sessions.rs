//! Sessions: one row each, so that one can be ended from here.

use sdk::{
    database::{Connection, Error, Queries},
    telemetry::metrics,
};

use crate::access::Caller;

/// A session ends after a working day, however busy it is; roles are read anew at the next sign-in.
pub const HOURS: i32 = 12;
pub const EXPIRE: &str = r#"DELETE FROM "Sessions" WHERE "ExpiresAt" < now()"#;

/// Who a session belongs to; None when it has ended or its user is no longer active.
///
/// # Errors
/// The database does not answer.
pub async fn find(connection: &impl Queries, id: &str) -> Result<Option<Caller>, Error> {
    let row = connection
        .first(
            r#"SELECT u."Id", u."FirstName", u."LastName", u."Email", s."Roles",
                      s."LastSeenAt" < now() - interval '1 minute'
               FROM "Sessions" s JOIN "Users" u ON u."Id" = s."UserId"
               WHERE s."Id" = $1 AND s."ExpiresAt" > now() AND u."IsActive""#,
            &[&id],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.get(5) {
        connection.execute(r#"UPDATE "Sessions" SET "LastSeenAt" = now() WHERE "Id" = $1"#, &[&id]).await?;
    }
    let (first, last): (String, String) = (row.get(1), row.get(2));
    let name = format!("{first} {last}").trim().to_owned();
    Ok(Some(Caller {
        user: row.get(0),
        name,
        email: row.get(3),
        roles: row.get(4),
        session: None,
        csrf: String::new(),
    }))
}

/// Begins a session. `id_token` is sealed text.
///
/// # Errors
/// The database does not answer.
pub async fn begin(
    connection: &impl Queries,
    id: &str,
    user: i64,
    roles: &Vec<String>,
    id_token: &str,
) -> Result<(), Error> {
    connection
        .execute(
            r#"INSERT INTO "Sessions" ("Id", "UserId", "Roles", "IdToken", "ExpiresAt")
               VALUES ($1, $2, $3, $4, now() + make_interval(hours => $5))"#,
            &[&id, &user, &roles, &id_token, &HOURS],
        )
        .await?;
    Ok(())
}

/// Ends a session; gives its sealed ID token.
///
/// # Errors
/// The database does not answer.
pub async fn end(connection: &impl Queries, id: &str) -> Result<Option<String>, Error> {
    let row = connection.first(r#"DELETE FROM "Sessions" WHERE "Id" = $1 RETURNING "IdToken""#, &[&id]).await?;
    Ok(row.and_then(|r| r.get(0)))
}

/// Reports the number of sessions that are alive as the gauge `active_sessions`.
///
/// # Errors
/// The database does not answer.
pub async fn measure(connection: &Connection) -> Result<(), Error> {
    let row = connection.first(r#"SELECT count(*)::integer FROM "Sessions" WHERE "ExpiresAt" > now()"#, &[]).await?;
    metrics().set("active_sessions", f64::from(row.map_or(0, |r| r.get::<_, i32>(0))), &[]);
    Ok(())
}
