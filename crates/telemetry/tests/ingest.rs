//! What comes in by OTLP/HTTP is stored and counted, over real HTTPS.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod role;

use http_body_util::BodyExt;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value as Any},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
        metric::Data, number_data_point::Value as Point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Event},
};
use prost::Message as _;
use role::{JSON, PROTOBUF, gzip, key, log_json, start};
use serde_json::{Value, json};

const T: u64 = 1_795_305_600_000_000_000;

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(Any::StringValue(value.into())) }),
        ..Default::default()
    }
}

fn resource() -> Option<Resource> {
    Some(Resource { attributes: vec![text("service.name", "shop")], ..Default::default() })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "tests".into(), ..Default::default() })
}

fn logs(body: &str) -> Vec<u8> {
    let record = LogRecord {
        time_unix_nano: T,
        severity_number: 17,
        body: Some(AnyValue { value: Some(Any::StringValue(body.into())) }),
        attributes: vec![text("user", "u1")],
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        ..Default::default()
    };
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records: vec![record], ..Default::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs, ..Default::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

fn metrics(metrics: Vec<Metric>) -> Vec<u8> {
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..Default::default() }];
    let resource_metrics = vec![ResourceMetrics { resource: resource(), scope_metrics, ..Default::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

fn spans(spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { scope: scope(), spans, ..Default::default() }];
    let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans, ..Default::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

#[tokio::test]
async fn protobuf_logs_are_stored_with_their_source_and_answered_in_protobuf() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    let answer = role.send("/v1/logs", PROTOBUF, logs("disk is hot")).await;
    assert_eq!((answer.status, &answer.headers["content-type"]), (200, &PROTOBUF.parse().unwrap()));
    assert_eq!(ExportLogsServiceResponse::decode(answer.body).unwrap().partial_success, None);

    let sql =
        "SELECT time_ns, source, service, severity, level, body, trace_id, span_id, scope, attributes ->> '$.user',
               resource ->> '$.\"service.name\"' FROM logs";
    let rows = role.query(sql).await.unwrap().rows;
    let expected = json!([
        T,
        "service.web",
        "shop",
        17,
        "error",
        "disk is hot",
        "01".repeat(16),
        "02".repeat(8),
        "tests",
        "u1",
        "shop"
    ]);
    assert_eq!(rows, [expected.as_array().unwrap().clone()]);
    role.stop().await;
}

#[tokio::test]
async fn protobuf_spans_and_metrics_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    let request = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: "GET /".into(),
        kind: 2,
        start_time_unix_nano: T,
        end_time_unix_nano: T + 7_000_000,
        status: Some(Status { code: 2, message: "boom".into() }),
        attributes: vec![text("http.response.status_code", "500")],
        events: vec![Event {
            name: "exception".into(),
            time_unix_nano: T + 1,
            attributes: vec![text("exception.type", "Oops"), text("exception.stacktrace", "at main")],
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = role.send("/v1/traces", PROTOBUF, spans(vec![request])).await;
    assert_eq!(answer.status, 200);
    assert_eq!(ExportTraceServiceResponse::decode(answer.body).unwrap().partial_success, None);
    let rows = role.query("SELECT name, duration_ns, status, status_code FROM requests").await.unwrap().rows;
    assert_eq!(rows, [vec![json!("GET /"), json!(7_000_000), json!("error"), json!(500)]]);
    let rows = role.query("SELECT time_ns, type, stack FROM exceptions").await.unwrap().rows;
    assert_eq!(rows, [vec![json!(T + 1), json!("Oops"), json!("at main")]]);

    let point = |value| NumberDataPoint { time_unix_nano: T, value: Some(value), ..Default::default() };
    let sent = metrics(vec![
        Metric {
            name: "load".into(),
            data: Some(Data::Gauge(Gauge { data_points: vec![point(Point::AsDouble(0.5))] })),
            ..Default::default()
        },
        Metric {
            name: "hits".into(),
            data: Some(Data::Sum(Sum {
                data_points: vec![point(Point::AsInt(7))],
                aggregation_temporality: 2,
                is_monotonic: true,
            })),
            ..Default::default()
        },
        Metric {
            name: "latency".into(),
            unit: "ms".into(),
            data: Some(Data::Histogram(Histogram {
                data_points: vec![HistogramDataPoint {
                    count: 3,
                    sum: Some(12.0),
                    bucket_counts: vec![1, 2],
                    explicit_bounds: vec![5.0],
                    ..Default::default()
                }],
                aggregation_temporality: 1,
            })),
            ..Default::default()
        },
    ]);
    assert_eq!(role.send("/v1/metrics", PROTOBUF, sent).await.status, 200);
    let sql = "SELECT name, kind, value, count, sum, temporality, buckets FROM metrics ORDER BY name";
    let rows = role.query(sql).await.unwrap().rows;
    let expected = json!([
        ["hits", "sum", 7, null, null, "cumulative", ""],
        ["latency", "histogram", null, 3, 12.0, "delta", "{\"bounds\":[5.0],\"counts\":[1,2]}"],
        ["load", "gauge", 0.5, null, null, "", ""],
    ]);
    assert_eq!(Value::from(rows.into_iter().map(Value::from).collect::<Vec<_>>()), expected);
    role.stop().await;
}

#[tokio::test]
async fn json_as_node_sends_it_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    // Numbers where the specification says text, an empty list left out, fields of null, fields nobody knows.
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "node-app"}}], "droppedAttributesCount": 0},
        "scopeSpans": [{"scope": {"name": "http", "version": "1"}, "spans": [{
            "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174", "parentSpanId": null,
            "name": "GET", "kind": 3, "startTimeUnixNano": T.to_string(), "endTimeUnixNano": T + 5, "someFuture": {"x": [1]},
            "attributes": [
                {"key": "n", "value": {"intValue": 42}}, {"key": "m", "value": {"intValue": "43"}},
                {"key": "list", "value": {"arrayValue": {}}}, {"key": "none", "value": {}},
                {"key": "nan", "value": {"doubleValue": "NaN"}},
            ],
            "status": {"code": 0}, "events": [], "links": []
        }]}]
    }]});
    let answer = role.send("/v1/traces", "application/json; charset=utf-8", body.to_string()).await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    assert_eq!(answer.headers["content-type"], JSON);
    let rows = role.query("SELECT trace_id, kind, duration_ns, attributes, service FROM spans").await.unwrap().rows;
    let attributes: Value = serde_json::from_str(rows[0][3].as_str().unwrap()).unwrap();
    assert_eq!(attributes, json!({"n": 42, "m": 43, "list": [], "none": null, "nan": "NaN"}));
    assert_eq!(rows[0][0], "5b8efff798038103d269b633813fc60c");
    assert_eq!((&rows[0][1], &rows[0][2], &rows[0][4]), (&json!("client"), &json!(5), &json!("node-app")));
    role.stop().await;
}

#[tokio::test]
async fn metrics_whose_data_is_lost_are_counted_and_their_neighbours_kept() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    let body = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
        {"name": "good", "gauge": {"dataPoints": [{"asInt": "5"}, {"asInt": 6}, {"asDouble": 1.5}]}},
        {"name": "future", "quantumGauge": {"dataPoints": [{"asInt": 1}]}},
        {"name": "half", "sum": {"dataPoints": [{"asInt": 1}, {"asInt": "x"}, {"timeUnixNano": -4, "asInt": 1}, {}]}},
        17
    ]}]}]});
    let answer = role.send("/v1/metrics", JSON, body.to_string()).await;
    assert_eq!(answer.status, 200);
    let partial = answer.json()["partialSuccess"].clone();
    assert_eq!(partial["rejectedDataPoints"], "5");
    assert!(!partial["errorMessage"].as_str().unwrap().is_empty());
    assert_eq!(role.value("SELECT count(*) FROM metrics").await, 4);

    let sent = metrics(vec![
        Metric { name: "empty".into(), ..Default::default() },
        Metric {
            name: "pointless".into(),
            data: Some(Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default()] })),
            ..Default::default()
        },
    ]);
    let answer = role.send("/v1/metrics", PROTOBUF, sent).await;
    let partial = ExportMetricsServiceResponse::decode(answer.body).unwrap().partial_success.unwrap();
    assert_eq!((answer.status, partial.rejected_data_points), (200, 2));
    assert_eq!(role.value("SELECT count(*) FROM metrics").await, 4);
    role.stop().await;
}

#[tokio::test]
async fn gzip_and_chunked_bodies_are_taken_and_a_bomb_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = api::telemetry::TelemetryConfig { body_bytes: 64 * 1024, ..role::config() };
    let role = role::start_with(dir.path(), config, service::Clock::default()).await;
    let web = key("service.web");
    let headers = [("x-ingest-key", web.as_str()), ("content-type", PROTOBUF), ("content-encoding", "gzip")];
    assert_eq!(role.post("/v1/logs", &headers, gzip(&logs("packed"))).await.status, 200);

    let whole = logs("in pieces");
    let (sender, receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
    let pieces: Vec<bytes::Bytes> = whole.chunks(7).map(|c| c.to_vec().into()).collect();
    tokio::spawn(async move {
        for piece in pieces {
            sender.send(piece).await.unwrap();
        }
    });
    let request = http::Request::post("/v1/logs")
        .header("host", "localhost")
        .header("x-ingest-key", &web)
        .header("content-type", PROTOBUF)
        .body(BodyExt::boxed(Pieces(receiver)))
        .unwrap();
    assert_eq!(role.request(request).await.unwrap().status, 200);

    // 1 KiB that unpacks to 1 MiB, 64 KiB allowed.
    let bomb = gzip(&vec![0u8; 1024 * 1024]);
    assert!(bomb.len() < 2048);
    assert_eq!(role.post("/v1/logs", &headers, bomb).await.status, 413);
    assert_eq!(role.send("/v1/logs", JSON, vec![b' '; 65 * 1024]).await.status, 413);
    assert_eq!(role.post("/v1/logs", &headers, "not gzip").await.status, 400);

    let rows = role.query("SELECT body FROM logs ORDER BY body").await.unwrap().rows;
    assert_eq!(rows, [vec![json!("in pieces")], vec![json!("packed")]]);
    role.stop().await;
}

/// A body in pieces, of a length that nobody knows before.
struct Pieces(tokio::sync::mpsc::Receiver<bytes::Bytes>);

impl hyper::body::Body for Pieces {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|p| Ok(hyper::body::Frame::data(p))))
    }
}

#[tokio::test]
async fn without_a_sources_key_no_path_answers_anything_but_401() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    let paths =
        ["/v1/logs", "/v1/metrics", "/v1/traces", "/v1/nothing", "/", "/health", "/query", "/logs", "/traces", "/live"];
    let foreign = key("service.other");
    for path in paths {
        for headers in [
            vec![("content-type", JSON)],
            vec![("content-type", JSON), ("x-ingest-key", "")],
            vec![("content-type", JSON), ("x-ingest-key", foreign.as_str())],
            vec![("content-type", JSON), ("authorization", "Basic eDp5")],
            vec![("content-type", JSON), ("authorization", "Bearer")],
        ] {
            let answer = role.post(path, &headers, log_json(&["stolen"])).await;
            assert_eq!(answer.status, 401, "{path} {headers:?}");
        }
    }
    assert_eq!(role.value("SELECT count(*) FROM logs").await, 0);

    // With a key: the paths there are, and nothing of the control socket.
    let bearer = format!("Bearer {}", key("gateway"));
    let headers = [("content-type", JSON), ("authorization", bearer.as_str())];
    assert_eq!(role.post("/v1/logs", &headers, log_json(&["mine"])).await.status, 200);
    assert_eq!(role.value("SELECT source || ' ' || service FROM logs").await, "gateway gateway");
    for path in ["/health", "/query", "/logs", "/traces", "/live"] {
        assert_eq!(role.post(path, &headers, "{}").await.status, 404, "{path}");
    }
    role.stop().await;
}

#[tokio::test]
async fn what_is_not_otlp_is_refused_and_stored_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    assert_eq!(role.send("/v1/logs", "text/plain", "x").await.status, 415);
    assert_eq!(role.send("/v1/logs", JSON, "{").await.status, 400);
    assert_eq!(role.send("/v1/logs", JSON, "[]").await.status, 400);
    assert_eq!(role.send("/v1/logs", JSON, r#"{"resourceLogs": 5}"#).await.status, 400);
    assert_eq!(role.send("/v1/logs", PROTOBUF, "garbage").await.status, 400);
    assert_eq!(role.send("/v1/logs", JSON, "{}").await.status, 200);
    let web = key("service.web");
    let headers = [("x-ingest-key", web.as_str()), ("content-type", JSON), ("content-encoding", "br")];
    assert_eq!(role.post("/v1/logs", &headers, "{}").await.status, 415);
    let get = http::Request::get("/v1/logs").header("host", "x").header("x-ingest-key", &web);
    let answer = role.request(get.body(BodyExt::boxed(http_body_util::Empty::new())).unwrap()).await.unwrap();
    assert_eq!(answer.status, 405);

    let bad = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "no ids"}, {"name": "odd", "traceId": "abc"}]}]}]});
    let answer = role.send("/v1/traces", JSON, bad.to_string()).await;
    assert_eq!((answer.status, &answer.json()["partialSuccess"]["rejectedSpans"]), (200, &json!("2")));
    assert_eq!(role.value("SELECT (SELECT count(*) FROM logs) + (SELECT count(*) FROM spans)").await, 0);
    role.stop().await;
}
