//! What is stored: rows of the three tables, free of any wire format.

/// Who sent it and when it came.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub source: String,
    pub now_ms: i64,
}

/// The rows of one request, and what of it could not be understood.
#[derive(Default, Debug)]
pub struct Rows {
    pub logs: Vec<Log>,
    pub spans: Vec<Span>,
    pub metrics: Vec<Metric>,
    /// Records (log records, spans, data points) that were not understood.
    pub rejected: u64,
    /// Why the first of them was not.
    pub reason: Option<String>,
}

impl Rows {
    /// Counts `count` records as not understood; the first reason is kept.
    pub(crate) fn reject(&mut self, count: u64, reason: impl FnOnce() -> String) {
        self.rejected += count;
        if self.reason.is_none() && count > 0 {
            self.reason = Some(reason());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.spans.is_empty() && self.metrics.is_empty()
    }
}

/// What all three tables have.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The sender's `service.name`, or its source.
    pub service: String,
    /// The instrumentation scope's name.
    pub scope: String,
    /// Attributes of the sender, a JSON object.
    pub resource: std::sync::Arc<str>,
}

#[derive(Debug)]
pub struct Log {
    pub origin: Origin,
    pub time_ns: i64,
    pub severity: i32,
    pub body: String,
    pub trace_id: String,
    pub span_id: String,
    pub event: String,
    pub attributes: String,
    pub exception: bool,
}

#[derive(Debug)]
pub struct Span {
    pub origin: Origin,
    pub time_ns: i64,
    pub duration_ns: i64,
    pub name: String,
    pub kind: &'static str,
    pub status: &'static str,
    pub status_message: String,
    pub trace_id: String,
    pub span_id: String,
    pub parent_span_id: String,
    pub attributes: String,
    /// A JSON array of `{time_ns, name, attributes}`.
    pub events: String,
    /// A JSON array of `{trace_id, span_id, attributes}`.
    pub links: String,
    pub exceptions: u64,
}

#[derive(Debug)]
pub struct Metric {
    pub origin: Origin,
    pub time_ns: i64,
    pub start_ns: i64,
    pub name: String,
    /// `gauge`, `sum`, `histogram`, `exponential_histogram`, `summary`.
    pub kind: &'static str,
    pub unit: String,
    /// `delta`, `cumulative` or empty.
    pub temporality: &'static str,
    pub monotonic: bool,
    pub value: Option<Number>,
    pub count: Option<i64>,
    pub sum: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// Bounds and counts, or quantiles: a JSON object, empty for plain numbers.
    pub buckets: String,
    pub attributes: String,
}

#[derive(Clone, Copy, Debug)]
pub enum Number {
    Int(i64),
    Double(f64),
}

/// The level's word for an OTLP severity number (1 to 24).
pub(crate) fn level(severity: i32) -> &'static str {
    match severity {
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        21..=24 => "fatal",
        _ => "",
    }
}

/// The severity number of a level's word; common spellings of others too.
pub(crate) fn severity(level: &str) -> Option<i32> {
    Some(match level.to_ascii_lowercase().as_str() {
        "trace" | "verbose" => 1,
        "debug" => 5,
        "info" | "information" | "log" | "notice" => 9,
        "warn" | "warning" => 13,
        "error" | "err" => 17,
        "fatal" | "critical" | "panic" | "emergency" | "alert" => 21,
        _ => return None,
    })
}
