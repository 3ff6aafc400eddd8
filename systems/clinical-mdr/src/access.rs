//! Who is calling the API and what they may do. A session is a sealed cookie, so that reading it needs no store: a person stays signed in
//! while members of the graph are lost.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::HeaderMap;
use sdk::{
    Secret,
    access::{SESSION_COOKIE, bearer, cookie, is_from_here},
};
use serde::{Deserialize, Serialize};

use crate::{api::Api, fault::Fault};

/// A session ends after a working day; groups are read anew at the next sign-in.
pub const HOURS: i64 = 10;
const PURPOSE: &str = "session";

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Nobody needs to be signed in: health, sign-in.
    Public,
    /// A person who is signed in, with or without a group.
    SignedIn,
    /// Reads everything.
    Reader,
    /// Makes drafts and studies, and changes them.
    Editor,
    /// Also approves, retires, locks and releases.
    Admin,
}

/// A signed-in person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Person {
    pub id: String,
    pub name: String,
    pub groups: Vec<String>,
    /// Unix seconds.
    pub until: i64,
}

impl Person {
    /// The most that their groups allow.
    pub fn right(&self) -> Right {
        let has = |group: &str| self.groups.iter().any(|g| g == group);
        match () {
            () if has("admin") => Right::Admin,
            () if has("editor") => Right::Editor,
            () if has("reader") => Right::Reader,
            () => Right::SignedIn,
        }
    }
}

/// A person with the token that forms carry; none for a bearer token, which no browser adds by itself.
#[derive(Clone, Debug)]
pub struct Caller {
    pub person: Person,
    pub csrf: Option<String>,
}

impl Api {
    /// The cookie of a session.
    ///
    /// # Errors
    /// It cannot be sealed.
    pub fn session(&self, person: &Person) -> Result<String, Fault> {
        let text = serde_json::to_vec(person).map_err(|e| Fault::Internal(e.to_string()))?;
        self.sealer.seal(PURPOSE, &text).map_err(|e| Fault::Internal(e.to_string()))
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Fault> {
        if let Some(token) = bearer(headers) {
            let claims = self.oidc.verify(token).await?;
            let name = claims.name.clone().or(claims.email.clone()).unwrap_or_else(|| claims.sub.clone());
            let person = Person { id: claims.sub, name, groups: claims.groups, until: i64::MAX };
            return Ok(Caller { person, csrf: None });
        }
        let sealed = cookie(headers, SESSION_COOKIE).ok_or(Fault::SignIn)?;
        let opened = self.sealer.open(PURPOSE, sealed).map_err(|_| Fault::SignIn)?;
        let person: Person = serde_json::from_slice(&opened).map_err(|_| Fault::SignIn)?;
        if person.until <= jiff::Timestamp::now().as_second() {
            return Err(Fault::SignIn);
        }
        Ok(Caller { person, csrf: Some(self.sealer.fingerprint("csrf", sealed.as_bytes())) })
    }
}

/// The middleware of every route: finds the caller, checks the right and the origin of changes.
pub async fn guard(State((api, right)): State<(Api, Right)>, mut request: Request, next: Next) -> Response {
    if right == Right::Public {
        return next.run(request).await;
    }
    let caller = match api.caller(request.headers()).await {
        Ok(caller) => caller,
        Err(fault) => return fault.into_response(),
    };
    if caller.person.right() < right {
        let text = match caller.person.right() {
            Right::SignedIn => {
                "You are signed in, but are in none of the groups reader, editor and admin. Ask your administrator."
            }
            _ => "Your group does not allow this.",
        };
        return Fault::Forbidden(text).into_response();
    }
    if !request.method().is_safe()
        && let Some(csrf) = &caller.csrf
    {
        let token = request.headers().get("x-csrf-token").and_then(|h| h.to_str().ok()).unwrap_or_default();
        if !is_from_here(request.headers()) || !Secret::new(csrf.clone()).matches(token) {
            return Fault::Forbidden("This form is not from this session. Go back, reload the page and try again.")
                .into_response();
        }
    }
    tracing::Span::current().record("enduser.id", &caller.person.id);
    request.extensions_mut().insert(caller);
    next.run(request).await
}
