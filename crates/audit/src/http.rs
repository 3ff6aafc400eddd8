//! Routes: `POST /ship` for sources, everything else on the control socket.

use std::sync::Arc;

use api::{
    ErrorBody, Secret,
    audit::{Conflict, Ship, Shipped, SourceHead},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use service::answer;

use crate::store::{Question, Store, Taken};

/// Which key ships for which source.
#[derive(Clone)]
pub struct Keys(Arc<Vec<(String, Secret)>>);

/// The source whose key the caller holds.
#[derive(Clone)]
struct Source(String);

impl Keys {
    pub fn new(root: &Secret, sources: &[String]) -> Self {
        let keys = sources.iter().map(|s| (s.clone(), root.derive(&format!("ship:{s}")))).collect();
        Self(Arc::new(keys))
    }

    /// Compares with every key, in constant time each.
    fn source(&self, headers: &HeaderMap) -> Option<Source> {
        let token = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = token.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut found = None;
        for (source, key) in self.0.iter() {
            if key.matches(token.trim()) {
                found = Some(Source(source.clone()));
            }
        }
        found
    }
}

/// What sources meet. Nothing is answered without a ship key, not even that a path does not exist.
pub fn public(store: Store, keys: Keys) -> Router {
    Router::new()
        .route("/ship", post(ship))
        .fallback(|| async {
            answer::error(StatusCode::NOT_FOUND, "not_found", "the audit role takes POST /ship only")
        })
        .layer(from_fn_with_state(keys, authenticate))
        .with_state(store)
}

/// What the owner of the control socket meets.
pub fn control(store: Store) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/heads", get(heads))
        .route("/records", get(records))
        .with_state(store)
}

async fn authenticate(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    match keys.source(request.headers()) {
        Some(source) => {
            request.extensions_mut().insert(source);
            next.run(request).await
        }
        None => {
            let refusal = answer::error(StatusCode::UNAUTHORIZED, "unauthorized", "a source's ship key is needed");
            ([("WWW-Authenticate", "Bearer")], refusal).into_response()
        }
    }
}

async fn ship(State(store): State<Store>, axum::Extension(source): axum::Extension<Source>, body: Bytes) -> Response {
    let batch: Ship = match serde_json::from_slice(&body) {
        Ok(batch) => batch,
        Err(error) => {
            return answer::error(StatusCode::BAD_REQUEST, "not_a_batch", format!("this is not a batch: {error}"));
        }
    };
    if batch.source != source.0 {
        tracing::warn!(holder = %source.0, claimed = %batch.source, "a ship key was used for another source");
        return answer::error(StatusCode::FORBIDDEN, "forbidden", format!("this key ships for {} only", source.0));
    }
    let taken = tokio::task::spawn_blocking(move || store.take(&batch.source, &batch.records)).await;
    match taken {
        Ok(Some(Ok(Taken::Up(seq)))) => Json(Shipped { seq }).into_response(),
        Ok(Some(Ok(Taken::Conflict { have, why }))) => {
            tracing::warn!(source = %source.0, have = have.seq, %why, "a batch does not follow what is held");
            let message = format!("the batch does not follow record {}: {why}", have.seq);
            let error = ErrorBody { code: "chain_conflict".into(), message, request_id: String::new(), hint: None };
            (StatusCode::CONFLICT, Json(Conflict { error, have })).into_response()
        }
        Ok(Some(Err(error))) => {
            tracing::error!(source = %source.0, error = &error as &dyn std::error::Error, "could not store audit records");
            answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_stored",
                "the records could not be stored; send them again",
            )
        }
        Ok(None) => answer::error(StatusCode::FORBIDDEN, "forbidden", "this source is not taken"),
        Err(_) => {
            answer::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the audit role failed; send them again")
        }
    }
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ready" }))
}

async fn heads(State(store): State<Store>) -> Json<Vec<SourceHead>> {
    Json(store.heads())
}

async fn records(State(store): State<Store>, Query(question): Query<Question>) -> Response {
    match tokio::task::spawn_blocking(move || store.records(&question)).await {
        Ok(Ok(found)) => Json(found).into_response(),
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "could not read audit records");
            answer::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "not_read",
                "the records could not be read; see this role's log",
            )
        }
        Err(_) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the audit role failed"),
    }
}
