//! The one list of all routes, each with the right it needs.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    handler::Handler,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};

use crate::{
    access::{self, Right},
    api,
    app::App,
    fault::{self, Fault},
    pages,
};

/// One route.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub right: Right,
    pub handler: MethodRouter<App>,
}

/// A route; `method` is one of GET, POST, PATCH, DELETE.
pub fn route<H, T>(method: &'static str, path: &'static str, right: Right, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = match method {
        "POST" => MethodFilter::POST,
        "PATCH" => MethodFilter::PATCH,
        "DELETE" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    Route { method, path, right, handler: on(filter, handler) }
}

/// Every route of the application: pages, API, health.
pub fn all() -> Vec<Route> {
    let mut all = pages::routes();
    all.extend(api::routes());
    all
}

/// A request gets an answer in this time; a statement has 10 seconds, and the document's limit is 60.
const LONGEST: Duration = Duration::from_secs(30);

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Fault::TooLong.into_response(),
    }
}

/// The whole application.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for Route { path, right, handler, .. } in all() {
        let guarded = handler.layer(from_fn_with_state((app.clone(), right), access::guard));
        router = router.route(path, guarded);
    }
    router
        .fallback(async || Fault::NotFound.into_response())
        .layer(DefaultBodyLimit::max(access::BODY))
        .layer(from_fn(in_time))
        .layer(from_fn_with_state(app.clone(), fault::render))
        .layer(from_fn(sdk::telemetry::track))
        .with_state(app)
}
