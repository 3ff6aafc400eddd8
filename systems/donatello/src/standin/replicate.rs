//! Replicate's predictions, played: made, looked at, fetched.

use std::collections::HashMap;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::StandIn;

/// What was made, by id. A stand-in is short-lived; the oldest give way.
#[derive(Default)]
pub struct Predictions {
    all: HashMap<String, Value>,
    images: HashMap<String, Vec<u8>>,
    order: Vec<String>,
}

const KEPT: usize = 500;

pub fn routes() -> Router<StandIn> {
    Router::new()
        .route("/v1/models/{owner}/{name}/predictions", post(make))
        .route("/v1/predictions/{id}", get(look))
        .route("/output/{id}", get(fetch))
}

pub fn allowed(it: &StandIn, headers: &HeaderMap) -> bool {
    let value = headers.get(header::AUTHORIZATION).and_then(|h| h.to_str().ok());
    value.and_then(|v| v.strip_prefix("Bearer ")).is_some_and(|k| it.knows(k))
}

impl StandIn {
    fn predictions(&self) -> std::sync::MutexGuard<'_, Predictions> {
        self.inner.predictions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn put(&self, id: &str, prediction: Value) {
        let mut kept = self.predictions();
        if kept.all.insert(id.to_owned(), prediction).is_none() {
            kept.order.push(id.to_owned());
        }
        if kept.order.len() > KEPT {
            let old = kept.order.remove(0);
            kept.all.remove(&old);
            kept.images.remove(&old);
        }
    }
}

fn refused() -> Response {
    (StatusCode::UNAUTHORIZED, Json(json!({ "title": "Unauthenticated", "status": 401 }))).into_response()
}

async fn make(
    State(it): State<StandIn>,
    Path((_owner, _name)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if !allowed(&it, &headers) {
        it.refuse();
        return refused();
    }
    let Some(prompt) = body["input"]["prompt"].as_str().map(str::to_owned) else {
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "title": "Input validation failed", "status": 422 })))
            .into_response();
    };
    let part = |name: &str| u32::try_from(body["input"][name].as_u64().unwrap_or(1024)).unwrap_or(1024).clamp(16, 2048);
    let size = (part("width"), part("height"));
    let mode = it.manner().mode.clone();
    if ["limited", "broken", "garbage", "hang"].contains(&mode.as_str()) {
        let (mode, retry) = it.call(&prompt).await;
        return StandIn::spoilt(&mode, retry).unwrap_or_else(|| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    }
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost").to_owned();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let made = json!({ "id": id, "status": "starting", "input": body["input"], "urls": { "get": format!("{}://{host}/v1/predictions/{id}", it.scheme) } });
    it.put(&id, made.clone());
    let behind = it.clone();
    tokio::spawn(async move {
        let (mode, _) = behind.call(&prompt).await;
        let ended = match mode.as_str() {
            "refuse" => json!({ "id": id, "status": "failed", "error": "NSFW content detected" }),
            _ => {
                let bytes = match mode.as_str() {
                    "html" => b"<!doctype html><title>sign in</title>".to_vec(),
                    "wrong" => behind.draw(&prompt, (64, 64)).await,
                    _ => behind.draw(&prompt, size).await,
                };
                behind.predictions().images.insert(id.clone(), bytes);
                json!({ "id": id, "status": "succeeded", "output": [format!("{}://{host}/output/{id}", behind.scheme)], "error": null })
            }
        };
        behind.put(&id, ended);
    });
    (StatusCode::CREATED, Json(made)).into_response()
}

async fn look(State(it): State<StandIn>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if !allowed(&it, &headers) {
        return refused();
    }
    match it.predictions().all.get(&id) {
        Some(prediction) => Json(prediction.clone()).into_response(),
        None => {
            (StatusCode::NOT_FOUND, Json(json!({ "title": "Prediction not found", "status": 404 }))).into_response()
        }
    }
}

async fn fetch(State(it): State<StandIn>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if !allowed(&it, &headers) {
        return refused();
    }
    match it.predictions().images.get(&id) {
        Some(bytes) => ([(header::CONTENT_TYPE, "image/png")], bytes.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
