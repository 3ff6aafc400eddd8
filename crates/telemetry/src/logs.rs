//! `GET /logs`: the newest lines, and what follows them.

use std::{path::Path, time::Instant};

use api::telemetry::LogLine;
use rusqlite::{Connection, Row, ToSql};
use serde::Deserialize;

use crate::{
    day::{self, Day},
    error::StoreError,
    query::{self, QueryError},
    row, store,
    writer::LogMarks,
};

const DEFAULT_LINES: usize = 100;
const MAX_LINES: usize = 10_000;
/// Lines that a follower reads at once.
const FOLLOW_PAGE: usize = 500;

/// Which lines are wanted. All that is given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Filter {
    pub source: Option<String>,
    pub service: Option<String>,
    pub trace_id: Option<String>,
    /// Lines at or after this time, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Lines before this time.
    pub until_ms: Option<i64>,
    /// A part of the body, whatever its case.
    pub grep: Option<String>,
    /// This level or a graver one.
    pub level: Option<String>,
    /// Lines at most (before those that follow); 0 is none.
    pub limit: Option<usize>,
    /// `1`: go on with lines as they come.
    #[serde(default)]
    pub follow: Option<String>,
}

impl Filter {
    pub(crate) fn follows(&self) -> bool {
        matches!(self.follow.as_deref(), Some("1" | "true" | ""))
    }

    /// An unknown level is the caller's mistake.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.level.as_deref() {
            Some(level) if row::severity(level).is_none() => {
                Err(format!("{level:?} is no level; there are trace, debug, info, warn, error, fatal"))
            }
            _ => Ok(()),
        }
    }

    fn conditions(&self) -> (String, Vec<Box<dyn ToSql>>) {
        let mut sql = String::new();
        let mut values: Vec<Box<dyn ToSql>> = Vec::new();
        let mut add = |condition: &str, value: Box<dyn ToSql>| {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        };
        if let Some(source) = &self.source {
            add("source = ?", Box::new(source.clone()));
        }
        if let Some(service) = &self.service {
            add("service = ?", Box::new(service.clone()));
        }
        if let Some(trace_id) = &self.trace_id {
            // The second half lets the partial index answer.
            add("trace_id = ? AND trace_id <> ''", Box::new(trace_id.to_ascii_lowercase()));
        }
        if let Some(since) = self.since_ms {
            add("time_ns >= ?", Box::new(since.saturating_mul(1_000_000)));
        }
        if let Some(until) = self.until_ms {
            add("time_ns < ?", Box::new(until.saturating_mul(1_000_000)));
        }
        if let Some(grep) = self.grep.as_ref().filter(|g| !g.is_empty()) {
            add("instr(lower(body), lower(?)) > 0", Box::new(grep.clone()));
        }
        if let Some(severity) = self.level.as_deref().and_then(row::severity) {
            add("severity >= ?", Box::new(severity));
        }
        (sql, values)
    }
}

const COLUMNS: &str = "id, time_ns, source, service, level, body, trace_id, span_id, attributes";

fn line(row: &Row<'_>) -> rusqlite::Result<LogLine> {
    let attributes: String = row.get(8)?;
    Ok(LogLine {
        time_ns: row.get(1)?,
        source: row.get(2)?,
        service: row.get(3)?,
        level: row.get(4)?,
        body: row.get(5)?,
        trace_id: row.get(6)?,
        span_id: row.get(7)?,
        attributes: serde_json::from_str(&attributes).unwrap_or_default(),
    })
}

/// Opens a file to read it; none if it is gone or holds no tables yet.
pub(crate) fn open(path: &Path, deadline: Instant) -> Result<Option<Connection>, QueryError> {
    let mut file = match store::open_to_read(path) {
        Ok(file) => file,
        Err(_) if !path.exists() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if store::is_blank(&file).map_err(StoreError::Read)? {
        return Ok(None);
    }
    file.progress_handler(10_000, Some(move || Instant::now() >= deadline)).map_err(StoreError::Read)?;
    Ok(Some(file))
}

/// The newest lines that hold, oldest first, out of `files` (oldest first); blocks. Also where a follower goes on from.
pub(crate) fn newest(files: &[std::path::PathBuf], filter: &Filter) -> Result<Vec<LogLine>, QueryError> {
    let deadline = Instant::now() + query::TIME;
    let limit = filter.limit.unwrap_or(DEFAULT_LINES).min(MAX_LINES);
    let (conditions, values) = filter.conditions();
    let mut lines = Vec::new();
    for path in files.iter().rev() {
        if lines.len() >= limit {
            break;
        }
        let Some(file) = open(path, deadline)? else { continue };
        let sql = format!(
            "SELECT {COLUMNS} FROM logs WHERE 1{conditions} ORDER BY time_ns DESC, id DESC LIMIT {}",
            limit - lines.len()
        );
        let read = || -> rusqlite::Result<Vec<LogLine>> {
            let mut statement = file.prepare(&sql)?;
            let rows = statement.query_map(rusqlite::params_from_iter(values.iter()), line)?;
            rows.collect()
        };
        lines.extend(read().map_err(|e| overdue(e, deadline))?);
    }
    // Stable: of one time, the later row stays after the earlier one.
    lines.reverse();
    lines.sort_by_key(|l| l.time_ns);
    Ok(lines)
}

fn overdue(error: rusqlite::Error, deadline: Instant) -> QueryError {
    if Instant::now() >= deadline { QueryError::TooLong } else { StoreError::Read(error).into() }
}

/// Where a follower is: the last row of each day it has seen.
pub(crate) struct Follower {
    data: std::path::PathBuf,
    filter: Filter,
    seen: LogMarks,
}

impl Follower {
    /// Starts after everything that is there now; call it before the newest lines are read, and a line may come twice but
    /// none is missed.
    pub(crate) fn new(data: &Path, filter: Filter) -> Result<Self, QueryError> {
        let mut seen = LogMarks::new();
        for day in day::list(data)? {
            if let Some(file) = open(&day.file(data), Instant::now() + query::TIME)? {
                let last: Option<i64> =
                    file.query_row("SELECT max(id) FROM logs", [], |row| row.get(0)).map_err(StoreError::Read)?;
                seen.push((day, last.unwrap_or(0)));
            }
        }
        Ok(Self { data: data.into(), filter, seen })
    }

    /// Lines that came since, up to a page of them; whether there may be more. Blocks.
    pub(crate) fn next(&mut self, marks: &LogMarks) -> Result<(Vec<LogLine>, bool), QueryError> {
        let deadline = Instant::now() + query::TIME;
        let (conditions, values) = self.filter.conditions();
        for (day, last) in marks {
            let from = self.seen_of(*day);
            if from >= *last {
                continue;
            }
            let Some(file) = open(&day.file(&self.data), deadline)? else { continue };
            // The id alone orders and bounds: each row is looked at once, whether it holds or not.
            let sql = format!(
                "SELECT {COLUMNS} FROM logs NOT INDEXED WHERE id > {from} AND id <= {last}{conditions} ORDER BY id LIMIT {FOLLOW_PAGE}"
            );
            let read = || -> rusqlite::Result<(Vec<LogLine>, i64)> {
                let mut statement = file.prepare(&sql)?;
                let mut rows = statement.query(rusqlite::params_from_iter(values.iter()))?;
                let (mut lines, mut reached) = (Vec::new(), from);
                while let Some(row) = rows.next()? {
                    reached = row.get(0)?;
                    lines.push(line(row)?);
                }
                Ok((lines, reached))
            };
            let (lines, reached) = read().map_err(|e| overdue(e, deadline))?;
            let full = lines.len() == FOLLOW_PAGE;
            self.see(*day, if full { reached } else { *last });
            if !lines.is_empty() {
                return Ok((lines, true));
            }
        }
        Ok((Vec::new(), false))
    }

    fn seen_of(&self, day: Day) -> i64 {
        self.seen.iter().find(|(known, _)| *known == day).map_or(0, |(_, last)| *last)
    }

    fn see(&mut self, day: Day, last: i64) {
        self.seen.retain(|(known, _)| *known != day);
        self.seen.push((day, last));
    }
}
