//! The guard of the pages: who visits, by which session, and whether a form is ours. Deny is the default.

use std::{net::IpAddr, sync::Arc};

use api::Secret;
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use service::Peer;

use crate::{
    error::Error,
    form::{self, Params},
    pages,
    people::Person,
    sessions::{self, Session},
    state::App,
    tokens,
};

/// Cookie with the secret of a session.
pub const SESSION: &str = "__Host-session";
/// Cookie that names a browser, so that forms can be bound to it.
pub const BROWSER: &str = "__Host-browser";

/// Cookie of a sign-in that is under way at an outside issuer.
pub const OUTSIDE: &str = "__Host-outside";

/// No form of ours is longer.
const FORM_BYTES: usize = 64 * 1024;

/// What a page asks of its visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Anybody, by GET or by a form of another site: the OIDC endpoints that browsers are sent to.
    Anybody,
    /// Anybody, but a form must be ours.
    OwnForm,
    /// Somebody who has signed in.
    Person,
    /// Somebody in the administrators' group.
    Administrator,
}

/// Who signed in.
#[derive(Clone, Debug)]
pub struct Signed {
    pub session: Session,
    pub person: Person,
    pub administrator: bool,
}

/// One request to a page. Where the route needs a person, [`Signed`] is in the request's extensions as well.
#[derive(Clone)]
pub struct Visit {
    pub address: Option<IpAddr>,
    pub agent: String,
    pub query: Params,
    pub form: Params,
    pub signed: Option<Arc<Signed>>,
    /// Goes into every form.
    pub form_token: String,
    /// The sign-in that is under way at an outside issuer.
    pub outside: Option<String>,
}

/// Judges a request before its page sees it; puts the [`Visit`] into the request's extensions.
pub async fn guard(State((app, right)): State<(App, Right)>, request: Request, next: Next) -> Response {
    match judge(&app, right, request, next).await {
        Ok(answer) if answer.extensions().get::<pages::Said>().is_some() => answer,
        Ok(answer) if answer.status().is_server_error() => pages::fault(&app, answer.status()),
        Ok(answer) => answer,
        Err(error) => {
            let answer = error.into_response();
            pages::fault(&app, answer.status())
        }
    }
}

async fn judge(app: &App, right: Right, request: Request, next: Next) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let cookies = joined_cookies(&parts.headers);
    let Some(query) = Params::parse(parts.uri.query().unwrap_or_default().as_bytes()) else {
        return Ok(pages::refused(app, StatusCode::BAD_REQUEST, "This address names something twice."));
    };
    let posted = parts.method == Method::POST;
    let form = if posted {
        match read_form(&parts.headers, body).await {
            Some(form) => form,
            None => return Ok(pages::refused(app, StatusCode::BAD_REQUEST, "This form could not be read.")),
        }
    } else {
        Params::default()
    };

    let session_secret = form::cookie(&cookies, SESSION).map(str::to_owned);
    let signed = match session_secret {
        None => None,
        Some(secret) => {
            let (hash, now) = (tokens::hash(&secret), app.now());
            app.store.run(move |db| sessions::live(db, &hash, now)).await?
        }
    };
    let signed = signed.map(|(session, person)| {
        let group = app.settings.load().admin_group.clone();
        let administrator = !group.is_empty() && person.groups.contains(&group);
        Arc::new(Signed { administrator, session, person })
    });

    let known = form::cookie(&cookies, BROWSER).filter(|value| value.len() == 43).map(str::to_owned);
    let browser = known.clone().unwrap_or_else(|| Secret::random().expose().to_owned());
    let form_token = app.form_token(&browser, signed.as_ref().map(|s| s.session.id.as_str()));

    if posted && right != Right::Anybody {
        let foreign = parts.headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        // Without the cookie there is nothing a form could have been bound to.
        if foreign || known.is_none() || !form_token.matches(form.text("form")) {
            return Ok(pages::refused(
                app,
                StatusCode::FORBIDDEN,
                "This form is out of date, so nothing was changed. Go back, load the page again and send it once more.",
            ));
        }
    }
    match (right, &signed) {
        (Right::Anybody | Right::OwnForm, _) | (Right::Person, Some(_)) => {}
        (Right::Administrator, Some(signed)) if signed.administrator => {}
        (Right::Administrator, Some(_)) => {
            return Ok(pages::refused(app, StatusCode::FORBIDDEN, "Only administrators may see this page."));
        }
        (Right::Person | Right::Administrator, None) if posted => {
            return Ok(pages::refused(app, StatusCode::UNAUTHORIZED, "You are signed out. Sign in and try again."));
        }
        (Right::Person | Right::Administrator, None) => return Ok(see_other("/sign-in")),
    }

    let agent = parts.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let visit = Visit {
        address: parts.extensions.get::<Peer>().and_then(|peer| peer.address).map(|a| a.ip()),
        agent: agent.chars().take(300).collect(),
        query,
        form,
        signed,
        form_token: form_token.expose().to_owned(),
        outside: form::cookie(&cookies, OUTSIDE).map(str::to_owned),
    };
    let mut request = Request::from_parts(parts, Body::empty());
    if let (Right::Person | Right::Administrator, Some(signed)) = (right, &visit.signed) {
        request.extensions_mut().insert(signed.clone());
    }
    request.extensions_mut().insert(Arc::new(visit));
    let mut answer = next.run(request).await;
    if known.is_none() {
        // A browser that comes with no cookie is named, for the forms on this page.
        append_cookie(&mut answer, BROWSER, &browser, None);
    }
    Ok(answer)
}

fn joined_cookies(headers: &HeaderMap) -> String {
    // HTTP/2 may split the header.
    let all: Vec<&str> = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).collect();
    all.join("; ")
}

async fn read_form(headers: &HeaderMap, body: Body) -> Option<Params> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bytes = to_bytes(body, FORM_BYTES).await.ok()?;
    if bytes.is_empty() {
        return Some(Params::default());
    }
    let named = kind.split(';').next().unwrap_or_default().trim();
    named.eq_ignore_ascii_case("application/x-www-form-urlencoded").then(|| Params::parse(&bytes)).flatten()
}

/// Adds a cookie that only this host gets back, over TLS, out of reach of scripts. `seconds` none: until the browser
/// ends; 0 deletes it.
pub fn append_cookie(answer: &mut Response, name: &str, value: &str, seconds: Option<i64>) {
    let life = seconds.map(|s| format!("; Max-Age={s}")).unwrap_or_default();
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax{life}");
    if let Ok(mut value) = HeaderValue::try_from(text) {
        value.set_sensitive(true);
        answer.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// 303 to one of our own pages, or to a redirect URI that was matched exactly.
pub fn see_other(target: &str) -> Response {
    match HeaderValue::try_from(target) {
        Ok(value) => {
            let mut answer = StatusCode::SEE_OTHER.into_response();
            answer.headers_mut().insert(header::LOCATION, value);
            answer
        }
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}
