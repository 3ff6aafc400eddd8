//! Stores: databases, caches, objects, shares, graphs.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Principal, ResourceId},
    unit::Bytes,
};

/// A PostgreSQL of this stamp's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Postgres {
    pub version: VersionWish,
    pub subnet: Option<String>,
    pub size: Option<String>,
    pub port: u16,
    /// At least one.
    pub databases: Vec<String>,
    pub access: Vec<DatabaseAccess>,
    pub backup: Backup,
    pub high_availability: HighAvailability,
    /// How the standby of `high_availability` follows.
    pub standby: Standby,
    /// Further copies that only read and never take over.
    pub read_replicas: u32,
    pub storage: Storage,
    /// Connections that are taken at once (`max_connections`).
    pub connections: u32,
    /// Further settings by PostgreSQL's own names.
    pub settings: BTreeMap<String, String>,
}

impl Postgres {
    /// How many servers hold its data: the first, a standby if it is highly available, and what only reads.
    pub fn members(&self) -> u32 {
        1 + u32::from(self.has_standby()) + self.read_replicas
    }

    /// Whether anybody signs in by identity.
    pub fn takes_identities(&self) -> bool {
        self.access.iter().any(|access| access.sign_in == SignIn::Identity)
    }

    pub fn has_standby(&self) -> bool {
        self.high_availability != HighAvailability::None
    }

    /// Whether member number `n` (from 1) only reads: it never takes over.
    pub fn only_reads(&self, n: u32) -> bool {
        n > 1 + u32::from(self.has_standby())
    }

    /// The zone label of member number `n` (from 1). On one machine a zone is a label and what is broken together.
    pub fn zone(&self, n: u32) -> String {
        match self.high_availability {
            HighAvailability::SameZone => "1".into(),
            HighAvailability::None | HighAvailability::ZoneRedundant => n.to_string(),
        }
    }
}

/// How a standby follows its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// A write is acknowledged once the standby has it on its disk.
    pub synchronous: bool,
    pub when_lost: WhenLost,
    /// So long silent is lost.
    pub lost_after: Duration,
}

impl Default for Standby {
    fn default() -> Self {
        Self { synchronous: true, when_lost: WhenLost::GoOn, lost_after: Duration::from_secs(10) }
    }
}

/// What writes do once a synchronous standby is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenLost {
    /// They go on without it, and no failover is automatic until it is back.
    #[default]
    GoOn,
    /// They wait until it is back.
    Wait,
}

/// The major version to run, and those that do as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionWish {
    pub want: u32,
    /// In order of preference, without `want`.
    pub accept: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseAccess {
    pub to: Principal,
    pub right: DatabaseRight,
    pub database: String,
    #[serde(default, skip_serializing_if = "SignIn::is_password")]
    pub sign_in: SignIn,
}

/// How a workload proves to a database who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignIn {
    /// By the password in its connection string.
    #[default]
    Password,
    /// By a token of its identity, given as the password; its role has none.
    Identity,
}

impl SignIn {
    fn is_password(&self) -> bool {
        *self == Self::Password
    }
}

/// What a database role may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseRight {
    ReadOnly,
    /// SELECT, INSERT, UPDATE, DELETE; no DDL.
    ReadWrite,
    /// Owns the schema: DDL. For the migration step.
    Owner,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub retention: Duration,
    /// The log is archived continuously, so that any moment can be gone back to.
    pub point_in_time: bool,
    /// A copy under another region's label.
    pub geo: bool,
    /// A full backup this often.
    pub every: Duration,
    /// What has changed since the full one, this often.
    pub differential: Option<Duration>,
    /// The log is archived at least this often.
    pub increments: Duration,
    /// Where further copies go, such as a share.
    pub to: Option<ResourceId>,
    /// Nobody can delete a copy before `retention` is over.
    pub immutable: bool,
}

impl Default for Backup {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            retention: 7 * day,
            point_in_time: true,
            geo: false,
            every: day,
            differential: None,
            increments: Duration::from_secs(60),
            to: None,
            immutable: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HighAvailability {
    #[default]
    None,
    SameZone,
    ZoneRedundant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// None: as much as the disk gives.
    pub size: Option<Bytes>,
    pub grow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redis {
    pub subnet: Option<String>,
    pub size: Option<String>,
    pub port: u16,
    /// The most that its data may take.
    pub memory: Bytes,
    /// A write is on disk before it is answered; otherwise within a second.
    #[serde(default)]
    pub sync_always: bool,
    /// At the most memory, what was used longest ago gives way; otherwise writes are refused.
    #[serde(default)]
    pub evicts: bool,
    /// Replicas and the most there may be.
    pub min: u32,
    pub max: u32,
    /// Who may use it.
    pub access: Vec<Principal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub subnet: Option<String>,
    /// The account name in the cloud, that real clients may ask for.
    pub cloud_name: Option<String>,
    pub containers: BTreeMap<String, Container>,
    pub redundancy: Redundancy,
    /// How long a deleted object can be brought back; zero is not at all.
    pub soft_delete: Duration,
    pub versioning: bool,
    pub snapshot_every: Option<Duration>,
    pub access: Vec<BlobAccess>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// What somebody without credentials may read.
    #[serde(default)]
    pub public: PublicRead,
    /// After this an object moves to the cool tier.
    pub cool_after: Option<Duration>,
    pub archive_after: Option<Duration>,
    pub delete_after: Option<Duration>,
    /// Nobody can change or delete an object before this.
    pub immutable: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PublicRead {
    #[default]
    None,
    /// A blob whose name is known.
    Blob,
    /// The list of them, too.
    Container,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Redundancy {
    #[default]
    Local,
    Zone,
    Geo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobAccess {
    pub to: Principal,
    /// Azure's own name: `Storage Blob Data Reader`, `... Contributor`, `... Owner`.
    pub role: String,
    /// None is all containers.
    pub container: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub subnet: Option<String>,
    pub quota: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    pub subnet: Option<String>,
    pub size: Option<String>,
    pub port: u16,
    pub members: u32,
    /// The zones the members are spread over.
    pub zones: Vec<String>,
    /// One more machine that only watches.
    pub monitor: bool,
    pub access: Vec<GraphAccess>,
}

impl Graph {
    /// The zone label of member number `n` (from 1); without declared zones each is in one of its own.
    pub fn zone(&self, n: u32) -> String {
        let index = n as usize - 1;
        match self.zones.len() {
            0 => n.to_string(),
            zones => self.zones[index % zones].clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphAccess {
    pub to: Principal,
    pub right: GraphRight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphRight {
    Read,
    Write,
}
