//! The API's handlers for managers and administrators.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use http::StatusCode;
use sdk::{fault::WebFault as _, input::Input};
use serde_json::{Value, json};
use uuid::Uuid;

use super::handlers::{Given, money};
use crate::{
    access::{Caller, Meta},
    app::App,
    audit::{self, Act},
    fault::Fault,
    queue as jobs,
    store::{
        departments::{self, Department},
        models,
        users::{self, User},
    },
};

pub async fn users(State(app): State<App>, caller: Caller) -> Given {
    Ok(Json(json!({ "items": users::list(&app.connection().await?, &caller).await? })))
}

pub async fn user(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Json<User>, Fault> {
    Ok(Json(users::get(&app.connection().await?, &caller, id).await?))
}

pub async fn create_user(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    mut input: Input,
) -> Result<(StatusCode, Json<User>), Fault> {
    let (email, name, role) = (input.text("email"), input.text("display_name"), input.text("role"));
    let department = input.id("department_id").unwrap_or(caller.department);
    input.finish()?;
    let made = users::create(&mut app.connection().await?, &caller, &meta, &email, &name, &role, department).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Lines of `email,display_name,role`; each is made or refused by itself.
pub async fn bulk(State(app): State<App>, caller: Caller, meta: Meta, mut input: Input) -> Given {
    let text = input.text("csv");
    let department = input.id("department_id").unwrap_or(caller.department);
    input.finish()?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("email,")).collect();
    if lines.is_empty() || lines.len() > 500 {
        return Err(Fault::field("csv", "There must be 1 to 500 lines of email,display_name,role."));
    }
    let mut connection = app.connection().await?;
    let (mut made, mut refused) = (0, Vec::new());
    for (number, line) in lines.iter().enumerate() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let &[email, name, role] = &fields[..] else {
            refused
                .push(json!({ "line": number + 1, "message": "It must have three fields: email,display_name,role." }));
            continue;
        };
        match users::create(&mut connection, &caller, &meta, email, name, role, department).await {
            Ok(_) => made += 1,
            Err(fault) if fault.status().is_client_error() => {
                let message =
                    if let Fault::Invalid(errors) = &fault { errors.0[0].1.clone() } else { fault.to_string() };
                refused.push(json!({ "line": number + 1, "message": message }));
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(Json(json!({ "created": made, "refused": refused })))
}

async fn changed(
    app: &App,
    caller: &Caller,
    meta: &Meta,
    id: Uuid,
    change: users::Change,
) -> Result<Json<User>, Fault> {
    Ok(Json(users::change(&mut app.connection().await?, caller, meta, id, &change).await?))
}

pub async fn change_user(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<Uuid>,
    mut input: Input,
) -> Result<Json<User>, Fault> {
    let (role, department) = (input.some("role"), input.id("department_id"));
    let is_active = input.maybe("is_active");
    input.finish()?;
    changed(&app, &caller, &meta, id, users::Change { role, department, is_active }).await
}

pub async fn deactivate(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<Uuid>,
) -> Result<Json<User>, Fault> {
    changed(&app, &caller, &meta, id, users::Change { is_active: Some(false), ..users::Change::default() }).await
}

pub async fn assign(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<Uuid>,
    mut input: Input,
) -> Result<Json<User>, Fault> {
    let role = input.text("role");
    input.finish()?;
    changed(&app, &caller, &meta, id, users::Change { role: Some(role), ..users::Change::default() }).await
}

pub async fn departments(State(app): State<App>, caller: Caller) -> Given {
    Ok(Json(json!({ "items": departments::list(&app.connection().await?, &caller).await? })))
}

pub async fn create_department(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    mut input: Input,
) -> Result<(StatusCode, Json<Department>), Fault> {
    let (name, code, budget) =
        (input.text("name"), input.text("code"), money(&mut input, "monthly_budget_aud").unwrap_or(0));
    input.finish()?;
    let made = departments::create(&mut app.connection().await?, &caller, &meta, &name, &code, budget).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub async fn budget(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Json<Department>, Fault> {
    Ok(Json(departments::get(&app.connection().await?, &caller, id).await?))
}

pub async fn change_budget(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<Uuid>,
    mut input: Input,
) -> Result<Json<Department>, Fault> {
    let change = departments::Change {
        monthly_cents: money(&mut input, "monthly_budget_aud"),
        mode: input.some("enforcement_mode"),
        profile: input.some("profile"),
        regions: input.texts("regions"),
    };
    input.finish()?;
    Ok(Json(departments::change(&mut app.connection().await?, &caller, &meta, id, &change).await?))
}

pub async fn switch_model(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<String>,
    mut input: Input,
) -> Given {
    let active = input.flag("is_active", None);
    input.finish()?;
    models::set_active(&mut app.connection().await?, &caller, &meta, &id, active).await?;
    Ok(Json(json!({ "id": id, "is_active": active })))
}

pub async fn audit_logs(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Query(filter): Query<audit::Filter>,
) -> Given {
    let connection = app.connection().await?;
    let items = audit::list(&connection, caller.circle().0, &filter, 100).await?;
    let broken = audit::first_break(&connection).await?;
    audit::note(&connection, Some(&caller), &meta, Act::done("access", "audit record read", "audit")).await?;
    Ok(Json(json!({ "items": items, "first_break": broken })))
}

pub async fn queue(State(app): State<App>) -> Result<Json<Value>, Fault> {
    Ok(Json(jobs::look(&app.connection().await?).await?))
}
