//! Tokens of programs: a person's mobile app, a site's business intelligence. Shown once; a fingerprint is kept.

use sdk::{
    database::Queries,
    seal::{Sealer, random_text},
};

use crate::{
    access::{Caller, Scope},
    domain::line,
    fault::Fault,
};

pub struct Token {
    pub id: i64,
    pub name: String,
    pub scope: String,
    pub owner: String,
    pub created_at: String,
    pub last_used_at: Option<String>,
    pub revoked: bool,
}

fn fingerprint(sealer: &Sealer, token: &str) -> String {
    sealer.fingerprint("token", token.as_bytes())
}

/// Makes a token; its text, which nobody can read again.
///
/// # Errors
/// The name is not right, or no database.
pub async fn make(
    queries: &impl Queries,
    sealer: &Sealer,
    user: i64,
    name: &str,
    scope: &str,
) -> Result<String, Fault> {
    let name = line(name, 100).ok_or_else(|| Fault::field("name", "A name has 1 to 100 characters."))?;
    if scope != "app" && scope != "bi" {
        return Err(Fault::field("scope", "A token is for `app` or `bi`."));
    }
    let text = format!("meg_{scope}_{}", random_text().map_err(Fault::internal)?);
    let sql = r#"INSERT INTO "Tokens" ("UserId", "Name", "Scope", "Fingerprint") VALUES ($1, $2, $3, $4)"#;
    queries.execute(sql, &[&user, &name, &scope, &fingerprint(sealer, &text)]).await?;
    Ok(text)
}

/// Whom a token speaks for; None for one that is not, or no longer, ours.
///
/// # Errors
/// No database.
pub async fn find(queries: &impl Queries, sealer: &Sealer, text: &str) -> Result<Option<Caller>, Fault> {
    let row = queries
        .first(
            r#"UPDATE "Tokens" t SET "LastUsedAt" = now() FROM "Users" u
               WHERE t."Fingerprint" = $1 AND t."RevokedAt" IS NULL AND u."Id" = t."UserId" AND u."IsActive"
               RETURNING u."Id", u."Name", u."Email", u."Roles", t."Scope""#,
            &[&fingerprint(sealer, text)],
        )
        .await?;
    Ok(row.map(|r| {
        let scope = if r.get::<_, String>(4) == "bi" { Scope::Bi } else { Scope::App };
        Caller { scope, ..Caller::of_session(r.get(0), r.get(1), r.get(2), r.get(3)) }
    }))
}

/// The tokens of one person, or of everybody.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries, user: Option<i64>) -> Result<Vec<Token>, Fault> {
    let rows = queries
        .query(
            r#"SELECT t."Id", t."Name", t."Scope", u."Name", to_char(t."CreatedAt", 'YYYY-MM-DD'),
                      to_char(t."LastUsedAt", 'YYYY-MM-DD HH24:MI'), t."RevokedAt" IS NOT NULL
               FROM "Tokens" t JOIN "Users" u ON u."Id" = t."UserId" WHERE $1::bigint IS NULL OR t."UserId" = $1
               ORDER BY t."Id" DESC LIMIT 200"#,
            &[&user],
        )
        .await?;
    let read = |r: &tokio_postgres::Row| Token {
        id: r.get(0),
        name: r.get(1),
        scope: r.get(2),
        owner: r.get(3),
        created_at: r.get(4),
        last_used_at: r.get(5),
        revoked: r.get(6),
    };
    Ok(rows.iter().map(read).collect())
}

/// Ends a token: one's own, or for an administrator anybody's.
///
/// # Errors
/// There is no such token, or no database.
pub async fn revoke(queries: &impl Queries, id: i64, user: Option<i64>) -> Result<(), Fault> {
    let sql = r#"UPDATE "Tokens" SET "RevokedAt" = coalesce("RevokedAt", now()) WHERE "Id" = $1 AND ($2::bigint IS NULL OR "UserId" = $2)"#;
    if queries.execute(sql, &[&id, &user]).await? == 0 { Err(Fault::NotFound) } else { Ok(()) }
}
