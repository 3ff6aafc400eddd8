//! A thread that accepts and serves connections, with a runtime of its own.
//!
//! The listeners are inherited, so there is no socket a worker (`SO_REUSEPORT`): each worker accepts on a duplicate of
//! the same socket. A connection, its upstream connections and their timers stay on the worker that accepted it, so
//! that nothing of a request crosses threads.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    conn::Conn,
    pool::Pool,
    proxy,
    run::{Gateway, Phase},
    screen::Screen,
    trace::Ids,
};

/// How often unused upstream connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// What one thread has to itself.
pub struct Worker {
    pub gateway: Arc<Gateway>,
    pub pool: Pool,
    pub ids: Ids,
    conns: Mutex<HashMap<u64, Weak<Conn>>>,
    /// Connections that are accepted and wait for a place.
    placing: AtomicUsize,
    next: AtomicU64,
}

/// A listener and what is served on it. None: redirects only.
pub struct Port {
    pub listener: std::net::TcpListener,
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Serves until the gateway is asked to end and its connections are gone or out of time. Call it on its own thread.
pub fn run(gateway: Arc<Gateway>, ports: Vec<Port>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Arc::new(Worker {
        gateway: gateway.clone(),
        pool: Pool::default(),
        ids: Ids::new(),
        conns: Mutex::default(),
        placing: AtomicUsize::new(0),
        next: AtomicU64::new(0),
    });
    runtime.block_on(async {
        for Port { listener, tls } in ports {
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(accept(worker.clone(), listener, tls.map(TlsAcceptor::from)));
        }
        tokio::spawn({
            let worker = worker.clone();
            async move {
                loop {
                    tokio::time::sleep(SWEEP).await;
                    worker.pool.sweep();
                    // What a WebSocket left behind.
                    worker.conns.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, c| c.strong_count() > 0);
                }
            }
        });
        let mut phase = gateway.phases();
        loop {
            let now = *phase.borrow_and_update();
            worker.wake_all();
            if now == Phase::Cut || (now != Phase::Serving && worker.is_empty()) {
                return Ok(());
            }
            tokio::select! {
                changed = phase.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(Duration::from_millis(10)), if now != Phase::Serving => {}
            }
        }
    })
    // Dropping the runtime closes what is left.
}

impl Worker {
    fn is_empty(&self) -> bool {
        self.placing.load(Relaxed) == 0
            && self.conns.lock().unwrap_or_else(PoisonError::into_inner).values().all(|c| c.strong_count() == 0)
    }

    fn wake_all(&self) {
        let conns = self.conns.lock().unwrap_or_else(PoisonError::into_inner);
        conns.values().filter_map(Weak::upgrade).for_each(|conn| conn.wake());
    }
}

async fn accept(worker: Arc<Worker>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let gateway = worker.gateway.clone();
    let mut phases = gateway.phases();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phases.wait_for(|p| *p != Phase::Serving) => return,
        };
        let (stream, peer) = match accepted {
            Ok(pair) => pair,
            Err(error) => {
                // Out of descriptors, or a client that left: neither may end the gateway or spin the loop.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        // The one that waits for a place is the last of this listener until there is one; the rest stay in the backlog. A
        // drain waits for it: its client may have sent a request.
        worker.placing.fetch_add(1, Relaxed);
        let place = gateway.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let conn = Arc::new(Conn::new(worker.clone(), peer, tls.is_some(), place));
        let number = worker.next.fetch_add(1, Relaxed);
        worker.conns.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::downgrade(&conn));
        worker.placing.fetch_sub(1, Relaxed);
        let (worker, tls) = (worker.clone(), tls.clone());
        tokio::spawn(async move {
            connection(conn, stream, peer, tls).await;
            // A WebSocket lives on in a task of its own; its connection counts until its record is dropped.
            let mut conns = worker.conns.lock().unwrap_or_else(PoisonError::into_inner);
            if conns.get(&number).is_some_and(|conn| conn.strong_count() == 0) {
                conns.remove(&number);
            }
        });
    }
}

async fn connection(conn: Arc<Conn>, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
    let Some(tls) = tls else {
        return http1(conn, stream, false).await;
    };
    let timeout = Duration::from_millis(conn.worker.gateway.table.load().limits.header_timeout_ms);
    match tokio::time::timeout(timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => http2(conn, stream).await,
        Ok(Ok(stream)) => http1(conn, stream, true).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(conn: Arc<Conn>, stream: S, serve: bool) {
    let table = conn.worker.gateway.table.load_full();
    let screen = Screen::new(stream, conn.clone(), &table.limits, true);
    let mut builder = http1::Builder::new();
    // The screen keeps the times; hyper's own timer would be set anew for each request.
    builder.header_read_timeout(None).max_buf_size(table.limits.header_bytes.max(8192));
    if table.limits.headers != 100 {
        // hyper's own bound is 100, and without an allocation.
        builder.max_headers(table.limits.headers);
    }
    let service = {
        let conn = conn.clone();
        hyper::service::service_fn(move |request| {
            let conn = conn.clone();
            async move { if serve { proxy::handle(conn, request).await } else { proxy::redirect(conn, request).await } }
        })
    };
    let mut serving = pin!(builder.serve_connection(TokioIo::new(screen), service).with_upgrades());
    let mut told = false;
    let mut known = false;
    let ended = std::future::poll_fn(|cx| {
        if !known {
            known = true;
            conn.remember(cx.waker());
        }
        if !told && conn.worker.gateway.phase() >= Phase::Closing {
            told = true;
            serving.as_mut().graceful_shutdown();
        }
        serving.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(peer = %conn.peer, %error, "a connection ended early");
    }
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(conn: Arc<Conn>, stream: S) {
    let table = conn.worker.gateway.table.load_full();
    let screen = Screen::new(stream, conn.clone(), &table.limits, false);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(table.limits.streams)
        .max_header_list_size(u32::try_from(table.limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024);
    let service = {
        let conn = conn.clone();
        hyper::service::service_fn(move |request| proxy::handle(conn.clone(), request))
    };
    let mut serving = pin!(builder.serve_connection(TokioIo::new(screen), service));
    let mut told = false;
    let mut known = false;
    let ended = std::future::poll_fn(|cx| {
        if !known {
            known = true;
            conn.remember(cx.waker());
        }
        // GOAWAY names the last stream that is served, so no request is lost by sending it at once.
        if !told && conn.worker.gateway.phase() != Phase::Serving {
            told = true;
            serving.as_mut().graceful_shutdown();
        }
        std::future::Future::poll(serving.as_mut(), cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(peer = %conn.peer, %error, "a connection ended early");
    }
}
