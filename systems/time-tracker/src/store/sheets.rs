//! Time sheets: two weeks of one person.

use jiff::civil::Date;
use sdk::{
    database::{Connection, Error, Queries, Transaction},
    telemetry::metrics,
};
use serde::Serialize;
use tokio_postgres::Row;

use super::history;
use crate::{
    access::Caller,
    domain::{Action, Actor, Period, Quarters, Status},
    fault::Fault,
};

#[derive(Clone, Debug)]
pub struct Sheet {
    pub id: i64,
    pub user: i64,
    pub owner: String,
    pub period: Period,
    pub status: Status,
    pub total: Quarters,
    pub version: i32,
}

impl Sheet {
    pub fn actor(&self, caller: &Caller) -> Actor {
        Actor { owner: self.user == caller.user, manager: caller.is_manager() }
    }

    /// Whether this person can enter time here now.
    pub fn takes_entries_of(&self, caller: &Caller) -> bool {
        self.user == caller.user && self.status == Status::Open
    }
}

/// How a sheet shows in the API.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SheetView {
    pub id: i64,
    pub user_id: i64,
    pub user_name: String,
    pub start_date: Date,
    pub end_date: Date,
    pub status: Status,
    pub total_hours: f64,
    pub version: i32,
}

impl From<&Sheet> for SheetView {
    fn from(sheet: &Sheet) -> SheetView {
        SheetView {
            id: sheet.id,
            user_id: sheet.user,
            user_name: sheet.owner.clone(),
            start_date: sheet.period.start,
            end_date: sheet.period.end(),
            status: sheet.status,
            total_hours: sheet.total.hours(),
            version: sheet.version,
        }
    }
}

fn read(row: &Row) -> Sheet {
    let status: &str = row.get(4);
    let name: String = row.get(2);
    Sheet {
        id: row.get(0),
        user: row.get(1),
        owner: name.trim().to_owned(),
        period: Period { start: row.get(3) },
        // The column's check allows these four words only.
        status: Status::parse(status).unwrap_or(Status::Closed),
        total: Quarters(row.get(5)),
        version: row.get(6),
    }
}

/// The person's sheet for a period, made on first access.
///
/// # Errors
/// No database.
pub async fn open(queries: &impl Queries, user: i64, period: Period) -> Result<Sheet, Fault> {
    let select = r#"SELECT s."Id", s."UserId", u."FirstName" || ' ' || u."LastName", s."StartDate", s."Status",
                           (s."TotalHours" * 4)::integer, s."Version"
                    FROM "TimeSheets" s JOIN "Users" u ON u."Id" = s."UserId"
                    WHERE s."UserId" = $1 AND s."StartDate" = $2"#;
    if let Some(row) = queries.first(select, &[&user, &period.start]).await? {
        return Ok(read(&row));
    }
    let insert = r#"INSERT INTO "TimeSheets" ("UserId", "StartDate", "EndDate") VALUES ($1, $2, $3)
                    ON CONFLICT ("UserId", "StartDate") DO NOTHING"#;
    queries.execute(insert, &[&user, &period.start, &period.end()]).await?;
    queries.first(select, &[&user, &period.start]).await?.as_ref().map(read).ok_or(Fault::NotFound)
}

/// One sheet, if it is the caller's or the caller is a manager; else it does not exist.
///
/// # Errors
/// There is none for this caller, or no database.
pub async fn get(queries: &impl Queries, caller: &Caller, id: i64) -> Result<Sheet, Fault> {
    let row = queries
        .first(
            r#"SELECT s."Id", s."UserId", u."FirstName" || ' ' || u."LastName", s."StartDate", s."Status",
                      (s."TotalHours" * 4)::integer, s."Version"
               FROM "TimeSheets" s JOIN "Users" u ON u."Id" = s."UserId" WHERE s."Id" = $1"#,
            &[&id],
        )
        .await?;
    let sheet = row.as_ref().map(read).ok_or(Fault::NotFound)?;
    if sheet.user != caller.user && !caller.is_manager() { Err(Fault::NotFound) } else { Ok(sheet) }
}

/// As [`get`], locked until the transaction ends: changes of one sheet happen one after the other.
///
/// # Errors
/// As [`get`].
pub async fn lock(transaction: &Transaction<'_>, caller: &Caller, id: i64) -> Result<Sheet, Fault> {
    transaction.execute(r#"SELECT 1 FROM "TimeSheets" WHERE "Id" = $1 FOR UPDATE"#, &[&id]).await?;
    get(transaction, caller, id).await
}

/// As [`lock`], for a change of entries: only one's own open sheet takes one.
///
/// # Errors
/// As [`get`], or the sheet is not one's own or not open.
pub async fn lock_to_write(transaction: &Transaction<'_>, caller: &Caller, id: i64) -> Result<Sheet, Fault> {
    let sheet = lock(transaction, caller, id).await?;
    if sheet.user != caller.user {
        return Err(Fault::Forbidden("You can read this sheet, but only its owner enters time in it."));
    }
    if sheet.status != Status::Open {
        let status = sheet.status.as_str().to_lowercase();
        return Err(Fault::Conflict(format!("This sheet is {status} and can only be read.")));
    }
    Ok(sheet)
}

/// The newest sheets of one person.
///
/// # Errors
/// No database.
pub async fn of(queries: &impl Queries, user: i64) -> Result<Vec<Sheet>, Error> {
    let rows = queries
        .query(
            r#"SELECT s."Id", s."UserId", u."FirstName" || ' ' || u."LastName", s."StartDate", s."Status",
                      (s."TotalHours" * 4)::integer, s."Version"
               FROM "TimeSheets" s JOIN "Users" u ON u."Id" = s."UserId"
               WHERE s."UserId" = $1 ORDER BY s."StartDate" DESC LIMIT 60"#,
            &[&user],
        )
        .await?;
    Ok(rows.iter().map(read).collect())
}

/// Sheets of all people in a status, the oldest first.
///
/// # Errors
/// No database.
pub async fn in_status(queries: &impl Queries, status: Status) -> Result<Vec<Sheet>, Error> {
    let rows = queries
        .query(
            r#"SELECT s."Id", s."UserId", u."FirstName" || ' ' || u."LastName", s."StartDate", s."Status",
                      (s."TotalHours" * 4)::integer, s."Version"
               FROM "TimeSheets" s JOIN "Users" u ON u."Id" = s."UserId"
               WHERE s."Status" = $1 ORDER BY s."StartDate", lower(u."LastName"), s."Id" LIMIT 200"#,
            &[&status.as_str()],
        )
        .await?;
    Ok(rows.iter().map(read).collect())
}

/// Moves a sheet on; `version` is the one that was looked at.
///
/// # Errors
/// The step is not possible from here or not for this person, or the sheet changed meanwhile.
pub async fn act(
    connection: &mut Connection,
    caller: &Caller,
    id: i64,
    action: Action,
    version: i32,
    comment: &str,
) -> Result<Sheet, Fault> {
    let comment = comment.trim();
    if comment.chars().count() > 500 || comment.contains('\0') {
        return Err(Fault::field("comment", "The reason has 500 characters at most."));
    }
    if action == Action::Reopen && comment.is_empty() {
        return Err(Fault::field("comment", "Say why you reopen it; its owner reads this."));
    }
    let transaction = connection.begin().await?;
    let sheet = lock(&transaction, caller, id).await?;
    let actor = sheet.actor(caller);
    let Some(next) = sheet.status.after(action, actor) else {
        let status = sheet.status.as_str().to_lowercase();
        return Err(match action {
            Action::Approve | Action::Close | Action::Reopen if !actor.manager => {
                Fault::Forbidden("Only managers can do this.")
            }
            Action::Approve | Action::Close | Action::Reopen if actor.owner => {
                Fault::Forbidden("Nobody approves, closes or reopens their own sheet. Ask another manager.")
            }
            Action::Submit | Action::TakeBack if !actor.owner => {
                Fault::Forbidden("Only the sheet's owner can do this.")
            }
            _ => Fault::Conflict(format!("This sheet is {status} now; that step is not possible any more.")),
        });
    };
    if sheet.version != version {
        let text = "This sheet changed since you looked at it. Look again before you decide.";
        return Err(Fault::Conflict(text.into()));
    }
    transaction
        .execute(
            r#"UPDATE "TimeSheets" SET "Status" = $2, "Version" = "Version" + 1, "LastModifiedAt" = now() WHERE "Id" = $1"#,
            &[&id, &next.as_str()],
        )
        .await?;
    history::note(&transaction, Some(caller.user), "sheet", &id.to_string(), action.as_str(), comment).await?;
    let sheet = get(&transaction, caller, id).await?;
    transaction.commit().await?;
    metrics().add("time_sheet_steps", 1, &[("action", action.as_str())]);
    sdk::event!("time-sheet-step", sheet = id, action = action.as_str());
    Ok(sheet)
}
