//! Licences: decided by operators, recorded with who did it, and told to Cloud until it took the word.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use sdk::database::Queries;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::App;
use crate::{
    fault::{Body, Fault},
    staff::Operator,
};

/// How often it is looked whether Cloud is to be told of something; a decision rings at once.
const LOOK: Duration = Duration::from_secs(3);
/// Rounds between two removals of old receipts.
const SWEEP: u32 = 200;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    Suspended,
}

/// What an operator decides.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub status: Status,
    pub plan: String,
    pub days: u16,
    #[serde(default)]
    pub features: Vec<String>,
}

pub async fn tenants(State(app): State<App>) -> Result<Json<Value>, Fault> {
    Ok(Json(json!({ "items": list(&app).await? })))
}

/// Tenants with their licences, those that wait first.
pub async fn list(app: &App) -> Result<Vec<Value>, Fault> {
    let sql = "SELECT to_jsonb(t) || jsonb_build_object('licence', to_jsonb(l) - 'tenant_id') FROM tenants t \
               LEFT JOIN licences l ON l.tenant_id = t.id ORDER BY (l.tenant_id IS NULL) DESC, t.requested_at DESC LIMIT 500";
    Ok(app.connection().await?.query(sql, &[]).await?.iter().map(|r| r.get(0)).collect())
}

pub async fn acts(State(app): State<App>) -> Result<Json<Value>, Fault> {
    let sql = "SELECT to_jsonb(a) FROM acts a ORDER BY id DESC LIMIT 200";
    let rows = app.connection().await?.query(sql, &[]).await?;
    let items: Vec<Value> = rows.iter().map(|r| r.get(0)).collect();
    Ok(Json(json!({ "items": items })))
}

pub async fn decide(
    State(app): State<App>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Body(decision): Body<Decision>,
) -> Result<Json<Value>, Fault> {
    let token = headers.get("x-csrf-token").and_then(|v| v.to_str().ok()).unwrap_or_default();
    app.inner.staff.own_form(&headers, &operator, token)?;
    let told = record(&app, &operator, id, &decision).await?;
    Ok(Json(json!({ "tenant_id": id, "told_cloud": told })))
}

/// Records a decision and tells Cloud. Whether Cloud took it at once; else it is told again until it does.
pub async fn record(app: &App, operator: &Operator, id: Uuid, decision: &Decision) -> Result<bool, Fault> {
    if !(1..=3660).contains(&decision.days) {
        return Err(Fault::Invalid("days: 1 to 3660".into()));
    }
    let word = |text: &str| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=40).contains(&text.len()) && text.bytes().all(good)
    };
    if !word(&decision.plan) || decision.features.len() > 50 || !decision.features.iter().all(|f| word(f)) {
        return Err(Fault::Invalid("plan, features: a-z, 0-9 and dashes, 40 at most".into()));
    }
    let until = Timestamp::now() + SignedDuration::from_hours(24 * i64::from(decision.days));
    let status = if matches!(decision.status, Status::Active) { "active" } else { "suspended" };
    let mut connection = app.connection().await?;
    let transaction = connection.begin().await?;
    let sql = "INSERT INTO licences (tenant_id, status, plan, expires_at, features) SELECT id, $2, $3, $4, $5 FROM tenants WHERE id = $1 \
               ON CONFLICT (tenant_id) DO UPDATE SET status = excluded.status, plan = excluded.plan, expires_at = excluded.expires_at, \
               features = excluded.features, told = false, changed_at = now()";
    if transaction.execute(sql, &[&id, &status, &decision.plan, &until, &decision.features]).await? == 0 {
        return Err(Fault::NotFound);
    }
    let detail = serde_json::to_value(decision).map_err(Fault::internal)?;
    let sql = "INSERT INTO acts (operator, act, tenant_id, detail) VALUES ($1, 'licence', $2, $3)";
    transaction.execute(sql, &[&operator.name, &id, &detail]).await?;
    transaction.commit().await?;
    drop(connection);
    sdk::event!("licence-decided", tenant = %id, status = status, operator = operator.sub);
    // The licence is decided whether or not Cloud hears of it now.
    Ok(tell(app, id).await.unwrap_or_else(|fault| {
        tracing::warn!(error = %fault, tenant = %id, "Cloud was not told of a licence; it is told again");
        app.inner.bell.notify_one();
        false
    }))
}

/// Tells Cloud that a licence changed; Cloud then asks for it.
async fn tell(app: &App, id: Uuid) -> Result<bool, Fault> {
    let url = app.inner.cloud.join("/internal/license/refresh").map_err(Fault::internal)?;
    let row = app.connection().await?.first("SELECT changed_at FROM licences WHERE tenant_id = $1", &[&id]).await?;
    let changed: Timestamp = row.ok_or(Fault::NotFound)?.get(0);
    // Two decisions within a second must not look like one that is sent twice.
    let body = json!({ "tenant_id": id, "nonce": Uuid::new_v4() }).to_string();
    let mut headers = app.inner.signer.sign(body.as_bytes());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = app.inner.https.send(Method::POST, &url, headers, body.into()).await.map_err(Fault::unavailable)?;
    if !answer.status.is_success() {
        return Err(Fault::Unavailable(format!("Cloud answered {} to a licence", answer.status).into()));
    }
    // One that was decided anew meanwhile is told again.
    let sql = "UPDATE licences SET told = true WHERE tenant_id = $1 AND changed_at = $2";
    app.connection().await?.execute(sql, &[&id, &changed]).await?;
    Ok(true)
}

/// Runs until it is aborted: tells Cloud what it did not take yet.
pub async fn beside(app: App) {
    for round in 0_u32.. {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = app.inner.bell.notified() => tokio::time::sleep(LOOK).await,
        }
        if let Err(fault) = catch_up(&app, round % SWEEP == 0).await {
            tracing::debug!(error = %fault, "Cloud was not told of all licences");
        }
    }
}

async fn catch_up(app: &App, sweep: bool) -> Result<(), Fault> {
    let waiting = app.connection().await?.query("SELECT tenant_id FROM licences WHERE NOT told LIMIT 50", &[]).await?;
    for row in waiting {
        tell(app, row.get(0)).await?;
    }
    if sweep {
        let sql = "DELETE FROM webhook_receipts WHERE at < now() - interval '1 day'";
        app.connection().await?.execute(sql, &[]).await?;
    }
    Ok(())
}

/// What Cloud has published.
pub async fn snaps(app: &App) -> Result<Vec<Value>, Fault> {
    let url = app.inner.cloud.join("/internal/v1/snaps").map_err(Fault::internal)?;
    let mut headers = HeaderMap::new();
    let mut token = HeaderValue::from_str(app.inner.internal_token.reveal()).map_err(Fault::internal)?;
    token.set_sensitive(true);
    headers.insert(crate::cloud::INTERNAL_TOKEN, token);
    let answer =
        app.inner.https.send(Method::GET, &url, headers, axum::body::Bytes::new()).await.map_err(Fault::unavailable)?;
    if answer.status != StatusCode::OK {
        return Err(Fault::Unavailable(format!("Cloud answered {} for its snaps", answer.status).into()));
    }
    let body: Value = serde_json::from_slice(&answer.body).map_err(Fault::internal)?;
    Ok(body["items"].as_array().cloned().unwrap_or_default())
}
