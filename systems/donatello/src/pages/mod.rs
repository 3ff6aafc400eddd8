//! The pages people see: complete without JavaScript, one form per act; the script only shows progress as it happens.

mod admin;
mod sign_in;
mod spend;
mod studio;

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{Html, IntoResponse, Redirect, Response},
};
use http::{StatusCode, header};
use sdk::{fault::WebFault as _, input::Fields};

use crate::{
    access::{Caller, Right},
    app::{App, CALLBACK, SIGNED_OUT},
    fault::Fault,
    images,
    routes::{Route, route},
    store::generations,
};

const STYLE: &str = include_str!("../../assets/style.css");
const SCRIPT: &str = include_str!("../../assets/studio.js");
const ICON: &str = include_str!("../../assets/icon.svg");
/// Assets change with the program: this is part of their address, and they may be kept for good.
pub const ASSETS: &str = env!("CARGO_PKG_VERSION");

/// All pages.
pub fn routes() -> Vec<Route> {
    use Right::{Manager, OrgAdmin, Public, SuperAdmin, User};
    vec![
        route("GET", "/health", Public, health),
        route("GET", "/health/live", Public, async || "ok"),
        route("GET", "/assets/style.css", Public, async || asset("text/css; charset=utf-8", STYLE)),
        route("GET", "/assets/studio.js", Public, async || asset("text/javascript; charset=utf-8", SCRIPT)),
        route("GET", "/assets/icon.svg", Public, async || asset("image/svg+xml", ICON)),
        route("GET", "/sign-in", Public, sign_in::start),
        route("GET", "/api/v1/auth/login", Public, sign_in::start),
        route("GET", CALLBACK, Public, sign_in::finish),
        route("GET", SIGNED_OUT, Public, sign_in::signed_out),
        route("POST", "/sign-out", User, sign_in::end),
        route("GET", "/", User, studio::show),
        route("POST", "/generate", User, studio::generate),
        route("GET", "/generations/{id}", User, studio::one),
        route("POST", "/generations/{id}/remove", User, studio::remove),
        route("GET", "/history", User, studio::history),
        route("GET", "/images/{name}", User, image),
        route("GET", "/spend", User, spend::show),
        route("GET", "/admin/users", Manager, admin::users),
        route("POST", "/admin/users", Manager, admin::create_user),
        route("POST", "/admin/users/{id}", Manager, admin::change_user),
        route("GET", "/admin/departments", Manager, admin::departments),
        route("POST", "/admin/departments", OrgAdmin, admin::create_department),
        route("POST", "/admin/departments/{id}", Manager, admin::change_department),
        route("GET", "/admin/models", Manager, admin::models),
        route("POST", "/admin/models/{id}", SuperAdmin, admin::switch_model),
        route("GET", "/admin/audit", OrgAdmin, admin::audit),
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

    fn may(&self, right: Right) -> bool {
        self.caller.as_ref().is_some_and(|c| c.has(right))
    }

    fn manager(&self) -> bool {
        self.may(Right::Manager)
    }

    fn org_admin(&self) -> bool {
        self.may(Right::OrgAdmin)
    }

    fn super_admin(&self) -> bool {
        self.may(Right::SuperAdmin)
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
}

/// The page for a fault. Never a stack trace, in no environment.
pub fn fault(fault: &Fault) -> Response {
    let status = fault.status();
    let (text, fields) = (fault.to_string(), if let Fault::Invalid(errors) = fault { &errors.0[..] } else { &[] });
    let head = Head { title: text.clone(), caller: None, part: "" };
    let template = FaultPage { head, status: status.as_u16(), text: &text, fields };
    let body = template.render().unwrap_or(text.clone());
    (status, Html(body)).into_response()
}

/// Kept for the seven days that the document says: the address changes with the program.
fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=604800")];
    (headers, text).into_response()
}

/// 200 only while the database answers; says nothing else, because anybody may ask.
pub async fn health(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.database.answers_within(std::time::Duration::from_secs(1)).await {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    }
}

/// `GET /images/HASH.png`, for whoever may see a generation that it belongs to.
async fn image(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Result<Response, Fault> {
    let hash = name.strip_suffix(".png").unwrap_or_default();
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if hash.len() != 64 || !hash.chars().all(hex) {
        return Err(Fault::NotFound);
    }
    if !generations::may_see(&app.connection().await?, &caller, &format!("/images/{name}")).await? {
        return Err(Fault::NotFound);
    }
    let bytes = app.images.get(hash).await?.ok_or(Fault::NotFound)?;
    let headers = [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, images::CACHE)];
    Ok((headers, bytes).into_response())
}
