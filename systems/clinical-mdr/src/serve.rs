//! Listens, and ends in order.

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use sdk::{Settings, SettingsError};
use tokio::net::TcpListener;

use crate::fault::Fault;

/// Requests under way may finish for this long after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(20);
/// A request gets an answer in this time; a write waits for a new leader of the graph less long.
const LONGEST: Duration = Duration::from_secs(25);
/// Bytes of a request's body.
pub const BODY: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("serving ended")]
    Serve(#[source] std::io::Error),
}

/// Serves at `LISTEN_ADDRESS` (127.0.0.1) and `PORT` (8080) until the process is asked to end.
///
/// # Errors
/// A setting is unusable or the address cannot be listened on.
pub async fn run(settings: &Settings, router: Router) -> Result<(), ServeError> {
    let ip = settings.parsed("LISTEN_ADDRESS", "an IP address", IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let address = SocketAddr::new(ip, settings.parsed("PORT", "a port number", 8080)?);
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    tracing::info!(%address, "listening");
    let end = async {
        asked().await;
        tracing::info!("stopping: no new connections");
    };
    sdk::serve(listener, router, end, DRAIN).await.map_err(ServeError::Serve)
}

/// What all three parts do alike: bounds, security headers, spans. `policy` is the content security policy.
pub fn around(router: Router, policy: &str) -> Router {
    let policy = HeaderValue::from_str(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    router
        .fallback(async || Fault::NotFound.into_response())
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn(in_time))
        .layer(from_fn(told))
        .layer(from_fn(move |request: Request, next: Next| {
            let policy = policy.clone();
            async move {
                let mut response = next.run(request).await;
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_SECURITY_POLICY, policy);
                headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
                headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
                response
            }
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

/// Resolves when the process is asked to end (SIGTERM, SIGINT).
async fn asked() {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without signals the process can still be killed; ending at once would be worse.
        _ => pending().await,
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
