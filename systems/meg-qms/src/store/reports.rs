//! Public reports: a form's figures of some days, open to everybody once published. They hold sums and no person.

use jiff::civil::Date;
use sdk::database::Queries;

use crate::{
    domain::{FieldErrors, line},
    fault::Fault,
};

pub struct Report {
    pub id: i64,
    pub slug: String,
    pub title: String,
    pub intro: String,
    pub form: String,
    pub form_id: i64,
    pub first_day: Date,
    pub last_day: Date,
    pub is_published: bool,
}

const SELECT: &str = r#"SELECT r."Id", r."Slug", r."Title", r."Intro", f."Title", r."FormId", r."FirstDay", r."LastDay", r."IsPublished"
    FROM "Reports" r JOIN "Forms" f ON f."Id" = r."FormId" WHERE $1::text IS NULL OR r."Slug" = $1 ORDER BY r."Id" DESC LIMIT 200"#;

fn read(r: &tokio_postgres::Row) -> Report {
    Report {
        id: r.get(0),
        slug: r.get(1),
        title: r.get(2),
        intro: r.get(3),
        form: r.get(4),
        form_id: r.get(5),
        first_day: r.get(6),
        last_day: r.get(7),
        is_published: r.get(8),
    }
}

/// All reports, newest first.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries) -> Result<Vec<Report>, Fault> {
    Ok(queries.query(SELECT, &[&None::<&str>]).await?.iter().map(read).collect())
}

/// A published report.
///
/// # Errors
/// There is none or it is not published, which look the same; or no database.
pub async fn published(queries: &impl Queries, slug: &str) -> Result<Report, Fault> {
    let row = queries.first(SELECT, &[&Some(slug)]).await?;
    row.as_ref().map(read).filter(|r| r.is_published).ok_or(Fault::NotFound)
}

/// Makes a report, not published.
///
/// # Errors
/// A field is not right, the address is taken, or no database.
pub async fn create(
    queries: &impl Queries,
    slug: &str,
    title: &str,
    intro: &str,
    form: i64,
    days: (Date, Date),
) -> Result<(), Fault> {
    let mut errors = FieldErrors::default();
    let title = line(title, 150);
    if title.is_none() {
        errors.add("title", "A title has 1 to 150 characters.");
    }
    let fits = slug.len() >= 2 && slug.len() <= 60 && !slug.starts_with('-');
    if !fits || !slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.add("slug", "An address has 2 to 60 small letters, digits and hyphens.");
    }
    if intro.chars().count() > 2000 {
        errors.add("intro", "An introduction has 2000 characters at most.");
    }
    if days.0 > days.1 {
        errors.add("to", "The last day comes before the first.");
    }
    let Some(title) = title.filter(|_| errors.is_empty()) else { return Err(Fault::Invalid(errors)) };
    let sql = r#"INSERT INTO "Reports" ("Slug", "Title", "Intro", "FormId", "FirstDay", "LastDay") VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"#;
    match queries.execute(sql, &[&slug, &title, &intro.trim(), &form, &days.0, &days.1]).await {
        Err(error) if error.code().is_some_and(|c| c.code() == "23503") => {
            Err(Fault::field("form", "There is no such form."))
        }
        Ok(0) => Err(Fault::field("slug", "Another report has this address.")),
        other => Ok(other.map(|_| ())?),
    }
}

/// Shows a report to everybody, or no longer.
///
/// # Errors
/// There is none, or no database.
pub async fn publish(queries: &impl Queries, id: i64, published: bool) -> Result<(), Fault> {
    let sql = r#"UPDATE "Reports" SET "IsPublished" = $2 WHERE "Id" = $1"#;
    if queries.execute(sql, &[&id, &published]).await? == 0 { Err(Fault::NotFound) } else { Ok(()) }
}
