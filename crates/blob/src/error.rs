//! What can go wrong in the blob role, apart from what callers are told ([`crate::refusal`]).

use std::path::PathBuf;

/// Errors of this role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration of the blob role is not usable: {0}")]
    Config(String),
    #[error("the blob role was not handed its {0}")]
    Missing(&'static str),
    #[error("{file} has format {found}; this binary reads up to {known}")]
    Newer { file: PathBuf, found: i64, known: i64 },
    #[error("the blob role's database failed")]
    Database(#[from] rusqlite::Error),
    #[error("{path} could not be written or read")]
    Disk {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the audit spool failed")]
    Spool(#[from] service::spool::Error),
    #[error("could not set up TLS")]
    Tls(#[from] service::tls::Error),
    #[error("could not answer on a listener")]
    Serve(#[source] std::io::Error),
}

impl Error {
    /// For `map_err`: what failed at `path`.
    pub fn disk(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Disk { path, source }
    }

    /// Whether there is no room left, rather than something broken.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk { source, .. } => {
                matches!(
                    source.kind(),
                    std::io::ErrorKind::StorageFull
                        | std::io::ErrorKind::QuotaExceeded
                        | std::io::ErrorKind::FileTooLarge
                )
            }
            Self::Database(rusqlite::Error::SqliteFailure(failure, _)) => failure.code == rusqlite::ErrorCode::DiskFull,
            _ => false,
        }
    }
}
