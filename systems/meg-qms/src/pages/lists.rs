//! Tokens of programs, and what goes on behind the pages: jobs, maintenance, letters, what the feed was sent.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use sdk::database::Queries;

use super::{Fields, Head, ok, see};
use crate::{
    access::Caller,
    app::App,
    fault::Fault,
    store::{
        qips::{self, Letter},
        tokens::{self, Token},
    },
};

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    head: Head,
    tokens: Vec<Token>,
    /// Shown once.
    made: String,
}

async fn tokens_page(app: &App, caller: &Caller, made: String) -> Result<Response, Fault> {
    let whose = (!caller.is_admin()).then_some(caller.user);
    let tokens = tokens::list(&app.connection().await?, whose).await?;
    ok(&TokensPage { head: Head::new("Tokens", caller, "tokens"), tokens, made })
}

pub async fn tokens(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    tokens_page(&app, &caller, String::new()).await
}

pub async fn make_token(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Response, Fault> {
    if fields.get("scope") == "bi" && !caller.is_admin() {
        return Err(Fault::Forbidden("Only administrators make tokens for business intelligence."));
    }
    let made =
        tokens::make(&app.connection().await?, &app.sealer, caller.user, fields.get("name"), fields.get("scope"))
            .await?;
    tokens_page(&app, &caller, made).await
}

pub async fn end_token(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Response, Fault> {
    tokens::revoke(&app.connection().await?, id, (!caller.is_admin()).then_some(caller.user)).await?;
    Ok(see("/tokens"))
}

struct Job {
    name: String,
    status: String,
    attempts: i32,
    result: String,
    at: String,
}

struct Log {
    at: String,
    who: String,
    outcome: String,
    detail: String,
}

#[derive(Template)]
#[template(path = "work.html")]
struct WorkPage {
    head: Head,
    jobs: Vec<Job>,
    runs: Vec<(String, i64, i64)>,
    letters: Vec<Letter>,
    logs: Vec<Log>,
    queue: &'static str,
}

pub async fn work(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let jobs = r#"SELECT "Name", "Status", "Attempts", "Result", to_char(coalesce("EndedAt", "EnqueuedAt"), 'YYYY-MM-DD HH24:MI:SS')
                  FROM "Jobs" ORDER BY coalesce("EndedAt", "EnqueuedAt") DESC LIMIT 30"#;
    let job = |r: &tokio_postgres::Row| Job {
        name: r.get(0),
        status: r.get(1),
        attempts: r.get(2),
        result: r.get(3),
        at: r.get(4),
    };
    let runs = r#"SELECT to_char("EndedAt", 'YYYY-MM-DD HH24:MI:SS'), "Deleted", "Revised" FROM "MaintenanceRuns" ORDER BY "Id" DESC LIMIT 10"#;
    let logs = r#"SELECT to_char(l."At", 'YYYY-MM-DD HH24:MI:SS'), coalesce(u."Name", ''), l."Outcome", l."Detail"
                  FROM "SubmissionLogs" l LEFT JOIN "Users" u ON u."Id" = l."UserId" ORDER BY l."Id" DESC LIMIT 30"#;
    let log = |r: &tokio_postgres::Row| Log { at: r.get(0), who: r.get(1), outcome: r.get(2), detail: r.get(3) };
    let queue = match &app.redis {
        None => "This stamp has no redis: jobs wait.",
        Some(redis) if redis.answers().await => "",
        Some(_) => "Redis does not answer: jobs wait in the database and go on by themselves when it is back.",
    };
    ok(&WorkPage {
        head: Head::new("Behind the pages", &caller, "work"),
        jobs: connection.query(jobs, &[]).await?.iter().map(job).collect(),
        runs: connection.query(runs, &[]).await?.iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect(),
        letters: qips::letters(&connection, None).await?,
        logs: connection.query(logs, &[]).await?.iter().map(log).collect(),
        queue,
    })
}
