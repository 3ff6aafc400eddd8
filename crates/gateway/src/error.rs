//! Why the gateway could not start or had to end.

/// Each says its own layer only; causes are its source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A retry with the same file cannot work.
    #[error("the gateway's configuration is not usable: {}", .0.join("; "))]
    Config(Vec<String>),
    #[error("could not read the gateway's configuration")]
    Read(#[source] service::StartError),
    #[error("could not set up TLS")]
    Tls(#[source] service::tls::Error),
    #[error("could not make a key for session tickets")]
    Ticketer(#[source] rustls::Error),
    #[error("the gateway was handed no listener called https or http")]
    NoListener,
    #[error("the listener {0} is not TCP")]
    NotTcp(String),
    /// May pass: descriptors or memory ran out.
    #[error("could not {what}")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A fault of ours; the driver starts the gateway again.
    #[error("a worker thread ended unasked")]
    Worker,
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// Whether the same start may work later.
    pub fn retry_is_safe(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Worker)
    }
}
