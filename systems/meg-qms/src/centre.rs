//! The centre: it signs people in, knows to which region each belongs, and hands them down. It has no other data of theirs.

use askama::Template;
use axum::{
    body::Bytes,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use http::HeaderMap;
use sdk::{
    access::{SESSION_COOKIE, SIGN_IN_COOKIE, cookie},
    oidc::Callback,
    seal,
    sign_in::{Wanted, begin, enter},
};

use crate::{
    access::{Caller, Right, roles},
    app::{App, CALLBACK},
    fault::Fault,
    pages::{self, Head, health, ok, sign_in},
    routes::{Route, route},
    store::{members, sessions},
};

/// All that the centre answers.
pub fn routes() -> Vec<Route> {
    use Right::{Admin, Public, SignedIn};
    vec![
        route("GET", "/health", Public, health),
        route("GET", "/health/live", Public, async || "ok"),
        route("GET", "/sign-in", Public, start),
        route("GET", CALLBACK, Public, finish),
        route("POST", "/sign-out", SignedIn, sign_in::end),
        route("GET", "/", SignedIn, home),
        route("GET", "/api/v1/me", SignedIn, crate::api::me),
        route("GET", "/members", Admin, list),
        route("GET", "/hand-down", SignedIn, hand_down),
        route("GET", "/link/self", Public, face),
        // What comes here carries the key of a link, and a signature of the region it is of.
        route("POST", "/link/users", Public, take),
    ]
}

/// Sends the browser to the issuer.
pub async fn start(State(app): State<App>, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    Ok(begin(&app.oidc, &app.sealer, &wanted.back).await?)
}

/// The browser comes back from the issuer: a session of an hour, of an address.
async fn finish(
    State(app): State<App>,
    Query(callback): Query<Callback>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let pending = cookie(&headers, SIGN_IN_COOKIE).unwrap_or_default();
    let signed_in = app.oidc.finish(&app.sealer, &callback, pending).await?;
    let claims = &signed_in.claims;
    let email = claims.email.as_deref().and_then(crate::domain::email);
    let email = email.ok_or(Fault::Forbidden("Your account has no e-mail address. Ask your administrator."))?;
    if claims.email_verified == Some(false) {
        return Err(Fault::Forbidden("Your e-mail address is not verified. Ask your administrator."));
    }
    let connection = app.connection().await?;
    if let Some(old) = cookie(&headers, SESSION_COOKIE) {
        sessions::end(&connection, &members::key(&app.sealer, old)).await?;
    }
    let session = seal::random_text().map_err(Fault::internal)?;
    let token = app.sealer.seal(sign_in::ID_TOKEN, signed_in.id_token.as_bytes()).map_err(Fault::internal)?;
    let name = claims.name.clone().unwrap_or_else(|| email.clone());
    members::begin(&connection, &members::key(&app.sealer, &session), &email, &name, &roles(&claims.groups), &token)
        .await?;
    sdk::event!("signed-in", at = "centre");
    Ok(enter(&session, 3600, &signed_in.return_to))
}

#[derive(Template)]
#[template(path = "centre.html")]
struct CentrePage {
    head: Head,
    regions: Vec<String>,
}

/// Whoever belongs to a region goes there; who belongs to none is told so.
async fn home(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let region = members::region_of(&app.connection().await?, &caller.email).await?;
    let Some(region) = region else {
        return ok(&CentrePage { regions: app.links.peers(), head: Head::new("No region yet", &caller, "") });
    };
    // The region begins the handing down, so that the ticket is bound to this browser there.
    Ok(Redirect::to(&format!("{}/sign-in", region_url(&app, &region).await?)).into_response())
}

async fn region_url(app: &App, region: &str) -> Result<String, Fault> {
    let face = app.links.peer(region).await.map_err(|error| {
        tracing::warn!(region, %error, "a region cannot be reached");
        Fault::Away("Your region cannot be reached just now. Please try again in a minute.")
    })?;
    Ok(face.url.trim_end_matches('/').to_owned())
}

#[derive(serde::Deserialize)]
pub struct Asked {
    #[serde(default)]
    region: String,
    #[serde(default)]
    state: String,
}

/// A region asks who this browser is. The answer leads to the region that the person belongs to, at the address that the
/// region itself said over its link, and nowhere else.
async fn hand_down(State(app): State<App>, caller: Caller, Query(asked): Query<Asked>) -> Result<Response, Fault> {
    let region = members::region_of(&app.connection().await?, &caller.email).await?;
    let Some(region) = region else {
        return ok(&CentrePage { regions: app.links.peers(), head: Head::new("No region yet", &caller, "") });
    };
    let url = region_url(&app, &region).await?;
    if region != asked.region || asked.state.is_empty() || asked.state.len() > 100 {
        return Ok(Redirect::to(&format!("{url}/sign-in")).into_response());
    }
    let ticket = app.links.ticket(&region, &caller.email, &asked.state).map_err(Fault::internal)?;
    sdk::event!("handed-down", region = region);
    Ok(Redirect::to(&format!("{url}/enter?ticket={ticket}")).into_response())
}

#[derive(Template)]
#[template(path = "members.html")]
struct MembersPage {
    head: Head,
    members: Vec<members::Member>,
}

async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let members = members::list(&app.connection().await?).await?;
    ok(&MembersPage { members, head: Head::new("Who belongs where", &caller, "members") })
}

const NOT: Fault = Fault::Forbidden("This is for stamps that have a link to this one.");

/// What this stamp says of itself, to whoever has a link to it.
pub async fn face(State(app): State<App>, headers: HeaderMap) -> Result<Response, Fault> {
    app.links.caller(&headers).ok_or(NOT)?;
    Ok(axum::Json(app.links.face(&app.url).ok_or(Fault::NotFound)?).into_response())
}

/// A region says something of one of its people.
async fn take(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, Fault> {
    let region = app.links.caller(&headers).ok_or(NOT)?.to_owned();
    let text = std::str::from_utf8(&body).map_err(|_| Fault::Malformed("A statement is a signed text."))?;
    let face = app.links.peer(&region).await.map_err(|_| Fault::Away("The region's key cannot be read just now."))?;
    let record = app.links.record(&face, text).map_err(|error| {
        tracing::warn!(region, %error, "a statement is not acceptable");
        Fault::Forbidden("The statement is not acceptable.")
    })?;
    members::apply(&app.connection().await?, &record).await?;
    Ok(pages::nothing())
}
