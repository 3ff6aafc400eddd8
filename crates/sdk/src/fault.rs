//! Why a request gave no result: what the faults of all applications have in common, and how they are told.
//!
//! An application has an enum `Fault` of its own, with its own words. A handler returns one; [`raise`] keeps it in the
//! answer; a middleware of the application, outermost but for telemetry, calls [`told`], which gives it words in the form
//! that the caller reads, and [`secure`].

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{database, oidc::OidcError, telemetry};

/// An error that brought a fault about.
pub type Cause = Box<dyn Error + Send + Sync>;

/// What every application meets. Each has a variant of its own for it; the texts here are for people.
#[derive(Debug)]
pub enum Common {
    NotFound,
    Forbidden(&'static str),
    /// The request cannot be read or carried out as it is.
    Malformed(&'static str),
    Invalid(FieldErrors),
    /// Somebody else was first; trying again is right and safe.
    Conflict(String),
    TooLarge,
    TooLong,
    /// A part that is needed does not answer.
    Unavailable(Cause),
    Internal(Cause),
}

/// An application's fault. Its `Display` is what the caller reads.
pub trait WebFault: Error + From<Common> + IntoResponse + Send + Sync + 'static {
    /// The status of the answer. 401 is for callers who are not signed in and for nothing else.
    fn status(&self) -> StatusCode;
    /// One word for the log and the metric `exceptions`.
    fn kind(&self) -> &'static str;
    /// The fields that are wrong, each with a sentence; None for a fault that is not about fields.
    fn fields(&self) -> Option<&[(String, String)]> {
        None
    }
    /// Where it happened, for the log only; None where that is never taken.
    fn stack(&self) -> Option<&str> {
        None
    }
}

/// What is wrong with an input, field by field, in plain sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(pub Vec<(String, String)>);

impl FieldErrors {
    /// One field's fault.
    pub fn one(field: &str, message: &str) -> FieldErrors {
        FieldErrors(vec![(field.to_owned(), message.to_owned())])
    }

    /// Notes a further fault.
    pub fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push((field.to_owned(), message.into()));
    }

    /// The first message for a field, or an empty text.
    pub fn of(&self, field: &str) -> &str {
        self.0.iter().find(|(f, _)| f == field).map_or("", |(_, m)| m)
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a value or notes why there is none.
    pub fn take<T>(&mut self, field: &str, result: Result<T, &'static str>) -> Option<T> {
        result.map_err(|message| self.add(field, message)).ok()
    }
}

impl From<database::Error> for Common {
    fn from(error: database::Error) -> Common {
        // 40001, 40P01, 55P03: another change got in between; trying again is right and safe.
        match error.code().map(|c| c.code()) {
            Some("40001" | "40P01" | "55P03") => {
                Common::Conflict("Somebody else changed this just now. Please try again.".into())
            }
            _ if matches!(error, database::Error::Unavailable(_)) => Common::Unavailable(Box::new(error)),
            _ => Common::Internal(Box::new(error)),
        }
    }
}

impl From<OidcError> for Common {
    fn from(error: OidcError) -> Common {
        match error {
            OidcError::State => {
                Common::Malformed("This sign-in has expired or was already finished. Please sign in again.")
            }
            OidcError::Refused(_) => {
                Common::Forbidden("The sign-in was refused. Please try again or ask your administrator.")
            }
            other if other.is_outage() => Common::Unavailable(Box::new(other)),
            OidcError::Token(_) | OidcError::Jwt(_) | OidcError::OtherIssuer => {
                tracing::warn!(error = %error, "a sign-in brought a token that is not acceptable");
                Common::Forbidden("The sign-in service sent something that cannot be trusted. Please sign in again.")
            }
            other => Common::Internal(Box::new(other)),
        }
    }
}

/// The stack of a fault of our own (that a database is away says nothing about our code), once a second at most: resolving
/// names costs time and, once, some fifty megabytes that stay.
pub fn stack() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if LAST.swap(now, Ordering::Relaxed) == now {
        return "not taken: one was taken within this second".to_owned();
    }
    telemetry::stack()
}

/// Counts a fault of ours in the metric `exceptions` and tells its causes, outermost first, in the log.
pub fn report(kind: &'static str, fault: &dyn Error, stack: Option<&str>) {
    let mut causes = String::new();
    let mut next = fault.source();
    while let Some(error) = next {
        causes.push_str(if causes.is_empty() { "" } else { ": " });
        causes.push_str(&error.to_string());
        next = error.source();
    }
    telemetry::metrics().add("exceptions", 1, &[("exception.type", kind)]);
    tracing::error!(
        exception.type = kind,
        exception.message = causes,
        exception.stacktrace = stack,
        "request failed"
    );
}

/// An answer with the fault's status and no words yet: [`told`] adds them.
pub fn raise<F: WebFault>(fault: F) -> Response {
    let mut response = fault.status().into_response();
    response.extensions_mut().insert(Arc::new(fault));
    response
}

/// The answer, with words if it is a fault: `tell` gives them. Faults of ours are reported. axum's own refusals (no such
/// route, wrong method, unreadable body) get the same words as ours.
pub fn told<F: WebFault>(response: Response, tell: impl FnOnce(&F) -> Response) -> Response {
    if let Some(fault) = response.extensions().get::<Arc<F>>() {
        if fault.status().is_server_error() {
            report(fault.kind(), &**fault, fault.stack());
        }
        return tell(fault);
    }
    let status = response.status();
    if !status.is_client_error() || !is_bare(&response) {
        return response;
    }
    let fault = F::from(match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Common::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => Common::TooLarge,
        _ => Common::Malformed("The request cannot be read."),
    });
    let mut response = tell(&fault);
    // A body that parses but does not fit (422 in axum) is a wrong input here: 400.
    *response.status_mut() = if status == StatusCode::METHOD_NOT_ALLOWED { status } else { fault.status() };
    response
}

/// Whether an answer holds no page or JSON of ours.
fn is_bare(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    !kind.starts_with("text/html") && !kind.contains("json")
}

/// The fault as a program reads it: RFC 9457, `errors` by field, and what to do next.
pub fn problem<F: WebFault>(fault: &F) -> Response {
    let mut response = plain_problem(fault.status(), &fault.to_string(), fault.fields());
    hint(&mut response, None);
    response
}

/// RFC 9457 and nothing else: `fields` become `errors`.
pub fn plain_problem<K: AsRef<str>>(status: StatusCode, detail: &str, fields: Option<&[(K, String)]>) -> Response {
    let mut body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    });
    if let Some(fields) = fields {
        let list = fields.iter().map(|(f, m)| serde_json::json!({ "field": f.as_ref(), "message": m }));
        body["errors"] = list.collect();
    }
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// Tells a program what to do next: how to sign in after 401; when to try again, after `wait` seconds, or 5 after 503.
pub fn hint(response: &mut Response, wait: Option<u64>) {
    let status = response.status();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = wait.or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(5)) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// The security headers of every answer; `policy` is the content security policy. What says nothing of caches is not kept.
pub fn secure(headers: &mut HeaderMap, policy: &str) {
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
