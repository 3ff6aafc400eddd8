//! The call of a model: at most 60 seconds, three attempts, the breaker before each, then the next model.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Work, WorkError, Worker};
use crate::{
    image,
    providers::{Ask, CallError, Drawn},
    queue::{self, Job, Step},
    render::in_turn,
    store::models,
    submit::event,
};

/// Attempts at a model.
const ATTEMPTS: i32 = 3;
/// A call takes no longer, whatever a provider's row says.
pub const LONGEST: Duration = Duration::from_secs(60);
/// A provider that asks for more patience than this is treated as failing.
const MOST_PATIENCE: Duration = Duration::from_secs(30);

impl Worker {
    /// Gets an image and keeps it. False when the job waits for another attempt or has ended.
    pub(super) async fn call(&self, job: &mut Job, work: &Work) -> Result<bool, WorkError> {
        loop {
            let Some(model) = job.model().map(str::to_owned) else {
                self.give_up(job, work, "every model that may be used has failed").await?;
                return Ok(false);
            };
            if !models::may_call(&mut self.database.get().await?, &model).await? {
                let connection = self.database.get().await?;
                event(&connection, job.id, "skipped", &json!({ "model": model, "why": "its circuit breaker is open" }))
                    .await?;
                (job.place, job.attempts) = (job.place + 1, 0);
                self.keep(job, None).await?;
                continue;
            }
            let detail = json!({ "model": model, "attempt": job.attempts + 1, "of": ATTEMPTS });
            event(&self.database.get().await?, job.id, "calling", &detail).await?;
            self.at("calling")?;
            let started = Instant::now();
            let drawn = match tokio::time::timeout(self.longest, self.draw(job, work, &model)).await {
                Ok(drawn) => drawn?,
                Err(_) => Err(CallError::Again {
                    why: format!("it gave no image within {} seconds", self.longest.as_secs_f64()),
                    after: None,
                }),
            };
            let size = work.wish.size();
            let drawn = match drawn {
                Ok(drawn) => {
                    // Reading a whole image computes; it must not hold up other jobs.
                    let judged = in_turn(move || image::check(&drawn.bytes, size).map(|()| drawn)).await;
                    let judged = judged.unwrap_or(Err(image::ImageError::Broken));
                    judged.map_err(|error| CallError::Again {
                        why: format!("what it sent is no usable image: {error}"),
                        after: None,
                    })
                }
                Err(error) => Err(error),
            };
            let ms = i32::try_from(started.elapsed().as_millis()).unwrap_or(i32::MAX);
            match drawn {
                Ok(drawn) => {
                    models::ended(&mut self.database.get().await?, &model, true, i64::from(ms)).await?;
                    self.at("drawn")?;
                    self.store(job, &model, drawn, ms).await?;
                    return Ok(true);
                }
                Err(error) => {
                    self.failed(job, work, &model, error).await?;
                    return Ok(false);
                }
            }
        }
    }

    async fn draw(&self, job: &mut Job, work: &Work, model: &str) -> Result<Result<Drawn, CallError>, WorkError> {
        let ask = Ask { prompt: &work.prompt, wish: &work.wish };
        let missing = || Err(CallError::Ours("this worker is not configured for it".into()));
        Ok(match model {
            "renderer" => self.providers.renderer.draw(ask).await,
            "azure-openai" => match &self.providers.openai {
                Some(openai) => openai.draw(ask).await,
                None => missing(),
            },
            "replicate" => match &self.providers.replicate {
                Some(replicate) => {
                    // A prediction that a dead worker began is waited for, not begun (and paid) again.
                    let id = match job.outside_id.clone() {
                        Some(id) => id,
                        None => match replicate.begin(ask).await {
                            Ok(id) => {
                                job.outside_id = Some(id.clone());
                                self.keep(job, None).await?;
                                self.at("begun")?;
                                id
                            }
                            Err(error) => return Ok(Err(error)),
                        },
                    };
                    replicate.finish(&id).await
                }
                None => missing(),
            },
            other => Err(CallError::Ours(format!("nobody here can call {other}"))),
        })
    }

    /// Writes a job; lets go of it until `wait` has passed.
    async fn keep(&self, job: &Job, wait: Option<Duration>) -> Result<(), WorkError> {
        if queue::keep(&self.database.get().await?, job, wait).await? { Ok(()) } else { Err(WorkError::Lost) }
    }

    async fn store(&self, job: &mut Job, model: &str, drawn: Drawn, ms: i32) -> Result<(), WorkError> {
        let comment = match (model, drawn.stand_in) {
            ("renderer", _) => "Drawn by a procedure from the prompt's words. No AI model was involved.",
            (_, true) => "Drawn by a stand-in of the provider. No AI model was involved.",
            _ => "Drawn by an AI model.",
        };
        let id = job.id.to_string();
        let notes = [("Software", "DonatelloAI"), ("Source", model), ("Generation", id.as_str()), ("Comment", comment)];
        let hash = self.images.put(image::mark(&drawn.bytes, &notes)).await?;
        self.at("stored")?;
        (job.step, job.image_hash, job.call_ms, job.stand_in) = (Step::Settle, Some(hash), Some(ms), drawn.stand_in);
        self.keep(job, None).await?;
        event(&self.database.get().await?, job.id, "stored", &json!({ "ms": ms })).await?;
        self.at("kept")
    }

    /// What a failed call leads to: another attempt later, another model, or the end.
    async fn failed(&self, job: &mut Job, work: &Work, model: &str, error: CallError) -> Result<(), WorkError> {
        let why = error.to_string();
        tracing::warn!(event.name = "provider-failed", generation = %job.id, model, attempt = job.attempts + 1, why, "a provider failed");
        sdk::telemetry::metrics().add("provider_failures", 1, &[("model", model)]);
        job.outside_id = None;
        if let CallError::Refused(why) = &error {
            models::ended(&mut self.database.get().await?, model, true, 0).await?;
            self.give_up(job, work, &format!("the provider will not draw this prompt ({why})")).await?;
            return Ok(());
        }
        models::ended(&mut self.database.get().await?, model, false, 0).await?;
        (job.attempts, job.retries) = (job.attempts + 1, job.retries + 1);
        let (again, asked) = match error {
            CallError::Again { after, .. } => (after.is_none_or(|a| a <= MOST_PATIENCE), after),
            _ => (false, None),
        };
        let wait = if again && job.attempts < ATTEMPTS {
            let own = self.waits.attempts[usize::try_from(job.attempts - 1).unwrap_or(0).min(1)];
            asked.map_or(own, |a| a.max(own))
        } else {
            (job.place, job.attempts) = (job.place + 1, 0);
            if job.model().is_none() {
                self.give_up(job, work, &format!("every model that may be used has failed; the last said: {why}"))
                    .await?;
                return Ok(());
            }
            self.waits.fallback
        };
        let next = job.model().unwrap_or_default();
        let detail = json!({ "model": model, "why": why, "next": next, "in_seconds": wait.as_secs_f64() });
        event(&self.database.get().await?, job.id, if next == model { "failed-attempt" } else { "fallback" }, &detail)
            .await?;
        self.keep(job, Some(wait)).await
    }
}
