//! `meg-qms back-up`: the night's set, a dump of the database and the files that people sent, on the share for backups.
//!
//! The dump is what PostgreSQL's `COPY` gives, a file a table, all of one moment, read with rights that only read. A set has a
//! manifest with the digest of every part; a set without one is not whole and is not counted. Where there is a backup vault
//! (`BACKUPS_URL`), each set goes there as well, whole, and nobody changes it before its time.

pub mod restore;
mod vault;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{self, SHA256};
use futures_util::TryStreamExt;
use sdk::Settings;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_postgres::{Client, IsolationLevel};

use crate::app::mount;

/// Nights that are kept on the share, without `MEG_BACKUP_NIGHTS`.
const NIGHTS: usize = 35;
/// Tables whose content is worth nothing on another day.
const LEFT_OUT: [&str; 2] = ["Sessions", "UsedTickets"];

/// What a set holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this format.
    pub version: u32,
    pub made_at: String,
    pub tables: BTreeMap<String, Table>,
    /// Address and SHA-256 of each file of the share.
    pub media: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: u64,
    pub sha256: String,
}

/// Makes a set, and lets go of those that are too old.
///
/// # Errors
/// A setting is unusable, the database is away, or the share takes nothing more: then the set has no manifest.
pub async fn run(settings: &Settings) -> Result<()> {
    let media = mount(settings, "MOUNT_MEDIA", "the folder of the share `media`")?;
    let backups = mount(settings, "MOUNT_BACKUPS", "the folder of the share `backups`")?;
    let nights = settings.parsed("MEG_BACKUP_NIGHTS", "a number of nights, 1 to 3650", NIGHTS)?;
    let mut client = sdk::database::connect_alone(settings, "ConnectionStrings__DefaultConnection").await?;
    let (set, manifest) = make(&mut client, &media, &backups).await?;
    let rows: u64 = manifest.tables.values().map(|t| t.rows).sum();
    let vaulted = vault::put(settings, &set, &backups, &manifest).await?;
    let gone = let_go(&backups, nights)?;
    tracing::info!(set = %set.display(), tables = manifest.tables.len(), rows, files = manifest.media.len(), vaulted, let_go = gone, "backed up");
    Ok(())
}

/// One set in `backups`, named by its moment.
///
/// # Errors
/// As [`run`].
pub async fn make(client: &mut Client, media: &Path, backups: &Path) -> Result<(PathBuf, Manifest)> {
    let now = jiff::Timestamp::now();
    let set = backups.join(now.strftime("%Y-%m-%dT%H-%M-%SZ").to_string());
    std::fs::create_dir_all(set.join("tables")).with_context(|| format!("{} cannot be made", set.display()))?;
    let tables = dump(client, &set.join("tables")).await?;
    let (media, backups, to) = (media.to_owned(), backups.to_owned(), set.clone());
    let files = tokio::task::spawn_blocking(move || copy_media(&media, &backups)).await??;
    let manifest = Manifest { version: 1, made_at: now.to_string(), tables, media: files };
    write(&to.join("manifest.json"), &serde_json::to_vec_pretty(&manifest)?)?;
    Ok((set, manifest))
}

async fn dump(client: &mut Client, folder: &Path) -> Result<BTreeMap<String, Table>> {
    // All tables as they are at one moment, and nothing can be changed by mistake.
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    let sql = "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
               WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY 1 ORDER BY 1";
    let mut tables = BTreeMap::new();
    for row in transaction.query(sql, &[]).await? {
        let (name, columns): (String, Vec<String>) = (row.get(0), row.get(1));
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let list: Vec<String> = columns.iter().map(|c| format!("\"{c}\"")).collect();
        let stream = transaction.copy_out(&format!("COPY \"{name}\" ({}) TO STDOUT", list.join(", "))).await?;
        let mut stream = std::pin::pin!(stream);
        let mut file = tokio::fs::File::create(folder.join(format!("{name}.copy"))).await?;
        let (mut hash, mut rows) = (digest::Context::new(&SHA256), 0);
        while let Some(chunk) = stream.try_next().await? {
            hash.update(&chunk);
            // A line feed within a value is written as \n, so each one here ends a row.
            rows += chunk.iter().filter(|b| **b == b'\n').count() as u64;
            file.write_all(&chunk).await?;
        }
        file.sync_all().await?;
        tables.insert(name, Table { columns, rows, sha256: hex(hash.finish().as_ref()) });
    }
    transaction.commit().await?;
    Ok(tables)
}

/// Copies what the share has and the backups have not: a file's name says its content, so one copy serves every set.
fn copy_media(from: &Path, backups: &Path) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for kind in crate::media::KINDS {
        let Ok(entries) = std::fs::read_dir(from.join(kind)) else { continue };
        for entry in entries {
            let entry = entry?;
            let address = format!("{kind}/{}", entry.file_name().to_string_lossy());
            if !crate::media::is_address(&address) {
                continue;
            }
            let bytes = std::fs::read(entry.path())?;
            let sha256 = crate::media::sha256(&bytes);
            if !address.contains(&sha256) {
                bail!("the file {address} of the share is not what was sent: it is left out of no backup in silence");
            }
            let to = backups.join("media").join(&address);
            if !to.metadata().is_ok_and(|m| m.len() == bytes.len() as u64) {
                write(&to, &bytes)?;
            }
            all.insert(address, sha256);
        }
    }
    Ok(all)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let folder = path.parent().context("no folder")?;
    std::fs::create_dir_all(folder)?;
    let part = path.with_extension("part");
    let mut file = std::fs::File::create(&part).with_context(|| format!("{} cannot be written", part.display()))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Removes whole sets beyond the newest `nights`; how many. Files of the share stay in the backups.
fn let_go(backups: &Path, nights: usize) -> Result<usize> {
    let mut sets: Vec<PathBuf> = std::fs::read_dir(backups)?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.join("manifest.json").is_file())
        .collect();
    sets.sort();
    let old = sets.len().saturating_sub(nights.max(1));
    for set in &sets[..old] {
        std::fs::remove_dir_all(set)?;
    }
    Ok(old)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
