//! Sending: one task gathers records and posts them as OTLP/HTTP JSON, with pauses that grow while the receiver is away.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};
use url::Url;

use super::{OWN_TARGET, QUEUE, TelemetryError, layer, layer::Item, metrics};
use crate::{Settings, Trust, https::Client};

/// Records in one request.
const BATCH: usize = 512;
const EVERY: Duration = Duration::from_secs(2);
const METRICS_EVERY: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where telemetry goes, and the headers that say from whom it comes.
pub(super) struct Receiver {
    base: Url,
    headers: HeaderMap,
}

impl Receiver {
    pub(super) fn from_settings(settings: &Settings) -> Result<Option<Receiver>, TelemetryError> {
        const INSIGHTS: &str = "APPLICATIONINSIGHTS_CONNECTION_STRING";
        const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        if let Some(text) = settings.optional(INSIGHTS)? {
            return insights(text).map(Some).ok_or(TelemetryError::Address(INSIGHTS));
        }
        let Some(text) = settings.optional(ENDPOINT)? else { return Ok(None) };
        let base = slashed(text).ok_or(TelemetryError::Address(ENDPOINT))?;
        let mut headers = HeaderMap::new();
        for pair in settings.optional("OTEL_EXPORTER_OTLP_HEADERS")?.unwrap_or_default().split(',') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy().into_owned();
            insert(&mut headers, name.trim(), &value).ok_or(TelemetryError::Address("OTEL_EXPORTER_OTLP_HEADERS"))?;
        }
        Ok(Some(Receiver { base, headers }))
    }
}

fn insights(text: &str) -> Option<Receiver> {
    let part = |name: &str| {
        let find = |p: &str| {
            p.split_once('=').filter(|(k, _)| k.trim().eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
        };
        text.split(';').find_map(find)
    };
    let mut headers = HeaderMap::new();
    insert(&mut headers, "x-ingest-key", &part("InstrumentationKey")?)?;
    Some(Receiver { base: slashed(&part("IngestionEndpoint")?)?, headers })
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Option<()> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    headers.insert(name.parse::<HeaderName>().ok()?, value);
    Some(())
}

fn slashed(text: &str) -> Option<Url> {
    Url::parse(&format!("{}/", text.trim_end_matches('/'))).ok().filter(|u| u.has_host())
}

/// The OTLP resource: which program this is.
pub(super) fn resource(settings: &Settings, service: &str, version: &str) -> Result<Value, TelemetryError> {
    let name = settings.optional("OTEL_SERVICE_NAME")?.unwrap_or(service);
    let instance =
        settings.optional("WEBSITE_INSTANCE_ID")?.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    let mut pairs = vec![("service.name", name), ("service.version", version), ("service.instance.id", &instance)];
    let environment = settings.optional("ASPNETCORE_ENVIRONMENT")?;
    pairs.extend(environment.map(|e| ("deployment.environment.name", e)));
    let attributes: Vec<Value> =
        pairs.iter().map(|(k, v)| json!({ "key": k, "value": { "stringValue": v } })).collect();
    Ok(json!({ "attributes": attributes }))
}

pub(super) struct Exporter {
    queue: mpsc::Sender<Item>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Exporter {
    pub(super) fn start(receiver: Receiver, trust: &Trust, resource: Value) -> Result<Exporter, TelemetryError> {
        let (queue, records) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let sender = Sender { https: Client::new(trust)?, receiver, resource };
        Ok(Exporter { queue, stop, task: tokio::spawn(run(sender, records, stopped)) })
    }

    pub(super) fn queue(&self) -> mpsc::Sender<Item> {
        self.queue.clone()
    }

    /// Sends what is waiting and ends.
    pub(super) async fn finish(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

struct Sender {
    https: Client,
    receiver: Receiver,
    resource: Value,
}

#[derive(Default)]
struct Waiting {
    spans: Vec<Value>,
    logs: Vec<Value>,
    metrics: Vec<Value>,
}

async fn run(sender: Sender, mut records: mpsc::Receiver<Item>, mut stopped: oneshot::Receiver<()>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Waiting::default();
    let mut pause = Pause::default();
    let mut measured = (layer::now(), Instant::now());
    let mut last = false;
    while !last {
        tokio::select! {
            // Nothing is taken from the queue while a batch cannot be sent: the queue is the limit on memory.
            Some(item) = records.recv(), if waiting.len() < BATCH => {
                waiting.take(item);
                if waiting.len() < BATCH {
                    continue;
                }
            }
            _ = tick.tick() => {}
            _ = &mut stopped => {
                last = true;
                while let Ok(item) = records.try_recv() {
                    waiting.take(item);
                }
            }
        }
        if last || measured.1.elapsed() >= METRICS_EVERY {
            let to = layer::now();
            waiting.metrics = metrics().drain(measured.0, to);
            measured = (to, Instant::now());
        }
        if last || pause.is_over() {
            pause.after(sender.send(&mut waiting).await);
        }
        if waiting.len() >= BATCH && !last {
            // Full and the receiver is away: wait for the pause instead of spinning on the tick.
            tick.tick().await;
        }
    }
}

impl Waiting {
    fn len(&self) -> usize {
        self.spans.len() + self.logs.len()
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Span(span) => self.spans.push(span),
            Item::Log(log) => self.logs.push(log),
        }
    }
}

/// The growing time between attempts while the receiver is away.
#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    length: Duration,
}

impl Pause {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    fn after(&mut self, sent: bool) {
        if sent {
            *self = Pause::default();
            return;
        }
        self.length = (self.length * 2).clamp(EVERY, LONGEST_PAUSE);
        self.until = Some(Instant::now() + self.length);
    }
}

impl Sender {
    /// Sends all three kinds; true when nothing is left. A batch that the receiver refuses (4xx) is dropped: it would be
    /// refused again.
    async fn send(&self, waiting: &mut Waiting) -> bool {
        let scope = json!({ "name": "sdk" });
        let resource = &self.resource;
        let mut all = true;
        if !waiting.spans.is_empty() {
            let body = json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [{ "scope": scope, "spans": waiting.spans }] }] });
            if self.post("v1/traces", body).await { waiting.spans.clear() } else { all = false }
        }
        if all && !waiting.logs.is_empty() {
            let body = json!({ "resourceLogs": [{ "resource": resource, "scopeLogs": [{ "scope": scope, "logRecords": waiting.logs }] }] });
            if self.post("v1/logs", body).await { waiting.logs.clear() } else { all = false }
        }
        if all && !waiting.metrics.is_empty() {
            let body = json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "scope": scope, "metrics": waiting.metrics }] }] });
            if self.post("v1/metrics", body).await { waiting.metrics.clear() } else { all = false }
        }
        all
    }

    /// True when the batch is done with: accepted, or refused for good.
    async fn post(&self, path: &str, body: Value) -> bool {
        let Ok(url) = self.receiver.base.join(path) else { return true };
        let mut headers = self.receiver.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from(body.to_string());
        match self.https.send_untraced(Method::POST, &url, headers, body).await {
            Ok(answer) if answer.status.is_success() => true,
            Ok(answer) if answer.status.is_client_error() && answer.status.as_u16() != 429 => {
                tracing::warn!(target: OWN_TARGET, status = answer.status.as_u16(), path, "telemetry was refused");
                true
            }
            Ok(answer) => {
                tracing::debug!(target: OWN_TARGET, status = answer.status.as_u16(), path, "telemetry cannot be sent now");
                false
            }
            Err(error) => {
                tracing::debug!(target: OWN_TARGET, error = %error, path, "telemetry cannot be sent now");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_insights_string_gives_address_and_key() {
        let receiver = insights("InstrumentationKey=abc;IngestionEndpoint=https://127.0.0.1:4318/").unwrap();
        assert_eq!(receiver.base.join("v1/traces").unwrap().as_str(), "https://127.0.0.1:4318/v1/traces");
        assert_eq!(receiver.headers["x-ingest-key"], "abc");
        assert!(insights("InstrumentationKey=abc").is_none());
    }

    #[test]
    fn the_opentelemetry_variables_give_address_and_headers() {
        let settings = Settings::from_pairs([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, other=1"),
        ]);
        let receiver = Receiver::from_settings(&settings).unwrap().unwrap();
        assert_eq!(receiver.base.as_str(), "https://collector.example:4318/");
        assert_eq!(receiver.headers["authorization"], "Bearer x");
    }
}
