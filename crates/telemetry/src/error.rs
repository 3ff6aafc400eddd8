//! Why the role could not start or go on.

use std::path::PathBuf;

/// What ends the role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the secret {0} was not handed to the telemetry role")]
    Secret(&'static str),
    #[error("could not set up TLS of the ingestion listener")]
    Tls(#[source] service::tls::Error),
    #[error("could not use the data directory {path}")]
    Data {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not start the writer")]
    Thread(#[source] std::io::Error),
    #[error("a listener failed")]
    Serve(#[source] std::io::Error),
}

/// Why day files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("could not open the day file {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the day file {path} has format {found}; this binary knows up to {known}")]
    Version { path: PathBuf, found: i64, known: i64 },
    #[error("could not write to today's file")]
    Write(#[source] rusqlite::Error),
    #[error("could not read the day files")]
    Read(#[source] rusqlite::Error),
    #[error("could not list the day files in {path}")]
    List {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the writer has ended")]
    Ended,
}

/// The error and what lies under it in one line, for logs and answers on the control socket.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
