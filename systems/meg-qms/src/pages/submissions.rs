//! Submissions: the list, and one with its photos and recordings.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use uuid::Uuid;

use super::{File, Head, ok};
use crate::{
    access::Caller,
    app::App,
    fault::Fault,
    store::submissions::{self, Line, Submission},
};

/// Auditors read all submissions, others their own; what is not theirs does not exist for them.
///
/// # Errors
/// It is not theirs.
pub fn may_read(caller: &Caller, submission: &Submission) -> Result<(), Fault> {
    if caller.is_auditor() || submission.user == caller.user { Ok(()) } else { Err(Fault::NotFound) }
}

#[derive(Template)]
#[template(path = "submissions.html")]
struct ListPage {
    head: Head,
    lines: Vec<Line>,
    everybody: bool,
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let everybody = caller.is_auditor();
    let lines = submissions::list(&app.connection().await?, (!everybody).then_some(caller.user)).await?;
    ok(&ListPage { head: Head::new("Submissions", &caller, "submissions"), lines, everybody })
}

struct Shown {
    answer: submissions::Answer,
    files: Vec<File>,
}

#[derive(Template)]
#[template(path = "submission.html")]
struct OnePage {
    head: Head,
    submission: Submission,
    answers: Vec<Shown>,
    files: Vec<File>,
}

pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, Fault> {
    let mut submission = submissions::get(&app.connection().await?, id).await?;
    may_read(&caller, &submission)?;
    let files = |list: &[String]| list.iter().map(|a| File::of(&app, a)).collect::<Vec<_>>();
    let all = std::mem::take(&mut submission.answers);
    ok(&OnePage {
        head: Head::new(submission.line.form.clone(), &caller, "submissions"),
        files: files(&submission.media),
        answers: all.into_iter().map(|answer| Shown { files: files(&answer.media), answer }).collect(),
        submission,
    })
}
