//! The formulary as the site's integration engine sent it.

use askama::Template;
use axum::{extract::State, response::Response};
use sdk::database::Queries;
use serde::Serialize;

use super::{Head, ok};
use crate::{access::Caller, app::App, fault::Fault};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub code: String,
    pub name: String,
    pub strength: String,
    pub form: String,
    pub is_active: bool,
    pub changed_at: String,
}

async fn all(queries: &impl Queries, active: bool) -> Result<Vec<Entry>, Fault> {
    let sql = r#"SELECT "Code", "Name", "Strength", "Form", "IsActive", to_char("ChangedAt", 'YYYY-MM-DD HH24:MI') FROM "Formulary"
                 WHERE "IsActive" OR NOT $1 ORDER BY "Name", "Code" LIMIT 2000"#;
    let rows = queries.query(sql, &[&active]).await?;
    let read = |r: &tokio_postgres::Row| Entry {
        code: r.get(0),
        name: r.get(1),
        strength: r.get(2),
        form: r.get(3),
        is_active: r.get(4),
        changed_at: r.get(5),
    };
    Ok(rows.iter().map(read).collect())
}

/// What may be given.
///
/// # Errors
/// No database.
pub async fn active(queries: &impl Queries) -> Result<Vec<Entry>, Fault> {
    all(queries, true).await
}

struct Received {
    at: String,
    control: String,
    answer: String,
    detail: String,
}

#[derive(Template)]
#[template(path = "formulary.html")]
struct FormularyPage {
    head: Head,
    entries: Vec<Entry>,
    messages: Vec<Received>,
}

pub async fn show(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let sql = r#"SELECT to_char("At", 'YYYY-MM-DD HH24:MI:SS'), "ControlId", "Answer", "Detail" FROM "FormularyMessages" ORDER BY "Id" DESC LIMIT 10"#;
    let rows = connection.query(sql, &[]).await?;
    let read =
        |r: &tokio_postgres::Row| Received { at: r.get(0), control: r.get(1), answer: r.get(2), detail: r.get(3) };
    ok(&FormularyPage {
        head: Head::new("Formulary", &caller, "formulary"),
        entries: all(&connection, false).await?,
        messages: rows.iter().map(read).collect(),
    })
}
