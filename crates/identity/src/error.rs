//! Why the role could not start, or could not answer.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// Failures of the identity role itself. What a caller did wrong is answered, not returned as an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration of identity is wrong: {0}")]
    Config(String),
    #[error("no secret called {0} was handed to identity")]
    Secret(&'static str),
    #[error("identity was given no listener called {0}")]
    Listener(&'static str),
    #[error("the certificate of identity cannot be used")]
    Tls(#[source] service::tls::Error),
    #[error("the authorities that outside issuers are verified with cannot be used")]
    Trust(#[source] rustls::Error),
    #[error("could not reach the people's store")]
    Store(#[from] rusqlite::Error),
    #[error("the people's store has format {found}; this binary reads up to {known}")]
    Version { found: i64, known: i64 },
    #[error("could not use a signing key: {0}")]
    Key(&'static str),
    #[error("could not write the audit record")]
    Audit(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not set up {0}")]
    Io(&'static str, #[source] std::io::Error),
    #[error("a password could not be hashed: {0}")]
    Hash(String),
    #[error("too many sign-ins are waiting")]
    Busy,
    #[error("a page could not be written")]
    Page(#[from] askama::Error),
}

impl Error {
    /// Whether the same call may be made again without knowing what became of the first.
    pub fn retry_is_safe(&self) -> bool {
        matches!(self, Self::Busy)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut chain = String::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&self);
        while let Some(error) = cause {
            if !chain.is_empty() {
                chain.push_str(": ");
            }
            chain.push_str(&error.to_string());
            cause = error.source();
        }
        tracing::error!(error = %chain, "could not answer");
        service::answer::error(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Identity cannot answer this now. Try again in a moment.",
        )
    }
}
