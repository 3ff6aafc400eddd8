//! Why a request gave no result, and how it is told: a page for people, `{error, message, details, request_id}` for programs.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use sdk::{database, oidc::OidcError, telemetry::metrics};
use serde_json::{Value, json};

use crate::{access::Meta, app::App, domain::FieldErrors, images::ImagesError, pages, pii::Finding};

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
    /// Personal data in the prompt. Holds what was found, never the text.
    #[error("The prompt seems to hold personal data. Take it out and try again; nothing was charged.")]
    Personal(Vec<Finding>),
    #[error("{0} Nothing was charged.")]
    Budget(String),
    /// No model may be used for this, by rule.
    #[error("No model can take this: {0}. Nothing was charged.")]
    NoModel(String),
    /// A provider outside the department's regions was asked for.
    #[error("Your prompts must stay in the allowed regions: {0}. Nothing was sent and nothing was charged.")]
    Region(String),
    #[error("This is more than your role may ask for in a minute. Try again in {0} seconds.")]
    TooMany(i64),
    #[error("This is more than DonatelloAI takes at once.")]
    TooLarge,
    #[error("This took too long. Look whether it was done before you try again.")]
    TooLong,
    #[error("DonatelloAI cannot reach a part it needs. Please try again in a minute.")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("Something went wrong here. Nothing was saved.")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::SignIn => StatusCode::UNAUTHORIZED,
            Fault::Forbidden(_) | Fault::Personal(_) | Fault::Region(_) => StatusCode::FORBIDDEN,
            Fault::Invalid(_) | Fault::Malformed(_) => StatusCode::BAD_REQUEST,
            Fault::Budget(_) => StatusCode::PAYMENT_REQUIRED,
            Fault::Conflict(_) | Fault::NoModel(_) => StatusCode::CONFLICT,
            Fault::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::TooLong | Fault::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The word that programs branch on.
    pub fn word(&self) -> &'static str {
        match self {
            Fault::NotFound => "not_found",
            Fault::SignIn => "unauthorized",
            Fault::Forbidden(_) => "forbidden",
            Fault::Invalid(_) | Fault::Malformed(_) => "invalid_request",
            Fault::Conflict(_) => "conflict",
            Fault::Personal(_) => "pii_detected",
            Fault::Budget(_) => "budget_exceeded",
            Fault::NoModel(_) => "no_model",
            Fault::Region(_) => "region_not_allowed",
            Fault::TooMany(_) => "rate_limited",
            Fault::TooLarge => "too_large",
            Fault::TooLong => "timeout",
            Fault::Unavailable(_) => "unavailable",
            Fault::Internal(_) => "internal",
        }
    }

    /// One field's fault.
    pub fn field(field: &str, message: &str) -> Fault {
        Fault::Invalid(FieldErrors(vec![(field.to_owned(), message.to_owned())]))
    }

    pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
        Fault::Internal(Box::new(error))
    }

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
        if self.status().is_server_error() {
            metrics().add("exceptions", 1, &[("exception.type", self.word())]);
            tracing::error!(exception.type = self.word(), exception.message = self.causes(), "request failed");
        }
    }
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

impl From<ImagesError> for Fault {
    fn from(error: ImagesError) -> Fault {
        match error {
            ImagesError::Database(error) => error.into(),
            ImagesError::Blob(ref inner) if inner.is_outage() => Fault::Unavailable(Box::new(error)),
            other => Fault::internal(other),
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
pub async fn render(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let program = path.starts_with("/api/") && !path.starts_with("/api/v1/auth/callback");
    // One id for all that a request leaves in records and answers.
    let meta = Meta::of(request.headers());
    if let Ok(value) = HeaderValue::from_str(&meta.request_id.to_string()) {
        request.headers_mut().insert("x-request-id", value);
    }
    let mut response = next.run(request).await;
    let fault = response.extensions().get::<Arc<Fault>>().cloned();
    if let Some(fault) = fault {
        fault.report();
        response = if program { problem(&fault, &meta) } else { pages::fault(&fault) };
    } else if response.status().is_client_error() && is_bare(&response) {
        // axum's own refusals (no such route, wrong method, unreadable body) in the same words as ours.
        let fault = match response.status() {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Fault::NotFound,
            StatusCode::PAYLOAD_TOO_LARGE => Fault::TooLarge,
            _ => Fault::Malformed("The request cannot be read."),
        };
        let status = response.status();
        response = if program { problem(&fault, &meta) } else { pages::fault(&fault) };
        // A body that parses but does not fit (422 in axum) is a wrong input here: 400.
        *response.status_mut() = if status == StatusCode::METHOD_NOT_ALLOWED { status } else { fault.status() };
    }
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&app.policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&meta.request_id.to_string()) {
        headers.insert("x-request-id", id);
    }
    response
}

/// Whether an answer holds no page or JSON of ours.
fn is_bare(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    !kind.starts_with("text/html") && !kind.contains("json")
}

fn problem(fault: &Fault, meta: &Meta) -> Response {
    let details: Value = match fault {
        Fault::Invalid(errors) => errors.0.iter().map(|(f, m)| json!({ "field": f, "message": m })).collect(),
        Fault::Personal(found) => found
            .iter()
            .map(|f| json!({ "kind": f.kind, "score": f.score, "start": f.start, "length": f.length }))
            .collect(),
        _ => json!([]),
    };
    let body = json!({ "error": fault.word(), "message": fault.to_string(), "details": details, "request_id": meta.request_id });
    let status = fault.status();
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    match fault {
        Fault::TooMany(seconds) => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from((*seconds).max(1)));
        }
        Fault::Unavailable(_) | Fault::TooLong => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        _ => {}
    }
    response
}
