//! Counters, gauges and durations, gathered in the process and sent every few seconds as OTLP metrics.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock},
};

use serde_json::{Value, json};

/// Series kept at most; a label with endless values (an address, a search text) must not fill the memory.
const SERIES: usize = 1000;
/// Upper bounds of the duration histogram, seconds (OpenTelemetry's for `http.server.request.duration`).
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Debug)]
enum Series {
    Counter(u64),
    Gauge(f64),
    Histogram { count: u64, sum: f64, buckets: [u64; BOUNDS.len() + 1] },
}

/// The process's measurements.
#[derive(Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<(&'static str, Labels), Series>>,
}

/// The one instance of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::default)
}

impl Metrics {
    /// Adds to a counter.
    pub fn add(&self, name: &'static str, by: u64, labels: &[(&'static str, &str)]) {
        self.change(
            name,
            labels,
            || Series::Counter(0),
            |s| {
                if let Series::Counter(value) = s {
                    *value += by;
                }
            },
        );
    }

    /// Sets a gauge.
    pub fn set(&self, name: &'static str, value: f64, labels: &[(&'static str, &str)]) {
        self.change(name, labels, || Series::Gauge(value), |s| *s = Series::Gauge(value));
    }

    /// Records a duration in seconds.
    pub fn record(&self, name: &'static str, seconds: f64, labels: &[(&'static str, &str)]) {
        let empty = || Series::Histogram { count: 0, sum: 0.0, buckets: [0; BOUNDS.len() + 1] };
        self.change(name, labels, empty, |s| {
            if let Series::Histogram { count, sum, buckets } = s {
                *count += 1;
                *sum += seconds;
                let bucket = BOUNDS.iter().position(|b| seconds <= *b).unwrap_or(BOUNDS.len());
                buckets[bucket] += 1;
            }
        });
    }

    fn change(
        &self,
        name: &'static str,
        labels: &[(&'static str, &str)],
        empty: impl FnOnce() -> Series,
        change: impl FnOnce(&mut Series),
    ) {
        let key = (name, labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect::<Labels>());
        let Ok(mut series) = self.series.lock() else { return };
        if series.len() >= SERIES && !series.contains_key(&key) {
            return;
        }
        change(series.entry(key).or_insert_with(empty));
    }

    /// The OTLP metrics of the time since `from` (Unix nanoseconds); counters and histograms begin anew (delta).
    pub(super) fn drain(&self, from: u64, to: u64) -> Vec<Value> {
        let Ok(mut series) = self.series.lock() else { return Vec::new() };
        let mut out: Vec<Value> = Vec::new();
        for ((name, labels), value) in series.iter() {
            out.push(point(name, labels, value, from, to));
        }
        series.retain(|_, s| matches!(s, Series::Gauge(_)));
        out
    }
}

fn point(name: &str, labels: &Labels, value: &Series, from: u64, to: u64) -> Value {
    let attributes: Vec<Value> =
        labels.iter().map(|(k, v)| json!({ "key": k, "value": { "stringValue": v } })).collect();
    let (from, to) = (from.to_string(), to.to_string());
    match value {
        Series::Counter(n) => json!({ "name": name, "unit": "1", "sum": {
            "aggregationTemporality": 1, "isMonotonic": true,
            "dataPoints": [{ "attributes": attributes, "startTimeUnixNano": from, "timeUnixNano": to, "asInt": n.to_string() }] } }),
        Series::Gauge(v) => json!({ "name": name, "unit": "1", "gauge": {
            "dataPoints": [{ "attributes": attributes, "timeUnixNano": to, "asDouble": v }] } }),
        Series::Histogram { count, sum, buckets } => json!({ "name": name, "unit": "s", "histogram": {
            "aggregationTemporality": 1,
            "dataPoints": [{ "attributes": attributes, "startTimeUnixNano": from, "timeUnixNano": to,
                "count": count.to_string(), "sum": sum, "explicitBounds": BOUNDS,
                "bucketCounts": buckets.iter().map(u64::to_string).collect::<Vec<_>>() }] } }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_begin_anew_after_a_drain_and_gauges_stay() {
        let metrics = Metrics::default();
        metrics.add("sign_ins", 2, &[]);
        metrics.set("active_sessions", 3.0, &[]);
        metrics.record("http.server.request.duration", 0.02, &[("http.route", "/")]);
        let first = metrics.drain(1, 2);
        assert_eq!(first.len(), 3);
        let text = serde_json::to_string(&first).unwrap();
        assert!(text.contains(r#""asInt":"2""#) && text.contains(r#""count":"1""#), "{text}");
        let second = metrics.drain(2, 3);
        assert_eq!(second.len(), 1);
        assert_eq!(second[0]["gauge"]["dataPoints"][0]["asDouble"], 3.0);
    }

    #[test]
    fn a_label_with_endless_values_cannot_fill_the_memory() {
        let metrics = Metrics::default();
        for i in 0..(SERIES * 2) {
            metrics.add("x", 1, &[("path", &i.to_string())]);
        }
        assert_eq!(metrics.drain(0, 1).len(), SERIES);
    }
}
