//! OTLP's JSON encoding to its messages, record by record.
//!
//! Not by derived deserializers: those refuse a whole request for one bad record, want fields that proto3 JSON leaves
//! out, and lose a metric's data behind a flattened option without a word. Here a bad record is counted and its
//! neighbours are kept. Numbers come as numbers or as text (senders differ), ids as hex, unknown fields are skipped.

use base64::Engine as _;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value},
    logs::v1::LogRecord,
    metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
        NumberDataPoint, Sum, Summary, SummaryDataPoint, exponential_histogram_data_point::Buckets, metric::Data,
        number_data_point, summary_data_point::ValueAtQuantile,
    },
    resource::v1::Resource,
    trace::v1::{Span, Status, span},
};
use serde_json::{Map, Value};

use crate::{
    otlp::{self, Sender, Signal},
    row::{Arrival, Rows},
};

/// What is wrong with a record.
type Fault = String;
type Object = Map<String, Value>;

/// Decodes a request; an error is a request that is none at all.
pub(crate) fn decode(signal: Signal, body: &Value, arrival: &Arrival, rows: &mut Rows) -> Result<(), Fault> {
    let (resources, scopes, records) = match signal {
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
        Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
    };
    let body = object(body)?;
    for resource in list(body, resources)? {
        let resource = object(resource)?;
        let described = match some(resource, "resource") {
            Some(value) => {
                Some(Resource { attributes: attributes(object(value)?, "attributes")?, ..Resource::default() })
            }
            None => None,
        };
        let sender = Sender::new(described, arrival);
        for scope in list(resource, scopes)? {
            let scope = object(scope)?;
            let named = match some(scope, "scope") {
                Some(value) => Some(InstrumentationScope { name: text(object(value)?, "name")?, ..Default::default() }),
                None => None,
            };
            let origin = sender.origin(named);
            for value in list(scope, records)? {
                let decoded = object(value).and_then(|record| {
                    match signal {
                        Signal::Logs => otlp::log(log(record)?, &origin, arrival, rows),
                        Signal::Traces => otlp::span(span(record)?, &origin, arrival, rows),
                        Signal::Metrics => otlp::metric(metric(record, rows)?, &origin, arrival, rows),
                    }
                    Ok(())
                });
                if let Err(fault) = decoded {
                    rows.reject(1, || fault);
                }
            }
        }
    }
    Ok(())
}

fn log(o: &Object) -> Result<LogRecord, Fault> {
    Ok(LogRecord {
        time_unix_nano: unsigned(o, "timeUnixNano")?,
        observed_time_unix_nano: unsigned(o, "observedTimeUnixNano")?,
        severity_number: enumeration(o, "severityNumber", &[])?,
        severity_text: text(o, "severityText")?,
        body: some(o, "body").map(any).transpose()?,
        attributes: attributes(o, "attributes")?,
        trace_id: hex(o, "traceId")?,
        span_id: hex(o, "spanId")?,
        event_name: text(o, "eventName")?,
        ..LogRecord::default()
    })
}

const KINDS: &[(&str, i32)] = &[
    ("SPAN_KIND_INTERNAL", 1),
    ("SPAN_KIND_SERVER", 2),
    ("SPAN_KIND_CLIENT", 3),
    ("SPAN_KIND_PRODUCER", 4),
    ("SPAN_KIND_CONSUMER", 5),
];
const STATUS: &[(&str, i32)] = &[("STATUS_CODE_OK", 1), ("STATUS_CODE_ERROR", 2)];
const TEMPORALITY: &[(&str, i32)] = &[("AGGREGATION_TEMPORALITY_DELTA", 1), ("AGGREGATION_TEMPORALITY_CUMULATIVE", 2)];

fn span(o: &Object) -> Result<Span, Fault> {
    let event = |value: &Value| {
        let o = object(value)?;
        Ok(span::Event {
            time_unix_nano: unsigned(o, "timeUnixNano")?,
            name: text(o, "name")?,
            attributes: attributes(o, "attributes")?,
            ..Default::default()
        })
    };
    let link = |value: &Value| {
        let o = object(value)?;
        Ok(span::Link {
            trace_id: hex(o, "traceId")?,
            span_id: hex(o, "spanId")?,
            attributes: attributes(o, "attributes")?,
            ..Default::default()
        })
    };
    let status = |value: &Value| {
        let o = object(value)?;
        Ok::<_, Fault>(Status { message: text(o, "message")?, code: enumeration(o, "code", STATUS)? })
    };
    Ok(Span {
        trace_id: hex(o, "traceId")?,
        span_id: hex(o, "spanId")?,
        parent_span_id: hex(o, "parentSpanId")?,
        name: text(o, "name")?,
        kind: enumeration(o, "kind", KINDS)?,
        start_time_unix_nano: unsigned(o, "startTimeUnixNano")?,
        end_time_unix_nano: unsigned(o, "endTimeUnixNano")?,
        attributes: attributes(o, "attributes")?,
        events: list(o, "events")?.iter().map(event).collect::<Result<_, Fault>>()?,
        links: list(o, "links")?.iter().map(link).collect::<Result<_, Fault>>()?,
        status: some(o, "status").map(status).transpose()?,
        ..Span::default()
    })
}

fn metric(o: &Object, rows: &mut Rows) -> Result<Metric, Fault> {
    let name = text(o, "name")?;
    let data = if let Some(data) = some(o, "gauge") {
        Some(Data::Gauge(Gauge { data_points: points(object(data)?, &name, rows, number)? }))
    } else if let Some(data) = some(o, "sum") {
        let data = object(data)?;
        Some(Data::Sum(Sum {
            data_points: points(data, &name, rows, number)?,
            aggregation_temporality: enumeration(data, "aggregationTemporality", TEMPORALITY)?,
            is_monotonic: boolean(data, "isMonotonic")?,
        }))
    } else if let Some(data) = some(o, "histogram") {
        let data = object(data)?;
        Some(Data::Histogram(Histogram {
            data_points: points(data, &name, rows, histogram)?,
            aggregation_temporality: enumeration(data, "aggregationTemporality", TEMPORALITY)?,
        }))
    } else if let Some(data) = some(o, "exponentialHistogram") {
        let data = object(data)?;
        Some(Data::ExponentialHistogram(ExponentialHistogram {
            data_points: points(data, &name, rows, exponential)?,
            aggregation_temporality: enumeration(data, "aggregationTemporality", TEMPORALITY)?,
        }))
    } else if let Some(data) = some(o, "summary") {
        Some(Data::Summary(Summary { data_points: points(object(data)?, &name, rows, summary)? }))
    } else {
        None
    };
    Ok(Metric { name, unit: text(o, "unit")?, data, ..Metric::default() })
}

/// The points that are understood; the others are counted one by one.
fn points<P>(
    data: &Object,
    name: &str,
    rows: &mut Rows,
    decode: fn(&Object) -> Result<P, Fault>,
) -> Result<Vec<P>, Fault> {
    let mut points = Vec::new();
    for value in list(data, "dataPoints")? {
        match object(value).and_then(decode) {
            Ok(point) => points.push(point),
            Err(fault) => rows.reject(1, || format!("a point of metric {name:?}: {fault}")),
        }
    }
    Ok(points)
}

fn number(o: &Object) -> Result<NumberDataPoint, Fault> {
    let value = if let Some(value) = some(o, "asInt") {
        Some(number_data_point::Value::AsInt(as_signed(value).ok_or("asInt is no integer")?))
    } else if let Some(value) = some(o, "asDouble") {
        Some(number_data_point::Value::AsDouble(as_double(value).ok_or("asDouble is no number")?))
    } else {
        None
    };
    Ok(NumberDataPoint {
        attributes: attributes(o, "attributes")?,
        start_time_unix_nano: unsigned(o, "startTimeUnixNano")?,
        time_unix_nano: unsigned(o, "timeUnixNano")?,
        flags: unsigned(o, "flags")? as u32,
        value,
        ..Default::default()
    })
}

fn histogram(o: &Object) -> Result<HistogramDataPoint, Fault> {
    Ok(HistogramDataPoint {
        attributes: attributes(o, "attributes")?,
        start_time_unix_nano: unsigned(o, "startTimeUnixNano")?,
        time_unix_nano: unsigned(o, "timeUnixNano")?,
        count: unsigned(o, "count")?,
        sum: double(o, "sum")?,
        bucket_counts: counts(o, "bucketCounts")?,
        explicit_bounds: (list(o, "explicitBounds")?.iter())
            .map(|b| as_double(b).ok_or_else(|| "explicitBounds holds what is no number".to_owned()))
            .collect::<Result<_, Fault>>()?,
        min: double(o, "min")?,
        max: double(o, "max")?,
        ..Default::default()
    })
}

fn exponential(o: &Object) -> Result<ExponentialHistogramDataPoint, Fault> {
    let side = |value: &Value| {
        let o = object(value)?;
        Ok::<_, Fault>(Buckets { offset: signed(o, "offset")? as i32, bucket_counts: counts(o, "bucketCounts")? })
    };
    Ok(ExponentialHistogramDataPoint {
        attributes: attributes(o, "attributes")?,
        start_time_unix_nano: unsigned(o, "startTimeUnixNano")?,
        time_unix_nano: unsigned(o, "timeUnixNano")?,
        count: unsigned(o, "count")?,
        sum: double(o, "sum")?,
        scale: signed(o, "scale")? as i32,
        zero_count: unsigned(o, "zeroCount")?,
        positive: some(o, "positive").map(side).transpose()?,
        negative: some(o, "negative").map(side).transpose()?,
        min: double(o, "min")?,
        max: double(o, "max")?,
        zero_threshold: double(o, "zeroThreshold")?.unwrap_or_default(),
        ..Default::default()
    })
}

fn summary(o: &Object) -> Result<SummaryDataPoint, Fault> {
    let quantile = |value: &Value| {
        let o = object(value)?;
        Ok(ValueAtQuantile {
            quantile: double(o, "quantile")?.unwrap_or_default(),
            value: double(o, "value")?.unwrap_or_default(),
        })
    };
    Ok(SummaryDataPoint {
        attributes: attributes(o, "attributes")?,
        start_time_unix_nano: unsigned(o, "startTimeUnixNano")?,
        time_unix_nano: unsigned(o, "timeUnixNano")?,
        count: unsigned(o, "count")?,
        sum: double(o, "sum")?.unwrap_or_default(),
        quantile_values: list(o, "quantileValues")?.iter().map(quantile).collect::<Result<_, Fault>>()?,
        ..Default::default()
    })
}

fn attributes(o: &Object, key: &str) -> Result<Vec<KeyValue>, Fault> {
    let pair = |value: &Value| {
        let o = object(value)?;
        Ok(KeyValue { key: text(o, "key")?, value: some(o, "value").map(any).transpose()?, ..Default::default() })
    };
    list(o, key)?.iter().map(pair).collect()
}

/// Recursion is bounded by the JSON parser's own depth limit (128).
fn any(value: &Value) -> Result<AnyValue, Fault> {
    use any_value::Value as Any;
    let o = object(value)?;
    let value = if let Some(v) = some(o, "stringValue") {
        Some(Any::StringValue(v.as_str().ok_or("stringValue is no text")?.to_owned()))
    } else if let Some(v) = some(o, "boolValue") {
        Some(Any::BoolValue(v.as_bool().ok_or("boolValue is neither true nor false")?))
    } else if let Some(v) = some(o, "intValue") {
        Some(Any::IntValue(as_signed(v).ok_or("intValue is no integer")?))
    } else if let Some(v) = some(o, "doubleValue") {
        Some(Any::DoubleValue(as_double(v).ok_or("doubleValue is no number")?))
    } else if let Some(v) = some(o, "arrayValue") {
        let values = list(object(v)?, "values")?.iter().map(any).collect::<Result<_, Fault>>()?;
        Some(Any::ArrayValue(ArrayValue { values }))
    } else if let Some(v) = some(o, "kvlistValue") {
        Some(Any::KvlistValue(KeyValueList { values: attributes(object(v)?, "values")? }))
    } else if let Some(v) = some(o, "bytesValue") {
        let text = v.as_str().ok_or("bytesValue is no text")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| "bytesValue is not base64")?;
        Some(Any::BytesValue(bytes))
    } else {
        None
    };
    Ok(AnyValue { value })
}

fn object(value: &Value) -> Result<&Object, Fault> {
    value.as_object().ok_or_else(|| format!("an object was expected where {} stands", kind(value)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A field that is there; proto3 JSON reads `null` as not there.
fn some<'a>(o: &'a Object, key: &str) -> Option<&'a Value> {
    o.get(key).filter(|v| !v.is_null())
}

fn list<'a>(o: &'a Object, key: &str) -> Result<&'a [Value], Fault> {
    match some(o, key) {
        None => Ok(&[]),
        Some(value) => value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{key} is {}, no list", kind(value))),
    }
}

fn text(o: &Object, key: &str) -> Result<String, Fault> {
    match some(o, key) {
        None => Ok(String::new()),
        Some(value) => value.as_str().map(str::to_owned).ok_or_else(|| format!("{key} is {}, no text", kind(value))),
    }
}

fn boolean(o: &Object, key: &str) -> Result<bool, Fault> {
    some(o, key).map_or(Ok(false), |v| v.as_bool().ok_or_else(|| format!("{key} is neither true nor false")))
}

fn unsigned(o: &Object, key: &str) -> Result<u64, Fault> {
    some(o, key).map_or(Ok(0), |v| as_unsigned(v).ok_or_else(|| format!("{key} is no whole number from 0 on")))
}

fn signed(o: &Object, key: &str) -> Result<i64, Fault> {
    some(o, key).map_or(Ok(0), |v| as_signed(v).ok_or_else(|| format!("{key} is no whole number")))
}

fn double(o: &Object, key: &str) -> Result<Option<f64>, Fault> {
    some(o, key).map(|v| as_double(v).ok_or_else(|| format!("{key} is no number"))).transpose()
}

fn counts(o: &Object, key: &str) -> Result<Vec<u64>, Fault> {
    list(o, key)?.iter().map(|v| as_unsigned(v).ok_or_else(|| format!("{key} holds what is no whole number"))).collect()
}

/// OTLP wants numbers; names of the protobuf enumeration are understood too.
fn enumeration(o: &Object, key: &str, names: &[(&str, i32)]) -> Result<i32, Fault> {
    match some(o, key) {
        None => Ok(0),
        Some(Value::String(name)) if name.parse::<i32>().is_err() => {
            Ok(names.iter().find(|(known, _)| known == name).map_or(0, |(_, code)| *code))
        }
        Some(value) => {
            (as_signed(value).and_then(|n| i32::try_from(n).ok())).ok_or_else(|| format!("{key} is no number"))
        }
    }
}

fn as_unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64().or_else(|| whole(n.as_f64()?).and_then(|n| u64::try_from(n).ok())),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn as_signed(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| whole(n.as_f64()?)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// `1.0` and `1e3` are whole numbers to some writers of JSON.
fn whole(n: f64) -> Option<i64> {
    (n.fract() == 0.0 && n.abs() < 9.0e15).then_some(n as i64)
}

fn as_double(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => match text.as_str() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            other => other.parse().ok(),
        },
        _ => None,
    }
}

fn hex(o: &Object, key: &str) -> Result<Vec<u8>, Fault> {
    let text = text(o, key)?;
    let digits: Option<Vec<u8>> = text.bytes().map(|b| (b as char).to_digit(16).map(|d| d as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()),
        _ => Err(format!("{key} is not hexadecimal")),
    }
}
