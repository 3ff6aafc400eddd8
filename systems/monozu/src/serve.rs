//! What all four programs do alike.

use std::time::Duration;

use axum::{
    Json, Router,
    http::StatusCode,
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use sdk::database::Database;

use crate::fault;

/// What every router of ours ends with: words for refusals, headers, telemetry.
pub fn dressed(router: Router) -> Router {
    router.layer(from_fn(fault::finish)).layer(from_fn(sdk::telemetry::track))
}

/// `/health`: 200 while the database answers. It does not ask for the schema: that comes after the deployment.
pub async fn health(database: &Database) -> Response {
    let well = database.answers_within(Duration::from_secs(1)).await;
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "database": well, "os": std::env::consts::OS }))).into_response()
}
