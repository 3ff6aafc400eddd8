//! Ships log lines to telemetry (OTLP/HTTP, JSON). The files are the record; shipping is best effort, bounded, and counted.

use std::time::Duration;

use api::client::Client;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::log::Stream;

/// Lines that wait for telemetry at the most; more are dropped here (they stay in the files).
const WAITING: usize = 4096;
const BATCH: usize = 512;
const PAUSE: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_secs(2);

/// A line on its way.
pub struct Line {
    pub at_ms: i64,
    pub stream: Stream,
    pub text: String,
}

/// Starts shipping; the sender never blocks.
pub fn start(client: Client, key: api::Secret, resource: String) -> mpsc::Sender<Line> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(ship(client, key, resource, receiver));
    sender
}

async fn ship(client: Client, key: api::Secret, resource: String, mut lines: mpsc::Receiver<Line>) {
    let client = client.bearer(key);
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, BATCH).await > 0 {
        // A moment for more lines: a request that writes ten lines costs one call.
        tokio::time::sleep(PAUSE).await;
        while batch.len() < BATCH
            && let Ok(line) = lines.try_recv()
        {
            batch.push(line);
        }
        let body = Bytes::from(encode(&resource, &batch).to_string());
        loop {
            match client.send("POST", "/v1/logs", Some(("application/json", body.clone()))).await {
                Ok(answer) if answer.status.is_success() => break,
                Ok(answer) if answer.status.is_client_error() && answer.status.as_u16() != 429 => {
                    tracing::warn!(
                        status = answer.status.as_u16(),
                        "telemetry refused log lines; they stay in the files"
                    );
                    break;
                }
                _ => tokio::time::sleep(RETRY).await,
            }
        }
        batch.clear();
    }
}

fn encode(resource: &str, lines: &[Line]) -> Value {
    let records: Vec<Value> = lines.iter().map(record).collect();
    json!({ "resourceLogs": [{
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": resource } }] },
        "scopeLogs": [{ "scope": { "name": "stamp.shim" }, "logRecords": records }],
    }] })
}

fn record(line: &Line) -> Value {
    let parsed: Option<Value> = line.text.starts_with('{').then(|| serde_json::from_str(&line.text).ok()).flatten();
    let field = |names: &[&str]| {
        names.iter().find_map(|n| parsed.as_ref()?.get(*n)?.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let level = field(&["level", "severity"]);
    let level = if level.is_empty() { "INFO".to_owned() } else { level };
    let mut record = json!({
        "timeUnixNano": format!("{}", i128::from(line.at_ms) * 1_000_000),
        "severityText": level.to_ascii_uppercase(),
        "severityNumber": number(&level),
        "body": { "stringValue": line.text },
        "attributes": [{ "key": "log.iostream", "value": { "stringValue": if line.stream == Stream::Out { "stdout" } else { "stderr" } } }],
    });
    let trace = field(&["trace_id", "traceId", "trace"]);
    if trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()) {
        record["traceId"] = trace.into();
    }
    let span = field(&["span_id", "spanId", "span"]);
    if span.len() == 16 && span.bytes().all(|b| b.is_ascii_hexdigit()) {
        record["spanId"] = span.into();
    }
    record
}

/// OTLP's severity numbers (OpenTelemetry logs data model).
fn number(level: &str) -> u8 {
    match level.to_ascii_lowercase().as_str() {
        "trace" => 1,
        "debug" => 5,
        "warn" | "warning" => 13,
        "error" => 17,
        "fatal" | "panic" => 21,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_gives_its_level_and_trace() {
        let text = r#"{"level":"WARN","message":"x","trace_id":"0af7651916cd43dd8448eb211c80319c"}"#;
        let record = record(&Line { at_ms: 5, stream: Stream::Err, text: text.into() });
        assert_eq!(record["severityNumber"], 13);
        assert_eq!(record["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(record["timeUnixNano"], "5000000");
    }

    #[test]
    fn any_other_line_is_shipped_as_it_is() {
        let record = record(&Line { at_ms: 5, stream: Stream::Out, text: "{not json".into() });
        assert_eq!(record["body"]["stringValue"], "{not json");
        assert_eq!(record["severityNumber"], 9);
        assert!(record.get("traceId").is_none());
    }
}
