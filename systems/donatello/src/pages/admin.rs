//! What managers and administrators keep: people, departments, models, the record of acts.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use uuid::Uuid;

use super::{Fields, Head, ok, see};
use crate::{
    access::{Caller, Meta, Right},
    app::App,
    audit::{self, Act, Entry},
    domain::{Role, aud, cents},
    fault::Fault,
    queue,
    router::Model,
    store::{
        departments::{self, Department, MODES, PROFILES},
        models,
        users::{self, User},
    },
};

#[derive(Template)]
#[template(path = "users.html")]
struct UsersPage {
    head: Head,
    people: Vec<User>,
    departments: Vec<Department>,
    roles: Vec<Role>,
    me: Uuid,
}

pub async fn users(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let roles = Role::ALL.into_iter().filter(|r| *r <= caller.role).collect();
    ok(&UsersPage {
        head: Head::new("People", &caller, "users"),
        people: users::list(&connection, &caller).await?,
        departments: departments::list(&connection, &caller).await?,
        roles,
        me: caller.user,
    })
}

pub async fn create_user(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    fields: Fields,
) -> Result<Response, Fault> {
    let department = department(&fields)?;
    let (email, name, role) = (fields.get("email"), fields.get("display_name"), fields.get("role"));
    users::create(&mut app.connection().await?, &caller, &meta, email, name, role, department).await?;
    Ok(see("/admin/users"))
}

pub async fn change_user(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<Uuid>,
    fields: Fields,
) -> Result<Response, Fault> {
    let change = users::Change {
        role: fields.some("role").map(str::to_owned),
        department: fields.some("department_id").map(|_| department(&fields)).transpose()?,
        is_active: fields.some("active").map(|a| a == "1"),
    };
    users::change(&mut app.connection().await?, &caller, &meta, id, &change).await?;
    Ok(see("/admin/users"))
}

#[derive(Template)]
#[template(path = "departments.html")]
struct DepartmentsPage {
    head: Head,
    departments: Vec<Department>,
    profiles: [(&'static str, &'static str); 3],
    modes: [(&'static str, &'static str); 3],
}

pub async fn departments(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let departments = departments::list(&app.connection().await?, &caller).await?;
    ok(&DepartmentsPage {
        head: Head::new("Departments", &caller, "departments"),
        departments,
        profiles: PROFILES,
        modes: MODES,
    })
}

fn money(fields: &Fields) -> Result<Option<i64>, Fault> {
    let wrong = || Fault::field("monthly_budget_aud", "Write an amount such as 50.00.");
    fields.some("monthly_budget_aud").map(|t| cents(t).ok_or_else(wrong)).transpose()
}

pub async fn create_department(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    fields: Fields,
) -> Result<Response, Fault> {
    let budget = money(&fields)?.unwrap_or(0);
    departments::create(&mut app.connection().await?, &caller, &meta, fields.get("name"), fields.get("code"), budget)
        .await?;
    Ok(see("/admin/departments"))
}

pub async fn change_department(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<Uuid>,
    fields: Fields,
) -> Result<Response, Fault> {
    let text = |name: &str| fields.some(name).map(str::to_owned);
    let regions = fields.some("regions").map(|t| t.split(',').map(|r| r.trim().to_owned()).collect());
    let change = departments::Change {
        monthly_cents: money(&fields)?,
        mode: text("enforcement_mode"),
        profile: text("profile"),
        regions: regions.filter(|_| caller.has(Right::OrgAdmin)),
    };
    departments::change(&mut app.connection().await?, &caller, &meta, id, &change).await?;
    Ok(see("/admin/departments"))
}

#[derive(Template)]
#[template(path = "models.html")]
struct ModelsPage {
    head: Head,
    models: Vec<Model>,
    depth: i64,
}

impl ModelsPage {
    fn cost(&self, model: &Model) -> String {
        aud(model.cost_cents)
    }

    fn success(&self, model: &Model) -> String {
        if model.calls == 0 {
            "no calls yet".into()
        } else {
            format!("{:.1} % of {}", model.successes as f64 * 100.0 / model.calls as f64, model.calls)
        }
    }

    fn usual(&self, model: &Model) -> String {
        format!("{:.1} s", model.usual_ms() / 1000.0)
    }
}

pub async fn models(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let depth = queue::depth(&connection).await?;
    ok(&ModelsPage { head: Head::new("Models", &caller, "models"), models: models::list(&connection).await?, depth })
}

pub async fn switch_model(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Fault> {
    models::set_active(&mut app.connection().await?, &caller, &meta, &id, fields.get("active") == "1").await?;
    Ok(see("/admin/models"))
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    head: Head,
    entries: Vec<Entry>,
    event_type: String,
    kinds: [&'static str; 7],
    broken: Option<i64>,
    older: Option<i64>,
}

pub async fn audit(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Query(filter): Query<audit::Filter>,
) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let entries = audit::list(&connection, caller.circle().0, &filter, 100).await?;
    let broken = audit::first_break(&connection).await?;
    // Who reads the record is on record.
    audit::note(&connection, Some(&caller), &meta, Act::done("access", "audit record read", "audit")).await?;
    ok(&AuditPage {
        head: Head::new("Audit", &caller, "audit"),
        older: entries.last().filter(|_| entries.len() == 100).map(|e| e.sequence),
        entries,
        event_type: filter.event_type,
        kinds: ["authentication", "generation", "refusal", "cost", "administration", "access", "security"],
        broken,
    })
}

/// The department that a form names.
fn department(fields: &Fields) -> Result<uuid::Uuid, Fault> {
    fields.get("department_id").parse().map_err(|_| Fault::field("department_id", "Choose one of the list."))
}
