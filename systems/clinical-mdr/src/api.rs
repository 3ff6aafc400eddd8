//! The API: everything that is changed is changed here. `all` is the one list of routes, each with the right it needs.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{FromRequest, Path, Query, Request, State},
    middleware::from_fn_with_state,
    response::{AppendHeaders, IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use sdk::{
    Settings, SettingsError,
    access::{SESSION_COOKIE, SIGN_IN_COOKIE, cookie, set_cookie},
    graph::{Graph, OpenError},
    oidc::{Callback, OidcError, RelyingParty},
    routes::route,
    seal::{SealError, Sealer},
    sign_in::{Wanted, begin, enter},
};
use serde_json::{Value, json};

use crate::{
    access::{self, Caller, HOURS, Person, Right},
    domain::{Act, Content},
    fault::Fault,
    library::{self, Filter},
    serve,
    studies::{self, Change, NewStudy},
};

/// Where the issuer sends people back to, and where after signing out.
const CALLBACK: &str = "/api/signin-oidc";
const SIGNED_OUT: &str = "/";

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the graph store cannot be used")]
    Graph(#[from] OpenError),
    #[error("sign-in cannot be used")]
    Oidc(#[from] OidcError),
    #[error("SESSION_KEY cannot be used")]
    Seal(#[from] SealError),
}

/// Cloning shares everything.
#[derive(Clone)]
pub struct Api {
    pub graph: Graph,
    pub oidc: RelyingParty,
    pub sealer: Arc<Sealer>,
}

impl Api {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<Api, ApiError> {
        let key = settings.secret("SESSION_KEY", "at least 32 random characters")?;
        Ok(Api {
            graph: Graph::from_settings(settings, "GRAPH_URL")?,
            oidc: RelyingParty::from_settings(settings, CALLBACK)?,
            sealer: Arc::new(Sealer::new(&key)?),
        })
    }
}

/// One route.
pub type Route = sdk::routes::Route<Api, Right>;

/// Every route.
pub fn all() -> Vec<Route> {
    use Right::{Admin, Editor, Public, Reader, SignedIn};
    vec![
        route("GET", "/api/health", Public, health),
        route("GET", "/api/sign-in", Public, sign_in),
        route("GET", CALLBACK, Public, signed_in),
        route("POST", "/api/sign-out", SignedIn, sign_out),
        route("GET", "/api/v1/me", SignedIn, me),
        route("GET", "/api/v1/library", Reader, async |State(api): State<Api>, Query(f): Query<Filter>| {
            done(library::list(&api.graph, &f).await)
        }),
        route("POST", "/api/v1/library", Editor, create_item),
        route("GET", "/api/v1/library/{uid}", Reader, async |State(api): State<Api>, Path(uid): Path<String>| {
            done(library::one(&api.graph, &uid).await)
        }),
        route(
            "PATCH",
            "/api/v1/library/{uid}",
            Editor,
            async |api: State<Api>, uid: Path<String>, who: Who, input: Input<ItemAct>| {
                act(api, uid, who, input, Act::Edit).await
            },
        ),
        route("GET", "/api/v1/library/{uid}/versions", Reader, item_versions),
        route("GET", "/api/v1/library/{uid}/audit-trail", Reader, item_versions),
        route("GET", "/api/v1/library/{uid}/diff", Reader, diff),
        route(
            "POST",
            "/api/v1/library/{uid}/versions",
            Editor,
            async |api: State<Api>, uid: Path<String>, who: Who, input: Input<ItemAct>| {
                act(api, uid, who, input, Act::NewVersion).await
            },
        ),
        route(
            "POST",
            "/api/v1/library/{uid}/approvals",
            Admin,
            async |api: State<Api>, uid: Path<String>, who: Who, input: Input<ItemAct>| {
                act(api, uid, who, input, Act::Approve).await
            },
        ),
        route(
            "DELETE",
            "/api/v1/library/{uid}/activations",
            Admin,
            async |api: State<Api>, uid: Path<String>, who: Who, input: Input<ItemAct>| {
                act(api, uid, who, input, Act::Retire).await
            },
        ),
        route(
            "POST",
            "/api/v1/library/{uid}/activations",
            Admin,
            async |api: State<Api>, uid: Path<String>, who: Who, input: Input<ItemAct>| {
                act(api, uid, who, input, Act::Reactivate).await
            },
        ),
        route("GET", "/api/v1/studies", Reader, async |State(api): State<Api>| done(studies::list(&api.graph).await)),
        route("POST", "/api/v1/studies", Editor, create_study),
        route("GET", "/api/v1/studies/{uid}", Reader, async |State(api): State<Api>, Path(uid): Path<String>| {
            done(studies::one(&api.graph, &uid).await)
        }),
        route(
            "GET",
            "/api/v1/studies/{uid}/audit-trail",
            Reader,
            async |State(api): State<Api>, Path(uid): Path<String>| {
                done(items(studies::audit_trail(&api.graph, &uid).await))
            },
        ),
        route(
            "GET",
            "/api/v1/studies/{uid}/versions",
            Reader,
            async |State(api): State<Api>, Path(uid): Path<String>| {
                done(items(studies::versions(&api.graph, &uid).await))
            },
        ),
        study("PATCH", "/api/v1/studies/{uid}", Editor, studies::Act::Rename),
        study("POST", "/api/v1/studies/{uid}/objectives", Editor, studies::Act::AddObjective),
        study("POST", "/api/v1/studies/{uid}/activities", Editor, studies::Act::AddActivity),
        study("DELETE", "/api/v1/studies/{uid}/selections", Editor, studies::Act::RemoveSelection),
        study("POST", "/api/v1/studies/{uid}/epochs", Editor, studies::Act::AddEpoch),
        study("POST", "/api/v1/studies/{uid}/visits", Editor, studies::Act::AddVisit),
        study("PUT", "/api/v1/studies/{uid}/schedule", Editor, studies::Act::Schedule),
        study("POST", "/api/v1/studies/{uid}/release", Admin, studies::Act::Release),
        study("POST", "/api/v1/studies/{uid}/locks", Admin, studies::Act::Lock),
        study("DELETE", "/api/v1/studies/{uid}/locks", Admin, studies::Act::Unlock),
    ]
}

fn study(method: &'static str, path: &'static str, right: Right, act: studies::Act) -> Route {
    let handler =
        async move |State(api): State<Api>, Path(uid): Path<String>, Who(person): Who, Input(change): Input<Change>| {
            done(studies::act(&api.graph, &person, &uid, act, &change).await)
        };
    route(method, path, right, handler)
}

/// The whole API.
pub fn router(api: Api) -> Router {
    let mut router = Router::new();
    for Route { path, right, handler, .. } in all() {
        router = router.route(path, handler.layer(from_fn_with_state((api.clone(), right), access::guard)));
    }
    serve::around(router.with_state(api), "default-src 'none'; frame-ancestors 'none'")
}

/// A body that cannot be read is told in the same form as every other fault.
struct Input<T>(T);

impl<T: serde::de::DeserializeOwned> FromRequest<Api> for Input<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Fault> {
        match Json::<T>::from_request(request, api).await {
            Ok(Json(value)) => Ok(Input(value)),
            Err(refused) => Err(Fault::Malformed(refused.body_text())),
        }
    }
}

/// The person who acts.
struct Who(Person);

impl axum::extract::FromRequestParts<Api> for Who {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &Api) -> Result<Self, Fault> {
        parts.extensions.get::<Caller>().map(|c| Who(c.person.clone())).ok_or(Fault::SignIn)
    }
}

fn done(result: Result<Value, Fault>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(fault) => fault.into_response(),
    }
}

fn items(result: Result<Vec<Value>, Fault>) -> Result<Value, Fault> {
    result.map(|items| json!({ "items": items }))
}

/// 200 only while a member of the graph answers; says nothing else, because anybody may ask.
async fn health(State(api): State<Api>) -> (StatusCode, &'static str) {
    match api.graph.answers_within(std::time::Duration::from_secs(3)).await {
        true => (StatusCode::OK, "healthy"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    }
}

async fn sign_in(State(api): State<Api>, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    Ok(begin(&api.oidc, &api.sealer, &wanted.back).await?)
}

async fn signed_in(
    State(api): State<Api>,
    Query(callback): Query<Callback>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let pending = cookie(&headers, SIGN_IN_COOKIE).unwrap_or_default();
    let signed_in = api.oidc.finish(&api.sealer, &callback, pending).await.inspect_err(|error| {
        tracing::warn!(event.name = "sign-in-failed", error = %error, "a sign-in failed");
    })?;
    let claims = signed_in.claims;
    let name = claims.name.clone().or(claims.email.clone()).unwrap_or_else(|| claims.sub.clone());
    let until = jiff::Timestamp::now().as_second() + HOURS * 3600;
    let person = Person { id: claims.sub, name, groups: claims.groups, until };
    sdk::event!("signed-in", user = person.id.clone(), groups = person.groups.join(","));
    Ok(enter(&api.session(&person)?, HOURS * 3600, &signed_in.return_to))
}

/// Ends the session here; the answer says where it is ended at the issuer.
async fn sign_out(State(api): State<Api>) -> Response {
    let next = api.oidc.end_session(None, SIGNED_OUT).await;
    let cookies = AppendHeaders([(header::SET_COOKIE, set_cookie(SESSION_COOKIE, "", 0))]);
    (cookies, Json(json!({ "next": next.map_or(SIGNED_OUT.to_owned(), |u| u.to_string()) }))).into_response()
}

async fn me(Extension(caller): Extension<Caller>) -> Json<Value> {
    let right = caller.person.right();
    Json(json!({
        "id": caller.person.id, "name": caller.person.name, "groups": caller.person.groups, "csrfToken": caller.csrf,
        "reads": right >= Right::Reader, "edits": right >= Right::Editor, "decides": right >= Right::Admin,
    }))
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct NewItem {
    kind: String,
    why: String,
    #[serde(flatten)]
    content: Content,
}

async fn create_item(State(api): State<Api>, Who(person): Who, Input(new): Input<NewItem>) -> Response {
    match library::create(&api.graph, &person, &new.kind, &new.content, &new.why).await {
        Ok(item) => (StatusCode::CREATED, Json(item)).into_response(),
        Err(fault) => fault.into_response(),
    }
}

async fn create_study(State(api): State<Api>, Who(person): Who, Input(new): Input<NewStudy>) -> Response {
    match studies::create(&api.graph, &person, &new).await {
        Ok(study) => (StatusCode::CREATED, Json(study)).into_response(),
        Err(fault) => fault.into_response(),
    }
}

/// An act on a definition: the version that the person saw, why, and for a change what it says from now on.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ItemAct {
    expected: String,
    why: String,
    #[serde(flatten)]
    content: Content,
}

async fn act(
    State(api): State<Api>,
    Path(uid): Path<String>,
    Who(person): Who,
    Input(input): Input<ItemAct>,
    act: Act,
) -> Response {
    let content = (act == Act::Edit).then_some(&input.content);
    done(library::act(&api.graph, &person, &uid, act, &input.expected, content, &input.why).await)
}

async fn item_versions(State(api): State<Api>, Path(uid): Path<String>) -> Response {
    done(items(library::versions(&api.graph, &uid).await))
}

#[derive(serde::Deserialize)]
struct Between {
    from: String,
    to: String,
}

async fn diff(State(api): State<Api>, Path(uid): Path<String>, Query(between): Query<Between>) -> Response {
    done(library::diff(&api.graph, &uid, &between.from, &between.to).await)
}
