//! Forms and their questions. Each change is a version, and a revision that can be read again.

use sdk::database::{Connection, Queries};
use serde::Serialize;
use tokio_postgres::Row;

use crate::{
    domain::{FieldErrors, Kind, Rule, line},
    fault::Fault,
    media,
};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Form {
    pub id: i64,
    pub title: String,
    pub description: String,
    pub is_published: bool,
    pub version: i32,
    pub questions: Vec<Question>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    pub id: i64,
    pub position: i32,
    pub text: String,
    pub help: String,
    pub kind: &'static str,
    pub weight: i32,
    pub is_critical: bool,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub choices: Vec<String>,
    pub photo: Option<String>,
}

impl Question {
    pub fn rule(&self) -> Rule {
        Rule {
            kind: Kind::parse(self.kind).unwrap_or(Kind::Text),
            weight: self.weight,
            critical: self.is_critical,
            low: self.low,
            high: self.high,
            choices: self.choices.clone(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Ward {
    pub code: String,
    pub name: String,
}

/// All wards, by name.
///
/// # Errors
/// No database.
pub async fn wards(queries: &impl Queries) -> Result<Vec<Ward>, Fault> {
    let rows = queries.query(r#"SELECT "Code", "Name" FROM "Wards" ORDER BY "Name""#, &[]).await?;
    Ok(rows.iter().map(|r| Ward { code: r.get(0), name: r.get(1) }).collect())
}

fn form(row: &Row) -> Form {
    Form {
        id: row.get(0),
        title: row.get(1),
        description: row.get(2),
        is_published: row.get(3),
        version: row.get(4),
        questions: Vec::new(),
    }
}

/// All forms with their questions, by title; only the published ones if asked.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries, published: bool) -> Result<Vec<Form>, Fault> {
    let sql = r#"SELECT "Id", "Title", "Description", "IsPublished", "Version" FROM "Forms" WHERE "IsPublished" OR NOT $1 ORDER BY "Title", "Id" LIMIT 500"#;
    let mut forms: Vec<Form> = queries.query(sql, &[&published]).await?.iter().map(form).collect();
    for form in &mut forms {
        form.questions = questions(queries, form.id).await?;
    }
    Ok(forms)
}

/// One form with its questions.
///
/// # Errors
/// There is none, or no database.
pub async fn get(queries: &impl Queries, id: i64) -> Result<Form, Fault> {
    let sql = r#"SELECT "Id", "Title", "Description", "IsPublished", "Version" FROM "Forms" WHERE "Id" = $1"#;
    let mut form = queries.first(sql, &[&id]).await?.as_ref().map(form).ok_or(Fault::NotFound)?;
    form.questions = questions(queries, id).await?;
    Ok(form)
}

async fn questions(queries: &impl Queries, form: i64) -> Result<Vec<Question>, Fault> {
    let sql = r#"SELECT "Id", "Position", "Text", "Help", "Kind", "Weight", "IsCritical", "Low", "High", "Choices", "Photo"
                 FROM "Questions" WHERE "FormId" = $1 AND NOT "IsRetired" ORDER BY "Position", "Id""#;
    let rows = queries.query(sql, &[&form]).await?;
    let read = |r: &Row| Question {
        id: r.get(0),
        position: r.get(1),
        text: r.get(2),
        help: r.get(3),
        kind: Kind::parse(r.get(4)).map_or("text", Kind::word),
        weight: r.get(5),
        is_critical: r.get(6),
        low: r.get(7),
        high: r.get(8),
        choices: r.get(9),
        photo: r.get(10),
    };
    Ok(rows.iter().map(read).collect())
}

/// What a form's editor sends.
#[derive(Clone, Debug, Default)]
pub struct FormInput {
    pub title: String,
    pub description: String,
    pub is_published: bool,
}

fn texts(input: &FormInput) -> Result<(String, String), Fault> {
    let mut errors = FieldErrors::default();
    let title = line(&input.title, 150).unwrap_or_else(|| {
        errors.add("title", "A title has 1 to 150 characters.");
        String::new()
    });
    let description = input.description.trim().to_owned();
    if description.chars().count() > 1000 {
        errors.add("description", "A description has 1000 characters at most.");
    }
    if errors.is_empty() { Ok((title, description)) } else { Err(Fault::Invalid(errors)) }
}

/// Makes a form; its number.
///
/// # Errors
/// A field is not right, or no database.
pub async fn create(connection: &mut Connection, by: i64, input: &FormInput) -> Result<i64, Fault> {
    let (title, description) = texts(input)?;
    let transaction = connection.begin().await?;
    let sql = r#"INSERT INTO "Forms" ("Title", "Description", "IsPublished") VALUES ($1, $2, $3) RETURNING "Id""#;
    let row = transaction.first(sql, &[&title, &description, &input.is_published]).await?.ok_or(Fault::NotFound)?;
    let id: i64 = row.get(0);
    revise(&transaction, by, id).await?;
    transaction.commit().await?;
    Ok(id)
}

/// Changes a form's own texts.
///
/// # Errors
/// A field is not right, the form changed in between, or no database.
pub async fn change(
    connection: &mut Connection,
    by: i64,
    id: i64,
    version: i32,
    input: &FormInput,
) -> Result<(), Fault> {
    let (title, description) = texts(input)?;
    let transaction = connection.begin().await?;
    touch(&transaction, id, version).await?;
    let sql = r#"UPDATE "Forms" SET "Title" = $2, "Description" = $3, "IsPublished" = $4 WHERE "Id" = $1"#;
    transaction.execute(sql, &[&id, &title, &description, &input.is_published]).await?;
    revise(&transaction, by, id).await?;
    transaction.commit().await?;
    Ok(())
}

/// What a question's editor sends.
#[derive(Clone, Debug, Default)]
pub struct QuestionInput {
    /// None adds one. A changed question is a new one beside the retired old one, so that old answers keep their question.
    pub id: Option<i64>,
    pub text: String,
    pub help: String,
    pub kind: String,
    pub weight: i32,
    pub is_critical: bool,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub choices: Vec<String>,
    pub photo: Option<String>,
}

impl QuestionInput {
    fn check(&self) -> Result<(), Fault> {
        let mut errors = FieldErrors::default();
        if line(&self.text, 500).is_none() {
            errors.add("text", "A question has 1 to 500 characters on one line.");
        }
        if self.help.chars().count() > 500 {
            errors.add("help", "Help has 500 characters at most.");
        }
        let kind = Kind::parse(&self.kind);
        if kind.is_none() {
            errors.add("kind", "Choose how the question is answered.");
        }
        if !(1..=100).contains(&self.weight) {
            errors.add("weight", "A weight lies between 1 and 100.");
        }
        if kind == Some(Kind::Choice)
            && (!(2..=20).contains(&self.choices.len()) || self.choices.iter().any(|c| line(c, 100).is_none()))
        {
            errors.add(
                "choices",
                "Write 2 to 20 answers of 1 to 100 characters, one a line; the first is the right one.",
            );
        }
        if let (Some(low), Some(high)) = (self.low, self.high)
            && low > high
        {
            errors.add("high", "The upper bound lies below the lower one.");
        }
        if self.photo.as_deref().is_some_and(|p| !media::is_address(p) || !p.starts_with("question-photos/")) {
            errors.add("photo", "This is no photo of a question.");
        }
        if errors.is_empty() { Ok(()) } else { Err(Fault::Invalid(errors)) }
    }
}

/// Adds a question or puts a new one in the place of an old one.
///
/// # Errors
/// A field is not right, the form changed in between, or no database.
pub async fn put_question(
    connection: &mut Connection,
    by: i64,
    form: i64,
    version: i32,
    q: &QuestionInput,
) -> Result<(), Fault> {
    q.check()?;
    let transaction = connection.begin().await?;
    touch(&transaction, form, version).await?;
    let place = match q.id {
        Some(id) => retire(&transaction, form, id).await?,
        None => {
            let sql =
                r#"SELECT coalesce(max("Position"), 0) + 1 FROM "Questions" WHERE "FormId" = $1 AND NOT "IsRetired""#;
            transaction.first(sql, &[&form]).await?.map_or(1, |r| r.get(0))
        }
    };
    let choices: Vec<String> = if q.kind == "choice" { q.choices.clone() } else { Vec::new() };
    let sql = r#"INSERT INTO "Questions" ("FormId", "Position", "Text", "Help", "Kind", "Weight", "IsCritical", "Low", "High", "Choices", "Photo")
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"#;
    let values: [sdk::database::Param<'_>; 11] = [
        &form,
        &place,
        &q.text.trim(),
        &q.help.trim(),
        &q.kind,
        &q.weight,
        &q.is_critical,
        &q.low,
        &q.high,
        &choices,
        &q.photo,
    ];
    match transaction.execute(sql, &values).await {
        Err(error) if error.code().is_some_and(|c| c.code() == "23503") => {
            return Err(Fault::field("photo", "There is no such photo; upload it first."));
        }
        other => other?,
    };
    revise(&transaction, by, form).await?;
    transaction.commit().await?;
    Ok(())
}

/// Takes a question out of a form; answers keep it.
///
/// # Errors
/// There is none, the form changed in between, or no database.
pub async fn remove_question(
    connection: &mut Connection,
    by: i64,
    form: i64,
    version: i32,
    id: i64,
) -> Result<(), Fault> {
    let transaction = connection.begin().await?;
    touch(&transaction, form, version).await?;
    retire(&transaction, form, id).await?;
    revise(&transaction, by, form).await?;
    transaction.commit().await?;
    Ok(())
}

async fn retire(queries: &impl Queries, form: i64, id: i64) -> Result<i32, Fault> {
    let sql = r#"UPDATE "Questions" SET "IsRetired" = true WHERE "Id" = $1 AND "FormId" = $2 AND NOT "IsRetired" RETURNING "Position""#;
    queries.first(sql, &[&id, &form]).await?.map(|r| r.get(0)).ok_or(Fault::NotFound)
}

async fn touch(queries: &impl Queries, id: i64, version: i32) -> Result<(), Fault> {
    let sql = r#"UPDATE "Forms" SET "Version" = "Version" + 1, "ChangedAt" = now() WHERE "Id" = $1 AND "Version" = $2"#;
    if queries.execute(sql, &[&id, &version]).await? == 1 {
        return Ok(());
    }
    get(queries, id).await?;
    Err(Fault::Conflict("Somebody else changed this form just now. Reload it and try again.".into()))
}

async fn revise(queries: &impl Queries, by: i64, id: i64) -> Result<(), Fault> {
    let body = serde_json::to_value(get(queries, id).await?).map_err(Fault::internal)?;
    let sql = r#"INSERT INTO "Revisions" ("Thing", "Key", "Number", "Body", "UserId")
                 SELECT 'form', $1, coalesce(max("Number"), 0) + 1, $2, $3 FROM "Revisions" WHERE "Thing" = 'form' AND "Key" = $1"#;
    queries.execute(sql, &[&id, &body, &by]).await?;
    Ok(())
}

/// The revisions of a form: number, when, who.
///
/// # Errors
/// No database.
pub async fn revisions(queries: &impl Queries, id: i64) -> Result<Vec<(i32, String, String)>, Fault> {
    let sql = r#"SELECT r."Number", to_char(r."At", 'YYYY-MM-DD HH24:MI'), coalesce(u."Name", 'the maintenance') FROM "Revisions" r
                 LEFT JOIN "Users" u ON u."Id" = r."UserId" WHERE r."Thing" = 'form' AND r."Key" = $1 ORDER BY 1 DESC LIMIT 20"#;
    let rows = queries.query(sql, &[&id]).await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect())
}
