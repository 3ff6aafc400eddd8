//! Azure OpenAI's images, played.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{StandIn, size};

pub fn routes() -> Router<StandIn> {
    Router::new().route("/openai/deployments/{deployment}/images/generations", post(generate))
}

pub fn allowed(it: &StandIn, headers: &HeaderMap) -> bool {
    headers.get("api-key").and_then(|h| h.to_str().ok()).is_some_and(|k| it.knows(k))
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "api-version")]
    version: Option<String>,
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
}

async fn generate(
    State(it): State<StandIn>,
    Path(_deployment): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if !allowed(&it, &headers) {
        it.refuse();
        return error(StatusCode::UNAUTHORIZED, "401", "Access denied due to invalid subscription key.");
    }
    if version.version.is_none() {
        return error(StatusCode::NOT_FOUND, "404", "Resource not found");
    }
    let (Some(prompt), Some(wished)) = (body["prompt"].as_str(), body["size"].as_str()) else {
        return error(StatusCode::BAD_REQUEST, "invalid_request", "prompt and size are required");
    };
    let (mode, retry) = it.call(prompt).await;
    if let Some(spoilt) = StandIn::spoilt(&mode, retry) {
        return spoilt;
    }
    let bytes = match mode.as_str() {
        "refuse" => {
            return error(
                StatusCode::BAD_REQUEST,
                "content_policy_violation",
                "Your request was rejected by the safety system.",
            );
        }
        "html" => b"<!doctype html><title>sign in</title>".to_vec(),
        "wrong" => it.draw(prompt, (64, 64)).await,
        _ => it.draw(prompt, size(wished)).await,
    };
    Json(
        json!({ "created": 1_700_000_000, "data": [{ "b64_json": STANDARD.encode(bytes), "revised_prompt": prompt }] }),
    )
    .into_response()
}
