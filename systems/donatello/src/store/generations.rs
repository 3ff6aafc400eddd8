//! Generations: what was asked for, what became of it, who may see it.

use sdk::{
    database::{Connection, Queries},
    seal::Sealer,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    access::{Caller, Meta},
    audit::{self, Act},
    budget,
    domain::aud,
    fault::Fault,
    router::Choice,
    submit::{PROMPT, event},
};

#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    pub id: Uuid,
    pub user_id: Uuid,
    pub user: String,
    pub department: String,
    pub status: String,
    /// Opened for its own person and for nobody else.
    pub prompt: Option<String>,
    #[serde(skip)]
    pub sealed: String,
    pub asked_for: Value,
    pub model_provider: Option<String>,
    pub model_name: Option<String>,
    pub model_title: Option<String>,
    pub image_url: Option<String>,
    pub cost_aud: Option<String>,
    pub reserved_aud: String,
    pub generation_time_ms: Option<i32>,
    pub error_message: Option<String>,
    pub created_at: String,
    pub completed_at: Option<String>,
    pub metadata: Value,
    pub reasons: Option<Value>,
    pub fallback_model: Option<String>,
    pub retry_count: Option<i32>,
}

impl Generation {
    pub fn ended(&self) -> bool {
        !["pending", "processing"].contains(&self.status.as_str())
    }

    pub fn is_ai(&self) -> bool {
        self.metadata["is_ai"].as_bool() == Some(true)
    }

    pub fn stand_in(&self) -> bool {
        self.metadata["stand_in"].as_bool() == Some(true)
    }

    pub fn choice(&self) -> Option<Choice> {
        self.reasons.clone().and_then(|r| serde_json::from_value(r).ok())
    }

    pub fn prompt_text(&self) -> &str {
        self.prompt.as_deref().unwrap_or("(the prompt is its author's)")
    }

    pub fn title(&self) -> &str {
        self.model_title.as_deref().unwrap_or("")
    }

    pub fn seconds(&self) -> String {
        self.generation_time_ms.map_or(String::new(), |ms| format!("{:.1} s", f64::from(ms) / 1000.0))
    }

    pub fn cost(&self) -> &str {
        self.cost_aud.as_deref().unwrap_or("0.00")
    }

    pub fn image(&self) -> &str {
        self.image_url.as_deref().unwrap_or("")
    }

    pub fn resolution(&self) -> &str {
        self.asked_for["resolution"].as_str().unwrap_or("1024x1024")
    }

    pub fn wide(&self) -> &str {
        self.resolution().split('x').next().unwrap_or("1024")
    }

    pub fn high(&self) -> &str {
        self.resolution().split('x').nth(1).unwrap_or("1024")
    }

    pub fn error(&self) -> &str {
        self.error_message.as_deref().unwrap_or("")
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT g.id, g.user_id, u.display_name, d.name, g.status, g.prompt_encrypted, g.asked_for, g.model_provider, g.model_name,
                 g.image_url, g.cost_aud::numeric(10,2)::text, g.reserved_aud::text, g.generation_time_ms, g.error_message,
                 to_char(g.created_at, 'YYYY-MM-DD HH24:MI:SS'), to_char(g.completed_at, 'YYYY-MM-DD HH24:MI:SS'), g.metadata,
                 e.selected_model_reason, e.fallback_model, e.retry_count, m.title
             FROM generations g JOIN users u ON u.id = g.user_id JOIN departments d ON d.id = g.department_id
             LEFT JOIN generation_metadata e ON e.generation_id = g.id LEFT JOIN model_providers m ON m.id = g.metadata->>'model'
             WHERE NOT g.is_deleted AND ($1::uuid IS NULL OR d.organization_id = $1) AND ($2::uuid IS NULL OR g.department_id = $2)
               AND ($3::uuid IS NULL OR g.user_id = $3) ",
            $rest
        )
    };
}

fn read(r: &Row) -> Generation {
    Generation {
        id: r.get(0),
        user_id: r.get(1),
        user: r.get(2),
        department: r.get(3),
        status: r.get(4),
        prompt: None,
        sealed: r.get(5),
        asked_for: r.get(6),
        model_provider: r.get(7),
        model_name: r.get(8),
        image_url: r.get(9),
        cost_aud: r.get(10),
        reserved_aud: r.get(11),
        generation_time_ms: r.get(12),
        error_message: r.get(13),
        created_at: r.get(14),
        completed_at: r.get(15),
        metadata: r.get(16),
        reasons: r.get(17),
        fallback_model: r.get(18),
        retry_count: r.get(19),
        model_title: r.get(20),
    }
}

/// Opens the prompts that are the caller's own.
pub fn open(prompts: &Sealer, by: &Caller, all: &mut [Generation]) {
    for one in all.iter_mut().filter(|g| g.user_id == by.user) {
        one.prompt = prompts.open(PROMPT, &one.sealed).ok().and_then(|p| String::from_utf8(p).ok());
    }
}

/// What a list is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub status: String,
    pub model_provider: String,
    /// Only the caller's own, also for those who see more.
    pub own: bool,
}

/// A page of the caller's circle, newest first, and how many there are in all.
///
/// # Errors
/// No database.
pub async fn list(
    queries: &impl Queries,
    by: &Caller,
    filter: &Filter,
    page: i64,
    limit: i64,
) -> Result<(Vec<Generation>, i64), Fault> {
    let (organization, department, mut user) = by.circle();
    if filter.own {
        user = Some(by.user);
    }
    let rows = queries
        .query(
            select!("AND ($4 = '' OR g.status = $4) AND ($5 = '' OR g.model_provider = $5) ORDER BY g.created_at DESC, g.id LIMIT $6 OFFSET $7"),
            &[&organization, &department, &user, &filter.status, &filter.model_provider, &limit, &((page - 1) * limit)],
        )
        .await?;
    let total = queries
        .first(
            "SELECT count(*) FROM generations g JOIN departments d ON d.id = g.department_id
             WHERE NOT g.is_deleted AND ($1::uuid IS NULL OR d.organization_id = $1) AND ($2::uuid IS NULL OR g.department_id = $2)
               AND ($3::uuid IS NULL OR g.user_id = $3) AND ($4 = '' OR g.status = $4) AND ($5 = '' OR g.model_provider = $5)",
            &[&organization, &department, &user, &filter.status, &filter.model_provider],
        )
        .await?;
    Ok((rows.iter().map(read).collect(), total.map_or(0, |r| r.get(0))))
}

/// One generation in the caller's circle.
///
/// # Errors
/// There is none of this id there, or no database.
pub async fn get(queries: &impl Queries, by: &Caller, id: Uuid) -> Result<Generation, Fault> {
    let (organization, department, user) = by.circle();
    let row = queries.first(select!("AND g.id = $4"), &[&organization, &department, &user, &id]).await?;
    row.as_ref().map(read).ok_or(Fault::NotFound)
}

/// Whether an image belongs to a generation in the caller's circle.
///
/// # Errors
/// No database.
pub async fn may_see(queries: &impl Queries, by: &Caller, image_url: &str) -> Result<bool, Fault> {
    let (organization, department, user) = by.circle();
    let row = queries
        .first(
            "SELECT 1 FROM generations g JOIN departments d ON d.id = g.department_id
             WHERE g.image_url = $4 AND NOT g.is_deleted AND ($1::uuid IS NULL OR d.organization_id = $1)
               AND ($2::uuid IS NULL OR g.department_id = $2) AND ($3::uuid IS NULL OR g.user_id = $3) LIMIT 1",
            &[&organization, &department, &user, &image_url],
        )
        .await?;
    Ok(row.is_some())
}

/// Takes a generation away: one under way is cancelled and its reservation given back, one that has ended is hidden and
/// its cost stays. Only its own person may.
///
/// # Errors
/// It is not the caller's, or no database.
pub async fn remove(connection: &mut Connection, by: &Caller, meta: &Meta, id: Uuid) -> Result<&'static str, Fault> {
    let transaction = connection.begin().await?;
    // The order of locks is the worker's: job, budget, generation.
    let stopped = transaction
        .execute(
            "UPDATE jobs SET step = 'done', lease = NULL, leased_until = NULL WHERE generation_id = $1 AND step <> 'done'
               AND EXISTS (SELECT 1 FROM generations WHERE id = $1 AND user_id = $2 AND NOT is_deleted)",
            &[&id, &by.user],
        )
        .await?;
    let row = transaction
        .first(
            "SELECT department_id, (reserved_aud * 100)::bigint, status FROM generations WHERE id = $1 AND user_id = $2 AND NOT is_deleted",
            &[&id, &by.user],
        )
        .await?
        .ok_or(Fault::NotFound)?;
    let (department, reserved): (Uuid, i64) = (row.get(0), row.get(1));
    let what = if stopped == 1 {
        budget::lock(&transaction, department).await?;
        budget::release(&transaction, department, reserved).await?;
        transaction
            .execute("UPDATE generations SET status = 'cancelled', reserved_aud = 0 WHERE id = $1", &[&id])
            .await?;
        event(&transaction, id, "cancelled", &json!({ "refunded_aud": aud(reserved) })).await?;
        "cancelled"
    } else {
        transaction
            .execute("UPDATE generations SET is_deleted = true, deleted_at = now() WHERE id = $1", &[&id])
            .await?;
        "deleted"
    };
    let action = if stopped == 1 { "generation cancelled" } else { "generation deleted" };
    audit::note(&transaction, Some(by), meta, Act::done("generation", action, "generation").on(id)).await?;
    transaction.commit().await?;
    Ok(what)
}
