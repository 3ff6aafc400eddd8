//! Who may call: sessions in cookies, bearer tokens, forms that must be from our own pages, the way to the sign-in.
//!
//! An application says in [`Gate`] who is calling and whether they have the right that a route needs; [`guard`], which
//! [`crate::routes::router`] puts around each route, does the rest.

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    Secret,
    fault::{Common, WebFault},
};

/// The cookie of a session. The `__Host-` prefix makes browsers insist on Secure, on this host and on the whole path.
pub const SESSION_COOKIE: &str = "__Host-session";
/// The cookie of a sign-in under way.
pub const SIGN_IN_COOKIE: &str = "__Host-sign-in";

/// The token of a bearer.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|h| h.to_str().ok()).flat_map(|h| h.split(';'));
    all.filter_map(|pair| pair.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// `Set-Cookie` for so many seconds; 0 ends the cookie. Lax: the way back from a sign-in is a navigation from another site
/// and must carry the cookie.
pub fn set_cookie(name: &str, value: &str, seconds: i64) -> String {
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}")
}

/// Whether the browser says that a request comes from our own page, or says nothing: the session's token must prove it.
pub fn is_from_here(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_none_or(|s| s == "same-origin" || s == "none")
}

/// What an application says of who is calling.
pub trait Gate: Clone + Send + Sync + 'static {
    /// What a route needs.
    type Right: Copy + PartialEq + Send + Sync + 'static;
    /// Who is calling; handlers find it in the request's extensions.
    type Caller: Clone + Send + Sync + 'static;
    type Fault: WebFault;
    /// The right of routes that anybody may call.
    const PUBLIC: Self::Right;
    /// Bytes of a request's body, where a route does not say otherwise.
    const BODY: usize;

    /// Who sends a request.
    ///
    /// # Errors
    /// They are not signed in, or do not have the right.
    fn caller(
        &self,
        right: Self::Right,
        request: &Parts,
    ) -> impl Future<Output = Result<Self::Caller, Self::Fault>> + Send;

    /// The token that a change in the caller's name must carry; None for a bearer, whose token no browser adds by itself.
    fn csrf(caller: &Self::Caller) -> Option<&str>;
}

/// The middleware of every route: finds the caller, checks the right and the origin of changes. A page (what is not under
/// `/api/`) leads whoever is not signed in to `/sign-in`, and from there back.
pub async fn guard<G: Gate>(State((gate, right)): State<(G, G::Right)>, request: Request, next: Next) -> Response {
    if right == G::PUBLIC {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let caller = match gate.caller(right, &parts).await {
        Ok(caller) => caller,
        Err(fault) if fault.status() == StatusCode::UNAUTHORIZED && !parts.uri.path().starts_with("/api/") => {
            return sign_in_first(&parts);
        }
        Err(fault) => return fault.into_response(),
    };
    let csrf = if parts.method.is_safe() { None } else { G::csrf(&caller).map(Secret::new) };
    parts.extensions.insert(caller);
    let request = Request::from_parts(parts, body);
    let request = match csrf {
        Some(csrf) => own_form(request, &csrf, G::BODY).await,
        None => Ok(request),
    };
    match request {
        Ok(request) => next.run(request).await,
        Err(common) => G::Fault::from(common).into_response(),
    }
}

/// To the sign-in, and from there to where somebody wanted to go.
fn sign_in_first(request: &Parts) -> Response {
    let wanted = request.uri.path_and_query().filter(|_| request.method == Method::GET).map_or("/", |p| p.as_str());
    Redirect::to(&format!("/sign-in?return={}", utf8_percent_encode(wanted, NON_ALPHANUMERIC))).into_response()
}

/// A change made with a cookie must come from our own page: the browser says so, and the token in the form's field `_csrf`
/// or in `X-CSRF-Token` proves it. `most` is in bytes.
async fn own_form(request: Request, csrf: &Secret, most: usize) -> Result<Request, Common> {
    const FOREIGN: Common =
        Common::Forbidden("This form is not from this session. Please go back, reload the page and try again.");
    if !is_from_here(request.headers()) {
        return Err(FOREIGN);
    }
    if let Some(token) = request.headers().get("x-csrf-token").and_then(|h| h.to_str().ok()) {
        return if csrf.matches(token) { Ok(request) } else { Err(FOREIGN) };
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, most).await.map_err(|_| Common::TooLarge)?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let form = kind.starts_with("application/x-www-form-urlencoded");
    let sent = form && url::form_urlencoded::parse(&body).any(|(k, v)| k == "_csrf" && csrf.matches(&v));
    if !sent {
        return Err(FOREIGN);
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}
