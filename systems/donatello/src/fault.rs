//! Why a request gave no result, and how it is told: a page for people, `{error, message, details, request_id}` for programs.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use sdk::{
    database,
    fault::{self, Cause, Common, FieldErrors, WebFault},
    oidc::OidcError,
};
use serde_json::{Value, json};

use crate::{access::Meta, app::App, images::ImagesError, pages, pii::Finding};

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
    Unavailable(#[source] Cause),
    #[error("Something went wrong here. Nothing was saved.")]
    Internal(#[source] Cause),
}

impl Fault {
    /// One field's fault.
    pub fn field(field: &str, message: &str) -> Fault {
        Fault::Invalid(FieldErrors::one(field, message))
    }

    pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
        Fault::Internal(Box::new(error))
    }
}

impl WebFault for Fault {
    fn status(&self) -> StatusCode {
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

    /// The word that programs branch on, too.
    fn kind(&self) -> &'static str {
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
}

impl From<Common> for Fault {
    fn from(common: Common) -> Fault {
        match common {
            Common::NotFound => Fault::NotFound,
            Common::Forbidden(text) => Fault::Forbidden(text),
            Common::Malformed(text) => Fault::Malformed(text),
            Common::Invalid(errors) => Fault::Invalid(errors),
            Common::Conflict(text) => Fault::Conflict(text),
            Common::TooLarge => Fault::TooLarge,
            Common::TooLong => Fault::TooLong,
            Common::Unavailable(source) => Fault::Unavailable(source),
            Common::Internal(source) => Fault::Internal(source),
        }
    }
}

impl From<database::Error> for Fault {
    fn from(error: database::Error) -> Fault {
        Common::from(error).into()
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
        Common::from(error).into()
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        fault::raise(self)
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
    request.extensions_mut().insert(meta.clone());
    let tell = |fault: &Fault| if program { problem(fault, &meta) } else { pages::fault(fault) };
    let mut response = fault::told(next.run(request).await, tell);
    let headers = response.headers_mut();
    fault::secure(headers, &app.policy);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if let Ok(id) = HeaderValue::from_str(&meta.request_id.to_string()) {
        headers.insert("x-request-id", id);
    }
    response
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
    let body = json!({ "error": fault.kind(), "message": fault.to_string(), "details": details, "request_id": meta.request_id });
    let mut response = (fault.status(), axum::Json(body)).into_response();
    let wait = if let Fault::TooMany(seconds) = fault { u64::try_from((*seconds).max(1)).ok() } else { None };
    fault::hint(&mut response, wait);
    response
}
