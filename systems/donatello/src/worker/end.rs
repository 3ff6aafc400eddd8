//! The end of a job: charged once, or given back.

use sdk::database::Queries;
use serde_json::json;

use super::{Work, WorkError, Worker, meta};
use crate::{
    audit::{self, Act, Actor},
    budget,
    domain::aud,
    queue::{self, Job},
    submit::event,
};

impl Worker {
    /// Ends a job with its image: in one transaction the job is done, the cost charged, the act on record.
    pub(super) async fn settle(&self, job: &Job, work: &Work) -> Result<(), WorkError> {
        let (Some(model), Some(hash)) = (job.model(), job.image_hash.as_deref()) else {
            return self.give_up(job, work, "its image was lost").await;
        };
        let cost = job.price().min(work.reserved_cents);
        let url = format!("/images/{hash}.png");
        let mut connection = self.database.get().await?;
        let transaction = connection.begin().await?;
        if !queue::finish(&transaction, job).await? {
            return Err(WorkError::Lost);
        }
        budget::lock(&transaction, work.department).await?;
        budget::settle(&transaction, work.department, work.reserved_cents, cost).await?;
        transaction
            .execute(
                "UPDATE generations g SET status = 'completed', image_url = $2, cost_aud = $3::bigint / 100.0, reserved_aud = 0,
                     generation_time_ms = $4, completed_at = now(), model_provider = m.provider_name, model_name = m.model_name,
                     metadata = g.metadata || jsonb_build_object('model', m.id, 'is_ai', m.is_ai AND NOT $6::boolean, 'stand_in', $6::boolean)
                 FROM model_providers m WHERE g.id = $1 AND m.id = $5",
                &[&job.id, &url, &cost, &job.call_ms, &model, &job.stand_in],
            )
            .await?;
        transaction
            .execute(
                "INSERT INTO cost_events (generation_id, department_id, user_id, model_used, cost_aud) VALUES ($1, $2, $3, $4, $5::bigint / 100.0)",
                &[&job.id, &work.department, &work.user, &model, &cost],
            )
            .await?;
        let fallback = (job.place > 0).then_some(model);
        transaction
            .execute(
                "UPDATE generation_metadata SET fallback_model = $2, retry_count = $3 WHERE generation_id = $1",
                &[&job.id, &fallback, &job.retries],
            )
            .await?;
        event(&transaction, job.id, "completed", &json!({ "image_url": url, "cost_aud": aud(cost), "model": model }))
            .await?;
        let told = json!({ "prompt": work.sealed, "model": model, "cost_aud": aud(cost), "generation_time_ms": job.call_ms, "image": hash });
        audit::note_as(
            &transaction,
            &actor(work),
            &meta(job),
            Act::done("generation", "image generated", "generation").on(job.id).with(told),
        )
        .await?;
        self.at("settling")?;
        transaction.commit().await?;
        sdk::telemetry::metrics().add("generations", 1, &[("model", model), ("result", "completed")]);
        sdk::event!("image-generated", generation = %job.id, model = model, cost_aud = aud(cost));
        self.at("settled")
    }

    /// Ends a job without an image: the reservation is given back.
    pub(super) async fn give_up(&self, job: &Job, work: &Work, why: &str) -> Result<(), WorkError> {
        let mut connection = self.database.get().await?;
        let transaction = connection.begin().await?;
        if !queue::finish(&transaction, job).await? {
            return Err(WorkError::Lost);
        }
        budget::lock(&transaction, work.department).await?;
        budget::release(&transaction, work.department, work.reserved_cents).await?;
        transaction
            .execute(
                "UPDATE generations SET status = 'failed', reserved_aud = 0, error_message = $2 WHERE id = $1",
                &[&job.id, &why],
            )
            .await?;
        event(&transaction, job.id, "failed", &json!({ "why": why, "refunded_aud": aud(work.reserved_cents) })).await?;
        let told = json!({ "prompt": work.sealed, "model": job.model(), "cost_aud": "0.00" });
        let act = Act::refused("generation", "generation failed", "generation").on(job.id).with(told).error(why);
        audit::note_as(&transaction, &actor(work), &meta(job), act).await?;
        self.at("giving-up")?;
        transaction.commit().await?;
        sdk::telemetry::metrics().add(
            "generations",
            1,
            &[("model", job.model().unwrap_or("none")), ("result", "failed")],
        );
        Ok(())
    }
}

fn actor(work: &Work) -> Actor<'_> {
    Actor { user: Some(work.user), email: &work.email, department: Some(work.department) }
}
