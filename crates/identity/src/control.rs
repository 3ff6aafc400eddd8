//! The control socket: health, people and keys, for the supervisor. Only its owner can connect.

use api::{
    audit::Outcome,
    identity::{User, UserAnswer, UserGroups, UserRequest},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::json;
use service::answer;

use crate::{
    administration::{self, Refusal},
    error::Error,
    people::{self, Person},
    state::App,
};

/// Who acts here, in the audit.
const ACTOR: &str = "supervisor";

/// The control listener's router.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/admin/users", get(users).post(add))
        .route("/admin/users/{email}/disable", post(disable))
        .route("/admin/groups", post(groups))
        .route("/admin/rotate", post(rotate))
        .route("/admin/keys", get(keys))
        .fallback(|| async { answer::error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.") })
        .with_state(app)
}

/// Healthy is: the store answers and a key signs.
async fn health(State(app): State<App>) -> Result<Response, Error> {
    app.store.run(|db| db.query_row("SELECT count(*) FROM signing_keys", [], |r| r.get::<_, i64>(0))).await?;
    app.keys.current().sign(b"health")?;
    Ok(Json(json!({ "status": "ok" })).into_response())
}

async fn users(State(app): State<App>) -> Result<Response, Error> {
    let all: Vec<User> = app.store.run(people::all).await?.into_iter().map(User::from).collect();
    Ok(Json(all).into_response())
}

async fn add(State(app): State<App>, body: Bytes) -> Result<Response, Error> {
    let Ok(UserRequest { email, name, groups }) = serde_json::from_slice(&body) else {
        let message = "The body is JSON with `email`, `name` and `groups`.";
        return Ok(answer::error(StatusCode::BAD_REQUEST, "bad_request", message));
    };
    if let Some(fault) = administration::fault(&email, &name) {
        return Ok(answer::error(StatusCode::BAD_REQUEST, "bad_request", fault));
    }
    if let Some(refused) = unknown(&app, &groups) {
        return Ok(refused);
    }
    let (link, hash) = administration::new_link(&app);
    let now = app.now();
    let (person, created) = app
        .store
        .run(move |db| {
            let (person, created) = match people::add(db, &email, &name, &groups, now)? {
                Some(person) => (Some(person), true),
                None => (people::by_email(db, &email)?, false),
            };
            if let Some(person) = &person {
                people::join(db, &person.id, &groups)?;
                people::new_link(db, &person.id, &hash, now)?;
            }
            Ok((person, created))
        })
        .await?;
    let Some(person) = person else {
        return Ok(answer::error(StatusCode::NOT_FOUND, "not_found", Refusal::Unknown.sentence()));
    };
    let action = if created { "person.add" } else { "person.link" };
    app.record(ACTOR, action, &format!("people/{}", person.id), Outcome::Ok, &[]).await?;
    // A link of somebody who is kept out would not work.
    let link = person.active.then_some(link);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(UserAnswer { id: person.id, link, created })).into_response())
}

async fn disable(State(app): State<App>, Path(email): Path<String>) -> Result<Response, Error> {
    let Some(person) = app.store.run(move |db| people::by_email(db, &email)).await? else {
        return Ok(answer::error(StatusCode::NOT_FOUND, "not_found", Refusal::Unknown.sentence()));
    };
    match administration::set_active(&app, ACTOR, &person.id, false).await? {
        Ok(()) => Ok(Json(User::from(Person { active: false, ..person })).into_response()),
        Err(refusal) => Ok(answer::error(StatusCode::CONFLICT, "refused", refusal.sentence())),
    }
}

/// The refusal of a group that is not there.
fn unknown(app: &App, groups: &[String]) -> Option<Response> {
    let settings = app.settings.load();
    let group = groups.iter().find(|group| !settings.groups.contains(*group))?;
    let known = settings.groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let message = format!("There is no group `{group}`; there are {known}.");
    Some(answer::error(StatusCode::BAD_REQUEST, "unknown_group", message))
}

async fn groups(State(app): State<App>, body: Bytes) -> Result<Response, Error> {
    let Ok(UserGroups { email, groups }) = serde_json::from_slice(&body) else {
        return Ok(answer::error(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The body is JSON with `email` and `groups`.",
        ));
    };
    if let Some(refused) = unknown(&app, &groups) {
        return Ok(refused);
    }
    let Some(person) = app.store.run(move |db| people::by_email(db, &email)).await? else {
        return Ok(answer::error(StatusCode::NOT_FOUND, "not_found", Refusal::Unknown.sentence()));
    };
    match administration::set_groups(&app, ACTOR, &person.id, groups.clone()).await? {
        Ok(()) => Ok(Json(User::from(Person { groups, ..person })).into_response()),
        Err(refusal) => Ok(answer::error(StatusCode::CONFLICT, "refused", refusal.sentence())),
    }
}

async fn rotate(State(app): State<App>) -> Result<Response, Error> {
    app.keys.rotate(app.now()).await?;
    let kid = app.keys.current().kid().to_owned();
    app.record(ACTOR, "key.rotate", &format!("keys/{kid}"), Outcome::Ok, &[]).await?;
    Ok(Json(app.keys.list()).into_response())
}

async fn keys(State(app): State<App>) -> Response {
    Json(app.keys.list()).into_response()
}
