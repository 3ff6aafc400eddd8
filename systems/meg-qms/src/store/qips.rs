//! Quality improvement plans: what is to become better, whose it is, by when, and how far it is.

use jiff::civil::Date;
use sdk::database::{Connection, Queries};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    domain::{FieldErrors, line},
    fault::Fault,
    mail, media,
};

/// The columns of the board, in order.
pub const STEPS: [(&str, &str); 4] = [("plan", "Plan"), ("do", "Do"), ("check", "Check"), ("done", "Done")];

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Qip {
    pub id: i64,
    pub title: String,
    pub description: String,
    pub ward: String,
    pub ward_code: String,
    pub owner: String,
    pub owner_id: Option<i64>,
    pub status: String,
    pub due_on: Option<String>,
    pub is_late: bool,
    pub submission_id: Option<Uuid>,
    pub version: i32,
    pub files: Vec<String>,
}

impl Qip {
    pub fn is_of(&self, user: &i64) -> bool {
        self.owner_id == Some(*user)
    }
}

const SELECT: &str = r#"SELECT q."Id", q."Title", q."Description", w."Name", q."WardCode", coalesce(u."Name", ''), q."OwnerId", q."Status",
    to_char(q."DueOn", 'YYYY-MM-DD'), coalesce(q."DueOn" < current_date AND q."Status" <> 'done', false), q."SubmissionId", q."Version",
    ARRAY(SELECT m."Address" FROM "QipMedia" m WHERE m."QipId" = q."Id" ORDER BY 1)
    FROM "Qips" q JOIN "Wards" w ON w."Code" = q."WardCode" LEFT JOIN "Users" u ON u."Id" = q."OwnerId"
    WHERE $1::bigint IS NULL OR q."Id" = $1 ORDER BY q."DueOn" NULLS LAST, q."Id" LIMIT 500"#;

fn read(r: &tokio_postgres::Row) -> Qip {
    Qip {
        id: r.get(0),
        title: r.get(1),
        description: r.get(2),
        ward: r.get(3),
        ward_code: r.get(4),
        owner: r.get(5),
        owner_id: r.get(6),
        status: r.get(7),
        due_on: r.get(8),
        is_late: r.get(9),
        submission_id: r.get(10),
        version: r.get(11),
        files: r.get(12),
    }
}

/// All plans, the most urgent first.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries) -> Result<Vec<Qip>, Fault> {
    Ok(queries.query(SELECT, &[&None::<i64>]).await?.iter().map(read).collect())
}

/// One plan.
///
/// # Errors
/// There is none, or no database.
pub async fn get(queries: &impl Queries, id: i64) -> Result<Qip, Fault> {
    queries.first(SELECT, &[&Some(id)]).await?.as_ref().map(read).ok_or(Fault::NotFound)
}

/// What a plan's form sends.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub title: String,
    pub description: String,
    pub ward: String,
    pub owner: Option<i64>,
    pub due_on: Option<Date>,
    pub status: String,
    pub submission: Option<Uuid>,
}

impl Input {
    fn check(&self) -> Result<String, Fault> {
        let mut errors = FieldErrors::default();
        let title = line(&self.title, 150);
        if title.is_none() {
            errors.add("title", "A title has 1 to 150 characters.");
        }
        if self.description.chars().count() > 2000 {
            errors.add("description", "A description has 2000 characters at most.");
        }
        if STEPS.iter().all(|(s, _)| *s != self.status) {
            errors.add("status", "A plan is at plan, do, check or done.");
        }
        match title {
            Some(title) if errors.is_empty() => Ok(title),
            _ => Err(Fault::Invalid(errors)),
        }
    }
}

fn named(error: sdk::database::Error) -> Fault {
    match error.constraint() {
        Some("Qips_WardCode_fkey") => Fault::field("ward", "There is no such ward."),
        Some("Qips_OwnerId_fkey") => Fault::field("owner", "There is no such person."),
        Some("Qips_SubmissionId_fkey") => Fault::field("submission", "There is no such submission."),
        _ => error.into(),
    }
}

/// Makes a plan and tells its owner; its number.
///
/// # Errors
/// A field is not right, or no database.
pub async fn create(connection: &mut Connection, by: Option<i64>, url: &str, input: &Input) -> Result<i64, Fault> {
    let title = input.check()?;
    let transaction = connection.begin().await?;
    let row = transaction
        .first(
            r#"INSERT INTO "Qips" ("Title", "Description", "WardCode", "OwnerId", "DueOn", "Status", "SubmissionId")
               VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING "Id""#,
            &[
                &title,
                &input.description.trim(),
                &input.ward,
                &input.owner,
                &input.due_on,
                &input.status,
                &input.submission,
            ],
        )
        .await
        .map_err(named)?
        .ok_or(Fault::NotFound)?;
    let id: i64 = row.get(0);
    finish(&transaction, by, url, id, None).await?;
    transaction.commit().await?;
    Ok(id)
}

/// Changes a plan; a new owner is told.
///
/// # Errors
/// A field is not right, the plan changed in between, or no database.
pub async fn change(
    connection: &mut Connection,
    by: i64,
    url: &str,
    id: i64,
    version: i32,
    input: &Input,
) -> Result<(), Fault> {
    let title = input.check()?;
    let transaction = connection.begin().await?;
    let old = get(&transaction, id).await?;
    let changed = transaction
        .execute(
            r#"UPDATE "Qips" SET "Title" = $3, "Description" = $4, "WardCode" = $5, "OwnerId" = $6, "DueOn" = $7, "Status" = $8,
                   "Version" = "Version" + 1, "ChangedAt" = now() WHERE "Id" = $1 AND "Version" = $2"#,
            &[&id, &version, &title, &input.description.trim(), &input.ward, &input.owner, &input.due_on, &input.status],
        )
        .await
        .map_err(named)?;
    if changed == 0 {
        return Err(Fault::Conflict("Somebody else changed this plan just now. Reload it and try again.".into()));
    }
    finish(&transaction, Some(by), url, id, old.owner_id).await?;
    transaction.commit().await?;
    Ok(())
}

/// The revision of the new state, and the letter to a new owner.
async fn finish(queries: &impl Queries, by: Option<i64>, url: &str, id: i64, before: Option<i64>) -> Result<(), Fault> {
    let qip = get(queries, id).await?;
    let body = serde_json::to_value(&qip).map_err(Fault::internal)?;
    let sql = r#"INSERT INTO "Revisions" ("Thing", "Key", "Number", "Body", "UserId")
                 SELECT 'qip', $1, coalesce(max("Number"), 0) + 1, $2, $3 FROM "Revisions" WHERE "Thing" = 'qip' AND "Key" = $1"#;
    queries.execute(sql, &[&id, &body, &by]).await?;
    let Some(owner) = qip.owner_id.filter(|o| Some(*o) != before) else { return Ok(()) };
    let row = queries.first(r#"SELECT "Email" FROM "Users" WHERE "Id" = $1 AND "IsActive""#, &[&owner]).await?;
    let Some(row) = row else { return Ok(()) };
    let due = qip.due_on.map_or(String::new(), |d| format!("\r\nIt is due on {d}."));
    let text = format!("A quality improvement plan is yours: {}\r\n{}, {url}/qips/{id}{due}\r\n", qip.title, qip.ward);
    mail::note(queries, row.get(0), &format!("Improvement plan: {}", qip.title), &text, Some(id)).await
}

/// Puts a photo, a recording or a document to a plan.
///
/// # Errors
/// There is no such plan or file, or no database.
pub async fn attach(queries: &impl Queries, id: i64, address: &str) -> Result<(), Fault> {
    if !media::is_address(address) || !(address.starts_with("qip-") || address.starts_with("documents/")) {
        return Err(Fault::field("address", "This is no photo, recording or document of a plan."));
    }
    let sql = r#"INSERT INTO "QipMedia" ("QipId", "Address") SELECT "Id", $2 FROM "Qips" WHERE "Id" = $1 ON CONFLICT DO NOTHING"#;
    match queries.execute(sql, &[&id, &address]).await {
        Err(error) if error.code().is_some_and(|c| c.code() == "23503") => {
            Err(Fault::field("address", "The file was not sent yet."))
        }
        other => {
            other?;
            get(queries, id).await.map(|_| ())
        }
    }
}

/// Adds a note to a plan.
///
/// # Errors
/// The text is not right, there is no such plan, or no database.
pub async fn say(queries: &impl Queries, id: i64, user: i64, text: &str) -> Result<(), Fault> {
    get(queries, id).await?;
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 1000 {
        return Err(Fault::field("text", "A note has 1 to 1000 characters."));
    }
    queries
        .execute(r#"INSERT INTO "QipNotes" ("QipId", "UserId", "Text") VALUES ($1, $2, $3)"#, &[&id, &user, &text])
        .await?;
    Ok(())
}

pub struct Note {
    pub at: String,
    pub by: String,
    pub text: String,
}

/// The notes of a plan, newest first.
///
/// # Errors
/// No database.
pub async fn notes(queries: &impl Queries, id: i64) -> Result<Vec<Note>, Fault> {
    let sql = r#"SELECT to_char(n."At", 'YYYY-MM-DD HH24:MI'), u."Name", n."Text" FROM "QipNotes" n JOIN "Users" u ON u."Id" = n."UserId"
                 WHERE n."QipId" = $1 ORDER BY n."Id" DESC LIMIT 100"#;
    let rows = queries.query(sql, &[&id]).await?;
    Ok(rows.iter().map(|r| Note { at: r.get(0), by: r.get(1), text: r.get(2) }).collect())
}

pub struct Letter {
    pub to: String,
    pub subject: String,
    pub status: String,
    pub detail: String,
    pub attempts: i32,
    pub at: String,
}

/// The letters about a plan, or the newest of all.
///
/// # Errors
/// No database.
pub async fn letters(queries: &impl Queries, qip: Option<i64>) -> Result<Vec<Letter>, Fault> {
    let sql = r#"SELECT "Recipient", "Subject", "Status", "Detail", "Attempts", to_char(coalesce("EndedAt", "CreatedAt"), 'YYYY-MM-DD HH24:MI')
                 FROM "Mails" WHERE $1::bigint IS NULL OR "QipId" = $1 ORDER BY "Id" DESC LIMIT 50"#;
    let rows = queries.query(sql, &[&qip]).await?;
    let read = |r: &tokio_postgres::Row| Letter {
        to: r.get(0),
        subject: r.get(1),
        status: r.get(2),
        detail: r.get(3),
        attempts: r.get(4),
        at: r.get(5),
    };
    Ok(rows.iter().map(read).collect())
}
