//! The JSON API under `/api/v1`: the same nouns and rules as the pages.
//!
//! Called with `Authorization: Bearer` and an ID token of the issuer for this client, or with the session's cookie and, for
//! changes, the token of `GET /api/v1/me` in `X-CSRF-Token`. Faults are problem+json with a message a field.

mod handlers;
pub mod openapi;

use http::StatusCode;
use serde_json::Value;

use crate::{
    access::Right,
    routes::{Route, route},
};

/// A route with what the OpenAPI document says about it.
pub struct Operation {
    pub route: Route,
    pub summary: &'static str,
    /// The schema of the request's body.
    pub takes: Option<&'static str>,
    /// Names of query parameters.
    pub query: &'static [&'static str],
    pub gives: Gives,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    One(StatusCode, &'static str),
    Many(&'static str),
    Nothing,
}

/// The API's routes, and the document's own.
pub fn routes() -> Vec<Route> {
    let mut all: Vec<Route> = operations().into_iter().map(|o| o.route).collect();
    all.push(route("GET", "/openapi.json", Right::Public, async || axum::Json(openapi::document())));
    all
}

/// Everything the API can do. Both the router and the OpenAPI document come from this list.
pub fn operations() -> Vec<Operation> {
    use Gives::{Many, Nothing, One};
    use Right::{Admin, Manager, User};
    use handlers as h;
    const OK: StatusCode = StatusCode::OK;
    const MADE: StatusCode = StatusCode::CREATED;
    let op = |route, summary, takes, gives| Operation { route, summary, takes, gives, query: &[] };
    let mut all = vec![
        op(route("GET", "/api/v1/me", User, h::me), "Who is calling", None, One(OK, "Me")),
        op(route("GET", "/api/v1/users", Manager, h::users), "All people", None, Many("User")),
        op(
            route("POST", "/api/v1/users", Admin, h::create_user),
            "Add a person before their first sign-in",
            Some("NewUser"),
            One(MADE, "User"),
        ),
        op(route("GET", "/api/v1/users/{id}", Manager, h::user), "One person", None, One(OK, "User")),
        op(
            route("PUT", "/api/v1/users/{id}", Admin, h::change_user),
            "Let a person in or keep them out",
            Some("UserChange"),
            One(OK, "User"),
        ),
        op(route("GET", "/api/v1/projects", User, h::projects), "All projects", None, Many("Project")),
        op(
            route("POST", "/api/v1/projects", Admin, h::create_project),
            "Add a project",
            Some("NewProject"),
            One(MADE, "Project"),
        ),
        op(route("GET", "/api/v1/projects/{code}", User, h::project), "One project", None, One(OK, "Project")),
        op(
            route("PUT", "/api/v1/projects/{code}", Admin, h::change_project),
            "Change a project",
            Some("ProjectChange"),
            One(OK, "Project"),
        ),
        op(route("GET", "/api/v1/work-types", User, h::work_types), "All work types", None, Many("WorkType")),
        op(
            route("POST", "/api/v1/work-types", Admin, h::create_work_type),
            "Add a work type",
            Some("NewWorkType"),
            One(MADE, "WorkType"),
        ),
        op(route("GET", "/api/v1/work-types/{code}", User, h::work_type), "One work type", None, One(OK, "WorkType")),
        op(
            route("PUT", "/api/v1/work-types/{code}", Admin, h::change_work_type),
            "Change a work type",
            Some("WorkTypeChange"),
            One(OK, "WorkType"),
        ),
        op(
            route("GET", "/api/v1/time-sheets", User, h::sheets),
            "The caller's sheets, or for a manager all sheets in a status",
            None,
            Many("TimeSheet"),
        ),
        op(
            route("POST", "/api/v1/time-sheets", User, h::open_sheet),
            "The caller's sheet for a day, made if needed",
            Some("NewTimeSheet"),
            One(OK, "TimeSheet"),
        ),
        op(route("GET", "/api/v1/time-sheets/{id}", User, h::sheet), "One sheet", None, One(OK, "TimeSheet")),
        op(
            route("POST", "/api/v1/time-sheets/{id}/status", User, h::act),
            "Submit, take back, approve, close or reopen a sheet",
            Some("StatusChange"),
            One(OK, "TimeSheet"),
        ),
        op(
            route("GET", "/api/v1/time-sheets/{id}/time-entries", User, h::entries),
            "The entries of a sheet",
            None,
            Many("TimeEntry"),
        ),
        op(
            route("POST", "/api/v1/time-sheets/{id}/time-entries", User, h::add_entry),
            "Add an entry",
            Some("NewTimeEntry"),
            One(MADE, "TimeEntry"),
        ),
        op(route("GET", "/api/v1/time-entries/{id}", User, h::entry), "One entry", None, One(OK, "TimeEntry")),
        op(
            route("PUT", "/api/v1/time-entries/{id}", User, h::change_entry),
            "Change an entry",
            Some("TimeEntryChange"),
            One(OK, "TimeEntry"),
        ),
        op(route("DELETE", "/api/v1/time-entries/{id}", User, h::remove_entry), "Delete an entry", None, Nothing),
        op(
            route("GET", "/api/v1/reports/project-time", User, h::report),
            "Hours by project and person",
            None,
            Many("ReportLine"),
        ),
    ];
    for operation in &mut all {
        operation.query = match (operation.route.method, operation.route.path) {
            ("GET", "/api/v1/time-sheets") => &["status"],
            ("DELETE", "/api/v1/time-entries/{id}") => &["version"],
            ("GET", "/api/v1/reports/project-time") => &["from", "to"],
            _ => &[],
        };
    }
    all
}

/// A list in an object, so that more can be said beside it later.
fn items(list: impl IntoIterator<Item = impl serde::Serialize>) -> Value {
    let list: Vec<Value> = list.into_iter().filter_map(|item| serde_json::to_value(item).ok()).collect();
    serde_json::json!({ "items": list })
}
