//! What can go wrong, with its code, its mend, and whether to try again.

use api::supervisor::Failure;

/// Why the supervisor could not do what was asked. Codes are explained in `docs/errors`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the manifest has faults")]
    Manifest(String),
    #[error("{0} is declared, and this version cannot run it yet")]
    NotBuilt(String),
    #[error("there is no stamp `{stamp}` of `{system}` here")]
    NoStamp { system: String, stamp: String },
    #[error("could not {what} {path}")]
    File {
        what: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not use the journal")]
    Journal(#[source] rusqlite::Error),
    #[error("the journal is of version {found}; this binary reads up to {known}")]
    JournalVersion { found: i64, known: i64 },
    #[error("could not make a certificate for {name}")]
    Certificate {
        name: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("could not place {workload}")]
    Place {
        workload: String,
        #[source]
        source: drivers::Error,
    },
    #[error("{workload} did not become ready within {} s; awaited: {awaited}", within.as_secs_f64())]
    NotReady {
        /// `SYSTEM/STAMP`.
        of: String,
        workload: String,
        within: std::time::Duration,
        awaited: String,
        tail: Vec<String>,
    },
    #[error("{workload} keeps ending: {how}")]
    KeepsEnding { workload: String, how: String, tail: Vec<String> },
    #[error("the migration of {service} failed with {how}")]
    /// `after`: the new version serves already.
    Migration { service: String, how: String, tail: Vec<String>, after: bool },
    #[error("the program `{program}` of {workload} was not found")]
    NoProgram { workload: String, program: String, looked: Vec<String> },
    #[error("no PostgreSQL engine of version {want} (or {accept}) is there for {workload}")]
    NoEngine { workload: String, want: u32, accept: String, looked: Vec<String> },
    #[error("no Redis is there for {workload}")]
    NoRedis { workload: String, looked: String },
    #[error("no graph engine is there for {workload}")]
    NoGraphEngine { workload: String, looked: String },
    #[error("{resource} refused to {what}")]
    Role {
        resource: String,
        what: String,
        #[source]
        source: Box<api::WireError>,
    },
    #[error("the secret {name} of {vault} has no value yet")]
    SecretMissing { vault: String, name: String, system: String, stamp: String },
    #[error("{resource} of {of} has a disk of {before}, and cannot get one of {now}")]
    Smaller { of: String, resource: String, now: String, before: String },
    #[error("the data of {workload} lies in a volume, and this machine mounts none: {refused}")]
    NoVolume { workload: String, refused: String },
    #[error("could not close the stamp's network")]
    Network(#[source] drivers::Error),
    #[error("no free address block is left in 127.64.0.0/10 and beyond")]
    NoAddresses,
    #[error("{0} was asked to stop before it was done")]
    Interrupted(String),
    #[error("{system}/{stamp} is half removed, and the rest could not be removed: {why}")]
    HalfRemoved { system: String, stamp: String, why: String },
    #[error("{name} could not be restored: {why}")]
    Restore { name: String, why: String },
    #[error("{what}")]
    Failover { what: String, hint: String },
    #[error("{what}")]
    Asked { what: String, hint: Option<String> },
    #[error("the supervisor is at fault: {0}")]
    Fault(String),
}

impl Error {
    /// The code under which `stamp explain` tells more.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "S0100",
            Self::NotBuilt(_) => "S0201",
            Self::NoStamp { .. } => "S0202",
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => "S0204",
            Self::File { .. } => "S0203",
            Self::Journal(_) | Self::JournalVersion { .. } => "S0205",
            Self::Certificate { .. } => "S0206",
            Self::Place { source: drivers::Error::Listen { .. }, .. } => "S0207",
            Self::Place { .. } => "S0208",
            Self::NotReady { .. } => "S0209",
            Self::KeepsEnding { .. } => "S0210",
            Self::Migration { .. } => "S0211",
            Self::NoProgram { .. } => "S0212",
            Self::NoEngine { .. } | Self::NoRedis { .. } | Self::NoGraphEngine { .. } => "S0213",
            Self::Role { .. } => "S0214",
            Self::SecretMissing { .. } => "S0215",
            Self::NoAddresses => "S0216",
            Self::Interrupted(_) => "S0217",
            Self::Asked { .. } => "S0218",
            Self::HalfRemoved { .. } => "S0219",
            Self::Failover { .. } => "S0250",
            Self::Network(_) => "S0220",
            Self::Smaller { .. } => "S0221",
            Self::NoVolume { .. } => "S0222",
            Self::Restore { .. } => "S0230",
            Self::Fault(_) => "S0299",
        }
    }

    fn exit(&self) -> u8 {
        match self {
            Self::Manifest(_)
            | Self::NotBuilt(_)
            | Self::NoStamp { .. }
            | Self::NoProgram { .. }
            | Self::Smaller { .. }
            | Self::Asked { .. } => 2,
            Self::Fault(_) | Self::JournalVersion { .. } => 3,
            _ => 1,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoStamp { system, stamp } => {
                format!("bring it up with `stamp up systems/{system} --stamp {stamp}`, or see `stamp status`")
            }
            Self::NoProgram { looked, .. } => {
                format!("build it (`cargo build --workspace`), or put it in one of: {}", looked.join(", "))
            }
            Self::NoEngine { looked, .. } => format!("`./stampw up` brings engines; looked in: {}", looked.join(", ")),
            Self::NoRedis { looked, .. } => {
                format!("`engines/bring redis {looked}` brings one, and so does `./stampw up`")
            }
            Self::NoGraphEngine { looked, .. } => {
                format!(
                    "`./stampw up` brings it, or `engines/bring graph {looked}`; its licence is SSPL-1.0, see docs/decisions/0022-a-graph-store.md"
                )
            }
            Self::SecretMissing { vault, name, system, stamp } => {
                format!(
                    "set it: `stamp secret set systems/{system} --stamp {stamp} --vault {vault} {name}` (the value is read from standard input)"
                )
            }
            Self::Place { source: drivers::Error::Listen { .. }, .. } => {
                "end that process, or `stamp destroy` this stamp: a new one takes other addresses".into()
            }
            Self::NotReady { of, workload, .. } => {
                let (system, stamp) = of.split_once('/').unwrap_or((of, "dev"));
                let more = if workload.starts_with("service.") {
                    let service = workload.split('+').next().unwrap_or(workload);
                    format!("; if it needs longer, `start_within` of [{service}] in system.toml")
                } else {
                    String::new()
                };
                format!(
                    "it is left running: `stamp logs {system} {workload} --stamp {stamp}` and `stamp status {system} --stamp {stamp}` tell what it does{more}"
                )
            }
            Self::KeepsEnding { workload, .. } => {
                format!("look at `stamp logs` of {workload}")
            }
            Self::Migration { after: false, .. } => {
                "nothing was switched over; mend the migration and run `stamp up` again".into()
            }
            Self::Migration { after: true, .. } => {
                "the new version serves already, on the schema of before; mend the migration and run `stamp up` again"
                    .into()
            }
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "make room on the disk; `stamp down` works on a full disk".into()
            }
            Self::Restore { .. } => {
                "nothing was changed; `stamp backups` shows what can be gone back to, and the log says more".into()
            }
            Self::HalfRemoved { system, stamp, .. } => {
                format!("mend that, then `stamp destroy {system} --stamp {stamp}`")
            }
            Self::Smaller { before, .. } => format!(
                "declare {before} or more; data that needs less room is brought into a new stamp by a dump (`pg_dump`)"
            ),
            Self::NoVolume { .. } => {
                "run it as root with CAP_SYS_ADMIN, as before; `stamp doctor` says what is lacking".into()
            }
            Self::Network(_) => "`stamp doctor` says what this machine allows".into(),
            Self::Interrupted(_) => "run the same command again".into(),
            Self::Failover { hint, .. } => hint.clone(),
            Self::Asked { hint: Some(hint), .. } => hint.clone(),
            _ => return None,
        })
    }

    /// Everything that a person is shown.
    pub fn failure(&self) -> Failure {
        let mut causes = Vec::new();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        let lines = match self {
            Self::NotReady { tail, .. } | Self::KeepsEnding { tail, .. } | Self::Migration { tail, .. } => tail.clone(),
            Self::Manifest(text) => text.lines().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Failure {
            code: self.code().into(),
            message: self.to_string(),
            causes,
            lines,
            hint: self.hint(),
            exit: self.exit(),
        }
    }

    /// A file operation that failed.
    pub fn file(what: &'static str, path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Self::Journal(source)
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
