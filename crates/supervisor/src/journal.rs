//! The journal: what is wanted, what was placed, which step was begun and which is done. Written before the world changes.

use std::{
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use drivers::ProcessId;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::Error;

mod runs;

const VERSION: i64 = 2;

/// What is wanted of a stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Up,
    Down,
    /// Being removed; a cut removal goes on.
    Gone,
}

impl Wanted {
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Gone => "gone",
        }
    }

    fn from_word(word: &str) -> Self {
        match word {
            "up" => Self::Up,
            "gone" => Self::Gone,
            _ => Self::Down,
        }
    }
}

/// A stamp, as the journal has it.
#[derive(Clone, Debug)]
pub struct StampRow {
    pub system: String,
    pub stamp: String,
    pub folder: PathBuf,
    pub manifest: String,
    pub programs: Vec<PathBuf>,
    pub wanted: Wanted,
    /// The stamp's loopback block `127.A.B.0/24`, as `A * 256 + B`.
    pub block: u16,
    /// Directory tenant, a GUID.
    pub tenant: String,
}

/// A placed workload, as the journal has it.
#[derive(Clone, Debug)]
pub struct WorkloadRow {
    pub workload: String,
    pub user: Option<u32>,
    /// Last part of its address.
    pub host: u8,
    /// The shim, if it was placed.
    pub shim: Option<ProcessId>,
    /// Digest of what it was placed with.
    pub digest: String,
}

/// Asked before each write, in words such as `step start service.web done`: false, and it is not written. Only tests have
/// one; to the supervisor it is the moment of its death.
pub type Cut = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The journal, shared.
#[derive(Clone)]
pub struct Journal {
    connection: Arc<Mutex<Connection>>,
    cut: Option<Cut>,
}

impl Journal {
    /// Opens or makes the journal.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // SQLite gives its side files the mode of the database: nobody else reads any of them.
        let private = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        private
            .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
            .map_err(Error::file("open", path))?;
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -500)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > VERSION {
            return Err(Error::JournalVersion { found, known: VERSION });
        }
        if found < 1 {
            connection.execute_batch(
                "BEGIN;
                CREATE TABLE stamps (
                    system TEXT NOT NULL, stamp TEXT NOT NULL, folder TEXT NOT NULL, manifest TEXT NOT NULL,
                    programs TEXT NOT NULL, wanted TEXT NOT NULL, block INTEGER NOT NULL UNIQUE, tenant TEXT NOT NULL,
                    PRIMARY KEY (system, stamp));
                CREATE TABLE workloads (
                    system TEXT NOT NULL, stamp TEXT NOT NULL, workload TEXT NOT NULL, user INTEGER, host INTEGER NOT NULL,
                    pid INTEGER, start_ticks INTEGER, digest TEXT NOT NULL DEFAULT '',
                    PRIMARY KEY (system, stamp, workload),
                    UNIQUE (system, stamp, host), UNIQUE (user),
                    FOREIGN KEY (system, stamp) REFERENCES stamps (system, stamp) ON DELETE CASCADE);
                CREATE TABLE facts (
                    system TEXT NOT NULL, stamp TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
                    PRIMARY KEY (system, stamp, name),
                    FOREIGN KEY (system, stamp) REFERENCES stamps (system, stamp) ON DELETE CASCADE);
                CREATE TABLE steps (
                    seq INTEGER PRIMARY KEY AUTOINCREMENT, system TEXT NOT NULL, stamp TEXT NOT NULL, step TEXT NOT NULL,
                    state TEXT NOT NULL, at_ms INTEGER NOT NULL, note TEXT NOT NULL DEFAULT '');
                PRAGMA user_version = 1;
                COMMIT;",
            )?;
        }
        if found < 2 {
            connection.execute_batch(runs::TABLE)?;
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)), cut: None })
    }

    /// A journal that `cut` may end.
    pub fn cut_by(mut self, cut: Option<Cut>) -> Self {
        self.cut = cut;
        self
    }

    /// The connection, for a write that is about to happen.
    fn write(&self, what: impl FnOnce() -> String) -> Result<MutexGuard<'_, Connection>, Error> {
        match &self.cut {
            Some(cut) if !cut(&what()) => Err(Error::Fault("it was ended here, as asked".into())),
            _ => Ok(self.lock()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in between leaves SQLite's own transaction, which it rolls back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All stamps.
    pub fn stamps(&self) -> Result<Vec<StampRow>, Error> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT system, stamp, folder, manifest, programs, wanted, block, tenant FROM stamps ORDER BY 1, 2",
        )?;
        let rows = statement.query_map([], read_stamp)?.collect::<Result<_, _>>()?;
        Ok(rows)
    }

    pub fn stamp(&self, system: &str, stamp: &str) -> Result<Option<StampRow>, Error> {
        Ok(self
            .lock()
            .query_row(
                "SELECT system, stamp, folder, manifest, programs, wanted, block, tenant FROM stamps WHERE system = ?1 AND stamp = ?2",
                params![system, stamp],
                read_stamp,
            )
            .optional()?)
    }

    /// Writes what is wanted of a stamp; address block and tenant of one that is known stay as they are.
    pub fn want(&self, row: &StampRow) -> Result<(), Error> {
        let programs: Vec<String> = row.programs.iter().map(|p| p.display().to_string()).collect();
        self.write(|| format!("want {} {}", row.stamp, row.wanted.word()))?.execute(
            "INSERT INTO stamps (system, stamp, folder, manifest, programs, wanted, block, tenant)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (system, stamp) DO UPDATE SET folder = ?3, manifest = ?4, programs = ?5, wanted = ?6",
            params![
                row.system,
                row.stamp,
                row.folder.display().to_string(),
                row.manifest,
                programs.join("\n"),
                row.wanted.word(),
                row.block,
                row.tenant
            ],
        )?;
        Ok(())
    }

    pub fn set_wanted(&self, system: &str, stamp: &str, wanted: Wanted) -> Result<(), Error> {
        self.write(|| format!("want {stamp} {}", wanted.word()))?.execute(
            "UPDATE stamps SET wanted = ?3 WHERE system = ?1 AND stamp = ?2",
            params![system, stamp, wanted.word()],
        )?;
        Ok(())
    }

    /// Forgets a stamp and all that belongs to it.
    pub fn forget(&self, system: &str, stamp: &str) -> Result<(), Error> {
        let connection = self.write(|| format!("forget {stamp}"))?;
        connection.execute("DELETE FROM steps WHERE system = ?1 AND stamp = ?2", params![system, stamp])?;
        connection.execute("DELETE FROM stamps WHERE system = ?1 AND stamp = ?2", params![system, stamp])?;
        Ok(())
    }

    pub fn workloads(&self, system: &str, stamp: &str) -> Result<Vec<WorkloadRow>, Error> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT workload, user, host, pid, start_ticks, digest FROM workloads WHERE system = ?1 AND stamp = ?2 ORDER BY 1",
        )?;
        let rows = statement
            .query_map(params![system, stamp], |row| {
                let pid: Option<u32> = row.get(3)?;
                let ticks: Option<i64> = row.get(4)?;
                Ok(WorkloadRow {
                    workload: row.get(0)?,
                    user: row.get(1)?,
                    host: row.get(2)?,
                    shim: pid.zip(ticks).map(|(pid, t)| ProcessId { pid, start_ticks: t as u64 }),
                    digest: row.get(5)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// One placed workload, as it is now.
    pub fn workload(&self, system: &str, stamp: &str, workload: &str) -> Result<Option<WorkloadRow>, Error> {
        Ok(self.workloads(system, stamp)?.into_iter().find(|row| row.workload == workload))
    }

    /// Every user number in use, of all stamps.
    pub fn users(&self) -> Result<Vec<u32>, Error> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT user FROM workloads WHERE user IS NOT NULL")?;
        let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// Gives a workload its address and user, before anything uses them.
    pub fn add_workload(
        &self,
        system: &str,
        stamp: &str,
        workload: &str,
        user: Option<u32>,
        host: u8,
    ) -> Result<(), Error> {
        self.write(|| format!("add {workload}"))?.execute(
            "INSERT INTO workloads (system, stamp, workload, user, host) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![system, stamp, workload, user, host],
        )?;
        Ok(())
    }

    /// Writes down which process a workload is, or that it is none.
    pub fn placed(
        &self,
        system: &str,
        stamp: &str,
        workload: &str,
        shim: Option<ProcessId>,
        digest: &str,
    ) -> Result<(), Error> {
        self.write(|| format!("placed {workload} {}", if shim.is_some() { "by number" } else { "by digest" }))?.execute(
            "UPDATE workloads SET pid = ?4, start_ticks = ?5, digest = ?6 WHERE system = ?1 AND stamp = ?2 AND workload = ?3",
            params![system, stamp, workload, shim.map(|s| s.pid), shim.map(|s| s.start_ticks as i64), digest],
        )?;
        Ok(())
    }

    pub fn fact(&self, system: &str, stamp: &str, name: &str) -> Result<Option<String>, Error> {
        Ok(self
            .lock()
            .query_row(
                "SELECT value FROM facts WHERE system = ?1 AND stamp = ?2 AND name = ?3",
                params![system, stamp, name],
                |row| row.get(0),
            )
            .optional()?)
    }

    pub fn drop_fact(&self, system: &str, stamp: &str, name: &str) -> Result<(), Error> {
        self.write(|| format!("drop {name}"))?.execute(
            "DELETE FROM facts WHERE system = ?1 AND stamp = ?2 AND name = ?3",
            params![system, stamp, name],
        )?;
        Ok(())
    }

    pub fn set_fact(&self, system: &str, stamp: &str, name: &str, value: &str) -> Result<(), Error> {
        self.write(|| format!("fact {name}"))?.execute(
            "INSERT INTO facts (system, stamp, name, value) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (system, stamp, name) DO UPDATE SET value = ?4",
            params![system, stamp, name, value],
        )?;
        Ok(())
    }

    /// Records that a step was begun, is done, or failed.
    pub fn step(
        &self,
        system: &str,
        stamp: &str,
        step: &str,
        state: &str,
        at_ms: i64,
        note: &str,
    ) -> Result<(), Error> {
        self.write(|| format!("step {step} {state}"))?.execute(
            "INSERT INTO steps (system, stamp, step, state, at_ms, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![system, stamp, step, state, at_ms, note],
        )?;
        Ok(())
    }
}

fn read_stamp(row: &rusqlite::Row<'_>) -> rusqlite::Result<StampRow> {
    let programs: String = row.get(4)?;
    Ok(StampRow {
        system: row.get(0)?,
        stamp: row.get(1)?,
        folder: PathBuf::from(row.get::<_, String>(2)?),
        manifest: row.get(3)?,
        programs: programs.lines().map(PathBuf::from).collect(),
        wanted: Wanted::from_word(&row.get::<_, String>(5)?),
        block: row.get(6)?,
        tenant: row.get(7)?,
    })
}
