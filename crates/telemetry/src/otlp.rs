//! OTLP messages to rows. What is lost in decoding is counted, so that a sender hears of it.

use std::sync::Arc;

use base64::Engine as _;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::LogRecord,
    metrics::v1::{Metric as OtlpMetric, NumberDataPoint, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::Span as OtlpSpan,
};
use prost::Message as _;
use serde_json::{Map, Value, json};

use crate::row::{self, Arrival, Log, Metric, Number, Origin, Rows, Span};

/// A point's flag that says that there is no value, on purpose.
const NO_RECORDED_VALUE: u32 = 1;

/// The three signals of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Logs,
    Metrics,
    Traces,
}

/// The two encodings of OTLP/HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

/// Why a whole request was not understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the body is not an OTLP protobuf message")]
    Protobuf(#[source] prost::DecodeError),
    #[error("the body is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("the body is not an OTLP request: {0}")]
    Shape(String),
}

/// Decodes one request. Any bytes are answered; a record that is not understood does not harm its neighbours (JSON).
pub fn decode(signal: Signal, encoding: Encoding, body: &[u8], arrival: &Arrival) -> Result<Rows, DecodeError> {
    let mut rows = Rows::default();
    match encoding {
        Encoding::Json => {
            let value: Value = serde_json::from_slice(body).map_err(DecodeError::Json)?;
            crate::json::decode(signal, &value, arrival, &mut rows).map_err(DecodeError::Shape)?;
        }
        Encoding::Protobuf => match signal {
            Signal::Logs => {
                let request = ExportLogsServiceRequest::decode(body).map_err(DecodeError::Protobuf)?;
                for resource in request.resource_logs {
                    let sender = Sender::new(resource.resource, arrival);
                    for scope in resource.scope_logs {
                        let origin = sender.origin(scope.scope);
                        scope.log_records.into_iter().for_each(|r| log(r, &origin, arrival, &mut rows));
                    }
                }
            }
            Signal::Traces => {
                let request = ExportTraceServiceRequest::decode(body).map_err(DecodeError::Protobuf)?;
                for resource in request.resource_spans {
                    let sender = Sender::new(resource.resource, arrival);
                    for scope in resource.scope_spans {
                        let origin = sender.origin(scope.scope);
                        scope.spans.into_iter().for_each(|s| span(s, &origin, arrival, &mut rows));
                    }
                }
            }
            Signal::Metrics => {
                let request = ExportMetricsServiceRequest::decode(body).map_err(DecodeError::Protobuf)?;
                for resource in request.resource_metrics {
                    let sender = Sender::new(resource.resource, arrival);
                    for scope in resource.scope_metrics {
                        let origin = sender.origin(scope.scope);
                        scope.metrics.into_iter().for_each(|m| metric(m, &origin, arrival, &mut rows));
                    }
                }
            }
        },
    }
    Ok(rows)
}

/// One resource of a request.
pub(crate) struct Sender {
    service: String,
    resource: Arc<str>,
}

impl Sender {
    pub(crate) fn new(resource: Option<Resource>, arrival: &Arrival) -> Self {
        let attributes = object(resource.unwrap_or_default().attributes);
        let service = match attributes.get("service.name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => arrival.source.clone(),
        };
        Self { service, resource: Value::Object(attributes).to_string().into() }
    }

    pub(crate) fn origin(&self, scope: Option<InstrumentationScope>) -> Origin {
        Origin { service: self.service.clone(), scope: scope.unwrap_or_default().name, resource: self.resource.clone() }
    }
}

pub(crate) fn log(record: LogRecord, origin: &Origin, arrival: &Arrival, rows: &mut Rows) {
    let attributes = object(record.attributes);
    let severity = match record.severity_number {
        known @ 1..=24 => known,
        _ => row::severity(&record.severity_text).unwrap_or(0),
    };
    let body = match record.body.and_then(|b| b.value) {
        None => String::new(),
        Some(any_value::Value::StringValue(text)) => text,
        Some(other) => any(AnyValue { value: Some(other) }).to_string(),
    };
    rows.logs.push(Log {
        origin: origin.clone(),
        time_ns: first_time([record.time_unix_nano, record.observed_time_unix_nano], arrival),
        severity,
        body,
        trace_id: hex(&record.trace_id),
        span_id: hex(&record.span_id),
        event: record.event_name,
        exception: attributes.contains_key("exception.type") || attributes.contains_key("exception.message"),
        attributes: Value::Object(attributes).to_string(),
    });
}

pub(crate) fn span(span: OtlpSpan, origin: &Origin, arrival: &Arrival, rows: &mut Rows) {
    if span.trace_id.len() != 16 || span.span_id.len() != 8 {
        rows.reject(1, || format!("span {:?} has no trace id of 16 bytes and span id of 8", span.name));
        return;
    }
    let time_ns = first_time([span.start_time_unix_nano, span.end_time_unix_nano], arrival);
    let end_ns = nanos(span.end_time_unix_nano);
    let status = span.status.unwrap_or_default();
    let exceptions = span.events.iter().filter(|e| e.name == "exception").count() as u64;
    let events: Vec<Value> = (span.events.into_iter())
        .map(|e| json!({"time_ns": nanos(e.time_unix_nano), "name": e.name, "attributes": object(e.attributes)}))
        .collect();
    let links: Vec<Value> = (span.links.into_iter())
        .map(|l| json!({"trace_id": hex(&l.trace_id), "span_id": hex(&l.span_id), "attributes": object(l.attributes)}))
        .collect();
    rows.spans.push(Span {
        origin: origin.clone(),
        time_ns,
        duration_ns: end_ns.saturating_sub(time_ns).max(0),
        name: span.name,
        kind: match span.kind {
            2 => "server",
            3 => "client",
            4 => "producer",
            5 => "consumer",
            _ => "internal",
        },
        status: match status.code {
            1 => "ok",
            2 => "error",
            _ => "unset",
        },
        status_message: status.message,
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: hex(&span.parent_span_id),
        attributes: Value::Object(object(span.attributes)).to_string(),
        events: Value::Array(events).to_string(),
        links: Value::Array(links).to_string(),
        exceptions,
    });
}

pub(crate) fn metric(metric: OtlpMetric, origin: &Origin, arrival: &Arrival, rows: &mut Rows) {
    let OtlpMetric { name, unit, data, .. } = metric;
    let Some(data) = data else {
        rows.reject(1, || format!("metric {name:?} has no data that is understood"));
        return;
    };
    let empty = |kind, temporality| Metric {
        origin: origin.clone(),
        time_ns: 0,
        start_ns: 0,
        name: name.clone(),
        kind,
        unit: unit.clone(),
        temporality,
        monotonic: false,
        value: None,
        count: None,
        sum: None,
        min: None,
        max: None,
        buckets: String::new(),
        attributes: String::new(),
    };
    match data {
        Data::Gauge(gauge) => {
            gauge.data_points.into_iter().for_each(|p| number(p, empty("gauge", ""), arrival, rows));
        }
        Data::Sum(sum) => {
            let temporality = temporality(sum.aggregation_temporality);
            for point in sum.data_points {
                number(point, Metric { monotonic: sum.is_monotonic, ..empty("sum", temporality) }, arrival, rows);
            }
        }
        Data::Histogram(histogram) => {
            let temporality = temporality(histogram.aggregation_temporality);
            for point in histogram.data_points {
                rows.metrics.push(Metric {
                    time_ns: first_time([point.time_unix_nano, 0], arrival),
                    start_ns: nanos(point.start_time_unix_nano),
                    count: Some(signed(point.count)),
                    sum: point.sum,
                    min: point.min,
                    max: point.max,
                    buckets: json!({"bounds": point.explicit_bounds, "counts": point.bucket_counts}).to_string(),
                    attributes: Value::Object(object(point.attributes)).to_string(),
                    ..empty("histogram", temporality)
                });
            }
        }
        Data::ExponentialHistogram(histogram) => {
            let temporality = temporality(histogram.aggregation_temporality);
            for point in histogram.data_points {
                let side = |b: Option<
                    opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets,
                >| { b.map(|b| json!({"offset": b.offset, "counts": b.bucket_counts})) };
                rows.metrics.push(Metric {
                    time_ns: first_time([point.time_unix_nano, 0], arrival),
                    start_ns: nanos(point.start_time_unix_nano),
                    count: Some(signed(point.count)),
                    sum: point.sum,
                    min: point.min,
                    max: point.max,
                    buckets: json!({
                        "scale": point.scale, "zero_count": point.zero_count, "zero_threshold": point.zero_threshold,
                        "positive": side(point.positive), "negative": side(point.negative),
                    })
                    .to_string(),
                    attributes: Value::Object(object(point.attributes)).to_string(),
                    ..empty("exponential_histogram", temporality)
                });
            }
        }
        Data::Summary(summary) => {
            for point in summary.data_points {
                let quantiles: Vec<Value> =
                    point.quantile_values.iter().map(|q| json!({"quantile": q.quantile, "value": q.value})).collect();
                rows.metrics.push(Metric {
                    time_ns: first_time([point.time_unix_nano, 0], arrival),
                    start_ns: nanos(point.start_time_unix_nano),
                    count: Some(signed(point.count)),
                    sum: Some(point.sum),
                    buckets: json!({"quantiles": quantiles}).to_string(),
                    attributes: Value::Object(object(point.attributes)).to_string(),
                    ..empty("summary", "")
                });
            }
        }
    }
}

fn number(point: NumberDataPoint, metric: Metric, arrival: &Arrival, rows: &mut Rows) {
    let value = match point.value {
        Some(number_data_point::Value::AsInt(n)) => Some(Number::Int(n)),
        Some(number_data_point::Value::AsDouble(n)) => Some(Number::Double(n)),
        None if point.flags & NO_RECORDED_VALUE != 0 => None,
        None => {
            rows.reject(1, || format!("a point of metric {:?} has no value that is understood", metric.name));
            return;
        }
    };
    rows.metrics.push(Metric {
        time_ns: first_time([point.time_unix_nano, 0], arrival),
        start_ns: nanos(point.start_time_unix_nano),
        value,
        attributes: Value::Object(object(point.attributes)).to_string(),
        ..metric
    });
}

fn temporality(code: i32) -> &'static str {
    match code {
        1 => "delta",
        2 => "cumulative",
        _ => "",
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Nanoseconds as the store keeps them: a time beyond the year 2262 is held at the edge.
fn nanos(n: u64) -> i64 {
    signed(n)
}

/// The first time that is set, else the time of arrival.
fn first_time(times: [u64; 2], arrival: &Arrival) -> i64 {
    times.into_iter().find(|t| *t != 0).map_or_else(|| arrival.now_ms.saturating_mul(1_000_000), nanos)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    if bytes.iter().all(|b| *b == 0) {
        return String::new();
    }
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Attributes as a JSON object; the last one of a name wins, as in OpenTelemetry's SDKs.
fn object(attributes: Vec<KeyValue>) -> Map<String, Value> {
    attributes.into_iter().map(|pair| (pair.key, pair.value.map_or(Value::Null, any))).collect()
}

/// An attribute's value as JSON; bytes in base64, numbers that JSON lacks as text.
fn any(value: AnyValue) -> Value {
    match value.value {
        None | Some(any_value::Value::StringValueStrindex(_)) => Value::Null,
        Some(any_value::Value::StringValue(text)) => Value::String(text),
        Some(any_value::Value::BoolValue(b)) => Value::Bool(b),
        Some(any_value::Value::IntValue(n)) => n.into(),
        Some(any_value::Value::DoubleValue(n)) => {
            serde_json::Number::from_f64(n).map_or_else(|| Value::String(n.to_string()), Value::Number)
        }
        Some(any_value::Value::ArrayValue(list)) => list.values.into_iter().map(any).collect(),
        Some(any_value::Value::KvlistValue(list)) => Value::Object(object(list.values)),
        Some(any_value::Value::BytesValue(bytes)) => {
            Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    }
}
