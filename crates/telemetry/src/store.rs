//! One day's file: its format, and how rows go into it.
//!
//! WAL with `synchronous = FULL`: a commit is on the disk when it returns, so that an answered request survives power
//! loss. NORMAL would survive `kill -9` only. One commit carries the batches of many requests, so FULL costs one
//! `fsync` a batch, not one a request.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, Transaction, params};

use crate::{
    error::StoreError,
    row::{Arrival, Log, Metric, Number, Origin, Rows, Span, level},
};

/// The format of a day file, in `PRAGMA user_version`.
pub(crate) const FORMAT: i64 = 1;

/// Indexes end in `time_ns` so that every one of them gives rows by time (see `tables`).
const SCHEMA: &str = "
CREATE TABLE resources (id INTEGER PRIMARY KEY, attributes TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE logs (
    id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, arrived_ms INTEGER NOT NULL, source TEXT NOT NULL,
    service TEXT NOT NULL, severity INTEGER NOT NULL, level TEXT NOT NULL, body TEXT NOT NULL, trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL, event TEXT NOT NULL, scope TEXT NOT NULL, attributes TEXT NOT NULL,
    resource_id INTEGER NOT NULL) STRICT;
CREATE INDEX logs_time ON logs (time_ns);
CREATE INDEX logs_trace ON logs (trace_id, time_ns) WHERE trace_id <> '';
CREATE TABLE spans (
    id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, arrived_ms INTEGER NOT NULL, source TEXT NOT NULL,
    service TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, duration_ns INTEGER NOT NULL, status TEXT NOT NULL,
    status_message TEXT NOT NULL, trace_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_span_id TEXT NOT NULL,
    scope TEXT NOT NULL, attributes TEXT NOT NULL, events TEXT NOT NULL, links TEXT NOT NULL,
    resource_id INTEGER NOT NULL) STRICT;
CREATE INDEX spans_time ON spans (time_ns);
CREATE INDEX spans_trace ON spans (trace_id, time_ns);
CREATE TABLE metrics (
    id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, arrived_ms INTEGER NOT NULL, source TEXT NOT NULL,
    service TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, unit TEXT NOT NULL, temporality TEXT NOT NULL,
    monotonic INTEGER NOT NULL, start_ns INTEGER NOT NULL, value ANY, count INTEGER, sum REAL, min REAL, max REAL,
    buckets TEXT NOT NULL, scope TEXT NOT NULL, attributes TEXT NOT NULL, resource_id INTEGER NOT NULL) STRICT;
CREATE INDEX metrics_time ON metrics (time_ns);
CREATE INDEX metrics_name ON metrics (name, time_ns);
";

/// Opens a day's file for writing; makes it if it is not there.
pub(crate) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Open { path: path.into(), source };
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1000;
             PRAGMA journal_size_limit = 4194304; PRAGMA trusted_schema = OFF;",
        )
        .map_err(failed)?;
    let transaction = connection.transaction().map_err(failed)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > FORMAT {
        return Err(StoreError::Version { path: path.into(), found, known: FORMAT });
    }
    if found == 0 {
        transaction.execute_batch(SCHEMA).map_err(failed)?;
        transaction.execute_batch(&format!("PRAGMA user_version = {FORMAT}")).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(8);
    Ok(connection)
}

/// Opens a day's file for reading only. A file of a newer format is refused.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Open { path: path.into(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -500;").map_err(failed)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > FORMAT {
        return Err(StoreError::Version { path: path.into(), found, known: FORMAT });
    }
    Ok(connection)
}

/// Whether this is a file whose first transaction never came to its end (version 0 has no tables yet).
pub(crate) fn is_blank(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).map(|version| version == 0)
}

/// Adds the rows of one request.
pub(crate) fn insert(transaction: &Transaction, arrival: &Arrival, rows: &Rows) -> rusqlite::Result<()> {
    let mut resources = Resources { transaction, last: None };
    for row in &rows.logs {
        let Log { origin, time_ns, severity, body, trace_id, span_id, event, attributes, exception: _ } = row;
        transaction
            .prepare_cached(
                "INSERT INTO logs (time_ns, arrived_ms, source, service, severity, level, body, trace_id, span_id, event,
                 scope, attributes, resource_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                time_ns, arrival.now_ms, arrival.source, origin.service, severity, level(*severity), body, trace_id,
                span_id, event, origin.scope, attributes, resources.id(origin)?
            ])?;
    }
    for row in &rows.spans {
        let Span { origin, time_ns, duration_ns, name, kind, status, status_message, .. } = row;
        transaction
            .prepare_cached(
                "INSERT INTO spans (time_ns, arrived_ms, source, service, name, kind, duration_ns, status, status_message,
                 trace_id, span_id, parent_span_id, scope, attributes, events, links, resource_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
            )?
            .execute(params![
                time_ns, arrival.now_ms, arrival.source, origin.service, name, kind, duration_ns, status,
                status_message, row.trace_id, row.span_id, row.parent_span_id, origin.scope, row.attributes, row.events,
                row.links, resources.id(origin)?
            ])?;
    }
    for row in &rows.metrics {
        let Metric { origin, time_ns, start_ns, name, kind, unit, temporality, monotonic, .. } = row;
        let value = match row.value {
            None => rusqlite::types::Value::Null,
            Some(Number::Int(n)) => n.into(),
            Some(Number::Double(n)) => n.into(),
        };
        transaction
            .prepare_cached(
                "INSERT INTO metrics (time_ns, arrived_ms, source, service, name, kind, unit, temporality, monotonic,
                 start_ns, value, count, sum, min, max, buckets, scope, attributes, resource_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
            )?
            .execute(params![
                time_ns,
                arrival.now_ms,
                arrival.source,
                origin.service,
                name,
                kind,
                unit,
                temporality,
                monotonic,
                start_ns,
                value,
                row.count,
                row.sum,
                row.min,
                row.max,
                row.buckets,
                origin.scope,
                row.attributes,
                resources.id(origin)?
            ])?;
    }
    Ok(())
}

/// A sender's attributes are kept once a file, not once a row.
struct Resources<'t> {
    transaction: &'t Transaction<'t>,
    last: Option<(std::sync::Arc<str>, i64)>,
}

impl Resources<'_> {
    fn id(&mut self, origin: &Origin) -> rusqlite::Result<i64> {
        if let Some((attributes, id)) = &self.last
            && *attributes == origin.resource
        {
            return Ok(*id);
        }
        self.transaction
            .prepare_cached("INSERT OR IGNORE INTO resources (attributes) VALUES (?1)")?
            .execute([&*origin.resource])?;
        let id = self
            .transaction
            .prepare_cached("SELECT id FROM resources WHERE attributes = ?1")?
            .query_row([&*origin.resource], |row| row.get(0))?;
        self.last = Some((origin.resource.clone(), id));
        Ok(id)
    }
}
