//! `GET /traces` and `GET /traces/{id}`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    time::Instant,
};

use api::telemetry::{LogLine, Trace, TraceSpan, TraceSummary};
use rusqlite::{Connection, Row};
use serde::Deserialize;

use crate::{
    error::StoreError,
    logs::{self, Filter},
    query::{self, QueryError},
};

const DEFAULT_TRACES: usize = 20;
const MAX_TRACES: usize = 500;
/// Spans that are looked through for the newest traces.
const LOOKED_AT: usize = 50_000;
/// Spans and log lines of one trace that are shown.
const MAX_SPANS: usize = 5_000;
const MAX_LINES: usize = 1_000;

/// Which traces are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    pub limit: Option<usize>,
    pub source: Option<String>,
    pub since_ms: Option<i64>,
}

fn read(error: rusqlite::Error) -> QueryError {
    StoreError::Read(error).into()
}

fn open_all(files: &[PathBuf], deadline: Instant) -> Result<Vec<Connection>, QueryError> {
    files.iter().filter_map(|path| logs::open(path, deadline).transpose()).collect()
}

/// The traces with the newest spans, newest first; blocks.
pub(crate) fn newest(files: &[PathBuf], wanted: &Wanted) -> Result<Vec<TraceSummary>, QueryError> {
    let deadline = Instant::now() + query::TIME;
    let limit = wanted.limit.unwrap_or(DEFAULT_TRACES).min(MAX_TRACES);
    let open = open_all(files, deadline)?;
    let (mut ids, mut known, mut looked_at) = (Vec::new(), HashSet::new(), 0);
    for file in open.iter().rev() {
        if ids.len() >= limit || looked_at >= LOOKED_AT {
            break;
        }
        let mut statement = file
            .prepare(
                "SELECT trace_id FROM spans WHERE time_ns >= ?1 AND (?2 IS NULL OR source = ?2)
                 ORDER BY time_ns DESC, id DESC LIMIT ?3",
            )
            .map_err(read)?;
        let since = wanted.since_ms.map_or(i64::MIN, |ms| ms.saturating_mul(1_000_000));
        let bound = (since, &wanted.source, (LOOKED_AT - looked_at) as i64);
        let mut rows = statement.query(bound).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            looked_at += 1;
            let id: String = row.get(0).map_err(read)?;
            if known.insert(id.clone()) {
                ids.push(id);
            }
            if ids.len() >= limit {
                break;
            }
        }
    }
    let mut traces = Vec::with_capacity(ids.len());
    for id in ids {
        traces.push(summary(&open, id)?);
    }
    traces.sort_by_key(|t| std::cmp::Reverse(t.time_ns));
    Ok(traces)
}

/// A trace may stand in two files, when it went on over midnight.
fn summary(open: &[Connection], trace_id: String) -> Result<TraceSummary, QueryError> {
    let mut trace = TraceSummary { trace_id, time_ns: i64::MAX, ..TraceSummary::default() };
    let (mut end, mut has_root) = (i64::MIN, false);
    for file in open {
        let mut statement = file
            .prepare_cached(
                "SELECT time_ns, duration_ns, name, service, status, parent_span_id FROM spans WHERE trace_id = ?1",
            )
            .map_err(read)?;
        let mut rows = statement.query([&trace.trace_id]).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            let (start, duration): (i64, i64) = (row.get(0).map_err(read)?, row.get(1).map_err(read)?);
            let root = row.get::<_, String>(5).map_err(read)?.is_empty();
            trace.spans += 1;
            trace.errors += u64::from(row.get::<_, String>(4).map_err(read)? == "error");
            if (root && !has_root) || (root == has_root && start < trace.time_ns) {
                trace.name = row.get(2).map_err(read)?;
                trace.service = row.get(3).map_err(read)?;
                has_root |= root;
            }
            trace.time_ns = trace.time_ns.min(start);
            end = end.max(start.saturating_add(duration));
        }
    }
    trace.duration_ns = end.saturating_sub(trace.time_ns).max(0);
    Ok(trace)
}

/// One trace with its log lines; none if no span and no line of it is kept. Blocks.
pub(crate) fn one(files: &[PathBuf], id: &str) -> Result<Option<Trace>, QueryError> {
    let deadline = Instant::now() + query::TIME;
    let id = id.to_ascii_lowercase();
    let (mut spans, mut truncated) = (Vec::new(), false);
    for file in open_all(files, deadline)? {
        let mut statement = file
            .prepare(
                "SELECT span_id, parent_span_id, time_ns, duration_ns, source, service, name, kind, status,
                 status_message, attributes, events FROM spans WHERE trace_id = ?1 ORDER BY time_ns, id",
            )
            .map_err(read)?;
        let mut rows = statement.query([&id]).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            if spans.len() == MAX_SPANS {
                truncated = true;
                break;
            }
            spans.push(span(row).map_err(read)?);
        }
    }
    let filter = Filter { trace_id: Some(id.clone()), limit: Some(MAX_LINES), ..Filter::default() };
    let logs: Vec<LogLine> = logs::newest(files, &filter)?;
    truncated |= logs.len() == MAX_LINES;
    if spans.is_empty() && logs.is_empty() {
        return Ok(None);
    }
    Ok(Some(Trace { trace_id: id, spans: tree(spans), logs, truncated }))
}

fn span(row: &Row<'_>) -> rusqlite::Result<TraceSpan> {
    let json = |text: String| serde_json::from_str(&text).unwrap_or_default();
    Ok(TraceSpan {
        depth: 0,
        span_id: row.get(0)?,
        parent_span_id: row.get(1)?,
        time_ns: row.get(2)?,
        duration_ns: row.get(3)?,
        source: row.get(4)?,
        service: row.get(5)?,
        name: row.get(6)?,
        kind: row.get(7)?,
        status: row.get(8)?,
        status_message: row.get(9)?,
        attributes: json(row.get(10)?),
        events: json(row.get(11)?),
    })
}

/// Orders spans (given by time) as a tree reads. Spans whose parent is not here are roots; so is the earliest of a
/// circle, which only a broken sender makes. Each span stands once, even where two have the same id.
fn tree(spans: Vec<TraceSpan>) -> Vec<TraceSpan> {
    let ids: HashSet<&str> = spans.iter().map(|s| s.span_id.as_str()).collect();
    let mut children: HashMap<String, Vec<usize>> = HashMap::new();
    let mut starts = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        if ids.contains(span.parent_span_id.as_str()) {
            children.entry(span.parent_span_id.clone()).or_default().push(index);
        } else {
            starts.push(index);
        }
    }
    let mut left: BTreeMap<usize, TraceSpan> = spans.into_iter().enumerate().collect();
    let mut ordered = Vec::with_capacity(left.len());
    let mut stack: Vec<(usize, u32)> = starts.into_iter().rev().map(|i| (i, 0)).collect();
    while let Some((index, depth)) = stack.pop().or_else(|| left.keys().next().map(|i| (*i, 0))) {
        let Some(mut span) = left.remove(&index) else { continue };
        span.depth = depth;
        if let Some(below) = children.remove(&span.span_id) {
            stack.extend(below.into_iter().rev().map(|i| (i, depth + 1)));
        }
        ordered.push(span);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(pairs: &[(&str, &str)]) -> String {
        let spans = pairs.iter().map(|(id, parent)| TraceSpan {
            span_id: (*id).into(),
            parent_span_id: (*parent).into(),
            ..TraceSpan::default()
        });
        tree(spans.collect()).iter().map(|s| format!("{}{}", s.span_id, s.depth)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_tree_stands_parents_first_and_loses_no_span() {
        assert_eq!(shape(&[("a", ""), ("b", "a"), ("c", "a"), ("d", "b")]), "a0 b1 d2 c1");
        assert_eq!(shape(&[("b", "elsewhere"), ("c", "b")]), "b0 c1");
        assert_eq!(shape(&[("a", "b"), ("b", "a"), ("c", "c")]), "a0 b1 c0");
        assert_eq!(shape(&[("a", ""), ("a", ""), ("b", "a")]), "a0 b1 a0");
    }

    #[test]
    fn a_chain_as_deep_as_a_trace_may_be_needs_no_stack() {
        let names: Vec<String> = (0..MAX_SPANS).map(|i| i.to_string()).collect();
        let spans = (0..MAX_SPANS).map(|i| TraceSpan {
            span_id: names[i].clone(),
            parent_span_id: if i == 0 { String::new() } else { names[i - 1].clone() },
            ..TraceSpan::default()
        });
        assert_eq!(tree(spans.collect()).last().unwrap().depth as usize, MAX_SPANS - 1);
    }
}
