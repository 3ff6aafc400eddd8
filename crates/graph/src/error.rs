//! What can go wrong in a keeper.

use std::path::PathBuf;

/// Errors of the graph role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} was not handed to this role")]
    Missing(&'static str),
    #[error("the configuration is refused: {0}")]
    Config(String),
    #[error("could not {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS could not be set up")]
    Tls(#[from] service::tls::Error),
    #[error("the engine does not answer")]
    Engine(#[source] std::io::Error),
    #[error("the engine refused: {0}")]
    Refused(String),
    #[error("the engine answered what was not understood: {0}")]
    Answer(&'static str),
    #[error("a listener failed")]
    Listen(#[source] std::io::Error),
}

impl Error {
    /// For `map_err`: which act failed on which path.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
