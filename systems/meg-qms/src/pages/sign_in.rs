//! Signing in and out of a region: handed down by the centre, at the stamp's own sign-in, or by the site's directory.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use http::{HeaderMap, StatusCode, header};
use sdk::{
    Secret,
    access::{SESSION_COOKIE, SIGN_IN_COOKIE, cookie, is_from_here, set_cookie},
    oidc::{Callback, local_path},
    seal,
    sign_in::{self, Wanted},
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Fields, Head, ok, page};
use crate::{
    access::{Caller, by_claims},
    app::{App, Part, SIGNED_OUT},
    directory::DirectoryError,
    fault::Fault,
    link::CENTRE,
    store::{sessions, users},
};

/// The purpose under which the ID token is sealed in the session's row.
pub const ID_TOKEN: &str = "session id token";
/// The purpose under which the way back is sealed while the centre is asked.
const HANDED: &str = "handed down";

/// What the browser keeps while the centre is asked.
#[derive(Serialize, Deserialize)]
struct Pending {
    nonce: String,
    back: String,
    /// Unix seconds.
    until: i64,
}

/// Sends the browser to where it signs in: a region's people to the centre, a site's to its directory.
pub async fn start(State(app): State<App>, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    if app.part == Part::Region {
        return up(&app, &wanted.back).await;
    }
    if app.directory.is_some() {
        return ok(&DirectoryPage {
            head: Head::open("Sign in"),
            name: String::new(),
            back: local_path(&wanted.back).to_owned(),
            fault: "",
        });
    }
    here(State(app), Query(wanted)).await
}

async fn up(app: &App, back: &str) -> Result<Response, Fault> {
    let centre = app.links.peer(CENTRE).await.map_err(|error| {
        tracing::warn!(%error, "the centre cannot be asked");
        Fault::Away("The centre that signs you in cannot be reached just now. Whoever is signed in can go on; please try again in a minute.")
    })?;
    let nonce = seal::random_text().map_err(Fault::internal)?;
    let until = jiff::Timestamp::now().as_second() + 600;
    let pending = Pending { nonce, back: local_path(back).to_owned(), until };
    let sealed =
        app.sealer.seal(HANDED, &serde_json::to_vec(&pending).map_err(Fault::internal)?).map_err(Fault::internal)?;
    let mut url = Url::parse(&centre.url).map_err(Fault::internal)?;
    url.set_path("/hand-down");
    url.query_pairs_mut().append_pair("region", &app.name).append_pair("state", &state(app, &pending.nonce));
    let cookies = AppendHeaders([(header::SET_COOKIE, set_cookie(SIGN_IN_COOKIE, &sealed, 600))]);
    Ok((cookies, Redirect::to(url.as_str())).into_response())
}

/// What the centre is told of the browser: nothing that opens anything.
fn state(app: &App, nonce: &str) -> String {
    app.sealer.fingerprint(HANDED, nonce.as_bytes())
}

#[derive(Deserialize)]
pub struct Entering {
    #[serde(default)]
    ticket: String,
}

/// The browser comes back from the centre with a ticket.
pub async fn enter(
    State(app): State<App>,
    Query(entering): Query<Entering>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    const EXPIRED: Fault = Fault::Malformed(
        "This sign-in has expired, was already finished, or was begun elsewhere. Please sign in again.",
    );
    let sealed = cookie(&headers, SIGN_IN_COOKIE).unwrap_or_default();
    let pending = app.sealer.open(HANDED, sealed).map_err(|_| EXPIRED)?;
    let pending: Pending = serde_json::from_slice(&pending).map_err(|_| EXPIRED)?;
    if pending.until < jiff::Timestamp::now().as_second() {
        return Err(EXPIRED);
    }
    let centre = app
        .links
        .peer(CENTRE)
        .await
        .map_err(|_| Fault::Away("The centre's key cannot be read just now. Please try again in a minute."))?;
    let ticket = app.links.admit(&centre, &entering.ticket, &state(&app, &pending.nonce)).map_err(|error| {
        tracing::warn!(event.name = "ticket-refused", %error, "a ticket was refused");
        EXPIRED
    })?;
    let mut connection = app.connection().await?;
    if !sessions::use_ticket(&connection, &ticket.jti).await? {
        tracing::warn!(event.name = "ticket-refused", "a ticket came twice");
        return Err(EXPIRED);
    }
    let visitor = users::Visitor { subject: None, email: &ticket.sub, name: "", roles: None };
    let user = users::sign_in(&mut connection, app.part, &visitor).await?;
    begin(&app, &headers, user.id, None, &pending.back).await
}

/// The stamp's own sign-in: of those who administer a region, and of everybody where there is no centre and no directory.
pub async fn here(State(app): State<App>, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    Ok(sign_in::begin(&app.oidc, &app.sealer, &wanted.back).await?)
}

/// The browser comes back from the stamp's own sign-in.
pub async fn finish(
    State(app): State<App>,
    Query(callback): Query<Callback>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let pending = cookie(&headers, SIGN_IN_COOKIE).unwrap_or_default();
    let signed_in = app.oidc.finish(&app.sealer, &callback, pending).await;
    let signed_in =
        signed_in.inspect_err(|error| tracing::warn!(event.name = "sign-in-failed", %error, "a sign-in failed"))?;
    let user = by_claims(&app, &signed_in.claims).await?;
    let token = app.sealer.seal(ID_TOKEN, signed_in.id_token.as_bytes()).map_err(Fault::internal)?;
    begin(&app, &headers, user.id, Some(&token), &signed_in.return_to).await
}

#[derive(Template)]
#[template(path = "directory.html")]
struct DirectoryPage {
    head: Head,
    name: String,
    back: String,
    fault: &'static str,
}

/// Name and password for the site's directory.
pub async fn by_directory(State(app): State<App>, headers: HeaderMap, fields: Fields) -> Result<Response, Fault> {
    let directory = app.directory.clone().ok_or(Fault::NotFound)?;
    // There is no session yet whose token the form could carry: the browser itself must say that the page is ours.
    if !is_from_here(&headers) {
        return Err(Fault::Forbidden("This form is not from here. Please open the sign-in page again."));
    }
    let (name, password) = (fields.get("name").trim().to_owned(), Secret::new(fields.get("password")));
    let back = local_path(fields.get("return")).to_owned();
    let mut connection = app.connection().await?;
    if users::is_locked(&connection, &name).await? {
        return Err(Fault::TooMany);
    }
    let again = |status, name, fault| {
        page(status, &DirectoryPage { head: Head::open("Sign in"), name, back: back.clone(), fault })
    };
    match directory.sign_in(&name, &password).await {
        Ok(person) => {
            // The directory's own name for the person lasts longer than an address.
            let subject = format!("directory:{}", person.user.to_lowercase());
            let visitor = users::Visitor {
                subject: Some(&subject),
                email: &person.email,
                name: &person.name,
                roles: Some(&person.roles),
            };
            let user = users::sign_in(&mut connection, app.part, &visitor).await?;
            begin(&app, &headers, user.id, None, &back).await
        }
        Err(DirectoryError::Refused) => {
            users::failed(&connection, &name).await?;
            tracing::warn!(event.name = "sign-in-failed", "the directory refused a sign-in");
            again(StatusCode::UNAUTHORIZED, name, "The name or the password is not right.")
        }
        Err(DirectoryError::Incomplete(what)) => {
            tracing::warn!(what, "the directory does not say enough about a person");
            again(StatusCode::FORBIDDEN, name, "The directory has no e-mail address for you. Ask those who keep it.")
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, cause, "the directory is away");
            again(
                StatusCode::SERVICE_UNAVAILABLE,
                name,
                "The hospital's directory does not answer just now, so nobody can sign in. Whoever is signed in can go on. Please try again in a few minutes.",
            )
        }
    }
}

async fn begin(
    app: &App,
    headers: &HeaderMap,
    user: i64,
    id_token: Option<&str>,
    back: &str,
) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    // A new sign-in never continues an older session of this browser.
    if let Some(old) = cookie(headers, SESSION_COOKIE) {
        sessions::end(&connection, &app.sealer.fingerprint("session", old.as_bytes())).await?;
    }
    let session = seal::random_text().map_err(Fault::internal)?;
    let id = app.sealer.fingerprint("session", session.as_bytes());
    sessions::begin(&connection, &id, user, id_token).await?;
    sdk::event!("signed-in", user = user);
    Ok(sign_in::enter(&session, i64::from(sessions::HOURS) * 3600, back))
}

/// Ends the session here, and at the issuer where it came from there.
pub async fn end(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let sealed = match &caller.session {
        Some(id) => sessions::end(&connection, id).await?,
        None => None,
    };
    let token = sealed.and_then(|s| app.sealer.open(ID_TOKEN, &s).ok()).and_then(|t| String::from_utf8(t).ok());
    let next = match token {
        Some(token) => app.oidc.end_session(Some(&token), SIGNED_OUT).await,
        None => None,
    };
    Ok(sign_in::leave(next.as_ref().map_or("/signed-out", |u| u.as_str())))
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOut {
    head: Head,
}

/// Where people come after signing out.
pub async fn signed_out() -> Result<Response, Fault> {
    ok(&SignedOut { head: Head::open("Signed out") })
}
