//! What a tenant keeps: sites, assets, incidents, people. No statement here names a tenant: the database adds it to what is
//! written and to what is read.

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    App,
    access::{Caller, Right},
    auth, passwords,
    routes::{Route, route},
};
use crate::fault::{Body, Fault};

/// Rows of one answer.
const PAGE: i64 = 200;

/// Where a list goes on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    after: Option<Uuid>,
    limit: Option<i64>,
}

impl After {
    fn limit(&self) -> i64 {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE)
    }
}

/// One kind of record, as its statements. `$1` of `add` and `change` is the JSON of what is given.
struct Noun {
    list: &'static str,
    one: &'static str,
    add: &'static str,
    change: &'static str,
    remove: &'static str,
    /// Reads what was given, so that a wrong field is named; the second is whether parts may be missing.
    read: fn(Value, bool) -> Result<Value, Fault>,
}

macro_rules! noun {
    ($name:ident, $table:literal, $columns:literal, $fields:literal, $sets:literal, $new:ty, $change:ty) => {
        const $name: &Noun = &Noun {
            list: concat!(
                "SELECT to_jsonb(t) - 'tenant_id' FROM ",
                $table,
                " t WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"
            ),
            one: concat!("SELECT to_jsonb(t) - 'tenant_id' FROM ", $table, " t WHERE id = $1"),
            add: concat!(
                "INSERT INTO ",
                $table,
                " AS t (id, ",
                $columns,
                ") SELECT $2, ",
                $columns,
                " FROM jsonb_to_record($1) AS g(",
                $fields,
                ") RETURNING to_jsonb(t) - 'tenant_id'"
            ),
            change: concat!(
                "UPDATE ",
                $table,
                " AS t SET ",
                $sets,
                " FROM jsonb_to_record($1) AS g(",
                $fields,
                ") WHERE id = $2 RETURNING to_jsonb(t) - 'tenant_id'"
            ),
            remove: concat!("DELETE FROM ", $table, " WHERE id = $1"),
            read: |value, part| if part { typed::<$change>(value) } else { typed::<$new>(value) },
        };
    };
}

noun!(
    SITES,
    "sites",
    "name, address",
    "name text, address text",
    "name = coalesce(g.name, t.name), address = coalesce(g.address, t.address)",
    NewSite,
    SiteChange
);
noun!(
    ASSETS,
    "assets",
    "site_id, name, kind, serial",
    "site_id uuid, name text, kind text, serial text",
    "site_id = coalesce(g.site_id, t.site_id), name = coalesce(g.name, t.name), kind = coalesce(g.kind, t.kind), serial = coalesce(g.serial, t.serial)",
    NewAsset,
    AssetChange
);
noun!(
    INCIDENTS,
    "incidents",
    "asset_id, title, description, severity, status",
    "asset_id uuid, title text, description text, severity text, status text",
    "asset_id = coalesce(g.asset_id, t.asset_id), title = coalesce(g.title, t.title), description = coalesce(g.description, t.description), severity = coalesce(g.severity, t.severity), status = coalesce(g.status, t.status)",
    NewIncident,
    IncidentChange
);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSite {
    name: String,
    #[serde(default)]
    address: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteChange {
    name: Option<String>,
    address: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAsset {
    site_id: Option<Uuid>,
    name: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    serial: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetChange {
    site_id: Option<Uuid>,
    name: Option<String>,
    kind: Option<String>,
    serial: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Status {
    #[default]
    Open,
    Acknowledged,
    Resolved,
    Closed,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewIncident {
    asset_id: Option<Uuid>,
    title: String,
    #[serde(default)]
    description: String,
    severity: Severity,
    #[serde(default)]
    status: Status,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IncidentChange {
    asset_id: Option<Uuid>,
    title: Option<String>,
    description: Option<String>,
    severity: Option<Severity>,
    status: Option<Status>,
}

fn typed<T: DeserializeOwned + Serialize>(value: Value) -> Result<Value, Fault> {
    let read: T = serde_json::from_value(value).map_err(|error| Fault::Invalid(error.to_string()))?;
    serde_json::to_value(read).map_err(Fault::internal)
}

/// The routes of all three: list, one, add, change, remove.
pub fn routes() -> Vec<Route> {
    let mut all = Vec::new();
    let nouns = [
        (SITES, "/api/v1/sites", "/api/v1/sites/{id}", "Sites"),
        (ASSETS, "/api/v1/assets", "/api/v1/assets/{id}", "Assets"),
        (
            INCIDENTS,
            "/api/v1/incidents",
            "/api/v1/incidents/{id}",
            "Incidents, with the times their severity gives them",
        ),
    ];
    for (noun, many, one, about) in nouns {
        let person = Right::Person;
        all.extend([
            route(
                "GET",
                many,
                person,
                about,
                async move |State(app): State<App>, caller: Caller, Query(after): Query<After>| {
                    list(&app, &caller, noun.list, &after).await
                },
            ),
            route(
                "POST",
                many,
                person,
                "Add one",
                async move |State(app): State<App>, caller: Caller, Body(given): Body<Value>| {
                    let given = (noun.read)(given, false)?;
                    let made = write(&app, &caller, noun.add, &given, Uuid::now_v7()).await?;
                    Ok::<_, Fault>((StatusCode::CREATED, Json(made)))
                },
            ),
            route(
                "GET",
                one,
                person,
                "One of them",
                async move |State(app): State<App>, caller: Caller, Path(id): Path<Uuid>| {
                    let mut connection = app.connection().await?;
                    let entered = caller.enter(&mut connection).await?;
                    Ok::<_, Fault>(Json(entered.one(noun.one, &[&id]).await?.get::<_, Value>(0)))
                },
            ),
            route(
                "PATCH",
                one,
                person,
                "Change one",
                async move |State(app): State<App>, caller: Caller, Path(id): Path<Uuid>, Body(given): Body<Value>| {
                    let given = (noun.read)(given, true)?;
                    Ok::<_, Fault>(Json(write(&app, &caller, noun.change, &given, id).await?))
                },
            ),
            route(
                "DELETE",
                one,
                person,
                "Delete one",
                async move |State(app): State<App>, caller: Caller, Path(id): Path<Uuid>| {
                    let mut connection = app.connection().await?;
                    let entered = caller.enter(&mut connection).await?;
                    let gone = entered.execute(noun.remove, &[&id]).await?;
                    entered.commit().await?;
                    if gone == 0 { Err(Fault::NotFound) } else { Ok(StatusCode::NO_CONTENT) }
                },
            ),
        ]);
    }
    all
}

/// A page of rows, and where the next one begins.
pub async fn list(app: &App, caller: &Caller, sql: &'static str, after: &After) -> Result<Json<Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let limit = after.limit();
    let rows = entered.query(sql, &[&after.after, &limit]).await?;
    let items: Vec<Value> = rows.iter().map(|r| r.get(0)).collect();
    let full = i64::try_from(items.len()).is_ok_and(|n| n == limit);
    let next = items.last().filter(|_| full).map_or(Value::Null, |last| last["id"].clone());
    Ok(Json(json!({ "items": items, "next": next })))
}

async fn write(app: &App, caller: &Caller, sql: &'static str, given: &Value, id: Uuid) -> Result<Value, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let row = entered.one(sql, &[given, &id]).await?.get(0);
    entered.commit().await?;
    Ok(row)
}

pub async fn users(State(app): State<App>, caller: Caller, Query(after): Query<After>) -> Result<Json<Value>, Fault> {
    let sql =
        "SELECT to_jsonb(t) - 'tenant_id' FROM users t WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2";
    list(&app, &caller, sql, &after).await
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Admin,
    Member,
}

impl Role {
    const fn word(&self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Member => "member",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    email: String,
    name: String,
    role: Role,
    password: String,
}

pub async fn add_user(State(app): State<App>, caller: Caller, Body(given): Body<NewUser>) -> Result<Response, Fault> {
    let password = sdk::Secret::new(given.password);
    passwords::judge(&password)?;
    let email = auth::email(&given.email)?;
    let salt = Uuid::new_v4().as_bytes().to_vec();
    let derived = app.inner.passwords.derive(&password, salt.clone()).await?;
    let id = Uuid::now_v7();
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let sql = "SELECT add_person($1, $2, $3, $4, $5, $6)";
    entered.query(sql, &[&id, &email, &given.name, &given.role.word(), &salt, &derived]).await?;
    entered.commit().await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id, "email": email }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    role: Role,
    active: bool,
}

pub async fn change_user(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Body(given): Body<UserChange>,
) -> Result<StatusCode, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let known = entered.one("SELECT change_person($1, $2, $3)", &[&id, &given.role.word(), &given.active]).await?;
    let known: bool = known.get(0);
    entered.commit().await?;
    if known { Ok(StatusCode::NO_CONTENT) } else { Err(Fault::NotFound) }
}
