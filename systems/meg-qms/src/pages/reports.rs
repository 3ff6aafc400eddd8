//! Public reports: made by administrators, open to everybody once published.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use super::{
    Fields, Head,
    dashboard::{Chart, chart},
    ok, see,
};
use crate::{
    access::Caller,
    app::App,
    domain::day,
    fault::Fault,
    store::{
        dashboard::{self, Board},
        forms::{self, Form},
        reports::{self, Report},
    },
};

#[derive(Template)]
#[template(path = "reports.html")]
struct ListPage {
    head: Head,
    reports: Vec<Report>,
    forms: Vec<Form>,
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let (reports, forms) = (reports::list(&connection).await?, forms::list(&connection, false).await?);
    ok(&ListPage { head: Head::new("Public reports", &caller, "reports"), reports, forms })
}

pub async fn create(State(app): State<App>, fields: Fields) -> Result<Response, Fault> {
    let read = |name: &str| day(fields.get(name)).map_err(|m| Fault::field(name, m));
    let (title, intro) = (fields.get("title"), fields.lines("intro"));
    let days = (read("from")?, read("to")?);
    reports::create(&app.connection().await?, fields.get("slug").trim(), title, &intro, fields.number("form")?, days)
        .await?;
    Ok(see("/admin/reports"))
}

pub async fn publish(State(app): State<App>, Path(id): Path<i64>, fields: Fields) -> Result<Response, Fault> {
    reports::publish(&app.connection().await?, id, fields.has("published")).await?;
    Ok(see("/admin/reports"))
}

#[derive(Template)]
#[template(path = "report.html")]
struct OnePage {
    head: Head,
    report: Report,
    board: Board,
    chart: Option<Chart>,
}

/// Open to everybody: sums of a form, and nobody's name.
pub async fn show(State(app): State<App>, Path(slug): Path<String>) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let report = reports::published(&connection, &slug).await?;
    let board = dashboard::board(&connection, report.first_day, report.last_day, Some(report.form_id)).await?;
    ok(&OnePage { head: Head::open(report.title.clone()), chart: chart(&board.weeks), board, report })
}
