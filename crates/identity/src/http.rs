//! The routes of the https listener, each with the right it needs. What is not in this table does not exist.

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, StatusCode, header},
    middleware::{from_fn_with_state, map_response},
    response::Response,
    routing::{MethodRouter, get, post},
};

use crate::{
    account, administration, authorize, discovery, logout, outside, pages, sign_in,
    state::App,
    token, userinfo,
    visit::{Right, guard},
    workload,
};

/// What guards a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Public by nature: keys, discovery, the stylesheet.
    Public,
    /// The handler checks a credential of its own: a workload's key, a client's secret, an access token.
    Credential,
    /// A page, guarded by its session and form.
    Page(Right),
}

type Entry = (&'static str, &'static str, Guard, MethodRouter<App>);

fn table() -> Vec<Entry> {
    use Guard::{Credential, Page, Public};
    use Right::{Administrator, Anybody, OwnForm, Person};
    vec![
        ("GET", "/.well-known/openid-configuration", Public, get(discovery::document)),
        ("GET", "/jwks", Public, get(discovery::jwks)),
        ("GET", "/style.css", Public, get(pages::style)),
        ("POST", "/workload/token", Credential, post(workload::token)),
        ("POST", "/token", Credential, post(token::exchange)),
        ("GET", "/userinfo", Credential, get(userinfo::claims)),
        ("POST", "/userinfo", Credential, post(userinfo::claims)),
        ("GET", "/authorize", Page(Anybody), get(authorize::begin)),
        ("POST", "/authorize", Page(Anybody), post(authorize::begin)),
        ("GET", "/logout", Page(Anybody), get(logout::asked)),
        ("POST", "/logout", Page(Anybody), post(logout::asked)),
        ("GET", "/sign-in", Page(OwnForm), get(sign_in::page)),
        ("POST", "/sign-in", Page(OwnForm), post(sign_in::submit)),
        ("GET", "/outside/{issuer}", Page(OwnForm), get(outside::begin)),
        ("GET", "/outside/{issuer}/callback", Page(OwnForm), get(outside::callback)),
        ("GET", "/first", Page(OwnForm), get(sign_in::first_page)),
        ("POST", "/first", Page(OwnForm), post(sign_in::first_submit)),
        ("GET", "/signed-out", Page(OwnForm), get(logout::done)),
        ("POST", "/sign-out", Page(Person), post(logout::submit)),
        ("GET", "/", Page(Person), get(account::home)),
        ("GET", "/account", Page(Person), get(account::page)),
        ("GET", "/account/password", Page(Person), get(account::password_page)),
        ("POST", "/account/password", Page(Person), post(account::password_submit)),
        ("POST", "/account/sessions/end-others", Page(Person), post(account::end_others)),
        ("POST", "/account/sessions/{session}/end", Page(Person), post(account::end_session)),
        ("GET", "/people", Page(Administrator), get(administration::list)),
        ("GET", "/people/new", Page(Administrator), get(administration::new_page)),
        ("POST", "/people/new", Page(Administrator), post(administration::add)),
        ("GET", "/people/{person}", Page(Administrator), get(administration::page)),
        ("POST", "/people/{person}/groups", Page(Administrator), post(administration::groups)),
        ("POST", "/people/{person}/disable", Page(Administrator), post(administration::disable)),
        ("POST", "/people/{person}/enable", Page(Administrator), post(administration::enable)),
        ("POST", "/people/{person}/link", Page(Administrator), post(administration::link)),
        ("POST", "/people/{person}/sessions/{session}/end", Page(Administrator), post(administration::end_session)),
    ]
}

/// Method, path and guard of every route, for the sweep test.
pub fn routes() -> Vec<(&'static str, &'static str, Guard)> {
    table().into_iter().map(|(method, path, guard, _)| (method, path, guard)).collect()
}

/// The https listener's router.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for (_, path, guarded, handler) in table() {
        let handler = match guarded {
            Guard::Public | Guard::Credential => handler,
            Guard::Page(right) => handler.route_layer(from_fn_with_state((app.clone(), right), guard)),
        };
        router = router.route(path, handler);
    }
    router
        .fallback(|| async { service::answer::error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.") })
        .layer(map_response(harden))
        .layer(DefaultBodyLimit::max(64 * 1024))
        .with_state(app)
}

/// Headers of every answer. A page that sets one itself keeps its own.
async fn harden(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}
