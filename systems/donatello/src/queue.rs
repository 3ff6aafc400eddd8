//! The queue of jobs in PostgreSQL: taken with `SKIP LOCKED`, held by a lease that must be renewed, written only by whoever
//! holds the lease.

use std::time::Duration;

use sdk::database::{Error, Queries};
use serde_json::json;
use uuid::Uuid;

/// A job as its holder sees it.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: Uuid,
    pub lease: Uuid,
    pub step: Step,
    /// Models to try, best first, with their prices in cents as they were when chosen.
    pub candidates: Vec<String>,
    pub prices: Vec<i64>,
    pub place: i32,
    /// Failed attempts at the current model, and of all.
    pub attempts: i32,
    pub retries: i32,
    /// How often a worker died holding it.
    pub deaths: i32,
    /// The name of work under way at a provider.
    pub outside_id: Option<String>,
    pub image_hash: Option<String>,
    pub call_ms: Option<i32>,
    pub stand_in: bool,
    /// Seconds since it was queued.
    pub age: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Choose,
    Call,
    Settle,
}

impl Job {
    pub fn model(&self) -> Option<&str> {
        self.candidates.get(usize::try_from(self.place).ok()?).map(String::as_str)
    }

    pub fn price(&self) -> i64 {
        usize::try_from(self.place).ok().and_then(|p| self.prices.get(p)).copied().unwrap_or(0)
    }
}

/// Takes the job that waits longest, if there is one.
///
/// # Errors
/// The database does not answer.
pub async fn claim(queries: &impl Queries, lease: Duration) -> Result<Option<Job>, Error> {
    let (mark, seconds) = (Uuid::new_v4(), lease.as_secs_f64());
    let row = queries
        .first(
            "UPDATE jobs SET lease = $1, leased_until = clock_timestamp() + make_interval(secs => $2),
                 deaths = deaths + (leased_until IS NOT NULL)::integer
             WHERE generation_id = (
                 SELECT generation_id FROM jobs
                 WHERE step <> 'done' AND not_before <= clock_timestamp() AND (leased_until IS NULL OR leased_until < clock_timestamp())
                 ORDER BY not_before FOR UPDATE SKIP LOCKED LIMIT 1)
             RETURNING generation_id, step, candidates, prices, place, attempts, retries, deaths, outside_id, image_hash,
                 call_ms, stand_in, extract(epoch FROM clock_timestamp() - created_at)::double precision",
            &[&mark, &seconds],
        )
        .await?;
    Ok(row.map(|r| Job {
        id: r.get(0),
        lease: mark,
        step: match r.get(1) {
            "settle" => Step::Settle,
            "call" => Step::Call,
            _ => Step::Choose,
        },
        candidates: r.get(2),
        prices: r.get(3),
        place: r.get(4),
        attempts: r.get(5),
        retries: r.get(6),
        deaths: r.get(7),
        outside_id: r.get(8),
        image_hash: r.get(9),
        call_ms: r.get(10),
        stand_in: r.get(11),
        age: r.get(12),
    }))
}

/// Holds on to a job. False when it is no longer held.
///
/// # Errors
/// The database does not answer.
pub async fn renew(queries: &impl Queries, job: &Job, lease: Duration) -> Result<bool, Error> {
    let update = "UPDATE jobs SET leased_until = clock_timestamp() + make_interval(secs => $3) WHERE generation_id = $1 AND lease = $2 AND step <> 'done'";
    Ok(queries.execute(update, &[&job.id, &job.lease, &lease.as_secs_f64()]).await? == 1)
}

/// Writes all that a holder may change and, if `wait` is given, lets go until then. False when it is no longer held.
///
/// # Errors
/// The database does not answer.
pub async fn keep(queries: &impl Queries, job: &Job, wait: Option<Duration>) -> Result<bool, Error> {
    let step = match job.step {
        Step::Choose => "choose",
        Step::Call => "call",
        Step::Settle => "settle",
    };
    let seconds = wait.map(|w| w.as_secs_f64());
    let changed = queries
        .execute(
            "UPDATE jobs SET step = $3, candidates = $4, prices = $5, place = $6, attempts = $7, retries = $8, outside_id = $9,
                 image_hash = $10, call_ms = $11, stand_in = $12,
                 not_before = CASE WHEN $13::double precision IS NULL THEN not_before ELSE clock_timestamp() + make_interval(secs => $13) END,
                 lease = CASE WHEN $13 IS NULL THEN lease END, leased_until = CASE WHEN $13 IS NULL THEN leased_until END
             WHERE generation_id = $1 AND lease = $2 AND step <> 'done'",
            &[
                &job.id,
                &job.lease,
                &step,
                &job.candidates,
                &job.prices,
                &job.place,
                &job.attempts,
                &job.retries,
                &job.outside_id,
                &job.image_hash,
                &job.call_ms,
                &job.stand_in,
                &seconds,
            ],
        )
        .await?;
    Ok(changed == 1)
}

/// Ends a job. False when it is no longer held.
///
/// # Errors
/// The database does not answer.
pub async fn finish(queries: &impl Queries, job: &Job) -> Result<bool, Error> {
    let update = "UPDATE jobs SET step = 'done', lease = NULL, leased_until = NULL WHERE generation_id = $1 AND lease = $2 AND step <> 'done'";
    Ok(queries.execute(update, &[&job.id, &job.lease]).await? == 1)
}

/// Jobs that wait or are worked on.
///
/// # Errors
/// The database does not answer.
pub async fn depth(queries: &impl Queries) -> Result<i64, Error> {
    Ok(queries.first("SELECT count(*) FROM jobs WHERE step <> 'done'", &[]).await?.map_or(0, |r| r.get(0)))
}

/// A short look at the queue, for the administrators' page.
///
/// # Errors
/// The database does not answer.
pub async fn look(queries: &impl Queries) -> Result<serde_json::Value, Error> {
    let row = queries
        .first(
            "SELECT count(*), count(*) FILTER (WHERE leased_until > clock_timestamp()),
                    coalesce(max(extract(epoch FROM clock_timestamp() - created_at)), 0)::bigint
             FROM jobs WHERE step <> 'done'",
            &[],
        )
        .await?;
    Ok(row.map_or(
        json!({}),
        |r| json!({ "depth": r.get::<_, i64>(0), "leased": r.get::<_, i64>(1), "oldest_seconds": r.get::<_, i64>(2) }),
    ))
}
