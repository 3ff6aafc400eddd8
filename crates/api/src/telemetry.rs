//! Telemetry: its configuration and queries.
//!
//! Ingestion is OTLP/HTTP on the `https` listener; an application is told where by a connection string,
//! `InstrumentationKey=KEY;IngestionEndpoint=https://HOST:PORT/`. What is stored is read on the `control` socket.

use serde::{Deserialize, Serialize};

/// The header that carries a source's ingestion key; `Authorization: Bearer KEY` is accepted as well.
pub const INGEST_KEY_HEADER: &str = "x-ingest-key";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TelemetryConfig {
    /// Days that a day's file is kept. 0 stands for 30.
    #[serde(default)]
    pub retention_days: u32,
    /// Bytes of one request body after unpacking. 0 stands for 4 MiB.
    #[serde(default)]
    pub body_bytes: u64,
    /// Resources whose ingestion key is accepted, such as `service.web`, `gateway`.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// `POST /query` on the control socket: one read-only SELECT over the tables `logs`, `metrics`, `spans` of the last
/// `days`, the views `requests`, `dependencies`, `exceptions` on them, and `clock(now_ns)`, the stamp's time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryRequest {
    pub sql: String,
    /// How many days of arrival back, today included. 0 stands for all that are kept.
    #[serde(default)]
    pub days: u32,
    /// Rows at most; 0 stands for 1,000. Never more than 10,000.
    #[serde(default)]
    pub limit: usize,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueryAnswer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<serde_json::Value>>,
    /// Whether rows were left off because of a limit.
    pub truncated: bool,
}

/// `GET /logs` on the control socket answers one of these a line (NDJSON), oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogLine {
    /// When it happened, nanoseconds since the Unix epoch, as the sender said.
    pub time_ns: i64,
    /// The resource whose key it came with, such as `service.web`.
    pub source: String,
    /// The sender's own `service.name`, or the source.
    pub service: String,
    /// `trace`, `debug`, `info`, `warn`, `error`, `fatal`, or empty if the sender did not say.
    pub level: String,
    pub body: String,
    #[serde(default)]
    pub trace_id: String,
    #[serde(default)]
    pub span_id: String,
    #[serde(default)]
    pub attributes: serde_json::Value,
}

/// One element of the answer of `GET /traces`, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TraceSummary {
    pub trace_id: String,
    pub time_ns: i64,
    /// From the first span's start to the last one's end.
    pub duration_ns: i64,
    /// The root span's name, or the earliest one's.
    pub name: String,
    pub service: String,
    pub spans: u64,
    pub errors: u64,
}

/// `GET /traces/{id}`: the tree in reading order (a parent before its children, children by time), and the log lines
/// of the trace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trace {
    pub trace_id: String,
    pub spans: Vec<TraceSpan>,
    pub logs: Vec<LogLine>,
    /// Whether spans or log lines were left off because of a limit.
    pub truncated: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TraceSpan {
    /// 0 for roots and for spans whose parent is not here.
    pub depth: u32,
    pub span_id: String,
    pub parent_span_id: String,
    pub time_ns: i64,
    pub duration_ns: i64,
    pub source: String,
    pub service: String,
    pub name: String,
    /// `internal`, `server`, `client`, `producer`, `consumer`.
    pub kind: String,
    /// `unset`, `ok`, `error`.
    pub status: String,
    pub status_message: String,
    pub attributes: serde_json::Value,
    pub events: serde_json::Value,
}

/// `GET /live` on the control socket: one of these a second (NDJSON), what was committed in that second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Live {
    pub time_ms: i64,
    /// Spans of kind `server`.
    pub requests: u64,
    /// Those of them with status `error`.
    pub failed: u64,
    /// Their mean duration; 0 without requests.
    pub mean_ms: f64,
    pub spans: u64,
    pub logs: u64,
    /// Span events and log records that carry an exception.
    pub exceptions: u64,
    pub metrics: u64,
}

/// `GET /health` on the control socket.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TelemetryHealth {
    /// `ok`, or `degraded` while batches cannot be stored (senders are answered 503 and retry).
    pub status: String,
    /// Why batches cannot be stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Day files on disk.
    pub days: usize,
    /// Bytes of them.
    pub bytes: u64,
}
