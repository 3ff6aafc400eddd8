//! The only code that places workloads. A driver takes a [`Placement`] and makes it run with its own user, names and
//! limits; it knows nothing of plans, roles or health.
//!
//! Here: [`process::Process`] (local processes) and [`fake::Fake`] (for tests of the supervisor). Containers and
//! Kubernetes are later drivers behind the same trait.

pub mod cgroup;
pub mod disk;
pub mod fake;
pub mod network;
pub mod probe;
pub mod proc;
pub mod process;
pub mod share;
pub mod sockets;
pub mod tool;
pub mod volume;

use std::{net::SocketAddr, os::fd::OwnedFd, path::PathBuf, sync::Arc};

/// What is to run, completely: a driver decides nothing.
pub struct Placement {
    /// `HOMEHASH/SYSTEM/STAMP/RESOURCE`; in the environment of every process of the workload.
    pub mark: String,
    /// The program (the shim) and its arguments. No secret in them.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub directory: PathBuf,
    /// Own user and group; None: the user we are.
    pub user: Option<u32>,
    pub listeners: Vec<Listen>,
    /// Written into a pipe whose descriptor is named in `STAMP_SECRETS_FD`; never on disk or in argv.
    pub secrets: Vec<u8>,
    /// The file that keeps the network namespace it runs in; None: ours.
    pub network: Option<PathBuf>,
    /// Replaces `/etc/hosts` for this workload, where the machine allows it.
    pub hosts_file: Option<PathBuf>,
    pub limits: Limits,
    /// A disk of its own; seen by this workload only.
    pub volume: Option<volume::Volume>,
    /// Folders that it has with others.
    pub shares: Vec<share::Share>,
    /// Where the shim's own complaints go; None: our own standard streams (a command run in the foreground).
    pub log: Option<PathBuf>,
}

/// A listener that the workload inherits already open.
pub struct Listen {
    /// The name in `LISTEN_FDNAMES`.
    pub name: String,
    pub at: At,
}

/// Where a listener is opened.
pub enum At {
    /// In our own network.
    Tcp(SocketAddr),
    /// In the network of the placement, if it has one of its own.
    Inside(SocketAddr),
    /// A unix socket, owned by the workload's user, mode 0600.
    Unix(PathBuf),
    /// Opened before, by the caller.
    Open(OwnedFd),
}

/// Upper bounds of a workload; None: unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    pub pids: Option<u64>,
}

/// A process that is known by more than its number: numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_ticks: u64,
}

/// A placed workload.
pub struct Placed {
    pub id: ProcessId,
    /// Where the workload's isolation is less than asked for, and why.
    pub missing: Vec<String>,
    /// Present when the workload runs in the foreground.
    pub child: Option<std::process::Child>,
}

/// Why a workload could not be placed or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not listen on {address}{}", owner.as_ref().map(|o| format!(", which is in use by {o}")).unwrap_or_default())]
    Listen {
        address: String,
        owner: Option<String>,
        #[source]
        source: std::io::Error,
    },
    #[error("could not start {program}")]
    Spawn {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not set limits in {path}")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not {what} the network in {folder}")]
    Network {
        what: &'static str,
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not give {} a disk of its own", file.display())]
    Volume {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{mark} still has processes after {seconds} s: {pids:?}")]
    Survivors { mark: String, seconds: u64, pids: Vec<u32> },
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Whether the same placement may be tried again as it is.
    pub fn retry_is_safe(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// How workloads are placed.
pub trait Driver: Send + Sync {
    /// Starts a workload and returns once it has been started (not once it is ready).
    fn place(&self, placement: Placement) -> Result<Placed, Error>;

    /// The process with this number, if it runs.
    fn identify(&self, pid: u32) -> Option<ProcessId>;

    /// Whether this very process still runs.
    fn runs(&self, id: ProcessId) -> bool {
        self.identify(id.pid) == Some(id)
    }

    /// Every process of the workload, however far it has strayed from its shim.
    fn processes(&self, mark: &str, user: Option<u32>) -> Vec<u32>;

    /// Kills every process of the workload at once and waits until they are gone; removes its limits.
    fn kill(&self, mark: &str, user: Option<u32>) -> Result<(), Error>;

    /// Proportional set size of the workload's processes, bytes. None where it cannot be read.
    fn memory(&self, mark: &str, user: Option<u32>) -> Option<u64>;
}

/// The driver, shared.
pub type Shared = Arc<dyn Driver>;
