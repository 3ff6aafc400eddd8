//! Signing in and out.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use http::HeaderMap;
use sdk::{
    access::{SESSION_COOKIE, SIGN_IN_COOKIE, cookie},
    fault::WebFault as _,
    oidc::Callback,
    seal,
    sign_in::{self, Wanted},
    telemetry::metrics,
};
use serde_json::json;

use super::{Head, ok};
use crate::{
    access::{Caller, Meta},
    app::{App, SIGNED_OUT},
    audit::{self, Act},
    fault::Fault,
    store::{sessions, users},
};

/// The purpose under which the ID token is sealed in the session's row.
const ID_TOKEN: &str = "session id token";

/// Sends the browser to the issuer.
pub async fn start(State(app): State<App>, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    Ok(sign_in::begin(&app.oidc, &app.sealer, &wanted.back).await?)
}

/// The browser comes back from the issuer.
pub async fn finish(
    State(app): State<App>,
    Query(callback): Query<Callback>,
    meta: Meta,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    match enter(&app, &callback, &meta, &headers).await {
        Ok(response) => Ok(response),
        Err(fault) => {
            tracing::warn!(event.name = "sign-in-failed", fault = fault.kind(), "a sign-in failed");
            metrics().add("sign_ins", 1, &[("result", "failed")]);
            let text = fault.to_string();
            let act = Act::refused("authentication", "sign-in failed", "session").error(&text);
            let noted = async { Ok::<_, Fault>(audit::note(&app.connection().await?, None, &meta, act).await?) };
            if let Err(error) = noted.await {
                tracing::error!(%error, "a failed sign-in could not be recorded");
            }
            Err(fault)
        }
    }
}

async fn enter(app: &App, callback: &Callback, meta: &Meta, headers: &HeaderMap) -> Result<Response, Fault> {
    let pending = cookie(headers, SIGN_IN_COOKIE).unwrap_or_default();
    let signed_in = app.oidc.finish(&app.sealer, callback, pending).await?;
    let mut connection = app.connection().await?;
    let caller = users::sign_in(&mut connection, &signed_in.claims).await?;
    // A new sign-in never continues an older session of this browser.
    if let Some(old) = cookie(headers, SESSION_COOKIE) {
        sessions::end(&connection, &app.sealer.fingerprint("session", old.as_bytes()), "signed in anew").await?;
    }
    let session = seal::random_text().map_err(Fault::internal)?;
    let hash = app.sealer.fingerprint("session", session.as_bytes());
    let token = app.sealer.seal(ID_TOKEN, signed_in.id_token.as_bytes()).map_err(Fault::internal)?;
    sessions::begin(&mut connection, &hash, caller.user, &meta.agent, &token).await?;
    let told = json!({ "role": caller.role.word() });
    audit::note(&connection, Some(&caller), meta, Act::done("authentication", "signed in", "session").with(told))
        .await?;
    metrics().add("sign_ins", 1, &[("result", "ok")]);
    sdk::event!("signed-in", user = %caller.user, role = caller.role.word());
    Ok(sign_in::enter(&session, sessions::COOKIE_SECONDS, &signed_in.return_to))
}

/// Ends the session here and at the issuer.
pub async fn end(State(app): State<App>, caller: Caller, meta: Meta) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let sealed = match &caller.session {
        Some(hash) => sessions::end(&connection, hash, "signed out").await?,
        None => None,
    };
    audit::note(&connection, Some(&caller), &meta, Act::done("authentication", "signed out", "session")).await?;
    sdk::event!("signed-out", user = %caller.user);
    let token = sealed.and_then(|s| app.sealer.open(ID_TOKEN, &s).ok()).and_then(|t| String::from_utf8(t).ok());
    let next = app.oidc.end_session(token.as_deref(), SIGNED_OUT).await;
    Ok(sign_in::leave(next.as_ref().map_or(SIGNED_OUT, |u| u.as_str())))
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
