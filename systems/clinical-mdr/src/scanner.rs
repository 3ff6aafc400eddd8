//! The stand-in of an image scanner. No registry calls a scanner in this version, and this one inspects nothing: it says so to
//! whoever asks, instead of finding nothing.

use axum::{
    Router,
    routing::{get, post},
};
use http::{StatusCode, header};

const NOTHING: &str =
    r#"{"type":"about:blank","title":"Not Implemented","status":501,"detail":"This stand-in scans no image."}"#;

/// `/health` and `/scan`.
pub fn router() -> Router {
    Router::new().route("/health", get(async || "healthy")).route(
        "/scan",
        post(async || (StatusCode::NOT_IMPLEMENTED, [(header::CONTENT_TYPE, "application/problem+json")], NOTHING)),
    )
}
