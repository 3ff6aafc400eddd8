//! The `tracing` layer that turns spans and events into OTLP records.

use std::{
    fmt::Debug,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    OWN_TARGET,
    context::{TraceContext, hex, random, unhex},
    metrics,
};

/// A finished record, in OTLP's JSON form.
pub(super) enum Item {
    Span(Value),
    Log(Value),
}

pub(super) struct ExportLayer {
    queue: mpsc::Sender<Item>,
}

/// What is kept of an open span.
struct Open {
    context: TraceContext,
    id: [u8; 8],
    start: u64,
    fields: Fields,
}

/// Gathers fields; a few names are OpenTelemetry's own and steer the record.
#[derive(Default)]
struct Fields {
    message: String,
    name: Option<String>,
    kind: u8,
    /// A remote parent, given to the first span of a request.
    parent: Option<TraceContext>,
    /// The trace that a request without a remote parent begins.
    trace: Option<TraceContext>,
    error: bool,
    attributes: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let text = || value.as_str().unwrap_or_default().to_owned();
        match field.name() {
            "message" => self.message = text(),
            "otel.name" => self.name = Some(text()),
            "otel.kind" => self.kind = if value == "server" { 2 } else { 3 },
            "otel.parent" => self.parent = TraceContext::parse(&text()),
            "trace_id" => {
                self.trace = unhex(&text()).map(|trace| TraceContext { trace, parent: [0; 8] });
            }
            name => {
                self.error |= name == "error.type";
                self.attributes.push((name.to_owned(), value));
            }
        }
    }

    fn otlp(&self) -> Vec<Value> {
        self.attributes.iter().map(|(key, value)| json!({ "key": key, "value": any_value(value) })).collect()
    }
}

fn any_value(value: &Value) -> Value {
    match value {
        Value::Bool(b) => json!({ "boolValue": b }),
        Value::Number(n) if n.is_f64() => json!({ "doubleValue": n }),
        Value::Number(n) => json!({ "intValue": n.to_string() }),
        Value::String(s) => json!({ "stringValue": s }),
        other => json!({ "stringValue": other.to_string() }),
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(value.to_owned()));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, Value::String(value.to_string()));
    }
}

impl ExportLayer {
    pub(super) fn new(queue: mpsc::Sender<Item>) -> ExportLayer {
        ExportLayer { queue }
    }

    fn send(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            metrics().add("telemetry.dropped", 1, &[]);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ExportLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = span.parent().and_then(|p| p.extensions().get::<Open>().map(child_of));
        let trace = parent.or(fields.parent).or(fields.trace).unwrap_or_else(TraceContext::fresh);
        span.extensions_mut().insert(Open { context: trace, id: random(), start: now(), fields });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut open.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() == OWN_TARGET {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.attributes.push(("code.namespace".to_owned(), metadata.target().into()));
        let (number, text) = severity(*metadata.level());
        let time = now().to_string();
        let mut record = json!({
            "timeUnixNano": time, "observedTimeUnixNano": time, "severityNumber": number, "severityText": text,
            "body": { "stringValue": fields.message }, "attributes": fields.otlp(),
        });
        if let Some((_, name)) = fields.attributes.iter().find(|(k, _)| k == "event.name") {
            record["eventName"] = name.clone();
        }
        let within = context.event_span(event).and_then(|s| s.extensions().get::<Open>().map(child_of));
        if let Some(within) = within {
            record["traceId"] = hex(&within.trace).into();
            record["spanId"] = hex(&within.parent).into();
        }
        self.send(Item::Log(record));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        let name = open.fields.name.clone().unwrap_or_else(|| span.name().to_owned());
        let mut record = json!({
            "traceId": hex(&open.context.trace), "spanId": hex(&open.id), "name": name, "kind": open.fields.kind.max(1),
            "startTimeUnixNano": open.start.to_string(), "endTimeUnixNano": now().to_string(),
            "attributes": open.fields.otlp(),
            "status": if open.fields.error { json!({ "code": 2 }) } else { json!({}) },
        });
        if open.context.parent != [0; 8] {
            record["parentSpanId"] = hex(&open.context.parent).into();
        }
        self.send(Item::Span(record));
    }
}

fn child_of(open: &Open) -> TraceContext {
    TraceContext { trace: open.context.trace, parent: open.id }
}

/// The context a call made now would carry on.
pub(super) fn current_context() -> Option<TraceContext> {
    tracing::dispatcher::get_default(|dispatch| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        let current = tracing::Span::current().id()?;
        let span = registry.span(&current)?;
        span.extensions().get::<Open>().map(child_of)
    })
}

fn severity(level: Level) -> (u8, &'static str) {
    match level {
        Level::ERROR => (17, "ERROR"),
        Level::WARN => (13, "WARN"),
        Level::INFO => (9, "INFO"),
        Level::DEBUG => (5, "DEBUG"),
        Level::TRACE => (1, "TRACE"),
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
