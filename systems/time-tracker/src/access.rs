//! Who is calling and what they may do. Every route names the right it needs; there is no route without one.

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use sdk::{
    Settings, SettingsError,
    access::{Gate, SESSION_COOKIE, bearer, cookie},
    oidc::Claims,
};

use crate::{
    app::App,
    fault::Fault,
    store::{sessions, users},
};

/// Bytes of a request's body.
pub const BODY: usize = 256 * 1024;

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nobody needs to be signed in: health, sign-in, style sheets.
    Public,
    /// A person who is signed in, with or without a role.
    SignedIn,
    /// A person with any role.
    User,
    Manager,
    Admin,
}

/// The groups of the issuer that stand for the roles.
pub struct RoleNames {
    user: String,
    manager: String,
    admin: String,
}

impl RoleNames {
    /// `OIDC_GROUP_USER`, `OIDC_GROUP_MANAGER`, `OIDC_GROUP_ADMIN`; without them the groups are called like the roles.
    ///
    /// # Errors
    /// An unresolved vault reference.
    pub fn from_settings(settings: &Settings) -> Result<RoleNames, SettingsError> {
        let name = |variable, default: &str| Ok(settings.optional(variable)?.unwrap_or(default).to_owned());
        Ok(RoleNames {
            user: name("OIDC_GROUP_USER", "user")?,
            manager: name("OIDC_GROUP_MANAGER", "manager")?,
            admin: name("OIDC_GROUP_ADMIN", "admin")?,
        })
    }

    /// The roles of these groups, in our words.
    pub fn roles(&self, groups: &[String]) -> Vec<String> {
        let pairs = [(&self.user, "user"), (&self.manager, "manager"), (&self.admin, "admin")];
        pairs.iter().filter(|(group, _)| groups.contains(group)).map(|(_, role)| (*role).to_owned()).collect()
    }
}

/// A signed-in person.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user: i64,
    pub name: String,
    pub email: String,
    pub roles: Vec<String>,
    /// The session's row, when it came by cookie.
    pub session: Option<String>,
    /// The token that forms carry; empty for a bearer token, which no browser adds by itself.
    pub csrf: String,
}

impl Caller {
    /// An administrator may do what a manager may.
    pub fn is_manager(&self) -> bool {
        self.roles.iter().any(|r| r == "manager" || r == "admin")
    }

    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|r| r == "admin")
    }

    fn has(&self, right: Right) -> bool {
        match right {
            Right::Public | Right::SignedIn => true,
            Right::User => !self.roles.is_empty(),
            Right::Manager => self.is_manager(),
            Right::Admin => self.is_admin(),
        }
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
        let caller = find(self, &request.headers).await?;
        if !caller.has(right) {
            let text = if caller.roles.is_empty() {
                "You are signed in, but have no role in Time Tracker yet. Ask your administrator."
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
    let found = sessions::find(&app.connection().await?, &id).await?.ok_or(Fault::SignIn)?;
    Ok(Caller { csrf: csrf(app, &id), session: Some(id), ..found })
}

/// The anti-forgery token of a session.
fn csrf(app: &App, session: &str) -> String {
    app.sealer.fingerprint("csrf", session.as_bytes())
}

async fn by_token(app: &App, token: &str) -> Result<Caller, Fault> {
    let claims: Claims = app.oidc.verify(token).await.map_err(|error| match Fault::from(error) {
        Fault::Unavailable(source) => Fault::Unavailable(source),
        _ => Fault::SignIn,
    })?;
    let roles = app.role_names.roles(&claims.groups);
    let mut connection = app.connection().await?;
    let user = users::sign_in(&mut connection, &claims, &roles).await?;
    Ok(Caller { user: user.id, name: user.name(), email: user.email, roles, session: None, csrf: String::new() })
}
