//! `POST /query`: one SELECT over the day files, fenced in.
//!
//! The statement runs on a memory database that holds nothing but the virtual tables; day files are opened read-only
//! beneath them. An authorizer allows reading and functions and nothing else, and time, rows, bytes and the size of any
//! one value are bounded.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use api::telemetry::{QueryAnswer, QueryRequest};
use base64::Engine as _;
use rusqlite::{
    Connection,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::ValueRef,
};
use serde_json::Value;

use crate::{
    day::{self, Day},
    error::StoreError,
    tables::{self, Scope},
};

/// How long a query may take.
pub(crate) const TIME: Duration = Duration::from_secs(10);
const DEFAULT_ROWS: usize = 1_000;
const MAX_ROWS: usize = 10_000;
/// Bytes of an answer, about; the row that goes beyond is the last.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of one value that a query computes.
const MAX_VALUE: i32 = 8 * 1024 * 1024;

const VIEWS: &str = "
CREATE VIEW requests AS SELECT time_ns, source, service, name, duration_ns, status,
    CAST(coalesce(attributes ->> '$.\"http.response.status_code\"', attributes ->> '$.\"http.status_code\"') AS INTEGER)
        AS status_code,
    trace_id, span_id, attributes, resource FROM spans WHERE kind = 'server';
CREATE VIEW dependencies AS SELECT time_ns, source, service, name, duration_ns, status,
    coalesce(attributes ->> '$.\"db.system.name\"', attributes ->> '$.\"db.system\"',
             attributes ->> '$.\"rpc.system\"', 'http') AS type,
    coalesce(attributes ->> '$.\"server.address\"', attributes ->> '$.\"net.peer.name\"') AS target,
    trace_id, span_id, attributes, resource FROM spans WHERE kind = 'client';
CREATE VIEW exceptions AS
    SELECT e.value ->> '$.time_ns' AS time_ns, source, service, e.value ->> '$.attributes.\"exception.type\"' AS type,
        e.value ->> '$.attributes.\"exception.message\"' AS message,
        e.value ->> '$.attributes.\"exception.stacktrace\"' AS stack, trace_id, span_id
    FROM spans, json_each(spans.events) e WHERE e.value ->> '$.name' = 'exception'
    UNION ALL
    SELECT time_ns, source, service, attributes ->> '$.\"exception.type\"',
        coalesce(attributes ->> '$.\"exception.message\"', body),
        attributes ->> '$.\"exception.stacktrace\"', trace_id, span_id
    FROM logs WHERE attributes LIKE '%\"exception.%';
";

/// Why a query was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the query was refused")]
    Refused(#[source] rusqlite::Error),
    #[error("only a SELECT is answered")]
    NotSelect,
    #[error("the query took longer than {} s", TIME.as_secs())]
    TooLong,
}

/// The files of the last `days` days of arrival (0: all), never older than `oldest`, oldest first. Days that lie ahead
/// (the clock went back) count as today.
pub(crate) fn files(data: &Path, now_ms: i64, days: u32, oldest: Day) -> Result<Vec<std::path::PathBuf>, StoreError> {
    let first = match days {
        0 => oldest,
        days => Day(Day::of_ms(now_ms).0.saturating_sub(i32::try_from(days).unwrap_or(i32::MAX) - 1)).max(oldest),
    };
    Ok(day::list(data)?.into_iter().filter(|day| *day >= first).map(|day| day.file(data)).collect())
}

/// Answers one query over `files`; blocks.
pub(crate) fn run(
    files: Vec<std::path::PathBuf>,
    request: &QueryRequest,
    now_ms: i64,
    time: Duration,
) -> Result<QueryAnswer, QueryError> {
    let deadline = Instant::now() + time;
    let refused = |error: rusqlite::Error| {
        if Instant::now() >= deadline { QueryError::TooLong } else { QueryError::Refused(error) }
    };
    let mut connection = Connection::open_in_memory().map_err(refused)?;
    connection.execute_batch("PRAGMA cache_size = -1000; PRAGMA temp_store = FILE;").map_err(refused)?;
    tables::add(&connection, &Arc::new(Scope { files, deadline })).map_err(refused)?;
    connection.execute_batch(VIEWS).map_err(refused)?;
    connection
        .execute_batch(&format!("CREATE VIEW clock AS SELECT {} AS now_ns;", now_ms.saturating_mul(1_000_000)))
        .map_err(refused)?;
    connection.execute_batch("PRAGMA query_only = ON;").map_err(refused)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(refused)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE).map_err(refused)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, 64 * 1024).map_err(refused)?;
    connection.authorizer(Some(allow)).map_err(refused)?;
    connection.progress_handler(10_000, Some(move || Instant::now() >= deadline)).map_err(refused)?;

    let mut statement = connection.prepare(&request.sql).map_err(refused)?;
    if !statement.readonly() || statement.column_count() == 0 {
        return Err(QueryError::NotSelect);
    }
    let limit = if request.limit == 0 { DEFAULT_ROWS } else { request.limit.min(MAX_ROWS) };
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut answer = QueryAnswer { columns, ..QueryAnswer::default() };
    let mut bytes = 0;
    let mut rows = statement.query([]).map_err(refused)?;
    while let Some(row) = rows.next().map_err(refused)? {
        if answer.rows.len() == limit || bytes > MAX_BYTES {
            answer.truncated = true;
            break;
        }
        let mut cells = Vec::with_capacity(answer.columns.len());
        for index in 0..answer.columns.len() {
            let cell = row.get_ref(index).map_err(refused)?;
            bytes += 16;
            if let ValueRef::Text(text) | ValueRef::Blob(text) = cell {
                bytes += text.len();
            }
            cells.push(json(cell));
        }
        answer.rows.push(cells);
    }
    Ok(answer)
}

/// Reading, and nothing else: no PRAGMA, no ATTACH, no temporary tables, no transactions.
fn allow(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

fn json(cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => n.into(),
        ValueRef::Real(n) => n.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_takes_too_long_is_stopped() {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let request = QueryRequest { sql: endless.into(), days: 0, limit: 0 };
        let started = Instant::now();
        let answer = run(Vec::new(), &request, 0, Duration::from_millis(50));
        assert!(matches!(answer, Err(QueryError::TooLong)), "{answer:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_query_that_looks_through_a_file_without_finding_is_stopped_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = Day(20_000).file(dir.path());
        let file = crate::store::open(&path).unwrap();
        file.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000)
             INSERT INTO logs SELECT i, i, 0, 's', 's', 9, 'info', 'x', '', '', '', '', '{}', 1 FROM n",
        )
        .unwrap();
        let request = QueryRequest { sql: "SELECT body FROM logs WHERE body = 'y'".into(), days: 0, limit: 0 };
        let found = run(vec![path.clone()], &request, 0, Duration::from_secs(60)).unwrap();
        assert!(found.rows.is_empty());
        let answer = run(vec![path], &request, 0, Duration::ZERO);
        assert!(matches!(answer, Err(QueryError::TooLong)), "{answer:?}");
    }

    #[test]
    fn an_answer_ends_at_its_bytes_too() {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT hex(zeroblob(500000)) FROM n";
        let request = QueryRequest { sql: sql.into(), days: 0, limit: 100 };
        let answer = run(Vec::new(), &request, 0, Duration::from_secs(60)).unwrap();
        assert!(answer.truncated && answer.rows.len() == 9, "{}", answer.rows.len());
    }
}
