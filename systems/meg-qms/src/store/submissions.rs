//! Submissions: taken whole or not at all, judged by the server, the same one once however often it is sent.

use jiff::civil::Date;
use sdk::database::{Connection, Queries};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::forms;
use crate::{
    domain::{FieldErrors, Score, day, percent},
    fault::Fault,
    media, queue,
};

/// What the app sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// Made by the client: sent again, it is the same submission.
    pub id: Uuid,
    pub form_id: i64,
    pub form_version: i32,
    pub ward: String,
    pub audited_on: String,
    #[serde(default)]
    pub notes: String,
    pub answers: Vec<AnswerInput>,
    /// Photos and recordings of the whole audit.
    #[serde(default)]
    pub media: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnswerInput {
    pub question_id: i64,
    #[serde(default)]
    pub value: String,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub media: Vec<String>,
}

/// What became of what was sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    pub id: Uuid,
    /// True when it had been taken before.
    pub again: bool,
    pub score: Option<i64>,
    pub critical: i32,
    #[serde(skip)]
    pub job: Option<queue::Job>,
}

/// Files of one submission at most.
const FILES: usize = 50;

/// Takes a submission.
///
/// # Errors
/// A field is not right, the form is another one by now, or the id is that of a different submission.
pub async fn take(
    connection: &mut Connection,
    user: i64,
    source: &str,
    input: &Input,
    body: &[u8],
) -> Result<Taken, Fault> {
    let digest = media::sha256(body);
    let transaction = connection.begin().await?;
    if let Some(row) = transaction
        .first(
            r#"SELECT "Digest", "Reached", "Possible", "Critical", "UserId" FROM "Submissions" WHERE "Id" = $1"#,
            &[&input.id],
        )
        .await?
    {
        if row.get::<_, String>(0) != digest || row.get::<_, i64>(4) != user {
            return Err(Fault::Conflict("Another submission has this id.".into()));
        }
        let score = percent(row.get::<_, i32>(1).into(), row.get::<_, i32>(2).into());
        log(&transaction, user, &input.id.to_string(), "again", "").await?;
        transaction.commit().await?;
        return Ok(Taken { id: input.id, again: true, score, critical: row.get(3), job: None });
    }
    let form =
        forms::get(&transaction, input.form_id).await.map_err(|_| Fault::field("formId", "There is no such form."))?;
    if !form.is_published {
        return Err(Fault::field("formId", "This form is not published."));
    }
    if form.version != input.form_version {
        return Err(Fault::Conflict("The form has changed since it was fetched. Fetch the feed again.".into()));
    }
    let (judged, score, audited_on) = judge(&form, input)?;
    let possible = score.possible;
    let ward = transaction.first(r#"SELECT 1 FROM "Wards" WHERE "Code" = $1"#, &[&input.ward]).await?;
    if ward.is_none() {
        return Err(Fault::field("ward", "There is no such ward."));
    }
    let made = transaction
        .execute(
            r#"INSERT INTO "Submissions" ("Id", "FormId", "FormVersion", "WardCode", "UserId", "Source", "AuditedOn", "Notes", "Reached", "Possible", "Critical", "Digest")
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING"#,
            &[
                &input.id, &form.id, &form.version, &input.ward, &user, &source, &audited_on, &input.notes.trim(), &score.reached,
                &possible, &score.critical, &digest,
            ],
        )
        .await?;
    if made == 0 {
        return Err(Fault::Conflict("This submission is being taken just now. Ask again in a moment.".into()));
    }
    for (answer, passed) in &judged {
        let sql = r#"INSERT INTO "Answers" ("SubmissionId", "QuestionId", "Value", "IsPassed", "Note") VALUES ($1, $2, $3, $4, $5)"#;
        transaction.execute(sql, &[&input.id, &answer.question_id, &answer.value, passed, &answer.note.trim()]).await?;
        for address in &answer.media {
            attach(&transaction, input.id, Some(answer.question_id), address).await?;
        }
    }
    for address in &input.media {
        attach(&transaction, input.id, None, address).await?;
    }
    let job = queue::note(&transaction, "submission", &input.id.to_string()).await?;
    log(&transaction, user, &input.id.to_string(), "taken", "").await?;
    transaction.commit().await?;
    let score_percent = percent(score.reached.into(), possible.into());
    Ok(Taken { id: input.id, again: false, score: score_percent, critical: score.critical, job: Some(job) })
}

type Judged<'a> = Vec<(&'a AnswerInput, Option<bool>)>;

fn judge<'a>(form: &forms::Form, input: &'a Input) -> Result<(Judged<'a>, Score, Date), Fault> {
    let mut errors = FieldErrors::default();
    let mut score = Score::default();
    let mut judged = Vec::new();
    let audited_on = day(&input.audited_on).unwrap_or_else(|message| {
        errors.add("auditedOn", message);
        Date::ZERO
    });
    if input.notes.chars().count() > 2000 || input.notes.contains('\0') {
        errors.add("notes", "Notes have 2000 characters at most.");
    }
    if input.media.len() + input.answers.iter().map(|a| a.media.len()).sum::<usize>() > FILES {
        errors.add("media", format!("A submission has {FILES} files at most."));
    }
    if input
        .answers
        .iter()
        .flat_map(|a| &a.media)
        .chain(&input.media)
        .any(|a| !media::is_address(a) || !a.starts_with("audit-"))
    {
        errors.add(
            "media",
            "A file is named as it was answered when it was sent, and is a photo or recording of an audit.",
        );
    }
    for question in &form.questions {
        let mut given = input.answers.iter().filter(|a| a.question_id == question.id);
        let field = format!("answers/{}", question.id);
        let Some(answer) = given.next() else {
            if matches!(question.kind, "yes-no" | "number" | "choice") {
                errors.add(&field, format!("“{}” has no answer.", question.text));
            }
            continue;
        };
        if given.next().is_some() {
            errors.add(&field, "There are two answers to one question.");
        }
        if answer.value.is_empty() && matches!(question.kind, "yes-no" | "choice") {
            errors.add(&field, format!("“{}” has no answer.", question.text));
        }
        if answer.note.chars().count() > 1000 || answer.note.contains('\0') {
            errors.add(&field, "A note has 1000 characters at most.");
        }
        match question.rule().judge(&answer.value) {
            Ok(passed) => {
                score.count(&question.rule(), passed);
                judged.push((answer, passed));
            }
            Err(message) => errors.add(&field, message),
        }
    }
    if let Some(other) = input.answers.iter().find(|a| form.questions.iter().all(|q| q.id != a.question_id)) {
        errors.add(&format!("answers/{}", other.question_id), "This question is not of this form.");
    }
    if errors.is_empty() { Ok((judged, score, audited_on)) } else { Err(Fault::Invalid(errors)) }
}

async fn attach(queries: &impl Queries, id: Uuid, question: Option<i64>, address: &str) -> Result<(), Fault> {
    let sql = r#"INSERT INTO "SubmissionMedia" ("SubmissionId", "QuestionId", "Address") VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"#;
    match queries.execute(sql, &[&id, &question, &address]).await {
        Err(error) if error.code().is_some_and(|c| c.code() == "23503") => {
            Err(Fault::field("media", "A file was not sent yet."))
        }
        other => Ok(other.map(|_| ())?),
    }
}

/// Notes what the feed was sent and what became of it.
///
/// # Errors
/// No database.
pub async fn log(queries: &impl Queries, user: i64, id: &str, outcome: &str, detail: &str) -> Result<(), Fault> {
    let detail: String = detail.chars().take(500).collect();
    let sql = r#"INSERT INTO "SubmissionLogs" ("UserId", "SubmissionId", "Outcome", "Detail") VALUES ($1, $2, $3, $4)"#;
    queries.execute(sql, &[&user, &id, &outcome, &detail]).await?;
    Ok(())
}

/// One line of the list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub id: Uuid,
    pub form: String,
    pub ward: String,
    pub by: String,
    pub audited_on: String,
    pub received_at: String,
    pub source: String,
    pub score: Option<i64>,
    pub critical: i32,
    pub files: i64,
}

fn line(r: &tokio_postgres::Row) -> Line {
    Line {
        id: r.get(0),
        form: r.get(1),
        ward: r.get(2),
        by: r.get(3),
        audited_on: r.get(4),
        received_at: r.get(5),
        source: r.get(6),
        score: percent(r.get::<_, i32>(7).into(), r.get::<_, i32>(8).into()),
        critical: r.get(9),
        files: r.get(10),
    }
}

/// The newest submissions; of one person, if one is named.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries, user: Option<i64>) -> Result<Vec<Line>, Fault> {
    let rows = queries
        .query(
            r#"SELECT s."Id", f."Title", w."Name", u."Name", to_char(s."AuditedOn", 'YYYY-MM-DD'), to_char(s."ReceivedAt", 'YYYY-MM-DD HH24:MI'),
                      s."Source", s."Reached", s."Possible", s."Critical", (SELECT count(*) FROM "SubmissionMedia" m WHERE m."SubmissionId" = s."Id")
               FROM "Submissions" s JOIN "Forms" f ON f."Id" = s."FormId" JOIN "Wards" w ON w."Code" = s."WardCode"
               JOIN "Users" u ON u."Id" = s."UserId" WHERE $1::bigint IS NULL OR s."UserId" = $1 ORDER BY s."ReceivedAt" DESC LIMIT 200"#,
            &[&user],
        )
        .await?;
    Ok(rows.iter().map(line).collect())
}

/// An answer as it is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub question_id: i64,
    pub question: String,
    pub value: String,
    pub passed: Option<bool>,
    pub is_critical: bool,
    pub note: String,
    pub media: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Submission {
    #[serde(flatten)]
    pub line: Line,
    pub ward_code: String,
    pub notes: String,
    pub checked_at: Option<String>,
    pub answers: Vec<Answer>,
    pub media: Vec<String>,
    #[serde(skip)]
    pub user: i64,
}

/// One submission with everything in it.
///
/// # Errors
/// There is none, or no database.
pub async fn get(queries: &impl Queries, id: Uuid) -> Result<Submission, Fault> {
    let row = queries
        .first(
            r#"SELECT s."Id", f."Title", w."Name", u."Name", to_char(s."AuditedOn", 'YYYY-MM-DD'), to_char(s."ReceivedAt", 'YYYY-MM-DD HH24:MI'),
                      s."Source", s."Reached", s."Possible", s."Critical", (SELECT count(*) FROM "SubmissionMedia" m WHERE m."SubmissionId" = s."Id"),
                      s."Notes", to_char(s."CheckedAt", 'YYYY-MM-DD HH24:MI'), s."UserId", s."WardCode"
               FROM "Submissions" s JOIN "Forms" f ON f."Id" = s."FormId" JOIN "Wards" w ON w."Code" = s."WardCode"
               JOIN "Users" u ON u."Id" = s."UserId" WHERE s."Id" = $1"#,
            &[&id],
        )
        .await?
        .ok_or(Fault::NotFound)?;
    let answers = queries
        .query(
            r#"SELECT q."Id", q."Text", a."Value", a."IsPassed", q."IsCritical", a."Note",
                      ARRAY(SELECT m."Address" FROM "SubmissionMedia" m WHERE m."SubmissionId" = $1 AND m."QuestionId" = q."Id" ORDER BY 1)
               FROM "Answers" a JOIN "Questions" q ON q."Id" = a."QuestionId" WHERE a."SubmissionId" = $1 ORDER BY q."Position", q."Id""#,
            &[&id],
        )
        .await?;
    let answer = |r: &tokio_postgres::Row| Answer {
        question_id: r.get(0),
        question: r.get(1),
        value: r.get(2),
        passed: r.get(3),
        is_critical: r.get(4),
        note: r.get(5),
        media: r.get(6),
    };
    let sql =
        r#"SELECT "Address" FROM "SubmissionMedia" WHERE "SubmissionId" = $1 AND "QuestionId" IS NULL ORDER BY 1"#;
    let media = queries.query(sql, &[&id]).await?;
    Ok(Submission {
        line: line(&row),
        notes: row.get(11),
        checked_at: row.get(12),
        user: row.get(13),
        ward_code: row.get(14),
        answers: answers.iter().map(answer).collect(),
        media: media.iter().map(|r| r.get(0)).collect(),
    })
}

/// Notes that a file was sent.
///
/// # Errors
/// No database.
pub async fn note_media(queries: &impl Queries, user: i64, sorted: &media::Sorted, bytes: usize) -> Result<(), Fault> {
    let size = i64::try_from(bytes).unwrap_or(i64::MAX);
    let sql = r#"INSERT INTO "Media" ("Address", "ContentType", "Bytes", "UserId") VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"#;
    queries.execute(sql, &[&sorted.address, &sorted.content_type, &size, &user]).await?;
    Ok(())
}
