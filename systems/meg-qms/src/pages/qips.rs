//! The board of improvement plans, and one plan with its files, notes and letters.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use serde::Deserialize;

use super::{Fields, File, Head, ok, see};
use crate::{
    access::Caller,
    app::App,
    domain::day,
    fault::Fault,
    store::{
        forms::{self, Ward},
        qips::{self, Input, Letter, Note, Qip, STEPS},
        users::{self, User},
    },
};

struct Column {
    title: &'static str,
    plans: Vec<Qip>,
}

#[derive(Template)]
#[template(path = "qips.html")]
struct BoardPage {
    head: Head,
    columns: Vec<Column>,
    wards: Vec<Ward>,
    people: Vec<User>,
    submission: String,
}

#[derive(Deserialize)]
pub struct From {
    #[serde(default)]
    submission: String,
}

pub async fn board(State(app): State<App>, caller: Caller, Query(from): Query<From>) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let all = qips::list(&connection).await?;
    let of = |step: &str| all.iter().filter(|q| q.status == step).cloned().collect();
    ok(&BoardPage {
        head: Head::new("Improvement plans", &caller, "qips"),
        columns: STEPS.iter().map(|(step, title)| Column { title, plans: of(step) }).collect(),
        wards: forms::wards(&connection).await?,
        people: users::list(&connection).await?,
        submission: from.submission,
    })
}

fn input(fields: &Fields) -> Result<Input, Fault> {
    let due = fields.get("due_on");
    Ok(Input {
        title: fields.get("title").to_owned(),
        description: fields.lines("description"),
        ward: fields.get("ward").to_owned(),
        owner: fields.maybe("owner")?,
        due_on: if due.is_empty() { None } else { Some(day(due).map_err(|m| Fault::field("due_on", m))?) },
        status: if fields.has("status") { fields.get("status").to_owned() } else { "plan".to_owned() },
        submission: fields.maybe("submission")?,
    })
}

pub async fn create(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Response, Fault> {
    let id = qips::create(&mut app.connection().await?, Some(caller.user), &app.url, &input(&fields)?).await?;
    Ok(see(&format!("/qips/{id}")))
}

#[derive(Template)]
#[template(path = "qip.html")]
struct OnePage {
    head: Head,
    qip: Qip,
    steps: &'static [(&'static str, &'static str)],
    wards: Vec<Ward>,
    people: Vec<User>,
    files: Vec<File>,
    notes: Vec<Note>,
    letters: Vec<Letter>,
}

pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let qip = qips::get(&connection, id).await?;
    ok(&OnePage {
        head: Head::new(qip.title.clone(), &caller, "qips"),
        steps: &STEPS,
        wards: forms::wards(&connection).await?,
        people: users::list(&connection).await?,
        files: qip.files.iter().map(|a| File::of(&app, a)).collect(),
        notes: qips::notes(&connection, id).await?,
        letters: qips::letters(&connection, Some(id)).await?,
        qip,
    })
}

/// Auditors change any plan, its owner too; others read.
pub async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    let qip = qips::get(&connection, id).await?;
    if !caller.is_auditor() && qip.owner_id != Some(caller.user) {
        return Err(Fault::Forbidden("Only auditors and the plan's owner change it."));
    }
    qips::change(&mut connection, caller.user, &app.url, id, fields.number("version")?, &input(&fields)?).await?;
    Ok(see(&format!("/qips/{id}")))
}

pub async fn say(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    qips::say(&app.connection().await?, id, caller.user, &fields.lines("text")).await?;
    Ok(see(&format!("/qips/{id}")))
}
