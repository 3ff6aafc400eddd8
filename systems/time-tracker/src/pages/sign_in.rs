//! Signing in and out.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use http::HeaderMap;
use sdk::{
    access::{SESSION_COOKIE, SIGN_IN_COOKIE, cookie},
    oidc::Callback,
    seal,
    sign_in::{Wanted, begin, enter, leave},
    telemetry::metrics,
};

use super::{Head, ok};
use crate::{
    access::Caller,
    app::{App, SIGNED_OUT},
    fault::Fault,
    store::{sessions, users},
};

/// The purpose under which the ID token is sealed in the session's row.
const ID_TOKEN: &str = "session id token";

/// Sends the browser to the issuer.
pub async fn start(State(app): State<App>, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    Ok(begin(&app.oidc, &app.sealer, &wanted.back).await?)
}

/// The browser comes back from the issuer.
pub async fn finish(
    State(app): State<App>,
    Query(callback): Query<Callback>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let pending = cookie(&headers, SIGN_IN_COOKIE).unwrap_or_default();
    let signed_in = app.oidc.finish(&app.sealer, &callback, pending).await;
    let signed_in = signed_in.inspect_err(|error| {
        tracing::warn!(event.name = "sign-in-failed", error = %error, "a sign-in failed");
        metrics().add("sign_ins", 1, &[("result", "failed")]);
    })?;
    let roles = app.role_names.roles(&signed_in.claims.groups);
    let mut connection = app.connection().await?;
    let user = users::sign_in(&mut connection, &signed_in.claims, &roles).await?;
    // A new sign-in never continues an older session of this browser.
    if let Some(old) = cookie(&headers, SESSION_COOKIE) {
        sessions::end(&connection, &app.sealer.fingerprint("session", old.as_bytes())).await?;
    }
    let session = seal::random_text().map_err(Fault::internal)?;
    let id = app.sealer.fingerprint("session", session.as_bytes());
    let token = app.sealer.seal(ID_TOKEN, signed_in.id_token.as_bytes()).map_err(Fault::internal)?;
    sessions::begin(&connection, &id, user.id, &roles, &token).await?;
    sessions::measure(&connection).await?;
    metrics().add("sign_ins", 1, &[("result", "ok")]);
    sdk::event!("signed-in", user = user.id, roles = roles.join(","));
    Ok(enter(&session, i64::from(sessions::HOURS) * 3600, &signed_in.return_to))
}

/// Ends the session here and at the issuer.
pub async fn end(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let sealed = match &caller.session {
        Some(id) => sessions::end(&connection, id).await?,
        None => None,
    };
    sessions::measure(&connection).await?;
    sdk::event!("signed-out", user = caller.user);
    let token = sealed.and_then(|s| app.sealer.open(ID_TOKEN, &s).ok()).and_then(|t| String::from_utf8(t).ok());
    let next = app.oidc.end_session(token.as_deref(), SIGNED_OUT).await;
    Ok(leave(next.as_ref().map_or(SIGNED_OUT, |u| u.as_str())))
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOut {
    head: Head,
}

/// Where the issuer sends people after signing out.
pub async fn signed_out() -> Result<Response, Fault> {
    ok(&SignedOut { head: Head { title: "Signed out".into(), caller: None, part: "" } })
}
