//! The accept loop of all roles but the gateway: TLS, limits on heads and connections, drain.
//!
//! `axum::serve` sets no timer, so a client that sends half a head stays for ever; hence an own loop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tower::ServiceExt as _;

use crate::{Listener, Shutdown};

/// Bounds of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Time for a request's head to arrive, and for the TLS handshake.
    pub header_timeout: Duration,
    pub header_bytes: usize,
    /// Body bytes; a larger one is answered 413.
    pub body_bytes: usize,
    /// Time that open requests get once the end is asked for.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            header_timeout: Duration::from_secs(10),
            header_bytes: 32 * 1024,
            body_bytes: 8 * 1024 * 1024,
            drain: Duration::from_secs(5),
        }
    }
}

/// Who is at the other end; in every request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// The user at the other end of a unix socket.
    pub uid: Option<u32>,
    pub tls: bool,
}

enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Answers on `listener` with `app` until the end is asked for; then drains.
///
/// On a unix socket only root and the user this process runs as are answered; others are cut off.
pub async fn serve(
    listener: Listener,
    tls: Option<Arc<rustls::ServerConfig>>,
    app: Router,
    limits: Limits,
    shutdown: Shutdown,
) -> io::Result<()> {
    let accepting = match listener {
        Listener::Tcp(l) => {
            l.set_nonblocking(true)?;
            Accepting::Tcp(tokio::net::TcpListener::from_std(l)?)
        }
        Listener::Unix(l) => {
            l.set_nonblocking(true)?;
            Accepting::Unix(tokio::net::UnixListener::from_std(l)?)
        }
    };
    let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
    let app = app.layer(axum::extract::DefaultBodyLimit::max(limits.body_bytes));
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = Arc::new(GracefulShutdown::new());

    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            () = shutdown.asked() => break,
        };
        let accepted = tokio::select! {
            accepted = accept(&accepting) => accepted,
            () = shutdown.asked() => break,
        };
        let (stream, peer) = match accepted {
            Ok(pair) => pair,
            Err(error) => {
                // Out of descriptors or a client that left: neither may end the role, nor spin the loop.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Some(uid) = peer.uid
            && !may_command(uid)
        {
            tracing::warn!(uid, "refused a user on the control socket");
            continue;
        }
        let (acceptor, app, limits, graceful) = (acceptor.clone(), app.clone(), limits.clone(), graceful.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let _place = place;
            match (stream, acceptor) {
                (Stream::Unix(stream), _) => connection(stream, app, peer, &limits, watcher).await,
                (Stream::Tcp(stream), None) => connection(stream, app, peer, &limits, watcher).await,
                (Stream::Tcp(stream), Some(acceptor)) => {
                    match tokio::time::timeout(limits.header_timeout, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            connection(stream, app, Peer { tls: true, ..peer }, &limits, watcher).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                        Err(_) => tracing::debug!("TLS handshake took too long"),
                    }
                }
            }
        });
    }
    drop(accepting);
    let graceful = Arc::try_unwrap(graceful);
    match graceful {
        Ok(graceful) => {
            let _ = tokio::time::timeout(limits.drain, graceful.shutdown()).await;
        }
        // A handshake still holds it; its connection has not asked for anything yet.
        Err(_) => tracing::debug!("left during a handshake"),
    }
    Ok(())
}

/// Whether the user at the other end of a control socket may command this process: root, or the user we are.
///
/// Inside a user namespace root is not mapped and shows as the overflow user, like everybody else out there. The socket
/// file is then the judge: it has mode 0600, so that of those only root could connect.
pub fn may_command(uid: u32) -> bool {
    let overflow = || std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok().and_then(|t| t.trim().parse().ok());
    let all_mapped = || {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"]
    };
    uid == 0 || uid == rustix::process::geteuid().as_raw() || (Some(uid) == overflow() && !all_mapped())
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(accepting: &Accepting) -> io::Result<(Stream, Peer)> {
    match accepting {
        Accepting::Tcp(l) => {
            let (stream, address) = l.accept().await?;
            let _ = stream.set_nodelay(true);
            Ok((Stream::Tcp(stream), Peer { address: Some(address), ..Peer::default() }))
        }
        Accepting::Unix(l) => {
            let (stream, _) = l.accept().await?;
            let uid = stream.peer_cred()?.uid();
            Ok((Stream::Unix(stream), Peer { uid: Some(uid), ..Peer::default() }))
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    app: Router,
    peer: Peer,
    limits: &Limits,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let app = app.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.map(axum::body::Body::new)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_bytes as u32)
        .max_concurrent_streams(128);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(app));
    if let Err(error) = watcher.watch(serving.into_owned()).await {
        tracing::debug!(%error, "a connection ended early");
    }
}
