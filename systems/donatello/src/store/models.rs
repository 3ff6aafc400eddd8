//! Models with what is known of them, and the shared circuit breakers.

use sdk::database::{Connection, Error, Queries};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    access::{Caller, Meta},
    audit::{self, Act},
    breaker::{Breaker, State},
    fault::Fault,
    router::Model,
};

const SELECT: &str = "SELECT m.id, m.provider_name, m.model_name, m.title, m.region, m.is_active, m.is_ai, m.commercial_use,
        (m.cost_per_image_aud * 100)::bigint, (m.sla_percentage * 100)::bigint, m.quality, m.typical_ms, m.timeout_seconds,
        coalesce(c.available, false), coalesce(c.note, 'no worker has said yet that it can call it'),
        h.state, h.failures, h.trials, extract(epoch FROM clock_timestamp() - h.opened_at)::double precision,
        h.calls, h.successes, h.spent_ms
    FROM model_providers m JOIN provider_health h ON h.model_id = m.id LEFT JOIN provider_configs c ON c.model_id = m.id
    ORDER BY m.quality DESC, m.id";

fn breaker(row: &Row, at: usize) -> Breaker {
    Breaker {
        state: State::parse(row.get(at)),
        failures: row.get(at + 1),
        trials: row.get(at + 2),
        opened: row.get(at + 3),
    }
}

fn read(r: &Row) -> Model {
    let breaker = breaker(r, 15);
    Model {
        id: r.get(0),
        provider_name: r.get(1),
        model_name: r.get(2),
        title: r.get(3),
        region: r.get(4),
        is_active: r.get(5),
        is_ai: r.get(6),
        commercial_use: r.get(7),
        cost_cents: r.get(8),
        sla: r.get(9),
        quality: r.get(10),
        typical_ms: r.get(11),
        timeout_seconds: r.get(12),
        available: r.get(13),
        note: r.get(14),
        open: !breaker.takes(),
        state: breaker.state.word().to_owned(),
        calls: r.get(19),
        successes: r.get(20),
        spent_ms: r.get(21),
    }
}

/// All models, the finest first.
///
/// # Errors
/// The database does not answer.
pub async fn list(queries: &impl Queries) -> Result<Vec<Model>, Error> {
    Ok(queries.query(SELECT, &[]).await?.iter().map(read).collect())
}

/// A worker tells what it can call; the note says why not.
///
/// # Errors
/// The database does not answer.
pub async fn tell(queries: &impl Queries, id: &str, available: bool, note: &str) -> Result<(), Error> {
    queries
        .execute(
            "INSERT INTO provider_configs (model_id, available, note) SELECT id, $2, $3 FROM model_providers WHERE id = $1
             ON CONFLICT (model_id) DO UPDATE SET available = $2, note = $3, told_at = now()",
            &[&id, &available, &note],
        )
        .await?;
    Ok(())
}

async fn locked(queries: &impl Queries, id: &str) -> Result<Breaker, Error> {
    let row = queries
        .first(
            "SELECT state, failures, trials, extract(epoch FROM clock_timestamp() - opened_at)::double precision
             FROM provider_health WHERE model_id = $1 FOR UPDATE",
            &[&id],
        )
        .await?;
    Ok(row.as_ref().map_or(Breaker::NEW, |r| breaker(r, 0)))
}

async fn keep(queries: &impl Queries, id: &str, breaker: Breaker) -> Result<(), Error> {
    queries
        .execute(
            "UPDATE provider_health SET state = $2, failures = $3, trials = $4,
                 opened_at = clock_timestamp() - make_interval(secs => $5) WHERE model_id = $1",
            &[&id, &breaker.state.word(), &breaker.failures, &breaker.trials, &breaker.opened],
        )
        .await?;
    Ok(())
}

/// Asks the breaker to let a call through.
///
/// # Errors
/// The database does not answer.
pub async fn may_call(connection: &mut Connection, id: &str) -> Result<bool, Error> {
    let transaction = connection.begin().await?;
    let Some(after) = locked(&transaction, id).await?.call() else { return Ok(false) };
    keep(&transaction, id, after).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Tells how a call ended that was let through.
///
/// # Errors
/// The database does not answer.
pub async fn ended(connection: &mut Connection, id: &str, success: bool, ms: i64) -> Result<State, Error> {
    let transaction = connection.begin().await?;
    let before = locked(&transaction, id).await?;
    let after = if success { before.succeeded() } else { before.failed() };
    keep(&transaction, id, after).await?;
    let (won, spent) = if success { (1_i64, ms) } else { (0, 0) };
    transaction
        .execute(
            "UPDATE provider_health SET calls = calls + 1, successes = successes + $2, spent_ms = spent_ms + $3 WHERE model_id = $1",
            &[&id, &won, &spent],
        )
        .await?;
    transaction.commit().await?;
    if before.state != after.state {
        tracing::warn!(
            event.name = "circuit-breaker",
            model = id,
            from = before.state.word(),
            to = after.state.word(),
            "a circuit breaker changed"
        );
    }
    Ok(after.state)
}

/// Switches a model on or off.
///
/// # Errors
/// There is no such model, or no database.
pub async fn set_active(
    connection: &mut Connection,
    by: &Caller,
    meta: &Meta,
    id: &str,
    active: bool,
) -> Result<(), Fault> {
    let transaction = connection.begin().await?;
    let changed =
        transaction.execute("UPDATE model_providers SET is_active = $2 WHERE id = $1", &[&id, &active]).await?;
    if changed == 0 {
        return Err(Fault::NotFound);
    }
    let told = serde_json::json!({ "model": id, "is_active": active });
    audit::note(&transaction, Some(by), meta, Act::done("administration", "model switched", "model").with(told))
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// What a department's prompts are routed by: its profile and the regions it may use.
///
/// # Errors
/// The database does not answer.
pub async fn rules(queries: &impl Queries, department: Uuid) -> Result<(String, Vec<String>), Error> {
    let row = queries.first("SELECT profile, regions FROM departments WHERE id = $1", &[&department]).await?;
    Ok(row.map_or_else(|| ("balanced".to_owned(), Vec::new()), |r| (r.get(0), r.get(1))))
}
