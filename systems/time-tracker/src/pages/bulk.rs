//! Entering many days at once: one kind of work over chosen days, or pasted lines.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;

use super::{Fields, Head, ok, page, see, sheet_view};
use crate::{
    access::Caller,
    app::App,
    domain::{EntryInput, EntryValues, FieldErrors, Period},
    fault::Fault,
    store::{
        catalog::{self, Item, Kind},
        entries, sheets,
    },
};

/// Pasted lines at most.
const LINES: usize = 200;

struct Choice {
    date: String,
    label: String,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "bulk.html")]
struct BulkPage {
    head: Head,
    sheet: i64,
    title: String,
    days: Vec<Choice>,
    form: EntryInput,
    errors: FieldErrors,
    projects: Vec<Item>,
    work_types: Vec<Item>,
    pasted: String,
    paste_errors: Vec<(String, String)>,
}

#[derive(Default)]
struct Shown {
    form: EntryInput,
    errors: FieldErrors,
    chosen: Option<Vec<String>>,
    pasted: String,
    paste_errors: Vec<(String, String)>,
}

async fn view(app: &App, caller: &Caller, id: i64, shown: Shown) -> Result<BulkPage, Fault> {
    let connection = app.connection().await?;
    let sheet = sheets::get(&connection, caller, id).await?;
    if !sheet.takes_entries_of(caller) {
        return Err(Fault::Forbidden("Time can be entered in your own open sheet only."));
    }
    let active = |items: Vec<Item>| items.into_iter().filter(|i| i.is_active).collect();
    let days = sheet.period.days().into_iter().map(|day| {
        let date = day.to_string();
        let weekday = day.weekday().to_monday_zero_offset() < 5;
        let chosen = shown.chosen.as_ref().map_or(weekday, |all| all.contains(&date));
        Choice { label: day.strftime("%a %-d").to_string(), chosen, date }
    });
    Ok(BulkPage {
        head: Head::new("Enter many days", caller, "sheet"),
        sheet: id,
        title: sheet_view::title(&sheet),
        days: days.collect(),
        form: shown.form,
        errors: shown.errors,
        projects: active(catalog::list(&connection, Kind::Project).await?),
        work_types: active(catalog::list(&connection, Kind::WorkType).await?),
        pasted: shown.pasted,
        paste_errors: shown.paste_errors,
    })
}

pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Response, Fault> {
    ok(&view(&app, &caller, id, Shown::default()).await?)
}

/// The same work on several days.
pub async fn save(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let text = |name: &str| fields.get(name).to_owned();
    let form = EntryInput {
        project: text("project"),
        work_type: text("work_type"),
        hours: text("hours"),
        notes: text("notes"),
        ..EntryInput::default()
    };
    let mut days: Vec<String> = fields.all("day");
    days.sort();
    days.dedup();
    days.truncate(14);
    let mut connection = app.connection().await?;
    let sheet = sheets::get(&connection, &caller, id).await?;
    let mut errors = FieldErrors::default();
    let mut values = Vec::new();
    if days.is_empty() {
        errors.add("day", "Choose at least one day.");
    }
    for day in &days {
        match (EntryInput { date: day.clone(), ..form.clone() }).check(sheet.period) {
            Ok(value) => values.push(value),
            Err(found) if errors.is_empty() => errors = found,
            Err(_) => {}
        }
    }
    let result = if errors.is_empty() {
        entries::add(&mut connection, &caller, id, &values).await.map(drop)
    } else {
        Err(Fault::Invalid(errors))
    };
    drop(connection);
    match result {
        Ok(()) => Ok(see(&format!("/sheets/{id}?saved=1"))),
        Err(Fault::Invalid(errors)) => {
            let plain =
                |(field, message): (String, String)| (field.rsplit('.').next().unwrap_or_default().to_owned(), message);
            let errors = FieldErrors(errors.0.into_iter().map(plain).collect());
            let shown = Shown { form, errors, chosen: Some(days), ..Shown::default() };
            page(StatusCode::BAD_REQUEST, &view(&app, &caller, id, shown).await?)
        }
        Err(other) => Err(other),
    }
}

/// Lines of `date, project, work type, hours, notes`.
pub async fn paste(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let pasted = fields.get("lines").to_owned();
    let mut connection = app.connection().await?;
    let sheet = sheets::get(&connection, &caller, id).await?;
    let result = match lines(&pasted, sheet.period) {
        Ok(values) => {
            entries::add(&mut connection, &caller, id, &values.iter().map(|(_, v)| v.clone()).collect::<Vec<_>>())
                .await
                .map(drop)
                .map_err(|fault| match fault {
                    Fault::Invalid(errors) => Fault::Invalid(FieldErrors(
                        errors.0.into_iter().map(|(f, m)| (line_of(&f, &values), m)).collect(),
                    )),
                    other => other,
                })
        }
        Err(errors) => Err(Fault::Invalid(errors)),
    };
    drop(connection);
    match result {
        Ok(()) => Ok(see(&format!("/sheets/{id}?saved=1"))),
        Err(Fault::Invalid(errors)) => {
            let shown = Shown { pasted, paste_errors: errors.0, ..Shown::default() };
            page(StatusCode::BAD_REQUEST, &view(&app, &caller, id, shown).await?)
        }
        Err(other) => Err(other),
    }
}

/// `3.hours` of the values in the words of the pasted text: `Line 5`.
fn line_of(field: &str, values: &[(usize, EntryValues)]) -> String {
    let index = field.split('.').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    values.get(index).map_or("Lines".to_owned(), |(line, _)| format!("Line {line}"))
}

/// Reads pasted lines; tabs, semicolons or commas stand between the parts. Each value comes with its line number.
fn lines(text: &str, period: Period) -> Result<Vec<(usize, EntryValues)>, FieldErrors> {
    let mut errors = FieldErrors::default();
    let mut values = Vec::new();
    let filled = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    for (i, line) in filled {
        let number = i + 1;
        if values.len() >= LINES {
            errors.add(&format!("Line {number}"), "This is the 201st line; paste 200 at most.");
            break;
        }
        let mark = ['\t', ';', ','].into_iter().find(|m| line.matches(*m).count() >= 3);
        let Some(mark) = mark else {
            errors.add(
                &format!("Line {number}"),
                "Write date, project, work type and hours, with commas, semicolons or tabs between.",
            );
            continue;
        };
        let parts: Vec<&str> = line.splitn(5, mark).map(str::trim).collect();
        let part = |n: usize| parts.get(n).copied().unwrap_or_default().to_owned();
        let input = EntryInput {
            date: part(0),
            project: part(1),
            work_type: part(2),
            hours: part(3),
            notes: part(4),
            ..EntryInput::default()
        };
        match input.check(period) {
            Ok(value) => values.push((number, value)),
            Err(found) => found.0.into_iter().for_each(|(_, m)| errors.add(&format!("Line {number}"), m)),
        }
    }
    if values.is_empty() && errors.is_empty() {
        errors.add("Lines", "Paste at least one line.");
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period() -> Period {
        Period::of(jiff::civil::date(2026, 11, 17)).unwrap()
    }

    #[test]
    fn lines_are_read_with_tabs_semicolons_or_commas() {
        let text = "2026-11-16\tINTERNAL\tDEV\t7,5\tfixed a, b\n\n2026-11-17; project-a ;MEET;1:30\n2026-11-18,TRAINING,TRAIN,2,a, b";
        let values = lines(text, period()).unwrap();
        assert_eq!(values.len(), 3);
        assert_eq!(values[0].1.notes, "fixed a, b");
        assert_eq!((values[1].0, values[1].1.project.as_str()), (3, "PROJECT-A"));
        assert_eq!(values[2].1.notes, "a, b");
    }

    #[test]
    fn every_faulty_line_is_named() {
        let errors = lines("x\n2026-11-16,INTERNAL,DEV,99\n2027-01-01,INTERNAL,DEV,1", period()).unwrap_err();
        assert!(["Line 1", "Line 2", "Line 3"].iter().all(|l| !errors.of(l).is_empty()), "{errors:?}");
    }

    proptest::proptest! {
        #[test]
        fn pasting_arbitrary_text_never_panics(text in "[\\PC\n\t]{0,200}") {
            let _ = lines(&text, period());
        }
    }
}
