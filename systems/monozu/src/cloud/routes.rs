//! The one list of Cloud's routes, each with the right it needs.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    handler::Handler,
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::MethodRouter,
};
use sdk::routes::on;

use super::{
    App,
    access::{self, Right},
    auth, devices, internal, live, openapi, records, snaps, staff_pages,
};
use crate::{fault::Fault, serve};

/// Bytes of a request's body.
const BODY: usize = 256 * 1024;

/// One route.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub right: Right,
    pub about: &'static str,
    pub handler: MethodRouter<App>,
}

/// A route; `method` is one of GET, POST, PATCH, DELETE.
pub fn route<H, T>(method: &'static str, path: &'static str, right: Right, about: &'static str, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    Route { method, path, right, about, handler: on(method, handler) }
}

/// Every route of Cloud.
pub fn all() -> Vec<Route> {
    use Right::{Admin, Device, InternalOrPublisher, Person, PersonOrDevice, Public, Publisher, Webhook};
    let mut all = vec![
        route("GET", "/health", Public, "Whether the database answers", async |State(app): State<App>| {
            serve::health(&app.database).await
        }),
        route("GET", "/openapi.json", Public, "This description", async || Json(openapi::document())),
        route(
            "POST",
            "/api/v1/auth/register",
            Public,
            "Ask for a tenant; it is pending until Management lets it in",
            auth::register,
        ),
        route("POST", "/api/v1/auth/login", Public, "Sign in with account, e-mail and password", auth::login),
        route("POST", "/api/v1/auth/refresh", Public, "A new access token for the refresh cookie", auth::refresh),
        route("POST", "/api/v1/auth/logout", Person, "End this sign-in", auth::logout),
        route("GET", "/api/v1/me", Person, "Who is calling", auth::me),
        route("GET", "/api/v1/me/features", Person, "The tenant's licence and features", auth::features),
        route("GET", "/api/v1/users", Person, "People of the tenant", records::users),
        route("POST", "/api/v1/users", Admin, "Add a person", records::add_user),
        route("PATCH", "/api/v1/users/{id}", Admin, "Change what a person may do", records::change_user),
        route("GET", "/api/v1/registration-keys", Admin, "Keys that devices register with", devices::keys),
        route(
            "POST",
            "/api/v1/registration-keys",
            Admin,
            "Make a registration key; it is shown once",
            devices::add_key,
        ),
        route("DELETE", "/api/v1/registration-keys/{id}", Admin, "End a registration key", devices::revoke),
        route(
            "POST",
            "/api/v1/devices/register",
            Public,
            "Register a device with a registration key; its key is shown once",
            devices::register,
        ),
        route("GET", "/api/v1/devices", Person, "Devices", devices::list),
        route("GET", "/api/v1/devices/{id}", Person, "One device", devices::one),
        route(
            "POST",
            "/api/v1/devices/{id}/revoke",
            Admin,
            "End a device's key: it was stolen, or is no longer needed",
            devices::revoke,
        ),
        route("GET", "/api/v1/device", Device, "What a device knows of itself", devices::itself),
        route("GET", "/api/v1/events", Person, "What devices sent, the newest first", devices::events),
        route("GET", "/api/v1/security-alerts", Person, "Security alerts, the newest first", devices::alerts),
        route("POST", "/api/v1/security-alerts/{id}/acknowledge", Person, "Somebody looks at it", devices::acknowledge),
        route("GET", "/api/ws/security", Person, "Security alerts as they come (WebSocket)", live::security),
        route("GET", "/api/v1/snaps", PersonOrDevice, "Snaps that the tenant's licence covers", snaps::list),
        route("GET", "/api/v1/snaps/{name}/{version}", PersonOrDevice, "Download a snap", snaps::download),
        route("POST", "/internal/v1/snaps", Publisher, "Publish a snap that lies in the store", snaps::publish),
        route("GET", "/internal/v1/snaps", InternalOrPublisher, "All snaps", snaps::all),
        route(
            "POST",
            "/internal/license/refresh",
            Webhook,
            "Management changed a licence: fetch it",
            internal::refresh,
        ),
        route("GET", "/sign-in", Public, "Staff: sign in with Microsoft", staff_pages::start),
        route("GET", "/signin-oidc", Public, "Staff: come back from the sign-in", staff_pages::finish),
        route(
            "GET",
            "/status",
            Right::Staff,
            "Staff: what is published, and whether Management was told of all",
            staff_pages::status,
        ),
    ];
    all.extend(records::routes());
    all
}

/// All of Cloud.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for Route { path, right, handler, .. } in all() {
        router = router.route(path, handler.layer(from_fn_with_state((app.clone(), right), access::guard)));
    }
    let router = router.fallback(async || Fault::NotFound.into_response());
    serve::dressed(router.layer(DefaultBodyLimit::max(BODY)).with_state(app))
}
