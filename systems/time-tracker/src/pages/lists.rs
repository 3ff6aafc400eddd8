//! Lists of sheets: one's own, and those that wait for a manager.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{Head, ok, sheet_view};
use crate::{
    access::Caller,
    app::App,
    domain::Status,
    fault::Fault,
    store::sheets::{self, Sheet},
};

struct Item {
    id: i64,
    version: i32,
    owner: String,
    own: bool,
    title: String,
    hours: String,
    status: &'static str,
    class: &'static str,
}

fn item(sheet: Sheet, caller: &Caller) -> Item {
    Item {
        id: sheet.id,
        version: sheet.version,
        own: sheet.user == caller.user,
        title: sheet_view::title(&sheet),
        hours: sheet.total.to_string(),
        status: sheet.status.as_str(),
        class: sheet_view::status_class(sheet.status),
        owner: sheet.owner,
    }
}

#[derive(Template)]
#[template(path = "sheets.html")]
struct SheetsPage {
    head: Head,
    sheets: Vec<Item>,
}

pub async fn own(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let sheets = sheets::of(&app.connection().await?, caller.user).await?;
    let sheets = sheets.into_iter().map(|s| item(s, &caller)).collect();
    ok(&SheetsPage { head: Head::new("My sheets", &caller, "sheets"), sheets })
}

#[derive(Template)]
#[template(path = "approvals.html")]
struct ApprovalsPage {
    head: Head,
    submitted: Vec<Item>,
    approved: Vec<Item>,
}

pub async fn approvals(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let mut lists = Vec::new();
    for status in [Status::Submitted, Status::Approved] {
        let sheets = sheets::in_status(&connection, status).await?;
        lists.push(sheets.into_iter().map(|s| item(s, &caller)).collect::<Vec<_>>());
    }
    let approved = lists.pop().unwrap_or_default();
    let submitted = lists.pop().unwrap_or_default();
    ok(&ApprovalsPage { head: Head::new("Approvals", &caller, "approvals"), submitted, approved })
}
