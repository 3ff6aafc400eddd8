//! Who did what, when.

use sdk::database::{Error, Queries};
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `2026-11-22 13:05`, UTC.
    pub at: String,
    pub who: String,
    pub action: String,
    pub comment: String,
}

/// Notes one act, in the transaction that did it.
///
/// # Errors
/// No database.
pub async fn note(
    queries: &impl Queries,
    user: Option<i64>,
    thing: &str,
    key: &str,
    action: &str,
    comment: &str,
) -> Result<(), Error> {
    let sql = r#"INSERT INTO "History" ("UserId", "Thing", "Key", "Action", "Comment") VALUES ($1, $2, $3, $4, $5)"#;
    queries.execute(sql, &[&user, &thing, &key, &action, &comment]).await?;
    Ok(())
}

/// The newest acts on one thing, newest first.
///
/// # Errors
/// No database.
pub async fn of(queries: &impl Queries, thing: &str, key: &str) -> Result<Vec<Event>, Error> {
    let rows = queries
        .query(
            r#"SELECT to_char(h."At", 'YYYY-MM-DD HH24:MI'), trim(coalesce(u."FirstName" || ' ' || u."LastName", '')),
                      h."Action", h."Comment"
               FROM "History" h LEFT JOIN "Users" u ON u."Id" = h."UserId"
               WHERE h."Thing" = $1 AND h."Key" = $2 ORDER BY h."Id" DESC LIMIT 50"#,
            &[&thing, &key],
        )
        .await?;
    let read = |r: &tokio_postgres::Row| Event { at: r.get(0), who: r.get(1), action: r.get(2), comment: r.get(3) };
    Ok(rows.iter().map(read).collect())
}
