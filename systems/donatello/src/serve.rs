//! `donatello api`: listens, measures, ends in order.

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use sdk::{Settings, SettingsError, telemetry::metrics};
use tokio::net::TcpListener;

use crate::{
    app::{App, AppError},
    progress, routes,
    store::sessions,
};

/// Requests under way may finish for this long after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(20);
/// How often sessions are counted and expired ones ended.
const TIDY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the application cannot be set up")]
    App(#[from] AppError),
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
pub async fn run(settings: &Settings) -> Result<(), ServeError> {
    let app = App::from_settings(settings)?;
    let address = address(settings)?;
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "listening");
    let tidy = tokio::spawn(tidy(app.clone()));
    let follow = tokio::spawn(progress::follow(app.clone()));
    let end = async {
        asked().await;
        tracing::info!("stopping: no new connections");
    };
    let result = sdk::serve(listener, routes::router(app), end, DRAIN).await.map_err(ServeError::Serve);
    tidy.abort();
    follow.abort();
    result
}

/// Resolves when the process is asked to end (SIGTERM, SIGINT).
pub async fn asked() {
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

async fn tidy(app: App) {
    let mut tick = tokio::time::interval(TIDY);
    loop {
        tick.tick().await;
        let (open, used) = app.database.connections();
        #[expect(clippy::cast_precision_loss, reason = "a handful of connections")]
        for (name, value) in [("db.client.connections.open", open), ("db.client.connections.used", used)] {
            metrics().set(name, value as f64, &[]);
        }
        if let Err(error) = count(&app).await {
            tracing::debug!(error = %error, "sessions were not counted");
        }
    }
}

/// Ends expired sessions and reports how many are left.
async fn count(app: &App) -> Result<(), sdk::database::Error> {
    let connection = app.database.get().await?;
    sessions::expire(&connection).await?;
    sessions::measure(&connection).await
}
