//! The control socket's routes. Its right is being the same user or root, which `service::serve` sees to.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use service::answer;

use crate::{member::Keeper, monitor::Watching};

pub(crate) fn of_member(keeper: Arc<Keeper>) -> Router {
    Router::new().route("/health", get(health)).route("/pulse", get(pulse)).fallback(nothing).with_state(keeper)
}

pub(crate) fn of_monitor(monitor: Watching) -> Router {
    Router::new()
        .route("/health", get(|| async { Json(serde_json::json!({ "ready": true })) }))
        .route("/cluster", get(cluster))
        .fallback(nothing)
        .with_state(monitor)
}

async fn nothing() -> Response {
    answer::error(StatusCode::NOT_FOUND, "not_found", "the keeper has no such route")
}

/// Ready is who leads with most behind it, or follows: before that a client is served by nobody.
async fn health(State(keeper): State<Arc<Keeper>>) -> Response {
    let pulse = keeper.pulse();
    if pulse.joined {
        return Json(serde_json::json!({ "ready": true })).into_response();
    }
    answer::error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", pulse.doing)
}

async fn pulse(State(keeper): State<Arc<Keeper>>) -> Response {
    Json(keeper.pulse()).into_response()
}

async fn cluster(State(monitor): State<Watching>) -> Response {
    Json(monitor.health()).into_response()
}
