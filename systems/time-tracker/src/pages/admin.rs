//! What administrators keep: projects, work types, people.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use http::StatusCode;

use super::{Fields, Head, ok, page, see, version};
use crate::{
    access::Caller,
    app::App,
    domain::FieldErrors,
    fault::Fault,
    store::{
        catalog::{self, Item, ItemInput, Kind},
        users::{self, User},
    },
};

#[derive(Template)]
#[template(path = "catalog.html")]
struct CatalogPage {
    head: Head,
    word: &'static str,
    path: &'static str,
    items: Vec<Item>,
    /// The one being changed; its version is 0 for a new one.
    form: ItemInput,
    errors: FieldErrors,
}

#[derive(serde::Deserialize)]
pub struct Chosen {
    #[serde(default)]
    code: String,
}

fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Project => "/admin/projects",
        Kind::WorkType => "/admin/work-types",
    }
}

async fn view(
    app: &App,
    caller: &Caller,
    kind: Kind,
    form: Option<ItemInput>,
    errors: FieldErrors,
) -> Result<CatalogPage, Fault> {
    let items = catalog::list(&app.connection().await?, kind).await?;
    let (title, part) = match kind {
        Kind::Project => ("Projects", "projects"),
        Kind::WorkType => ("Work types", "work-types"),
    };
    let form = form.unwrap_or(ItemInput { is_active: true, ..ItemInput::default() });
    Ok(CatalogPage { head: Head::new(title, caller, part), word: kind.word(), path: path(kind), items, form, errors })
}

async fn show(app: &App, caller: &Caller, kind: Kind, chosen: &Chosen) -> Result<Response, Fault> {
    let form = if chosen.code.is_empty() {
        None
    } else {
        let item = catalog::get(&app.connection().await?, kind, &chosen.code).await?;
        let Item { code, name, description, is_active, version } = item;
        Some(ItemInput { code, name, description, is_active, version })
    };
    ok(&view(app, caller, kind, form, FieldErrors::default()).await?)
}

async fn save(app: &App, caller: &Caller, kind: Kind, fields: &Fields) -> Result<Response, Fault> {
    let input = ItemInput {
        code: fields.get("code").to_owned(),
        name: fields.get("name").to_owned(),
        description: fields.get("description").to_owned(),
        is_active: fields.get("active") == "1",
        version: version(fields)?,
    };
    let mut connection = app.connection().await?;
    let result = match input.version {
        0 => catalog::create(&mut connection, kind, caller.user, &input).await,
        _ => catalog::update(&mut connection, kind, caller.user, &input).await,
    };
    drop(connection);
    let errors = match result {
        Ok(_) => return Ok(see(path(kind))),
        Err(Fault::Invalid(errors)) => errors,
        Err(Fault::Conflict(text)) if input.version == 0 => FieldErrors(vec![("code".into(), text)]),
        Err(other) => return Err(other),
    };
    page(StatusCode::BAD_REQUEST, &view(app, caller, kind, Some(input), errors).await?)
}

pub async fn projects(State(app): State<App>, caller: Caller, Query(chosen): Query<Chosen>) -> Result<Response, Fault> {
    show(&app, &caller, Kind::Project, &chosen).await
}

pub async fn work_types(
    State(app): State<App>,
    caller: Caller,
    Query(chosen): Query<Chosen>,
) -> Result<Response, Fault> {
    show(&app, &caller, Kind::WorkType, &chosen).await
}

pub async fn save_project(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Response, Fault> {
    save(&app, &caller, Kind::Project, &fields).await
}

pub async fn save_work_type(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Response, Fault> {
    save(&app, &caller, Kind::WorkType, &fields).await
}

#[derive(Template)]
#[template(path = "people.html")]
struct PeoplePage {
    head: Head,
    people: Vec<User>,
    me: i64,
}

pub async fn people(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let people = users::list(&app.connection().await?).await?;
    ok(&PeoplePage { head: Head::new("People", &caller, "people"), people, me: caller.user })
}

pub async fn set_active(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    users::set_active(&mut app.connection().await?, caller.user, id, fields.get("active") == "1").await?;
    Ok(see("/admin/people"))
}
