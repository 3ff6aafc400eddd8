//! The editor of forms.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use super::{Fields, Head, ok, see};
use crate::{
    access::Caller,
    app::App,
    domain::Kind,
    fault::Fault,
    store::forms::{self, Form, FormInput, QuestionInput},
};

#[derive(Template)]
#[template(path = "forms.html")]
struct ListPage {
    head: Head,
    forms: Vec<Form>,
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    ok(&ListPage {
        head: Head::new("Forms", &caller, "forms"),
        forms: forms::list(&app.connection().await?, false).await?,
    })
}

fn input(fields: &Fields) -> FormInput {
    FormInput {
        title: fields.get("title").to_owned(),
        description: fields.lines("description"),
        is_published: fields.has("published"),
    }
}

pub async fn create(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Response, Fault> {
    let id = forms::create(&mut app.connection().await?, caller.user, &input(&fields)).await?;
    Ok(see(&format!("/forms/{id}")))
}

#[derive(Template)]
#[template(path = "form.html")]
struct OnePage {
    head: Head,
    form: Form,
    kinds: [(Kind, &'static str, &'static str); 5],
    revisions: Vec<(i32, String, String)>,
}

pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let form = forms::get(&connection, id).await?;
    let revisions = forms::revisions(&connection, id).await?;
    ok(&OnePage { head: Head::new(form.title.clone(), &caller, "forms"), form, kinds: Kind::ALL, revisions })
}

pub async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    forms::change(&mut app.connection().await?, caller.user, id, fields.number("version")?, &input(&fields)).await?;
    Ok(see(&format!("/forms/{id}")))
}

pub async fn put_question(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let photo = fields.get("photo").trim();
    let question = QuestionInput {
        id: fields.maybe("question")?,
        text: fields.get("text").to_owned(),
        help: fields.get("help").to_owned(),
        kind: fields.get("kind").to_owned(),
        weight: fields.maybe("weight")?.unwrap_or(1),
        is_critical: fields.has("critical"),
        low: fields.maybe("low")?,
        high: fields.maybe("high")?,
        choices: fields.lines("choices").lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect(),
        photo: (!photo.is_empty()).then(|| photo.to_owned()),
    };
    forms::put_question(&mut app.connection().await?, caller.user, id, fields.number("version")?, &question).await?;
    Ok(see(&format!("/forms/{id}")))
}

pub async fn remove_question(
    State(app): State<App>,
    caller: Caller,
    Path((id, question)): Path<(i64, i64)>,
    fields: Fields,
) -> Result<Response, Fault> {
    forms::remove_question(&mut app.connection().await?, caller.user, id, fields.number("version")?, question).await?;
    Ok(see(&format!("/forms/{id}")))
}
