//! What Cloud asks and tells.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
};
use http::{HeaderMap, StatusCode};
use sdk::database::Queries;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::App;
use crate::{fault::Fault, webhook::FIRST_TIME};

/// The licence of a tenant; one that was not decided on is pending.
pub async fn licence(State(app): State<App>, Path(id): Path<Uuid>) -> Result<Json<Value>, Fault> {
    let sql = "SELECT jsonb_build_object('tenant_id', t.id, 'status', coalesce(l.status, 'pending'), 'plan', coalesce(l.plan, 'none'), \
               'expires_at', l.expires_at, 'features', coalesce(to_jsonb(l.features), '[]')) \
               FROM tenants t LEFT JOIN licences l ON l.tenant_id = t.id WHERE t.id = $1";
    let row = app.connection().await?.first(sql, &[&id]).await?;
    Ok(Json(row.ok_or(Fault::NotFound)?.get(0)))
}

#[derive(Deserialize)]
struct Registered {
    event: String,
    tenant_id: Uuid,
    account: String,
    name: String,
    email: String,
}

/// A tenant asks to be let in. Told twice, it is one.
pub async fn registered(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Fault> {
    let signature = app.inner.signer.verify(&headers, &body)?;
    let told: Registered = serde_json::from_slice(&body).map_err(|e| Fault::Invalid(e.to_string()))?;
    if told.event != "tenant.registered" {
        return Err(Fault::Invalid(format!("an event {} is not known here", told.event)));
    }
    let mut connection = app.connection().await?;
    let transaction = connection.begin().await?;
    if transaction.execute(FIRST_TIME, &[&signature]).await? == 0 {
        return Err(Fault::Unauthorized("this webhook was taken already"));
    }
    let sql = "INSERT INTO tenants (id, account, name, email) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING";
    transaction.execute(sql, &[&told.tenant_id, &told.account, &told.name, &told.email]).await?;
    transaction.commit().await?;
    sdk::event!("tenant-asks", tenant = %told.tenant_id);
    Ok(StatusCode::NO_CONTENT)
}
