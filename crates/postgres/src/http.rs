//! The control socket's routes. Its right is being the same user or root, which `service::serve` sees to; a caller that
//! came in any other way than by a unix socket is refused here.

use std::sync::Arc;

use api::postgres::{PostgresHealth, RoleRequest};
use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use service::{Peer, answer};

use crate::{Error, keeper::Keeper};

pub(crate) fn routes(keeper: Arc<Keeper>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/pulse", get(pulse))
        .route("/lead", post(read_lead))
        .route("/rebuild", post(rebuild))
        .route("/roles/{name}", put(set_role).delete(remove_role))
        .route("/databases/{name}", put(set_database))
        .fallback(|| async { answer::error(StatusCode::NOT_FOUND, "not_found", "the keeper has no such route") })
        .layer(middleware::from_fn(local_only))
        .with_state(keeper)
}

async fn local_only(peer: Option<Extension<Peer>>, request: Request, next: Next) -> Response {
    match peer {
        Some(Extension(Peer { uid: Some(_), .. })) => next.run(request).await,
        _ => answer::error(StatusCode::FORBIDDEN, "forbidden", "the keeper answers on its unix socket only"),
    }
}

async fn health(State(keeper): State<Arc<Keeper>>) -> Response {
    match keeper.health().await {
        Ok(()) => Json(PostgresHealth { ready: true }).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn status(State(keeper): State<Arc<Keeper>>) -> Response {
    Json(keeper.status().await).into_response()
}

async fn pulse(State(keeper): State<Arc<Keeper>>) -> Response {
    match keeper.pulse() {
        Some(pulse) => Json(pulse).into_response(),
        None => answer::error(StatusCode::NOT_FOUND, "not_found", "this database has one server only"),
    }
}

async fn read_lead(State(keeper): State<Arc<Keeper>>) -> Response {
    done(keeper.read_lead())
}

async fn rebuild(State(keeper): State<Arc<Keeper>>) -> Response {
    keeper.rebuild();
    done(Ok(()))
}

async fn set_role(
    State(keeper): State<Arc<Keeper>>,
    Path(name): Path<String>,
    Json(request): Json<RoleRequest>,
) -> Response {
    match keeper.roles() {
        Ok((roles, admin)) => done(roles.set_role(admin, &name, &request).await),
        Err(error) => refusal(&error),
    }
}

async fn remove_role(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>) -> Response {
    match keeper.roles() {
        Ok((roles, admin)) => done(roles.remove_role(admin, &name).await),
        Err(error) => refusal(&error),
    }
}

async fn set_database(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>) -> Response {
    match keeper.roles() {
        Ok((roles, admin)) => done(roles.set_database(admin, &name).await),
        Err(error) => refusal(&error),
    }
}

fn done(result: Result<(), Error>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &Error) -> Response {
    let (status, code) = match error {
        Error::Name { .. } | Error::Password => (StatusCode::BAD_REQUEST, "invalid"),
        Error::NoDatabase(_) => (StatusCode::NOT_FOUND, "not_found"),
        Error::OwnsObjects(_) => (StatusCode::CONFLICT, "conflict"),
        Error::OldTerm { .. } => (StatusCode::CONFLICT, "conflict"),
        Error::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
        Error::Sql { source, .. } if source.is_closed() || source.code().is_none() => {
            (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
        }
        _ => {
            tracing::error!(error = error.chain(), "a request failed");
            (StatusCode::INTERNAL_SERVER_ERROR, "failed")
        }
    };
    answer::error(status, code, error.chain())
}
