//! The control socket's routes. Its right is being the same user or root, which `service::serve` sees to; a caller that
//! came in any other way than by a unix socket is refused here.

use std::sync::Arc;

use api::{
    backup::BackupRequest,
    context::Renewal,
    postgres::{AdminPassword, Aside, DumpFile, Exchange, IdentityRoles, PostgresHealth, RoleRequest, SwapName},
};
use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use service::{Peer, answer};

use crate::{Error, keeper::Keeper, one_database};

pub(crate) fn routes(keeper: Arc<Keeper>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/pulse", get(pulse))
        .route("/lead", post(read_lead))
        .route("/rebuild", post(rebuild))
        .route("/certificate", put(renew))
        .route("/roles/{name}", put(set_role).delete(remove_role))
        .route("/identity-roles", put(set_identity_roles))
        .route("/databases/{name}", put(set_database))
        .route("/databases/{name}/dump", post(dump))
        .route("/databases/{name}/load", post(load))
        .route("/databases/{name}/swap", post(swap))
        .route("/databases/{name}/aside", post(drop_aside))
        .route("/admin-password", put(change_admin_password))
        .route("/archive/{name}", post(archive))
        .route("/fetch/{name}", post(fetch))
        .route("/backups", get(backups))
        .route("/backup", post(back_up))
        .route("/close-log", post(close_log))
        .route("/check", post(check))
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

async fn renew(State(keeper): State<Arc<Keeper>>, Json(renewal): Json<Renewal>) -> Response {
    done(keeper.renew(renewal))
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

async fn set_identity_roles(State(keeper): State<Arc<Keeper>>, Json(request): Json<IdentityRoles>) -> Response {
    done(keeper.set_identity_roles(&request).await)
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

async fn dump(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>, Json(asked): Json<DumpFile>) -> Response {
    let dumped = async {
        let (checked, admin) = keeper.databases()?;
        one_database::dump(checked, admin, &name, &asked.file).await
    };
    done(dumped.await)
}

async fn load(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>, Json(asked): Json<DumpFile>) -> Response {
    let loaded = async {
        let (checked, admin) = keeper.databases()?;
        let database = one_database::load(checked, admin, &name, &asked.file).await?;
        Ok(Exchange { database, kept: Vec::new() })
    };
    said(loaded.await)
}

async fn swap(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>, Json(asked): Json<SwapName>) -> Response {
    let swapped = async { one_database::swap(keeper.databases()?.1, &name, &asked.kept).await };
    said(swapped.await)
}

async fn drop_aside(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>, Json(asked): Json<Aside>) -> Response {
    let dropped = async { one_database::drop_aside(keeper.databases()?.1, &name, asked.kept).await };
    said(dropped.await)
}

fn said(result: Result<Exchange, Error>) -> Response {
    match result {
        Ok(exchange) => Json(exchange).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn change_admin_password(State(keeper): State<Arc<Keeper>>, Json(request): Json<AdminPassword>) -> Response {
    done(keeper.change_admin_password(request.password).await)
}

async fn archive(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>) -> Response {
    match keeper.backups() {
        Ok((backups, _)) => done(backups.archive(name).await),
        Err(error) => refusal(&error),
    }
}

/// Where the server wants the file.
#[derive(serde::Deserialize)]
struct Fetch {
    to: String,
}

async fn fetch(State(keeper): State<Arc<Keeper>>, Path(name): Path<String>, Json(fetch): Json<Fetch>) -> Response {
    match keeper.backups() {
        Ok((backups, _)) => done(backups.fetch(name, fetch.to).await),
        Err(error) => refusal(&error),
    }
}

async fn backups(State(keeper): State<Arc<Keeper>>) -> Response {
    let listed = async { keeper.backups()?.0.list().await };
    match listed.await {
        Ok(backups) => Json(backups).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn back_up(State(keeper): State<Arc<Keeper>>, Json(request): Json<BackupRequest>) -> Response {
    let asked = async {
        let (backups, admin) = keeper.served_backups()?;
        backups.asked(admin, request.point.as_deref()).await
    };
    match asked.await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn check(State(keeper): State<Arc<Keeper>>) -> Response {
    let checked = async {
        let (backups, admin) = keeper.served_backups()?;
        backups.check(admin).await
    };
    match checked.await {
        Ok(words) => Json(words).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn close_log(State(keeper): State<Arc<Keeper>>) -> Response {
    match keeper.served_backups() {
        Ok((backups, admin)) => done(backups.close_log(admin).await),
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
        Error::Name { .. } | Error::Password | Error::Certificate(_) | Error::NoIdentity => {
            (StatusCode::BAD_REQUEST, "invalid")
        }
        Error::NotArchived(_) => (StatusCode::BAD_REQUEST, "invalid"),
        Error::NoDatabase(_) | Error::NoBackups | Error::NoSegment(_) => (StatusCode::NOT_FOUND, "not_found"),
        Error::OwnsObjects(_)
        | Error::PointTaken(_)
        | Error::PointTooEarly(_)
        | Error::Differs { .. }
        | Error::OldTerm { .. } => (StatusCode::CONFLICT, "conflict"),
        Error::NoTool { .. } => (StatusCode::NOT_IMPLEMENTED, "no_tool"),
        Error::NotReady(_) | Error::Behind(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
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
