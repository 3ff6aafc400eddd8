//! Why the keeper, or something asked of it, failed.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL itself refuses this as well, but says less.
    #[error("PostgreSQL must not run as root; the keeper needs a user of its own")]
    Root,
    #[error("the keeper was started without {0}")]
    Missing(&'static str),
    #[error("{0}")]
    Config(String),
    #[error("could not {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("initdb in {bin} ended with {status}: {text}")]
    Initdb { bin: PathBuf, status: std::process::ExitStatus, text: String },
    #[error(
        "the engine in {bin} has no {tool}: `engines/bring postgresql` brings PostgreSQL's client tools, or install them beside its server"
    )]
    NoTool { tool: &'static str, bin: PathBuf },
    #[error("no user that may run initdb: root needs a `nobody` in /etc/passwd")]
    NoUser,
    /// Making the same request again is safe: all statements are.
    #[error("could not {what}")]
    Sql {
        what: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("{kind} name '{name}' is refused: 1 to 52 of a-z, 0-9, _ and -, a letter first, and no reserved name")]
    Name { kind: &'static str, name: String },
    #[error("there is no database '{0}'")]
    NoDatabase(String),
    #[error("a password must be 1 to 256 printable ASCII characters")]
    Password,
    #[error("the certificate and its key are of no use")]
    Certificate(#[source] service::tls::Error),
    #[error("role '{0}' owns objects of its own; drop or reassign them first")]
    OwnsObjects(String),
    #[error("the server is not ready: {0}")]
    NotReady(String),
    /// Whoever wrote it did not know of a newer word.
    #[error("term {told} is older than term {known}, which was heard before")]
    OldTerm { told: u64, known: u64 },
    /// A stored file that does not open; which one, so that it can be taken from a copy.
    #[error("the stored file {path} is broken")]
    Broken {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{name} is archived already with other content; two servers may not share an archive")]
    Differs { name: String },
    #[error("'{0}' is no name of a file that is archived")]
    NotArchived(String),
    #[error("{0} is not in the archive")]
    NoSegment(String),
    #[error("no backups are kept of this server")]
    NoBackups,
    #[error("the archive has a hole: {missing} is missing, and later files are there; the log leads to {to} only")]
    Hole { missing: String, to: String },
    #[error("{asked} cannot be gone back to; what can is {window}")]
    Outside { asked: String, window: String },
    #[error("a point is named '{0}' already")]
    PointTaken(String),
    #[error("'{0}' could never be gone back to: no base backup is complete yet; take one first, `stamp backup`")]
    PointTooEarly(String),
    #[error("there is no point named '{0}'")]
    NoPoint(String),
    #[error("{tool} ended with {status}: {text}")]
    Tool { tool: &'static str, status: std::process::ExitStatus, text: String },
    #[error("the archiving of the log is behind: {0}")]
    Behind(String),
    #[error("no role signs in by identity here: the keeper was given no tenant")]
    NoIdentity,
    #[error("nobody can judge sign-ins by identity: no socket on loopback")]
    SignIn(#[source] std::io::Error),
    #[error("the control socket failed")]
    Control(#[source] std::io::Error),
}

impl Error {
    /// For `map_err`: which act failed on which path.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// For `map_err`: which act in SQL failed.
    pub(crate) fn sql(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Sql { what, source }
    }

    /// The error and its causes in one line, for a log or a status.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
