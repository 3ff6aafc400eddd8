//! The day files as one table each of `logs`, `spans`, `metrics`: a virtual table that reads file after file.
//!
//! SQLite attaches at most ten databases unless it is compiled otherwise, so a view over attached files would end at ten
//! days. A virtual table has no such end, keeps one file open at a time, and hands comparisons of columns with values
//! down into each file, where an index answers them.

use std::{borrow::Cow, ffi::CStr, marker::PhantomData, path::PathBuf, sync::Arc, time::Instant};

use rusqlite::{
    Connection, Error, Result, ffi,
    types::Value,
    vtab::{Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection, VTabCursor},
};

use crate::store;

/// Rows that are read from a file at once.
const PAGE: usize = 256;

/// The files a query sees, oldest first, and when it must be over.
pub(crate) struct Scope {
    pub files: Vec<PathBuf>,
    pub deadline: Instant,
}

/// A column: its name, and its declared type. `resource` is looked up, all others stand in the row.
type Column = (&'static str, &'static str);

pub(crate) struct Table {
    name: &'static str,
    columns: &'static [Column],
    declared: &'static CStr,
}

macro_rules! table {
    ($name:literal, $($column:literal $kind:literal),+ $(,)?) => {
        Table {
            name: $name,
            columns: &[$(($column, $kind)),+],
            declared: match CStr::from_bytes_with_nul(concat!("CREATE TABLE x(", table!(@list $($column $kind),+), ")\0").as_bytes()) {
                Ok(text) => text,
                Err(_) => panic!("the declaration holds no zero byte"),
            },
        }
    };
    (@list $first:literal $kind:literal $(, $column:literal $other:literal)*) => {
        concat!($first, " ", $kind $(, ", ", $column, " ", $other)*)
    };
}

pub(crate) static TABLES: [Table; 3] = [
    table!(
        "logs", "time_ns" "INTEGER", "source" "TEXT", "service" "TEXT", "severity" "INTEGER", "level" "TEXT",
        "body" "TEXT", "trace_id" "TEXT", "span_id" "TEXT", "event" "TEXT", "scope" "TEXT", "attributes" "TEXT",
        "resource" "TEXT", "arrived_ms" "INTEGER",
    ),
    table!(
        "spans", "time_ns" "INTEGER", "source" "TEXT", "service" "TEXT", "name" "TEXT", "kind" "TEXT",
        "duration_ns" "INTEGER", "status" "TEXT", "status_message" "TEXT", "trace_id" "TEXT", "span_id" "TEXT",
        "parent_span_id" "TEXT", "scope" "TEXT", "attributes" "TEXT", "events" "TEXT", "links" "TEXT", "resource" "TEXT",
        "arrived_ms" "INTEGER",
    ),
    table!(
        "metrics", "time_ns" "INTEGER", "source" "TEXT", "service" "TEXT", "name" "TEXT", "kind" "TEXT", "unit" "TEXT",
        "value" "", "count" "INTEGER", "sum" "REAL", "min" "REAL", "max" "REAL", "buckets" "TEXT", "temporality" "TEXT",
        "monotonic" "INTEGER", "start_ns" "INTEGER", "scope" "TEXT", "attributes" "TEXT", "resource" "TEXT",
        "arrived_ms" "INTEGER",
    ),
];

/// Adds the three tables to a connection.
pub(crate) fn add(connection: &Connection, scope: &Arc<Scope>) -> Result<()> {
    const MODULE: Module<'static, Tab> = Module::eponymous_only_module();
    for table in &TABLES {
        connection.create_module(table.name, &MODULE, Some((table, scope.clone())))?;
    }
    Ok(())
}

/// One of the tables within one query.
#[repr(C)]
struct Tab {
    /// SQLite's part; must be first.
    base: ffi::sqlite3_vtab,
    table: &'static Table,
    scope: Arc<Scope>,
}

// SAFETY: `repr(C)` with `sqlite3_vtab` first, as the trait asks.
unsafe impl<'vtab> VTab<'vtab> for Tab {
    type Aux = (&'static Table, Arc<Scope>);
    type Cursor = Cursor<'vtab>;

    fn connect(
        connection: &mut VTabConnection,
        aux: Option<&Self::Aux>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _args: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let (table, scope) = aux.ok_or_else(|| Error::ModuleError("the table has no scope".into()))?;
        // Views of the schema may use it although schemas are not trusted: it has no side effects.
        connection.config(VTabConfig::Innocuous)?;
        let tab = Self { base: ffi::sqlite3_vtab::default(), table, scope: scope.clone() };
        Ok((Cow::Borrowed(table.declared), tab))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        // The plan in words for `filter`: the used columns, then `COLUMN OPERATOR` for each value handed over.
        let mut plan = format!("{:x}", info.col_used());
        let mut taken = Vec::new();
        let mut cost = 1e7;
        for (index, constraint) in info.constraints().enumerate() {
            let Some(operator) = operator(constraint.operator()).filter(|_| constraint.is_usable()) else { continue };
            let Some((name, _)) = usize::try_from(constraint.column()).ok().and_then(|c| self.table.columns.get(c))
            else {
                continue;
            };
            // Another collation could let more rows pass than the file's own comparison does.
            if *name == "resource" || info.collation(index)? != "BINARY" {
                continue;
            }
            plan.push_str(&format!(";{name} {operator}"));
            cost /= match (*name, operator) {
                ("trace_id", "=") => 1e5,
                ("name" | "time_ns", "=") => 1e3,
                ("time_ns", _) => 10.0,
                _ => 2.0,
            };
            taken.push(index);
        }
        for (place, index) in taken.into_iter().enumerate() {
            // Not `omit`: SQLite compares again, so a mistake here can cost rows of time, never a wrong row.
            info.constraint_usage(index).set_argv_index(place as i32 + 1);
        }
        info.set_idx_str(&plan);
        info.set_estimated_cost(cost);
        info.set_estimated_rows(cost as i64);
        Ok(true)
    }

    fn open(&'vtab mut self) -> Result<Cursor<'vtab>> {
        Ok(Cursor {
            base: ffi::sqlite3_vtab_cursor::default(),
            table: self.table,
            scope: self.scope.clone(),
            sql: String::new(),
            values: Vec::new(),
            next_file: 0,
            file: None,
            last: (i64::MIN, i64::MIN),
            page: Vec::new(),
            at: 0,
            phantom: PhantomData,
        })
    }
}

fn operator(operator: IndexConstraintOp) -> Option<&'static str> {
    Some(match operator {
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => "=",
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT => ">",
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => ">=",
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT => "<",
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => "<=",
        _ => return None,
    })
}

/// One pass over the files.
#[repr(C)]
struct Cursor<'vtab> {
    /// SQLite's part; must be first.
    base: ffi::sqlite3_vtab_cursor,
    table: &'static Table,
    scope: Arc<Scope>,
    /// The query of a page; `?1`, `?2`: where the last page ended.
    sql: String,
    values: Vec<Value>,
    next_file: usize,
    file: Option<Connection>,
    /// Time and id of the last row that was read.
    last: (i64, i64),
    /// Cells of each row with its id in the file.
    page: Vec<(i64, Vec<Value>)>,
    at: usize,
    phantom: PhantomData<&'vtab Tab>,
}

/// Bits for the ids of one file; those before them number the files.
const IDS_OF_A_FILE: u32 = 44;

impl Cursor<'_> {
    /// Reads until there is a row to show or no file left.
    fn fill(&mut self) -> Result<()> {
        while self.at >= self.page.len() {
            if self.file.is_none() && !self.open_next()? {
                return Ok(());
            }
            let Some(file) = &self.file else { return Ok(()) };
            let mut statement = file.prepare_cached(&self.sql)?;
            let bound =
                [Value::Integer(self.last.0), Value::Integer(self.last.1)].into_iter().chain(self.values.clone());
            let mut rows = statement.query(rusqlite::params_from_iter(bound))?;
            self.page.clear();
            self.at = 0;
            while let Some(row) = rows.next()? {
                self.last = (row.get(0)?, row.get(1)?);
                let cells = (2..self.table.columns.len() + 2).map(|i| row.get(i)).collect::<Result<_>>()?;
                self.page.push((self.last.1, cells));
            }
            drop(rows);
            drop(statement);
            if self.page.len() < PAGE {
                self.file = None;
            }
        }
        Ok(())
    }

    /// Opens the next file that is there; false if there is none.
    fn open_next(&mut self) -> Result<bool> {
        while let Some(path) = self.scope.files.get(self.next_file) {
            self.next_file += 1;
            let opened = store::open_to_read(path);
            let mut file = match opened {
                Ok(file) => file,
                // Its time was over between the listing and now.
                Err(_) if !path.exists() => continue,
                Err(error) => return Err(Error::ModuleError(crate::error::chain(&error))),
            };
            if store::is_blank(&file)? {
                continue;
            }
            let deadline = self.scope.deadline;
            file.progress_handler(10_000, Some(move || Instant::now() >= deadline))?;
            self.file = Some(file);
            self.last = (i64::MIN, i64::MIN);
            return Ok(true);
        }
        Ok(false)
    }
}

// SAFETY: `repr(C)` with `sqlite3_vtab_cursor` first, as the trait asks.
unsafe impl VTabCursor for Cursor<'_> {
    fn filter(&mut self, _number: i32, plan: Option<&str>, args: &Filters<'_>) -> Result<()> {
        let mut parts = plan.unwrap_or_default().split(';');
        let used = u64::from_str_radix(parts.next().unwrap_or_default(), 16).unwrap_or(u64::MAX);
        let columns: Vec<&str> = (self.table.columns.iter().enumerate())
            .map(|(index, (name, _))| match *name {
                _ if used & (1 << index.min(63)) == 0 => "NULL",
                "resource" => "(SELECT r.attributes FROM resources r WHERE r.id = t.resource_id)",
                name => name,
            })
            .collect();
        let conditions: String = parts.enumerate().map(|(i, part)| format!(" AND {part} ?{}", i + 3)).collect();
        self.sql = format!(
            "SELECT time_ns, id, {} FROM {} t WHERE time_ns >= ?1 AND (time_ns > ?1 OR id > ?2){conditions}
             ORDER BY time_ns, id LIMIT {PAGE}",
            columns.join(", "),
            self.table.name,
        );
        self.values = args
            .iter()
            .map(|v| Value::try_from(v).map_err(|e| Error::ModuleError(e.to_string())))
            .collect::<Result<_>>()?;
        self.file = None;
        self.next_file = 0;
        self.page.clear();
        self.at = 0;
        self.fill()
    }

    fn next(&mut self) -> Result<()> {
        self.at += 1;
        self.fill()
    }

    fn eof(&self) -> bool {
        self.at >= self.page.len()
    }

    fn column(&self, context: &mut Context, index: i32) -> Result<()> {
        let cell = usize::try_from(index).ok().and_then(|i| self.page.get(self.at)?.1.get(i));
        context.set_result(cell.unwrap_or(&Value::Null))
    }

    fn rowid(&self) -> Result<i64> {
        // The same for a row however it was found: SQLite reads once for each side of an OR and leaves out what it had.
        let id = self.page.get(self.at).map_or(0, |(id, _)| *id);
        Ok(((self.next_file as i64) << IDS_OF_A_FILE) | id)
    }
}
