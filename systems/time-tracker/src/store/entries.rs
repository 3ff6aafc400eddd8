//! Time entries. Every change happens under the lock of its sheet.

use jiff::civil::Date;
use sdk::database::{Connection, Error, Queries, Transaction};
use serde::Serialize;
use tokio_postgres::Row;

use super::{history, sheets, sheets::Sheet};
use crate::{
    access::Caller,
    domain::{EntryValues, FieldErrors, Minutes, Quarters},
    fault::Fault,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: i64,
    pub sheet: i64,
    pub project: String,
    pub work_type: String,
    pub date: Date,
    pub hours: Quarters,
    pub times: Option<(Minutes, Minutes)>,
    pub notes: String,
    pub version: i32,
}

/// How an entry shows in the API.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView {
    pub id: i64,
    pub time_sheet_id: i64,
    pub project_code: String,
    pub work_type_code: String,
    pub entry_date: Date,
    pub hours: f64,
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    pub notes: String,
    pub version: i32,
}

impl From<&Entry> for EntryView {
    fn from(entry: &Entry) -> EntryView {
        EntryView {
            id: entry.id,
            time_sheet_id: entry.sheet,
            project_code: entry.project.clone(),
            work_type_code: entry.work_type.clone(),
            entry_date: entry.date,
            hours: entry.hours.hours(),
            start_time: entry.times.map(|(start, _)| start.to_string()),
            end_time: entry.times.map(|(_, end)| end.to_string()),
            notes: entry.notes.clone(),
            version: entry.version,
        }
    }
}

fn read(row: &Row) -> Entry {
    let times = (row.get::<_, Option<i32>>(6), row.get::<_, Option<i32>>(7));
    Entry {
        id: row.get(0),
        sheet: row.get(1),
        project: row.get(2),
        work_type: row.get(3),
        date: row.get(4),
        hours: Quarters(row.get(5)),
        times: times.0.zip(times.1).map(|(s, e)| (Minutes(s), Minutes(e))),
        notes: row.get(8),
        version: row.get(9),
    }
}

/// All entries of a sheet, by day.
///
/// # Errors
/// No database.
pub async fn of(queries: &impl Queries, sheet: i64) -> Result<Vec<Entry>, Error> {
    let rows = queries
        .query(
            r#"SELECT "Id", "TimeSheetId", "ProjectCode", "WorkTypeCode", "EntryDate", ("Hours" * 4)::integer,
                      (extract(epoch FROM "StartTime") / 60)::integer, (extract(epoch FROM "EndTime") / 60)::integer,
                      "Notes", "Version"
               FROM "TimeEntries" WHERE "TimeSheetId" = $1 ORDER BY "EntryDate", "StartTime" NULLS LAST, "Id" LIMIT 2000"#,
            &[&sheet],
        )
        .await?;
    Ok(rows.iter().map(read).collect())
}

/// One entry and its sheet, if the caller may see them.
///
/// # Errors
/// There is none for this caller, or no database.
pub async fn get(queries: &impl Queries, caller: &Caller, id: i64) -> Result<(Sheet, Entry), Fault> {
    let entry = find(queries, id).await?.ok_or(Fault::NotFound)?;
    Ok((sheets::get(queries, caller, entry.sheet).await?, entry))
}

/// One entry.
///
/// # Errors
/// No database.
pub async fn find(queries: &impl Queries, id: i64) -> Result<Option<Entry>, Error> {
    let row = queries
        .first(
            r#"SELECT "Id", "TimeSheetId", "ProjectCode", "WorkTypeCode", "EntryDate", ("Hours" * 4)::integer,
                      (extract(epoch FROM "StartTime") / 60)::integer, (extract(epoch FROM "EndTime") / 60)::integer,
                      "Notes", "Version"
               FROM "TimeEntries" WHERE "Id" = $1"#,
            &[&id],
        )
        .await?;
    Ok(row.as_ref().map(read))
}

/// What became of a change.
#[derive(Debug)]
pub enum Change {
    Done(Entry),
    /// Somebody changed the entry since it was looked at: as it is now, or None when it was deleted.
    Stale(Option<Entry>),
}

/// Adds entries, all or none.
///
/// # Errors
/// The sheet takes none, or a rule is broken: `entries` names its fields `0.hours` and so on when there are several.
pub async fn add(
    connection: &mut Connection,
    caller: &Caller,
    sheet: i64,
    values: &[EntryValues],
) -> Result<Vec<Entry>, Fault> {
    let transaction = connection.begin().await?;
    let sheet = sheets::lock_to_write(&transaction, caller, sheet).await?;
    let mut made = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let name = |fault| if values.len() > 1 { numbered(fault, i) } else { fault };
        made.push(insert(&transaction, &sheet, value).await.map_err(name)?);
    }
    settle(&transaction, &sheet).await?;
    transaction.commit().await?;
    Ok(made)
}

/// Puts the entry's number before the names of the faulty fields.
fn numbered(fault: Fault, i: usize) -> Fault {
    match fault {
        Fault::Invalid(FieldErrors(list)) => {
            Fault::Invalid(FieldErrors(list.into_iter().map(|(f, m)| (format!("{i}.{f}"), m)).collect()))
        }
        other => other,
    }
}

/// Changes one entry; `version` is the one that was looked at.
///
/// # Errors
/// The entry does not exist for this caller, its sheet takes no change, or a rule is broken.
pub async fn change(
    connection: &mut Connection,
    caller: &Caller,
    id: i64,
    version: i32,
    values: &EntryValues,
) -> Result<Change, Fault> {
    let transaction = connection.begin().await?;
    let Some(known) = find(&transaction, id).await? else { return Ok(Change::Stale(None)) };
    let sheet = sheets::lock_to_write(&transaction, caller, known.sheet).await?;
    let done = update(&transaction, id, version, values).await?;
    if let Change::Done(_) = done {
        settle(&transaction, &sheet).await?;
        transaction.commit().await?;
    }
    Ok(done)
}

/// Deletes one entry; `version` is the one that was looked at. False when it changed meanwhile.
///
/// # Errors
/// The entry does not exist for this caller, or its sheet takes no change.
pub async fn remove(connection: &mut Connection, caller: &Caller, id: i64, version: i32) -> Result<bool, Fault> {
    let transaction = connection.begin().await?;
    let known = find(&transaction, id).await?.ok_or(Fault::NotFound)?;
    let sheet = sheets::lock_to_write(&transaction, caller, known.sheet).await?;
    let done = delete(&transaction, id, version).await?;
    if done {
        settle(&transaction, &sheet).await?;
        transaction.commit().await?;
    }
    Ok(done)
}

pub(super) async fn insert(transaction: &Transaction<'_>, sheet: &Sheet, values: &EntryValues) -> Result<Entry, Fault> {
    active(transaction, values, None).await?;
    let quarters = values.hours.0;
    let (start, end) = texts(values);
    let row = transaction
        .first(
            r#"INSERT INTO "TimeEntries" ("TimeSheetId", "CreatedBy", "SheetStart", "ProjectCode", "WorkTypeCode", "EntryDate",
                   "StartTime", "EndTime", "Hours", "Notes")
               VALUES ($1, $2, $3, $4, $5, $6, $7::text::time, $8::text::time, $9::integer / 4.0, $10) RETURNING "Id""#,
            &[
                &sheet.id,
                &sheet.user,
                &sheet.period.start,
                &values.project,
                &values.work_type,
                &values.date,
                &start,
                &end,
                &quarters,
                &values.notes,
            ],
        )
        .await?;
    let id: i64 = row.ok_or(Fault::NotFound)?.get(0);
    find(transaction, id).await?.ok_or(Fault::NotFound)
}

pub(super) async fn update(
    transaction: &Transaction<'_>,
    id: i64,
    version: i32,
    values: &EntryValues,
) -> Result<Change, Fault> {
    let known = find(transaction, id).await?;
    let Some(known) = known.filter(|k| k.version == version) else {
        return Ok(Change::Stale(find(transaction, id).await?));
    };
    active(transaction, values, Some(&known)).await?;
    let quarters = values.hours.0;
    let (start, end) = texts(values);
    transaction
        .execute(
            r#"UPDATE "TimeEntries" SET "ProjectCode" = $2, "WorkTypeCode" = $3, "EntryDate" = $4,
                   "StartTime" = $5::text::time, "EndTime" = $6::text::time, "Hours" = $7::integer / 4.0, "Notes" = $8,
                   "Version" = "Version" + 1, "LastModifiedAt" = now()
               WHERE "Id" = $1"#,
            &[&id, &values.project, &values.work_type, &values.date, &start, &end, &quarters, &values.notes],
        )
        .await?;
    Ok(find(transaction, id).await?.map_or(Change::Stale(None), Change::Done))
}

pub(super) async fn delete(transaction: &Transaction<'_>, id: i64, version: i32) -> Result<bool, Fault> {
    let sql = r#"DELETE FROM "TimeEntries" WHERE "Id" = $1 AND "Version" = $2"#;
    Ok(transaction.execute(sql, &[&id, &version]).await? == 1)
}

fn texts(values: &EntryValues) -> (Option<String>, Option<String>) {
    (values.times.map(|(s, _)| s.to_string()), values.times.map(|(_, e)| e.to_string()))
}

/// New time goes to active projects and work types; an entry keeps what it had when that was retired since.
async fn active(queries: &impl Queries, values: &EntryValues, known: Option<&Entry>) -> Result<(), Fault> {
    let row = queries
        .first(
            r#"SELECT coalesce((SELECT "IsActive" FROM "Projects" WHERE "Code" = $1), false),
                      coalesce((SELECT "IsActive" FROM "WorkTypes" WHERE "Code" = $2), false)"#,
            &[&values.project, &values.work_type],
        )
        .await?;
    let (project, work_type): (bool, bool) = row.map_or((false, false), |r| (r.get(0), r.get(1)));
    let mut errors = FieldErrors::default();
    if !project && known.is_none_or(|k| k.project != values.project) {
        errors.add("project", "There is no active project with this code.");
    }
    if !work_type && known.is_none_or(|k| k.work_type != values.work_type) {
        errors.add("work_type", "There is no active work type with this code.");
    }
    if errors.is_empty() { Ok(()) } else { Err(Fault::Invalid(errors)) }
}

/// After changes: no day has more than 24 hours, the sheet's total is right and its version moves on.
pub(super) async fn settle(transaction: &Transaction<'_>, sheet: &Sheet) -> Result<(), Fault> {
    let full = transaction
        .first(
            r#"SELECT "EntryDate", sum("Hours")::float8 FROM "TimeEntries" WHERE "TimeSheetId" = $1
               GROUP BY "EntryDate" HAVING sum("Hours") > 24 ORDER BY 1 LIMIT 1"#,
            &[&sheet.id],
        )
        .await?;
    if let Some(row) = full {
        let (date, hours): (Date, f64) = (row.get(0), row.get(1));
        return Err(Fault::field("hours", &format!("{date} would have {hours} hours; a day has 24.")));
    }
    transaction
        .execute(
            r#"UPDATE "TimeSheets" SET "Version" = "Version" + 1, "LastModifiedAt" = now(),
                   "TotalHours" = (SELECT coalesce(sum("Hours"), 0) FROM "TimeEntries" WHERE "TimeSheetId" = $1)
               WHERE "Id" = $1"#,
            &[&sheet.id],
        )
        .await?;
    history::note(transaction, Some(sheet.user), "entries", &sheet.id.to_string(), "changed", "").await?;
    Ok(())
}
