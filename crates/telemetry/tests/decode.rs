//! Whatever bytes come in, decoding ends in rows or a refusal, never in a panic; and JSON says the same as protobuf.

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};
use telemetry::decode::{Arrival, Encoding, Signal, decode, unpack};

fn arrival() -> Arrival {
    Arrival { source: "service.web".into(), now_ms: 1_795_305_600_000 }
}

fn signals() -> impl Strategy<Value = Signal> {
    prop_oneof![Just(Signal::Logs), Just(Signal::Metrics), Just(Signal::Traces)]
}

/// JSON of every shape, with the field names that the decoder looks for.
fn shapes() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9a-fA-FN.eé-]{0,34}".prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "resourceLogs",
        "resourceSpans",
        "resourceMetrics",
        "scopeLogs",
        "scopeSpans",
        "scopeMetrics",
        "logRecords",
        "spans",
        "metrics",
        "resource",
        "scope",
        "attributes",
        "key",
        "value",
        "stringValue",
        "intValue",
        "doubleValue",
        "arrayValue",
        "kvlistValue",
        "bytesValue",
        "values",
        "body",
        "traceId",
        "spanId",
        "timeUnixNano",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "severityNumber",
        "name",
        "kind",
        "status",
        "code",
        "events",
        "links",
        "gauge",
        "sum",
        "histogram",
        "exponentialHistogram",
        "summary",
        "dataPoints",
        "asInt",
        "asDouble",
        "flags",
        "count",
        "bucketCounts",
        "positive",
        "offset",
        "quantileValues",
        "aggregationTemporality",
    ]);
    leaf.prop_recursive(8, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

/// A request around `records`, so that the deeper decoders are reached.
fn wrap(signal: Signal, records: Vec<Value>) -> Value {
    match signal {
        Signal::Logs => json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}),
        Signal::Traces => json!({"resourceSpans": [{"scopeSpans": [{"spans": records}]}]}),
        Signal::Metrics => json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": records}]}]}),
    }
}

proptest! {
    #[test]
    fn any_bytes_are_rows_or_a_refusal(signal in signals(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(signal, Encoding::Protobuf, &bytes, &arrival());
        let _ = decode(signal, Encoding::Json, &bytes, &arrival());
        let _ = unpack(&bytes, 1000);
    }

    #[test]
    fn any_json_is_rows_or_a_refusal_and_every_record_is_accounted_for(
        signal in signals(), records in prop::collection::vec(shapes(), 0..6), loose in shapes(),
    ) {
        let _ = decode(signal, Encoding::Json, loose.to_string().as_bytes(), &arrival());
        let count = records.len() as u64;
        let rows = decode(signal, Encoding::Json, wrap(signal, records).to_string().as_bytes(), &arrival()).unwrap();
        match signal {
            Signal::Logs => prop_assert_eq!(rows.logs.len() as u64 + rows.rejected, count),
            Signal::Traces => prop_assert_eq!(rows.spans.len() as u64 + rows.rejected, count),
            // A metric holds points: none of them is a metric that says nothing, which is no loss.
            Signal::Metrics => {}
        }
        prop_assert_eq!(rows.rejected > 0, rows.reason.is_some());
    }

    #[test]
    fn broken_protobuf_is_rows_or_a_refusal(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = sample().encode_to_vec();
        let index = at.index(bytes.len());
        bytes[index] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = decode(Signal::Logs, Encoding::Protobuf, &bytes, &arrival());
    }

    #[test]
    fn json_and_protobuf_say_the_same(time in any::<u64>(), severity in 0..25i32, body in ".{0,40}", number in any::<i64>()) {
        let proto = ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs: vec![ScopeLogs {
            log_records: vec![LogRecord {
                time_unix_nano: time,
                severity_number: severity,
                body: Some(AnyValue { value: Some(any_value::Value::StringValue(body.clone())) }),
                attributes: vec![opentelemetry_proto::tonic::common::v1::KeyValue {
                    key: "n".into(),
                    value: Some(AnyValue { value: Some(any_value::Value::IntValue(number)) }),
                    ..Default::default()
                }],
                ..Default::default()
            }], ..Default::default() }], ..Default::default() }] };
        let text = wrap(Signal::Logs, vec![json!({
            "timeUnixNano": time.to_string(), "severityNumber": severity, "body": {"stringValue": body},
            "attributes": [{"key": "n", "value": {"intValue": number}}],
        })]);
        let one = decode(Signal::Logs, Encoding::Protobuf, &proto.encode_to_vec(), &arrival()).unwrap();
        let other = decode(Signal::Logs, Encoding::Json, text.to_string().as_bytes(), &arrival()).unwrap();
        prop_assert_eq!(format!("{:?}", one.logs), format!("{:?}", other.logs));
    }
}

fn sample() -> ExportLogsServiceRequest {
    let value = AnyValue { value: Some(any_value::Value::StringValue("x".repeat(40))) };
    let record = LogRecord { body: Some(value), trace_id: vec![7; 16], ..Default::default() };
    let scope_logs = vec![ScopeLogs { log_records: vec![record; 3], ..Default::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..Default::default() }] }
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let deep = format!("{}1{}", "{\"kvlistValue\":{\"values\":[{\"value\":".repeat(5000), "}]}}".repeat(5000));
    let body = format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{\"body\":{deep}}}]}}]}}]}}");
    assert!(decode(Signal::Logs, Encoding::Json, body.as_bytes(), &arrival()).is_err());
}
