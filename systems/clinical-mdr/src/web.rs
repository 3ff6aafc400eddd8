//! The pages. They hold no key and no credentials: each page is made of what the API answers to the person's own cookie, and each form
//! becomes one call of the API. Complete without JavaScript.

use std::sync::Arc;

use askama::Template;
use axum::{
    Form, Router,
    extract::{Path, RawQuery, State},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sdk::{Settings, SettingsError, Trust, TrustError, https::Client};
use serde_json::{Map, Value, json};
use url::Url;

use crate::{
    domain::KINDS,
    schedule::{Column, Grid},
    serve,
};

const STYLE: &str = include_str!("../assets/style.css");
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Cloning shares everything.
#[derive(Clone)]
pub struct Web {
    api: Arc<Url>,
    client: Client,
}

impl Web {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<Web, WebError> {
        let wrong = SettingsError::Wrong { name: "API_URL", expected: "the address of the API" };
        let api = Url::parse(settings.required("API_URL", "the address of the API")?).map_err(|_| wrong)?;
        Ok(Web { api: Arc::new(api), client: Client::new(&Trust::from_settings(settings, &[])?)? })
    }
}

/// All pages.
pub fn router(web: Web) -> Router {
    let router = Router::new()
        .route("/health", get(async || "healthy"))
        .route("/assets/style.css", get(style))
        .route("/", get(async || Redirect::to("/library")))
        .route(
            "/sign-in",
            get(async |RawQuery(query): RawQuery| Redirect::to(&format!("/api/sign-in?{}", query.unwrap_or_default()))),
        )
        .route("/library", get(library).post(create_item))
        .route("/library/{uid}", get(item))
        .route("/library/{uid}/act", post(act_on_item))
        .route("/studies", get(studies).post(create_study))
        .route("/studies/{uid}", get(study))
        .route("/studies/{uid}/act", post(act_on_study))
        .route("/sign-out", post(sign_out))
        .with_state(web);
    serve::around(router, POLICY)
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "public, max-age=3600")], STYLE)
        .into_response()
}

/// Why there is no page: the API's own words.
enum Refused {
    SignIn,
    Told(StatusCode, Value),
}

impl Refused {
    fn away(error: impl std::fmt::Display) -> Refused {
        tracing::error!(exception.message = %error, "the API cannot be reached");
        let detail = "The part that keeps the definitions cannot be reached. Please try again in a minute.";
        Refused::Told(StatusCode::SERVICE_UNAVAILABLE, json!({ "detail": detail }))
    }
}

/// A call of the API in the name of who sent the request.
struct Call<'a> {
    web: &'a Web,
    headers: &'a HeaderMap,
}

impl Call<'_> {
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        csrf: &str,
    ) -> Result<(Value, HeaderMap), Refused> {
        let url = self.web.api.join(path).map_err(Refused::away)?;
        let mut own = HeaderMap::new();
        for value in self.headers.get_all(header::COOKIE) {
            own.append(header::COOKIE, value.clone());
        }
        // Where the browser says that the form came from: the API judges it.
        for name in ["sec-fetch-site", "traceparent"] {
            if let Some(value) = self.headers.get(name) {
                own.insert(name, value.clone());
            }
        }
        if let Ok(token) = HeaderValue::from_str(csrf) {
            own.insert("x-csrf-token", token);
        }
        let bytes = match body {
            Some(body) => {
                own.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let answer = self.web.client.send(method, &url, own, bytes).await.map_err(Refused::away)?;
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer.status {
            status if status.is_success() => Ok((value, answer.headers)),
            StatusCode::UNAUTHORIZED => Err(Refused::SignIn),
            status => Err(Refused::Told(status, value)),
        }
    }

    async fn get(&self, path: &str) -> Result<Value, Refused> {
        self.send(Method::GET, path, None, "").await.map(|(value, _)| value)
    }
}

/// What the frame around every page needs.
struct Head {
    title: String,
    part: &'static str,
    me: Value,
}

impl Head {
    async fn new(call: &Call<'_>, title: impl Into<String>, part: &'static str) -> Result<Head, Refused> {
        Ok(Head { title: title.into(), part, me: call.get("/api/v1/me").await? })
    }

    fn signed_in(&self) -> bool {
        self.me["id"].is_string()
    }

    fn name(&self) -> &str {
        text(&self.me["name"])
    }

    fn csrf(&self) -> &str {
        text(&self.me["csrfToken"])
    }

    fn edits(&self) -> bool {
        self.me["edits"] == true
    }

    fn decides(&self) -> bool {
        self.me["decides"] == true
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A time of the graph, for people: UTC to the minute.
fn when(value: &Value) -> String {
    let at = value.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or(String::new(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}

fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "fault.html")]
struct FaultPage {
    head: Head,
    detail: String,
    fields: Vec<(String, String)>,
    back: String,
}

fn refuse(refused: Refused, back: &str) -> Response {
    match refused {
        Refused::SignIn => Redirect::to(&format!("/api/sign-in?return={}", segment(back))).into_response(),
        Refused::Told(status, told) => {
            let fields = told["errors"].as_array().map_or(&[][..], Vec::as_slice);
            let fields =
                fields.iter().map(|e| (text(&e["field"]).to_owned(), text(&e["message"]).to_owned())).collect();
            let head = Head { title: "Not done".into(), part: "", me: Value::Null };
            let detail = told["detail"].as_str().unwrap_or("Something went wrong here.").to_owned();
            (status, page(&FaultPage { head, detail, fields, back: back.to_owned() })).into_response()
        }
    }
}

struct Line {
    uid: String,
    kind: String,
    name: String,
    code: String,
    status: String,
    version: String,
    author: String,
    change: String,
    definition: String,
    since: String,
}

fn line(item: &Value) -> Line {
    let own = |key: &str| text(&item[key]).to_owned();
    Line {
        uid: own("uid"),
        kind: own("kind"),
        name: own("name"),
        code: own("code"),
        status: own("status"),
        version: own("version"),
        author: own("author_name"),
        change: own("change"),
        definition: own("definition"),
        since: when(&item["since"]),
    }
}

fn lines(list: &Value) -> Vec<Line> {
    list["items"].as_array().map_or(&[][..], Vec::as_slice).iter().map(line).collect()
}

type Kinds = [(&'static str, &'static str, &'static str); 7];

#[derive(Template)]
#[template(path = "library.html")]
struct LibraryPage {
    head: Head,
    lines: Vec<Line>,
    total: i64,
    page: i64,
    pages: i64,
    kinds: Kinds,
    kind: String,
    status: String,
    q: String,
}

async fn library(State(web): State<Web>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let query = query.unwrap_or_default();
    let call = Call { web: &web, headers: &headers };
    let result = async {
        let head = Head::new(&call, "Library", "library").await?;
        let list = call.get(&format!("/api/v1/library?{query}")).await?;
        let asked: std::collections::BTreeMap<String, String> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let own = |key: &str| asked.get(key).cloned().unwrap_or_default();
        let (total, size) = (list["total"].as_i64().unwrap_or(0), list["size"].as_i64().unwrap_or(50).max(1));
        Ok(page(&LibraryPage {
            head,
            lines: lines(&list),
            total,
            page: list["page"].as_i64().unwrap_or(1),
            pages: (total + size - 1) / size,
            kinds: KINDS,
            kind: own("kind"),
            status: own("status"),
            q: own("q"),
        }))
    };
    result.await.unwrap_or_else(|refused| refuse(refused, &format!("/library?{query}")))
}

struct DiffLine {
    field: String,
    from: String,
    to: String,
}

#[derive(Template)]
#[template(path = "item.html")]
struct ItemPage {
    head: Head,
    item: Line,
    versions: Vec<Line>,
    diff: Vec<DiffLine>,
    from: String,
    to: String,
}

async fn item(
    State(web): State<Web>,
    Path(uid): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let call = Call { web: &web, headers: &headers };
    let path = format!("/api/v1/library/{}", segment(&uid));
    let result = async {
        let found = line(&call.get(&path).await?);
        let head = Head::new(&call, found.name.clone(), "library").await?;
        let versions = lines(&call.get(&format!("{path}/versions")).await?);
        let asked: std::collections::BTreeMap<String, String> =
            url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes()).into_owned().collect();
        let last = versions.first().map_or(String::new(), |v| v.version.clone());
        let before = versions.iter().find(|v| v.version != last).map_or(last.clone(), |v| v.version.clone());
        let from = asked.get("from").cloned().unwrap_or(before);
        let to = asked.get("to").cloned().unwrap_or(last);
        let diff = call.get(&format!("{path}/diff?from={}&to={}", segment(&from), segment(&to))).await?;
        let changes = diff["changes"].as_array().map_or(&[][..], Vec::as_slice);
        let own = |value: &Value| text(value).to_owned();
        let diff = changes
            .iter()
            .map(|c| DiffLine { field: own(&c["field"]), from: own(&c["from"]), to: own(&c["to"]) })
            .collect();
        Ok(page(&ItemPage { head, item: found, versions, diff, from, to }))
    };
    result.await.unwrap_or_else(|refused| refuse(refused, &format!("/library/{}", segment(&uid))))
}

/// A form's fields as the API takes them, and the token that came with them.
fn body_of(fields: Vec<(String, String)>) -> (Value, String, String) {
    let (mut body, mut csrf, mut act) = (Map::new(), String::new(), String::new());
    for (name, value) in fields {
        match name.as_str() {
            "_csrf" => csrf = value,
            "act" => act = value,
            "day" => {
                body.insert(name, value.trim().parse::<i64>().map_or(Value::Null, Value::from));
            }
            "expected" if !value.contains('.') => {
                body.insert(name, value.parse::<i64>().map_or(Value::Null, Value::from));
            }
            "on" => {
                body.insert(name, (value == "true").into());
            }
            _ => {
                body.insert(name, value.into());
            }
        }
    }
    (body.into(), csrf, act)
}

type Fields = Form<Vec<(String, String)>>;

/// One call of the API for a form.
async fn change(
    web: &Web,
    headers: &HeaderMap,
    method: Method,
    path: &str,
    body: &Value,
    csrf: &str,
) -> Result<Value, Refused> {
    Call { web, headers }.send(method, path, Some(body), csrf).await.map(|(value, _)| value)
}

/// After a change: 303, so that reloading does not repeat it.
fn changed(result: Result<Value, Refused>, here: &str) -> Response {
    match result {
        Ok(_) => Redirect::to(here).into_response(),
        Err(refused) => refuse(refused, here),
    }
}

async fn create_item(State(web): State<Web>, headers: HeaderMap, Form(fields): Fields) -> Response {
    let (body, csrf, _) = body_of(fields);
    match change(&web, &headers, Method::POST, "/api/v1/library", &body, &csrf).await {
        Ok(item) => Redirect::to(&format!("/library/{}", segment(text(&item["uid"])))).into_response(),
        Err(refused) => refuse(refused, "/library"),
    }
}

async fn act_on_item(
    State(web): State<Web>,
    Path(uid): Path<String>,
    headers: HeaderMap,
    Form(fields): Fields,
) -> Response {
    let (body, csrf, act) = body_of(fields);
    let (method, end) = match act.as_str() {
        "edit" => (Method::PATCH, ""),
        "approve" => (Method::POST, "/approvals"),
        "new-version" => (Method::POST, "/versions"),
        "retire" => (Method::DELETE, "/activations"),
        "reactivate" => (Method::POST, "/activations"),
        _ => return StatusCode::BAD_REQUEST.into_response(),
    };
    let (path, here) = (format!("/api/v1/library/{}{end}", segment(&uid)), format!("/library/{}", segment(&uid)));
    changed(change(&web, &headers, method, &path, &body, &csrf).await, &here)
}

struct StudyLine {
    uid: String,
    number: String,
    acronym: String,
    title: String,
    status: String,
    version: i64,
}

fn study_line(study: &Value) -> StudyLine {
    let own = |key: &str| text(&study[key]).to_owned();
    let version = study["version"].as_i64().unwrap_or(0);
    StudyLine {
        uid: own("uid"),
        number: own("number"),
        acronym: own("acronym"),
        title: own("title"),
        status: own("status"),
        version,
    }
}

#[derive(Template)]
#[template(path = "studies.html")]
struct StudiesPage {
    head: Head,
    studies: Vec<StudyLine>,
}

async fn studies(State(web): State<Web>, headers: HeaderMap) -> Response {
    let call = Call { web: &web, headers: &headers };
    let result = async {
        let head = Head::new(&call, "Studies", "studies").await?;
        let list = call.get("/api/v1/studies").await?;
        let studies = list["items"].as_array().map_or(&[][..], Vec::as_slice).iter().map(study_line).collect();
        Ok(page(&StudiesPage { head, studies }))
    };
    result.await.unwrap_or_else(|refused| refuse(refused, "/studies"))
}

async fn create_study(State(web): State<Web>, headers: HeaderMap, Form(fields): Fields) -> Response {
    let (body, csrf, _) = body_of(fields);
    match change(&web, &headers, Method::POST, "/api/v1/studies", &body, &csrf).await {
        Ok(study) => Redirect::to(&format!("/studies/{}", segment(text(&study["uid"])))).into_response(),
        Err(refused) => refuse(refused, "/studies"),
    }
}

struct Selected {
    item: String,
    name: String,
    level: String,
    version: String,
}

struct Action {
    at: String,
    author: String,
    kind: String,
    detail: String,
    why: String,
}

struct Cell {
    visit: String,
    name: String,
    on: bool,
}

struct GridRow {
    activity: String,
    name: String,
    version: String,
    cells: Vec<Cell>,
}

fn rows(grid: &Grid) -> Vec<GridRow> {
    let row = |line: &crate::schedule::Line| GridRow {
        activity: line.activity.clone(),
        name: line.name.clone(),
        version: line.version.clone(),
        cells: grid
            .columns
            .iter()
            .zip(&line.at)
            .map(|(column, on)| Cell { visit: column.visit.clone(), name: column.name.clone(), on: *on })
            .collect(),
    };
    grid.lines.iter().map(row).collect()
}

#[derive(Template)]
#[template(path = "study.html")]
struct StudyPage {
    head: Head,
    study: StudyLine,
    revision: i64,
    columns: Vec<Column>,
    rows: Vec<GridRow>,
    objectives: Vec<Selected>,
    epochs: Vec<(String, String)>,
    new_objectives: Vec<Line>,
    new_activities: Vec<Line>,
    trail: Vec<Action>,
}

impl StudyPage {
    /// What every form of this page begins with: the token, what it does, and the revision that the person sees. All three are
    /// the API's or ours and hold nothing that HTML would read.
    fn begin(&self, act: &str) -> String {
        let csrf: String =
            self.head.csrf().chars().filter(|c| c.is_ascii_alphanumeric() || "-_=".contains(*c)).collect();
        format!(
            "<input type=\"hidden\" name=\"_csrf\" value=\"{csrf}\"><input type=\"hidden\" name=\"act\" value=\"{act}\">\
             <input type=\"hidden\" name=\"expected\" value=\"{}\">",
            self.revision
        )
    }
}

async fn study(State(web): State<Web>, Path(uid): Path<String>, headers: HeaderMap) -> Response {
    let call = Call { web: &web, headers: &headers };
    let path = format!("/api/v1/studies/{}", segment(&uid));
    let result = async {
        let found = call.get(&path).await?;
        let head = Head::new(&call, text(&found["title"]), "studies").await?;
        let trail = call.get(&format!("{path}/audit-trail")).await?;
        let (mut new_objectives, mut new_activities) = (Vec::new(), Vec::new());
        if head.edits() && found["status"] == "Draft" {
            new_objectives = lines(&call.get("/api/v1/library?kind=objective&status=Final&size=200").await?);
            new_activities = lines(&call.get("/api/v1/library?kind=activity&status=Final&size=200").await?);
        }
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let own = |value: &Value| text(value).to_owned();
        let selected = |v: &Value| Selected {
            item: own(&v["item"]),
            name: own(&v["name"]),
            level: own(&v["level"]),
            version: own(&v["version"]),
        };
        let action = |v: &Value| Action {
            at: when(&v["at"]),
            author: own(&v["author_name"]),
            kind: own(&v["kind"]),
            detail: own(&v["detail"]),
            why: own(&v["why"]),
        };
        let grid = Grid::of(&found);
        Ok(page(&StudyPage {
            head,
            study: study_line(&found),
            revision: found["revision"].as_i64().unwrap_or(0),
            rows: rows(&grid),
            columns: grid.columns,
            objectives: list(&found["objectives"]).iter().map(selected).collect(),
            epochs: list(&found["epochs"]).iter().map(|e| (own(&e["uid"]), own(&e["name"]))).collect(),
            new_objectives,
            new_activities,
            trail: list(&trail["items"]).iter().map(action).collect(),
        }))
    };
    result.await.unwrap_or_else(|refused| refuse(refused, &format!("/studies/{}", segment(&uid))))
}

async fn act_on_study(
    State(web): State<Web>,
    Path(uid): Path<String>,
    headers: HeaderMap,
    Form(fields): Fields,
) -> Response {
    let (body, csrf, act) = body_of(fields);
    let (method, end) = match act.as_str() {
        "rename" => (Method::PATCH, ""),
        "objective" => (Method::POST, "/objectives"),
        "activity" => (Method::POST, "/activities"),
        "remove" => (Method::DELETE, "/selections"),
        "epoch" => (Method::POST, "/epochs"),
        "visit" => (Method::POST, "/visits"),
        "schedule" => (Method::PUT, "/schedule"),
        "release" => (Method::POST, "/release"),
        "lock" => (Method::POST, "/locks"),
        "unlock" => (Method::DELETE, "/locks"),
        _ => return StatusCode::BAD_REQUEST.into_response(),
    };
    let (path, here) = (format!("/api/v1/studies/{}{end}", segment(&uid)), format!("/studies/{}", segment(&uid)));
    changed(change(&web, &headers, method, &path, &body, &csrf).await, &here)
}

/// Ends the session at the API, then leads to where it is ended at the issuer.
async fn sign_out(State(web): State<Web>, headers: HeaderMap, Form(fields): Fields) -> Response {
    let (_, csrf, _) = body_of(fields);
    let call = Call { web: &web, headers: &headers };
    match call.send(Method::POST, "/api/sign-out", None, &csrf).await {
        Ok((_, answered)) => {
            // The issuer's own end of the session is a page of the issuer; a form of this page may not lead there.
            let mut response = Html(
                "<!doctype html><title>Signed out</title><p>You are signed out here. <a href=\"/\">Sign in again</a>",
            )
            .into_response();
            for value in answered.get_all(header::SET_COOKIE) {
                response.headers_mut().append(header::SET_COOKIE, value.clone());
            }
            response
        }
        Err(refused) => refuse(refused, "/"),
    }
}
