//! What all parts do alike.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
};
use sdk::fault::secure;

use crate::fault::Fault;

/// A request gets an answer in this time; a write waits for a new leader of the graph less long.
const LONGEST: Duration = Duration::from_secs(25);
/// Bytes of a request's body.
pub const BODY: usize = 256 * 1024;

/// What all three parts do alike: bounds, security headers, spans. `policy` is the content security policy.
pub fn around(router: Router, policy: &'static str) -> Router {
    router
        .fallback(async || Fault::NotFound.into_response())
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn(in_time))
        .layer(from_fn(move |request: Request, next: Next| async move {
            let mut response = next.run(request).await;
            secure(response.headers_mut(), policy);
            response
        }))
        .layer(from_fn(sdk::telemetry::track))
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Fault::Unknown("it took too long".into()).into_response(),
    }
}
