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
    app::{App, Part},
    centre,
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

/// A route; `method` is one of GET, POST, PUT, DELETE.
pub fn route<H, T>(method: &'static str, path: &'static str, right: Right, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = match method {
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "DELETE" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    Route { method, path, right, handler: on(filter, handler) }
}

/// Every route of a part. The centre has few: what it does not have it cannot give away.
pub fn all(part: Part) -> Vec<Route> {
    if part == Part::Centre {
        return centre::routes();
    }
    let mut all = pages::routes(part);
    all.extend(api::routes());
    all
}

/// A request gets an answer in this time. A statement has 10 seconds, so the database's own limit comes first; a
/// recording of 16 MiB comes over a slow line in the rest.
const LONGEST: Duration = Duration::from_secs(20);

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Fault::TooLong.into_response(),
    }
}

/// The whole application.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for Route { path, right, handler, .. } in all(app.part) {
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
