//! A sheet: the grid, saving it, and moving the sheet on.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use http::StatusCode;
use sdk::database::Queries;

use super::{
    Fields, Head, ok, page, see,
    sheet_view::{self, Grid, Typed},
    version,
};
use crate::{
    access::Caller,
    app::App,
    domain::{Action, EntryInput, FieldErrors, Period, Quarters, code, date},
    fault::Fault,
    store::{
        catalog::{self, Item, Kind},
        entries,
        grid::{self, CellChange, Conflict},
        history::{self, Event},
        sheets::{self, Sheet},
    },
};

#[derive(serde::Deserialize)]
pub struct When {
    #[serde(default)]
    date: String,
}

/// Opens the sheet of a day, today's without one.
pub async fn current(State(app): State<App>, caller: Caller, Query(when): Query<When>) -> Result<Response, Fault> {
    let day = if when.date.is_empty() { app.today() } else { date(&when.date).map_err(|m| Fault::field("date", m))? };
    let period = Period::of(day).ok_or(Fault::NotFound)?;
    let sheet = sheets::open(&app.connection().await?, caller.user, period).await?;
    Ok(see(&format!("/sheets/{}", sheet.id)))
}

#[derive(Template)]
#[template(path = "sheet.html")]
struct SheetPage {
    head: Head,
    sheet: Sheet,
    title: String,
    status: &'static str,
    status_class: &'static str,
    own: bool,
    editable: bool,
    grid: Grid,
    projects: Vec<Item>,
    work_types: Vec<Item>,
    new_project: String,
    new_work_type: String,
    /// One-click steps, and whether reopening (which needs a reason) is possible.
    steps: Vec<Action>,
    reopen: bool,
    previous: String,
    next: String,
    history: Vec<Event>,
    form: EntryInput,
    errors: FieldErrors,
    saved: bool,
    /// The entry below the grid could not be added.
    form_fault: bool,
}

/// What a page shows besides what is stored.
#[derive(Default)]
pub struct Shown {
    pub typed: Typed,
    pub form: EntryInput,
    pub errors: FieldErrors,
    pub saved: bool,
}

#[derive(serde::Deserialize)]
pub struct Notice {
    #[serde(default)]
    saved: u8,
}

pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    Query(notice): Query<Notice>,
) -> Result<Response, Fault> {
    let shown = Shown { saved: notice.saved == 1, ..Shown::default() };
    ok(&view(&app, &caller, id, shown).await?)
}

/// The sheet again, with what was typed and why it was not saved.
pub async fn again(app: &App, caller: &Caller, id: i64, shown: Shown) -> Result<Response, Fault> {
    page(StatusCode::BAD_REQUEST, &view(app, caller, id, shown).await?)
}

async fn view(app: &App, caller: &Caller, id: i64, shown: Shown) -> Result<impl Template + use<>, Fault> {
    let connection = app.connection().await?;
    let sheet = sheets::get(&connection, caller, id).await?;
    let entries = entries::of(&connection, id).await?;
    let projects = catalog::list(&connection, Kind::Project).await?;
    let work_types = catalog::list(&connection, Kind::WorkType).await?;
    let editable = sheet.takes_entries_of(caller);
    let pairs = if editable { last_pairs(&connection, &sheet).await? } else { Vec::new() };
    let history = history::of(&connection, "sheet", &id.to_string()).await?;
    let grid = sheet_view::grid(&sheet, &entries, &pairs, &projects, &work_types, app.today(), &shown.typed);
    let actions = sheet.status.actions(sheet.actor(caller));
    let beside = |days: i32| jiff::ToSpan::days(days);
    let title = sheet_view::title(&sheet);
    let active = |all: Vec<Item>| all.into_iter().filter(|i| i.is_active).collect::<Vec<_>>();
    Ok(SheetPage {
        head: Head::new(title.clone(), caller, "sheet"),
        status: sheet.status.as_str(),
        status_class: sheet_view::status_class(sheet.status),
        own: sheet.user == caller.user,
        editable,
        grid,
        projects: active(projects),
        work_types: active(work_types),
        new_project: shown.typed.new_project,
        new_work_type: shown.typed.new_work_type,
        reopen: actions.contains(&Action::Reopen),
        steps: actions.into_iter().filter(|a| *a != Action::Reopen).collect(),
        previous: sheet.period.start.saturating_add(beside(-1)).to_string(),
        next: sheet.period.end().saturating_add(beside(1)).to_string(),
        history,
        form_fault: !shown.errors.is_empty() && shown.errors.of("comment").is_empty(),
        form: shown.form,
        errors: shown.errors,
        saved: shown.saved,
        title,
        sheet,
    })
}

/// The rows of the person's last sheet before this one that has any: most people do the same work again.
async fn last_pairs(queries: &impl Queries, sheet: &Sheet) -> Result<Vec<(String, String)>, Fault> {
    let rows = queries
        .query(
            r#"SELECT DISTINCT e."ProjectCode", e."WorkTypeCode" FROM "TimeEntries" e
               JOIN "Projects" p ON p."Code" = e."ProjectCode" AND p."IsActive"
               JOIN "WorkTypes" w ON w."Code" = e."WorkTypeCode" AND w."IsActive"
               WHERE e."TimeSheetId" = (SELECT "Id" FROM "TimeSheets"
                   WHERE "UserId" = $1 AND "StartDate" < $2 AND "TotalHours" > 0 ORDER BY "StartDate" DESC LIMIT 1)
               LIMIT 30"#,
            &[&sheet.user, &sheet.period.start],
        )
        .await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// The cells of a posted grid that differ from what was shown.
struct Posted {
    changes: Vec<CellChange>,
    typed: Typed,
}

fn posted(fields: &Fields, period: Period) -> Result<Posted, Fault> {
    const BROKEN: Fault = Fault::Malformed("The grid is not complete. Please reload the page.");
    let mut typed =
        Typed { new_project: fields.get("np").into(), new_work_type: fields.get("nw").into(), ..Typed::default() };
    let bases: BTreeMap<&str, &str> =
        fields.0.iter().filter_map(|(k, v)| Some((k.strip_prefix("b|")?, v.as_str()))).collect();
    let mut changes: Vec<CellChange> = Vec::new();
    for (name, value) in fields.0.iter().filter_map(|(k, v)| Some((k.strip_prefix("h|")?, v.trim()))) {
        let base = bases.get(name).copied().filter(|b| !b.is_empty());
        let mut base = base.map(|b| b.splitn(3, ':'));
        let mut part = || base.as_mut().and_then(Iterator::next);
        let (id, version, before) = (part(), part(), part().unwrap_or_default());
        if value == before {
            continue;
        }
        let base = match (id, version) {
            (Some(id), Some(version)) => Some((id.parse().map_err(|_| BROKEN)?, version.parse().map_err(|_| BROKEN)?)),
            _ => None,
        };
        typed.values.insert(name.to_owned(), value.chars().take(12).collect());
        let mut parts = name.split('|');
        let (project, work_type, day) = (parts.next(), parts.next(), parts.next());
        let (project, work_type) = match project {
            // The new row names its project and work type in fields of its own.
            Some("") => (typed.new_project.as_str(), typed.new_work_type.as_str()),
            _ => (project.unwrap_or_default(), work_type.unwrap_or_default()),
        };
        let day = day.and_then(|d| date(d).ok()).filter(|d| period.contains(*d)).ok_or(BROKEN)?;
        let hours = if value.is_empty() { Ok(None) } else { Quarters::parse(value).map(Some) };
        match (code(project), code(work_type), hours) {
            (Some(project), Some(work_type), Ok(hours)) => {
                changes.push(CellChange { project, work_type, date: day, base, hours })
            }
            (_, _, Err(message)) => drop(typed.errors.insert(name.to_owned(), message.to_owned())),
            _ => {
                // Told once for the row, not for each of its cells.
                drop(typed.errors.insert("||".to_owned(), "Choose a project and a work type.".to_owned()))
            }
        }
    }
    changes.sort_by_key(CellChange::name);
    if changes.windows(2).any(|p| p[0].name() == p[1].name()) {
        let twice = "This row is in the grid already; enter the time there.";
        typed.errors.insert("||".to_owned(), twice.to_owned());
    }
    Ok(Posted { changes, typed })
}

/// Saves a grid.
pub async fn save(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    let sheet = sheets::get(&connection, &caller, id).await?;
    let Posted { changes, mut typed } = posted(&fields, sheet.period)?;
    if !typed.errors.is_empty() {
        drop(connection);
        return again(&app, &caller, id, Shown { typed, ..Shown::default() }).await;
    }
    if changes.is_empty() {
        return Ok(see(&format!("/sheets/{id}")));
    }
    match grid::save(&mut connection, &caller, id, &changes).await {
        Ok(conflicts) if conflicts.is_empty() => Ok(see(&format!("/sheets/{id}?saved=1"))),
        Ok(conflicts) => {
            let items =
                (catalog::list(&connection, Kind::Project).await?, catalog::list(&connection, Kind::WorkType).await?);
            page(StatusCode::CONFLICT, &conflict_page(&caller, &sheet, &changes, conflicts, &items))
        }
        Err(Fault::Invalid(errors)) => {
            drop(connection);
            for (field, message) in errors.0 {
                // A fault of a new row's cell belongs to the field it was typed in.
                let day = field.rsplit('|').next().unwrap_or_default();
                let name = if typed.values.contains_key(&field) { field } else { format!("||{day}") };
                typed.errors.insert(name, message);
            }
            again(&app, &caller, id, Shown { typed, ..Shown::default() }).await
        }
        Err(other) => Err(other),
    }
}

struct Choice {
    name: String,
    label: String,
    /// What is in the cell now, for the next attempt.
    base: String,
    mine: String,
    theirs: String,
}

#[derive(Template)]
#[template(path = "conflict.html")]
struct ConflictPage {
    head: Head,
    sheet: i64,
    choices: Vec<Choice>,
    /// Changed cells without a conflict: name, value, base.
    others: Vec<(String, String, String)>,
}

fn conflict_page(
    caller: &Caller,
    sheet: &Sheet,
    changes: &[CellChange],
    conflicts: Vec<Conflict>,
    items: &(Vec<Item>, Vec<Item>),
) -> ConflictPage {
    let text = |hours: Option<Quarters>| hours.map_or(String::new(), |h| h.to_string());
    let name_of =
        |all: &[Item], code: &str| all.iter().find(|i| i.code == code).map_or(code.to_owned(), |i| i.name.clone());
    let others = changes.iter().filter(|c| conflicts.iter().all(|k| k.mine.name() != c.name()));
    let others = others.map(|c| {
        // The value before is left empty: any typed value then counts as changed and is saved.
        let base = c.base.map_or(String::new(), |(id, version)| format!("{id}:{version}:-"));
        (c.name(), text(c.hours), base)
    });
    let others = others.collect();
    let choices = conflicts.into_iter().map(|conflict| {
        let (mine, theirs) = (&conflict.mine, conflict.theirs.as_ref());
        Choice {
            name: mine.name(),
            label: format!(
                "{}, {}, {}",
                name_of(&items.0, &mine.project),
                name_of(&items.1, &mine.work_type),
                mine.date.strftime("%A %-d %B")
            ),
            base: theirs.map_or(String::new(), |e| format!("{}:{}:{}", e.id, e.version, e.hours)),
            mine: text(mine.hours),
            theirs: text(theirs.map(|e| e.hours)),
        }
    });
    ConflictPage {
        head: Head::new("Both changed", caller, "sheet"),
        sheet: sheet.id,
        choices: choices.collect(),
        others,
    }
}

/// Moves a sheet on: submit, take back, approve, close, reopen.
pub async fn act(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let all = [Action::Submit, Action::TakeBack, Action::Approve, Action::Close, Action::Reopen];
    let action = all
        .into_iter()
        .find(|a| a.as_str() == fields.get("action"))
        .ok_or(Fault::Malformed("There is no such step."))?;
    let mut connection = app.connection().await?;
    let done = sheets::act(&mut connection, &caller, id, action, version(&fields)?, fields.get("comment")).await;
    drop(connection);
    match done {
        Ok(_) if fields.get("back") == "approvals" => Ok(see("/approvals")),
        Ok(_) => Ok(see(&format!("/sheets/{id}"))),
        Err(Fault::Invalid(errors)) => again(&app, &caller, id, Shown { errors, ..Shown::default() }).await,
        Err(other) => Err(other),
    }
}
