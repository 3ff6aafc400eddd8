//! Where time went: totals by project and person.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use http::StatusCode;
use jiff::{ToSpan, civil::Date};

use super::{Head, page};
use crate::{
    access::Caller,
    app::App,
    domain::{FieldErrors, date},
    fault::Fault,
    store::reports::{self, Line},
};

/// Days in a report at most.
const DAYS: i32 = 1100;

/// A range of days, both included.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Range {
    #[serde(default)]
    pub from: String,
    #[serde(default)]
    pub to: String,
}

impl Range {
    /// The days; this month without any.
    ///
    /// # Errors
    /// A date is not right, or the range is backwards or too long.
    pub fn check(&self, today: Date) -> Result<(Date, Date), FieldErrors> {
        let mut errors = FieldErrors::default();
        let or = |text: &str, default: Date| if text.is_empty() { Ok(default) } else { date(text) };
        let from = errors.take("from", or(&self.from, today.first_of_month()));
        let to = errors.take("to", or(&self.to, today.last_of_month()));
        let (Some(from), Some(to)) = (from, to) else { return Err(errors) };
        if to < from {
            errors.add("to", "The last day comes before the first.");
        } else if to > from.saturating_add(DAYS.days()) {
            errors.add("to", "A report covers three years at most.");
        }
        if errors.is_empty() { Ok((from, to)) } else { Err(errors) }
    }
}

struct Project {
    code: String,
    name: String,
    hours: f64,
    people: Vec<Line>,
    /// Share of the whole, 0 to 100.
    share: String,
}

#[derive(Template)]
#[template(path = "report.html")]
struct ReportPage {
    head: Head,
    range: Range,
    errors: FieldErrors,
    projects: Vec<Project>,
    total: f64,
    everybody: bool,
}

pub async fn show(State(app): State<App>, caller: Caller, Query(range): Query<Range>) -> Result<Response, Fault> {
    let only = (!caller.is_manager()).then_some(caller.user);
    let (range, errors, lines) = match range.check(app.today()) {
        Ok((from, to)) => {
            let lines = reports::by_project(&app.connection().await?, from, to, only).await?;
            (Range { from: from.to_string(), to: to.to_string() }, FieldErrors::default(), lines)
        }
        Err(errors) => (range, errors, Vec::new()),
    };
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let total: f64 = lines.iter().map(|l| l.hours).sum();
    let head = Head::new("Report", &caller, "report");
    page(
        status,
        &ReportPage { head, range, errors, projects: by_project(lines, total), total, everybody: only.is_none() },
    )
}

fn by_project(lines: Vec<Line>, total: f64) -> Vec<Project> {
    let mut projects: Vec<Project> = Vec::new();
    for line in lines {
        match projects.last_mut().filter(|p| p.code == line.project_code) {
            Some(project) => {
                project.hours += line.hours;
                project.people.push(line);
            }
            None => projects.push(Project {
                code: line.project_code.clone(),
                name: line.project_name.clone(),
                hours: line.hours,
                share: String::new(),
                people: vec![line],
            }),
        }
    }
    for project in &mut projects {
        project.share = format!("{:.0}", 100.0 * project.hours / total);
    }
    projects
}
