//! The pages people see: complete without JavaScript, one form per act.

mod admin;
mod bulk;
mod csv;
mod entry;
mod lists;
mod report;
mod sheet;
mod sheet_view;
mod sign_in;

use askama::Template;
use axum::{
    extract::State,
    response::{Html, IntoResponse, Redirect, Response},
};
use http::{StatusCode, header};
use sdk::{fault::WebFault as _, input::Fields};

use crate::{
    access::{Caller, Right},
    app::{App, CALLBACK, SIGNED_OUT},
    fault::Fault,
    routes::{Route, route},
};

const STYLE: &str = include_str!("../../assets/style.css");
const SCRIPT: &str = include_str!("../../assets/grid.js");
const ICON: &str = include_str!("../../assets/icon.svg");
/// Assets change with the program: this is part of their address, and they may be kept for good.
pub const ASSETS: &str = env!("CARGO_PKG_VERSION");

pub use report::Range;

/// All pages.
pub fn routes() -> Vec<Route> {
    use Right::{Admin, Manager, Public, SignedIn, User};
    vec![
        route("GET", "/health", Public, health),
        route("GET", "/health/live", Public, async || "ok"),
        route("GET", "/assets/style.css", Public, async || asset("text/css; charset=utf-8", STYLE)),
        route("GET", "/assets/grid.js", Public, async || asset("text/javascript; charset=utf-8", SCRIPT)),
        route("GET", "/assets/icon.svg", Public, async || asset("image/svg+xml", ICON)),
        route("GET", "/sign-in", Public, sign_in::start),
        route("GET", CALLBACK, Public, sign_in::finish),
        route("GET", SIGNED_OUT, Public, sign_in::signed_out),
        route("POST", "/sign-out", SignedIn, sign_in::end),
        route("GET", "/", User, sheet::current),
        route("GET", "/sheets", User, lists::own),
        route("GET", "/sheets/{id}", User, sheet::show),
        route("GET", "/sheets/{id}/csv", User, csv::sheet),
        route("POST", "/sheets/{id}/grid", User, sheet::save),
        route("POST", "/sheets/{id}/status", User, sheet::act),
        route("POST", "/sheets/{id}/entries", User, entry::add),
        route("GET", "/sheets/{id}/bulk", User, bulk::show),
        route("POST", "/sheets/{id}/bulk", User, bulk::save),
        route("POST", "/sheets/{id}/paste", User, bulk::paste),
        route("GET", "/entries/{id}", User, entry::show),
        route("POST", "/entries/{id}", User, entry::save),
        route("POST", "/entries/{id}/delete", User, entry::delete),
        route("GET", "/reports/project-time", User, report::show),
        route("GET", "/reports/project-time/csv", User, csv::report),
        route("GET", "/approvals", Manager, lists::approvals),
        route("GET", "/admin/projects", Admin, admin::projects),
        route("POST", "/admin/projects", Admin, admin::save_project),
        route("GET", "/admin/work-types", Admin, admin::work_types),
        route("POST", "/admin/work-types", Admin, admin::save_work_type),
        route("GET", "/admin/people", Admin, admin::people),
        route("POST", "/admin/people/{id}", Admin, admin::set_active),
    ]
}

/// What the frame around every page needs.
pub struct Head {
    pub title: String,
    /// None on pages for people who are not signed in.
    pub caller: Option<Caller>,
    /// The part of the navigation that is current.
    pub part: &'static str,
}

impl Head {
    fn new(title: impl Into<String>, caller: &Caller, part: &'static str) -> Head {
        Head { title: title.into(), caller: Some(caller.clone()), part }
    }

    fn csrf(&self) -> &str {
        self.caller.as_ref().map_or("", |c| &c.csrf)
    }

    fn manager(&self) -> bool {
        self.caller.as_ref().is_some_and(Caller::is_manager)
    }

    fn admin(&self) -> bool {
        self.caller.as_ref().is_some_and(Caller::is_admin)
    }

    fn part_is(&self, part: &str) -> bool {
        self.part == part
    }
}

/// A page with a status.
fn page(status: StatusCode, template: &impl Template) -> Result<Response, Fault> {
    Ok((status, Html(template.render().map_err(Fault::internal)?)).into_response())
}

fn ok(template: &impl Template) -> Result<Response, Fault> {
    page(StatusCode::OK, template)
}

/// After a change: 303, so that reloading does not repeat it.
fn see(path: &str) -> Response {
    Redirect::to(path).into_response()
}

#[derive(Template)]
#[template(path = "fault.html")]
struct FaultPage<'a> {
    head: Head,
    status: u16,
    text: &'a str,
    fields: &'a [(String, String)],
    sign_in: bool,
}

/// The page for a fault. Never a stack trace, in no environment.
pub fn fault(fault: &Fault, path: &str) -> Response {
    let status = fault.status();
    let (text, fields) = (fault.to_string(), if let Fault::Invalid(errors) = fault { &errors.0[..] } else { &[] });
    let head = Head { title: text.clone(), caller: None, part: "" };
    let template = FaultPage { head, status: status.as_u16(), text: &text, fields, sign_in: path == CALLBACK };
    let body = template.render().unwrap_or(text.clone());
    (status, Html(body)).into_response()
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=86400")];
    (headers, text).into_response()
}

/// 200 only while the database answers; says nothing else, because anybody may ask.
async fn health(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.database.answers_within(std::time::Duration::from_secs(1)).await {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    }
}

/// The version of what a form shows.
fn version(fields: &Fields) -> Result<i32, Fault> {
    fields.get("version").parse().map_err(|_| Fault::Malformed("The form is not complete. Please reload the page."))
}
