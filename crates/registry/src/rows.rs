//! The registry's tables: what is in which repository. Layers lie beside them as files; manifests lie in them, so that a
//! manifest, its tag and what it names appear together or not at all.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{Error, names::Digest};

/// The version of the tables, in `PRAGMA user_version`.
const FORMAT: i64 = 1;

/// `untagged` is the second since which no tag names a manifest; NULL while one does. `releases` outlives the tags: a version
/// that was given once is never given again.
const SCHEMA: &str = "
CREATE TABLE manifests (
    repository    TEXT NOT NULL,
    digest        TEXT NOT NULL,
    media_type    TEXT NOT NULL,
    artifact_type TEXT,
    subject       TEXT,
    annotations   TEXT,
    content       BLOB NOT NULL,
    pushed        INTEGER NOT NULL,
    untagged      INTEGER,
    PRIMARY KEY (repository, digest)
) STRICT;
CREATE INDEX manifests_untagged ON manifests (untagged) WHERE untagged IS NOT NULL;
CREATE INDEX manifests_subject ON manifests (repository, subject) WHERE subject IS NOT NULL;
CREATE TABLE tags (
    repository TEXT NOT NULL,
    tag        TEXT NOT NULL,
    digest     TEXT NOT NULL,
    moved      INTEGER NOT NULL,
    PRIMARY KEY (repository, tag),
    FOREIGN KEY (repository, digest) REFERENCES manifests (repository, digest) ON DELETE CASCADE
) STRICT;
CREATE INDEX tags_digest ON tags (repository, digest);
CREATE TABLE releases (
    repository TEXT NOT NULL,
    tag        TEXT NOT NULL,
    digest     TEXT NOT NULL,
    PRIMARY KEY (repository, tag)
) STRICT;
CREATE TABLE refs (
    repository TEXT NOT NULL,
    manifest   TEXT NOT NULL,
    target     TEXT NOT NULL,
    PRIMARY KEY (repository, manifest, target),
    FOREIGN KEY (repository, manifest) REFERENCES manifests (repository, digest) ON DELETE CASCADE
) STRICT;
CREATE INDEX refs_target ON refs (repository, target);
CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,
    size   INTEGER NOT NULL
) STRICT;
CREATE TABLE links (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL REFERENCES blobs (digest),
    linked     INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) STRICT;
CREATE INDEX links_digest ON links (digest);
CREATE TABLE uploads (
    id         TEXT PRIMARY KEY,
    repository TEXT NOT NULL,
    subject    TEXT NOT NULL,
    begun      INTEGER NOT NULL
) STRICT;
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 1;
";

/// A manifest as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub artifact_type: Option<String>,
    pub subject: Option<String>,
    /// JSON.
    pub annotations: Option<String>,
    pub content: Vec<u8>,
}

/// Opens or makes the database.
pub fn open(file: &Path) -> Result<Connection, Error> {
    let db = Connection::open(file)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -2000;
         PRAGMA busy_timeout = 5000;",
    )?;
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found {
        0 => db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?,
        FORMAT => {}
        found => return Err(Error::Newer { file: file.into(), found, known: FORMAT }),
    }
    Ok(db)
}

fn digest_of(text: String) -> rusqlite::Result<Digest> {
    Digest::parse(&text).ok_or(rusqlite::Error::InvalidColumnType(0, text, rusqlite::types::Type::Text))
}

pub fn tag(db: &Connection, name: &str, tag: &str) -> rusqlite::Result<Option<Digest>> {
    db.prepare_cached("SELECT digest FROM tags WHERE repository = ?1 AND tag = ?2")?
        .query_row([name, tag], |row| digest_of(row.get(0)?))
        .optional()
}

pub fn release(db: &Connection, name: &str, tag: &str) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT digest FROM releases WHERE repository = ?1 AND tag = ?2")?
        .query_row([name, tag], |row| row.get(0))
        .optional()
}

pub fn manifest(db: &Connection, name: &str, digest: &Digest) -> rusqlite::Result<Option<Manifest>> {
    db.prepare_cached(
        "SELECT digest, media_type, artifact_type, subject, annotations, content FROM manifests
         WHERE repository = ?1 AND digest = ?2",
    )?
    .query_row([name, &digest.to_string()], manifest_of)
    .optional()
}

fn manifest_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Manifest> {
    Ok(Manifest {
        digest: digest_of(row.get(0)?)?,
        media_type: row.get(1)?,
        artifact_type: row.get(2)?,
        subject: row.get(3)?,
        annotations: row.get(4)?,
        content: row.get(5)?,
    })
}

/// The manifests that name `subject`, by digest.
pub fn referrers(db: &Connection, name: &str, subject: &Digest) -> rusqlite::Result<Vec<Manifest>> {
    db.prepare_cached(
        "SELECT digest, media_type, artifact_type, subject, annotations, content FROM manifests
         WHERE repository = ?1 AND subject = ?2 ORDER BY digest",
    )?
    .query_map([name, &subject.to_string()], manifest_of)?
    .collect()
}

/// Stores a manifest and what it names; one that is there stays as it is.
pub fn insert_manifest(
    db: &Connection,
    name: &str,
    manifest: &Manifest,
    targets: &[String],
    now_s: i64,
) -> rusqlite::Result<()> {
    let digest = manifest.digest.to_string();
    let new = db.execute(
        "INSERT INTO manifests (repository, digest, media_type, artifact_type, subject, annotations, content, pushed, untagged)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8) ON CONFLICT DO NOTHING",
        params![
            name,
            digest,
            manifest.media_type,
            manifest.artifact_type,
            manifest.subject,
            manifest.annotations,
            manifest.content,
            now_s
        ],
    )?;
    if new == 0 {
        // Pushed again without a tag, its time begins anew.
        db.execute(
            "UPDATE manifests SET untagged = ?3 WHERE repository = ?1 AND digest = ?2 AND untagged IS NOT NULL",
            params![name, digest, now_s],
        )?;
    }
    for target in targets {
        db.execute("INSERT INTO refs VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING", [name, &digest, target])?;
    }
    Ok(())
}

/// Lets a tag name a manifest; the one it named before, if no other tag does, is without one from now on.
pub fn set_tag(db: &Connection, name: &str, tag: &str, digest: &Digest, now_s: i64) -> rusqlite::Result<()> {
    let before = self::tag(db, name, tag)?;
    db.execute(
        "INSERT INTO tags VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET digest = ?3, moved = ?4",
        params![name, tag, digest.to_string(), now_s],
    )?;
    db.execute(
        "UPDATE manifests SET untagged = NULL WHERE repository = ?1 AND digest = ?2",
        params![name, digest.to_string()],
    )?;
    if let Some(before) = before.filter(|before| before != digest) {
        untagged(db, name, &before, now_s)?;
    }
    if crate::names::is_release(tag) {
        db.execute(
            "INSERT INTO releases VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            [name, tag, &digest.to_string()],
        )?;
    }
    Ok(())
}

/// Removes a tag; whether it was there.
pub fn remove_tag(db: &Connection, name: &str, tag: &str, now_s: i64) -> rusqlite::Result<bool> {
    let Some(digest) = self::tag(db, name, tag)? else { return Ok(false) };
    db.execute("DELETE FROM tags WHERE repository = ?1 AND tag = ?2", [name, tag])?;
    untagged(db, name, &digest, now_s)?;
    Ok(true)
}

fn untagged(db: &Connection, name: &str, digest: &Digest, now_s: i64) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE manifests SET untagged = ?3 WHERE repository = ?1 AND digest = ?2
         AND NOT EXISTS (SELECT 1 FROM tags WHERE repository = ?1 AND digest = ?2)",
        params![name, digest.to_string(), now_s],
    )?;
    Ok(())
}

/// Removes a manifest with its tags; whether it was there. Those that it alone named begin their time without a tag.
pub fn remove_manifest(db: &Connection, name: &str, digest: &str, now_s: i64) -> rusqlite::Result<bool> {
    db.execute(
        "UPDATE manifests SET untagged = ?3 WHERE repository = ?1 AND untagged IS NOT NULL AND digest IN
         (SELECT target FROM refs WHERE repository = ?1 AND manifest = ?2)",
        params![name, digest, now_s],
    )?;
    Ok(db.execute("DELETE FROM manifests WHERE repository = ?1 AND digest = ?2", [name, digest])? > 0)
}

/// Whether a manifest of the repository names `target`.
pub fn is_named(db: &Connection, name: &str, target: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM refs WHERE repository = ?1 AND target = ?2 LIMIT 1")?.exists([name, target])
}

/// Tags in the order of their bytes, after `last`.
pub fn tags(db: &Connection, name: &str, last: &str, most: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT tag FROM tags WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3")?
        .query_map(params![name, last, most], |row| row.get(0))?
        .collect()
}

/// Whether anything is in a repository of this name.
pub fn is_repository(db: &Connection, name: &str) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT 1 FROM manifests WHERE repository = ?1 UNION ALL SELECT 1 FROM links WHERE repository = ?1 LIMIT 1",
    )?
    .exists([name])
}

/// Repositories with images, in the order of their bytes, after `last`.
pub fn repositories(db: &Connection, last: &str, most: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT DISTINCT repository FROM manifests WHERE repository > ?1 ORDER BY repository LIMIT ?2")?
        .query_map(params![last, most], |row| row.get(0))?
        .collect()
}

/// The size of a blob, if it is in the repository.
pub fn blob(db: &Connection, name: &str, digest: &Digest) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached(
        "SELECT size FROM blobs b JOIN links l ON l.digest = b.digest WHERE l.repository = ?1 AND l.digest = ?2",
    )?
    .query_row([name, &digest.to_string()], |row| row.get::<_, i64>(0))
    .optional()
    .map(|size| size.map(|size| size.unsigned_abs()))
}

/// Puts a blob that lies on disk into a repository.
pub fn link(db: &Connection, name: &str, digest: &Digest, size: u64, now_s: i64) -> rusqlite::Result<()> {
    let (digest, size) = (digest.to_string(), i64::try_from(size).unwrap_or(i64::MAX));
    db.execute("INSERT INTO blobs VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![digest, size])?;
    db.execute(
        "INSERT INTO links VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET linked = ?3",
        params![name, digest, now_s],
    )?;
    Ok(())
}

/// Takes a blob out of a repository; whether it was there.
pub fn unlink(db: &Connection, name: &str, digest: &str) -> rusqlite::Result<bool> {
    Ok(db.execute("DELETE FROM links WHERE repository = ?1 AND digest = ?2", [name, digest])? > 0)
}

/// Manifests whose time without a tag ended before `until_s`, and which no manifest that stays names: repository and digest.
/// What says something about another (its subject) stays as long as that does.
pub fn due(db: &Connection, until_s: i64) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare_cached(
        "SELECT repository, digest FROM manifests m WHERE untagged <= ?1
         AND NOT EXISTS (SELECT 1 FROM refs r WHERE r.repository = m.repository AND r.target = m.digest
                         AND r.manifest <> m.digest)
         AND NOT EXISTS (SELECT 1 FROM manifests s WHERE s.repository = m.repository AND s.digest = m.subject
                         AND s.digest <> m.digest)",
    )?
    .query_map([until_s], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// Takes blobs that no manifest names, put there before `until_s`, out of their repositories, and forgets blobs that are in
/// none. Answers the digests of these.
pub fn sweep_blobs(db: &Connection, until_s: i64) -> rusqlite::Result<Vec<Digest>> {
    db.execute(
        "DELETE FROM links WHERE linked <= ?1 AND NOT EXISTS
         (SELECT 1 FROM refs r WHERE r.repository = links.repository AND r.target = links.digest)",
        [until_s],
    )?;
    db.prepare_cached("DELETE FROM blobs WHERE digest NOT IN (SELECT digest FROM links) RETURNING digest")?
        .query_map([], |row| digest_of(row.get(0)?))?
        .collect()
}

/// Whether [`sweep_blobs`] would do anything.
pub fn has_loose_blobs(db: &Connection, until_s: i64) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT 1 FROM links l WHERE linked <= ?1 AND NOT EXISTS
         (SELECT 1 FROM refs r WHERE r.repository = l.repository AND r.target = l.digest)
         UNION ALL SELECT 1 FROM blobs WHERE digest NOT IN (SELECT digest FROM links) LIMIT 1",
    )?
    .exists([until_s])
}

/// All blobs, as hex.
pub fn blobs(db: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    db.prepare("SELECT digest FROM blobs")?.query_map([], |row| Ok(digest_of(row.get(0)?)?.hex().to_owned()))?.collect()
}

/// Bytes of all blobs and manifests, each counted once.
pub fn used(db: &Connection) -> rusqlite::Result<u64> {
    let sum: i64 = db.query_row(
        "SELECT coalesce((SELECT sum(size) FROM blobs), 0) + coalesce((SELECT sum(length(content)) FROM manifests), 0)",
        [],
        |row| row.get(0),
    )?;
    Ok(sum.unsigned_abs())
}

/// Repositories, manifests, tags.
pub fn counts(db: &Connection) -> rusqlite::Result<(u64, u64, u64)> {
    db.query_row(
        "SELECT (SELECT count(DISTINCT repository) FROM manifests), (SELECT count(*) FROM manifests),
                (SELECT count(*) FROM tags)",
        [],
        |row| {
            let at = |n| row.get::<_, i64>(n).map(i64::unsigned_abs);
            Ok((at(0)?, at(1)?, at(2)?))
        },
    )
}

pub fn fact(db: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    db.query_row("SELECT value FROM facts WHERE name = ?1", [name], |row| row.get(0)).optional()
}

/// Writes a fact down; one that is there stays.
pub fn set_fact(db: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    db.execute("INSERT INTO facts VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![name, value])?;
    Ok(())
}

/// Notes an upload, whose bytes lie in a file of its own.
pub fn insert_upload(db: &Connection, id: &str, name: &str, subject: &str, now_s: i64) -> rusqlite::Result<()> {
    db.execute("INSERT INTO uploads VALUES (?1, ?2, ?3, ?4)", params![id, name, subject, now_s])?;
    Ok(())
}

/// The repository of an upload, and who began it.
pub fn upload(db: &Connection, id: &str) -> rusqlite::Result<Option<(String, String)>> {
    db.prepare_cached("SELECT repository, subject FROM uploads WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

pub fn remove_upload(db: &Connection, id: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM uploads WHERE id = ?1", [id])?;
    Ok(())
}

/// Uploads that were begun before `until_s`; all with `i64::MAX`.
pub fn uploads(db: &Connection, until_s: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT id FROM uploads WHERE begun <= ?1")?.query_map([until_s], |row| row.get(0))?.collect()
}
