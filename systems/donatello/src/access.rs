//! Who is calling and what they may do. Every route names the right it needs; there is no route without one.

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, Method, header, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sdk::Secret;
use uuid::Uuid;

use crate::{
    app::App,
    audit::{self, Act},
    domain::Role,
    fault::Fault,
    store::{sessions, users},
};

/// Bytes of a request's body: the document's 10 MB, which the edge keeps to as well.
pub const BODY: usize = 10 * 1024 * 1024;
/// The `__Host-` prefix makes browsers insist on Secure, on this host and on the whole path.
pub const SESSION_COOKIE: &str = "__Host-session";
pub const SIGN_IN_COOKIE: &str = "__Host-sign-in";

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nobody needs to be signed in: health, sign-in, style sheets.
    Public,
    /// Anybody who is signed in; all of them have a role.
    User,
    Manager,
    OrgAdmin,
    SuperAdmin,
}

/// A signed-in person.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user: Uuid,
    pub name: String,
    pub email: String,
    pub role: Role,
    pub organization: Uuid,
    pub department: Uuid,
    pub department_name: String,
    /// The session's hash, when it came by cookie.
    pub session: Option<String>,
    /// The token that forms carry; empty for a bearer token, which no browser adds by itself.
    pub csrf: String,
}

impl Caller {
    pub fn has(&self, right: Right) -> bool {
        match right {
            Right::Public | Right::User => true,
            Right::Manager => self.role >= Role::DeptManager,
            Right::OrgAdmin => self.role >= Role::OrgAdmin,
            Right::SuperAdmin => self.role == Role::SuperAdmin,
        }
    }

    /// The circle that this person sees, as three values for a statement: organisation, department and user, each None
    /// when it does not narrow.
    pub fn circle(&self) -> (Option<Uuid>, Option<Uuid>, Option<Uuid>) {
        match self.role {
            Role::SuperAdmin => (None, None, None),
            Role::OrgAdmin => (Some(self.organization), None, None),
            Role::DeptManager => (None, Some(self.department), None),
            Role::PowerUser | Role::StandardUser => (None, None, Some(self.user)),
        }
    }
}

/// Where a request comes from, for the record.
#[derive(Clone, Debug)]
pub struct Meta {
    pub ip: String,
    pub agent: String,
    pub request_id: Uuid,
}

impl Meta {
    /// The edge overwrites `X-Forwarded-For`; its last entry is who connected to it.
    pub fn of(headers: &HeaderMap) -> Meta {
        let text = |name: &str| headers.get(name).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let forwarded = text("x-forwarded-for").rsplit(',').next().unwrap_or_default().trim();
        let ip = forwarded.parse::<std::net::IpAddr>().map(|ip| ip.to_string()).unwrap_or_default();
        let request_id = text("x-request-id").parse().unwrap_or_else(|_| Uuid::new_v4());
        Meta { ip, agent: text("user-agent").chars().filter(|c| !c.is_control()).take(200).collect(), request_id }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Meta {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Meta, Self::Rejection> {
        Ok(parts.extensions.get::<Meta>().cloned().unwrap_or_else(|| Meta::of(&parts.headers)))
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Caller, Fault> {
        parts.extensions.get::<Caller>().cloned().ok_or(Fault::SignIn)
    }
}

/// The middleware of every route: finds the caller, checks the right and the origin of changes.
pub async fn guard(State((app, right)): State<(App, Right)>, mut request: Request, next: Next) -> Response {
    let meta = Meta::of(request.headers());
    request.extensions_mut().insert(meta.clone());
    match admit(&app, right, request, &meta).await {
        Ok(request) => next.run(request).await,
        Err((Fault::SignIn, Some(path))) => Redirect::to(&format!("/sign-in?return={path}")).into_response(),
        Err((fault, _)) => fault.into_response(),
    }
}

/// The request with its caller; else the fault, and for a page opened by a person where they wanted to go.
async fn admit(app: &App, right: Right, mut request: Request, meta: &Meta) -> Result<Request, (Fault, Option<String>)> {
    if right == Right::Public {
        return Ok(request);
    }
    let page = !request.uri().path().starts_with("/api/");
    let wanted = request.uri().path_and_query().filter(|_| request.method() == Method::GET).map_or("/", |p| p.as_str());
    let wanted = utf8_percent_encode(wanted, NON_ALPHANUMERIC).to_string();
    let caller = match find(app, request.headers(), meta).await {
        Ok(caller) => caller,
        Err(Fault::SignIn) if page => return Err((Fault::SignIn, Some(wanted))),
        Err(fault) => return Err((fault, None)),
    };
    tracing::Span::current().record("enduser.id", tracing::field::display(caller.user));
    if !caller.has(right) {
        let act = Act::refused("security", "refused by role", "route").error(request.uri().path());
        refuse(app, &caller, meta, act).await;
        return Err((Fault::Forbidden("Your role does not allow this."), None));
    }
    request.extensions_mut().insert(caller.clone());
    if request.method().is_safe() || caller.session.is_none() {
        return Ok(request);
    }
    own_form(request, &caller).await.map_err(|fault| (fault, None))
}

/// Records a refusal; that it could not be recorded is told in the log, and the refusal stands.
async fn refuse(app: &App, caller: &Caller, meta: &Meta, act: Act<'_>) {
    let noted = async { Ok::<_, Fault>(audit::note(&app.connection().await?, Some(caller), meta, act).await?) };
    if let Err(error) = noted.await {
        tracing::error!(%error, "a refusal could not be recorded");
    }
}

async fn find(app: &App, headers: &HeaderMap, meta: &Meta) -> Result<Caller, Fault> {
    if let Some(token) = bearer(headers) {
        return by_token(app, token, meta).await;
    }
    let cookie = cookie(headers, SESSION_COOKIE).ok_or(Fault::SignIn)?;
    let hash = app.sealer.fingerprint("session", cookie.as_bytes());
    let found = sessions::find(&app.connection().await?, &hash).await?.ok_or(Fault::SignIn)?;
    Ok(Caller { csrf: app.sealer.fingerprint("csrf", hash.as_bytes()), session: Some(hash), ..found })
}

/// A program with an ID token of the issuer. Standard users have pages and no API access of this kind.
async fn by_token(app: &App, token: &str, meta: &Meta) -> Result<Caller, Fault> {
    let claims = app.oidc.verify(token).await.map_err(|error| match Fault::from(error) {
        Fault::Unavailable(source) => Fault::Unavailable(source),
        _ => Fault::SignIn,
    })?;
    let caller = users::sign_in(&mut app.connection().await?, &claims).await?;
    if caller.role < Role::PowerUser {
        refuse(app, &caller, meta, Act::refused("security", "refused API access", "route")).await;
        return Err(Fault::Forbidden("API access needs the role power_user or more."));
    }
    Ok(caller)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|h| h.to_str().ok()).flat_map(|h| h.split(';'));
    all.filter_map(|pair| pair.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// A change made with a cookie must come from our own page: the browser says so, and the token in the form or in
/// `X-CSRF-Token` proves it.
async fn own_form(request: Request, caller: &Caller) -> Result<Request, Fault> {
    const FOREIGN: Fault =
        Fault::Forbidden("This form is not from this session. Please go back, reload the page and try again.");
    let site = request.headers().get("sec-fetch-site").and_then(|h| h.to_str().ok());
    if site.is_some_and(|s| s != "same-origin" && s != "none") {
        return Err(FOREIGN);
    }
    let expected = Secret::new(caller.csrf.clone());
    if let Some(token) = request.headers().get("x-csrf-token").and_then(|h| h.to_str().ok()) {
        return if expected.matches(token) { Ok(request) } else { Err(FOREIGN) };
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY).await.map_err(|_| Fault::TooLarge)?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let form = kind.starts_with("application/x-www-form-urlencoded");
    let sent = form && url::form_urlencoded::parse(&body).any(|(k, v)| k == "_csrf" && expected.matches(&v));
    if !sent {
        return Err(FOREIGN);
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}
