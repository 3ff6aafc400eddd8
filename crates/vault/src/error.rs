//! What can go wrong in the vault, apart from what callers are told ([`crate::refusal`]).

use std::path::PathBuf;

/// Errors of this role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration of the vault is not usable: {0}")]
    Config(String),
    #[error("the vault was not handed its {0}")]
    Missing(&'static str),
    #[error("the key-encryption key is not 32 bytes in base64url")]
    KekForm,
    #[error(
        "the key-encryption key does not open data key {id} of this vault: it is another vault's key, or the key file was \
         replaced. Hand the vault the key it was made with (the stamp's key file, or its backup); with another key \
         its secrets stay sealed"
    )]
    Kek { id: u64 },
    #[error("a value does not open under its data key {id}: its row was changed or moved")]
    Sealed { id: u64 },
    #[error("{file} has format {found}; this binary reads up to {known}")]
    Newer { file: PathBuf, found: i64, known: i64 },
    #[error("the vault's database failed")]
    Database(#[from] rusqlite::Error),
    #[error("the vault's directory {dir} could not be made")]
    Directory {
        dir: PathBuf,
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
