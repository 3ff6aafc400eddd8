//! The API's handlers for everybody: prompts, generations, models.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use http::{HeaderMap, StatusCode};
use sdk::{fault::WebFault as _, input::Input};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    access::{Caller, Meta},
    app::App,
    domain::{Wish, aud, cents},
    fault::Fault,
    store::{
        departments,
        generations::{self, Filter},
        models,
    },
    submit,
};

pub type Given = Result<Json<Value>, Fault>;

pub async fn me(caller: Caller) -> Json<Value> {
    Json(json!({
        "id": caller.user, "name": caller.name, "email": caller.email, "role": caller.role.word(),
        "department_id": caller.department, "department": caller.department_name, "csrfToken": caller.csrf,
    }))
}

/// A prompt and a wish of a request's body.
fn wish(input: &mut Input) -> (String, Wish) {
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let prompt = input.text("prompt");
    let wish = Wish {
        model: or(input.text("model_provider"), "auto"),
        resolution: or(input.text("resolution"), "1024x1024"),
        required_quality: or(input.text("required_quality"), "medium"),
        style: or(input.text("style"), "vivid"),
        commercial_use: input.flag("commercial_use", Some(true)),
        max_cost_cents: money(input, "max_cost_aud"),
        required_sla: hundredths(input, "required_sla"),
    };
    (prompt, wish)
}

async fn take(app: &App, caller: &Caller, meta: &Meta, mut input: Input, header: Option<&str>) -> Result<Value, Fault> {
    let (prompt, wish) = wish(&mut input);
    let key = input.some("idempotency_key").or(header.map(str::to_owned)).unwrap_or_else(|| Uuid::new_v4().to_string());
    input.finish()?;
    let taken = submit::submit(app, caller, meta, &key, &prompt, &wish).await?;
    let it = generations::get(&app.connection().await?, caller, taken.id).await?;
    let socket = format!("{}/api/v1/generations/{}/events", app.origin.replacen("http", "ws", 1), taken.id);
    Ok(
        json!({ "generation_id": taken.id, "status": it.status, "websocket_url": socket, "reserved_aud": it.reserved_aud, "repeated": taken.again }),
    )
}

/// 202: a worker does the rest. `Idempotency-Key` makes sending it twice take it once.
pub async fn generate(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    headers: HeaderMap,
    input: Input,
) -> Result<(StatusCode, Json<Value>), Fault> {
    let key = headers.get("idempotency-key").and_then(|h| h.to_str().ok());
    Ok((StatusCode::ACCEPTED, Json(take(&app, &caller, &meta, input, key).await?)))
}

/// Each is taken or refused by itself.
pub async fn batch(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    mut input: Input,
) -> Result<(StatusCode, Json<Value>), Fault> {
    let requests = input.objects("requests");
    input.finish()?;
    if requests.is_empty() || requests.len() > 10 {
        return Err(Fault::field("requests", "There must be one to ten requests."));
    }
    let mut results = Vec::new();
    for request in requests {
        results.push(match take(&app, &caller, &meta, Input::of(request), None).await {
            Ok(taken) => taken,
            Err(fault) if fault.status().is_client_error() => {
                json!({ "error": fault.kind(), "message": fault.to_string() })
            }
            Err(fault) => return Err(fault),
        });
    }
    Ok((StatusCode::ACCEPTED, Json(json!({ "results": results }))))
}

#[derive(serde::Deserialize)]
pub struct Page {
    page: Option<i64>,
    limit: Option<i64>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    model_provider: String,
}

pub async fn generations(State(app): State<App>, caller: Caller, Query(asked): Query<Page>) -> Given {
    let (page, limit) = (asked.page.unwrap_or(1), asked.limit.unwrap_or(20));
    if !(1..=100_000).contains(&page) || !(1..=100).contains(&limit) {
        return Err(Fault::field("page", "The page is 1 or more, the limit 1 to 100."));
    }
    let filter = Filter { status: asked.status, model_provider: asked.model_provider, own: false };
    let (mut all, total) = generations::list(&app.connection().await?, &caller, &filter, page, limit).await?;
    generations::open(&app.prompts, &caller, &mut all);
    let pages = (total + limit - 1) / limit;
    let pagination = json!({ "page": page, "limit": limit, "total": total, "total_pages": pages, "has_next": page < pages, "has_prev": page > 1 });
    Ok(Json(json!({ "items": all, "pagination": pagination })))
}

#[derive(serde::Deserialize)]
pub struct Wait {
    /// Seconds that the answer may wait for the generation's end.
    #[serde(default)]
    wait: u64,
}

/// Waits no longer than this: below the time that any request gets.
const LONGEST_WAIT: u64 = 25;

pub async fn generation(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(asked): Query<Wait>,
) -> Result<Json<Value>, Fault> {
    // Nobody's id but the caller's own circle's is waited for.
    let mut found = [generations::get(&app.connection().await?, &caller, id).await?];
    if asked.wait > 0 && !found[0].ended() {
        app.progress.end_of(&app, id, Duration::from_secs(asked.wait.min(LONGEST_WAIT))).await;
        found = [generations::get(&app.connection().await?, &caller, id).await?];
    }
    let connection = app.connection().await?;
    generations::open(&app.prompts, &caller, &mut found);
    let events = crate::progress::of(&connection, id).await?;
    let mut value = serde_json::to_value(&found[0]).map_err(Fault::internal)?;
    value["events"] = serde_json::to_value(events).map_err(Fault::internal)?;
    Ok(Json(value))
}

pub async fn remove(State(app): State<App>, caller: Caller, meta: Meta, Path(id): Path<Uuid>) -> Given {
    let what = generations::remove(&mut app.connection().await?, &caller, &meta, id).await?;
    Ok(Json(json!({ "generation_id": id, "status": what })))
}

fn shown(model: &crate::router::Model, regions: &[String]) -> Value {
    json!({
        "id": model.id, "provider_name": model.provider_name, "model_name": model.model_name, "title": model.title,
        "region": model.region, "allowed": regions.contains(&model.region), "is_ai": model.is_ai, "is_active": model.is_active,
        "quality": model.quality, "commercial_use": model.commercial_use,
        "available": model.available && model.is_active && !model.open, "note": model.note, "circuit": model.state,
        "cost_per_image_aud": aud(model.cost_cents), "sla_percentage": model.sla as f64 / 100.0,
        "timeout_seconds": model.timeout_seconds, "success_rate": model.success_rate(), "usual_ms": model.usual_ms().round(),
    })
}

pub async fn models(State(app): State<App>, caller: Caller) -> Given {
    let connection = app.connection().await?;
    let (_, regions) = models::rules(&connection, caller.department).await?;
    let items: Vec<Value> = models::list(&connection).await?.iter().map(|m| shown(m, &regions)).collect();
    Ok(Json(json!({ "items": items })))
}

pub async fn availability(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Given {
    let connection = app.connection().await?;
    let (_, regions) = models::rules(&connection, caller.department).await?;
    let all = models::list(&connection).await?;
    Ok(Json(all.iter().find(|m| m.id == id).map(|m| shown(m, &regions)).ok_or(Fault::NotFound)?))
}

pub async fn spend(State(app): State<App>, caller: Caller) -> Given {
    let connection = app.connection().await?;
    let departments = departments::list(&connection, &caller).await?;
    let lines = departments::spend(&connection, &caller).await?;
    Ok(Json(json!({ "departments": departments, "lines": lines })))
}

/// An amount of money in cents; None when it is left out. `"12.50"` or a number.
pub fn money(input: &mut Input, name: &str) -> Option<i64> {
    let value = input.take(name);
    let text = match &value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let read = cents(&text);
    if read.is_none() {
        input.wrong::<()>(name, "This must be an amount with at most two decimals, such as 12.50.");
    }
    read
}

/// A number times a hundred; None when it is left out.
fn hundredths(input: &mut Input, name: &str) -> Option<i64> {
    match input.take(name) {
        Value::Null => None,
        #[expect(clippy::cast_possible_truncation, reason = "its range is checked by whoever asks")]
        Value::Number(number) => Some((number.as_f64().unwrap_or(-1.0) * 100.0).round() as i64),
        _ => input.wrong(name, "This must be a number."),
    }
}
