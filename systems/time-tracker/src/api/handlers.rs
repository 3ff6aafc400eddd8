//! The API's handlers: read the input, call the store, show the result.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use http::StatusCode;
use sdk::input::Input;
use serde_json::{Value, json};

use super::items;
use crate::{
    access::Caller,
    app::App,
    domain::{Action, EntryInput, FieldErrors, Period, Status, date},
    fault::Fault,
    store::{
        catalog::{self, Item, ItemInput, Kind},
        entries::{self, Change, EntryView},
        reports,
        sheets::{self, SheetView},
        users::{self, User},
    },
};

type Given = Result<Json<Value>, Fault>;
type Made<T> = Result<(StatusCode, Json<T>), Fault>;

pub async fn me(caller: Caller) -> Json<Value> {
    Json(json!({
        "id": caller.user, "name": caller.name, "email": caller.email, "roles": caller.roles, "csrfToken": caller.csrf,
    }))
}

pub async fn users(State(app): State<App>) -> Given {
    Ok(Json(items(users::list(&app.connection().await?).await?)))
}

pub async fn user(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<User>, Fault> {
    Ok(Json(users::get(&app.connection().await?, id).await?))
}

pub async fn create_user(State(app): State<App>, caller: Caller, mut input: Input) -> Made<User> {
    let (email, first, last) = (input.text("email"), input.text("firstName"), input.text("lastName"));
    input.finish()?;
    let made = users::create(&mut app.connection().await?, caller.user, &email, &first, &last).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub async fn change_user(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    mut input: Input,
) -> Result<Json<User>, Fault> {
    let active = input.flag("isActive", None);
    input.finish()?;
    Ok(Json(users::set_active(&mut app.connection().await?, caller.user, id, active).await?))
}

async fn list(app: &App, kind: Kind) -> Given {
    Ok(Json(items(catalog::list(&app.connection().await?, kind).await?)))
}

async fn one(app: &App, kind: Kind, code: &str) -> Result<Json<Item>, Fault> {
    Ok(Json(catalog::get(&app.connection().await?, kind, code).await?))
}

async fn create(app: &App, caller: &Caller, kind: Kind, mut input: Input) -> Made<Item> {
    let item = ItemInput {
        code: input.text("code"),
        name: input.text("name"),
        description: input.text("description"),
        is_active: input.flag("isActive", Some(true)),
        version: 0,
    };
    input.finish()?;
    let made = catalog::create(&mut app.connection().await?, kind, caller.user, &item).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn change(app: &App, caller: &Caller, kind: Kind, code: String, mut input: Input) -> Result<Json<Item>, Fault> {
    let item = ItemInput {
        name: input.text("name"),
        description: input.text("description"),
        is_active: input.flag("isActive", None),
        version: input.whole("version"),
        code,
    };
    input.finish()?;
    Ok(Json(catalog::update(&mut app.connection().await?, kind, caller.user, &item).await?))
}

pub async fn projects(State(app): State<App>) -> Given {
    list(&app, Kind::Project).await
}

pub async fn project(State(app): State<App>, Path(code): Path<String>) -> Result<Json<Item>, Fault> {
    one(&app, Kind::Project, &code).await
}

pub async fn create_project(State(app): State<App>, caller: Caller, input: Input) -> Made<Item> {
    create(&app, &caller, Kind::Project, input).await
}

pub async fn change_project(
    State(app): State<App>,
    caller: Caller,
    Path(code): Path<String>,
    input: Input,
) -> Result<Json<Item>, Fault> {
    change(&app, &caller, Kind::Project, code, input).await
}

pub async fn work_types(State(app): State<App>) -> Given {
    list(&app, Kind::WorkType).await
}

pub async fn work_type(State(app): State<App>, Path(code): Path<String>) -> Result<Json<Item>, Fault> {
    one(&app, Kind::WorkType, &code).await
}

pub async fn create_work_type(State(app): State<App>, caller: Caller, input: Input) -> Made<Item> {
    create(&app, &caller, Kind::WorkType, input).await
}

pub async fn change_work_type(
    State(app): State<App>,
    caller: Caller,
    Path(code): Path<String>,
    input: Input,
) -> Result<Json<Item>, Fault> {
    change(&app, &caller, Kind::WorkType, code, input).await
}

#[derive(serde::Deserialize)]
pub struct Which {
    #[serde(default)]
    status: String,
}

pub async fn sheets(State(app): State<App>, caller: Caller, Query(which): Query<Which>) -> Given {
    let connection = app.connection().await?;
    let list = if which.status.is_empty() {
        sheets::of(&connection, caller.user).await?
    } else {
        let status =
            Status::parse(&which.status).ok_or(Fault::field("status", "Open, Submitted, Approved or Closed."))?;
        if !caller.is_manager() {
            return Err(Fault::Forbidden("Only managers list the sheets of others."));
        }
        sheets::in_status(&connection, status).await?
    };
    Ok(Json(items(list.iter().map(SheetView::from))))
}

pub async fn open_sheet(State(app): State<App>, caller: Caller, mut input: Input) -> Result<Json<SheetView>, Fault> {
    let day = input.text("date");
    input.finish()?;
    let day = date(&day).map_err(|m| Fault::field("date", m))?;
    let period = Period::of(day).ok_or(Fault::NotFound)?;
    Ok(Json((&sheets::open(&app.connection().await?, caller.user, period).await?).into()))
}

pub async fn sheet(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Json<SheetView>, Fault> {
    Ok(Json((&sheets::get(&app.connection().await?, &caller, id).await?).into()))
}

pub async fn act(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    mut input: Input,
) -> Result<Json<SheetView>, Fault> {
    let (action, version, comment) = (input.text("action"), input.whole("version"), input.text("comment"));
    input.finish()?;
    let all = [Action::Submit, Action::TakeBack, Action::Approve, Action::Close, Action::Reopen];
    let wrong = Fault::field("action", "submit, take-back, approve, close or reopen.");
    let action = all.into_iter().find(|a| a.as_str() == action).ok_or(wrong)?;
    Ok(Json((&sheets::act(&mut app.connection().await?, &caller, id, action, version, &comment).await?).into()))
}

pub async fn entries(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Given {
    let connection = app.connection().await?;
    sheets::get(&connection, &caller, id).await?;
    Ok(Json(items(entries::of(&connection, id).await?.iter().map(EntryView::from))))
}

fn entry_input(input: &mut Input) -> EntryInput {
    EntryInput {
        project: input.text("projectCode"),
        work_type: input.text("workTypeCode"),
        date: input.text("entryDate"),
        hours: hours(input, "hours"),
        start: input.text("startTime"),
        end: input.text("endTime"),
        notes: input.text("notes"),
    }
}

/// The API's names of an entry's fields.
fn renamed(fault: Fault) -> Fault {
    let name = |field: String| match field.as_str() {
        "project" => "projectCode".to_owned(),
        "work_type" => "workTypeCode".to_owned(),
        "date" => "entryDate".to_owned(),
        "start" => "startTime".to_owned(),
        "end" => "endTime".to_owned(),
        _ => field,
    };
    match fault {
        Fault::Invalid(errors) => {
            Fault::Invalid(FieldErrors(errors.0.into_iter().map(|(f, m)| (name(f), m)).collect()))
        }
        other => other,
    }
}

pub async fn add_entry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    mut input: Input,
) -> Made<EntryView> {
    let typed = entry_input(&mut input);
    input.finish()?;
    let mut connection = app.connection().await?;
    let sheet = sheets::get(&connection, &caller, id).await?;
    let values = typed.check(sheet.period).map_err(|e| renamed(Fault::Invalid(e)))?;
    let made = entries::add(&mut connection, &caller, id, &[values]).await.map_err(renamed)?;
    let made = made.first().ok_or(Fault::NotFound)?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

pub async fn entry(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Json<EntryView>, Fault> {
    Ok(Json((&entries::get(&app.connection().await?, &caller, id).await?.1).into()))
}

pub async fn change_entry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    mut input: Input,
) -> Result<Json<EntryView>, Fault> {
    let typed = entry_input(&mut input);
    let version = input.whole("version");
    input.finish()?;
    let mut connection = app.connection().await?;
    let (sheet, _) = entries::get(&connection, &caller, id).await?;
    let values = typed.check(sheet.period).map_err(|e| renamed(Fault::Invalid(e)))?;
    match entries::change(&mut connection, &caller, id, version, &values).await.map_err(renamed)? {
        Change::Done(entry) => Ok(Json((&entry).into())),
        Change::Stale(None) => Err(Fault::NotFound),
        Change::Stale(Some(now)) => Err(Fault::Conflict(format!(
            "The entry was changed meanwhile: it is at version {} with {} hours.",
            now.version, now.hours
        ))),
    }
}

#[derive(serde::Deserialize)]
pub struct Version {
    version: i32,
}

pub async fn remove_entry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Query(at): Query<Version>,
) -> Result<StatusCode, Fault> {
    let mut connection = app.connection().await?;
    entries::get(&connection, &caller, id).await?;
    if entries::remove(&mut connection, &caller, id, at.version).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Fault::Conflict("The entry was changed meanwhile.".into()))
}

#[derive(serde::Deserialize)]
pub struct Range {
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
}

pub async fn report(State(app): State<App>, caller: Caller, Query(range): Query<Range>) -> Given {
    let range = crate::pages::Range { from: range.from, to: range.to };
    let (from, to) = range.check(app.today()).map_err(Fault::Invalid)?;
    let only = (!caller.is_manager()).then_some(caller.user);
    Ok(Json(items(reports::by_project(&app.connection().await?, from, to, only).await?)))
}

/// A number of hours as text; empty when it is left out.
fn hours(input: &mut Input, name: &str) -> String {
    match input.take(name) {
        Value::Null => String::new(),
        Value::Number(number) => format!("{:.4}", number.as_f64().unwrap_or(-1.0)),
        _ => input.wrong(name, "This must be a number."),
    }
}
