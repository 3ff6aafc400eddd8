//! Staff at Cloud: they sign in with Microsoft and see what is of no tenant.

use axum::{
    Json,
    extract::{Query, State},
    response::Response,
};
use http::HeaderMap;
use sdk::{oidc::Callback, sign_in::Wanted};
use serde_json::{Value, json};

use super::{App, snaps};
use crate::fault::Fault;

pub async fn start(State(app): State<App>, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    app.inner.staff.start(&wanted).await
}

pub async fn finish(
    State(app): State<App>,
    Query(back): Query<Callback>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    Ok(app.inner.staff.finish(&back, &headers).await?.1)
}

pub async fn status(State(app): State<App>) -> Result<Json<Value>, Fault> {
    let (open, used) = app.database.connections();
    let answer = json!({ "snaps": snaps::every(&app).await?, "database_connections": { "open": open, "used": used } });
    Ok(Json(answer))
}
