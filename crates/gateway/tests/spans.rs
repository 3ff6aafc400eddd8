//! Spans of the edge, as the field's own messages say them.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use support::*;

/// A receiver of telemetry, behind a gateway for its TLS. It refuses the first call.
async fn receiver() -> (Edge, String, Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>>) {
    let got: Arc<Mutex<Vec<_>>> = Arc::default();
    let (calls, told) = (Arc::new(AtomicUsize::new(0)), got.clone());
    let target = upstream(move |request| {
        let (calls, told) = (calls.clone(), told.clone());
        async move {
            assert_eq!(request.uri().path(), "/v1/traces");
            let key = request.headers()["authorization"].to_str().unwrap().to_owned();
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if calls.fetch_add(1, SeqCst) == 0 {
                return Response::builder().status(503).body(Full::default()).unwrap();
            }
            told.lock().unwrap().push((key, ExportTraceServiceRequest::decode(body).unwrap()));
            Response::new(Full::default())
        }
    })
    .await;
    let edge = edge_to(target).await;
    let base = format!("https://localhost:{}/", edge.https.port());
    (edge, base, got)
}

fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    of.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_joins_the_client_s_trace_to_the_application_s() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (receiver, base, got) = receiver().await;
    let mut config = config(&[("/", "web"), ("/gone", "gone")], &[("web", &[mirror().await]), ("gone", &[])]);
    config.telemetry = Some(base);
    let listeners = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let edge = Edge::start_on(config, listeners, receiver.pem.clone(), Log::default());
    let mut client = edge.h1().await;
    let mut seen = Vec::new();
    for (path, flags) in [("/kept?secret=1", "01"), ("/left-out", "00"), ("/gone", "03")] {
        let request = Request::get(path).header("host", "shop.example");
        let request = request.header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-{flags}"));
        seen.push(text(ask(&mut client, request.body(Full::new(Bytes::new())).unwrap()).await).await);
    }
    let told: serde_json::Value = serde_json::from_str(&seen[0]).unwrap();
    let fields = told["fields"].as_array().unwrap();
    let forwarded = fields.iter().find(|f| f[0] == "traceparent").unwrap()[1].as_str().unwrap().to_owned();
    wait_until("spans", async || {
        let sum = |r: &ExportTraceServiceRequest| r.resource_spans[0].scope_spans[0].spans.len();
        (got.lock().unwrap().iter().map(|(_, r)| sum(r)).sum::<usize>() >= 2).then_some(())
    })
    .await;
    assert_eq!(edge.control("/health").await["spans"], serde_json::json!({ "sent": 2, "dropped": 0 }));
    let lines = edge.stop().await;
    assert_eq!(lines.len(), 3);
    let got = got.lock().unwrap().clone();
    let mut spans: Vec<Span> = Vec::new();
    for (key, request) in got.iter() {
        assert_eq!(key, "Bearer the edge's key");
        let of = &request.resource_spans[0];
        assert_eq!(attributes(&of.resource.as_ref().unwrap().attributes)["service.name"], "role.main");
        spans.extend(of.scope_spans[0].spans.clone());
    }
    let [kept, gone] = &spans[..] else { panic!("{spans:#?}") };
    for span in [kept, gone] {
        assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, "00f067aa0ba902b7"));
        assert_eq!((span.name.as_str(), span.kind), ("GET", 2));
        let ago = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 - span.end_time_unix_nano;
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano && ago < 60_000_000_000, "{span:?}");
    }
    assert_eq!(forwarded, format!("00-{TRACE}-{}-01", hex(&kept.span_id)), "the application's parent");
    let of = attributes(&kept.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/kept"),
        ("url.scheme", "https"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("server.address", "shop.example"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(of[name], value, "{name}");
    }
    assert!(of["stamp.target"].starts_with("web 127.0.0.1:"), "{of:?}");
    assert!(kept.status.is_none());
    assert_eq!(attributes(&gone.attributes)["http.response.status_code"], "503");
    assert_eq!(gone.status.as_ref().unwrap().code, 2);
    receiver.stop().await;
}
