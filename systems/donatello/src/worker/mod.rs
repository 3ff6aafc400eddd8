//! The generation service: takes jobs, has a model chosen and called, keeps the image, settles the cost.
//!
//! Each step is written down before the next begins, under the job's lease, so a worker may die anywhere: whoever finds the
//! lease run out goes on from the last step that was written. Money moves in one transaction with the end of a generation.

mod call;
mod end;

use std::{sync::Arc, time::Duration};

use sdk::{
    Settings,
    database::{Database, Error, Queries},
    seal::Sealer,
    telemetry::metrics,
};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

use crate::{
    access::Meta,
    app::{self, AppError},
    domain::Wish,
    images::{Images, ImagesError},
    providers::{ProviderError, Providers},
    queue::{self, Job, Step},
    router::{self, Asked},
    store::models,
    submit::{PROMPT, event},
};

/// A job is another's when its holder was silent for this long.
const LEASE: Duration = Duration::from_secs(30);
/// Between two looks at an empty queue.
const LOOK: Duration = Duration::from_millis(250);
/// Between two tellings of what can be called and how deep the queue is.
const TELL: Duration = Duration::from_secs(10);
/// Jobs under way get this long when the process is asked to end; then their leases run out.
const DRAIN: Duration = Duration::from_secs(20);
/// Jobs at a time. A million images a day with calls of 5 to 30 seconds are 203 calls under way: ten workers, the most there
/// are, need 21 hands each.
const HANDS: usize = 32;
/// A job that killed so many workers is given up.
const DEATHS: i32 = 4;
/// A job that found no model for so many seconds is given up.
const PATIENCE: f64 = 600.0;

#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error("the database failed")]
    Database(#[from] Error),
    #[error("the image store failed")]
    Images(#[from] ImagesError),
    /// Another worker has the job now, or its person cancelled it. Nothing more is to be done.
    #[error("the job is held by somebody else")]
    Lost,
    /// A test stopped the worker here.
    #[error("stopped at {0}")]
    Stopped(&'static str),
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Settings(#[from] sdk::SettingsError),
    #[error("the database cannot be used")]
    Database(#[from] sdk::database::OpenError),
    #[error("the image store cannot be used")]
    Images(#[from] ImagesError),
    #[error("a provider cannot be used")]
    Provider(#[from] ProviderError),
}

/// Where a worker may be stopped, between each pair of steps. The real one never stops.
pub trait Points: Send + Sync {
    fn stop(&self, _at: &'static str) -> bool {
        false
    }
}

struct Never;
impl Points for Never {}

/// The waits: between attempts at a model, and before another model.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    pub attempts: [Duration; 2],
    pub fallback: Duration,
}

impl Waits {
    /// Three attempts have two waits; 8 seconds come before the fall-back model.
    pub const DOCUMENT: Waits =
        Waits { attempts: [Duration::from_secs(2), Duration::from_secs(4)], fallback: Duration::from_secs(8) };
}

/// Everything a worker needs. Cloning shares it.
#[derive(Clone)]
pub struct Worker {
    pub database: Database,
    pub prompts: Arc<Sealer>,
    pub images: Images,
    pub providers: Arc<Providers>,
    pub lease: Duration,
    /// A call takes no longer.
    pub longest: Duration,
    pub waits: Waits,
    pub points: Arc<dyn Points>,
}

/// A generation as the worker needs it.
pub struct Work {
    pub user: Uuid,
    pub email: String,
    pub department: Uuid,
    pub sealed: String,
    pub prompt: String,
    pub wish: Wish,
    pub reserved_cents: i64,
}

impl Worker {
    /// # Errors
    /// A variable is missing or unusable.
    pub fn from_settings(settings: &Settings) -> Result<Worker, StartError> {
        let database = Database::from_settings(settings, "ConnectionStrings__DefaultConnection")?;
        Ok(Worker {
            prompts: app::prompts(settings)?,
            images: Images::from_settings(settings, &database)?,
            providers: Arc::new(Providers::from_settings(settings)?),
            database,
            lease: LEASE,
            longest: call::LONGEST,
            waits: Waits::DOCUMENT,
            points: Arc::new(Never),
        })
    }

    pub(crate) fn at(&self, point: &'static str) -> Result<(), WorkError> {
        if self.points.stop(point) { Err(WorkError::Stopped(point)) } else { Ok(()) }
    }

    /// Tells the router what can be called from here.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn tell(&self) -> Result<(), Error> {
        let connection = self.database.get().await?;
        for can in self.providers.can() {
            models::tell(&connection, can.id, can.yes, &can.note).await?;
        }
        metrics().set("queue_depth", queue::depth(&connection).await? as f64, &[]);
        Ok(())
    }

    /// Takes a job and carries it as far as it goes now. False when none waits.
    ///
    /// # Errors
    /// A part does not answer, the job was lost, or a test stopped the worker. The lease is left to run out.
    pub async fn once(&self) -> Result<bool, WorkError> {
        let claimed = queue::claim(&self.database.get().await?, self.lease).await?;
        let Some(job) = claimed else { return Ok(false) };
        self.carry(job).await?;
        Ok(true)
    }

    /// Carries a job while renewing its lease. A lease that is lost ends the work at once.
    pub(crate) async fn carry(&self, job: Job) -> Result<(), WorkError> {
        self.at("claimed")?;
        let held = job.clone();
        let renewing = async {
            loop {
                tokio::time::sleep(self.lease / 3).await;
                match self.database.get().await {
                    Ok(connection) => {
                        if !queue::renew(&connection, &held, self.lease).await.unwrap_or(true) {
                            return;
                        }
                    }
                    // The lease outlives a short silence of the database; a long one ends it.
                    Err(error) => tracing::warn!(%error, "a lease was not renewed"),
                }
            }
        };
        tokio::select! {
            done = self.steps(job) => done,
            () = renewing => Err(WorkError::Lost),
        }
    }

    async fn steps(&self, mut job: Job) -> Result<(), WorkError> {
        let (work, opened) = self.read(&job).await?;
        if !opened {
            return self.give_up(&job, &work, "its prompt cannot be opened with this worker's key").await;
        }
        if job.deaths > DEATHS {
            return self.give_up(&job, &work, "several workers ended while they were at it").await;
        }
        if job.step == Step::Choose && !self.choose(&mut job, &work).await? {
            return Ok(());
        }
        if job.step == Step::Call && !self.call(&mut job, &work).await? {
            return Ok(());
        }
        self.settle(&job, &work).await
    }

    /// What is worked on, and whether its prompt could be opened.
    async fn read(&self, job: &Job) -> Result<(Work, bool), WorkError> {
        let row = self
            .database
            .get()
            .await?
            .first(
                "SELECT g.user_id, u.email, g.department_id, g.prompt_encrypted, g.asked_for, (g.reserved_aud * 100)::bigint
                 FROM generations g JOIN users u ON u.id = g.user_id WHERE g.id = $1 AND g.status IN ('pending', 'processing')",
                &[&job.id],
            )
            .await?
            .ok_or(WorkError::Lost)?;
        let sealed: String = row.get(3);
        let prompt = self.prompts.open(PROMPT, &sealed).ok().and_then(|p| String::from_utf8(p).ok());
        let opened = prompt.is_some();
        let work = Work {
            user: row.get(0),
            email: row.get(1),
            department: row.get(2),
            prompt: prompt.unwrap_or_default(),
            sealed,
            wish: serde_json::from_value(row.get(4)).unwrap_or_default(),
            reserved_cents: row.get(5),
        };
        Ok((work, opened))
    }

    /// Ranks the models and keeps the reasons. False when the job waits or has ended.
    async fn choose(&self, job: &mut Job, work: &Work) -> Result<bool, WorkError> {
        let mut connection = self.database.get().await?;
        let (profile, regions) = models::rules(&connection, work.department).await?;
        let models = models::list(&connection).await?;
        let asked = Asked {
            wish: &work.wish,
            prompt_complexity: router::complexity(&work.prompt),
            regions: &regions,
            profile: &profile,
            room_cents: Some(work.reserved_cents),
        };
        let choice = router::choose(&asked, &models);
        let waits = choice.ranked.is_empty() && choice.dropped.iter().any(|d| d.rule == "circuit");
        if waits && job.age < PATIENCE {
            event(&connection, job.id, "waiting", &json!({ "why": "all circuit breakers are open" })).await?;
            return if queue::keep(&connection, job, Some(self.waits.fallback)).await? {
                Ok(false)
            } else {
                Err(WorkError::Lost)
            };
        }
        let Some(first) = choice.ranked.first() else {
            drop(connection);
            let told: Vec<String> = choice
                .dropped
                .iter()
                .filter(|d| d.rule != "choice")
                .map(|d| format!("{}: {}", d.title, d.why))
                .collect();
            self.give_up(job, work, &format!("no model can take it any more ({})", told.join("; "))).await?;
            return Ok(false);
        };
        job.candidates = choice.ranked.iter().map(|r| r.id.clone()).collect();
        job.prices = choice.ranked.iter().map(|r| r.cost_cents).collect();
        (job.step, job.place, job.attempts) = (Step::Call, 0, 0);
        let reasons = serde_json::to_value(&choice).unwrap_or_default();
        let transaction = connection.begin().await?;
        if !queue::keep(&transaction, job, None).await? {
            return Err(WorkError::Lost);
        }
        transaction
            .execute(
                "INSERT INTO generation_metadata (generation_id, prompt_complexity_score, selected_model_reason) VALUES ($1, $2, $3)
                 ON CONFLICT (generation_id) DO UPDATE SET selected_model_reason = $3",
                &[&job.id, &choice.prompt_complexity, &reasons],
            )
            .await?;
        transaction
            .execute("UPDATE generations SET status = 'processing' WHERE id = $1 AND status = 'pending'", &[&job.id])
            .await?;
        event(&transaction, job.id, "started", &json!({})).await?;
        event(
            &transaction,
            job.id,
            "chosen",
            &json!({ "model": first.title, "score": first.total, "of": choice.ranked.len() }),
        )
        .await?;
        transaction.commit().await?;
        self.at("chosen")?;
        Ok(true)
    }
}

/// The record's view of a worker: nobody's address, an id for what belongs together.
pub(crate) fn meta(job: &Job) -> Meta {
    Meta { ip: String::new(), agent: "donatello worker".into(), request_id: job.id }
}

/// `donatello worker`: works until it is asked to end.
///
/// # Errors
/// A setting is unusable.
pub async fn run(settings: &Settings, end: impl Future<Output = ()>) -> Result<(), StartError> {
    let worker = Worker::from_settings(settings)?;
    let hands: usize = settings.parsed("WORKERS", "a number from 1 to 500", HANDS)?;
    let hands = Arc::new(Semaphore::new(hands.clamp(1, 500)));
    let told = tokio::spawn({
        let worker = worker.clone();
        async move {
            let mut tick = tokio::time::interval(TELL);
            loop {
                tick.tick().await;
                if let Err(error) = worker.tell().await {
                    tracing::warn!(%error, "what can be called was not told");
                }
            }
        }
    });
    tracing::info!("working");
    let mut jobs = JoinSet::new();
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            () = next(&worker, &hands, &mut jobs) => {}
        }
        while jobs.try_join_next().is_some() {}
    }
    tracing::info!(jobs = jobs.len(), "stopping: no new jobs");
    told.abort();
    let drained = async { while jobs.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("jobs under way were left to other workers");
    }
    Ok(())
}

/// Waits for a free hand and a job, and begins it. Cut anywhere, a claimed job's lease runs out.
async fn next(worker: &Worker, hands: &Arc<Semaphore>, jobs: &mut JoinSet<()>) {
    let Ok(hand) = hands.clone().acquire_owned().await else { return };
    let claimed = async { queue::claim(&worker.database.get().await?, worker.lease).await };
    match claimed.await {
        Ok(Some(job)) => {
            let worker = worker.clone();
            jobs.spawn(async move {
                let id = job.id;
                match worker.carry(job).await {
                    Ok(()) => {}
                    Err(WorkError::Lost) => tracing::info!(generation = %id, "a job went to somebody else"),
                    Err(error) => {
                        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                        tracing::error!(generation = %id, %error, cause, "a job was cut; its lease runs out and it is taken up again");
                    }
                }
                drop(hand);
            });
        }
        Ok(None) => tokio::time::sleep(LOOK).await,
        Err(error) => {
            tracing::warn!(%error, "the queue cannot be read");
            tokio::time::sleep(LOOK * 4).await;
        }
    }
}
