//! Devices: the keys they register with, the keys they have, what they sent.

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use sdk::{Secret, seal::random_text};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    App,
    access::{Caller, plausible},
    records::{After, list as page},
};
use crate::{
    fault::{Body, Fault},
    store::{self, Kind},
};

/// Days that a registration key may be good for.
const DAYS: std::ops::RangeInclusive<u16> = 1..=90;
const USES: std::ops::RangeInclusive<i32> = 1..=10_000;

pub async fn keys(State(app): State<App>, caller: Caller, Query(after): Query<After>) -> Result<Json<Value>, Fault> {
    let sql = "SELECT to_jsonb(t) - 'tenant_id' || jsonb_build_object('uses_left', registration_uses(t.id)) \
               FROM registration_keys t WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2";
    page(&app, &caller, sql, &after).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    name: String,
    #[serde(default = "once")]
    uses: i32,
    #[serde(default = "week")]
    days: u16,
}

const fn once() -> i32 {
    1
}

const fn week() -> u16 {
    7
}

pub async fn add_key(State(app): State<App>, caller: Caller, Body(given): Body<NewKey>) -> Result<Response, Fault> {
    if !USES.contains(&given.uses) || !DAYS.contains(&given.days) {
        return Err(Fault::Invalid("uses: 1 to 10000; days: 1 to 90".into()));
    }
    let until = Timestamp::now() + SignedDuration::from_hours(24 * i64::from(given.days));
    let (id, key) = (Uuid::now_v7(), random_text().map_err(Fault::internal)?);
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let sql = "SELECT issue_registration_key($1, $2, $3, $4, $5)";
    entered.query(sql, &[&id, &key, &given.name, &given.uses, &until]).await?;
    entered.commit().await?;
    let body = json!({ "id": id, "registration_key": key, "uses": given.uses, "expires_at": until });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    account_name: String,
    registration_key: String,
    name: String,
    /// Where the device thinks it is; devices of several clouds send it. It is not believed.
    #[serde(default, rename = "cloud_server")]
    _cloud_server: Option<String>,
}

pub async fn register(State(app): State<App>, Body(given): Body<Registration>) -> Result<Response, Fault> {
    const USED: Fault =
        Fault::Unauthorized("the registration key is not known, used up, expired or of another account");
    if !plausible(&given.registration_key) {
        return Err(USED);
    }
    let mut connection = app.connection().await?;
    let entered = store::enter(&mut connection, &Secret::new(given.registration_key), &[Kind::Registration]).await?;
    let (id, key) = (Uuid::now_v7(), random_text().map_err(Fault::internal)?);
    let sql = "SELECT register_device($1, $2, $3, $4)";
    let made: bool = entered.one(sql, &[&given.account_name, &id, &given.name, &key]).await?.get(0);
    if !made {
        return Err(USED);
    }
    let tenant = entered.who.tenant;
    entered.commit().await?;
    sdk::event!("device-registered", tenant = %tenant, device = %id);
    Ok((StatusCode::CREATED, Json(json!({ "device_id": id, "device_key": key }))).into_response())
}

pub async fn list(State(app): State<App>, caller: Caller, Query(after): Query<After>) -> Result<Json<Value>, Fault> {
    let sql =
        "SELECT to_jsonb(t) - 'tenant_id' FROM devices t WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2";
    page(&app, &caller, sql, &after).await
}

const ONE: &str = "SELECT to_jsonb(t) - 'tenant_id' FROM devices t WHERE id = $1";

pub async fn one(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Json<Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    Ok(Json(entered.one(ONE, &[&id]).await?.get(0)))
}

/// What a device may read by its key: its own row and nothing else.
pub async fn itself(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    Ok(Json(entered.one(ONE, &[&entered.who.subject]).await?.get(0)))
}

/// Ends the key of a device, or a registration key.
pub async fn revoke(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let known: bool = entered.one("SELECT revoke($1)", &[&id]).await?.get(0);
    let tenant = entered.who.tenant;
    entered.commit().await?;
    if !known {
        return Err(Fault::NotFound);
    }
    sdk::event!("key-revoked", tenant = %tenant, subject = %id);
    Ok(StatusCode::NO_CONTENT)
}

/// Where a list of numbered rows goes on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    before: Option<i64>,
    device: Option<Uuid>,
}

async fn numbered(app: &App, caller: &Caller, sql: &'static str, before: &Before) -> Result<Json<Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let rows = entered.query(sql, &[&before.before, &before.device]).await?;
    let items: Vec<Value> = rows.iter().map(|r| r.get(0)).collect();
    let next = items.last().filter(|_| items.len() == 200).map_or(Value::Null, |last| last["id"].clone());
    Ok(Json(json!({ "items": items, "next": next })))
}

pub async fn events(
    State(app): State<App>,
    caller: Caller,
    Query(before): Query<Before>,
) -> Result<Json<Value>, Fault> {
    let sql = "SELECT to_jsonb(t) - 'tenant_id' FROM ingest_events t \
               WHERE ($1::bigint IS NULL OR id < $1) AND ($2::uuid IS NULL OR device_id = $2) ORDER BY id DESC LIMIT 200";
    numbered(&app, &caller, sql, &before).await
}

pub async fn alerts(
    State(app): State<App>,
    caller: Caller,
    Query(before): Query<Before>,
) -> Result<Json<Value>, Fault> {
    let sql = "SELECT to_jsonb(t) - 'tenant_id' FROM security_alerts t \
               WHERE ($1::bigint IS NULL OR id < $1) AND ($2::uuid IS NULL OR device_id = $2) ORDER BY id DESC LIMIT 200";
    numbered(&app, &caller, sql, &before).await
}

pub async fn acknowledge(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Json<Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let sql = "UPDATE security_alerts t SET acknowledged_at = coalesce(acknowledged_at, now()) WHERE id = $1 \
               RETURNING to_jsonb(t) - 'tenant_id'";
    let row = entered.one(sql, &[&id]).await?.get(0);
    entered.commit().await?;
    Ok(Json(row))
}
