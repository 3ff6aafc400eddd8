//! The one list of all routes, each with the right it needs.

use std::time::Duration;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};
pub use sdk::routes::route;

use crate::{
    access::Right,
    api,
    app::{App, Part},
    centre, fault, pages,
};

/// One route.
pub type Route = sdk::routes::Route<App, Right>;

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

/// The whole application.
pub fn router(app: App) -> Router {
    sdk::routes::router(&app, all(app.part), LONGEST)
        .layer(from_fn_with_state(app.clone(), fault::render))
        .layer(from_fn(sdk::telemetry::track))
        .with_state(app)
}
