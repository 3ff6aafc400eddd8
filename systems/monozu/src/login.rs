//! How a program signs in to its database: `MZ_LOGIN` says it. `sql` takes the address with its password from `DATABASE_URL`,
//! for local development; `identity` takes a token of the platform's identity endpoint for a password, and holds none.

use sdk::{
    Settings, SettingsError,
    database::{self, Database, OpenError},
};

/// `MZ_LOGIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    Identity,
    Sql,
}

impl Login {
    fn of(settings: &Settings) -> Result<Login, SettingsError> {
        match settings.required("MZ_LOGIN", "how to sign in to the database: identity or sql")? {
            "identity" => Ok(Login::Identity),
            "sql" => Ok(Login::Sql),
            _ => Err(SettingsError::Wrong { name: "MZ_LOGIN", expected: "identity or sql" }),
        }
    }
}

/// The pool.
///
/// # Errors
/// A variable is missing or unreadable; nothing is connected yet.
pub fn open(settings: &Settings) -> Result<Database, OpenError> {
    match Login::of(settings)? {
        Login::Sql => Database::from_settings(settings, "DATABASE_URL"),
        Login::Identity => Err(SettingsError::Wrong { name: "MZ_LOGIN", expected: "sql" }.into()),
    }
}

/// One connection outside a pool, for migrations.
///
/// # Errors
/// A variable is missing or unreadable, or the database cannot be reached.
pub async fn connect_alone(settings: &Settings) -> Result<tokio_postgres::Client, OpenError> {
    match Login::of(settings)? {
        Login::Sql => database::connect_alone(settings, "DATABASE_URL").await,
        Login::Identity => Err(SettingsError::Wrong { name: "MZ_LOGIN", expected: "sql" }.into()),
    }
}
