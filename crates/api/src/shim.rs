//! What a shim is started with, and its control socket: one JSON line asks, one JSON line answers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// In a setting, this text stands for the workload's ingestion key; the shim fills it in, so that no file holds the key.
pub const INGEST_KEY_PLACE: &str = "{stamp:ingest-key}";

/// The file of `stamp serve shim --config FILE`. No secret in it; the secrets come through the pipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShimConfig {
    pub version: u32,
    pub system: String,
    pub stamp: String,
    pub resource: String,
    /// Absolute program and its arguments.
    pub run: Vec<String>,
    pub directory: PathBuf,
    /// The whole environment of the workload but what the shim adds; values may be vault references.
    pub env: BTreeMap<String, String>,
    /// Names of handed secrets that the workload itself gets (roles); for services none.
    #[serde(default)]
    pub pass_secrets: Vec<String>,
    /// Keys that the workload gets in its environment, by setting: whose they are, not the keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub link_keys: BTreeMap<String, LinkKey>,
    /// Where `current.log` and its rotated parts are.
    pub log_dir: PathBuf,
    #[serde(default = "log_bytes")]
    pub log_bytes: u64,
    #[serde(default = "log_files")]
    pub log_files: u32,
    /// Exits with success and stays so (a migration); otherwise restarted whenever it ends.
    #[serde(default)]
    pub once: bool,
    /// A command of a person: standard streams are inherited, its exit code is the shim's, nothing is logged.
    #[serde(default)]
    pub foreground: bool,
    /// Processes that outlive the workload's first process are left alone (a database under its keeper).
    #[serde(default)]
    pub keep_orphans: bool,
    pub stop_signal: StopSignal,
    pub stop_grace_ms: u64,
    /// The App Service identity endpoint for this workload; None: no identity.
    #[serde(default)]
    pub identity: Option<IdentityEndpoint>,
    /// Where log lines are shipped (`https://HOST:PORT`, OTLP); None: only the files.
    #[serde(default)]
    pub telemetry: Option<String>,
    pub ca: PathBuf,
    #[serde(default)]
    pub hosts: BTreeMap<String, IpAddr>,
    /// A reference that cannot be resolved starts the workload with the literal text, as App Service does.
    #[serde(default)]
    pub unresolved_as_text: bool,
    /// TLS is ended in front of the workload; None: it is reached as it listens.
    #[serde(default)]
    pub front: Option<Front>,
    /// The workload ends TLS itself, with the certificate that comes with the secrets, from these files.
    #[serde(default)]
    pub certificate: Option<CertificateFiles>,
}

/// Where a workload reads its certificate chain and its key; for its user alone, and renewed in place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The key of a link between two stamps, by which the called service knows who calls. Derived from the called stamp's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkKey {
    /// The called stamp.
    pub stamp: String,
    /// Digest of its certificate authority: a stamp that was made anew has other keys.
    pub authority: String,
    /// What the key is derived for.
    pub label: String,
}

/// The listener of the shim for those who call over the border of the stamp; they show no certificate.
pub const BORDER: &str = "border";

/// The listener of the shim at which TLS ends; its certificate comes with the secrets.
pub const FRONT: &str = "front";

/// What goes on in front of a workload that speaks plainly: at the workload's address the shim ends TLS, and hands on to
/// where the workload listens, on the loopback of the same network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Front {
    pub to: SocketAddr,
    /// Whose certificates are taken, by a name in them; empty: clients show none.
    #[serde(default)]
    pub clients: Vec<String>,
}

fn log_bytes() -> u64 {
    10 * 1024 * 1024
}

fn log_files() -> u32 {
    5
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum StopSignal {
    #[default]
    #[serde(rename = "TERM")]
    Term,
    /// PostgreSQL's fast shutdown.
    #[serde(rename = "INT")]
    Int,
    #[serde(rename = "QUIT")]
    Quit,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentityEndpoint {
    /// `https://HOST:PORT` of the identity role.
    pub identity: String,
    /// The address the endpoint listens on; the port is the kernel's choice.
    pub listen: IpAddr,
    /// The workload shares its user with others: the caller's process is looked up, not only its user.
    #[serde(default)]
    pub shared_user: bool,
    /// Vault name in references -> its base URL (`VaultName=main`, `SecretUri=https://...`).
    pub vaults: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    Status,
    /// Ends the workload with its stop signal, kills it after the grace, then ends the shim.
    Stop,
    /// Ends the workload and starts it anew, references resolved again.
    Restart,
    /// Sends SIGHUP to the workload.
    Reload,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShimStatus {
    pub state: WorkloadState,
    pub shim_pid: u32,
    /// The workload's process, if it runs.
    pub pid: Option<u32>,
    /// Clock ticks since boot at which it started (`/proc/PID/stat` field 22): with the pid, its identity.
    pub start_ticks: Option<u64>,
    pub restarts: u32,
    pub last_exit: Option<Exit>,
    /// Why it does not run, in words, such as a reference that was refused.
    pub trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    #[default]
    Starting,
    Running,
    BackOff,
    Done,
    Failed,
    Stopped,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// The last lines of its log.
    pub tail: Vec<String>,
}
