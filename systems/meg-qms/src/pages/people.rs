//! People of the region, and how their records stand at the centre.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use super::{Fields, Head, ok, see};
use crate::{
    access::Caller,
    app::{App, Part},
    domain::ROLES,
    fault::Fault,
    link::sync,
    store::users::{self, User},
};

#[derive(Template)]
#[template(path = "people.html")]
struct ListPage {
    head: Head,
    people: Vec<User>,
    roles: [&'static str; 3],
    /// Records that wait, that the centre refused, and why.
    standing: Option<(i64, i64, String)>,
    region: String,
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let standing = if app.part == Part::Region { Some(sync::standing(&connection).await?) } else { None };
    let people = users::list(&connection).await?;
    ok(&ListPage {
        head: Head::new("People", &caller, "people"),
        people,
        roles: ROLES,
        standing,
        region: app.name.to_string(),
    })
}

pub async fn create(State(app): State<App>, fields: Fields) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    users::create(&mut connection, app.part, fields.get("email"), fields.get("name"), &fields.all("role")).await?;
    Ok(see("/admin/people"))
}

pub async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    users::change(
        &mut connection,
        app.part,
        caller.user,
        id,
        fields.get("name"),
        &fields.all("role"),
        fields.has("active"),
    )
    .await?;
    Ok(see("/admin/people"))
}
