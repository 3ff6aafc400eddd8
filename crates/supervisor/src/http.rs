//! The socket's routes. Only our own user reaches them: the folder and the socket let nobody else through, and
//! [`service::serve`] checks who is at the other end.

use std::sync::Arc;

use api::job::{JobRequest, JobRun, JobStatus};
use api::supervisor::{
    BackupOf, BuildRequest, Event, ExecRequest, Failure, FromCopy, GroupsRequest, LeadRequest, LinkRequest,
    RestoreRequest, RotateRequest, SecretRef, SecretRequest, StampLine, StampRef, SwapRequest, TokenRequest, UpRequest,
    UserRequest, Version,
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use model::{Kind, ResourceId};

use crate::{
    Error,
    acts::{self, Acts},
    authority::Authority,
    backups, exec, failover, images, jobs,
    journal::StampRow,
    layout::Layout,
    network, people, reconcile, recovery, region, rotate, secrets,
    stamp::{Feed, Ground},
    status,
};

type Shared = State<Arc<Ground>>;

/// All routes.
pub fn routes(ground: Arc<Ground>, acts: Acts) -> Router {
    let recorded = Router::new()
        .route("/version", get(version))
        .route("/up", post(up))
        .route("/down", post(down))
        .route("/destroy", post(destroy))
        .route("/failover", post(fail_over))
        .route("/switchover", post(switch_over))
        .route("/status", get(one_status))
        .route("/stamps", get(stamps))
        .route("/network", get(see_network).post(change_link))
        .route("/jobs", get(list_jobs))
        .route("/job/run", post(run_job))
        .route("/exec", post(run_exec))
        .route("/secret", post(set_secret))
        .route("/secret/show", post(show_secret))
        .route("/build", post(build))
        .route("/secret/rotate", post(rotate_secret))
        .route("/user", post(add_user))
        .route("/user/groups", post(set_groups))
        .route("/token", post(give_token))
        .route("/backup", post(back_up))
        .route("/backups", get(list_backups))
        .route("/restore", post(restore))
        .route("/swap", post(swap))
        .route("/restore-from", post(restore_from))
        .route("/recovery-key", post(recovery_key))
        .route("/recovery-key-shown", post(recovery_key_shown))
        .route("/shutdown", post(shutdown))
        .with_state(ground)
        .layer(middleware::from_fn_with_state(acts.clone(), acts::record));
    recorded.merge(Router::new().route("/acts", get(acts::show)).with_state(acts))
}

struct Refusal(Failure);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error.failure())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(self.0)).into_response()
    }
}

async fn version(State(ground): Shared) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").into(),
        digest: ground.binary_digest.clone(),
        pid: std::process::id(),
    })
}

async fn up(State(ground): Shared, Json(request): Json<UpRequest>) -> Response {
    events(reconcile::up(&ground, request).await.map(|work| work.feed))
}

async fn down(State(ground): Shared, Json(stamp): Json<StampRef>) -> Response {
    events(reconcile::end(&ground, stamp, false).await.map(|work| work.feed))
}

async fn destroy(State(ground): Shared, Json(stamp): Json<StampRef>) -> Response {
    events(reconcile::end(&ground, stamp, true).await.map(|work| work.feed))
}

async fn fail_over(State(ground): Shared, Json(request): Json<LeadRequest>) -> Response {
    change_lead(ground, request, false).await
}

async fn switch_over(State(ground): Shared, Json(request): Json<LeadRequest>) -> Response {
    change_lead(ground, request, true).await
}

async fn change_lead(ground: Arc<Ground>, request: LeadRequest, planned: bool) -> Response {
    let ask = failover::Ask { resource: request.resource, planned, accept_loss: request.accept_loss };
    let feed = async { failover::begin(&ground, row(&ground, &request.system, &request.stamp)?, ask).await };
    events(feed.await)
}

/// The events of a work as lines, from its beginning to its end. The work goes on when the reader leaves.
fn events(feed: Result<Arc<Feed>, Error>) -> Response {
    let feed = match feed {
        Ok(feed) => feed,
        Err(error) => return lines(vec![Event::Failed(error.failure())]),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<String, std::convert::Infallible>>(16);
    tokio::spawn(async move {
        let mut at = 0;
        while let Some(event) = feed.at(at).await {
            at += 1;
            if sender.send(Ok(line(&event))).await.is_err() {
                return;
            }
        }
    });
    let body = Body::new(Lines(receiver));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn lines(events: Vec<Event>) -> Response {
    let text: String = events.iter().map(line).collect();
    ([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response()
}

fn line(event: &Event) -> String {
    let mut text = serde_json::to_string(event).unwrap_or_default();
    text.push('\n');
    text
}

/// A body of lines that come as they happen.
struct Lines(tokio::sync::mpsc::Receiver<Result<String, std::convert::Infallible>>);

impl http_body::Body for Lines {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|l| l.map(|text| http_body::Frame::data(text.into()))))
    }
}

fn row(ground: &Ground, system: &str, stamp: &str) -> Result<StampRow, Error> {
    ground.journal.stamp(system, stamp)?.ok_or_else(|| Error::NoStamp { system: system.into(), stamp: stamp.into() })
}

async fn one_status(State(ground): Shared, Query(of): Query<StampRef>) -> Result<Response, Refusal> {
    let row = row(&ground, &of.system, &of.stamp)?;
    Ok(Json(status::status(&ground, &row).await?).into_response())
}

async fn stamps(State(ground): Shared) -> Result<Response, Refusal> {
    let lines: Vec<StampLine> = ground
        .journal
        .stamps()?
        .into_iter()
        .map(|r| StampLine { system: r.system, stamp: r.stamp, wanted: r.wanted.word().into(), folder: r.folder })
        .collect();
    Ok(Json(lines).into_response())
}

async fn see_network(State(ground): Shared, Query(of): Query<StampRef>) -> Result<Response, Refusal> {
    let row = row(&ground, &of.system, &of.stamp)?;
    Ok(Json(reconcile::blocking(move || network::status(&ground, &row)).await?).into_response())
}

async fn change_link(State(ground): Shared, Json(ask): Json<LinkRequest>) -> Result<Response, Refusal> {
    let row = row(&ground, &ask.system, &ask.stamp)?;
    Ok(Json(reconcile::blocking(move || network::link(&ground, &row, &ask)).await?).into_response())
}

/// Whose jobs.
#[derive(serde::Deserialize)]
struct JobsOf {
    system: String,
    stamp: String,
    name: Option<String>,
}

async fn list_jobs(State(ground): Shared, Query(of): Query<JobsOf>) -> Result<Json<Vec<JobStatus>>, Refusal> {
    let row = row(&ground, &of.system, &of.stamp)?;
    Ok(Json(reconcile::blocking(move || jobs::list(&ground, &row, of.name.as_deref())).await?))
}

async fn run_job(State(ground): Shared, Json(ask): Json<JobRequest>) -> Result<Json<JobRun>, Refusal> {
    let row = row(&ground, &ask.system, &ask.stamp)?;
    Ok(Json(jobs::run(&ground, &row, &ask)?))
}

async fn run_exec(State(ground): Shared, Json(request): Json<ExecRequest>) -> Result<Response, Refusal> {
    let row = row(&ground, &request.system, &request.stamp)?;
    let answer = reconcile::blocking(move || exec::prepare(&ground, &row, &request)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.expose().to_owned()).into_response())
}

async fn set_secret(State(ground): Shared, Json(request): Json<SecretRequest>) -> Result<Response, Refusal> {
    let row = row(&ground, &request.system, &request.stamp)?;
    let (vault, client) = one_vault(&ground, &row, request.vault.as_deref()).await?;
    secrets::set(&client, &vault, &request.name, &request.value).await?;
    Ok(Json(serde_json::json!({ "vault": vault.to_string(), "name": request.name })).into_response())
}

/// The vault that is meant, and a client of it that speaks as the operator.
async fn one_vault(
    ground: &Ground,
    row: &StampRow,
    wanted: Option<&str>,
) -> Result<(ResourceId, api::client::Client), Error> {
    let system = reconcile::resolve(&row.manifest, &row.stamp)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let vault = secrets::the_vault(&system, wanted)?;
    let authority = Authority::open(&layout.folder)?;
    let client = secrets::vault_client(ground, &layout, &authority, &system, &vault).await?;
    Ok((vault, client))
}

/// The value goes over this socket only, whose owner holds the key it is sealed under.
async fn show_secret(State(ground): Shared, Json(request): Json<SecretRef>) -> Result<Response, Refusal> {
    let row = row(&ground, &request.system, &request.stamp)?;
    let (vault, client) = one_vault(&ground, &row, request.vault.as_deref()).await?;
    let path = format!("/secrets/{}?api-version=7.4", request.name);
    let bundle: api::vault::SecretBundle = client.get(&path).await.map_err(|source| Error::Role {
        resource: vault.to_string(),
        what: format!("show the secret {}", request.name),
        source: Box::new(source),
    })?;
    // A secret has no `Serialize`, so that it cannot be written by accident.
    Ok(Json(serde_json::json!({ "value": bundle.value.as_ref().map(|v| v.expose()) })).into_response())
}

async fn build(State(ground): Shared, Json(request): Json<BuildRequest>) -> Result<Response, Refusal> {
    let row = row(&ground, &request.system, &request.stamp)?;
    Ok(Json(images::build(&ground, &row, &request).await?).into_response())
}

async fn rotate_secret(State(ground): Shared, Json(request): Json<RotateRequest>) -> Result<Response, Refusal> {
    let row = row(&ground, &request.system, &request.stamp)?;
    Ok(Json(rotate::rotate(&ground, &row, &request).await?).into_response())
}

/// The stamp's own directory.
fn directory(ground: &Ground, system: &str, stamp: &str) -> Result<(Layout, ResourceId), Error> {
    let row = row(ground, system, stamp)?;
    let system = reconcile::resolve(&row.manifest, &row.stamp)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, &row)?;
    let identity = system.resources.into_keys().find(|id| id.kind == Kind::Identity).ok_or_else(|| Error::Asked {
        what: format!("{} has no identity of its own", system.name),
        hint: Some("its people are where its outside issuer keeps them".into()),
    })?;
    Ok((layout, identity))
}

async fn add_user(State(ground): Shared, Json(request): Json<UserRequest>) -> Result<Response, Refusal> {
    let (layout, identity) = directory(&ground, &request.system, &request.stamp)?;
    let invite = api::identity::UserRequest { email: request.email, name: request.name, groups: request.groups };
    Ok(Json(people::invite(&layout, &identity, &invite).await?).into_response())
}

async fn set_groups(State(ground): Shared, Json(request): Json<GroupsRequest>) -> Result<Response, Refusal> {
    let (layout, identity) = directory(&ground, &request.system, &request.stamp)?;
    Ok(Json(people::set_groups(&layout, &identity, &request.email, request.groups).await?).into_response())
}

/// The token goes over this socket only, whose owner holds the keys it is made from.
async fn give_token(State(ground): Shared, Json(request): Json<TokenRequest>) -> Result<Response, Refusal> {
    let row = row(&ground, &request.system, &request.stamp)?;
    let system = reconcile::resolve(&row.manifest, &row.stamp)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, &row)?;
    let identity = system.resources.keys().find(|id| id.kind == Kind::Identity).ok_or_else(|| Error::Asked {
        what: format!("{} has no identity of its own", system.name),
        hint: Some("its outside issuer gives tokens".into()),
    })?;
    let authority = Authority::open(&layout.folder)?;
    let token = secrets::token(&layout, &authority, &system, identity, &request.workload, &request.resource).await?;
    // A token has no `Serialize`, so that it cannot be written by accident.
    let body = serde_json::json!({
        "access_token": token.access_token.expose(),
        "expires_on": token.expires_on,
        "resource": token.resource,
        "token_type": token.token_type,
        "client_id": token.client_id,
    });
    Ok(Json(body).into_response())
}

async fn back_up(State(ground): Shared, Json(of): Json<BackupOf>) -> Result<Response, Refusal> {
    let row = row(&ground, &of.system, &of.stamp)?;
    Ok(Json(backups::back_up(&ground, &row, &of).await?).into_response())
}

async fn list_backups(State(ground): Shared, Query(of): Query<BackupOf>) -> Result<Response, Refusal> {
    let row = row(&ground, &of.system, &of.stamp)?;
    Ok(Json(backups::list(&ground, &row, of.resource.as_deref()).await?).into_response())
}

async fn restore(State(ground): Shared, Json(request): Json<RestoreRequest>) -> Response {
    events(
        async { backups::restore(&ground, row(&ground, &request.system, &request.stamp)?, request).await }
            .await
            .map(|work| work.feed),
    )
}

async fn restore_from(State(ground): Shared, Json(request): Json<FromCopy>) -> Response {
    events(region::up_from(&ground, request).await.map(|work| work.feed))
}

/// The key goes over this socket only, to the owner of the folder it waits in.
async fn recovery_key(State(ground): Shared, Json(of): Json<StampRef>) -> Result<Response, Refusal> {
    let row = row(&ground, &of.system, &of.stamp)?;
    let key = recovery::pending(&ground.home.stamp(&row.system, &row.stamp))?;
    // A secret has no `Serialize`, so that it cannot be written by accident.
    Ok(Json(serde_json::json!({ "recovery_key": key.as_ref().map(|k| k.expose()) })).into_response())
}

async fn recovery_key_shown(State(ground): Shared, Json(of): Json<StampRef>) -> Result<Response, Refusal> {
    let row = row(&ground, &of.system, &of.stamp)?;
    recovery::shown(&ground.home.stamp(&row.system, &row.stamp))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn swap(State(ground): Shared, Json(request): Json<SwapRequest>) -> Response {
    events(
        async { backups::swap(&ground, row(&ground, &request.system, &request.stamp)?, request).await }
            .await
            .map(|work| work.feed),
    )
}

async fn shutdown(State(ground): Shared) -> StatusCode {
    ground.shutdown.ask();
    StatusCode::NO_CONTENT
}
