//! A server span for each sampled request, sent to the stamp's telemetry (OTLP over HTTP, protobuf).
//!
//! A request's end costs a push to a list; a task apart encodes and sends what has gathered, once a second or when there is
//! much. While telemetry is away the list fills up to [`MOST`]; what comes then is counted and left out. The wire format is
//! written here by hand: it is seven small messages, and nothing else of protobuf is needed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ::http::{HeaderValue, Method, Uri, Version};
use api::{client::Client, context::secret, gateway::GatewayConfig};
use bytes::Bytes;
use service::{Clock, Context};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{error::Error, target::Target, trace::Trace};

/// Spans that may wait.
const MOST: usize = 16 * 1024;
/// So many are sent before their time: a TLS handshake a call is shared by them.
const ENOUGH: usize = 4 * 1024;
const EVERY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One request, as its span tells it.
pub struct Span {
    pub trace: Trace,
    pub started: Instant,
    pub took: Duration,
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub https: bool,
    pub host: Option<HeaderValue>,
    pub status: u16,
    pub target: Option<Arc<Target>>,
    /// The client's address.
    pub client: HeaderValue,
}

/// Takes spans from all workers.
#[derive(Default)]
pub struct Spans {
    waiting: Mutex<Vec<Span>>,
    enough: Notify,
    ended: AtomicBool,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Spans {
    /// Takes a span; never waits for whoever receives them.
    pub fn append(&self, span: Span) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOST {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.push(span);
        if waiting.len() == ENOUGH {
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

/// Starts sending, if this stamp has telemetry.
pub fn start(config: &GatewayConfig, context: &mut Context) -> Result<Option<(Arc<Spans>, JoinHandle<()>)>, Error> {
    let Some(base) = &config.telemetry else { return Ok(None) };
    let Some(key) = context.secrets.take(secret::INGEST_KEY) else {
        tracing::warn!("no spans are sent: the ingestion key was not handed over");
        return Ok(None);
    };
    let client = context.client(base).map_err(Error::Tls)?.bearer(key);
    let spans = Arc::new(Spans::default());
    let sender =
        Sender { spans: spans.clone(), client, resource: context.resource.clone(), clock: context.clock.clone() };
    Ok(Some((spans, tokio::spawn(sender.run()))))
}

struct Sender {
    spans: Arc<Spans>,
    client: Client,
    resource: String,
    clock: Clock,
}

impl Sender {
    async fn run(self) {
        let mut batch = Vec::new();
        let mut told = 0;
        loop {
            // Either way it is time.
            let _ = tokio::time::timeout(EVERY, self.spans.enough.notified()).await;
            let ended = self.spans.ended.load(Relaxed);
            // The lists change places, so that neither grows anew each time.
            std::mem::swap(&mut batch, &mut *self.spans.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if !batch.is_empty() {
                self.send(&batch).await;
                batch.clear();
            }
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
    async fn send(&self, batch: &[Span]) {
        let body = Bytes::from(encode(batch, &self.resource, self.clock.now_us()));
        let mut pause = EVERY;
        loop {
            match self.client.send("POST", "/v1/traces", Some(("application/x-protobuf", body.clone()))).await {
                Ok(answer) if answer.status.is_success() => {
                    self.spans.sent.fetch_add(batch.len() as u64, Relaxed);
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
        self.spans.dropped.fetch_add(batch.len() as u64, Relaxed);
    }
}

/// `ExportTraceServiceRequest` of opentelemetry-proto 1. `now_us` is the wall clock, by which the spans' times are told.
fn encode(batch: &[Span], resource: &str, now_us: i64) -> Vec<u8> {
    let now = Instant::now();
    let mut scope_spans = Vec::with_capacity(batch.len() * 320);
    let mut scope = Vec::new();
    field(&mut scope, 1, b"stamp.gateway");
    field(&mut scope_spans, 1, &scope);
    let mut one = Vec::with_capacity(512);
    for span in batch {
        one.clear();
        // A moved clock moves all of them; the order among them stays.
        let ended = now_us * 1000 - now.saturating_duration_since(span.started + span.took).as_nanos() as i64;
        span.encode(&mut one, ended);
        field(&mut scope_spans, 2, &one);
    }
    let mut resource_spans = Vec::with_capacity(scope_spans.len() + 128);
    let mut about = Vec::new();
    attribute(&mut about, 1, "service.name", resource);
    field(&mut resource_spans, 1, &about);
    field(&mut resource_spans, 2, &scope_spans);
    let mut whole = Vec::with_capacity(resource_spans.len() + 16);
    field(&mut whole, 1, &resource_spans);
    whole
}

impl Span {
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
        field(to, 5, self.method.as_str().as_bytes());
        number(to, 6, SERVER);
        fixed(to, 7, ended - self.took.as_nanos() as i64);
        fixed(to, 8, ended);
        attribute(to, 9, "http.request.method", self.method.as_str());
        attribute(to, 9, "url.path", self.uri.path());
        attribute(to, 9, "url.scheme", if self.https { "https" } else { "http" });
        attribute(to, 9, "network.protocol.version", if self.version == Version::HTTP_2 { "2" } else { "1.1" });
        attribute(to, 9, "client.address", self.client.to_str().unwrap_or_default());
        if let Some(host) = self.host.as_ref().and_then(|host| host.to_str().ok()) {
            attribute(to, 9, "server.address", host);
        }
        if let Some(target) = &self.target {
            attribute(to, 9, "stamp.target", &target.label);
        }
        // 499: the client left before there was a status.
        if self.status != 499 {
            const KEY: &str = "http.response.status_code";
            // A number from 128 to 16383 takes two bytes.
            let any = 3;
            varint(to, 9 << 3 | 2);
            varint(to, (length(KEY.len()) + length(any)) as u64);
            field(to, 1, KEY.as_bytes());
            varint(to, 2 << 3 | 2);
            varint(to, any as u64);
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

/// A field of bytes, text or a message: wire type 2.
fn field(to: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    varint(to, tag << 3 | 2);
    varint(to, bytes.len() as u64);
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
    varint(to, tag << 3 | 2);
    varint(to, (length(key.len()) + length(any)) as u64);
    field(to, 1, key.as_bytes());
    varint(to, 2 << 3 | 2);
    varint(to, any as u64);
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
        let (spans, ids) = (Spans::default(), Ids::new());
        for _ in 0..MOST + 5 {
            spans.append(Span {
                trace: Trace::next(None, &ids).0,
                started: Instant::now(),
                took: Duration::ZERO,
                method: Method::GET,
                uri: Uri::default(),
                version: Version::HTTP_11,
                https: true,
                host: None,
                status: 200,
                target: None,
                client: HeaderValue::from_static("127.0.0.1"),
            });
        }
        assert_eq!(spans.counts(), (0, 5));
        assert_eq!(spans.waiting.lock().unwrap().len(), MOST);
    }
}
