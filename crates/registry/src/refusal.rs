//! What a caller is told, in the specification's error body: `{"errors":[{"code","message","detail"}]}`.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::names::Digest;

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
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub fn unauthorized(message: impl Into<String>, challenge: String) -> Self {
        let mut refusal = Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
        refusal.headers.push((header::WWW_AUTHENTICATE, challenge));
        refusal
    }

    pub fn denied(who: &str, word: &str, what: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", format!("{who} has no role that allows `{word}` on {what}"))
    }

    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "there is nothing at this path")
    }

    pub fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this path does not take this method")
    }

    pub fn name_invalid(name: &str) -> Self {
        let name: String = name.chars().take(80).collect();
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", format!("`{name}` is not the name of a repository"))
    }

    pub fn name_unknown(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", format!("there is no repository `{name}`"))
    }

    pub fn digest_invalid(text: &str) -> Self {
        let text: String = text.chars().take(100).collect();
        let message =
            format!("`{text}` is not a digest that this registry takes: `sha256:` and 64 lower-case hex digits");
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub fn digest_differs(said: &Digest, is: &Digest) -> Self {
        let message = format!("the content has the digest {is}, not {said}");
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub fn reference_invalid(text: &str) -> Self {
        let text: String = text.chars().take(100).collect();
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", format!("`{text}` is neither a tag nor a digest"))
    }

    pub fn manifest_invalid(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why)
    }

    pub fn manifest_too_large(limit: usize) -> Self {
        let message = format!("a manifest is at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", message)
    }

    pub fn manifest_unknown(name: &str, reference: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("`{name}` has no manifest {reference}"))
    }

    pub fn manifest_blob_unknown(digest: &str) -> Self {
        let message = format!("the manifest names {digest}, which is not in this repository; push it first");
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message)
    }

    pub fn blob_unknown(digest: &Digest) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("there is no blob {digest} in this repository"))
    }

    pub fn blob_in_use(digest: &Digest) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "DENIED",
            format!("a manifest of this repository names {digest}; delete that first"),
        )
    }

    pub fn manifest_named(digest: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "DENIED",
            format!("an index of this repository names {digest}; delete that first"),
        )
    }

    pub fn upload_unknown() -> Self {
        let message = "there is no such upload in this repository; begin another";
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
    }

    pub fn upload_broken(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", why)
    }

    /// A chunk that does not follow what is there. The answer says where the next one begins.
    pub fn out_of_order(location: String, range: String) -> Self {
        let message = "the chunk does not begin where the upload ends";
        let mut refusal = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message);
        refusal.headers.push((header::LOCATION, location));
        refusal.headers.push((header::RANGE, range));
        refusal
    }

    pub fn outside(length: u64) -> Self {
        let message = format!("the blob has {length} bytes; the range lies outside");
        let mut refusal = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", message);
        refusal.headers.push((header::CONTENT_RANGE, format!("bytes */{length}")));
        refusal
    }

    pub fn no_room_in_tier(tier: &str, limit: u64) -> Self {
        let message = format!(
            "a registry of the size {tier} holds {} GiB, and this would be more; delete images, or give it a larger `size`",
            limit >> 30
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "DENIED", message)
    }

    pub fn disk_full() -> Self {
        let message = "the disk of the registry is full, and nothing of this was kept; free some room and push again";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "DENIED", message)
    }

    /// A tag that names a release stays where it is.
    pub fn release_stands(tag: &str, digest: &str) -> Self {
        let message = format!("the release {tag} is {digest} and stays so; give the new image a new version");
        Self::new(StatusCode::CONFLICT, "DENIED", message)
    }

    pub fn number_invalid(text: &str) -> Self {
        let text: String = text.chars().take(40).collect();
        Self::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", format!("`n` is a number of entries, not `{text}`"))
    }

    pub fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "BLOB_UPLOAD_INVALID",
            "nothing came for a minute; what came before is kept",
        )
    }

    /// Storage, spool or identity do not answer; the same request may be sent again.
    pub fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the registry failed; its log says why")
    }

    /// Whether the caller lacked the right, rather than the request failing.
    pub fn is_denial(&self) -> bool {
        matches!(self.status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)
    }
}

impl From<crate::Error> for Refusal {
    fn from(error: crate::Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a request failed in the registry");
        match error {
            error if error.is_full() => Self::disk_full(),
            crate::Error::Spool(_) => {
                Self::unavailable("the act could not be recorded for audit, so it was not done; send the request again")
            }
            crate::Error::Database(_) => {
                Self::unavailable("the registry's storage does not answer; send the request again")
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
        let body = json!({ "errors": [{ "code": self.code, "message": self.message, "detail": null }] }).to_string();
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        let mut response = (self.status, [(header::CONTENT_TYPE, json)], body).into_response();
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
