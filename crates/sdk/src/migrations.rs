//! Ordered SQL files, each applied once in a transaction of its own with a row in `"SchemaMigrations"`.
//!
//! An advisory lock lets one runner work at a time. An applied file that was changed since is refused. A database that is
//! ahead of the program is left alone: after a roll-back the older program must still start.

use std::time::Instant;

use tokio_postgres::Client;

use crate::{
    Settings,
    database::{OpenError, connect_alone},
    seal::sha256_hex,
};

/// One file: `0001_name.sql` is version 1. `sql` may hold several statements, none of them BEGIN or COMMIT.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub version: i32,
    pub name: &'static str,
    pub sql: &'static str,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub applied: Vec<i32>,
    pub already: usize,
    /// Versions in the database that this program does not know.
    pub unknown: Vec<i32>,
}

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("migration {version} comes after {before}; versions must rise")]
    Order { version: i32, before: i32 },
    #[error("migration {version} ({name}) was changed after it was applied; add a new migration instead")]
    Changed { version: i32, name: String },
    #[error("migration {version} was never applied but a later one was; the database is not this program's")]
    Gap { version: i32 },
    #[error("migration {version} ({name}) failed and was rolled back")]
    Failed { version: i32, name: &'static str, source: tokio_postgres::Error },
    #[error("the migration history cannot be read or written")]
    History(#[from] tokio_postgres::Error),
}

/// "stampwri" as a number: the key of the advisory lock.
const LOCK: i64 = 0x7374_616d_7077_7269;
const HISTORY: &str = r#"CREATE TABLE IF NOT EXISTS "SchemaMigrations" (
    "Version" integer PRIMARY KEY, "Name" text NOT NULL, "Checksum" text NOT NULL,
    "AppliedAt" timestamptz NOT NULL DEFAULT now(), "DurationMs" bigint NOT NULL)"#;

/// An application's verb `migrate`: [`bring`] as the schema's owner, whose connection string is in the variable `name`.
///
/// # Errors
/// The variable is missing or unreadable, or as [`apply`].
pub async fn run(settings: &Settings, name: &'static str, migrations: &[Migration]) -> Result<(), MigrationError> {
    bring(&mut connect_alone(settings, name).await?, migrations).await
}

/// [`apply`], and a line of the log that says what was done.
///
/// # Errors
/// As [`apply`].
pub async fn bring(client: &mut Client, migrations: &[Migration]) -> Result<(), MigrationError> {
    let done = apply(client, migrations).await?;
    tracing::info!(applied = done.applied.len(), already = done.already, "the schema is up to date");
    Ok(())
}

/// Applies what is missing of `migrations`, in order. Repeatable.
///
/// # Errors
/// A changed file, a gap, a failing statement (its migration is rolled back, earlier ones stay), or no database.
pub async fn apply(client: &mut Client, migrations: &[Migration]) -> Result<Applied, MigrationError> {
    if let Some(pair) = migrations.windows(2).find(|p| p[1].version <= p[0].version) {
        return Err(MigrationError::Order { version: pair[1].version, before: pair[0].version });
    }
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let result = apply_locked(client, migrations).await;
    // The lock also ends with the session, so a failure here costs nothing.
    let _ = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
    result
}

async fn apply_locked(client: &mut Client, migrations: &[Migration]) -> Result<Applied, MigrationError> {
    client.batch_execute(HISTORY).await?;
    let rows = client.query(r#"SELECT "Version", "Checksum" FROM "SchemaMigrations" ORDER BY 1"#, &[]).await?;
    let history: Vec<(i32, String)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    let newest = history.last().map_or(0, |(v, _)| *v);
    let mut done = Applied::default();
    for (version, _) in history.iter().filter(|(v, _)| migrations.iter().all(|m| m.version != *v)) {
        tracing::warn!(version, "the database has a migration that this program does not know");
        done.unknown.push(*version);
    }
    for migration in migrations {
        let (version, name) = (migration.version, migration.name);
        let checksum = sha256_hex(migration.sql);
        match history.iter().find(|(v, _)| *v == version) {
            Some((_, known)) if *known == checksum => done.already += 1,
            Some(_) => return Err(MigrationError::Changed { version, name: name.to_owned() }),
            None if version < newest => return Err(MigrationError::Gap { version }),
            None => {
                apply_one(client, migration, &checksum).await?;
                done.applied.push(version);
            }
        }
    }
    Ok(done)
}

async fn apply_one(client: &mut Client, migration: &Migration, checksum: &str) -> Result<(), MigrationError> {
    let Migration { version, name, sql } = *migration;
    let started = Instant::now();
    let transaction = client.transaction().await?;
    transaction.batch_execute(sql).await.map_err(|source| MigrationError::Failed { version, name, source })?;
    let took = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let row = r#"INSERT INTO "SchemaMigrations" ("Version", "Name", "Checksum", "DurationMs") VALUES ($1, $2, $3, $4)"#;
    transaction.execute(row, &[&version, &name, &checksum, &took]).await?;
    transaction.commit().await.map_err(|source| MigrationError::Failed { version, name, source })?;
    tracing::info!(version, name, duration_ms = took, "migration applied");
    Ok(())
}
