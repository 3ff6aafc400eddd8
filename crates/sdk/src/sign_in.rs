//! A browser's way through a sign-in: to the issuer, back with a session, and out again. Who the person is, and how a
//! session is kept, is the application's.

use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use http::header;
use serde::Deserialize;

use crate::{
    access::{SESSION_COOKIE, SIGN_IN_COOKIE, set_cookie},
    oidc::{OidcError, RelyingParty, local_path},
    seal::Sealer,
};

/// Seconds in which somebody signs in at the issuer.
const UNDER_WAY: i64 = 600;

/// The query of the address that a sign-in begins at: `?return=/where`.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    /// Where somebody wanted to go; empty if nothing is said.
    #[serde(default, rename = "return")]
    pub back: String,
}

/// Sends the browser to the issuer, and keeps `back` for when it returns.
///
/// # Errors
/// The issuer does not answer.
pub async fn begin(issuer: &RelyingParty, sealer: &Sealer, back: &str) -> Result<Response, OidcError> {
    let start = issuer.start(sealer, back).await?;
    let cookies = AppendHeaders([(header::SET_COOKIE, set_cookie(SIGN_IN_COOKIE, &start.cookie, UNDER_WAY))]);
    Ok((cookies, Redirect::to(start.location.as_str())).into_response())
}

/// Gives the browser a session's cookie for so many seconds, and sends it `back` to a page of ours.
pub fn enter(session: &str, seconds: i64, back: &str) -> Response {
    let cookies = AppendHeaders([
        (header::SET_COOKIE, set_cookie(SESSION_COOKIE, session, seconds)),
        (header::SET_COOKIE, set_cookie(SIGN_IN_COOKIE, "", 0)),
    ]);
    (cookies, Redirect::to(local_path(back))).into_response()
}

/// Takes the session's cookie away, and sends the browser to `next`.
pub fn leave(next: &str) -> Response {
    let cookies = AppendHeaders([(header::SET_COOKIE, set_cookie(SESSION_COOKIE, "", 0))]);
    (cookies, Redirect::to(next)).into_response()
}
