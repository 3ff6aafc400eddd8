//! What Management tells Cloud, and what Cloud then asks.

use axum::{body::Bytes, extract::State};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use sdk::database::Queries;
use serde::Deserialize;
use uuid::Uuid;

use super::{App, access::INTERNAL_TOKEN};
use crate::{fault::Fault, webhook::FIRST_TIME};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    tenant_id: Uuid,
    /// Makes each word another one, so that its signature is.
    #[serde(default, rename = "nonce")]
    _nonce: Option<Uuid>,
}

/// Management's answer about a tenant.
#[derive(Debug, Deserialize)]
struct Licence {
    status: String,
    plan: String,
    expires_at: Option<Timestamp>,
    features: Vec<String>,
}

/// `POST /internal/license/refresh`: the word says only which tenant; what it may do is asked for, with the internal token.
pub async fn refresh(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Fault> {
    let signature = app.inner.signer.verify(&headers, &body)?;
    let changed: Changed = serde_json::from_slice(&body).map_err(|e| Fault::Invalid(e.to_string()))?;
    let licence = ask(&app, changed.tenant_id).await?;
    let connection = app.connection().await?;
    if connection.execute(FIRST_TIME, &[&signature]).await? == 0 {
        return Err(Fault::Unauthorized("this webhook was taken already"));
    }
    let sql = "SELECT apply_licence($1, $2, $3, $4, $5)";
    let Licence { status, plan, expires_at, features } = licence;
    let row = connection.first(sql, &[&changed.tenant_id, &status, &plan, &expires_at, &features]).await?;
    if !row.is_some_and(|r| r.get(0)) {
        return Err(Fault::NotFound);
    }
    sdk::event!("licence-changed", tenant = %changed.tenant_id, status = status, plan = plan);
    Ok(StatusCode::NO_CONTENT)
}

async fn ask(app: &App, tenant: Uuid) -> Result<Licence, Fault> {
    let url = app.inner.management.join(&format!("/internal/v1/tenants/{tenant}/license")).map_err(Fault::internal)?;
    let mut headers = HeaderMap::new();
    let mut token = HeaderValue::from_str(app.inner.internal_token.reveal()).map_err(Fault::internal)?;
    token.set_sensitive(true);
    headers.insert(INTERNAL_TOKEN, token);
    let answer = app.inner.https.send(Method::GET, &url, headers, Bytes::new()).await.map_err(Fault::unavailable)?;
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body).map_err(Fault::internal),
        StatusCode::NOT_FOUND => Err(Fault::NotFound),
        status => Err(Fault::Unavailable(format!("Management answered {status} for a licence").into())),
    }
}
