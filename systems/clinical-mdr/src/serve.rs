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
        .layer(from_fn(told))
        .layer(from_fn(move |request: Request, next: Next| async move {
            let mut response = next.run(request).await;
            secure(response.headers_mut(), policy);
            response
        }))
        .layer(from_fn(sdk::telemetry::track))
}

/// A line for each request, so that the store of logs tells which parts one has passed.
async fn told(request: Request, next: Next) -> Response {
    let quiet = is_probe(request.uri().path());
    let response = next.run(request).await;
    if !quiet {
        tracing::info!(status = response.status().as_u16(), "answered");
    }
    response
}

/// The platform asks these every second.
fn is_probe(path: &str) -> bool {
    path.ends_with("/health")
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Fault::Unknown("it took too long".into()).into_response(),
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_and_probes_are_not() {
        assert!(["/health", "/api/health", "/export/health"].into_iter().all(is_probe));
        assert!(!["/", "/library", "/healthy", "/api/v1/library"].into_iter().any(is_probe));
    }
}
