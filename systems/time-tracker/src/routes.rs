//! The one list of all routes, each with the right it needs.

use std::time::Duration;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};
pub use sdk::routes::route;

use crate::{access::Right, api, app::App, fault, pages};

/// One route.
pub type Route = sdk::routes::Route<App, Right>;

/// Every route of the application: pages, API, health.
pub fn all() -> Vec<Route> {
    let mut all = pages::routes();
    all.extend(api::routes());
    all
}

/// A request gets an answer in this time. A statement has 10 seconds, so the database's own limit comes first.
const LONGEST: Duration = Duration::from_secs(15);

/// The whole application.
pub fn router(app: App) -> Router {
    sdk::routes::router(&app, all(), LONGEST)
        .layer(from_fn_with_state(app.clone(), fault::render))
        .layer(from_fn(sdk::telemetry::track))
        .with_state(app)
}
