//! What a caller is told: Azure's XML error body, and its code in `x-ms-error-code`.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::xml;

/// A refused or failed request.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    /// More fields of the answer.
    pub headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub fn failed(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, code, message)
    }

    /// Credentials that are none, or no longer: 401 with a challenge for a token, 403 for a signature.
    pub fn unauthenticated(challenge: Option<String>, why: &str) -> Self {
        match challenge {
            Some(challenge) => {
                let mut refusal = Self::new(StatusCode::UNAUTHORIZED, "InvalidAuthenticationInfo", why);
                refusal.headers.push((header::WWW_AUTHENTICATE, challenge));
                refusal
            }
            None => Self::new(StatusCode::FORBIDDEN, "AuthenticationFailed", why),
        }
    }

    /// Nobody in particular: there is nothing here that everybody may read.
    pub fn nobody(challenge: String) -> Self {
        let mut refusal =
            Self::new(StatusCode::UNAUTHORIZED, "NoAuthenticationInformation", "authentication is needed");
        refusal.headers.push((header::WWW_AUTHENTICATE, challenge));
        refusal
    }

    pub fn denied(who: &str, what: &str) -> Self {
        let message = format!("{who} has no role that allows {what}");
        Self::new(StatusCode::FORBIDDEN, "AuthorizationPermissionMismatch", message)
    }

    pub fn header(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad("InvalidHeaderValue", format!("the field `{name}` is not usable: {why}"))
    }

    pub fn no_header(name: &str) -> Self {
        Self::bad("MissingRequiredHeader", format!("the field `{name}` is needed for this"))
    }

    pub fn query(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad("InvalidQueryParameterValue", format!("`{name}` of the query is not usable: {why}"))
    }

    pub fn not_here(what: &str) -> Self {
        let message = format!("{what} is not provided by this account of blobs");
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    pub fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UnsupportedHttpVerb", "this resource does not take this method")
    }

    pub fn no_container(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ContainerNotFound", format!("there is no container `{name}`"))
    }

    pub fn no_blob() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BlobNotFound", "there is no such blob in this container")
    }

    pub fn there_is_a_blob() -> Self {
        Self::conflict("BlobAlreadyExists", "there is a blob of this name already")
    }

    pub fn condition() -> Self {
        Self::failed("ConditionNotMet", "a condition of the request's fields is not met")
    }

    pub fn immutable(until: &str) -> Self {
        let message =
            format!("nobody changes or deletes this blob before {until}: its container is declared immutable");
        Self::conflict("BlobImmutableDueToPolicy", message)
    }

    pub fn outside(length: u64) -> Self {
        let message = format!("the blob has {length} bytes; the range lies outside");
        let mut refusal = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", message);
        refusal.headers.push((header::CONTENT_RANGE, format!("bytes */{length}")));
        refusal
    }

    pub fn too_large(what: &str, most: u64) -> Self {
        let message = format!("{what} has at most {most} bytes here");
        let code = "RequestBodyTooLarge";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, message)
    }

    pub fn broke_off() -> Self {
        Self::bad("IncompleteBody", "the body broke off, and nothing of it was kept; send the request again")
    }

    pub fn too_slow() -> Self {
        let message = "nothing came for a minute, and nothing was kept; send the request again";
        Self::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message)
    }

    pub fn disk_full() -> Self {
        let message = "the disk of the account is full, and nothing of this was kept; free some room and send it again";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientAccountCapacity", message)
    }

    /// Storage, spool or identity do not answer; the same request may be sent again.
    pub fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", message)
    }

    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "the blob role failed; its log says why")
    }

    /// Whether the caller lacked the right, rather than the request failing.
    pub fn is_denial(&self) -> bool {
        matches!(self.status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)
    }
}

impl From<crate::Error> for Refusal {
    fn from(error: crate::Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a request failed in the blob role");
        match error {
            error if error.is_full() => Self::disk_full(),
            crate::Error::Spool(_) => {
                Self::unavailable("the act could not be recorded for audit, so it was not done; send the request again")
            }
            crate::Error::Database(_) => {
                Self::unavailable("the storage of the blobs does not answer; send the request again")
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

impl From<service::spool::Error> for Refusal {
    fn from(error: service::spool::Error) -> Self {
        crate::Error::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        // What has not changed has no body.
        if self.status != StatusCode::NOT_MODIFIED {
            let (code, message) = (xml::escaped(self.code), xml::escaped(&self.message));
            let body = format!("{}<Error><Code>{code}</Code><Message>{message}</Message></Error>", xml::HEAD);
            *response.body_mut() = Body::from(body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        }
        let code = HeaderValue::from_static(self.code);
        response.headers_mut().insert(HeaderName::from_static("x-ms-error-code"), code);
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}
