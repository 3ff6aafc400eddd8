//! The vault's tables. Values are in them as sealed by [`crate::seal`] and in no other form.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::{Map, Value};

use crate::Error;

/// The version of the tables, in `PRAGMA user_version`.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE data_keys (
    id      INTEGER PRIMARY KEY,
    wrapped BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE secrets (
    name    TEXT PRIMARY KEY COLLATE NOCASE,
    deleted INTEGER,
    purge   INTEGER
) STRICT;
CREATE INDEX secrets_purge ON secrets (purge) WHERE purge IS NOT NULL;
CREATE TABLE versions (
    serial       INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT NOT NULL COLLATE NOCASE REFERENCES secrets (name) ON DELETE CASCADE,
    version      TEXT NOT NULL,
    key          INTEGER NOT NULL,
    sealed       BLOB NOT NULL,
    content_type TEXT,
    tags         TEXT,
    enabled      INTEGER NOT NULL,
    nbf          INTEGER,
    exp          INTEGER,
    created      INTEGER NOT NULL,
    updated      INTEGER NOT NULL,
    UNIQUE (name, version)
) STRICT;
CREATE INDEX versions_latest ON versions (name, serial);
PRAGMA user_version = 1;
";

const COLUMNS: &str = "s.name, v.serial, v.version, v.key, v.sealed, v.content_type, v.tags, v.enabled, v.nbf, v.exp, v.created, v.updated";
const LATEST: &str = "secrets s JOIN versions v ON v.serial = (SELECT max(serial) FROM versions WHERE name = s.name)";

/// One version of a secret. Times are Unix seconds.
#[derive(Clone)]
pub struct Version {
    /// As it was first spelled.
    pub name: String,
    pub serial: i64,
    pub version: String,
    /// The data key that `sealed` is under.
    pub key: u64,
    pub sealed: Vec<u8>,
    pub content_type: Option<String>,
    pub tags: Option<Map<String, Value>>,
    pub enabled: bool,
    pub nbf: Option<i64>,
    pub exp: Option<i64>,
    pub created: i64,
    pub updated: i64,
}

/// When a secret was deleted and when it will be purged, Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct Deletion {
    pub deleted: i64,
    pub purge: i64,
}

/// Opens or makes the database.
pub fn open(file: &Path) -> Result<Connection, Error> {
    let db = Connection::open(file)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;
         PRAGMA cache_size = -2000; PRAGMA busy_timeout = 5000;",
    )?;
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found {
        0 => db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?,
        FORMAT => {}
        found => return Err(Error::Newer { file: file.into(), found, known: FORMAT }),
    }
    Ok(db)
}

fn version_of(row: &Row<'_>) -> rusqlite::Result<Version> {
    let tags: Option<String> = row.get(6)?;
    Ok(Version {
        name: row.get(0)?,
        serial: row.get(1)?,
        version: row.get(2)?,
        key: row.get::<_, i64>(3)? as u64,
        sealed: row.get(4)?,
        content_type: row.get(5)?,
        tags: tags.and_then(|text| serde_json::from_str(&text).ok()),
        enabled: row.get(7)?,
        nbf: row.get(8)?,
        exp: row.get(9)?,
        created: row.get(10)?,
        updated: row.get(11)?,
    })
}

/// Whether the name is free (None), in use (`Some(None)`) or deleted.
pub fn state(db: &Connection, name: &str) -> rusqlite::Result<Option<Option<Deletion>>> {
    db.prepare_cached("SELECT deleted, purge FROM secrets WHERE name = ?1")?
        .query_row([name], |row| {
            let (deleted, purge): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(deleted.zip(purge).map(|(deleted, purge)| Deletion { deleted, purge }))
        })
        .optional()
}

/// A version of a secret, the latest if none is named, deleted or not.
pub fn version(db: &Connection, name: &str, version: Option<&str>) -> rusqlite::Result<Option<Version>> {
    match version {
        None => db.prepare_cached(&format!("SELECT {COLUMNS} FROM {LATEST} WHERE s.name = ?1"))?.query_row([name], version_of),
        Some(version) => db
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM secrets s JOIN versions v ON v.name = s.name WHERE s.name = ?1 AND v.version = ?2"
            ))?
            .query_row([name, version], version_of),
    }
    .optional()
}

/// The latest versions of all secrets after `after` in the order of names, deleted ones or the others.
pub fn page(
    db: &Connection,
    deleted: bool,
    after: &str,
    count: usize,
) -> rusqlite::Result<Vec<(Version, Option<Deletion>)>> {
    let mut query = db.prepare_cached(&format!(
        "SELECT {COLUMNS}, s.deleted, s.purge FROM {LATEST}
         WHERE (s.deleted IS NOT NULL) = ?1 AND s.name > ?2 ORDER BY s.name LIMIT ?3"
    ))?;
    let rows = query.query_map(params![deleted, after, count as i64], |row| {
        let (deleted, purge): (Option<i64>, Option<i64>) = (row.get(12)?, row.get(13)?);
        Ok((version_of(row)?, deleted.zip(purge).map(|(deleted, purge)| Deletion { deleted, purge })))
    })?;
    rows.collect()
}

/// The versions of one secret after the place `after`, in the order they were made.
pub fn versions(db: &Connection, name: &str, after: i64, count: usize) -> rusqlite::Result<Vec<Version>> {
    let mut query = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM secrets s JOIN versions v ON v.name = s.name
         WHERE s.name = ?1 AND v.serial > ?2 ORDER BY v.serial LIMIT ?3"
    ))?;
    query.query_map(params![name, after, i64::try_from(count).unwrap_or(i64::MAX)], version_of)?.collect()
}

/// Adds a version, and the secret if it is its first.
pub fn insert(db: &Connection, row: &Version) -> rusqlite::Result<()> {
    db.execute("INSERT INTO secrets (name) VALUES (?1) ON CONFLICT DO NOTHING", [&row.name])?;
    db.prepare_cached(
        "INSERT INTO versions (name, version, key, sealed, content_type, tags, enabled, nbf, exp, created, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        row.name,
        row.version,
        row.key as i64,
        row.sealed,
        row.content_type,
        tags_text(row),
        row.enabled,
        row.nbf,
        row.exp,
        row.created,
        row.updated
    ])?;
    Ok(())
}

/// Writes what may change of a version: all but its name, version and creation.
pub fn update(db: &Connection, row: &Version) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE versions SET key = ?2, sealed = ?3, content_type = ?4, tags = ?5, enabled = ?6, nbf = ?7, exp = ?8, updated = ?9
         WHERE serial = ?1",
    )?
    .execute(params![
        row.serial,
        row.key as i64,
        row.sealed,
        row.content_type,
        tags_text(row),
        row.enabled,
        row.nbf,
        row.exp,
        row.updated
    ])?;
    Ok(())
}

fn tags_text(row: &Version) -> Option<String> {
    row.tags.as_ref().map(|tags| serde_json::to_string(tags).expect("tags are JSON"))
}

/// Marks a secret deleted, or (None) not deleted.
pub fn set_deletion(db: &Connection, name: &str, deletion: Option<Deletion>) -> rusqlite::Result<()> {
    let (deleted, purge) = (deletion.map(|d| d.deleted), deletion.map(|d| d.purge));
    db.execute("UPDATE secrets SET deleted = ?2, purge = ?3 WHERE name = ?1", params![name, deleted, purge])?;
    Ok(())
}

/// Removes a secret with all its versions.
pub fn purge(db: &Connection, name: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM secrets WHERE name = ?1", [name])?;
    Ok(())
}

/// Deleted secrets whose retention has ended.
pub fn due(db: &Connection, now_s: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT name FROM secrets WHERE purge <= ?1")?.query_map([now_s], |row| row.get(0))?.collect()
}

/// How many secrets there are, and how many of them are deleted.
pub fn count(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    db.query_row("SELECT count(*), count(deleted) FROM secrets", [], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
    })
}

/// The wrapped data keys, oldest first.
pub fn data_keys(db: &Connection) -> rusqlite::Result<Vec<(u64, Vec<u8>)>> {
    let mut query = db.prepare("SELECT id, wrapped FROM data_keys ORDER BY id")?;
    query.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?.collect()
}

pub fn insert_data_key(db: &Connection, id: u64, wrapped: &[u8], now_s: i64) -> rusqlite::Result<()> {
    db.execute("INSERT INTO data_keys (id, wrapped, created) VALUES (?1, ?2, ?3)", params![id as i64, wrapped, now_s])?;
    Ok(())
}

/// Removes the data keys before `id`; nothing may be sealed under them any more.
pub fn remove_data_keys_before(db: &Connection, id: u64) -> rusqlite::Result<()> {
    db.execute("DELETE FROM data_keys WHERE id < ?1", [id as i64])?;
    Ok(())
}

/// Every version of every secret, one at a time.
pub fn each(db: &Connection, mut each: impl FnMut(Version) -> Result<(), Error>) -> Result<(), Error> {
    let mut query = db.prepare(&format!("SELECT {COLUMNS} FROM secrets s JOIN versions v ON v.name = s.name"))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        each(version_of(row)?)?;
    }
    Ok(())
}
