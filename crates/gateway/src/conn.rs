//! One client connection: who it is, whether it is busy, and one line of the access log for each of its requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::Instant,
};

use ::http::{HeaderValue, Method, Uri, Version};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    access::Line,
    spans::Span,
    target::{Target, now_ms},
    trace::Trace,
    worker::Worker,
};

/// Shared by the connection's task and its requests.
pub struct Conn {
    pub worker: Arc<Worker>,
    pub peer: SocketAddr,
    /// The peer's address as `X-Forwarded-For` says it, made once.
    pub address: HeaderValue,
    pub https: bool,
    /// Set once the connection carries a WebSocket: its bytes are no longer HTTP.
    pub tunnel: AtomicBool,
    open: AtomicU32,
    last_ms: AtomicU64,
    waker: Mutex<Option<Waker>>,
    _place: OwnedSemaphorePermit,
}

impl Conn {
    /// `place` is held as long as the connection.
    pub fn new(worker: Arc<Worker>, peer: SocketAddr, https: bool, place: OwnedSemaphorePermit) -> Self {
        // An IPv4 client of a dual-stack listener is named by its IPv4 address.
        let address = HeaderValue::try_from(peer.ip().to_canonical().to_string()).expect("an address is visible text");
        Self {
            worker,
            peer,
            address,
            https,
            tunnel: AtomicBool::new(false),
            open: AtomicU32::new(0),
            last_ms: AtomicU64::new(now_ms()),
            waker: Mutex::default(),
            _place: place,
        }
    }

    /// The peer's address for the log.
    fn client(&self) -> &str {
        self.address.to_str().unwrap_or_default()
    }

    /// Whether a request is open.
    pub fn is_busy(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// When the last request ended, or the connection was made: [`now_ms`].
    pub fn idle_since(&self) -> u64 {
        self.last_ms.load(Relaxed)
    }

    /// Remembers the connection's task, so that [`Conn::wake`] reaches it.
    pub fn remember(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Has the connection's task look at the gateway's phase.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// A line for bytes that never became a request.
    pub fn log_fault(&self, fault: &str) {
        self.worker.gateway.log.append(&Line {
            method: "",
            host: "",
            path: "",
            protocol: "HTTP/1.1",
            status: 400,
            bytes: 0,
            received: 0,
            microseconds: 0,
            upstream: "",
            trace: "",
            client: self.client(),
            note: fault,
        });
    }
}

/// Body bytes of a request as they pass, and what went wrong with them.
#[derive(Default)]
pub struct Received {
    pub bytes: AtomicU64,
    /// When the last of them came: [`now_ms`].
    pub last_ms: AtomicU64,
    /// The last of them has come.
    pub ended: AtomicBool,
    pub too_large: AtomicBool,
    pub timed_out: AtomicBool,
    pub broken: AtomicBool,
}

/// One request; its line is written when this is dropped, whatever became of it.
pub struct Record {
    pub conn: Arc<Conn>,
    method: Method,
    uri: Uri,
    version: Version,
    started: Instant,
    /// The host it was routed by.
    pub host: Option<HeaderValue>,
    pub trace: Trace,
    pub status: u16,
    /// Body bytes that were handed to the connection.
    pub bytes: u64,
    pub received: Option<Arc<Received>>,
    pub target: Option<Arc<Target>>,
    pub note: &'static str,
}

impl Record {
    /// Whether the client may still be sending the body.
    pub fn is_receiving(&self) -> bool {
        self.received.as_ref().is_some_and(|received| !received.ended.load(Relaxed))
    }

    /// Begins with status 499: the client left before an answer began.
    pub fn new<B>(conn: Arc<Conn>, request: &http::Request<B>, trace: Trace) -> Self {
        conn.open.fetch_add(1, Relaxed);
        Self {
            conn,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            started: Instant::now(),
            host: None,
            trace,
            status: 499,
            bytes: 0,
            received: None,
            target: None,
            note: "client left",
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let host = self.host.as_ref().and_then(|h| h.to_str().ok()).unwrap_or_default();
        self.conn.worker.gateway.log.append(&Line {
            method: self.method.as_str(),
            host,
            path: self.uri.path(),
            protocol: match self.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            status: self.status,
            bytes: self.bytes,
            received: self.received.as_ref().map_or(0, |r| r.bytes.load(Relaxed)),
            microseconds: took.as_micros() as u64,
            upstream: self.target.as_ref().map_or("", |t| t.label.as_str()),
            trace: self.trace.id(),
            client: self.conn.client(),
            note: self.note,
        });
        if let Some(spans) = self.conn.worker.gateway.spans.as_ref().filter(|_| self.trace.is_sampled()) {
            spans.append(&Span {
                trace: &self.trace,
                took,
                method: self.method.as_str(),
                path: self.uri.path(),
                version: self.version,
                https: self.conn.https,
                host,
                status: self.status,
                target: self.target.as_ref().map_or("", |t| t.label.as_str()),
                client: self.conn.client(),
            });
        }
        self.conn.last_ms.store(now_ms(), Relaxed);
        self.conn.open.fetch_sub(1, Relaxed);
    }
}
