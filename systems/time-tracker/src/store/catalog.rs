//! Projects and work types: two tables of one shape.

use sdk::database::{Connection, Queries};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::history;
use crate::{
    domain::{FieldErrors, code},
    fault::Fault,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Project,
    WorkType,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Project => "project",
            Kind::WorkType => "work type",
        }
    }
}

/// A project or a work type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub code: String,
    pub name: String,
    pub description: String,
    pub is_active: bool,
    pub version: i32,
}

/// As somebody typed it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ItemInput {
    #[serde(default)]
    pub code: String,
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default = "yes")]
    pub is_active: bool,
    /// The version that was looked at; needed for a change.
    #[serde(default)]
    pub version: i32,
}

fn yes() -> bool {
    true
}

fn read(row: &Row) -> Item {
    Item { code: row.get(0), name: row.get(1), description: row.get(2), is_active: row.get(3), version: row.get(4) }
}

/// All of a kind, the active ones first.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries, kind: Kind) -> Result<Vec<Item>, Fault> {
    let sql = match kind {
        Kind::Project => {
            r#"SELECT "Code", "Name", "Description", "IsActive", "Version" FROM "Projects" ORDER BY "IsActive" DESC, "Code" LIMIT 1000"#
        }
        Kind::WorkType => {
            r#"SELECT "Code", "Name", "Description", "IsActive", "Version" FROM "WorkTypes" ORDER BY "IsActive" DESC, "Code" LIMIT 1000"#
        }
    };
    Ok(queries.query(sql, &[]).await?.iter().map(read).collect())
}

/// One of a kind.
///
/// # Errors
/// There is none with this code, or no database.
pub async fn get(queries: &impl Queries, kind: Kind, code: &str) -> Result<Item, Fault> {
    let sql = match kind {
        Kind::Project => {
            r#"SELECT "Code", "Name", "Description", "IsActive", "Version" FROM "Projects" WHERE "Code" = $1"#
        }
        Kind::WorkType => {
            r#"SELECT "Code", "Name", "Description", "IsActive", "Version" FROM "WorkTypes" WHERE "Code" = $1"#
        }
    };
    let code = self::code(code).ok_or(Fault::NotFound)?;
    queries.first(sql, &[&code]).await?.as_ref().map(read).ok_or(Fault::NotFound)
}

fn check(input: &ItemInput) -> Result<(String, String, String), FieldErrors> {
    let mut errors = FieldErrors::default();
    let code = code(&input.code);
    if code.is_none() {
        errors.add("code", "A code has 1 to 20 letters, digits and hyphens, such as PROJECT-A.");
    }
    let (name, description) = (input.name.trim(), input.description.trim());
    let clean = |text: &str| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r'));
    if name.is_empty() || name.chars().count() > 100 || !clean(name) {
        errors.add("name", "The name has 1 to 100 characters.");
    }
    if description.chars().count() > 500 || !clean(description) {
        errors.add("description", "The description has 500 characters at most.");
    }
    match code {
        Some(code) if errors.is_empty() => Ok((code, name.to_owned(), description.to_owned())),
        _ => Err(errors),
    }
}

/// Adds one.
///
/// # Errors
/// A field is not right, or the code is taken.
pub async fn create(connection: &mut Connection, kind: Kind, by: i64, input: &ItemInput) -> Result<Item, Fault> {
    let (code, name, description) = check(input).map_err(Fault::Invalid)?;
    let sql = match kind {
        Kind::Project => {
            r#"INSERT INTO "Projects" ("Code", "Name", "Description", "IsActive") VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"#
        }
        Kind::WorkType => {
            r#"INSERT INTO "WorkTypes" ("Code", "Name", "Description", "IsActive") VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"#
        }
    };
    let transaction = connection.begin().await?;
    if transaction.execute(sql, &[&code, &name, &description, &input.is_active]).await? == 0 {
        return Err(Fault::Conflict(format!("There is a {} {code} already.", kind.word())));
    }
    history::note(&transaction, Some(by), kind.word(), &code, "created", "").await?;
    let item = get(&transaction, kind, &code).await?;
    transaction.commit().await?;
    Ok(item)
}

/// Changes one; its code stays.
///
/// # Errors
/// A field is not right, there is none, or somebody changed it since `input.version`.
pub async fn update(connection: &mut Connection, kind: Kind, by: i64, input: &ItemInput) -> Result<Item, Fault> {
    let (code, name, description) = check(input).map_err(Fault::Invalid)?;
    let sql = match kind {
        Kind::Project => {
            r#"UPDATE "Projects" SET "Name" = $2, "Description" = $3, "IsActive" = $4, "Version" = "Version" + 1
               WHERE "Code" = $1 AND "Version" = $5"#
        }
        Kind::WorkType => {
            r#"UPDATE "WorkTypes" SET "Name" = $2, "Description" = $3, "IsActive" = $4, "Version" = "Version" + 1
               WHERE "Code" = $1 AND "Version" = $5"#
        }
    };
    let transaction = connection.begin().await?;
    if transaction.execute(sql, &[&code, &name, &description, &input.is_active, &input.version]).await? == 0 {
        let now = get(&transaction, kind, &code).await?;
        return Err(Fault::Conflict(format!(
            "Somebody changed this {} meanwhile. It is now called \"{}\" and is {}. Look at it again before you change it.",
            kind.word(),
            now.name,
            if now.is_active { "active" } else { "not active" }
        )));
    }
    history::note(&transaction, Some(by), kind.word(), &code, "changed", "").await?;
    let item = get(&transaction, kind, &code).await?;
    transaction.commit().await?;
    Ok(item)
}
