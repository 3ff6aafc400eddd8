//! The pages people see. They work without JavaScript but for sending files, which a script does.

mod audit;
pub mod dashboard;
mod forms;
pub mod formulary;
mod lists;
mod people;
mod qips;
mod reports;
pub mod sign_in;
pub mod submissions;

use askama::Template;
use axum::{
    extract::State,
    response::{Html, IntoResponse, Redirect, Response},
};
use http::StatusCode;
use sdk::{fault::WebFault as _, input::Fields};

use crate::{
    access::{Caller, Right},
    app::{App, CALLBACK, Part},
    centre,
    fault::Fault,
    routes::{Route, route},
    statics,
};

/// All pages of a region, or of a site that stands alone.
pub fn routes(part: Part) -> Vec<Route> {
    use Right::{Admin, Auditor, Public, SignedIn, Staff};
    let mut all = vec![
        route("GET", "/health", Public, health),
        route("GET", "/health/live", Public, async || "ok"),
        route("GET", "/sign-in", Public, sign_in::start),
        route("GET", "/sign-in/here", Public, sign_in::here),
        route("GET", CALLBACK, Public, sign_in::finish),
        route("POST", "/sign-out", SignedIn, sign_in::end),
        route("GET", "/signed-out", Public, sign_in::signed_out),
        route("GET", "/", Staff, dashboard::show),
        route("GET", "/audit", Staff, audit::choose),
        route("GET", "/audit/{id}", Staff, audit::show),
        route("POST", "/audit/{id}", Staff, audit::save),
        route("GET", "/submissions", Staff, submissions::list),
        route("GET", "/submissions/{id}", Staff, submissions::show),
        route("GET", "/qips", Staff, qips::board),
        route("POST", "/qips", Auditor, qips::create),
        route("GET", "/qips/{id}", Staff, qips::show),
        route("POST", "/qips/{id}", Staff, qips::change),
        route("POST", "/qips/{id}/notes", Staff, qips::say),
        route("GET", "/forms", Admin, forms::list),
        route("POST", "/forms", Admin, forms::create),
        route("GET", "/forms/{id}", Admin, forms::show),
        route("POST", "/forms/{id}", Admin, forms::change),
        route("POST", "/forms/{id}/questions", Admin, forms::put_question),
        route("POST", "/forms/{id}/questions/{question}/remove", Admin, forms::remove_question),
        route("GET", "/admin/reports", Admin, reports::list),
        route("POST", "/admin/reports", Admin, reports::create),
        route("POST", "/admin/reports/{id}", Admin, reports::publish),
        route("GET", "/reports/{slug}", Public, reports::show),
        route("GET", "/admin/people", Admin, people::list),
        route("POST", "/admin/people", Admin, people::create),
        route("POST", "/admin/people/{id}", Admin, people::change),
        route("GET", "/admin/work", Admin, lists::work),
        route("GET", "/formulary", Staff, formulary::show),
        route("GET", "/tokens", Staff, lists::tokens),
        route("POST", "/tokens", Staff, lists::make_token),
        route("POST", "/tokens/{id}/end", Staff, lists::end_token),
    ];
    if part == Part::Region {
        all.push(route("GET", "/enter", Public, sign_in::enter));
        all.push(route("GET", "/link/self", Public, centre::face));
    } else {
        all.push(route("POST", "/sign-in", Public, sign_in::by_directory));
    }
    all
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
    pub fn new(title: impl Into<String>, caller: &Caller, part: &'static str) -> Head {
        Head { title: title.into(), caller: Some(caller.clone()), part }
    }

    pub fn open(title: impl Into<String>) -> Head {
        Head { title: title.into(), caller: None, part: "" }
    }

    pub fn csrf(&self) -> &str {
        self.caller.as_ref().map_or("", |c| &c.csrf)
    }

    pub fn admin(&self) -> bool {
        self.caller.as_ref().is_some_and(Caller::is_admin)
    }

    pub fn auditor(&self) -> bool {
        self.caller.as_ref().is_some_and(Caller::is_auditor)
    }

    /// People at the centre have no number here, and no pages.
    pub fn regional(&self) -> bool {
        self.caller.as_ref().is_some_and(|c| c.user > 0)
    }

    pub fn is(&self, part: &str) -> bool {
        self.part == part
    }

    pub fn version(&self) -> &'static str {
        statics::version()
    }
}

/// A page.
pub fn ok(template: &impl Template) -> Result<Response, Fault> {
    page(StatusCode::OK, template)
}

fn page(status: StatusCode, template: &impl Template) -> Result<Response, Fault> {
    Ok((status, Html(template.render().map_err(Fault::internal)?)).into_response())
}

/// After a change: 303, so that reloading does not repeat it.
fn see(path: &str) -> Response {
    Redirect::to(path).into_response()
}

/// Done, and nothing to say.
pub fn nothing() -> Response {
    (StatusCode::OK, axum::Json(serde_json::json!({}))).into_response()
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
    let sign_in = [CALLBACK, "/enter", "/sign-in", "/hand-down"].contains(&path);
    let template = FaultPage { head: Head::open(text.clone()), status: status.as_u16(), text: &text, fields, sign_in };
    let body = template.render().unwrap_or(text.clone());
    (status, Html(body)).into_response()
}

/// 200 only while the database answers; says nothing else, because anybody may ask.
pub async fn health(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.database.answers_within(std::time::Duration::from_secs(1)).await {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    }
}

/// A file as pages show it.
pub struct File {
    pub url: String,
    pub name: String,
    pub photo: bool,
    pub audio: bool,
}

impl File {
    fn of(app: &App, address: &str) -> File {
        let name = address.rsplit('/').next().unwrap_or_default();
        let kind = crate::media::content_type(address).unwrap_or_default();
        File {
            url: app.media.signed(address),
            name: format!("{}….{}", &name[..name.len().min(8)], name.rsplit('.').next().unwrap_or_default()),
            photo: kind.starts_with("image/"),
            audio: kind.starts_with("audio/"),
        }
    }
}
