//! Listens, serves, ends in order: the same for all four programs.

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{
    Json, Router,
    http::StatusCode,
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use sdk::{Settings, SettingsError, database::Database};
use tokio::net::TcpListener;

use crate::fault;

/// Requests under way may finish for this long after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("serving ended")]
    Serve(#[source] std::io::Error),
}

/// The address from `LISTEN_ADDRESS` (127.0.0.1) and `PORT` or `WEBSITES_PORT` (8080).
///
/// # Errors
/// A variable that is no address or port.
pub fn address(settings: &Settings) -> Result<SocketAddr, SettingsError> {
    let ip = settings.parsed("LISTEN_ADDRESS", "an IP address", IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let other = settings.parsed("WEBSITES_PORT", "a port number", 8080)?;
    Ok(SocketAddr::new(ip, settings.parsed("PORT", "a port number", other)?))
}

/// Serves until the process is asked to end.
///
/// # Errors
/// A setting is unusable or the address cannot be listened on.
pub async fn run(settings: &Settings, router: Router) -> Result<(), ServeError> {
    let address = address(settings)?;
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    tracing::info!(%address, "listening");
    let end = async {
        asked().await;
        tracing::info!("stopping: no new connections");
    };
    sdk::serve(listener, router, end, DRAIN).await.map_err(ServeError::Serve)
}

/// Resolves when the process is asked to end (SIGTERM, SIGINT).
async fn asked() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
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
