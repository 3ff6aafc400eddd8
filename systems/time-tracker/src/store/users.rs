//! People, as the issuer describes them at their sign-in.

use sdk::{
    database::{Connection, Queries},
    oidc::Claims,
};
use serde::Serialize;
use tokio_postgres::Row;

use super::history;
use crate::{domain::FieldErrors, fault::Fault};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: i64,
    pub email: String,
    pub first_name: String,
    pub last_name: String,
    pub is_active: bool,
    /// The roles at the last sign-in.
    pub roles: Vec<String>,
    /// `2026-11-22 13:05`, UTC.
    pub last_sign_in_at: Option<String>,
}

impl User {
    pub fn name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name).trim().to_owned()
    }
}

fn read(row: &Row) -> User {
    User {
        id: row.get(0),
        email: row.get(1),
        first_name: row.get(2),
        last_name: row.get(3),
        is_active: row.get(4),
        roles: row.get(5),
        last_sign_in_at: row.get(6),
    }
}

/// Cuts a text of the issuer to what a column takes.
fn cut(text: &str, most: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(most).collect()
}

/// Finds or makes the person of these claims and notes the sign-in. A person made beforehand (without a subject) is met by
/// their e-mail address, unless the issuer says that the address is not verified.
///
/// # Errors
/// The person is not active, the token has no e-mail address, or no database.
pub async fn sign_in(connection: &mut Connection, claims: &Claims, roles: &Vec<String>) -> Result<User, Fault> {
    let full = claims.name.clone().unwrap_or_default();
    let (first, last) = match (&claims.given_name, &claims.family_name) {
        (Some(first), last) => (first.clone(), last.clone().unwrap_or_default()),
        _ => full.split_once(' ').map_or((full.clone(), String::new()), |(f, l)| (f.to_owned(), l.to_owned())),
    };
    let email = cut(claims.email.as_deref().unwrap_or_default(), 254);
    if email.len() < 3 {
        return Err(Fault::Forbidden("Your account has no e-mail address. Ask your administrator to add one."));
    }
    let first = cut(&first, 100);
    let first = if first.is_empty() { cut(&email, 100) } else { first };
    let last = cut(&last, 100);
    let verified = claims.email_verified != Some(false);
    let transaction = connection.begin().await?;
    let known = transaction
        .first(
            r#"SELECT "Id", "IsActive" FROM "Users"
               WHERE "Subject" = $1 OR ("Subject" IS NULL AND $3 AND lower("Email") = lower($2))
               ORDER BY "Subject" NULLS LAST LIMIT 1 FOR UPDATE"#,
            &[&claims.sub, &email, &verified],
        )
        .await?;
    if known.as_ref().is_some_and(|row| !row.get::<_, bool>(1)) {
        return Err(Fault::Forbidden("Your account in Time Tracker is not active. Ask your administrator."));
    }
    let known: Option<i64> = known.map(|row| row.get(0));
    let row = match known {
        Some(id) => {
            transaction
                .first(
                    r#"UPDATE "Users" SET "Subject" = $2, "Email" = $3, "FirstName" = $4, "LastName" = $5, "Roles" = $6,
                           "LastSignInAt" = now()
                       WHERE "Id" = $1
                       RETURNING "Id", "Email", "FirstName", "LastName", "IsActive", "Roles", to_char("LastSignInAt", 'YYYY-MM-DD HH24:MI')"#,
                    &[&id, &claims.sub, &email, &first, &last, &roles],
                )
                .await
        }
        None => {
            transaction
                .first(
                    r#"INSERT INTO "Users" ("Subject", "Email", "FirstName", "LastName", "Roles", "LastSignInAt")
                       VALUES ($1, $2, $3, $4, $5, now())
                       ON CONFLICT ("Subject") DO UPDATE SET "LastSignInAt" = now()
                       RETURNING "Id", "Email", "FirstName", "LastName", "IsActive", "Roles", to_char("LastSignInAt", 'YYYY-MM-DD HH24:MI')"#,
                    &[&claims.sub, &email, &first, &last, &roles],
                )
                .await
        }
    };
    let taken = Fault::Forbidden("Another account already has your e-mail address. Ask your administrator.");
    let row = match row {
        Err(error) if error.constraint() == Some("UX_Users_Email") => return Err(taken),
        other => other?.ok_or(Fault::NotFound)?,
    };
    transaction.commit().await?;
    Ok(read(&row))
}

/// Everybody, by name.
///
/// # Errors
/// No database.
pub async fn list(connection: &impl Queries) -> Result<Vec<User>, Fault> {
    let rows = connection
        .query(
            r#"SELECT "Id", "Email", "FirstName", "LastName", "IsActive", "Roles", to_char("LastSignInAt", 'YYYY-MM-DD HH24:MI')
               FROM "Users" ORDER BY lower("LastName"), lower("FirstName"), "Id" LIMIT 1000"#,
            &[],
        )
        .await?;
    Ok(rows.iter().map(read).collect())
}

/// One person.
///
/// # Errors
/// There is no such person, or no database.
pub async fn get(connection: &impl Queries, id: i64) -> Result<User, Fault> {
    let row = connection
        .first(
            r#"SELECT "Id", "Email", "FirstName", "LastName", "IsActive", "Roles", to_char("LastSignInAt", 'YYYY-MM-DD HH24:MI')
               FROM "Users" WHERE "Id" = $1"#,
            &[&id],
        )
        .await?;
    row.as_ref().map(read).ok_or(Fault::NotFound)
}

/// Makes a person before their first sign-in.
///
/// # Errors
/// A field is not right, or somebody has the address already.
pub async fn create(connection: &mut Connection, by: i64, email: &str, first: &str, last: &str) -> Result<User, Fault> {
    let mut errors = FieldErrors::default();
    let (email, first, last) = (email.trim(), first.trim(), last.trim());
    let clean = |text: &str| !text.chars().any(char::is_control);
    let at = email.split_once('@').is_some_and(|(a, b)| !a.is_empty() && b.contains('.') && !b.contains('@'));
    if !at || email.chars().count() > 254 || email.contains(char::is_whitespace) || !clean(email) {
        errors.add("email", "Write an e-mail address such as ada@example.com.");
    }
    if first.is_empty() || first.chars().count() > 100 || !clean(first) {
        errors.add("firstName", "The first name has 1 to 100 characters.");
    }
    if last.chars().count() > 100 || !clean(last) {
        errors.add("lastName", "The last name has 100 characters at most.");
    }
    if !errors.is_empty() {
        return Err(Fault::Invalid(errors));
    }
    let transaction = connection.begin().await?;
    let made = transaction
        .first(
            r#"INSERT INTO "Users" ("Email", "FirstName", "LastName") VALUES ($1, $2, $3)
               ON CONFLICT DO NOTHING RETURNING "Id""#,
            &[&email, &first, &last],
        )
        .await?;
    let made = made.ok_or_else(|| Fault::Conflict("Somebody has this e-mail address already.".into()))?;
    let id: i64 = made.get(0);
    history::note(&transaction, Some(by), "user", &id.to_string(), "created", "").await?;
    let user = get(&transaction, id).await?;
    transaction.commit().await?;
    Ok(user)
}

/// Lets a person in or keeps them out; keeping out ends their sessions at once.
///
/// # Errors
/// There is no such person, or it is oneself.
pub async fn set_active(connection: &mut Connection, by: i64, id: i64, active: bool) -> Result<User, Fault> {
    if by == id {
        return Err(Fault::Forbidden("You cannot do this to your own account."));
    }
    let transaction = connection.begin().await?;
    let changed = transaction.execute(r#"UPDATE "Users" SET "IsActive" = $2 WHERE "Id" = $1"#, &[&id, &active]).await?;
    if changed == 0 {
        return Err(Fault::NotFound);
    }
    if !active {
        transaction.execute(r#"DELETE FROM "Sessions" WHERE "UserId" = $1"#, &[&id]).await?;
    }
    let action = if active { "activated" } else { "deactivated" };
    history::note(&transaction, Some(by), "user", &id.to_string(), action, "").await?;
    let user = get(&transaction, id).await?;
    transaction.commit().await?;
    Ok(user)
}
