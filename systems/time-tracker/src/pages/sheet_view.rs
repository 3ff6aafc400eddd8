//! The grid as it shows: rows of project and work type, a cell a day.

use std::collections::BTreeMap;

use jiff::civil::{Date, Weekday};

use crate::{
    domain::{Quarters, Status},
    store::{catalog::Item, entries::Entry, sheets::Sheet},
};

/// What somebody typed into cells that could not be saved, and why: by the cell's name.
#[derive(Default)]
pub struct Typed {
    pub values: BTreeMap<String, String>,
    pub errors: BTreeMap<String, String>,
    pub new_project: String,
    pub new_work_type: String,
}

pub struct Day {
    pub date: Date,
    /// `Mon`.
    pub weekday: String,
    /// `16`.
    pub number: i8,
    /// `Monday 16 November`.
    pub long: String,
    pub weekend: bool,
    pub today: bool,
    pub week_start: bool,
    pub total: String,
    pub too_much: bool,
}

impl Day {
    pub fn class(&self) -> &'static str {
        match (self.weekend, self.today, self.week_start) {
            (_, true, true) => "today week",
            (_, true, _) => "today",
            (true, ..) => "weekend",
            (_, _, true) => "week",
            _ => "",
        }
    }
}

pub struct Cell {
    /// `PROJECT|WORK-TYPE|DATE`.
    pub name: String,
    pub label: String,
    pub class: &'static str,
    pub value: String,
    /// `ID:VERSION:HOURS` of the entry in it; empty for none.
    pub base: String,
    pub error: String,
    /// Several entries in one cell are changed one by one, below the grid.
    pub several: bool,
    /// The entry has times or a note.
    pub more: bool,
    pub day: String,
}

pub struct Row {
    pub project_name: String,
    pub work_name: String,
    pub cells: Vec<Cell>,
    pub total: String,
}

pub struct Line {
    pub id: i64,
    pub day: String,
    pub project: String,
    pub work_type: String,
    pub times: String,
    pub hours: String,
    pub notes: String,
}

/// A cell (or the new row) that could not be saved.
pub struct CellFault {
    pub name: String,
    pub place: String,
    pub message: String,
}

pub struct Grid {
    pub faults: Vec<CellFault>,
    /// The new row has no project or work type.
    pub new_fault: bool,
    pub days: Vec<Day>,
    pub rows: Vec<Row>,
    pub new_cells: Vec<Cell>,
    pub lines: Vec<Line>,
    pub weeks: [String; 2],
    pub total: String,
}

/// Empty for nothing, so that a calm grid shows only what there is.
fn shown(quarters: Quarters) -> String {
    if quarters.0 == 0 { String::new() } else { quarters.to_string() }
}

fn long(date: Date) -> String {
    date.strftime("%A %-d %B").to_string()
}

/// `16 to 29 November 2026`.
pub fn title(sheet: &Sheet) -> String {
    let (start, end) = (sheet.period.start, sheet.period.end());
    let first = match (start.year() == end.year(), start.month() == end.month()) {
        (true, true) => start.strftime("%-d").to_string(),
        (true, false) => start.strftime("%-d %B").to_string(),
        _ => start.strftime("%-d %B %Y").to_string(),
    };
    format!("{first} to {}", end.strftime("%-d %B %Y"))
}

/// The status as a word for a style sheet.
pub fn status_class(status: Status) -> &'static str {
    match status {
        Status::Open => "open",
        Status::Submitted => "submitted",
        Status::Approved => "approved",
        Status::Closed => "closed",
    }
}

/// Lays out a sheet. `pairs` are rows to offer although they have no entry yet (those of the last sheet).
pub fn grid(
    sheet: &Sheet,
    entries: &[Entry],
    pairs: &[(String, String)],
    projects: &[Item],
    work_types: &[Item],
    today: Date,
    typed: &Typed,
) -> Grid {
    let name_of =
        |all: &[Item], code: &str| all.iter().find(|i| i.code == code).map_or(code.to_owned(), |i| i.name.clone());
    let mut keys: Vec<(String, String)> = entries.iter().map(|e| (e.project.clone(), e.work_type.clone())).collect();
    keys.extend(pairs.iter().cloned());
    keys.extend(typed.values.keys().filter_map(|name| {
        let mut parts = name.split('|').map(str::to_owned);
        Some((parts.next()?, parts.next()?)).filter(|(p, _)| !p.is_empty())
    }));
    keys.sort();
    keys.dedup();
    let days = days(sheet, entries, today);
    let rows = keys.into_iter().map(|(project, work_type)| {
        let of_row: Vec<&Entry> = entries.iter().filter(|e| e.project == project && e.work_type == work_type).collect();
        let (project_name, work_name) = (name_of(projects, &project), name_of(work_types, &work_type));
        let cells = days
            .iter()
            .map(|day| cell(day, &of_row, &project, &work_type, &format!("{project_name}, {work_name}"), typed));
        let cells = cells.collect();
        let total = shown(of_row.iter().map(|e| e.hours).sum());
        Row { project_name, work_name, cells, total }
    });
    let week = |range: std::ops::Range<usize>| -> String {
        let days: Vec<Date> = days.get(range).unwrap_or_default().iter().map(|d| d.date).collect();
        entries.iter().filter(|e| days.contains(&e.date)).map(|e| e.hours).sum::<Quarters>().to_string()
    };
    let rows: Vec<Row> = rows.collect();
    let new_cells: Vec<Cell> = days.iter().map(|day| cell(day, &[], "", "", "New row", typed)).collect();
    let lines = entries.iter().map(|e| Line {
        id: e.id,
        day: e.date.strftime("%a %-d %b").to_string(),
        project: name_of(projects, &e.project),
        work_type: name_of(work_types, &e.work_type),
        times: e.times.map_or(String::new(), |(s, t)| format!("{s} to {t}")),
        hours: e.hours.to_string(),
        notes: e.notes.clone(),
    });
    Grid {
        faults: faults(&rows, &new_cells, typed),
        new_fault: typed.errors.contains_key("||"),
        rows,
        new_cells,
        lines: lines.collect(),
        weeks: [week(0..7), week(7..14)],
        total: entries.iter().map(|e| e.hours).sum::<Quarters>().to_string(),
        days,
    }
}

fn faults(rows: &[Row], new_cells: &[Cell], typed: &Typed) -> Vec<CellFault> {
    let cells = rows.iter().flat_map(|r| &r.cells).chain(new_cells).filter(|c| !c.error.is_empty());
    let faults = cells.map(|c| CellFault { name: c.name.clone(), place: c.label.clone(), message: c.error.clone() });
    let row = typed.errors.get("||").map(|message| CellFault {
        name: "||".to_owned(),
        place: "New row".to_owned(),
        message: message.clone(),
    });
    row.into_iter().chain(faults).collect()
}

fn days(sheet: &Sheet, entries: &[Entry], today: Date) -> Vec<Day> {
    let day = |date: Date| {
        let total: Quarters = entries.iter().filter(|e| e.date == date).map(|e| e.hours).sum();
        Day {
            date,
            weekday: date.strftime("%a").to_string(),
            number: date.day(),
            long: long(date),
            weekend: matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday),
            today: date == today,
            week_start: date != sheet.period.start && date.weekday() == Weekday::Monday,
            total: shown(total),
            too_much: total > Quarters::MAX,
        }
    };
    sheet.period.days().into_iter().map(day).collect()
}

fn cell(day: &Day, of_row: &[&Entry], project: &str, work_type: &str, row: &str, typed: &Typed) -> Cell {
    let name = format!("{project}|{work_type}|{}", day.date);
    let here: Vec<&&Entry> = of_row.iter().filter(|e| e.date == day.date).collect();
    let sum: Quarters = here.iter().map(|e| e.hours).sum();
    let value = typed.values.get(&name).cloned().unwrap_or_else(|| shown(sum));
    let base = match here.as_slice() {
        [one] => format!("{}:{}:{}", one.id, one.version, one.hours),
        _ => String::new(),
    };
    Cell {
        label: format!("{row}, {}", day.long),
        class: day.class(),
        value,
        base,
        error: typed.errors.get(&name).cloned().unwrap_or_default(),
        several: here.len() > 1,
        more: here.iter().any(|e| e.times.is_some() || !e.notes.is_empty()),
        day: format!("{} {}", &day.weekday[..2], day.number),
        name,
    }
}
