//! The HTML pages. Every one works without a script; the only other resource is one stylesheet of our own.

use std::sync::LazyLock;

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::{error::Error, people::Person, sessions::Session, state::App, visit::Visit};

const STYLE: &str = include_str!("../templates/style.css");

/// Changes with the stylesheet, so that browsers may keep it.
static STYLE_VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = crate::tokens::hash(STYLE);
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
});

/// What surrounds every page.
pub struct Frame {
    /// The system's title.
    pub title: String,
    pub style: &'static str,
    /// The name of who is signed in.
    pub name: Option<String>,
    pub administrator: bool,
    pub form_token: String,
}

impl Frame {
    pub fn of(app: &App, visit: &Visit) -> Self {
        let frame = Self::bare(app);
        Self {
            name: visit.signed.as_ref().map(|s| s.person.name.clone()),
            administrator: visit.signed.as_ref().is_some_and(|s| s.administrator),
            form_token: visit.form_token.clone(),
            ..frame
        }
    }

    fn bare(app: &App) -> Self {
        Self {
            title: app.settings.load().title.clone(),
            style: STYLE_VERSION.as_str(),
            name: None,
            administrator: false,
            form_token: String::new(),
        }
    }

    /// The letter on the stamp.
    pub fn letter(&self) -> String {
        self.title.chars().next().map(|c| c.to_uppercase().collect()).unwrap_or_default()
    }
}

#[derive(Template)]
#[template(path = "sign_in.html")]
pub struct SignIn {
    pub frame: Frame,
    /// The application that asked, if one did.
    pub client: Option<String>,
    pub email: String,
    /// The query of the authorisation request that waits.
    pub authorize: String,
    pub fault: Option<String>,
    /// Outside issuers: where their button leads, and what it says.
    pub outside: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "first.html")]
pub struct First {
    pub frame: Frame,
    pub person: Person,
    pub token: String,
    pub fault: Option<String>,
}

#[derive(Template)]
#[template(path = "message.html")]
pub struct Message {
    pub frame: Frame,
    pub heading: String,
    pub sentence: String,
    /// Address and words of a link.
    pub link: Option<(&'static str, &'static str)>,
}

#[derive(Template)]
#[template(path = "sign_out.html")]
pub struct SignOut {
    pub frame: Frame,
}

/// An application that people can go to.
pub struct Application {
    pub title: String,
    pub address: String,
}

/// One session as it is shown.
pub struct SessionRow {
    pub id: String,
    pub browser: String,
    pub address: String,
    pub started: String,
    pub seen: String,
    /// The one the page is looked at with.
    pub this: bool,
}

#[derive(Template)]
#[template(path = "account.html")]
pub struct Account {
    pub frame: Frame,
    pub person: Person,
    pub applications: Vec<Application>,
    pub sessions: Vec<SessionRow>,
    pub notice: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "password.html")]
pub struct Password {
    pub frame: Frame,
    pub email: String,
    pub fault: Option<String>,
}

#[derive(Template)]
#[template(path = "people.html")]
pub struct People {
    pub frame: Frame,
    pub people: Vec<Person>,
    pub active: usize,
}

/// A group that a box on a form stands for.
pub struct GroupBox {
    pub name: String,
    pub checked: bool,
}

#[derive(Template)]
#[template(path = "person_new.html")]
pub struct PersonNew {
    pub frame: Frame,
    pub email: String,
    pub name: String,
    pub groups: Vec<GroupBox>,
    pub fault: Option<String>,
}

#[derive(Template)]
#[template(path = "person.html")]
pub struct PersonPage {
    pub frame: Frame,
    pub person: Person,
    pub created: String,
    pub groups: Vec<GroupBox>,
    pub sessions: Vec<SessionRow>,
    /// A first-sign-in link, shown this once.
    pub link: Option<String>,
    pub notice: Option<&'static str>,
    pub fault: Option<String>,
}

/// Renders a page. `leads_to` is an origin that its forms may lead on to, as the redirect URI of a client.
pub fn page(status: StatusCode, template: &impl Template, leads_to: Option<&str>) -> Result<Response, Error> {
    let body = template.render()?;
    let mut answer = (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response();
    // Browsers hold redirects after a form against `form-action`, hence the client's origin.
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{}{}; frame-ancestors 'none'; base-uri 'none'",
        if leads_to.is_some() { " " } else { "" },
        leads_to.unwrap_or_default(),
    );
    if let Ok(value) = HeaderValue::try_from(policy) {
        answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, value);
    }
    Ok(answer)
}

/// The origin of a registered URI, for a policy.
pub fn origin(uri: &str) -> Option<String> {
    url::Url::parse(uri).ok().map(|url| url.origin().ascii_serialization())
}

/// A page that says no in one sentence.
pub fn refused(app: &App, status: StatusCode, sentence: &str) -> Response {
    let link = match status {
        StatusCode::UNAUTHORIZED => Some(("/sign-in", "Sign in")),
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Some(("/account", "Go to your account")),
        _ => None,
    };
    message(app, status, "This did not work", sentence, link)
}

/// Marks a page that says itself what is not available.
#[derive(Clone, Copy)]
pub struct Said;

/// A page for what somebody else is needed for who does not answer.
pub fn unavailable(app: &App, sentence: &str) -> Response {
    let again = Some(("/sign-in", "Back to sign-in"));
    let mut answer = message(app, StatusCode::SERVICE_UNAVAILABLE, "Not available just now", sentence, again);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
    answer.extensions_mut().insert(Said);
    answer
}

/// A page for a fault of ours.
pub fn fault(app: &App, status: StatusCode) -> Response {
    let sentence = "Something on our side failed, and nothing was changed. Wait a moment, then try again.";
    message(app, status, "Not available just now", sentence, None)
}

fn message(
    app: &App,
    status: StatusCode,
    heading: &str,
    sentence: &str,
    link: Option<(&'static str, &'static str)>,
) -> Response {
    let message = Message { frame: Frame::bare(app), heading: heading.into(), sentence: sentence.into(), link };
    page(status, &message, None).unwrap_or_else(|_| status.into_response())
}

pub async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "public, max-age=86400")];
    (headers, STYLE).into_response()
}

/// A moment for people, in UTC.
pub fn moment(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s)
        .map(|at| at.strftime("%-d %B %Y, %H:%M UTC").to_string())
        .unwrap_or_else(|_| "at an unknown time".into())
}

/// A day for people, in UTC.
pub fn day(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s)
        .map(|at| at.strftime("%-d %B %Y").to_string())
        .unwrap_or_else(|_| "at an unknown time".into())
}

/// Sessions as they are shown to a visitor.
pub fn session_rows(sessions: Vec<Session>, visit: &Visit) -> Vec<SessionRow> {
    let own = visit.signed.as_ref().map(|signed| signed.session.id.as_str());
    sessions
        .into_iter()
        .map(|session| SessionRow {
            this: own == Some(session.id.as_str()),
            browser: browser(&session.agent),
            address: session.address,
            started: moment(session.started_s),
            seen: moment(session.seen_s),
            id: session.id,
        })
        .collect()
}

/// What a `User-Agent` says, in words people know.
fn browser(agent: &str) -> String {
    let first =
        |table: &[(&str, &'static str)]| table.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, name)| *name);
    // The order matters: most browsers claim to be others as well.
    let browser = first(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = first(&[
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Android", "Android"),
        ("Windows", "Windows"),
        ("Mac OS", "Mac"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) => "Unknown browser".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_named_as_people_know_them() {
        let chrome =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36";
        assert_eq!(browser(chrome), "Chrome on Linux");
        assert_eq!(
            browser("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1"),
            "Safari on iPhone"
        );
        assert_eq!(browser(""), "Unknown browser");
    }

    #[test]
    fn the_stylesheet_needs_nothing_from_elsewhere() {
        assert!(!STYLE.contains("@import") && !STYLE.contains("url("));
    }
}
