//! A region's people. Every change of one is written together with its message to the centre.

use sdk::database::{Connection, Queries};
use serde::Serialize;
use tokio_postgres::Row;

use crate::{
    app::Part,
    domain::{FieldErrors, ROLES, email as address, line},
    fault::Fault,
    link::sync,
};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: i64,
    pub email: String,
    pub name: String,
    pub roles: Vec<String>,
    pub is_active: bool,
    /// `2026-11-23 13:05`, UTC.
    pub last_sign_in_at: Option<String>,
}

impl User {
    pub fn has(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }
}

fn read(row: &Row) -> User {
    User {
        id: row.get(0),
        email: row.get(1),
        name: row.get(2),
        roles: row.get(3),
        is_active: row.get(4),
        last_sign_in_at: row.get(5),
    }
}

/// Who a sign-in says somebody is.
pub struct Visitor<'a> {
    /// The lasting name at the stamp's own sign-in, where they came by it.
    pub subject: Option<&'a str>,
    pub email: &'a str,
    pub name: &'a str,
    /// The roles that the sign-in gives; None where the region's own record says.
    pub roles: Option<&'a [String]>,
}

/// Finds or makes the person and notes the sign-in. Nobody is made who brings no roles: the region must know them already.
///
/// # Errors
/// The person is not known or not active, or no database.
pub async fn sign_in(connection: &mut Connection, part: Part, visitor: &Visitor<'_>) -> Result<User, Fault> {
    let email = address(visitor.email)
        .ok_or(Fault::Forbidden("Your account has no e-mail address. Ask your administrator."))?;
    let name = line(visitor.name, 200).unwrap_or_else(|| email.clone());
    let transaction = connection.begin().await?;
    let found = transaction
        .first(
            r#"SELECT "Id", "IsActive", "Name", "Email", "Roles", "Subject" FROM "Users"
               WHERE ($1::text IS NOT NULL AND "Subject" = $1) OR lower("Email") = $2
               ORDER BY ("Subject" = $1) DESC NULLS LAST LIMIT 1 FOR UPDATE"#,
            &[&visitor.subject, &email],
        )
        .await?;
    let id: i64 = match found {
        None => {
            let Some(roles) = visitor.roles else {
                return Err(Fault::Forbidden("This region does not know you. Ask its administrator to add you."));
            };
            let sql = r#"INSERT INTO "Users" ("Subject", "Email", "Name", "Roles", "LastSignInAt") VALUES ($1, $2, $3, $4, now()) RETURNING "Id""#;
            let row =
                transaction.first(sql, &[&visitor.subject, &email, &name, &roles]).await?.ok_or(Fault::NotFound)?;
            let id = row.get(0);
            up(&transaction, part, id).await?;
            id
        }
        Some(row) if !row.get::<_, bool>(1) => {
            return Err(Fault::Forbidden("Your account in MEG QMS is not active. Ask your administrator."));
        }
        Some(row) => {
            let id: i64 = row.get(0);
            let other: Option<String> = row.get(5);
            if other.is_some() && visitor.subject.is_some() && other.as_deref() != visitor.subject {
                return Err(Fault::Forbidden(
                    "Another account already has your e-mail address. Ask your administrator.",
                ));
            }
            // Who comes by a ticket keeps the record of the region: the centre says who, the region says what they may.
            let roles: Vec<String> = visitor.roles.map_or_else(|| row.get(4), <[String]>::to_vec);
            let (name, email) = if visitor.roles.is_some() { (name, email) } else { (row.get(2), row.get(3)) };
            let changed = name != row.get::<_, String>(2) || email != row.get::<_, String>(3);
            let sql = r#"UPDATE "Users" SET "Subject" = coalesce($2, "Subject"), "Email" = $3, "Name" = $4, "Roles" = $5, "LastSignInAt" = now() WHERE "Id" = $1"#;
            let updated = transaction.execute(sql, &[&id, &visitor.subject, &email, &name, &roles]).await;
            match updated {
                Err(error) if error.constraint() == Some("UX_Users_Email") => {
                    return Err(Fault::Forbidden(
                        "Another account already has your e-mail address. Ask your administrator.",
                    ));
                }
                other => other?,
            };
            if changed {
                up(&transaction, part, id).await?;
            }
            id
        }
    };
    let user = get(&transaction, id).await?;
    transaction.commit().await?;
    Ok(user)
}

async fn up(queries: &impl Queries, part: Part, id: i64) -> Result<(), Fault> {
    if part == Part::Region { sync::note(queries, id).await } else { Ok(()) }
}

const ALL: &str = r#"SELECT "Id", "Email", "Name", "Roles", "IsActive", to_char("LastSignInAt", 'YYYY-MM-DD HH24:MI')
                     FROM "Users" ORDER BY lower("Name"), "Id" LIMIT 1000"#;

/// Everybody, by name.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries) -> Result<Vec<User>, Fault> {
    Ok(queries.query(ALL, &[]).await?.iter().map(read).collect())
}

/// One person.
///
/// # Errors
/// There is no such person, or no database.
pub async fn get(queries: &impl Queries, id: i64) -> Result<User, Fault> {
    let sql = r#"SELECT "Id", "Email", "Name", "Roles", "IsActive", to_char("LastSignInAt", 'YYYY-MM-DD HH24:MI') FROM "Users" WHERE "Id" = $1"#;
    queries.first(sql, &[&id]).await?.as_ref().map(read).ok_or(Fault::NotFound)
}

fn checked(email: &str, name: &str, roles: &[String]) -> Result<(String, String), Fault> {
    let mut errors = FieldErrors::default();
    let (good, given) = (address(email), line(name, 200));
    if good.is_none() {
        errors.add("email", "Write an e-mail address such as ada@example.com.");
    }
    if given.is_none() {
        errors.add("name", "A name has 1 to 200 characters.");
    }
    if roles.iter().any(|r| !ROLES.contains(&r.as_str())) {
        errors.add("roles", "The roles are staff, auditor and admin.");
    }
    match (good, given) {
        (Some(email), Some(name)) if errors.is_empty() => Ok((email, name)),
        _ => Err(Fault::Invalid(errors)),
    }
}

/// Adds a person.
///
/// # Errors
/// A field is not right, or somebody has the address already.
pub async fn create(
    connection: &mut Connection,
    part: Part,
    email: &str,
    name: &str,
    roles: &[String],
) -> Result<User, Fault> {
    let (email, name) = checked(email, name, roles)?;
    let transaction = connection.begin().await?;
    let sql =
        r#"INSERT INTO "Users" ("Email", "Name", "Roles") VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING "Id""#;
    let made = transaction.first(sql, &[&email, &name, &roles]).await?;
    let made = made.ok_or_else(|| Fault::Conflict("Somebody has this e-mail address already.".into()))?;
    let id: i64 = made.get(0);
    up(&transaction, part, id).await?;
    let user = get(&transaction, id).await?;
    transaction.commit().await?;
    Ok(user)
}

/// Changes a person's name and roles and whether they are let in; keeping out ends their sessions at once.
///
/// # Errors
/// A field is not right, there is no such person, or one would keep oneself out.
pub async fn change(
    connection: &mut Connection,
    part: Part,
    by: i64,
    id: i64,
    name: &str,
    roles: &[String],
    active: bool,
) -> Result<User, Fault> {
    let transaction = connection.begin().await?;
    let old = get(&transaction, id).await?;
    let (_, name) = checked(&old.email, name, roles)?;
    if by == id && (!active || (old.roles.iter().any(|r| r == "admin") && !roles.iter().any(|r| r == "admin"))) {
        return Err(Fault::Forbidden("You cannot do this to your own account."));
    }
    let sql = r#"UPDATE "Users" SET "Name" = $2, "Roles" = $3, "IsActive" = $4 WHERE "Id" = $1"#;
    transaction.execute(sql, &[&id, &name, &roles, &active]).await?;
    if !active {
        transaction.execute(r#"DELETE FROM "Sessions" WHERE "UserId" = $1"#, &[&id]).await?;
    }
    // Roles stay here: only what the centre knows of a person makes a message.
    if name != old.name || active != old.is_active {
        up(&transaction, part, id).await?;
    }
    let user = get(&transaction, id).await?;
    transaction.commit().await?;
    Ok(user)
}

/// Whether a name failed too often to be asked about again now: five times in five minutes.
///
/// # Errors
/// No database.
pub async fn is_locked(queries: &impl Queries, name: &str) -> Result<bool, Fault> {
    let sql = r#"SELECT count(*) >= 5 FROM "SignInFailures" WHERE "Name" = lower($1) AND "At" > now() - interval '5 minutes'"#;
    Ok(queries.first(sql, &[&name]).await?.is_some_and(|r| r.get(0)))
}

/// Notes a failed sign-in at the site's directory.
///
/// # Errors
/// No database.
pub async fn failed(queries: &impl Queries, name: &str) -> Result<(), Fault> {
    queries.execute(r#"INSERT INTO "SignInFailures" ("Name") VALUES (lower($1))"#, &[&name]).await?;
    queries.execute(r#"DELETE FROM "SignInFailures" WHERE "At" < now() - interval '1 day'"#, &[]).await?;
    Ok(())
}
