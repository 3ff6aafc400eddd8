//! Sessions of people at the sign-in pages. Ending one ends all that was granted through it, at once.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::people::{self, Person};

/// One session as stored. The browser holds a secret of which only the hash is kept.
#[derive(Clone, Debug)]
pub struct Session {
    /// Public: the `sid` of ID tokens.
    pub id: String,
    pub person: String,
    /// Unix seconds; the `auth_time` of ID tokens.
    pub started_s: i64,
    pub seen_s: i64,
    /// IP address it was started from.
    pub address: String,
    /// The browser, as it called itself.
    pub agent: String,
}

/// `seen_s` is written at most this often, in seconds: a page view should not cost a disk flush.
const SEEN_EVERY: i64 = 300;

const SELECT: &str = "SELECT id, user, started_s, seen_s, address, agent FROM sessions";

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        id: row.get(0)?,
        person: row.get(1)?,
        started_s: row.get(2)?,
        seen_s: row.get(3)?,
        address: row.get(4)?,
        agent: row.get(5)?,
    })
}

/// Starts a session for `person` that lasts `seconds`; `hash` is that of the browser's secret.
pub fn start(
    db: &Connection,
    person: &str,
    hash: &[u8],
    now: i64,
    seconds: i64,
    address: &str,
    agent: &str,
) -> rusqlite::Result<String> {
    let id = uuid::Uuid::new_v4().to_string();
    db.execute(
        "INSERT INTO sessions (id, hash, user, started_s, seen_s, expires_s, address, agent)
         VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7)",
        params![id, hash, person, now, now + seconds, address, agent],
    )?;
    Ok(id)
}

/// Lets a live session begin again: its person has just given the password once more. What was granted through it stays.
/// False if it is no longer live.
pub fn renew(db: &Connection, id: &str, hash: &[u8], now: i64, seconds: i64) -> rusqlite::Result<bool> {
    let renewed = db.execute(
        "UPDATE sessions SET hash = ?2, started_s = ?3, seen_s = ?3, expires_s = ?4 WHERE id = ?1 AND ended_s IS NULL",
        params![id, hash, now, now + seconds],
    )?;
    Ok(renewed == 1)
}

/// The live session of a browser, and whose it is: not ended, not expired, of an active person.
pub fn live(db: &Connection, hash: &[u8], now: i64) -> rusqlite::Result<Option<(Session, Person)>> {
    let found = db
        .query_row(
            &format!("{SELECT} WHERE hash = ?1 AND ended_s IS NULL AND expires_s > ?2"),
            params![hash, now],
            session,
        )
        .optional()?;
    let Some(session) = found else { return Ok(None) };
    let Some(person) = people::by_id(db, &session.person)?.filter(|p| p.active) else { return Ok(None) };
    if now - session.seen_s >= SEEN_EVERY {
        db.execute("UPDATE sessions SET seen_s = ?2 WHERE id = ?1", params![session.id, now])?;
    }
    Ok(Some((session, person)))
}

/// The live sessions of a person, the last used first.
pub fn of_person(db: &Connection, person: &str, now: i64) -> rusqlite::Result<Vec<Session>> {
    db.prepare(&format!(
        "{SELECT} WHERE user = ?1 AND ended_s IS NULL AND expires_s > ?2 ORDER BY seen_s DESC, started_s DESC"
    ))?
    .query_map(params![person, now], session)?
    .collect()
}

/// Ends a session of `person`, and what was granted through it. False if there is no such live session.
pub fn end(db: &Connection, person: &str, id: &str, now: i64) -> rusqlite::Result<bool> {
    let ended = db.execute(
        "UPDATE sessions SET ended_s = ?3 WHERE id = ?1 AND user = ?2 AND ended_s IS NULL",
        params![id, person, now],
    )?;
    db.execute(
        "UPDATE grants SET revoked_s = ?3 WHERE session = ?1 AND user = ?2 AND revoked_s IS NULL",
        params![id, person, now],
    )?;
    Ok(ended == 1)
}

/// Ends all sessions of a person but `except`, and all that was granted through them.
pub fn end_all(db: &Connection, person: &str, except: Option<&str>, now: i64) -> rusqlite::Result<usize> {
    let except = except.unwrap_or_default();
    db.execute(
        "UPDATE grants SET revoked_s = ?3 WHERE user = ?1 AND session <> ?2 AND revoked_s IS NULL",
        params![person, except, now],
    )?;
    db.execute(
        "UPDATE sessions SET ended_s = ?3 WHERE user = ?1 AND id <> ?2 AND ended_s IS NULL",
        params![person, except, now],
    )
}
