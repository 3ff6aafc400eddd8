//! Why a request gave no result, and how it is told: a page for people, problem+json (RFC 9457) for programs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use sdk::{database, oidc::OidcError, telemetry::metrics};

use crate::{app::App, domain::FieldErrors, pages};

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("There is nothing here, or it is not yours.")]
    NotFound,
    #[error("You are not signed in.")]
    SignIn,
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("Some fields are not right.")]
    Invalid(FieldErrors),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Away(&'static str),
    #[error("Too many attempts. Wait five minutes, then try again.")]
    TooMany,
    #[error("This is more than MEG QMS takes at once.")]
    TooLarge,
    #[error("This took too long. Nothing may have been saved: look before you try again.")]
    TooLong,
    #[error("MEG QMS cannot reach a part it needs. Nothing was saved; please try again in a minute.")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("Something went wrong here. Nothing was saved.")]
    Internal {
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Where it happened; for the log only.
        stack: String,
    },
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::SignIn => StatusCode::UNAUTHORIZED,
            Fault::Forbidden(_) => StatusCode::FORBIDDEN,
            Fault::Invalid(_) | Fault::Malformed(_) => StatusCode::BAD_REQUEST,
            Fault::Conflict(_) => StatusCode::CONFLICT,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Fault::TooLong | Fault::Unavailable(_) | Fault::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One field's fault.
    pub fn field(field: &str, message: &str) -> Fault {
        Fault::Invalid(FieldErrors(vec![(field.to_owned(), message.to_owned())]))
    }

    pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
        Fault::Internal { source: Box::new(error), stack: stack() }
    }

    /// For the log: this fault's causes, outermost first.
    fn causes(&self) -> String {
        let mut text = String::new();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    fn report(&self) {
        if !self.status().is_server_error() {
            return;
        }
        metrics().add("exceptions", 1, &[("exception.type", self.kind())]);
        tracing::error!(
            exception.type = self.kind(),
            exception.message = self.causes(),
            exception.stacktrace = if let Fault::Internal { stack, .. } = self { stack } else { "" },
            "request failed"
        );
    }

    fn kind(&self) -> &'static str {
        match self {
            Fault::Unavailable(_) | Fault::Away(_) => "unavailable",
            Fault::TooLong => "timeout",
            _ => "internal",
        }
    }
}

/// The stack of a fault of our own (that a database is away says nothing about our code), once a second at most: resolving
/// names costs time and, once, some fifty megabytes that stay.
fn stack() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if LAST.swap(now, Ordering::Relaxed) == now {
        return "not taken: one was taken within this second".to_owned();
    }
    sdk::telemetry::stack()
}

impl From<database::Error> for Fault {
    fn from(error: database::Error) -> Fault {
        // 40001, 40P01, 55P03: another change got in between; trying again is right and safe.
        match error.code().map(|c| c.code()) {
            Some("40001" | "40P01" | "55P03") => {
                Fault::Conflict("Somebody else changed this just now. Please try again.".into())
            }
            _ if matches!(error, database::Error::Unavailable(_)) => Fault::Unavailable(Box::new(error)),
            _ => Fault::internal(error),
        }
    }
}

impl From<OidcError> for Fault {
    fn from(error: OidcError) -> Fault {
        match error {
            OidcError::State => {
                Fault::Malformed("This sign-in has expired or was already finished. Please sign in again.")
            }
            OidcError::Refused(_) => {
                Fault::Forbidden("The sign-in was refused. Please try again or ask your administrator.")
            }
            other if other.is_outage() => Fault::Unavailable(Box::new(other)),
            OidcError::Token(_) | OidcError::Jwt(_) | OidcError::OtherIssuer => {
                tracing::warn!(error = %error, "a sign-in brought a token that is not acceptable");
                Fault::Forbidden("The sign-in service sent something that cannot be trusted. Please sign in again.")
            }
            other => Fault::internal(other),
        }
    }
}

impl IntoResponse for Fault {
    /// Only the status; [`render`] adds the words in the form that the caller reads.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Gives every fault its words and every answer its security headers. Outermost but for telemetry.
pub async fn render(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let program = path.starts_with("/api/") || path.starts_with("/link/");
    let mut response = next.run(request).await;
    let fault = response.extensions().get::<Arc<Fault>>().cloned();
    if let Some(fault) = fault {
        fault.report();
        response = if program { problem(&fault) } else { pages::fault(&fault, &path) };
    } else if response.status().is_client_error() && is_bare(&response) {
        // axum's own refusals (no such route, wrong method, unreadable body) in the same words as ours.
        let fault = match response.status() {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Fault::NotFound,
            StatusCode::PAYLOAD_TOO_LARGE => Fault::TooLarge,
            _ => Fault::Malformed("The request cannot be read."),
        };
        let status = response.status();
        response = if program { problem(&fault) } else { pages::fault(&fault, &path) };
        // A body that parses but does not fit (422 in axum) is a wrong input here: 400.
        *response.status_mut() = if status == StatusCode::METHOD_NOT_ALLOWED { status } else { fault.status() };
    }
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&app.policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether an answer holds no page or JSON of ours.
fn is_bare(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    !kind.starts_with("text/html") && !kind.contains("json")
}

/// RFC 9457, with `errors` by field.
fn problem(fault: &Fault) -> Response {
    let status = fault.status();
    let mut body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": fault.to_string(),
    });
    if let Fault::Invalid(errors) = fault {
        let list = errors.0.iter().map(|(f, m)| serde_json::json!({ "field": f, "message": m }));
        body["errors"] = list.collect();
    }
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    let mut response = (status, kind, body.to_string()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}
