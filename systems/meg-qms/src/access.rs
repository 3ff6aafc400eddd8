//! Who is calling and what they may do. Every route names the right it needs; there is no route without one.

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, Method, header, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sdk::{Secret, oidc::Claims};

use crate::{
    app::{App, Part},
    domain::ROLES,
    fault::Fault,
    store::{members, sessions, tokens, users},
};

/// Bytes of a request's body, where a route does not say otherwise.
pub const BODY: usize = 256 * 1024;
/// The `__Host-` prefix makes browsers insist on Secure, on this host and on the whole path.
pub const SESSION_COOKIE: &str = "__Host-session";
pub const SIGN_IN_COOKIE: &str = "__Host-sign-in";

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nobody needs to be signed in: health, sign-in, public reports; and what carries a proof of its own.
    Public,
    /// A person who is signed in, with or without a role.
    SignedIn,
    /// A person with any role.
    Staff,
    Auditor,
    Admin,
    /// As staff, and the token of a person's app.
    Feed,
    /// The token of a site's business intelligence, and administrators.
    Bi,
}

/// By what somebody came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Session,
    App,
    Bi,
}

/// A signed-in person, or a program that speaks for one.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user: i64,
    pub name: String,
    pub email: String,
    pub roles: Vec<String>,
    pub scope: Scope,
    /// The session's row, when it came by cookie.
    pub session: Option<String>,
    /// The token that forms carry; empty for a bearer token, which no browser adds by itself.
    pub csrf: String,
}

impl Caller {
    pub fn of_session(user: i64, name: String, email: String, roles: Vec<String>) -> Caller {
        Caller { user, name, email, roles, scope: Scope::Session, session: None, csrf: String::new() }
    }

    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|r| r == "admin")
    }

    /// An administrator may do what an auditor may.
    pub fn is_auditor(&self) -> bool {
        self.is_admin() || self.roles.iter().any(|r| r == "auditor")
    }

    fn has(&self, right: Right) -> bool {
        match (right, self.scope) {
            (Right::Public, _) | (Right::SignedIn, Scope::Session) => true,
            (Right::Feed, Scope::App) | (Right::Staff | Right::Feed, Scope::Session) => !self.roles.is_empty(),
            (Right::Auditor, Scope::Session) => self.is_auditor(),
            (Right::Admin | Right::Bi, Scope::Session) => self.is_admin(),
            (Right::Bi, Scope::Bi) => true,
            _ => false,
        }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Caller, Fault> {
        parts.extensions.get::<Caller>().cloned().ok_or(Fault::SignIn)
    }
}

/// The roles of the stamp's own sign-in, in our words: its groups are called like them.
pub fn roles(groups: &[String]) -> Vec<String> {
    ROLES.iter().filter(|role| groups.iter().any(|g| g == *role)).map(|role| (*role).to_owned()).collect()
}

/// The middleware of every route: finds the caller, checks the right and the origin of changes.
pub async fn guard(State((app, right)): State<(App, Right)>, request: Request, next: Next) -> Response {
    match admit(&app, right, request).await {
        Ok(request) => next.run(request).await,
        Err((Fault::SignIn, Some(path))) => Redirect::to(&format!("/sign-in?return={path}")).into_response(),
        Err((fault, _)) => fault.into_response(),
    }
}

/// The request with its caller; else the fault, and for a page opened by a person where they wanted to go.
async fn admit(app: &App, right: Right, mut request: Request) -> Result<Request, (Fault, Option<String>)> {
    if right == Right::Public {
        return Ok(request);
    }
    let page = !request.uri().path().starts_with("/api/");
    let wanted = request.uri().path_and_query().filter(|_| request.method() == Method::GET).map_or("/", |p| p.as_str());
    let wanted = utf8_percent_encode(wanted, NON_ALPHANUMERIC).to_string();
    let caller = match find(app, request.headers()).await {
        Ok(caller) => caller,
        Err(Fault::SignIn) if page => return Err((Fault::SignIn, Some(wanted))),
        Err(fault) => return Err((fault, None)),
    };
    if !caller.has(right) {
        let text = if caller.scope != Scope::Session {
            "This token is not for this."
        } else if caller.roles.is_empty() {
            "You are signed in, but have no role in MEG QMS yet. Ask your administrator."
        } else {
            "Your role does not allow this."
        };
        return Err((Fault::Forbidden(text), None));
    }
    tracing::Span::current().record("enduser.id", caller.user);
    request.extensions_mut().insert(caller.clone());
    if request.method().is_safe() || caller.session.is_none() {
        return Ok(request);
    }
    own_form(request, &caller).await.map_err(|fault| (fault, None))
}

async fn find(app: &App, headers: &HeaderMap) -> Result<Caller, Fault> {
    if let Some(token) = bearer(headers) {
        return by_token(app, token).await;
    }
    let cookie = cookie(headers, SESSION_COOKIE).ok_or(Fault::SignIn)?;
    let id = app.sealer.fingerprint("session", cookie.as_bytes());
    let connection = app.connection().await?;
    let found = match app.part {
        Part::Centre => members::session(&connection, &id).await?,
        _ => sessions::find(&connection, &id).await?,
    };
    Ok(Caller { csrf: csrf(app, &id), session: Some(id), ..found.ok_or(Fault::SignIn)? })
}

/// The anti-forgery token of a session.
fn csrf(app: &App, session: &str) -> String {
    app.sealer.fingerprint("csrf", session.as_bytes())
}

async fn by_token(app: &App, token: &str) -> Result<Caller, Fault> {
    if app.part == Part::Centre {
        return Err(Fault::SignIn);
    }
    if token.starts_with("meg_") {
        return tokens::find(&app.connection().await?, &app.sealer, token).await?.ok_or(Fault::SignIn);
    }
    let claims: Claims = app.oidc.verify(token).await.map_err(|error| match Fault::from(error) {
        Fault::Unavailable(source) => Fault::Unavailable(source),
        _ => Fault::SignIn,
    })?;
    let user = by_claims(app, &claims).await?;
    Ok(Caller::of_session(user.id, user.name, user.email, user.roles))
}

/// The person whom the stamp's own sign-in names.
///
/// # Errors
/// They are not let in, or no database.
pub async fn by_claims(app: &App, claims: &Claims) -> Result<users::User, Fault> {
    if claims.email_verified == Some(false) {
        return Err(Fault::Forbidden("Your e-mail address is not verified. Ask your administrator."));
    }
    let roles = roles(&claims.groups);
    let email = claims.email.as_deref().unwrap_or_default();
    let visitor = users::Visitor {
        subject: Some(&claims.sub),
        email,
        name: claims.name.as_deref().unwrap_or(email),
        roles: Some(&roles),
    };
    users::sign_in(&mut app.connection().await?, app.part, &visitor).await
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

/// Lax: the way back from a sign-in is a navigation from another site and must carry the cookie.
pub fn set_cookie(name: &str, value: &str, seconds: i64) -> String {
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}")
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
