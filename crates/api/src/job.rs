//! Jobs of a stamp: when they run, and how they ended.

use serde::{Deserialize, Serialize};

/// `GET /jobs`: one job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JobStatus {
    /// Such as `job.dump`.
    pub name: String,
    /// As declared: five fields of cron in UTC, or `every 5m`.
    pub schedule: String,
    /// When it runs next, Unix milliseconds; None while it runs, and where the stamp is not up.
    pub next_ms: Option<i64>,
    /// The last runs, the newest first.
    pub runs: Vec<JobRun>,
}

/// One run of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// Counts up within the home.
    pub number: i64,
    /// `schedule`, `missed` (its time passed while nobody looked), `asked`.
    pub why: String,
    /// When it was to begin, Unix milliseconds on the stamp's clock.
    pub due_ms: i64,
    pub started_ms: i64,
    pub ended_ms: Option<i64>,
    /// `running`, `done`, `failed`, `timeout`, `not-started`, `stopped` (the stamp was taken down), `lost`.
    pub outcome: String,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Why, where it is not plain from the rest: what was missed, the last line it said.
    #[serde(default)]
    pub note: String,
}

impl JobRun {
    pub fn is_over(&self) -> bool {
        self.ended_ms.is_some()
    }
}

/// `POST /job/run`: runs it now. The answer is its [`JobRun`] as it begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRequest {
    pub system: String,
    pub stamp: String,
    /// `dump` or `job.dump`.
    pub name: String,
}
