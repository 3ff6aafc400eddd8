//! A database of several servers: what each member's keeper is told, and what it tells.
//!
//! Who leads is the supervisor's word alone. It lies in a file beside each member ([`Lead`]), so that a keeper that starts
//! with the supervisor dead knows its place; a keeper serves writes only when the newest word it ever had names it.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{WireError, client::Client};

/// What the keeper of one member knows of the whole. Secret: `postgres-replication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberConfig {
    /// The folder of the [`SafeWith`] file: one that is there when nothing of the member runs, as its disk is not. None: its data.
    #[serde(default)]
    pub record: Option<std::path::PathBuf>,
    /// This member's workload, such as `postgres.main+2`.
    pub name: String,
    /// The file with the supervisor's [`Lead`].
    pub lead: PathBuf,
    /// The CA that the other members' certificates lead to, PEM.
    pub ca: PathBuf,
    /// Every member, this one too.
    pub all: Vec<Member>,
    /// The leading member acknowledges a write once a standby has it on its disk.
    pub synchronous: bool,
    /// Writes go on without a standby that has been silent so long; None: they wait for it.
    #[serde(default)]
    pub go_on_after_ms: Option<u64>,
}

/// One member, for the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub zone: String,
    pub address: IpAddr,
    pub port: u16,
    /// It never takes over, and no write waits for it.
    #[serde(default)]
    pub only_reads: bool,
}

/// The supervisor's word on who leads. A higher term is newer; of one term there is one word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    pub term: u64,
    /// The workload that leads.
    pub primary: String,
}

/// What a member is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// No server answers.
    #[default]
    None,
    /// It takes writes.
    Primary,
    /// It follows and takes reads.
    Standby,
}

/// `GET /pulse`: the member at a glance, as its keeper last saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    pub part: Part,
    /// The newest term the keeper knows.
    pub term: u64,
    /// The server's first process; 0 while none runs.
    pub pid: u32,
    /// The timeline of the data.
    pub timeline: u32,
    /// Where its log ends: written (primary) or received (standby), bytes since the beginning.
    pub wal: u64,
    /// How far a standby has replayed.
    pub replayed: u64,
    /// Milliseconds since the server last answered the keeper.
    pub age_ms: u64,
    /// A standby: the log streams in.
    pub streaming: bool,
    /// A primary: promotion is over and done, others may be made from it.
    pub settled: bool,
    /// A primary: who follows it.
    #[serde(default)]
    pub followers: Vec<Follower>,
    /// A primary: no write is acknowledged that not all of these have on their disks.
    #[serde(default)]
    pub synchronous_with: Vec<String>,
    /// What it is about, or why it serves nobody.
    #[serde(default)]
    pub doing: String,
}

/// A member that follows, as the primary sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    pub name: String,
    /// `streaming`, `catchup`, ...
    pub state: String,
    /// Bytes of log it has not on its disk yet.
    pub behind_bytes: u64,
    /// Milliseconds from a write to its replay there, as last measured.
    pub behind_ms: u64,
}

/// The durable record beside a primary's data, written by its keeper: with whom every acknowledged write is safe. Read after
/// the primary's death to know whether a standby has all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafeWith {
    pub version: u32,
    pub term: u64,
    pub members: Vec<String>,
}

/// The name of the [`SafeWith`] file in the folder that [`MemberConfig::record`] names.
pub const SAFE_WITH: &str = "safe-with.json";

/// The name of the [`Lead`] file in a member's folder.
pub const LEAD: &str = "lead.json";

/// The member at a glance.
///
/// # Errors
/// As every call: see [`WireError`]. 404 when the database has one member only.
pub async fn pulse(control: &Client) -> Result<Pulse, WireError> {
    control.get("/pulse").await
}

/// Has the keeper read the lead file now. May be repeated.
///
/// # Errors
/// As every call: see [`WireError`].
pub async fn read_lead(control: &Client) -> Result<(), WireError> {
    control.post("/lead", &serde_json::json!({})).await
}
