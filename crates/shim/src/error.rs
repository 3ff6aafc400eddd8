//! Why a shim could not do its work.

/// Why a shim could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not read the shim's configuration {path}")]
    Config {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the shim's configuration {path} is not understood")]
    Parse {
        path: std::path::PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("could not take over what the driver passed")]
    Inherit(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not open the identity endpoint")]
    Endpoint(#[source] std::io::Error),
    #[error("could not stand in front of the workload")]
    Front(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not keep the workload's certificate")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not start {program}")]
    Spawn {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the setting {setting} refers to {reference}, which could not be resolved: {why}")]
    Reference { setting: String, reference: String, why: String },
    #[error("could not watch processes")]
    Signals(#[source] std::io::Error),
}
