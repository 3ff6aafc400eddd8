//! What a caller is told, in Key Vault's error body: `{"error":{"code","message","innererror":{"code"}}}`.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// A refused or failed request.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub inner: Option<&'static str>,
    pub message: String,
    /// The value of `WWW-Authenticate`, with a 401.
    pub challenge: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, inner: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, code, inner, message: message.into(), challenge: None }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadParameter", None, message)
    }

    pub fn unauthorized(message: impl Into<String>, challenge: String) -> Self {
        Self { challenge: Some(challenge), ..Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", None, message) }
    }

    pub fn no_role(subject: &str, action: &str, object: &str) -> Self {
        let message = format!(
            "Caller is not authorized to perform action on resource. Action: '{action}'; Resource: '{object}'; \
             Assignment: (not found); Caller: sub={subject}"
        );
        Self::new(StatusCode::FORBIDDEN, "Forbidden", Some("ForbiddenByRbac"), message)
    }

    pub fn disabled(operation: &str) -> Self {
        let message = format!("Operation {operation} is not allowed on a disabled secret.");
        Self::new(StatusCode::FORBIDDEN, "Forbidden", Some("SecretDisabled"), message)
    }

    pub fn purge_protected() -> Self {
        let message = "Operation \"purge\" is not allowed because purge protection is enabled for this vault. The vault \
                       will automatically purge the secret after the retention period has passed.";
        Self::new(StatusCode::FORBIDDEN, "Forbidden", Some("ForbiddenByPolicy"), message)
    }

    pub fn no_hardware() -> Self {
        // The words of the real service.
        let message = "Hardware key operation not allowed on standard vault";
        Self::new(StatusCode::FORBIDDEN, "Forbidden", Some("ForbiddenByPolicy"), message)
    }

    pub fn not_built(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", None, format!("{what} are not built in this vault."))
    }

    pub fn not_found(name: &str) -> Self {
        let message = format!(
            "A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret you may \
             be able to recover it using the correct recovery command."
        );
        Self::new(StatusCode::NOT_FOUND, "SecretNotFound", None, message)
    }

    pub fn deleted_not_found(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "SecretNotFound", None, format!("Deleted Secret not found: {name}"))
    }

    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", None, "There is nothing at this path.")
    }

    pub fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", None, "This path does not take this method.")
    }

    pub fn deleted_but_recoverable(name: &str) -> Self {
        let message = format!(
            "Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, \
             the secret can only be recovered or purged."
        );
        Self::new(StatusCode::CONFLICT, "Conflict", Some("ObjectIsDeletedButRecoverable"), message)
    }

    pub fn exists(name: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", None, format!("There is already a secret called {name}."))
    }

    pub fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLarge", None, "The request body is too large.")
    }

    /// The disk or the spool failed; the same request may be sent again.
    pub fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", None, message)
    }

    pub fn internal() -> Self {
        let message = "The vault failed; its log says why.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", None, message)
    }

    /// Whether the caller lacked the right, rather than the request failing.
    pub fn is_denial(&self) -> bool {
        matches!(self.status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)
    }
}

impl From<crate::Error> for Refusal {
    fn from(error: crate::Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a request failed in the vault");
        match error {
            crate::Error::Database(_) => {
                Self::unavailable("The vault's storage does not answer; send the request again.")
            }
            _ => Self::internal(),
        }
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        crate::Error::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(inner) = self.inner {
            error["innererror"] = json!({ "code": inner });
        }
        let body = json!({ "error": error }).to_string();
        let mut response = (self.status, [(CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response();
        if let Some(challenge) = self.challenge.and_then(|c| HeaderValue::try_from(c).ok()) {
            response.headers_mut().insert(HeaderName::from_static("www-authenticate"), challenge);
        }
        response
    }
}
