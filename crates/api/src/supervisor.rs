//! The supervisor's socket: HTTP/1.1 over a unix socket that only its own user may use. Long work answers with events, one
//! JSON object a line.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::backup::{Backups, RestoreStatus, Target};

/// `POST /up`: brings a stamp up, or joins the work that is already doing so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpRequest {
    /// The folder of `system.toml`; programs and files are looked up from it.
    pub folder: PathBuf,
    /// The manifest's text, as the caller read it.
    pub manifest: String,
    pub stamp: String,
    /// Folders in which programs of the system are looked up first.
    pub programs: Vec<PathBuf>,
    /// Milliseconds by which the clock of the stamp's roles is moved. Taken in a scratch home only; a person's clock is
    /// never moved.
    #[serde(default)]
    pub clock_offset_ms: i64,
    /// Seconds that certificates live instead of their usual time; in a scratch home only, 0 is the usual time.
    #[serde(default)]
    pub certificate_seconds: u64,
}

/// `POST /down`, `POST /destroy`, and everything else that names a stamp.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StampRef {
    pub system: String,
    pub stamp: String,
}

/// One line of the answer of long work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The steps that follow, in order.
    Plan {
        steps: Vec<PlannedStep>,
    },
    Step {
        id: String,
        state: StepState,
        milliseconds: u64,
        #[serde(default)]
        note: String,
    },
    /// The end, good.
    Ready(Box<Ready>),
    Stopped {
        milliseconds: u64,
    },
    Destroyed {
        milliseconds: u64,
    },
    /// Another member leads a database.
    Led(Led),
    /// The end of a restore or a swap, good.
    Restored(Box<Restored>),
    /// The end, bad.
    Failed(Failure),
}

/// A change of who leads a database, done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Led {
    pub resource: String,
    /// The workload that leads now.
    pub primary: String,
    /// The one that led before.
    pub before: String,
    pub term: u64,
    /// How long no member took writes, as the supervisor saw it; None when it was restarted meanwhile.
    pub outage_ms: Option<u64>,
    pub milliseconds: u64,
}

/// `POST /failover`, `POST /switchover`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeadRequest {
    pub system: String,
    pub stamp: String,
    /// `postgres.main` or `main`; None: the only database that has a standby.
    #[serde(default)]
    pub resource: Option<String>,
    /// The standby may lack acknowledged writes.
    #[serde(default)]
    pub accept_loss: bool,
}

/// How a member of a database stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemberStatus {
    /// `primary`, `standby`, `replica` (only reads), or `none` (no server answers).
    pub part: String,
    pub zone: String,
    pub term: u64,
    pub timeline: u32,
    /// What it has not on its disk of the primary's log. None: not known.
    pub lag_bytes: Option<u64>,
    pub lag_ms: Option<u64>,
    /// Every acknowledged write is on its disk.
    pub synchronous: bool,
    pub doing: String,
}

impl Event {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        match self {
            Self::Plan { .. } | Self::Step { .. } => false,
            Self::Ready(_)
            | Self::Stopped { .. }
            | Self::Destroyed { .. }
            | Self::Restored(_)
            | Self::Led(_)
            | Self::Failed(_) => true,
        }
    }
}

/// A database that was restored, swapped or removed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Restored {
    /// The database it came from, such as `postgres.main`.
    pub origin: String,
    /// The restored one, such as `postgres.main-restored`.
    pub name: String,
    /// `beside`, `verified`, `swapped`, `discarded` or `forgotten`; of one database alone with `database-` before it.
    pub state: String,
    pub milliseconds: u64,
    /// Where it answers, `ADDRESS:PORT`; roles and passwords are the origin's.
    pub address: String,
    /// The folder of its unix socket, for the administrator.
    #[serde(default)]
    pub socket: PathBuf,
    /// How the replay went.
    pub restore: Option<RestoreStatus>,
    /// Where the data lies that was there before.
    pub kept: Option<PathBuf>,
    pub notes: Vec<String>,
}

/// `POST /backup`: takes a base backup now, or names this moment. Answered by [`crate::backup::BackupAnswer`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupOf {
    pub system: String,
    pub stamp: String,
    /// `main` or `postgres.main`; None: the only one.
    pub resource: Option<String>,
    pub point: Option<String>,
}

/// `POST /restore`: makes a database of its own from backups, beside the one there is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreRequest {
    pub system: String,
    pub stamp: String,
    pub resource: Option<String>,
    pub target: Target,
    /// Its name; `NAME-restored` if not given.
    pub name: Option<String>,
    /// It is read whole and removed again.
    #[serde(default)]
    pub verify: bool,
    /// This database of it alone, into the server there is.
    #[serde(default)]
    pub database: Option<String>,
}

/// `POST /restore-from`: brings up a stamp that is not there from a copy of another one's backups.
#[derive(Deserialize)]
pub struct FromCopy {
    #[serde(flatten)]
    pub up: UpRequest,
    /// The copy: a folder with a folder for each database, such as `regions/REGION/SYSTEM.STAMP`.
    pub from: PathBuf,
    pub recovery_key: crate::Secret,
}

/// The answer to `POST /recovery-key`: the key, while nobody was shown it.
#[derive(Deserialize)]
pub struct RecoveryKey {
    pub recovery_key: Option<crate::Secret>,
}

/// `POST /swap`: what becomes of a restored database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwapRequest {
    pub system: String,
    pub stamp: String,
    pub resource: Option<String>,
    pub act: SwapAct,
    /// One database of it, which was restored alone.
    #[serde(default)]
    pub database: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SwapAct {
    /// It takes its origin's place; the old data is kept.
    Swap,
    /// It is removed.
    Discard,
    /// The data that a swap kept is removed.
    Forget,
}

/// `GET /backups`: of one database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupList {
    pub resource: String,
    #[serde(flatten)]
    pub backups: Backups,
    /// Databases restored from it that stand beside it.
    pub restored: Vec<String>,
    /// Data that swaps have kept.
    pub kept: Vec<PathBuf>,
    /// What came of the last restore that the stamp made by itself to see that it can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// A restore that was made to be looked at, and removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verified {
    /// By the stamp's clock.
    pub at_ms: i64,
    /// None: there was none yet, and the time is when the stamp was first seen.
    pub ok: Option<bool>,
    /// What was read, or why it failed.
    pub words: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedStep {
    pub id: String,
    pub needs: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Running,
    /// Still running; the note says what is awaited.
    Waiting,
    Done,
    Failed,
}

/// A stamp that serves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ready {
    pub system: String,
    pub stamp: String,
    pub title: String,
    pub seconds: f64,
    /// By resource: `edge`, `identity.main`, ...
    pub urls: BTreeMap<String, String>,
    pub ca: PathBuf,
    /// The first administrator's one-time link, while it has not been used.
    pub admin_link: Option<String>,
    /// Isolation that was asked for and this machine does not give.
    pub missing: Vec<String>,
    /// Other things worth knowing, such as the engine's version.
    pub notes: Vec<String>,
}

/// Why work failed: everything that the edge prints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub causes: Vec<String>,
    /// Lines to show, such as the last of a log.
    pub lines: Vec<String>,
    pub hint: Option<String>,
    /// 1: the world failed, 2: asked wrongly, 3: our fault.
    pub exit: u8,
}

/// `GET /status?system=S&stamp=N`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    pub system: String,
    pub stamp: String,
    /// `ready`, `starting`, `degraded`, `stopping`, `stopped`.
    pub state: String,
    pub urls: BTreeMap<String, String>,
    pub ca: PathBuf,
    pub resources: Vec<ResourceStatus>,
    /// Of a system that declares resource groups: the workloads of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Vec<String>>,
    /// Of a system that declares a network: its space and that it is closed, or what was refused. Empty: none is declared.
    #[serde(default)]
    pub network: String,
    pub supervisor_pid: u32,
    /// PSS of the supervisor itself, bytes.
    pub supervisor_pss_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// The workload, such as `service.web` or `service.web+2`.
    pub name: String,
    /// `ready`, `starting`, `restarting`, `stopped`; of a job `scheduled`, `running`, or `failed` if its last run did.
    pub state: String,
    /// Shim first, then the workload, then what it started.
    pub pids: Vec<u32>,
    pub address: String,
    pub pss_bytes: u64,
    pub restarts: u32,
    /// Why it does not run, or how it last ended.
    #[serde(default)]
    pub note: String,
    /// Of a member of a database with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberStatus>,
    /// Its place in the stamp's closed network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The disk of its own, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageStatus>,
}

/// A disk of a declared size. All in bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StorageStatus {
    /// Its size: a write beyond is refused.
    pub bytes: u64,
    pub used_bytes: u64,
    /// What a write finds: less than the difference where the machine's own disk has less.
    pub free_bytes: u64,
    /// It grows by itself when it is nearly full.
    pub grows: bool,
    /// The largest it can grow to.
    pub most_bytes: u64,
    /// What is free on the machine's disk that it lies on.
    pub disk_free_bytes: u64,
}

/// A workload's place in a closed network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    pub subnet: String,
    pub address: std::net::Ipv4Addr,
    /// The file that keeps its network namespace.
    pub namespace: PathBuf,
}

/// `GET /network?system=S&stamp=N`: a stamp's closed network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The address space, such as `10.0.0.0/16`.
    pub space: String,
    /// Subnets by name.
    pub subnets: BTreeMap<String, String>,
    /// By workload.
    pub places: BTreeMap<String, Place>,
    /// What may pass.
    pub flows: Vec<NetworkFlow>,
    /// What was tried and is not declared; `count` says how often.
    pub refused: Vec<NetworkFlow>,
    /// Links that are spoilt on purpose.
    pub links: Vec<LinkState>,
}

/// Connections from one workload to a TCP port of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkFlow {
    pub from: String,
    pub to: String,
    pub port: u16,
    /// What declares it, such as `needs`; empty: nothing does.
    #[serde(default)]
    pub why: String,
    /// Connections since the network was made.
    pub count: u64,
    /// Declared for a time that is not now (a migration's way to its database), or not declared at all.
    #[serde(default)]
    pub closed: bool,
}

/// A link between two resources (or workloads) that is spoilt on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    pub one: String,
    pub other: String,
    /// Of a hundred packets so many are lost; 100: the link is cut.
    pub loses: u32,
    /// So many KiB a second pass each way; 0: as many as this machine can.
    #[serde(default)]
    pub kib_s: u32,
    /// Packets that ended at the cut.
    #[serde(default)]
    pub dropped: u64,
}

/// `POST /network`: spoils a link (`loses` of a hundred; 100 cuts it; or `kib_s`: so many KiB a second pass) or heals it (both 0);
/// answered by [`NetworkStatus`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkRequest {
    pub system: String,
    pub stamp: String,
    pub one: String,
    pub other: String,
    #[serde(default)]
    pub loses: u32,
    #[serde(default)]
    pub kib_s: u32,
}

/// One line of `GET /stamps`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StampLine {
    pub system: String,
    pub stamp: String,
    pub wanted: String,
    pub folder: PathBuf,
}

/// `POST /exec`: what is needed to run a command as a service runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    pub system: String,
    pub stamp: String,
    /// `web` or `service.web`.
    pub service: String,
    pub command: Vec<String>,
    pub directory: PathBuf,
}

/// The answer: place this in the foreground. It holds keys; it goes over the socket only.
#[derive(Deserialize)]
pub struct ExecAnswer {
    pub mark: String,
    pub program: PathBuf,
    pub config: PathBuf,
    pub user: Option<u32>,
    /// The file that keeps the network it runs in; None: the machine's.
    #[serde(default)]
    pub network: Option<PathBuf>,
    pub hosts_file: PathBuf,
    pub secrets: crate::Secret,
    pub directory: PathBuf,
    /// What the service sees of shares.
    #[serde(default)]
    pub shares: Vec<ShareMount>,
}

/// A share as a workload sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShareMount {
    pub folder: PathBuf,
    pub at: PathBuf,
    pub write: bool,
    pub group: Option<u32>,
}

/// `POST /secret`: sets a secret in a vault, as the operator.
#[derive(Deserialize)]
pub struct SecretRequest {
    pub system: String,
    pub stamp: String,
    /// `main` or `vault.main`; None: the only one.
    pub vault: Option<String>,
    pub name: String,
    pub value: crate::Secret,
}

/// `POST /secret/show`: a secret of a vault, as the operator reads it; answered by `{"value"}`, over the socket only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretRef {
    pub system: String,
    pub stamp: String,
    /// `main` or `vault.main`; None: the only one.
    pub vault: Option<String>,
    pub name: String,
}

/// The answer of `POST /secret/show`.
#[derive(Deserialize)]
pub struct SecretValue {
    pub value: crate::Secret,
}

/// `POST /build`: builds an image of a service and pushes it into the stamp's registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuildRequest {
    pub system: String,
    pub stamp: String,
    /// `web` or `service.web`.
    pub service: String,
    /// A version such as `v1.0.0`: the build is released under it.
    #[serde(default)]
    pub release: Option<String>,
}

/// An image that was built and pushed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Built {
    pub registry: String,
    pub repository: String,
    pub digest: String,
    pub tags: Vec<String>,
    /// Of its layer.
    pub bytes: u64,
    /// When it was built, Unix milliseconds.
    pub at_ms: i64,
}

/// `POST /secret/rotate`: another value for a secret that the stamp has made itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RotateRequest {
    pub system: String,
    pub stamp: String,
    /// `main` or `vault.main`; None: the only one.
    #[serde(default)]
    pub vault: Option<String>,
    pub name: String,
}

/// What was rotated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rotated {
    pub vault: String,
    pub name: String,
    /// Workloads that held the old value and were started anew.
    pub restarted: Vec<String>,
}

/// `POST /token`: a token of a workload, as its shim would get one; answered by [`crate::identity::WorkloadToken`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    pub system: String,
    pub stamp: String,
    /// `service.web`, or `supervisor`.
    pub workload: String,
    /// The `aud`, such as `https://vault.azure.net`.
    pub resource: String,
}

/// `POST /user`: invites a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserRequest {
    pub system: String,
    pub stamp: String,
    pub email: String,
    pub name: String,
    pub groups: Vec<String>,
}

/// `POST /user/groups`: puts a person in exactly these groups, which count from their next sign-in or token on; answered by
/// [`crate::identity::User`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupsRequest {
    pub system: String,
    pub stamp: String,
    pub email: String,
    pub groups: Vec<String>,
}

/// `GET /version`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    /// SHA-256 of the binary that runs, hex.
    pub digest: String,
    pub pid: u32,
}
