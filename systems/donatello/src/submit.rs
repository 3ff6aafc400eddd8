//! Taking a prompt: format, personal data, rate, router, budget, then the queue. Whatever refuses comes before anything costs.

use sdk::{database::Queries, fault::WebFault as _};
use serde_json::json;
use uuid::Uuid;

use crate::{
    access::{Caller, Meta},
    app::App,
    audit::{self, Act},
    budget::{self, Reserved},
    domain::{FieldErrors, Wish, aud, clean_prompt},
    fault::Fault,
    pii,
    router::{self, Asked, Choice},
    store::models,
};

/// The purpose under which prompts are sealed.
pub const PROMPT: &str = "prompt";

/// What was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    pub id: Uuid,
    /// This key was sent before: it is the generation of then, and nothing new is reserved.
    pub again: bool,
}

/// Takes a prompt of a person; `key` makes sending it twice take it once.
///
/// # Errors
/// Every refusal is a [`Fault`] and is on record; nothing is reserved then.
pub async fn submit(app: &App, by: &Caller, meta: &Meta, key: &str, prompt: &str, wish: &Wish) -> Result<Taken, Fault> {
    let key_fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if !(8..=100).contains(&key.len()) || !key.chars().all(key_fits) {
        return Err(Fault::field("idempotency_key", "The key has 8 to 100 letters, digits, hyphens, dots and colons."));
    }
    if let Some(id) = known(&app.connection().await?, by.user, key).await? {
        return Ok(Taken { id, again: true });
    }
    match take(app, by, meta, key, prompt, wish).await {
        Err(Fault::Conflict(text)) if text == SENT_TWICE => {
            let id = known(&app.connection().await?, by.user, key).await?.ok_or(Fault::NotFound)?;
            Ok(Taken { id, again: true })
        }
        Err(fault) => {
            record(app, by, meta, prompt, wish, &fault).await;
            Err(fault)
        }
        Ok(id) => Ok(Taken { id, again: false }),
    }
}

const SENT_TWICE: &str = "This was sent twice at once.";

async fn known(queries: &impl Queries, user: Uuid, key: &str) -> Result<Option<Uuid>, Fault> {
    let select = "SELECT id FROM generations WHERE user_id = $1 AND idempotency_key = $2";
    Ok(queries.first(select, &[&user, &key]).await?.map(|r| r.get(0)))
}

async fn take(app: &App, by: &Caller, meta: &Meta, key: &str, prompt: &str, wish: &Wish) -> Result<Uuid, Fault> {
    let mut errors = FieldErrors::default();
    let clean = clean_prompt(prompt);
    if clean.is_none() {
        errors.add("prompt", "A prompt has 3 to 2000 characters.");
    }
    wish.check(&mut errors);
    let (Some(prompt), true) = (clean, errors.is_empty()) else { return Err(Fault::Invalid(errors)) };
    let found = pii::scan(&prompt);
    let refusing: Vec<_> = pii::refusing(&found).into_iter().cloned().collect();
    if !refusing.is_empty() {
        return Err(Fault::Personal(refusing));
    }
    let mut connection = app.connection().await?;
    rate(&connection, by).await?;
    let complexity = router::complexity(&prompt);
    let (profile, regions) = models::rules(&connection, by.department).await?;
    let models = models::list(&connection).await?;
    let sealed = app.prompts.seal(PROMPT, prompt.as_bytes()).map_err(Fault::internal)?;

    let transaction = connection.begin().await?;
    let budget = budget::lock(&transaction, by.department).await?;
    let budget = budget.ok_or_else(|| Fault::Budget("Your department has no budget yet.".into()))?;
    let mut asked =
        Asked { wish, prompt_complexity: complexity, regions: &regions, profile: &profile, room_cents: None };
    let open = router::choose(&asked, &models);
    if open.ranked.is_empty() {
        return Err(no_model(&open, wish, &regions));
    }
    asked.room_cents = budget.room();
    let choice = router::choose(&asked, &models);
    // The dearest that may come to be used, fall-backs included, is reserved; what it really costs is settled.
    let Some(estimate) = choice.ranked.iter().map(|r| r.cost_cents).max() else {
        let cheapest = open.ranked.iter().map(|r| r.cost_cents).min().unwrap_or(0);
        return Err(over(cheapest, budget.left()));
    };
    match budget::reserve(&transaction, by.department, &budget, estimate).await? {
        Reserved::No { left } => return Err(over(estimate, left)),
        Reserved::Over { mode } => {
            let told = json!({ "mode": mode, "left_aud": aud(budget.left()), "estimate_aud": aud(estimate) });
            audit::note(
                &transaction,
                Some(by),
                meta,
                Act::done("cost", "over budget", "department").on(by.department).with(told),
            )
            .await?;
        }
        Reserved::Yes => {}
    }
    let id = Uuid::now_v7();
    let asked_for = serde_json::to_value(wish).map_err(Fault::internal)?;
    let made = transaction
        .execute(
            "INSERT INTO generations (id, user_id, department_id, idempotency_key, prompt_encrypted, asked_for, reserved_aud, metadata)
             VALUES ($1, $2, $3, $4, $5, $6, $7::bigint / 100.0, $8) ON CONFLICT (user_id, idempotency_key) DO NOTHING",
            &[&id, &by.user, &by.department, &key, &sealed, &asked_for, &estimate, &json!({ "pii": found, "request_id": meta.request_id })],
        )
        .await?;
    if made == 0 {
        return Err(Fault::Conflict(SENT_TWICE.into()));
    }
    transaction.execute("INSERT INTO jobs (generation_id) VALUES ($1)", &[&id]).await?;
    event(&transaction, id, "queued", &json!({ "reserved_aud": aud(estimate) })).await?;
    let told = json!({ "prompt": sealed, "model": wish.model, "cost_aud": aud(estimate) });
    audit::note(&transaction, Some(by), meta, Act::done("generation", "prompt taken", "generation").on(id).with(told))
        .await?;
    transaction.commit().await?;
    sdk::telemetry::metrics().add("prompts", 1, &[("result", "taken")]);
    Ok(id)
}

fn over(cents: i64, left: i64) -> Fault {
    Fault::Budget(format!(
        "This would cost {} AUD, and your department has {} AUD left this month.",
        aud(cents),
        aud(left.max(0))
    ))
}

/// Why no model fits. A provider outside the regions is told as such.
fn no_model(choice: &Choice, wish: &Wish, regions: &[String]) -> Fault {
    let chosen = choice.dropped.iter().find(|d| d.id == wish.model);
    if wish.model != "auto" && chosen.is_none() {
        return Fault::field("model_provider", "Choose a model of the list, or auto.");
    }
    if let Some(dropped) = chosen.filter(|d| d.rule == "region") {
        return Fault::Region(format!("{} is not allowed: {}", dropped.title, dropped.why));
    }
    if choice.dropped.iter().all(|d| d.rule == "region") {
        return Fault::Region(format!("no model is in {}", regions.join(", ")));
    }
    let told: Vec<String> =
        choice.dropped.iter().filter(|d| d.rule != "choice").map(|d| format!("{}: {}", d.title, d.why)).collect();
    Fault::NoModel(told.join("; "))
}

async fn rate(queries: &impl Queries, by: &Caller) -> Result<(), Fault> {
    let row = queries
        .first(
            "SELECT count(*), coalesce(60 - extract(epoch FROM now() - min(created_at)), 0)::bigint
             FROM generations WHERE user_id = $1 AND created_at > now() - interval '1 minute'",
            &[&by.user],
        )
        .await?;
    let (count, wait) = row.map_or((0, 0), |r| (r.get::<_, i64>(0), r.get::<_, i64>(1)));
    if count >= by.role.prompts_a_minute() { Err(Fault::TooMany(wait.clamp(1, 60))) } else { Ok(()) }
}

/// Adds an event of a generation's progress.
///
/// # Errors
/// The database does not answer.
pub async fn event(
    queries: &impl Queries,
    id: Uuid,
    kind: &str,
    detail: &serde_json::Value,
) -> Result<(), sdk::database::Error> {
    queries
        .execute(
            "INSERT INTO generation_events (generation_id, kind, detail) VALUES ($1, $2, $3)",
            &[&id, &kind, detail],
        )
        .await?;
    Ok(())
}

/// Records a refusal with the prompt sealed. That it could not be recorded is told in the log; the refusal stands.
async fn record(app: &App, by: &Caller, meta: &Meta, prompt: &str, wish: &Wish, fault: &Fault) {
    sdk::telemetry::metrics().add("prompts", 1, &[("result", fault.kind())]);
    let kept: String = prompt.chars().take(crate::domain::PROMPT).collect();
    let sealed = app.prompts.seal(PROMPT, kept.as_bytes()).ok();
    let kinds: Vec<&str> = match fault {
        Fault::Personal(found) => found.iter().map(|f| f.kind.as_str()).collect(),
        _ => Vec::new(),
    };
    let told = json!({ "prompt": sealed, "model": wish.model, "reason": fault.kind(), "pii": kinds });
    let text = fault.to_string();
    let act = Act::refused("refusal", "prompt refused", "generation").with(told).error(&text);
    let noted = async { Ok::<_, Fault>(audit::note(&app.connection().await?, Some(by), meta, act).await?) };
    if let Err(error) = noted.await {
        tracing::error!(%error, "a refusal could not be recorded");
    }
}
