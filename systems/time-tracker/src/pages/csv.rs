//! CSV files that a spreadsheet opens without running anything.

use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use http::header;

use super::report::Range;
use crate::{
    access::Caller,
    app::App,
    fault::Fault,
    store::{entries, reports, sheets},
};

/// A field that begins like a formula gets an apostrophe before it, so that a spreadsheet shows it instead of running it.
fn safe(text: &str) -> String {
    let formula = text.trim_start_matches([' ', '\u{a0}']).starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    if formula { format!("'{text}") } else { text.to_owned() }
}

fn file(name: &str, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<Response, Fault> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(header).map_err(Fault::internal)?;
    for row in rows {
        writer.write_record(row.iter().map(|f| safe(f))).map_err(Fault::internal)?;
    }
    let body = writer.into_inner().map_err(|e| Fault::internal(e.into_error()))?;
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.csv\"")),
    ];
    Ok((headers, body).into_response())
}

/// One sheet, an entry a line.
pub async fn sheet(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let sheet = sheets::get(&connection, &caller, id).await?;
    let entries = entries::of(&connection, id).await?;
    let rows = entries.into_iter().map(|e| {
        let (start, end) = e.times.map_or((String::new(), String::new()), |(s, t)| (s.to_string(), t.to_string()));
        vec![sheet.owner.clone(), e.date.to_string(), e.project, e.work_type, start, end, e.hours.to_string(), e.notes]
    });
    let header = ["Person", "Date", "Project", "Work type", "Start", "End", "Hours", "Notes"];
    file(&format!("time-sheet-{}", sheet.period.start), &header, rows)
}

/// The report by project and person.
pub async fn report(State(app): State<App>, caller: Caller, Query(range): Query<Range>) -> Result<Response, Fault> {
    let (from, to) = range.check(app.today()).map_err(Fault::Invalid)?;
    let only = (!caller.is_manager()).then_some(caller.user);
    let lines = reports::by_project(&app.connection().await?, from, to, only).await?;
    let rows = lines.into_iter().map(|l| vec![l.project_code, l.project_name, l.user_name, l.hours.to_string()]);
    file(&format!("project-time-{from}-{to}"), &["Project", "Name", "Person", "Hours"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_never_begins_like_a_formula() {
        for evil in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r\n=cmd"] {
            assert!(safe(evil).starts_with('\''), "{evil:?}");
        }
        assert_eq!(safe("a=b"), "a=b");
        assert_eq!(safe("7.5"), "7.5");
    }
}
