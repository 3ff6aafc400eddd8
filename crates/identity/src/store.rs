//! The SQLite file with people, sessions, grants and sealed keys. One connection; every write is durable when it returns.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::error::Error;

/// The format this binary writes, in `PRAGMA user_version`.
const VERSION: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE users (
    id TEXT PRIMARY KEY, email TEXT NOT NULL, email_key TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    active INTEGER NOT NULL, created_s INTEGER NOT NULL
) STRICT;
CREATE TABLE members (
    user TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, team TEXT NOT NULL, PRIMARY KEY (user, team)
) STRICT, WITHOUT ROWID;
CREATE TABLE passwords (
    user TEXT PRIMARY KEY REFERENCES users(id) ON DELETE CASCADE, hash TEXT NOT NULL, changed_s INTEGER NOT NULL
) STRICT;
CREATE TABLE links (
    hash BLOB PRIMARY KEY, user TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, expires_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, user TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    started_s INTEGER NOT NULL, seen_s INTEGER NOT NULL, expires_s INTEGER NOT NULL, ended_s INTEGER,
    address TEXT NOT NULL, agent TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_user ON sessions (user);
CREATE TABLE grants (
    id TEXT PRIMARY KEY, client TEXT NOT NULL, user TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, scope TEXT NOT NULL, nonce TEXT,
    auth_s INTEGER NOT NULL, created_s INTEGER NOT NULL, revoked_s INTEGER
) STRICT;
CREATE INDEX grants_session ON grants (session);
CREATE TABLE codes (
    hash BLOB PRIMARY KEY, grant_id TEXT NOT NULL REFERENCES grants(id) ON DELETE CASCADE,
    redirect_uri TEXT NOT NULL, challenge TEXT NOT NULL, expires_s INTEGER NOT NULL, used_s INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE refresh_tokens (
    hash BLOB PRIMARY KEY, grant_id TEXT NOT NULL REFERENCES grants(id) ON DELETE CASCADE,
    expires_s INTEGER NOT NULL, used_s INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY, state TEXT NOT NULL, sealed BLOB NOT NULL, created_s INTEGER NOT NULL,
    since_s INTEGER, retired_s INTEGER
) STRICT;
";

/// What the second format has beyond the first.
const OUTSIDERS: &str = "
CREATE TABLE outsiders (
    issuer TEXT NOT NULL, subject TEXT NOT NULL, user TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    since_s INTEGER NOT NULL, PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
";

/// The store; clones share the connection.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
    /// Callers beyond these wait without a thread of their own.
    places: Arc<Semaphore>,
}

/// One works while the other's answer is on its way.
const AT_A_TIME: usize = 2;

impl Store {
    /// Opens or makes the store at `path`.
    ///
    /// # Errors
    /// [`Error::Version`] if a newer release wrote it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA cache_size=-2000;
             PRAGMA busy_timeout=5000; PRAGMA secure_delete=ON;",
        )?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > VERSION {
            return Err(Error::Version { found, known: VERSION });
        }
        if found < VERSION {
            let change = connection.transaction()?;
            if found == 0 {
                change.execute_batch(SCHEMA)?;
            }
            change.execute_batch(OUTSIDERS)?;
            change.execute_batch(&format!("PRAGMA user_version={VERSION}"))?;
            change.commit()?;
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)), places: Arc::new(Semaphore::new(AT_A_TIME)) })
    }

    /// Runs `work` in one transaction, away from the runtime's own threads. A write is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::Store`]; the transaction is then rolled back.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let store = self.clone();
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(move || {
            let _place = place;
            store.run_here(work)
        })
        .await
        .unwrap_or_else(|panic| {
            // Only a panic of `work` ends here; passing it on keeps its message.
            std::panic::resume_unwind(panic.into_panic())
        })
    }

    /// As [`Store::run`], on this thread.
    pub fn run_here<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        // A panic inside a transaction rolls it back when it is dropped, so the connection stays good.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let change = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let value = work(&change)?;
        change.commit()?;
        Ok(value)
    }
}

/// Deletes what can serve nobody any more. `now` is Unix seconds.
pub fn sweep(db: &Connection, now: i64) -> rusqlite::Result<()> {
    // A used code or refresh token stays as long as it could be presented again, so that its reuse is seen.
    db.execute("DELETE FROM codes WHERE expires_s < ?1 - 86400", [now])?;
    db.execute("DELETE FROM refresh_tokens WHERE expires_s < ?1", [now])?;
    db.execute("DELETE FROM links WHERE expires_s < ?1", [now])?;
    db.execute(
        "DELETE FROM grants WHERE created_s < ?1 - 86400
         AND NOT EXISTS (SELECT 1 FROM refresh_tokens r WHERE r.grant_id = grants.id)
         AND NOT EXISTS (SELECT 1 FROM codes c WHERE c.grant_id = grants.id)",
        [now],
    )?;
    db.execute(
        "DELETE FROM sessions WHERE (expires_s < ?1 OR ended_s < ?1 - 86400)
         AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.session = sessions.id)",
        [now],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version=3").unwrap();
        assert!(matches!(Store::open(&path), Err(Error::Version { found: 3, known: 2 })));
    }

    #[test]
    fn what_the_first_format_holds_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(SCHEMA).unwrap();
        old.execute_batch("INSERT INTO users VALUES ('1', 'a@b', 'a@b', 'A', 1, 1); PRAGMA user_version=1").unwrap();
        drop(old);
        let store = Store::open(&path).unwrap();
        let counts = |db: &Connection| {
            let of = |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get::<_, i64>(0));
            Ok((of("users")?, of("outsiders")?))
        };
        assert_eq!(store.run_here(counts).unwrap(), (1, 0));
    }

    #[test]
    fn acknowledged_writes_are_synced_in_full() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("identity.db")).unwrap();
        let (journal, sync): (String, i64) = store
            .run_here(|db| {
                Ok((
                    db.query_row("PRAGMA journal_mode", [], |r| r.get(0))?,
                    db.query_row("PRAGMA synchronous", [], |r| r.get(0))?,
                ))
            })
            .unwrap();
        assert_eq!((journal.as_str(), sync), ("wal", 2));
    }
}
