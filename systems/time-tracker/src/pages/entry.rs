//! One entry: with times and notes.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;

use super::{
    Fields, Head, ok, page, see,
    sheet::{self, Shown},
    version,
};
use crate::{
    access::Caller,
    app::App,
    domain::{EntryInput, FieldErrors},
    fault::Fault,
    store::{
        catalog::{self, Item, Kind},
        entries::{self, Change, Entry},
        sheets,
    },
};

fn typed(fields: &Fields) -> EntryInput {
    let text = |name: &str| fields.get(name).to_owned();
    EntryInput {
        project: text("project"),
        work_type: text("work_type"),
        date: text("date"),
        hours: text("hours"),
        start: text("start"),
        end: text("end"),
        notes: text("notes"),
    }
}

fn stored(entry: &Entry) -> EntryInput {
    EntryInput {
        project: entry.project.clone(),
        work_type: entry.work_type.clone(),
        date: entry.date.to_string(),
        hours: entry.hours.to_string(),
        start: entry.times.map_or(String::new(), |(s, _)| s.to_string()),
        end: entry.times.map_or(String::new(), |(_, e)| e.to_string()),
        notes: entry.notes.clone(),
    }
}

/// Adds an entry from the form below the grid.
pub async fn add(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let form = typed(&fields);
    let mut connection = app.connection().await?;
    let sheet = sheets::get(&connection, &caller, id).await?;
    let result = match form.check(sheet.period) {
        Ok(values) => entries::add(&mut connection, &caller, id, &[values]).await.map(drop),
        Err(errors) => Err(Fault::Invalid(errors)),
    };
    drop(connection);
    match result {
        Ok(()) => Ok(see(&format!("/sheets/{id}?saved=1"))),
        Err(Fault::Invalid(errors)) => {
            sheet::again(&app, &caller, id, Shown { form, errors, ..Shown::default() }).await
        }
        Err(other) => Err(other),
    }
}

/// How the stored entry differs from the typed one.
struct Difference {
    field: &'static str,
    mine: String,
    theirs: String,
}

#[derive(Template)]
#[template(path = "entry.html")]
struct EntryPage {
    head: Head,
    id: i64,
    sheet: i64,
    version: i32,
    editable: bool,
    form: EntryInput,
    errors: FieldErrors,
    first: String,
    last: String,
    projects: Vec<Item>,
    work_types: Vec<Item>,
    /// Not empty when somebody else changed the entry meanwhile.
    differences: Vec<Difference>,
}

async fn view(
    app: &App,
    caller: &Caller,
    id: i64,
    form: Option<(EntryInput, FieldErrors, bool)>,
) -> Result<EntryPage, Fault> {
    let connection = app.connection().await?;
    let (sheet, entry) = entries::get(&connection, caller, id).await?;
    let now = stored(&entry);
    let (form, errors, stale) = form.unwrap_or((now.clone(), FieldErrors::default(), false));
    let keep = |items: Vec<Item>, code: &str| items.into_iter().filter(|i| i.is_active || i.code == code).collect();
    Ok(EntryPage {
        head: Head::new("Entry", caller, "sheet"),
        id,
        sheet: sheet.id,
        version: entry.version,
        editable: sheet.takes_entries_of(caller),
        first: sheet.period.start.to_string(),
        last: sheet.period.end().to_string(),
        projects: keep(catalog::list(&connection, Kind::Project).await?, &entry.project),
        work_types: keep(catalog::list(&connection, Kind::WorkType).await?, &entry.work_type),
        differences: if stale { differences(&form, &now) } else { Vec::new() },
        form,
        errors,
    })
}

fn differences(mine: &EntryInput, theirs: &EntryInput) -> Vec<Difference> {
    let fields = [
        ("Project", &mine.project, &theirs.project),
        ("Work type", &mine.work_type, &theirs.work_type),
        ("Date", &mine.date, &theirs.date),
        ("Hours", &mine.hours, &theirs.hours),
        ("Start", &mine.start, &theirs.start),
        ("End", &mine.end, &theirs.end),
        ("Notes", &mine.notes, &theirs.notes),
    ];
    let differ = fields.into_iter().filter(|(_, mine, theirs)| mine.trim() != theirs.trim());
    differ.map(|(field, mine, theirs)| Difference { field, mine: mine.clone(), theirs: theirs.clone() }).collect()
}

pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Response, Fault> {
    ok(&view(&app, &caller, id, None).await?)
}

pub async fn save(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let form = typed(&fields);
    let version = version(&fields)?;
    let mut connection = app.connection().await?;
    let (sheet, _) = entries::get(&connection, &caller, id).await?;
    let result = match form.check(sheet.period) {
        Ok(values) => entries::change(&mut connection, &caller, id, version, &values).await,
        Err(errors) => Err(Fault::Invalid(errors)),
    };
    drop(connection);
    match result {
        Ok(Change::Done(_)) => Ok(see(&format!("/sheets/{}?saved=1", sheet.id))),
        Ok(Change::Stale(None)) => Err(Fault::Conflict("Somebody deleted this entry meanwhile.".into())),
        Ok(Change::Stale(Some(_))) => {
            page(StatusCode::CONFLICT, &view(&app, &caller, id, Some((form, FieldErrors::default(), true))).await?)
        }
        Err(Fault::Invalid(errors)) => {
            let mut again = view(&app, &caller, id, Some((form, errors, false))).await?;
            again.version = version;
            page(StatusCode::BAD_REQUEST, &again)
        }
        Err(other) => Err(other),
    }
}

pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    let (sheet, _) = entries::get(&connection, &caller, id).await?;
    if entries::remove(&mut connection, &caller, id, version(&fields)?).await? {
        return Ok(see(&format!("/sheets/{}?saved=1", sheet.id)));
    }
    Err(Fault::Conflict("Somebody changed this entry since you looked at it. Look again before you delete it.".into()))
}
