//! The error answer of all roles but the vault.

use api::ErrorBody;
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};

/// An [`ErrorBody`] with a status.
pub fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Response {
    let body = ErrorBody { code: code.into(), message: message.into(), request_id: String::new(), hint: None };
    (status, Json(body)).into_response()
}
