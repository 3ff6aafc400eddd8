//! A server span for each sampled request, sent to the stamp's telemetry (OTLP over HTTP, protobuf).
//!
//! A request's end encodes its span into a buffer, as it writes its line of the access log; a task apart sends what has
//! gathered, once a second or when there is much. While telemetry is away the buffer fills up to [`MOST`]; what comes then is
//! counted and left out. The wire format is written here by hand: it is seven small messages, and nothing else of protobuf is
//! needed. Nothing of a request is kept: its fields lie in the buffer its connection reads into, which could not be used
//! again meanwhile.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::Version;
use api::{client::Client, context::secret, gateway::GatewayConfig};
use bytes::Bytes;
use service::{Clock, Context};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{error::Error, trace::Trace};

/// Bytes that may wait: some 15,000 spans.
const MOST: usize = 4 * 1024 * 1024;
/// Bytes that are sent before their time: a TLS handshake a call is shared by them.
const ENOUGH: usize = 1024 * 1024;
const EVERY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One request, as its span tells it.
pub struct Span<'a> {
    pub trace: &'a Trace,
    /// From its head to its answer's last byte, which is now.
    pub took: Duration,
    pub method: &'a str,
    /// Without the query, as in the access log.
    pub path: &'a str,
    pub version: Version,
    pub https: bool,
    pub host: &'a str,
    pub status: u16,
    /// Empty: it was not sent on.
    pub target: &'a str,
    /// An address.
    pub client: &'a str,
}

#[derive(Default)]
struct Waiting {
    /// Fields 2 of a `ScopeSpans`.
    bytes: Vec<u8>,
    count: u64,
    /// One span, before its length is known.
    one: Vec<u8>,
}

/// Takes spans from all workers.
pub struct Spans {
    waiting: Mutex<Waiting>,
    enough: Notify,
    clock: Clock,
    ended: AtomicBool,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Spans {
    fn new(clock: Clock) -> Self {
        Self {
            waiting: Mutex::default(),
            enough: Notify::new(),
            clock,
            ended: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Takes a span; never waits for whoever receives them.
    pub fn append(&self, span: &Span<'_>) {
        let now = self.clock.now_us() * 1000;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.bytes.len();
        if before > MOST {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let Waiting { bytes, count, one } = &mut *waiting;
        one.clear();
        span.encode(one, now);
        field(bytes, 2, one);
        *count += 1;
        if before < ENOUGH && bytes.len() >= ENOUGH {
            self.enough.notify_one();
        }
    }

    /// How many were sent, and left out, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.dropped.load(Relaxed))
    }

    /// Asks the task to send what waits and end.
    pub fn end(&self) {
        self.ended.store(true, Relaxed);
        self.enough.notify_one();
    }
}

/// Where spans go, and the task that sends them on.
pub type Sending = (Arc<Spans>, JoinHandle<()>);

/// Starts sending, if this stamp has telemetry.
pub fn start(config: &GatewayConfig, context: &mut Context) -> Result<Option<Sending>, Error> {
    let Some(base) = &config.telemetry else { return Ok(None) };
    let Some(key) = context.secrets.take(secret::INGEST_KEY) else {
        tracing::warn!("no spans are sent: the ingestion key was not handed over");
        return Ok(None);
    };
    let client = context.client(base).map_err(Error::Tls)?.bearer(key);
    let spans = Arc::new(Spans::new(context.clock.clone()));
    let sender = Sender { spans: spans.clone(), client, resource: context.resource.clone() };
    Ok(Some((spans, tokio::spawn(sender.run()))))
}

struct Sender {
    spans: Arc<Spans>,
    client: Client,
    resource: String,
}

impl Sender {
    async fn run(self) {
        let mut batch = Vec::new();
        let mut told = 0;
        loop {
            // Either way it is time.
            let _ = tokio::time::timeout(EVERY, self.spans.enough.notified()).await;
            let ended = self.spans.ended.load(Relaxed);
            let count = {
                let mut waiting = self.spans.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                // The buffers change places, so that neither grows anew each time.
                std::mem::swap(&mut batch, &mut waiting.bytes);
                std::mem::take(&mut waiting.count)
            };
            if count > 0 {
                self.send(&batch, count).await;
            }
            // A burst's buffer is given back.
            batch = if batch.capacity() > 2 * ENOUGH { Vec::new() } else { batch };
            batch.clear();
            let dropped = self.spans.dropped.load(Relaxed);
            if dropped > told {
                tracing::warn!(spans = dropped - told, "spans were left out: telemetry does not take them");
                told = dropped;
            }
            if ended {
                return;
            }
        }
    }

    /// Sends until it is accepted, or refused for good: the same again would be refused again.
    async fn send(&self, batch: &[u8], count: u64) {
        let body = Bytes::from(whole(batch, &self.resource));
        let mut pause = EVERY;
        loop {
            match self.client.send("POST", "/v1/traces", Some(("application/x-protobuf", body.clone()))).await {
                Ok(answer) if answer.status.is_success() => {
                    self.spans.sent.fetch_add(count, Relaxed);
                    return;
                }
                Ok(answer) if answer.status.is_client_error() && answer.status.as_u16() != 429 => {
                    tracing::warn!(status = answer.status.as_u16(), "telemetry refused spans");
                    break;
                }
                _ if self.spans.ended.load(Relaxed) => break,
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.spans.dropped.fetch_add(count, Relaxed);
    }
}

/// `ExportTraceServiceRequest` of opentelemetry-proto 1, around spans that are encoded.
fn whole(spans: &[u8], resource: &str) -> Vec<u8> {
    let mut about = Vec::new();
    attribute(&mut about, 1, "service.name", resource);
    let mut scope = Vec::new();
    field(&mut scope, 1, b"stamp.gateway");
    let in_scope = length(scope.len()) + spans.len();
    let mut whole = Vec::with_capacity(spans.len() + 256);
    begin(&mut whole, 1, length(about.len()) + length(in_scope));
    field(&mut whole, 1, &about);
    begin(&mut whole, 2, in_scope);
    field(&mut whole, 1, &scope);
    whole.extend_from_slice(spans);
    whole
}

impl Span<'_> {
    /// `ended` in nanoseconds since the Unix epoch.
    fn encode(&self, to: &mut Vec<u8>, ended: i64) {
        const SERVER: u64 = 2;
        const ERROR: u64 = 2;
        let mut id = [0; 16];
        field(to, 1, unhex(self.trace.id(), &mut id));
        field(to, 2, unhex(self.trace.span(), &mut id));
        if let Some(parent) = self.trace.parent() {
            field(to, 4, unhex(parent, &mut id));
        }
        field(to, 5, self.method.as_bytes());
        number(to, 6, SERVER);
        fixed(to, 7, ended - self.took.as_nanos() as i64);
        fixed(to, 8, ended);
        attribute(to, 9, "http.request.method", self.method);
        attribute(to, 9, "url.path", self.path);
        attribute(to, 9, "url.scheme", if self.https { "https" } else { "http" });
        attribute(to, 9, "network.protocol.version", if self.version == Version::HTTP_2 { "2" } else { "1.1" });
        attribute(to, 9, "client.address", self.client);
        if !self.host.is_empty() {
            attribute(to, 9, "server.address", self.host);
        }
        if !self.target.is_empty() {
            attribute(to, 9, "stamp.target", self.target);
        }
        // 499: the client left before there was a status.
        if self.status != 499 {
            const KEY: &str = "http.response.status_code";
            // A number from 128 to 16383 takes two bytes.
            let any = 3;
            begin(to, 9, length(KEY.len()) + length(any));
            field(to, 1, KEY.as_bytes());
            begin(to, 2, any);
            number(to, 3, u64::from(self.status).clamp(128, 16383));
        }
        if self.status >= 500 {
            let mut status = Vec::with_capacity(4);
            number(&mut status, 3, ERROR);
            field(to, 15, &status);
        }
    }
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// The begin of a field of bytes, text or a message, which is of wire type 2: its tag and its length.
fn begin(to: &mut Vec<u8>, tag: u64, length: usize) {
    varint(to, tag << 3 | 2);
    varint(to, length as u64);
}

fn field(to: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    begin(to, tag, bytes.len());
    to.extend_from_slice(bytes);
}

fn number(to: &mut Vec<u8>, tag: u64, value: u64) {
    varint(to, tag << 3);
    varint(to, value);
}

fn fixed(to: &mut Vec<u8>, tag: u64, value: i64) {
    varint(to, tag << 3 | 1);
    to.extend_from_slice(&value.to_le_bytes());
}

/// How many bytes [`field`] takes, for a tag below 16.
fn length(bytes: usize) -> usize {
    1 + (1..).find(|n| bytes >> (7 * n) == 0).unwrap_or(1) + bytes
}

/// A `KeyValue` whose `AnyValue` is text. Nothing is put together apart: there are ten of them a span.
fn attribute(to: &mut Vec<u8>, tag: u64, key: &str, value: &str) {
    let any = length(value.len());
    begin(to, tag, length(key.len()) + length(any));
    field(to, 1, key.as_bytes());
    begin(to, 2, any);
    field(to, 1, value.as_bytes());
}

/// The bytes of hexadecimal digits, of which there are 32 at most.
fn unhex<'a>(digits: &str, to: &'a mut [u8; 16]) -> &'a [u8] {
    let value = |digit: u8| (digit as char).to_digit(16).unwrap_or_default() as u8;
    for (byte, pair) in to.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    &to[..digits.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Ids;

    #[test]
    fn what_nobody_takes_is_bounded_and_counted() {
        let (spans, ids) = (Spans::new(Clock::default()), Ids::new());
        let (trace, _) = Trace::next(None, &ids);
        let span = Span {
            trace: &trace,
            took: Duration::ZERO,
            method: "GET",
            path: "/",
            version: Version::HTTP_11,
            https: true,
            host: "",
            status: 200,
            target: "",
            client: "127.0.0.1",
        };
        while spans.counts().1 < 5 {
            spans.append(&span);
        }
        let waiting = spans.waiting.lock().unwrap();
        let one = waiting.bytes.len() / waiting.count as usize;
        assert!((MOST..=MOST + one).contains(&waiting.bytes.len()), "{} bytes", waiting.bytes.len());
    }
}
