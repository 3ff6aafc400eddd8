//! What can go wrong in the audit role.

/// Errors of this role. Those of the store may be tried again; those of the start need a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration of the audit role is not usable: {0}")]
    Config(String),
    #[error("the audit role was not handed its {0}")]
    Missing(&'static str),
    #[error("could not set up TLS")]
    Tls(#[from] service::tls::Error),
    #[error("the store of audit records failed")]
    Store(#[from] service::spool::Error),
    #[error(
        "the seal of {source_name}'s head file is not by this stamp's audit key; the file was made or changed by another"
    )]
    Seal { source_name: String },
    #[error("could not answer on a listener")]
    Serve(#[source] std::io::Error),
}
