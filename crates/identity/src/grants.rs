//! What a client was granted for a person: codes and refresh tokens, each usable once, of one grant.
//!
//! A grant is one run of the code flow. A code or a refresh token that comes back a second time means that somebody holds
//! a copy, so the whole grant is revoked (RFC 6749 section 4.1.2, RFC 9700 section 4.14).

use rusqlite::{Connection, OptionalExtension as _, Row, params};

/// How long a code can be redeemed, in seconds.
pub const CODE_SECONDS: i64 = 60;

/// One grant as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub id: String,
    pub client: String,
    pub person: String,
    pub session: String,
    /// Space-separated, as granted.
    pub scope: String,
    pub nonce: Option<String>,
    /// Unix seconds at which the person signed in.
    pub auth_time: i64,
}

/// What became of a code or refresh token that was presented.
#[derive(Debug, PartialEq, Eq)]
pub enum Redeemed {
    Granted(Grant),
    /// It was used before; the grant is revoked now. Holds the person.
    Reused(String),
    /// Unknown, expired, revoked, another client's, or its proof is wrong.
    Refused,
}

/// What a new code stands for.
pub struct NewCode<'a> {
    pub hash: &'a [u8],
    pub client: &'a str,
    pub person: &'a str,
    pub session: &'a str,
    pub scope: &'a str,
    pub nonce: Option<&'a str>,
    /// Unix seconds at which the person signed in.
    pub auth_time: i64,
    pub redirect_uri: &'a str,
    /// PKCE S256 challenge.
    pub challenge: &'a str,
}

// A grant lives while its person may sign in and its session was not ended; the mere expiry of the session's cookie does
// not end it, else `offline_access` would mean nothing.
const LIVE: &str = "SELECT g.id, g.client, g.user, g.session, g.scope, g.nonce, g.auth_s FROM grants g
    JOIN sessions s ON s.id = g.session JOIN users u ON u.id = g.user
    WHERE g.id = ?1 AND g.revoked_s IS NULL AND s.ended_s IS NULL AND u.active = 1";

fn grant(row: &Row<'_>) -> rusqlite::Result<Grant> {
    Ok(Grant {
        id: row.get(0)?,
        client: row.get(1)?,
        person: row.get(2)?,
        session: row.get(3)?,
        scope: row.get(4)?,
        nonce: row.get(5)?,
        auth_time: row.get(6)?,
    })
}

/// The grant called `id`, if it is still good.
pub fn live(db: &Connection, id: &str) -> rusqlite::Result<Option<Grant>> {
    db.query_row(LIVE, [id], grant).optional()
}

/// Stores a new grant with its code.
pub fn add_code(db: &Connection, code: &NewCode<'_>, now: i64) -> rusqlite::Result<()> {
    let id = uuid::Uuid::new_v4().to_string();
    db.execute(
        "INSERT INTO grants (id, client, user, session, scope, nonce, auth_s, created_s)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![id, code.client, code.person, code.session, code.scope, code.nonce, code.auth_time, now],
    )?;
    db.execute(
        "INSERT INTO codes (hash, grant_id, redirect_uri, challenge, expires_s) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![code.hash, id, code.redirect_uri, code.challenge, now + CODE_SECONDS],
    )?;
    Ok(())
}

/// Redeems a code. Whatever the outcome, a code that its own client presents is used up.
pub fn redeem_code(
    db: &Connection,
    hash: &[u8],
    client: &str,
    redirect_uri: &str,
    challenge: &str,
    now: i64,
) -> rusqlite::Result<Redeemed> {
    type Found = (String, String, String, i64, Option<i64>, String, String);
    let found: Option<Found> = db
        .query_row(
            "SELECT c.grant_id, c.redirect_uri, c.challenge, c.expires_s, c.used_s, g.client, g.user
             FROM codes c JOIN grants g ON g.id = c.grant_id WHERE c.hash = ?1",
            [hash],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?)),
        )
        .optional()?;
    let Some((id, bound_uri, bound_challenge, expires, used, owner, person)) = found else {
        return Ok(Redeemed::Refused);
    };
    if owner != client {
        return Ok(Redeemed::Refused);
    }
    if used.is_some() {
        revoke(db, &id, now)?;
        return Ok(Redeemed::Reused(person));
    }
    db.execute("UPDATE codes SET used_s = ?2 WHERE hash = ?1", params![hash, now])?;
    let proved = aws_lc_rs::constant_time::verify_slices_are_equal(bound_challenge.as_bytes(), challenge.as_bytes());
    if expires <= now || bound_uri != redirect_uri || proved.is_err() {
        revoke(db, &id, now)?;
        return Ok(Redeemed::Refused);
    }
    Ok(live(db, &id)?.map_or(Redeemed::Refused, Redeemed::Granted))
}

/// Stores a refresh token of a grant.
pub fn add_refresh(db: &Connection, hash: &[u8], grant: &str, expires_s: i64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO refresh_tokens (hash, grant_id, expires_s) VALUES (?1, ?2, ?3)",
        params![hash, grant, expires_s],
    )?;
    Ok(())
}

/// Uses a refresh token up; the caller stores its successor in the same transaction.
pub fn redeem_refresh(db: &Connection, hash: &[u8], client: &str, now: i64) -> rusqlite::Result<Redeemed> {
    let found: Option<(String, i64, Option<i64>, String, String)> = db
        .query_row(
            "SELECT r.grant_id, r.expires_s, r.used_s, g.client, g.user
             FROM refresh_tokens r JOIN grants g ON g.id = r.grant_id WHERE r.hash = ?1",
            [hash],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)),
        )
        .optional()?;
    let Some((id, expires, used, owner, person)) = found else { return Ok(Redeemed::Refused) };
    if owner != client {
        return Ok(Redeemed::Refused);
    }
    if used.is_some() {
        revoke(db, &id, now)?;
        return Ok(Redeemed::Reused(person));
    }
    if expires <= now {
        return Ok(Redeemed::Refused);
    }
    db.execute("UPDATE refresh_tokens SET used_s = ?2 WHERE hash = ?1", params![hash, now])?;
    Ok(live(db, &id)?.map_or(Redeemed::Refused, Redeemed::Granted))
}

fn revoke(db: &Connection, id: &str, now: i64) -> rusqlite::Result<()> {
    db.execute("UPDATE grants SET revoked_s = ?2 WHERE id = ?1 AND revoked_s IS NULL", params![id, now])?;
    Ok(())
}
