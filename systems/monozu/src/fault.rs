//! Why a request gave no result, told as JSON: `{"error": "code", "message": "what to do"}`.

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use sdk::{
    database,
    fault::{hint, report},
};
use serde::de::DeserializeOwned;

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("there is nothing here, or it is not yours")]
    NotFound,
    #[error("{0}")]
    Unauthorized(&'static str),
    /// A code that programs read, and its words.
    #[error("{1}")]
    Forbidden(&'static str, &'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    #[error("this is more than is taken at once")]
    TooLarge,
    #[error("too much at once; try again in {0} s")]
    TooMany(u64),
    #[error("a part that is needed does not answer; nothing was changed, please try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("something went wrong here; nothing was changed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Fault::Forbidden(..) => StatusCode::FORBIDDEN,
            Fault::Invalid(_) => StatusCode::BAD_REQUEST,
            Fault::Conflict(_) => StatusCode::CONFLICT,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Fault::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Fault::NotFound => "not_found",
            Fault::Unauthorized(_) => "unauthorized",
            Fault::Forbidden(code, _) => code,
            Fault::Invalid(_) => "invalid",
            Fault::Conflict(_) => "conflict",
            Fault::TooLarge => "too_large",
            Fault::TooMany(_) => "too_many",
            Fault::Unavailable(_) => "unavailable",
            Fault::Internal(_) => "internal",
        }
    }

    pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
        Fault::Internal(Box::new(error))
    }

    pub fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
        Fault::Unavailable(Box::new(error))
    }
}

impl From<database::Error> for Fault {
    fn from(error: database::Error) -> Fault {
        let named = error.constraint().unwrap_or("a rule").to_owned();
        match error.code().map(|c| c.code()) {
            Some("23505") => Fault::Conflict(format!("this is there already ({named})")),
            Some("23503") => Fault::Invalid(format!("it names something that is not there ({named})")),
            Some("23514" | "23502") => Fault::Invalid(format!("a value is not one that can be kept ({named})")),
            // 22: a value that cannot be read as what it should be.
            Some(code) if code.starts_with("22") => Fault::Invalid("a value cannot be read".into()),
            Some("42501") => Fault::Forbidden("forbidden", "this is not yours to do"),
            Some("40001" | "40P01" | "55P03") => {
                Fault::Conflict("somebody else changed this just now; please try again".into())
            }
            // Between the first start and the first migration there is no schema yet.
            Some("42P01" | "42883" | "3F000") => Fault::unavailable(error),
            _ if matches!(error, database::Error::Unavailable(_)) => Fault::unavailable(error),
            _ => Fault::internal(error),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            report(self.code(), &self, None);
        }
        let body = serde_json::json!({ "error": self.code(), "message": self.to_string() });
        let mut response = (status, Json(body)).into_response();
        let wait = if let Fault::TooMany(seconds) = self { Some(seconds) } else { None };
        hint(&mut response, wait);
        response
    }
}

/// A JSON body; what cannot be read is a fault that says why.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Fault> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Body(value)),
            Err(JsonRejection::BytesRejection(_)) => Err(Fault::TooLarge),
            Err(error) => Err(Fault::Invalid(error.body_text())),
        }
    }
}

/// Gives every answer its security headers, and axum's own refusals our words.
pub async fn finish(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let typed = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if response.status().is_client_error() && !typed.contains("json") && !typed.contains("html") {
        let status = response.status();
        response = match status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Fault::NotFound,
            StatusCode::PAYLOAD_TOO_LARGE => Fault::TooLarge,
            _ => Fault::Invalid("the request cannot be read".into()),
        }
        .into_response();
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
