//! The runs of jobs: written when one begins and when it ends, the last of each job kept.

use api::job::JobRun;
use rusqlite::{OptionalExtension as _, params};

use super::Journal;
use crate::Error;

/// So many runs of a job are kept.
const KEPT: i64 = 50;

pub(super) const TABLE: &str = "BEGIN;
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT, system TEXT NOT NULL, stamp TEXT NOT NULL, job TEXT NOT NULL,
        why TEXT NOT NULL, due_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER,
        outcome TEXT NOT NULL DEFAULT 'running', exit_code INTEGER, signal INTEGER, note TEXT NOT NULL DEFAULT '',
        FOREIGN KEY (system, stamp) REFERENCES stamps (system, stamp) ON DELETE CASCADE);
    CREATE INDEX runs_of ON runs (system, stamp, job, number);
    PRAGMA user_version = 2;
    COMMIT;";

const COLUMNS: &str = "number, why, due_ms, started_ms, ended_ms, outcome, exit_code, signal, note";

impl Journal {
    /// Writes down that a run begins; its number.
    pub fn begin_run(&self, system: &str, stamp: &str, job: &str, run: &JobRun) -> Result<i64, Error> {
        let connection = self.write(|| format!("run {job} begun"))?;
        connection.execute(
            "INSERT INTO runs (system, stamp, job, why, due_ms, started_ms, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![system, stamp, job, run.why, run.due_ms, run.started_ms, run.note],
        )?;
        let number = connection.last_insert_rowid();
        connection.execute(
            "DELETE FROM runs WHERE system = ?1 AND stamp = ?2 AND job = ?3 AND number <=
             (SELECT number FROM runs WHERE system = ?1 AND stamp = ?2 AND job = ?3 ORDER BY number DESC LIMIT 1 OFFSET ?4)",
            params![system, stamp, job, KEPT],
        )?;
        Ok(number)
    }

    /// Writes down how a run ended.
    pub fn end_run(&self, run: &JobRun) -> Result<(), Error> {
        self.write(|| format!("run {} {}", run.number, run.outcome))?.execute(
            "UPDATE runs SET ended_ms = ?2, outcome = ?3, exit_code = ?4, signal = ?5, note = ?6 WHERE number = ?1",
            params![run.number, run.ended_ms, run.outcome, run.exit_code, run.signal, run.note],
        )?;
        Ok(())
    }

    /// The last runs of a job, the newest first.
    pub fn runs(&self, system: &str, stamp: &str, job: &str) -> Result<Vec<JobRun>, Error> {
        let connection = self.lock();
        let mut statement = connection.prepare(&format!(
            "SELECT {COLUMNS} FROM runs WHERE system = ?1 AND stamp = ?2 AND job = ?3 ORDER BY number DESC"
        ))?;
        let rows = statement.query_map(params![system, stamp, job], read)?.collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// The run of a job that has not ended, as far as anybody wrote down.
    pub fn open_run(&self, system: &str, stamp: &str, job: &str) -> Result<Option<JobRun>, Error> {
        let text = format!(
            "SELECT {COLUMNS} FROM runs WHERE system = ?1 AND stamp = ?2 AND job = ?3 AND ended_ms IS NULL
             ORDER BY number DESC LIMIT 1"
        );
        Ok(self.lock().query_row(&text, params![system, stamp, job], read).optional()?)
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<JobRun> {
    Ok(JobRun {
        number: row.get(0)?,
        why: row.get(1)?,
        due_ms: row.get(2)?,
        started_ms: row.get(3)?,
        ended_ms: row.get(4)?,
        outcome: row.get(5)?,
        exit_code: row.get(6)?,
        signal: row.get(7)?,
        note: row.get(8)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use crate::journal::{StampRow, Wanted};

    use super::*;

    #[test]
    fn the_last_runs_are_kept_and_an_open_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
        let row = StampRow {
            system: "s".into(),
            stamp: "dev".into(),
            folder: "/".into(),
            manifest: String::new(),
            programs: Vec::new(),
            wanted: Wanted::Up,
            block: 1,
            tenant: "t".into(),
        };
        journal.want(&row).unwrap();
        for at in 0..KEPT + 9 {
            let mut run = JobRun { why: "schedule".into(), due_ms: at, started_ms: at, ..JobRun::default() };
            run.number = journal.begin_run("s", "dev", "job.a", &run).unwrap();
            assert_eq!(journal.open_run("s", "dev", "job.a").unwrap().unwrap().number, run.number);
            run.ended_ms = Some(at + 1);
            run.outcome = "done".into();
            run.exit_code = Some(0);
            journal.end_run(&run).unwrap();
            assert_eq!(journal.runs("s", "dev", "job.a").unwrap()[0], run);
        }
        assert_eq!(journal.runs("s", "dev", "job.a").unwrap().len() as i64, KEPT);
        assert_eq!(journal.open_run("s", "dev", "job.a").unwrap(), None);
        journal.forget("s", "dev").unwrap();
        assert!(journal.runs("s", "dev", "job.a").unwrap().is_empty());
    }
}
