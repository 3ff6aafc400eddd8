//! Who is calling and what they may do. Every route names the right it needs; there is no route without one.

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use sdk::access::{Gate, SESSION_COOKIE, bearer, cookie};
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
    /// What [`crate::fault::render`] found out, so that it is one id all the way.
    fn of_request(request: &Parts) -> Meta {
        request.extensions.get::<Meta>().cloned().unwrap_or_else(|| Meta::of(&request.headers))
    }

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
        Ok(Meta::of_request(parts))
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Caller, Fault> {
        parts.extensions.get::<Caller>().cloned().ok_or(Fault::SignIn)
    }
}

impl Gate for App {
    type Right = Right;
    type Caller = Caller;
    type Fault = Fault;
    const PUBLIC: Right = Right::Public;
    const BODY: usize = BODY;

    async fn caller(&self, right: Right, request: &Parts) -> Result<Caller, Fault> {
        let meta = Meta::of_request(request);
        let caller = find(self, &request.headers, &meta).await?;
        tracing::Span::current().record("enduser.id", tracing::field::display(caller.user));
        if !caller.has(right) {
            let act = Act::refused("security", "refused by role", "route").error(request.uri.path());
            refuse(self, &caller, &meta, act).await;
            return Err(Fault::Forbidden("Your role does not allow this."));
        }
        Ok(caller)
    }

    fn csrf(caller: &Caller) -> Option<&str> {
        caller.session.is_some().then_some(caller.csrf.as_str())
    }
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
