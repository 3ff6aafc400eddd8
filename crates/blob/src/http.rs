//! From a request to an act and back. Credentials come first: nothing else is looked at without.

use std::{convert::Infallible, sync::Arc};

use api::audit::Outcome;
use axum::{
    Json, Router,
    body::Body,
    extract::{Request as HttpRequest, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use service::{Peer, answer};

use crate::{
    act::Request,
    answers, blobs, blocks,
    caller::{self, Caller, Shown},
    containers, copies,
    fields::Query,
    leases, list,
    operation::{Act, Target},
    refusal::Refusal,
    store::Store,
};

/// The version that is answered to a request which names none.
const VERSION: &str = "2021-12-02";

/// The API.
pub fn public(store: Arc<Store>) -> Router {
    Router::new().fallback(handle).with_state(store)
}

/// What the owner of the control socket meets.
pub fn control(store: Arc<Store>) -> Router {
    Router::new().route("/health", get(health)).route("/status", get(status)).with_state(store)
}

async fn handle(State(store): State<Arc<Store>>, request: HttpRequest) -> Result<Response, Infallible> {
    let head_only = request.method() == Method::HEAD;
    let (version, of_client) = {
        let field = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let version = field("x-ms-version").filter(|version| version.len() == 10);
        (version.unwrap_or_else(|| VERSION.into()), field("x-ms-client-request-id").filter(|id| id.len() <= 1024))
    };
    let id = uuid::Uuid::new_v4().to_string();
    // In a task of its own: a client that leaves does not cut it in the middle.
    let task = tokio::spawn(async move { ask(&store, request).await });
    let mut response = match task.await {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => refusal.into_response(),
        Err(error) => {
            tracing::error!(%error, "a request ended in a panic");
            Refusal::internal().into_response()
        }
    };
    if head_only && !response.status().is_success() {
        *response.body_mut() = Body::empty();
    }
    let headers = response.headers_mut();
    answers::set(headers, "x-ms-version", &version);
    answers::set(headers, "x-ms-request-id", &id);
    if let Some(of_client) = of_client {
        answers::set(headers, "x-ms-client-request-id", &of_client);
    }
    answers::set(headers, header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff");
    answers::set(headers, header::STRICT_TRANSPORT_SECURITY.as_str(), "max-age=31536000;includeSubDomains");
    Ok(response)
}

async fn ask(store: &Arc<Store>, request: HttpRequest) -> Result<Response, Refusal> {
    let address = request.extensions().get::<Peer>().and_then(|p| p.address);
    let client = address.map_or_else(String::new, |a| a.to_string());
    let (head, body) = request.into_parts();
    let settings = store.settings();
    let host =
        head.headers.get(header::HOST).and_then(|v| v.to_str().ok()).or(head.uri.authority().map(|a| a.as_str()));
    // What cannot be read is told after it is known who asks; credentials that lie in it cannot be good.
    let query = Query::read(head.uri.query().unwrap_or_default());
    let target = Target::read(&settings, host, &head.uri);
    let act = match (&target, &query) {
        (Ok(target), Ok(query)) => Act::read(&head.method, target, query, &head.headers),
        (Err(refusal), _) | (_, Err(refusal)) => Err(refusal.clone()),
    };
    let (query, target) = (query.unwrap_or_default(), target.unwrap_or_default());
    let shown = Shown {
        method: &head.method,
        path: head.uri.path(),
        target: &target,
        query: &query,
        headers: &head.headers,
        address: address.map(|a| a.ip()),
        client: &client,
        action: act.as_ref().map_or("blob.unknown", |act| act.action()),
    };
    let caller = caller::authenticate(store, &settings, &shown).await?;
    let actor = caller.actor(&settings.config.account);
    let object = target.object();
    let act = match act {
        Ok(act) => act,
        Err(_) if matches!(caller, Caller::Anybody) => return Err(nobody(store, "blob.unknown", &client).await?),
        Err(refusal) => {
            let mut event = store.event(&actor, "blob.unknown", &object, Outcome::Failed, &client);
            event.detail.insert("code".into(), refusal.code.into());
            store.spool.append(event).await?;
            return Err(refusal);
        }
    };
    let right = act.right(&query);
    let Some(opened) = caller.allows(&settings, right, &target, &query) else {
        if matches!(caller, Caller::Anybody) {
            return Err(nobody(store, act.action(), &client).await?);
        }
        let what = match (&target.container, right) {
            (Some(container), right) => format!("{} in container {container}", right.word()),
            (None, right) => format!("{} in the account", right.word()),
        };
        let mut refusal = Refusal::denied(&actor, &what);
        if matches!(caller, Caller::Signed(_)) {
            (refusal.code, refusal.message) =
                ("AuthorizationPermissionMismatch", format!("the signature does not open {what}"));
        }
        return Err(refused(store, &actor, act.action(), &object, &client, refusal).await?);
    };
    let request = Request {
        store,
        settings: &settings,
        caller: &caller,
        actor: &actor,
        act,
        target: &target,
        query: &query,
        headers: &head.headers,
        host,
        client: &client,
        opened,
    };
    match answer_to(&request, body).await {
        Ok(response) => Ok(response),
        // To ask for what is not there, or has not changed, is how much work begins.
        Err(refusal) if refusal.status == StatusCode::NOT_MODIFIED => Err(refusal),
        Err(refusal) if head.method == Method::HEAD && refusal.status == StatusCode::NOT_FOUND => Err(refusal),
        Err(refusal) => Err(refused(store, &actor, act.action(), &object, &client, refusal).await?),
    }
}

async fn answer_to(request: &Request<'_>, body: Body) -> Result<Response, Refusal> {
    match request.act {
        Act::AccountInfo => containers::account(request).await,
        Act::ServiceProperties => containers::service_properties(request).await,
        Act::ListContainers => containers::list(request).await,
        Act::DelegationKey => containers::delegation_key(request, body).await,
        Act::CreateContainer => containers::create(request).await,
        Act::LookAtContainer => containers::look(request, false).await,
        Act::ContainerAccess => containers::look(request, true).await,
        Act::SetContainerMetadata => containers::set_metadata(request).await,
        Act::DeleteContainer => containers::delete(request).await,
        Act::LeaseContainer => leases::of_container(request).await,
        Act::List => list::list(request).await,
        Act::Put => blobs::put(request, body).await,
        Act::Get => blobs::get(request, true).await,
        Act::Look => blobs::get(request, false).await,
        Act::Delete => blobs::delete(request).await,
        Act::PutBlock => blocks::put(request, body).await,
        Act::PutBlockList => blocks::put_list(request, body).await,
        Act::GetBlockList => blocks::list(request).await,
        Act::SetMetadata => blobs::set(request, true).await,
        Act::SetProperties => blobs::set(request, false).await,
        Act::SetTier => blobs::set_tier(request).await,
        Act::Lease => leases::of_blob(request).await,
        Act::Copy => copies::copy(request).await,
        Act::Snapshot => blobs::snapshot(request).await,
        Act::Undelete => blobs::undelete(request).await,
    }
}

/// Records what was refused, and gives it back to be told.
async fn refused(
    store: &Arc<Store>,
    actor: &str,
    action: &str,
    object: &str,
    client: &str,
    refusal: Refusal,
) -> Result<Refusal, Refusal> {
    let outcome = if refusal.is_denial() { Outcome::Denied } else { Outcome::Failed };
    let mut event = store.event(actor, action, object, outcome, client);
    event.detail.insert("status".into(), refusal.status.as_u16().into());
    event.detail.insert("code".into(), refusal.code.into());
    store.spool.append(event).await?;
    tracing::info!(actor, action, object, status = refusal.status.as_u16(), code = refusal.code, "refused");
    Ok(refusal)
}

/// Somebody without credentials, where nothing is open to everybody.
async fn nobody(store: &Arc<Store>, action: &str, client: &str) -> Result<Refusal, Refusal> {
    store.record_bad(action, "none", client).await?;
    Ok(Refusal::nobody(store.challenge.clone()))
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ready" }))
}

async fn status(State(store): State<Arc<Store>>) -> Response {
    match store.blocking(Store::status).await {
        Ok(status) => Json(status).into_response(),
        Err(_) => {
            answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the storage of the blobs does not answer")
        }
    }
}
