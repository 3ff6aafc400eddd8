//! The tables of the account: which container holds which blob, and of which pieces it is made.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::{Error, lease::Lease};

/// The version of the tables, in `PRAGMA user_version`.
const FORMAT: i64 = 1;

/// A row of `blobs` is one state of a blob: `kind` 0 is what is read without naming a version, 1 a version of before, 2 a snapshot.
/// `deleted` is the microsecond of its deletion, of what can be brought back. `mark` names it among those of its name.
const SCHEMA: &str = "
CREATE TABLE containers (
    name  TEXT PRIMARY KEY,
    facts TEXT NOT NULL
) STRICT;
CREATE TABLE blobs (
    id        INTEGER PRIMARY KEY,
    container TEXT NOT NULL REFERENCES containers (name),
    name      TEXT NOT NULL,
    mark      TEXT NOT NULL,
    kind      INTEGER NOT NULL,
    deleted   INTEGER,
    modified  INTEGER NOT NULL,
    tier      TEXT NOT NULL,
    facts     TEXT NOT NULL,
    UNIQUE (container, name, mark)
) STRICT;
CREATE UNIQUE INDEX blobs_current ON blobs (container, name) WHERE kind = 0 AND deleted IS NULL;
CREATE INDEX blobs_deleted ON blobs (deleted) WHERE deleted IS NOT NULL;
CREATE INDEX blobs_modified ON blobs (container, modified) WHERE deleted IS NULL;
CREATE TABLE pieces (
    blob   INTEGER NOT NULL REFERENCES blobs (id) ON DELETE CASCADE,
    n      INTEGER NOT NULL,
    id     TEXT,
    file   TEXT NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (blob, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX pieces_file ON pieces (file);
CREATE TABLE blocks (
    container TEXT NOT NULL REFERENCES containers (name) ON DELETE CASCADE,
    name      TEXT NOT NULL,
    id        TEXT NOT NULL,
    file      TEXT,
    length    INTEGER NOT NULL,
    put       INTEGER NOT NULL,
    PRIMARY KEY (container, name, id)
) STRICT;
CREATE INDEX blocks_file ON blocks (file);
CREATE INDEX blocks_put ON blocks (put);
PRAGMA user_version = 1;
";

/// What a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Current,
    Version,
    Snapshot,
}

impl Kind {
    const fn number(self) -> i64 {
        match self {
            Self::Current => 0,
            Self::Version => 1,
            Self::Snapshot => 2,
        }
    }

    fn of(number: i64) -> Self {
        match number {
            0 => Self::Current,
            1 => Self::Version,
            _ => Self::Snapshot,
        }
    }
}

/// What a container is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    pub etag: String,
    pub modified_us: i64,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub lease: Lease,
}

/// What a blob is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Without its quotes.
    pub etag: String,
    pub created_us: i64,
    pub modified_us: i64,
    pub length: u64,
    #[serde(default)]
    pub headers: Headers,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub lease: Lease,
    pub tier: String,
    /// Nobody said so: it is the tier of the account, or of its age.
    #[serde(default)]
    pub tier_inferred: bool,
    /// Its age moved it there.
    #[serde(default)]
    pub tier_by_age: bool,
    #[serde(default)]
    pub tier_us: i64,
    /// Nobody changes or deletes it before.
    #[serde(default)]
    pub until_us: Option<i64>,
    #[serde(default)]
    pub copy: Option<Copied>,
}

/// The fields with which a blob is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    #[serde(rename = "type", default)]
    pub content_type: Option<String>,
    #[serde(default)]
    pub encoding: Option<String>,
    #[serde(default)]
    pub language: Option<String>,
    #[serde(default)]
    pub disposition: Option<String>,
    #[serde(default)]
    pub cache_control: Option<String>,
    /// Base64.
    #[serde(default)]
    pub md5: Option<String>,
}

/// Where a blob was copied from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    pub id: String,
    /// Without its query: it may be a credential.
    pub source: String,
    pub at_us: i64,
}

/// A row of `blobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// 0: not stored yet.
    pub id: i64,
    pub container: String,
    pub name: String,
    pub mark: String,
    pub kind: Kind,
    pub deleted_us: Option<i64>,
    pub facts: Facts,
}

/// A piece of a blob, or a block that will be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The block's id, if it came as one.
    pub id: Option<String>,
    pub file: String,
    pub length: u64,
}

/// Opens or makes the database.
pub fn open(file: &Path) -> Result<Connection, Error> {
    let db = Connection::open(file)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -4000;
         PRAGMA busy_timeout = 5000;",
    )?;
    db.set_prepared_statement_cache_capacity(64);
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found {
        0 => db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?,
        FORMAT => {}
        found => return Err(Error::Newer { file: file.into(), found, known: FORMAT }),
    }
    Ok(db)
}

fn json<T: for<'de> Deserialize<'de>>(text: &str) -> rusqlite::Result<T> {
    let wrong =
        |e: serde_json::Error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, e.into());
    serde_json::from_str(text).map_err(wrong)
}

fn text<T: Serialize>(facts: &T) -> String {
    serde_json::to_string(facts).expect("facts are JSON")
}

pub fn container(db: &Connection, name: &str) -> rusqlite::Result<Option<ContainerFacts>> {
    let row = db
        .prepare_cached("SELECT facts FROM containers WHERE name = ?1")?
        .query_row([name], |row| row.get::<_, String>(0))
        .optional()?;
    row.map(|text| json(&text)).transpose()
}

pub fn set_container(db: &Connection, name: &str, facts: &ContainerFacts) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO containers VALUES (?1, ?2) ON CONFLICT DO UPDATE SET facts = ?2")?
        .execute([name, &text(facts)])?;
    Ok(())
}

/// Containers by name, after `after`.
pub fn containers(
    db: &Connection,
    prefix: &str,
    after: &str,
    most: usize,
) -> rusqlite::Result<Vec<(String, ContainerFacts)>> {
    db.prepare_cached(
        "SELECT name, facts FROM containers WHERE name > ?1 AND name >= ?2 AND substr(name, 1, length(?2)) = ?2
         ORDER BY name LIMIT ?3",
    )?
    .query_map(params![after, prefix, i64::try_from(most).unwrap_or(i64::MAX)], |row| {
        Ok((row.get(0)?, json(&row.get::<_, String>(1)?)?))
    })?
    .collect()
}

/// Removes a container with all that is in it. The files that it named.
pub fn remove_container(db: &Connection, name: &str) -> rusqlite::Result<Vec<String>> {
    let files: HashSet<String> = db
        .prepare(
            "SELECT p.file FROM pieces p JOIN blobs b ON b.id = p.blob WHERE b.container = ?1
             UNION SELECT file FROM blocks WHERE container = ?1 AND file IS NOT NULL",
        )?
        .query_map([name], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    db.execute("DELETE FROM blobs WHERE container = ?1", [name])?;
    db.execute("DELETE FROM containers WHERE name = ?1", [name])?;
    Ok(files.into_iter().collect())
}

const COLUMNS: &str = "id, container, name, mark, kind, deleted, facts";

fn blob_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Blob> {
    Ok(Blob {
        id: row.get(0)?,
        container: row.get(1)?,
        name: row.get(2)?,
        mark: row.get(3)?,
        kind: Kind::of(row.get(4)?),
        deleted_us: row.get(5)?,
        facts: json(&row.get::<_, String>(6)?)?,
    })
}

/// What is read under a name.
pub fn current(db: &Connection, container: &str, name: &str) -> rusqlite::Result<Option<Blob>> {
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM blobs WHERE container = ?1 AND name = ?2 AND kind = 0 AND deleted IS NULL"
    ))?
    .query_row([container, name], blob_of)
    .optional()
}

/// The version or snapshot of a mark, deleted or not.
pub fn marked(db: &Connection, container: &str, name: &str, mark: &str) -> rusqlite::Result<Option<Blob>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM blobs WHERE container = ?1 AND name = ?2 AND mark = ?3"))?
        .query_row([container, name, mark], blob_of)
        .optional()
}

/// Every row of a name, the oldest first.
pub fn all_of(db: &Connection, container: &str, name: &str) -> rusqlite::Result<Vec<Blob>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM blobs WHERE container = ?1 AND name = ?2 ORDER BY mark"))?
        .query_map([container, name], blob_of)?
        .collect()
}

/// Which rows a list shows beside the current ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    pub versions: bool,
    pub snapshots: bool,
    pub deleted: bool,
}

/// Rows in the order of name and mark, those after name and mark of `from`.
pub fn list(
    db: &Connection,
    container: &str,
    from: (&str, &str),
    prefix: &str,
    shown: Shown,
    most: usize,
) -> rusqlite::Result<Vec<Blob>> {
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM blobs WHERE container = ?1 AND name >= ?2 AND (name > ?2 OR mark > ?3)
         AND name >= ?4 AND substr(name, 1, length(?4)) = ?4
         AND (kind = 0 OR (kind = 1 AND ?5) OR (kind = 2 AND ?6)) AND (deleted IS NULL OR ?7)
         ORDER BY name, mark LIMIT ?8"
    ))?
    .query_map(
        params![
            container,
            from.0,
            from.1,
            prefix,
            shown.versions,
            shown.snapshots,
            shown.deleted,
            i64::try_from(most).unwrap_or(i64::MAX)
        ],
        blob_of,
    )?
    .collect()
}

/// Stores a new row with its pieces; its id.
pub fn insert(db: &Connection, blob: &Blob, pieces: &[Piece]) -> rusqlite::Result<i64> {
    let facts = &blob.facts;
    db.prepare_cached(
        "INSERT INTO blobs (container, name, mark, kind, deleted, modified, tier, facts)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        blob.container,
        blob.name,
        blob.mark,
        blob.kind.number(),
        blob.deleted_us,
        facts.modified_us,
        facts.tier,
        text(facts)
    ])?;
    let id = db.last_insert_rowid();
    let mut insert = db.prepare_cached("INSERT INTO pieces VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (n, piece) in pieces.iter().enumerate() {
        insert.execute(params![id, n as i64, piece.id, piece.file, piece.length as i64])?;
    }
    Ok(id)
}

/// Stores what changed of a row; its pieces never do.
pub fn update(db: &Connection, blob: &Blob) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE blobs SET mark = ?2, kind = ?3, deleted = ?4, modified = ?5, tier = ?6, facts = ?7 WHERE id = ?1",
    )?
    .execute(params![
        blob.id,
        blob.mark,
        blob.kind.number(),
        blob.deleted_us,
        blob.facts.modified_us,
        blob.facts.tier,
        text(&blob.facts)
    ])?;
    Ok(())
}

/// Removes a row. The files that it named.
pub fn remove(db: &Connection, id: i64) -> rusqlite::Result<Vec<String>> {
    let files = db
        .prepare_cached("SELECT DISTINCT file FROM pieces WHERE blob = ?1")?
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<HashSet<String>>>()?;
    db.prepare_cached("DELETE FROM blobs WHERE id = ?1")?.execute([id])?;
    Ok(files.into_iter().collect())
}

/// Of these files, those that nothing names.
pub fn loose(db: &Connection, files: HashSet<String>) -> rusqlite::Result<Vec<String>> {
    let mut named = db.prepare_cached(
        "SELECT 1 FROM pieces WHERE file = ?1 UNION ALL SELECT 1 FROM blocks WHERE file = ?1 LIMIT 1",
    )?;
    let mut found = Vec::new();
    for file in files {
        if !named.exists([&file])? {
            found.push(file);
        }
    }
    Ok(found)
}

pub fn pieces(db: &Connection, blob: i64) -> rusqlite::Result<Vec<Piece>> {
    db.prepare_cached("SELECT id, file, length FROM pieces WHERE blob = ?1 ORDER BY n")?
        .query_map([blob], |row| {
            Ok(Piece { id: row.get(0)?, file: row.get(1)?, length: row.get::<_, i64>(2)?.unsigned_abs() })
        })?
        .collect()
}

/// Blocks of a name that no list has named yet, in the order of their ids. An empty one has no file.
pub fn blocks(db: &Connection, container: &str, name: &str) -> rusqlite::Result<Vec<Piece>> {
    db.prepare_cached(
        "SELECT id, coalesce(file, ''), length FROM blocks WHERE container = ?1 AND name = ?2 ORDER BY id",
    )?
    .query_map([container, name], |row| {
        Ok(Piece { id: row.get(0)?, file: row.get(1)?, length: row.get::<_, i64>(2)?.unsigned_abs() })
    })?
    .collect()
}

/// How many blocks of a name wait, and the length of their ids.
pub fn waiting(db: &Connection, container: &str, name: &str) -> rusqlite::Result<(i64, Option<i64>)> {
    db.prepare_cached("SELECT count(*), max(length(id)) FROM blocks WHERE container = ?1 AND name = ?2")?
        .query_row([container, name], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Stores a block; one of the same id before it goes. The files that it named.
pub fn put_block(
    db: &Connection,
    container: &str,
    name: &str,
    id: &str,
    piece: Option<&Piece>,
    now_us: i64,
) -> rusqlite::Result<Vec<String>> {
    let before: Option<Option<String>> = db
        .prepare_cached("SELECT file FROM blocks WHERE container = ?1 AND name = ?2 AND id = ?3")?
        .query_row([container, name, id], |row| row.get(0))
        .optional()?;
    let (file, length) = piece.map_or((None, 0), |piece| (Some(piece.file.as_str()), piece.length as i64));
    db.prepare_cached("INSERT OR REPLACE INTO blocks VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![container, name, id, file, length, now_us])?;
    Ok(before.flatten().into_iter().collect())
}

/// Forgets the waiting blocks of a name. The files that it named.
pub fn forget_blocks(db: &Connection, container: &str, name: &str) -> rusqlite::Result<Vec<String>> {
    let files = db
        .prepare_cached("DELETE FROM blocks WHERE container = ?1 AND name = ?2 RETURNING file")?
        .query_map([container, name], |row| row.get::<_, Option<String>>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(files.into_iter().flatten().collect())
}

/// Names whose waiting blocks are all of before `until_us`.
pub fn stale_blocks(db: &Connection, until_us: i64, most: usize) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare_cached(
        "SELECT container, name FROM blocks b WHERE put <= ?1 AND NOT EXISTS (SELECT 1 FROM blocks o
         WHERE o.container = b.container AND o.name = b.name AND o.put > ?1) GROUP BY container, name LIMIT ?2",
    )?
    .query_map(params![until_us, i64::try_from(most).unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// Rows that were deleted before `until_us`.
pub fn deleted_before(db: &Connection, until_us: i64, most: usize) -> rusqlite::Result<Vec<Blob>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM blobs WHERE deleted <= ?1 ORDER BY deleted LIMIT ?2"))?
        .query_map(params![until_us, i64::try_from(most).unwrap_or(i64::MAX)], blob_of)?
        .collect()
}

/// Rows of a container that were changed before `until_us`, are not deleted, and are in none of these tiers; after `after`.
pub fn changed_before(
    db: &Connection,
    container: &str,
    until_us: i64,
    tiers: [&str; 2],
    after: i64,
    most: usize,
) -> rusqlite::Result<Vec<Blob>> {
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM blobs WHERE container = ?1 AND modified <= ?2 AND deleted IS NULL AND tier <> ?3 AND tier <> ?4
         AND id > ?5 ORDER BY id LIMIT ?6"
    ))?
    .query_map(
        params![container, until_us, tiers[0], tiers[1], after, i64::try_from(most).unwrap_or(i64::MAX)],
        blob_of,
    )?
    .collect()
}

/// The last moment until which a blob of a container may not be deleted, as it was noted when it was put.
pub fn protected_until(db: &Connection, container: &str) -> rusqlite::Result<Option<i64>> {
    db.query_row("SELECT max(json_extract(facts, '$.until_us')) FROM blobs WHERE container = ?1", [container], |row| {
        row.get(0)
    })
}

/// Every file that something names.
pub fn files(db: &Connection) -> rusqlite::Result<HashSet<String>> {
    db.prepare("SELECT file FROM pieces UNION SELECT file FROM blocks WHERE file IS NOT NULL")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// The latest mark that was given.
pub fn last_mark(db: &Connection) -> rusqlite::Result<Option<String>> {
    db.query_row("SELECT max(mark) FROM blobs", [], |row| row.get(0))
}

/// Containers, current blobs, all other rows, bytes.
pub fn counts(db: &Connection) -> rusqlite::Result<(u64, u64, u64, u64)> {
    db.query_row(
        "SELECT (SELECT count(*) FROM containers), (SELECT count(*) FROM blobs WHERE kind = 0 AND deleted IS NULL),
                (SELECT count(*) FROM blobs WHERE kind <> 0 OR deleted IS NOT NULL),
                (SELECT coalesce(sum(length), 0) FROM (SELECT file, length FROM pieces
                    UNION SELECT file, length FROM blocks WHERE file IS NOT NULL))",
        [],
        |row| {
            let at = |n| row.get::<_, i64>(n).map(i64::unsigned_abs);
            Ok((at(0)?, at(1)?, at(2)?, at(3)?))
        },
    )
}
