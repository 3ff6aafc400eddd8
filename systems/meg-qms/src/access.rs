//! Who is calling and what they may do. Every route names the right it needs; there is no route without one.

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use sdk::{
    access::{Gate, SESSION_COOKIE, bearer, cookie},
    oidc::Claims,
};

use crate::{
    app::{App, Part},
    domain::ROLES,
    fault::Fault,
    store::{members, sessions, tokens, users},
};

/// Bytes of a request's body, where a route does not say otherwise.
pub const BODY: usize = 256 * 1024;

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

impl Gate for App {
    type Right = Right;
    type Caller = Caller;
    type Fault = Fault;
    const PUBLIC: Right = Right::Public;
    const BODY: usize = BODY;

    async fn caller(&self, right: Right, request: &Parts) -> Result<Caller, Fault> {
        let caller = find(self, &request.headers).await?;
        if !caller.has(right) {
            let text = if caller.scope != Scope::Session {
                "This token is not for this."
            } else if caller.roles.is_empty() {
                "You are signed in, but have no role in MEG QMS yet. Ask your administrator."
            } else {
                "Your role does not allow this."
            };
            return Err(Fault::Forbidden(text));
        }
        tracing::Span::current().record("enduser.id", caller.user);
        Ok(caller)
    }

    fn csrf(caller: &Caller) -> Option<&str> {
        caller.session.is_some().then_some(caller.csrf.as_str())
    }
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
