//! Telemetry as a receiver sees it: one trace over process borders, logs in it, measures, panics; and never a wait.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    middleware::from_fn,
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderValue, Method};
use sdk::{Settings, Trust, https::Client, telemetry};
use serde_json::Value;
use tokio::net::TcpListener;
use url::Url;

type Received = Arc<Mutex<Vec<(String, Value)>>>;

async fn receive(
    State(received): State<Received>,
    Path(kind): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> &'static str {
    assert_eq!(headers["x-ingest-key"], "the-key");
    received.lock().unwrap().push((kind, body));
    "{}"
}

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// All items of one kind that were received: spans, log records or metrics.
fn items(received: &Received, kind: &str, path: [&str; 3]) -> Vec<Value> {
    let all = received.lock().unwrap();
    let of_kind = all.iter().filter(|(k, _)| k == kind);
    of_kind.flat_map(|(_, b)| b[path[0]][0][path[1]][0][path[2]].as_array().unwrap().clone()).collect()
}

fn attribute(item: &Value, name: &str) -> String {
    let all = item["attributes"].as_array().unwrap();
    let found = all.iter().find(|a| a["key"] == name).map(|a| &a["value"]);
    found.and_then(|v| v["stringValue"].as_str().or(v["intValue"].as_str())).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_request_is_one_trace_with_its_dependencies_logs_and_panics() {
    let received = Received::default();
    let receiver = listen(Router::new().route("/v1/{kind}", post(receive)).with_state(received.clone())).await;
    let connection = format!("InstrumentationKey=the-key;IngestionEndpoint={receiver}/");
    let settings = Settings::from_pairs([("APPLICATIONINSIGHTS_CONNECTION_STRING", connection.as_str())]);
    let running = telemetry::start(&settings, "test-app", "1.2.3").unwrap();
    let client = Client::new(&Trust::from_settings(&settings, &[]).unwrap()).unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let back = seen.clone();
    // Another process that is called on the way.
    let other = listen(Router::new().route(
        "/there",
        get(async move |headers: HeaderMap| {
            *back.lock().unwrap() = headers["traceparent"].to_str().unwrap().to_owned();
            "ok"
        }),
    ))
    .await;
    let there = Url::parse(&format!("{other}/there")).unwrap();
    let outgoing = client.clone();
    let call = async move || {
        outgoing.send(Method::GET, &there, HeaderMap::new(), Bytes::new()).await.unwrap();
        tracing::warn!(order = 7, "the stock is low");
        sdk::event!("order-placed", amount = 3);
        telemetry::metrics().add("orders", 2, &[("kind", "test")]);
        "done"
    };
    let app = Router::new()
        .route("/orders/{id}", get(call))
        .route("/bad", get(async || -> &'static str { panic!("planted") }));
    let app = listen(app.layer(from_fn(telemetry::track))).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut headers = HeaderMap::new();
    let parent = HeaderValue::from_str(&format!("00-{trace}-b7ad6b7169203331-01")).unwrap();
    headers.insert("traceparent", parent);
    let url = |path: &str| Url::parse(&format!("{app}{path}")).unwrap();
    let answer = client.send(Method::GET, &url("/orders/5"), headers, Bytes::new()).await.unwrap();
    assert_eq!(answer.body, "done");
    let bad = client.send(Method::GET, &url("/bad"), HeaderMap::new(), Bytes::new()).await.unwrap();
    assert!(bad.status.as_u16() == 500 && bad.body.is_empty(), "a panic shows nothing");
    running.finish().await;

    let spans = items(&received, "traces", ["resourceSpans", "scopeSpans", "spans"]);
    let find = |name: &str| {
        spans.iter().find(|s| s["name"] == name && s["kind"] != 3).unwrap_or_else(|| panic!("{name}: {spans:?}"))
    };
    let server = find("GET /orders/{id}");
    assert_eq!((server["traceId"].as_str(), server["parentSpanId"].as_str()), (Some(trace), Some("b7ad6b7169203331")));
    assert_eq!(attribute(server, "http.response.status_code"), "200");
    let dependency = spans.iter().find(|s| s["name"] == "GET /there").unwrap();
    assert_eq!((&dependency["traceId"], &dependency["parentSpanId"]), (&server["traceId"], &server["spanId"]));
    let handed = format!("00-{trace}-{}-01", dependency["spanId"].as_str().unwrap());
    assert_eq!(*seen.lock().unwrap(), handed, "the other process continues the same trace");
    let logs = items(&received, "logs", ["resourceLogs", "scopeLogs", "logRecords"]);
    let log = |text: &str| {
        logs.iter().find(|l| l["body"]["stringValue"] == text).unwrap_or_else(|| panic!("{text}: {logs:?}"))
    };
    let low = log("the stock is low");
    assert_eq!((low["traceId"].as_str(), low["severityText"].as_str()), (Some(trace), Some("WARN")));
    assert_eq!(
        (attribute(low, "order"), log("order-placed")["eventName"].as_str()),
        ("7".into(), Some("order-placed"))
    );
    let exception = log("unhandled exception");
    assert_eq!(attribute(exception, "exception.message"), "planted");
    assert!(attribute(exception, "exception.stacktrace").contains("telemetry"), "{exception}");
    assert_eq!(exception["traceId"], find("GET /bad")["traceId"]);
    assert_eq!(find("GET /bad")["status"]["code"], 2);
    let metrics = items(&received, "metrics", ["resourceMetrics", "scopeMetrics", "metrics"]);
    let metric =
        |name: &str| metrics.iter().find(|m| m["name"] == name).unwrap_or_else(|| panic!("{name}: {metrics:?}"));
    assert_eq!(metric("orders")["sum"]["dataPoints"][0]["asInt"], "2");
    assert_eq!(metric("http.server.request.duration")["histogram"]["dataPoints"].as_array().unwrap()[0]["count"], "1");
    assert_eq!(metric("exceptions")["sum"]["dataPoints"][0]["asInt"], "1");
    let resource = &received.lock().unwrap()[0].1;
    assert!(resource.to_string().contains("test-app") && resource.to_string().contains("1.2.3"));
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_nobody_up() {
    // A socket that accepts and then says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let settings = Settings::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())]);
    let running = telemetry::start(&settings, "test-app", "1").unwrap();
    let started = Instant::now();
    for n in 0..20_000 {
        tracing::info!(n, "one of many");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let ending = Instant::now();
    running.finish().await;
    assert!(ending.elapsed() < Duration::from_secs(5), "the end waits three seconds at most: {:?}", ending.elapsed());
}
