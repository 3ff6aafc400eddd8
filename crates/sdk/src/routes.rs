//! The one list of an application's routes, each with the right it needs, so that a test can sweep it and a document can be
//! made from it.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    handler::Handler,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{self, MethodFilter, MethodRouter},
};

use crate::{
    access::{Gate, guard},
    fault::Common,
};

/// One route of an application whose handlers have `S` at hand; `R` are its rights.
pub struct Route<S, R> {
    pub method: &'static str,
    pub path: &'static str,
    pub right: R,
    pub handler: MethodRouter<S>,
}

/// A route; `method` is as for [`on`].
pub fn route<S, R, H, T>(method: &'static str, path: &'static str, right: R, handler: H) -> Route<S, R>
where
    S: Clone + Send + Sync + 'static,
    H: Handler<T, S>,
    T: 'static,
{
    Route { method, path, right, handler: on(method, handler) }
}

/// A handler of one method: GET, POST, PUT, PATCH or DELETE; any other word is GET.
pub fn on<S, H, T>(method: &str, handler: H) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
    H: Handler<T, S>,
    T: 'static,
{
    let filter = match method {
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "PATCH" => MethodFilter::PATCH,
        "DELETE" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    routing::on(filter, handler)
}

/// All routes, each behind its right; what is not there is a fault as well. A request gets an answer within `longest`.
pub fn router<G: Gate>(gate: &G, routes: Vec<Route<G, G::Right>>, longest: Duration) -> Router<G> {
    let mut router = Router::new();
    for Route { path, right, handler, .. } in routes {
        router = router.route(path, handler.layer(from_fn_with_state((gate.clone(), right), guard::<G>)));
    }
    router
        .fallback(async || G::Fault::from(Common::NotFound).into_response())
        .layer(DefaultBodyLimit::max(G::BODY))
        .layer(from_fn(move |request: Request, next: Next| in_time::<G>(longest, request, next)))
}

async fn in_time<G: Gate>(longest: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(longest, next.run(request)).await {
        Ok(response) => response,
        Err(_) => G::Fault::from(Common::TooLong).into_response(),
    }
}
