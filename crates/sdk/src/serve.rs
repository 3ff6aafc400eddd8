//! Serves HTTP/1.1 at the address that the environment names, and ends without dropping a request that is on its way.
//!
//! A server that closes its idle connections at once when it is asked to end drops whatever has just been sent on them, and
//! whoever sent it cannot tell whether it was carried out. So at the end: what waits to be accepted is accepted and the
//! listener closed; each answer tells that its connection ends with it; idle connections are closed only after a while in
//! which nothing came.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use axum::Router;
use http::{HeaderValue, Request, header};
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{Settings, SettingsError};

/// Requests under way may finish for this long after a stop was asked for: well within what platforms wait before they kill.
pub const DRAIN: Duration = Duration::from_secs(20);
/// How long an idle connection may still bring a request once the end was asked for. Far above what a request takes from a
/// proxy in the same network; whoever waits for the end waits so long.
const LINGER: Duration = Duration::from_millis(250);
/// The pause after a connection could not be accepted: out of descriptors, mostly.
const TROUBLE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Each answer is its connection's last.
    Ending,
    /// Idle connections are closed.
    Closing,
}

/// Why a program does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("serving ended")]
    Serve(#[source] io::Error),
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

/// Listens at [`address`]. Apart from serving, so that a program can start what runs beside it once the address is its own.
///
/// # Errors
/// A setting is unusable or the address cannot be listened on.
pub async fn bind(settings: &Settings) -> Result<TcpListener, ServeError> {
    let address = address(settings)?;
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

/// Answers on `listener` with `app` until the process is asked to end, and says both in the log. Requests under way get
/// [`DRAIN`].
///
/// # Errors
/// The listener cannot be used.
pub async fn until_asked(listener: TcpListener, app: Router) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Serve)?;
    tracing::info!(%address, "listening");
    let end = async {
        asked().await;
        tracing::info!("stopping: no new connections");
    };
    serve(listener, app, end, DRAIN).await.map_err(ServeError::Serve)
}

/// [`bind`] and [`until_asked`], for a program with nothing beside.
///
/// # Errors
/// A setting is unusable or the address cannot be listened on.
pub async fn run(settings: &Settings, app: Router) -> Result<(), ServeError> {
    until_asked(bind(settings).await?, app).await
}

/// Resolves when the process is asked to end (SIGTERM, SIGINT).
pub async fn asked() {
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

/// Answers on `listener` with `app` until `end` resolves; then ends as said above. Requests under way get `drain` for that.
///
/// There is no limit on the time that a connection is idle: a proxy that keeps connections must be the one to close them.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    end: impl Future<Output = ()>,
    drain: Duration,
) -> io::Result<()> {
    let phase = watch::Sender::new(Phase::Serving);
    // Each connection holds a sender: once all are gone, nothing comes any more.
    let (open, mut ended) = mpsc::channel::<Infallible>(1);
    let spawn = |stream| {
        tokio::spawn(connection(stream, app.clone(), phase.subscribe(), open.clone()));
    };
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        match accepted {
            Ok((stream, _)) => spawn(stream),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(TROUBLE).await;
            }
        }
    }
    phase.send_replace(Phase::Ending);
    // Closing the listener resets what waits in its backlog. Asked of the system itself, so that little can come between.
    let listener = listener.into_std()?;
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        spawn(TcpStream::from_std(stream)?);
    }
    drop(listener);
    drop(open);
    if tokio::time::timeout(LINGER.min(drain), ended.recv()).await.is_err() {
        phase.send_replace(Phase::Closing);
        if tokio::time::timeout(drain, ended.recv()).await.is_err() {
            tracing::warn!("requests under way were cut: the time for the end is up");
        }
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    app: Router,
    mut phase: watch::Receiver<Phase>,
    _open: mpsc::Sender<Infallible>,
) {
    let _ = stream.set_nodelay(true);
    let app = TowerToHyperService::new(app);
    let now = phase.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (answer, now) = (app.call(request), now.clone());
        async move {
            let mut response = answer.await?;
            if *now.borrow() != Phase::Serving {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let closing = async { _ = phase.wait_for(|phase| *phase == Phase::Closing).await };
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = closing => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
