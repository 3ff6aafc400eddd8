//! The JSON API under `/api/v1`: the feed of the mobile app, submissions and files, and what a site's business intelligence reads.
//!
//! Called with `Authorization: Bearer` and a token made under *Tokens* (or an ID token of the stamp's sign-in), or with the
//! session's cookie and, for changes, the token of `GET /api/v1/me` in `X-CSRF-Token`. Faults are problem+json.

pub mod openapi;

use axum::{
    Json,
    body::{Bytes, to_bytes},
    extract::{Path, Query, Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use sdk::fault::WebFault as _;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    access::{Caller, Right},
    app::App,
    fault::Fault,
    maintain, media,
    pages::{self, dashboard},
    queue,
    routes::{Route, route},
    store::{dashboard as figures, forms, qips, reports, submissions, tokens, users},
};

/// A route with what the OpenAPI document says about it.
pub struct Operation {
    pub route: Route,
    pub summary: &'static str,
    /// The schema of the request's body, of the answer.
    pub takes: Option<&'static str>,
    pub gives: &'static str,
    pub query: &'static [&'static str],
}

/// The API's routes, and the document's own.
pub fn routes() -> Vec<Route> {
    let mut all: Vec<Route> = operations().into_iter().map(|o| o.route).collect();
    all.push(route("GET", "/openapi.json", Right::Public, async || Json(openapi::document())));
    all
}

/// Everything the API can do. Both the router and the OpenAPI document come from this list.
pub fn operations() -> Vec<Operation> {
    use Right::{Admin, Auditor, Bi, Feed, Staff};
    let op = |route, summary, takes, gives, query| Operation { route, summary, takes, gives, query };
    vec![
        op(route("GET", "/api/v1/me", Right::SignedIn, me), "Who is calling", None, "Me", &[]),
        op(
            route("GET", "/api/v1/feed", Feed, feed),
            "Published forms, wards and the formulary: what an app needs to audit",
            None,
            "Feed",
            &[],
        ),
        op(
            route("POST", "/api/v1/media", Feed, upload),
            "Send a file; `kind` says what it is for",
            None,
            "Media",
            &["kind"],
        ),
        op(
            route("POST", "/api/v1/submissions", Feed, submit),
            "Submit an audit; sent again it is the same one",
            Some("NewSubmission"),
            "Taken",
            &[],
        ),
        op(route("GET", "/api/v1/submissions", Feed, own), "The caller's newest submissions", None, "Lines", &[]),
        op(route("GET", "/api/v1/submissions/{id}", Staff, submission), "One submission", None, "Submission", &[]),
        op(route("GET", "/api/v1/forms", Staff, all_forms), "All forms", None, "Forms", &[]),
        op(route("POST", "/api/v1/forms", Admin, add_form), "Make a form", Some("NewForm"), "Made", &[]),
        op(
            route("POST", "/api/v1/forms/{id}/questions", Admin, add_question),
            "Add a question to a form",
            Some("NewQuestion"),
            "Form",
            &[],
        ),
        op(
            route("GET", "/api/v1/dashboard", Staff, board),
            "Compliance by form, ward and week",
            None,
            "Board",
            &["from", "to", "form"],
        ),
        op(route("GET", "/api/v1/qips", Staff, plans), "All improvement plans", None, "Qips", &[]),
        op(route("POST", "/api/v1/qips", Auditor, add_plan), "Make an improvement plan", Some("NewQip"), "Made", &[]),
        op(
            route("POST", "/api/v1/qips/{id}/media", Staff, attach),
            "Put a file to a plan",
            Some("Attachment"),
            "Nothing",
            &[],
        ),
        op(
            route("POST", "/api/v1/reports", Admin, add_report),
            "Make a public report",
            Some("NewReport"),
            "Nothing",
            &[],
        ),
        op(route("GET", "/api/v1/users", Admin, people), "All people of this region", None, "Users", &[]),
        op(route("POST", "/api/v1/users", Admin, add_person), "Add a person", Some("NewUser"), "User", &[]),
        op(
            route("PUT", "/api/v1/users/{id}", Admin, change_person),
            "Change a person",
            Some("UserChange"),
            "User",
            &[],
        ),
        op(
            route("POST", "/api/v1/tokens", Staff, add_token),
            "Make a token for a program",
            Some("NewToken"),
            "Token",
            &[],
        ),
        op(route("GET", "/api/v1/jobs", Admin, jobs), "The newest jobs and how they ended", None, "Jobs", &[]),
        op(route("GET", "/api/v1/formulary", Feed, formulary), "The formulary", None, "Medicines", &[]),
        op(
            route("POST", "/api/v1/maintenance", Admin, maintenance),
            "Run the maintenance now",
            None,
            "Maintained",
            &[],
        ),
        op(
            route("GET", "/api/v1/bi/compliance", Bi, compliance),
            "Figures for business intelligence, no person in them",
            None,
            "Board",
            &["from", "to", "form"],
        ),
        op(
            route("GET", "/api/v1/bi/qips", Bi, plan_counts),
            "Improvement plans by ward and status, counted",
            None,
            "Counts",
            &[],
        ),
    ]
}

/// A list in an object, so that more can be said beside it later.
fn items(list: impl IntoIterator<Item = impl serde::Serialize>) -> Value {
    let list: Vec<Value> = list.into_iter().filter_map(|item| serde_json::to_value(item).ok()).collect();
    json!({ "items": list })
}

type Answer = Result<Json<Value>, Fault>;

fn value(of: impl serde::Serialize) -> Answer {
    Ok(Json(serde_json::to_value(of).map_err(Fault::internal)?))
}

pub async fn me(State(app): State<App>, caller: Caller) -> Json<Value> {
    Json(
        json!({ "id": caller.user, "name": caller.name, "email": caller.email, "roles": caller.roles, "region": *app.name, "csrfToken": caller.csrf }),
    )
}

async fn feed(State(app): State<App>) -> Answer {
    let connection = app.connection().await?;
    let mut forms = forms::list(&connection, true).await?;
    for photo in forms.iter_mut().flat_map(|f| &mut f.questions).filter_map(|q| q.photo.as_mut()) {
        *photo = app.media.signed(photo);
    }
    let formulary = pages::formulary::active(&connection).await?;
    value(
        json!({ "region": *app.name, "forms": forms, "wards": forms::wards(&connection).await?, "formulary": formulary }),
    )
}

#[derive(Deserialize)]
pub struct Kind {
    #[serde(default)]
    kind: String,
}

async fn upload(
    State(app): State<App>,
    caller: Caller,
    Query(kind): Query<Kind>,
    request: Request,
) -> Result<Response, Fault> {
    let said = request.headers().get(header::CONTENT_TYPE).and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned();
    let body = to_bytes(request.into_body(), media::LARGEST).await.map_err(|_| Fault::TooLarge)?;
    let sorted = media::sort(&kind.kind, &said, &body).map_err(|message| Fault::field("file", &message))?;
    if sorted.address.starts_with("question-photos/") && !caller.is_admin() {
        return Err(Fault::Forbidden("Only administrators send photos of questions."));
    }
    // First the file, then the row that says it is there.
    app.media.keep(&sorted.address, body.to_vec()).await.map_err(|error| Fault::Unavailable(Box::new(error)))?;
    submissions::note_media(&app.connection().await?, caller.user, &sorted, body.len()).await?;
    let told = json!({ "address": sorted.address, "contentType": sorted.content_type, "bytes": body.len(), "url": app.media.signed(&sorted.address) });
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

async fn submit(State(app): State<App>, caller: Caller, body: Bytes) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    let input: submissions::Input = match serde_json::from_slice(&body) {
        Ok(input) => input,
        Err(error) => {
            submissions::log(&connection, caller.user, "", "refused", &error.to_string()).await?;
            return Err(Fault::field("body", &format!("The submission cannot be read: {error}.")));
        }
    };
    let source = if caller.session.is_some() { "web" } else { "app" };
    let taken = match submissions::take(&mut connection, caller.user, source, &input, &body).await {
        Ok(taken) => taken,
        Err(fault) => {
            if !fault.status().is_server_error() {
                let detail = match &fault {
                    Fault::Invalid(errors) => {
                        errors.0.iter().map(|(f, m)| format!("{f}: {m}")).collect::<Vec<_>>().join("; ")
                    }
                    other => other.to_string(),
                };
                submissions::log(&connection, caller.user, &input.id.to_string(), "refused", &detail).await?;
            }
            return Err(fault);
        }
    };
    if let Some(job) = &taken.job {
        dashboard::changed(&app).await;
        queue::offer(app.redis.as_ref(), job).await;
    }
    let status = if taken.again { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(serde_json::to_value(&taken).map_err(Fault::internal)?)).into_response())
}

async fn own(State(app): State<App>, caller: Caller) -> Answer {
    Ok(Json(items(submissions::list(&app.connection().await?, Some(caller.user)).await?)))
}

async fn submission(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Answer {
    let found = submissions::get(&app.connection().await?, id).await?;
    pages::submissions::may_read(&caller, &found)?;
    value(found)
}

async fn all_forms(State(app): State<App>) -> Answer {
    Ok(Json(items(forms::list(&app.connection().await?, false).await?)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewForm {
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    is_published: bool,
}

async fn add_form(State(app): State<App>, caller: Caller, Json(new): Json<NewForm>) -> Result<Response, Fault> {
    let input = forms::FormInput { title: new.title, description: new.description, is_published: new.is_published };
    let id = forms::create(&mut app.connection().await?, caller.user, &input).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewQuestion {
    version: i32,
    text: String,
    kind: String,
    #[serde(default)]
    help: String,
    #[serde(default = "one")]
    weight: i32,
    #[serde(default)]
    is_critical: bool,
    low: Option<f64>,
    high: Option<f64>,
    #[serde(default)]
    choices: Vec<String>,
    photo: Option<String>,
}

fn one() -> i32 {
    1
}

async fn add_question(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Json(new): Json<NewQuestion>,
) -> Result<Response, Fault> {
    let q = forms::QuestionInput {
        id: None,
        text: new.text,
        help: new.help,
        kind: new.kind,
        weight: new.weight,
        is_critical: new.is_critical,
        low: new.low,
        high: new.high,
        choices: new.choices,
        photo: new.photo,
    };
    let mut connection = app.connection().await?;
    forms::put_question(&mut connection, caller.user, id, new.version, &q).await?;
    let form = forms::get(&connection, id).await?;
    Ok((StatusCode::CREATED, Json(serde_json::to_value(form).map_err(Fault::internal)?)).into_response())
}

async fn board(State(app): State<App>, Query(range): Query<dashboard::Range>) -> Answer {
    value(dashboard::figures(&app, &range).await?.1)
}

async fn compliance(State(app): State<App>, Query(range): Query<dashboard::Range>) -> Answer {
    let (from, to, form) = range.check(app.today())?;
    value(figures::board(&app.connection().await?, from, to, form).await?)
}

async fn plans(State(app): State<App>) -> Answer {
    Ok(Json(items(qips::list(&app.connection().await?).await?)))
}

async fn plan_counts(State(app): State<App>) -> Answer {
    let mut counts: std::collections::BTreeMap<(String, String), (i64, i64)> = std::collections::BTreeMap::new();
    for qip in qips::list(&app.connection().await?).await? {
        let count = counts.entry((qip.ward_code, qip.status)).or_default();
        count.0 += 1;
        count.1 += i64::from(qip.is_late);
    }
    let told = counts
        .into_iter()
        .map(|((ward, status), (plans, late))| json!({ "ward": ward, "status": status, "plans": plans, "late": late }));
    Ok(Json(items(told)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewQip {
    title: String,
    #[serde(default)]
    description: String,
    ward: String,
    owner_id: Option<i64>,
    due_on: Option<String>,
    submission_id: Option<Uuid>,
}

async fn add_plan(State(app): State<App>, caller: Caller, Json(new): Json<NewQip>) -> Result<Response, Fault> {
    let due_on = new.due_on.as_deref().map(crate::domain::day).transpose().map_err(|m| Fault::field("dueOn", m))?;
    let input = qips::Input {
        title: new.title,
        description: new.description,
        ward: new.ward,
        owner: new.owner_id,
        due_on,
        status: "plan".into(),
        submission: new.submission_id,
    };
    let id = qips::create(&mut app.connection().await?, Some(caller.user), &app.url, &input).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    address: String,
}

async fn attach(State(app): State<App>, Path(id): Path<i64>, Json(new): Json<Attachment>) -> Result<Response, Fault> {
    qips::attach(&app.connection().await?, id, &new.address).await?;
    Ok(pages::nothing())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewReport {
    slug: String,
    title: String,
    #[serde(default)]
    intro: String,
    form_id: i64,
    first_day: String,
    last_day: String,
    #[serde(default)]
    is_published: bool,
}

async fn add_report(State(app): State<App>, Json(new): Json<NewReport>) -> Result<Response, Fault> {
    let day = |field, text: &str| crate::domain::day(text).map_err(|m| Fault::field(field, m));
    let days = (day("firstDay", &new.first_day)?, day("lastDay", &new.last_day)?);
    let connection = app.connection().await?;
    reports::create(&connection, &new.slug, &new.title, &new.intro, new.form_id, days).await?;
    if new.is_published
        && let Some(report) = reports::list(&connection).await?.iter().find(|r| r.slug == new.slug)
    {
        reports::publish(&connection, report.id, true).await?;
    }
    Ok((StatusCode::CREATED, Json(json!({ "slug": new.slug }))).into_response())
}

async fn people(State(app): State<App>) -> Answer {
    Ok(Json(items(users::list(&app.connection().await?).await?)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewUser {
    email: String,
    name: String,
    #[serde(default)]
    roles: Vec<String>,
}

async fn add_person(State(app): State<App>, Json(new): Json<NewUser>) -> Result<Response, Fault> {
    let user = users::create(&mut app.connection().await?, app.part, &new.email, &new.name, &new.roles).await?;
    Ok((StatusCode::CREATED, Json(serde_json::to_value(user).map_err(Fault::internal)?)).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserChange {
    name: String,
    roles: Vec<String>,
    is_active: bool,
}

async fn change_person(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Json(new): Json<UserChange>,
) -> Answer {
    value(
        users::change(&mut app.connection().await?, app.part, caller.user, id, &new.name, &new.roles, new.is_active)
            .await?,
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    name: String,
    scope: String,
}

async fn add_token(State(app): State<App>, caller: Caller, Json(new): Json<NewToken>) -> Result<Response, Fault> {
    if new.scope == "bi" && !caller.is_admin() {
        return Err(Fault::Forbidden("Only administrators make tokens for business intelligence."));
    }
    let token = tokens::make(&app.connection().await?, &app.sealer, caller.user, &new.name, &new.scope).await?;
    Ok((StatusCode::CREATED, Json(json!({ "token": token }))).into_response())
}

async fn jobs(State(app): State<App>) -> Answer {
    use sdk::database::Queries;
    let sql = r#"SELECT "Id", "Name", "Subject", "Status", "Attempts", "Result" FROM "Jobs" ORDER BY "EnqueuedAt" DESC LIMIT 100"#;
    let rows = app.connection().await?.query(sql, &[]).await?;
    Ok(Json(items(rows.iter().map(|r| {
        json!({ "id": r.get::<_, Uuid>(0), "name": r.get::<_, String>(1), "subject": r.get::<_, String>(2), "status": r.get::<_, String>(3),
                "attempts": r.get::<_, i32>(4), "result": r.get::<_, String>(5) })
    }))))
}

async fn formulary(State(app): State<App>) -> Answer {
    Ok(Json(items(pages::formulary::active(&app.connection().await?).await?)))
}

async fn maintenance(State(app): State<App>) -> Answer {
    let done = maintain::maintain(&app.database, 30).await?;
    value(json!({ "deleted": done.deleted, "revised": done.revised }))
}
