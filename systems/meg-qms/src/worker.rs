//! `meg-qms worker`: takes jobs out of redis and does them, each once.

use std::time::Duration;

use jiff::ToSpan;
use sdk::{Settings, SettingsError, database::Queries, serve::asked};
use uuid::Uuid;

use crate::{
    app::Part,
    fault::Fault,
    mail, media,
    media::Shelf,
    queue::{self, Job},
    redis::Redis,
    store::{qips, sessions, submissions},
};

/// What the worker works with.
pub struct Worker {
    pub database: sdk::database::Database,
    pub redis: Redis,
    pub shelf: Shelf,
    pub url: String,
}

impl Worker {
    /// # Errors
    /// A variable is missing or unusable.
    pub fn from_settings(settings: &Settings) -> anyhow::Result<Worker> {
        let missing = SettingsError::Missing { name: "REDIS_URL", holds: "the queue's address, rediss://..." };
        Ok(Worker {
            database: sdk::database::Database::from_settings(settings, "ConnectionStrings__DefaultConnection")?,
            redis: Redis::from_settings(settings)?.ok_or(missing)?,
            shelf: Shelf::from_settings(settings)?,
            url: settings.optional("PUBLIC_URL")?.unwrap_or_default().trim_end_matches('/').to_owned(),
        })
    }

    /// Takes and does one job, waiting two seconds at most for one; its name.
    ///
    /// # Errors
    /// Redis or the database is away.
    pub async fn once(&self) -> Result<Option<String>, Fault> {
        let next = queue::next(&self.redis).await.map_err(Fault::internal)?;
        let Some((job, text)) = next else { return Ok(None) };
        if queue::begin(&self.database, &job).await? {
            let result = self.carry_out(&job).await;
            if let Err(fault) = &result {
                tracing::warn!(job = %job.id, name = job.name, error = %fault, "a job failed");
            }
            queue::end(&self.database, &job, &result).await?;
        }
        queue::done(&self.redis, &text).await.map_err(Fault::internal)?;
        Ok(Some(job.name))
    }

    async fn carry_out(&self, job: &Job) -> Result<String, Fault> {
        match job.name.as_str() {
            "submission" => self.submission(&job.subject).await,
            "sweep" => self.sweep().await,
            "reminders" => self.reminders().await,
            "warm" => self.warm().await,
            other => {
                tracing::warn!(name = other, "a job that nobody knows");
                Err(Fault::Malformed("Nobody knows how to do this job."))
            }
        }
    }

    /// What follows a submission: its files are read again from the share, and a critical failure becomes a plan.
    async fn submission(&self, subject: &str) -> Result<String, Fault> {
        let id: Uuid = subject.parse().map_err(|_| Fault::Malformed("The job names no submission."))?;
        let mut connection = self.database.get().await?;
        let submission = submissions::get(&connection, id).await?;
        let files: Vec<&String> =
            submission.media.iter().chain(submission.answers.iter().flat_map(|a| &a.media)).collect();
        for address in &files {
            let path = self.shelf.path(address).ok_or(Fault::Away("The share with the files is not there."))?;
            let bytes = tokio::fs::read(path).await.map_err(Fault::internal)?;
            let named = address.rsplit(['/', '.']).nth(1).unwrap_or_default();
            if media::sha256(&bytes) != named {
                return Err(Fault::Conflict(format!("The file {address} is not what was sent.")));
            }
        }
        connection.execute(r#"UPDATE "Submissions" SET "CheckedAt" = now() WHERE "Id" = $1"#, &[&id]).await?;
        let mut made = "";
        if submission.line.critical > 0 {
            let known = connection.first(r#"SELECT 1 FROM "Qips" WHERE "SubmissionId" = $1"#, &[&id]).await?;
            if known.is_none() {
                let failed: Vec<String> = submission
                    .answers
                    .iter()
                    .filter(|a| a.is_critical && a.passed == Some(false))
                    .map(|a| format!("- {} ({})", a.question, a.value))
                    .collect();
                let input = qips::Input {
                    title: format!("{}: critical failure", submission.line.form).chars().take(150).collect(),
                    description: format!(
                        "Found on {} in {}:\n{}",
                        submission.line.audited_on,
                        submission.line.ward,
                        failed.join("\n")
                    ),
                    ward: submission.ward_code.clone(),
                    owner: None,
                    due_on: jiff::Zoned::now().date().checked_add(14.days()).ok(),
                    status: "plan".into(),
                    submission: Some(id),
                };
                let qip = qips::create(&mut connection, None, &self.url, &input).await?;
                self.tell_auditors(&input, qip).await?;
                made = ", a plan was made";
            }
        }
        Ok(format!("{} files checked{made}", files.len()))
    }

    async fn tell_auditors(&self, input: &qips::Input, qip: i64) -> Result<(), Fault> {
        let connection = self.database.get().await?;
        let sql =
            r#"SELECT "Email" FROM "Users" WHERE "IsActive" AND 'auditor' = ANY ("Roles") ORDER BY "Id" LIMIT 20"#;
        for row in connection.query(sql, &[]).await? {
            let text = format!("{}\r\n\r\n{}/qips/{qip}\r\n", input.description.replace('\n', "\r\n"), self.url);
            mail::note(&connection, row.get(0), &input.title, &text, Some(qip)).await?;
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<String, Fault> {
        let again = queue::sweep(&self.database, &self.redis).await?;
        let connection = self.database.get().await?;
        let ended = connection.execute(sessions::EXPIRE, &[]).await?;
        let old =
            r#"DELETE FROM "Jobs" WHERE "Status" IN ('done', 'failed') AND "EndedAt" < now() - interval '7 days'"#;
        let forgotten = connection.execute(old, &[]).await?;
        Ok(format!("{again} jobs queued again, {ended} sessions ended, {forgotten} old jobs forgotten"))
    }

    /// Owners of plans that are late are told, once a day.
    async fn reminders(&self) -> Result<String, Fault> {
        let connection = self.database.get().await?;
        let mut told = 0;
        for qip in qips::list(&connection).await?.into_iter().filter(|q| q.is_late) {
            let sql = r#"SELECT "Email" FROM "Users" WHERE "Id" = $1 AND "IsActive""#;
            let Some(row) = connection.first(sql, &[&qip.owner_id]).await? else { continue };
            let text = format!("This plan is late: {}\r\n{}/qips/{}\r\n", qip.title, self.url, qip.id);
            mail::note(&connection, row.get(0), &format!("Late: {}", qip.title), &text, Some(qip.id)).await?;
            told += 1;
        }
        Ok(format!("{told} reminders"))
    }

    /// What is cached is made anew, so that figures that depend on the day are never old.
    async fn warm(&self) -> Result<String, Fault> {
        let version = self.redis.count(crate::pages::dashboard::VERSION).await.map_err(Fault::internal)?;
        Ok(format!("the cache is at {version}"))
    }
}

/// Does jobs until the process is asked to end.
///
/// # Errors
/// A setting is unusable.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    if Part::from_settings(settings)? == Part::Centre {
        tracing::info!("the centre has no jobs");
        asked().await;
        return Ok(());
    }
    let worker = Worker::from_settings(settings)?;
    let working = async {
        loop {
            if let Err(fault) = worker.once().await {
                tracing::warn!(error = %fault, "no job can be taken");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    };
    // A job that is cut here is queued again by the sweep.
    tokio::select! {
        () = working => Ok(()),
        () = asked() => Ok(()),
    }
}
