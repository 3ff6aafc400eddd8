//! The queue of jobs: a list in redis that the worker takes from, and a row for each job that says what became of it.
//!
//! A job is written down in the transaction that makes it necessary and then put into redis. If redis is away or loses it, the
//! worker's sweep puts it there again; a job that is taken twice is done once, because its row says so.

use sdk::database::{Database, Queries};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    fault::Fault,
    redis::{Redis, RedisError},
};

/// Jobs that wait, and those that a worker has in hand.
pub const WAITING: &str = "meg:jobs";
pub const TAKEN: &str = "meg:jobs:taken";
/// Attempts at one job at most.
pub const ATTEMPTS: i32 = 5;

/// What is put into redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: Uuid,
    pub name: String,
    #[serde(default)]
    pub subject: String,
}

/// Writes a job down, in the transaction that makes it necessary.
///
/// # Errors
/// No database.
pub async fn note(queries: &impl Queries, name: &str, subject: &str) -> Result<Job, Fault> {
    let job = Job { id: Uuid::now_v7(), name: name.to_owned(), subject: subject.to_owned() };
    let sql = r#"INSERT INTO "Jobs" ("Id", "Name", "Subject", "Status") VALUES ($1, $2, $3, 'queued')"#;
    queries.execute(sql, &[&job.id, &job.name, &job.subject]).await?;
    Ok(job)
}

/// Puts a job into redis.
///
/// # Errors
/// Redis is away.
pub async fn put(redis: &Redis, job: &Job) -> Result<(), RedisError> {
    let text = serde_json::to_vec(job).map_err(|_| RedisError::Answer)?;
    redis.ask(&[b"LPUSH", WAITING.as_bytes(), &text]).await.map(|_| ())
}

/// Puts a job into redis if it is there; else the sweep will.
pub async fn offer(redis: Option<&Redis>, job: &Job) {
    let Some(redis) = redis else { return };
    if let Err(error) = put(redis, job).await {
        tracing::warn!(%error, job = %job.id, "a job waits in the database");
    }
}

/// Takes the next job out of redis, waiting two seconds at most.
///
/// # Errors
/// Redis is away.
pub async fn next(redis: &Redis) -> Result<Option<(Job, Vec<u8>)>, RedisError> {
    let Some(text) = redis.take(WAITING, TAKEN, 2).await? else { return Ok(None) };
    match serde_json::from_slice(&text) {
        Ok(job) => Ok(Some((job, text))),
        Err(error) => {
            tracing::warn!(%error, "something in the queue is no job");
            done(redis, &text).await?;
            Ok(None)
        }
    }
}

/// Takes a job out of those in hand.
///
/// # Errors
/// Redis is away.
pub async fn done(redis: &Redis, text: &[u8]) -> Result<(), RedisError> {
    redis.ask(&[b"LREM", TAKEN.as_bytes(), b"1", text]).await.map(|_| ())
}

/// Marks a job as running; false when it was done already or somebody has it.
///
/// # Errors
/// No database.
pub async fn begin(database: &Database, job: &Job) -> Result<bool, Fault> {
    let connection = database.get().await?;
    // A job of the scheduler has no row yet. One that ran for five minutes was lost with its worker.
    let sql = r#"INSERT INTO "Jobs" AS j ("Id", "Name", "Subject", "Status", "Attempts", "StartedAt") VALUES ($1, $2, $3, 'running', 1, now())
                 ON CONFLICT ("Id") DO UPDATE SET "Status" = 'running', "Attempts" = j."Attempts" + 1, "StartedAt" = now()
                 WHERE j."Status" = 'queued' OR (j."Status" = 'running' AND j."StartedAt" < now() - interval '5 minutes')"#;
    Ok(connection.execute(sql, &[&job.id, &job.name, &job.subject]).await? == 1)
}

/// Writes down how a job ended. A failed one is queued again until its attempts are used up.
///
/// # Errors
/// No database.
pub async fn end(database: &Database, job: &Job, result: &Result<String, Fault>) -> Result<(), Fault> {
    let connection = database.get().await?;
    let (status, text) = match result {
        Ok(text) => ("done", text.clone()),
        Err(fault) => ("failed", fault.to_string()),
    };
    let sql = r#"UPDATE "Jobs" SET "Status" = CASE WHEN $2 = 'failed' AND "Attempts" < $4 THEN 'queued' ELSE $2 END,
                     "Result" = $3, "EndedAt" = now() WHERE "Id" = $1"#;
    connection.execute(sql, &[&job.id, &status, &text, &ATTEMPTS]).await?;
    Ok(())
}

/// Puts jobs that redis has lost there again; how many.
///
/// # Errors
/// Redis or the database is away.
pub async fn sweep(database: &Database, redis: &Redis) -> Result<usize, Fault> {
    let connection = database.get().await?;
    let sql = r#"SELECT "Id", "Name", "Subject" FROM "Jobs"
                 WHERE ("Status" = 'queued' AND coalesce("EndedAt", "EnqueuedAt") < now() - interval '20 seconds')
                    OR ("Status" = 'running' AND "StartedAt" < now() - interval '5 minutes') ORDER BY "EnqueuedAt" LIMIT 500"#;
    let rows = connection.query(sql, &[]).await?;
    for row in &rows {
        let job = Job { id: row.get(0), name: row.get(1), subject: row.get(2) };
        put(redis, &job).await.map_err(Fault::internal)?;
    }
    Ok(rows.len())
}
