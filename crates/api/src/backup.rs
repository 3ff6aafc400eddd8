//! Backups of a PostgreSQL: what its keeper is told to keep, and what it says of it.
//!
//! All times are milliseconds since the Unix epoch.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{WireError, client::Client};

/// What a keeper keeps backups by. The secret `backup-key` seals them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupConfig {
    /// The folder of the repository; the keeper's own.
    pub repository: PathBuf,
    /// A further copy of it, kept up asynchronously; None: there is none.
    #[serde(default)]
    pub copy: Option<PathBuf>,
    /// A base backup this often, seconds.
    pub every_s: u64,
    /// How long a moment can be gone back to, seconds.
    pub retention_s: u64,
    /// A piece of the log is at most this old when it is archived, seconds.
    pub archive_timeout_s: u64,
    /// This program; PostgreSQL runs its verbs `serve archive` and `serve fetch`.
    pub program: PathBuf,
    /// The keeper's control socket, for those verbs.
    pub control: PathBuf,
    /// The data is restored before the server first starts.
    #[serde(default)]
    pub restore: Option<RestoreOrder>,
}

/// Where a new server's data comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// A repository; only read.
    pub from: PathBuf,
    pub target: Target,
    /// The log is not archived: the server is for looking, until it takes its origin's place.
    pub aside: bool,
    /// `pg_verifybackup` looks at the unpacked data as well.
    #[serde(default)]
    pub verify: bool,
}

/// To which moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case")]
pub enum Target {
    /// As far as the log goes.
    Latest,
    /// Just before the first commit after this.
    Time { ms: i64 },
    /// A point that was named.
    Point { name: String },
}

/// `GET /backups`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Backups {
    /// Base backups, the oldest first.
    pub bases: Vec<Base>,
    pub points: Vec<Point>,
    /// What can be gone back to without a hole; None: nothing yet.
    pub window: Option<Window>,
    pub archive: ArchiveStatus,
    /// The further copy, where one is declared.
    pub copy: Option<CopyStatus>,
    /// Bytes of the repository, as they lie sealed on the disk.
    pub bytes: u64,
    /// The base backup under way.
    pub running: Option<Running>,
    /// Why the last base backup failed; None once one has not.
    pub trouble: Option<String>,
}

/// A base backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Base {
    pub version: u32,
    /// When it was begun, by the stamp's clock: `20260124T120000Z`.
    pub name: String,
    pub begun_ms: i64,
    pub ended_ms: i64,
    /// The server's time at its end: earlier moments need an older one.
    pub earliest_ms: i64,
    pub timeline: u32,
    pub start_lsn: String,
    pub stop_lsn: String,
    /// The first file of the log that is needed.
    pub start_segment: String,
    /// Bytes of the data directory, and as they lie compressed and sealed.
    pub bytes: u64,
    pub stored_bytes: u64,
    pub files: u64,
    pub server: String,
    /// Nobody asked for it but the schedule.
    pub scheduled: bool,
    /// A further copy has it.
    #[serde(default)]
    pub copied: bool,
}

/// A moment with a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    pub version: u32,
    pub name: String,
    pub at_ms: i64,
    pub lsn: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub from_ms: i64,
    pub to_ms: i64,
}

/// How the archiving of the log goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// The log is archived continuously.
    pub on: bool,
    /// The last file that was archived, and when (by the stamp's clock).
    pub last: Option<String>,
    pub last_ms: Option<i64>,
    /// Age of it in seconds.
    pub age_s: Option<i64>,
    /// Files that wait in the server's folder.
    pub waiting: u32,
    /// Tries that failed since the keeper started.
    pub failures: u64,
    /// Why the last try failed; None once one has not.
    pub trouble: Option<String>,
}

/// How far a further copy is behind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CopyStatus {
    pub folder: PathBuf,
    /// Files and bytes that it does not have yet.
    pub files_behind: u64,
    pub bytes_behind: u64,
    /// Seconds since it last had everything; None: it never had.
    pub age_s: Option<i64>,
    pub trouble: Option<String>,
}

/// A base backup under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    pub name: String,
    pub bytes: u64,
    pub milliseconds: u64,
}

/// `POST /backup`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BackupRequest {
    /// Names the moment instead of taking a base backup.
    #[serde(default)]
    pub point: Option<String>,
}

/// The answer to [`BackupRequest`]: which base backup is under way, or the point that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupAnswer {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub point: Option<Point>,
}

/// How a restore goes, in `GET /status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RestoreStatus {
    /// `unpacking`, `replaying`, `done`, `failed`.
    pub phase: String,
    /// The base backup it began from.
    pub base: String,
    pub bytes: u64,
    pub total_bytes: u64,
    /// The file of the log that was asked for last.
    pub segment: Option<String>,
    pub segments: u64,
    /// Why it failed; nothing tries again by itself.
    pub failed: Option<String>,
    /// Where replay stopped, in the server's words.
    pub stopped: Option<String>,
    /// The last commit that was replayed.
    pub last_commit_ms: Option<i64>,
}

/// What a keeper has of backups.
///
/// # Errors
/// As every call: see [`WireError`]. 404 where none are kept.
pub async fn backups(control: &Client) -> Result<Backups, WireError> {
    control.get("/backups").await
}

/// Begins a base backup, or joins the one under way; or names this moment.
///
/// # Errors
/// 404 where none are kept, 409 for a point whose name is taken; see [`WireError`] for the rest.
pub async fn back_up(control: &Client, request: &BackupRequest) -> Result<BackupAnswer, WireError> {
    control.post("/backup", request).await
}

/// Has `pg_amcheck` read every table and index of every database, and gives what it says; an error if anything is wrong.
///
/// # Errors
/// 500 with what is wrong, 501 where the tool is missing; see [`WireError`] for the rest.
pub async fn check(control: &Client) -> Result<String, WireError> {
    control.post("/check", &serde_json::json!({})).await
}

/// Ends the log's file of now, and waits until it is archived: what was committed before can be gone back to after this.
///
/// # Errors
/// 503 when it is not archived within the server's patience; see [`WireError`] for the rest.
pub async fn close_log(control: &Client) -> Result<(), WireError> {
    control.post("/close-log", &serde_json::json!({})).await
}
