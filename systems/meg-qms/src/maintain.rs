//! `meg-qms maintain`: deletes old submission logs and makes the first revision of what has none. Repeatable.

use sdk::{
    Settings, SettingsError,
    database::{Database, Queries},
};

use crate::{
    app::Part,
    fault::Fault,
    store::{forms, qips},
};

/// What a run did.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    pub deleted: u64,
    pub revised: u64,
}

/// Days that a submission's log is kept, without `MEG_LOG_DAYS`.
const DAYS: i32 = 30;

/// One run.
///
/// # Errors
/// A setting is unusable, or the database is away.
pub async fn run(settings: &Settings) -> anyhow::Result<Done> {
    if Part::from_settings(settings)? == Part::Centre {
        tracing::info!("the centre has nothing to maintain");
        return Ok(Done { deleted: 0, revised: 0 });
    }
    let days = settings.parsed("MEG_LOG_DAYS", "a number of days, 1 to 3650", DAYS)?;
    if !(1..=3650).contains(&days) {
        return Err(SettingsError::Wrong { name: "MEG_LOG_DAYS", expected: "a number of days, 1 to 3650" }.into());
    }
    let database = Database::from_settings(settings, "ConnectionStrings__DefaultConnection")?;
    let done = maintain(&database, days).await?;
    tracing::info!(deleted = done.deleted, revised = done.revised, "maintained");
    Ok(done)
}

/// Deletes logs older than `days`, makes missing first revisions, and notes the run.
///
/// # Errors
/// No database.
pub async fn maintain(database: &Database, days: i32) -> Result<Done, Fault> {
    let begun = jiff::Timestamp::now();
    let mut connection = database.get().await?;
    let sql = r#"DELETE FROM "SubmissionLogs" WHERE "At" < now() - make_interval(days => $1)"#;
    let deleted = connection.execute(sql, &[&days]).await?;
    let mut revised = 0;
    let missing = r#"SELECT 'form', f."Id" FROM "Forms" f WHERE NOT EXISTS (SELECT FROM "Revisions" r WHERE r."Thing" = 'form' AND r."Key" = f."Id")
                     UNION ALL SELECT 'qip', q."Id" FROM "Qips" q WHERE NOT EXISTS (SELECT FROM "Revisions" r WHERE r."Thing" = 'qip' AND r."Key" = q."Id")"#;
    for row in connection.query(missing, &[]).await? {
        let (thing, key): (String, i64) = (row.get(0), row.get(1));
        let transaction = connection.begin().await?;
        let body = if thing == "form" {
            serde_json::to_value(forms::get(&transaction, key).await?)
        } else {
            serde_json::to_value(qips::get(&transaction, key).await?)
        };
        let body = body.map_err(Fault::internal)?;
        // A change made at the same time has made a revision itself.
        let sql = r#"INSERT INTO "Revisions" ("Thing", "Key", "Number", "Body") VALUES ($1, $2, 1, $3) ON CONFLICT DO NOTHING"#;
        revised += transaction.execute(sql, &[&thing, &key, &body]).await?;
        transaction.commit().await?;
    }
    let counts = (i64::try_from(deleted).unwrap_or(i64::MAX), i64::try_from(revised).unwrap_or(i64::MAX));
    let sql = r#"INSERT INTO "MaintenanceRuns" ("StartedAt", "Deleted", "Revised") VALUES ($1, $2, $3)"#;
    connection.execute(sql, &[&begun, &counts.0, &counts.1]).await?;
    Ok(Done { deleted, revised })
}
