//! A graph store of several members and one that watches them: what each keeper is told, and what it tells.
//!
//! The members choose among themselves who leads, by votes of most of them; the supervisor only places them. Secret:
//! `graph-root`, from which the passwords of users and of replication derive.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Secret, WireError, client::Client};

/// The listener of the Bolt protocol.
pub const BOLT: &str = "bolt";

/// What the keeper of one member, or the monitor, is started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphConfig {
    /// The engine's `bin`, with `redis-server` and `falkordb.so`. None: this is the monitor.
    pub bin: Option<PathBuf>,
    /// This workload, such as `graph.main+2`.
    pub name: String,
    /// Every member, this one too.
    pub members: Vec<GraphMember>,
    pub users: Vec<GraphUser>,
    /// The name of the graph, which clients know as the database.
    pub database: String,
    /// Where the engine's socket lies: a short path.
    pub socket_dir: PathBuf,
    /// Names in the certificates of those that may speak to a member as its like: members and monitor.
    pub peers: Vec<String>,
}

/// One member, for the others and for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphMember {
    /// Its workload.
    pub name: String,
    /// The name in its certificate.
    pub server_name: String,
    /// What clients are told to connect to: a name, or an address where there are no names.
    pub host: String,
    pub zone: String,
    pub address: IpAddr,
    pub peer_port: u16,
    pub bolt_port: u16,
}

/// Who may use the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphUser {
    /// The workload, such as `service.api`; also the name to sign in with.
    pub name: String,
    pub right: GraphRight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphRight {
    Read,
    Write,
}

/// The password of a user, by the store's root key.
pub fn password(root: &Secret, user: &str) -> Secret {
    root.derive(&format!("user:{user}"))
}

/// What a member is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphPart {
    /// Its engine does not answer.
    #[default]
    None,
    /// It takes writes, while most members answer it.
    Leader,
    /// It follows the leader and takes reads.
    Follower,
    /// It knows of no leader; it takes reads.
    Alone,
}

/// `GET /pulse`: a member at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphPulse {
    pub part: GraphPart,
    pub term: u64,
    /// The workload that leads, as this member knows it.
    pub leader: Option<String>,
    /// Writes since the beginning.
    pub position: u64,
    /// A leader: most members answer it, so that it takes writes. A follower: the leader's changes stream in.
    pub joined: bool,
    /// Why it serves nobody or is not joined.
    #[serde(default)]
    pub doing: String,
}

/// How the monitor sees one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenMember {
    pub name: String,
    pub zone: String,
    /// It answers, its engine serves, and it leads or follows.
    pub functions: bool,
    pub pulse: GraphPulse,
    /// Writes it lacks.
    pub behind: u64,
    /// What is wrong, in words.
    #[serde(default)]
    pub trouble: String,
}

/// The cluster as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphState {
    /// All members function and one leads.
    Healthy,
    /// One leads with most members behind it, and at least one does not function.
    Degraded,
    /// Nobody leads: reads only, or nothing.
    #[default]
    Lost,
}

/// `GET /cluster` of the monitor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphHealth {
    pub state: GraphState,
    pub leader: Option<String>,
    pub members: Vec<SeenMember>,
}

/// A member at a glance.
///
/// # Errors
/// As every call: see [`WireError`].
pub async fn pulse(control: &Client) -> Result<GraphPulse, WireError> {
    control.get("/pulse").await
}

/// The cluster, as its monitor sees it.
///
/// # Errors
/// As every call: see [`WireError`].
pub async fn cluster(control: &Client) -> Result<GraphHealth, WireError> {
    control.get("/cluster").await
}
