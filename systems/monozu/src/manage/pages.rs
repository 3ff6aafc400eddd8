//! The operators' page: who waits, who has what, what is published. Complete without JavaScript.

use askama::Template;
use axum::{
    Extension, Form,
    extract::{Path, Query, State},
    response::{Html, IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, header};
use sdk::{oidc::Callback, sign_in::Wanted};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{
    App,
    licences::{self, Decision, Status},
};
use crate::{fault::Fault, staff::Operator};

const STYLE: &str = include_str!("../../pages/style.css");

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    operator: Operator,
    tenants: Vec<Tenant>,
    /// None when Cloud did not say.
    snaps: Option<Vec<Snap>>,
}

struct Tenant {
    id: String,
    account: String,
    name: String,
    email: String,
    /// `waits`, `active`, `suspended`.
    state: String,
    plan: String,
    until: String,
    features: String,
    told: bool,
}

struct Snap {
    name: String,
    version: String,
    size: String,
    feature: String,
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Tenant {
    fn of(row: &Value) -> Tenant {
        let state = text(row, "/licence/status");
        let features = row.pointer("/licence/features").and_then(Value::as_array);
        let features: Vec<&str> = features.into_iter().flatten().filter_map(Value::as_str).collect();
        Tenant {
            id: text(row, "/id"),
            account: text(row, "/account"),
            name: text(row, "/name"),
            email: text(row, "/email"),
            state: if state.is_empty() { "waits".into() } else { state },
            plan: text(row, "/licence/plan"),
            until: text(row, "/licence/expires_at").chars().take(10).collect(),
            features: features.join(", "),
            told: row.pointer("/licence/told").and_then(Value::as_bool).unwrap_or(true),
        }
    }

    fn waits(&self) -> bool {
        self.state == "waits"
    }
}

pub async fn overview(State(app): State<App>, Extension(operator): Extension<Operator>) -> Result<Response, Fault> {
    let tenants = licences::list(&app).await?.iter().map(Tenant::of).collect();
    let snaps = licences::snaps(&app).await.ok().map(|all| {
        let snap = |row: &Value| Snap {
            name: text(row, "/name"),
            version: text(row, "/version"),
            size: format!("{} KiB", row["size"].as_u64().unwrap_or_default().div_ceil(1024)),
            feature: text(row, "/feature"),
        };
        all.iter().map(snap).collect()
    });
    let page = Overview { operator, tenants, snaps }.render().map_err(Fault::internal)?;
    Ok(Html(page).into_response())
}

#[derive(Deserialize)]
pub struct Decided {
    _csrf: String,
    status: Status,
    #[serde(default)]
    plan: String,
    #[serde(default)]
    days: Option<u16>,
    #[serde(default)]
    features: String,
}

pub async fn decide(
    State(app): State<App>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Form(form): Form<Decided>,
) -> Result<Response, Fault> {
    app.inner.staff.own_form(&headers, &operator, &form._csrf)?;
    let features = form.features.split([',', ' ']).map(str::trim).filter(|f| !f.is_empty()).map(str::to_owned);
    let plan = if form.plan.is_empty() { "standard".into() } else { form.plan };
    let decision = Decision { status: form.status, plan, days: form.days.unwrap_or(365), features: features.collect() };
    licences::record(&app, &operator, id, &decision).await?;
    Ok(Redirect::to("/manage/").into_response())
}

#[derive(Deserialize)]
pub struct SignOut {
    _csrf: String,
}

pub async fn sign_out(
    State(app): State<App>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    Form(form): Form<SignOut>,
) -> Result<Response, Fault> {
    app.inner.staff.own_form(&headers, &operator, &form._csrf)?;
    Ok(app.inner.staff.sign_out("/manage/"))
}

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

pub async fn style() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"))], STYLE).into_response()
}
