//! How a program signs in to its database: `MZ_LOGIN` says it. `sql` takes the address with its password from `DATABASE_URL`,
//! for local development. `identity` takes a token of the platform's identity endpoint for a password, and holds none: where
//! the database is, libpq's own variables say.

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
    fn of(settings: &Settings) -> Result<Login, OpenError> {
        match settings.required("MZ_LOGIN", "how to sign in to the database: identity or sql")? {
            "sql" => Ok(Login::Sql),
            // A password beside the identity would be one that works from elsewhere.
            "identity" if settings.optional("PGPASSWORD")?.is_some() => {
                Err(SettingsError::Wrong { name: "PGPASSWORD", expected: "unset: MZ_LOGIN is identity" }.into())
            }
            "identity" => Ok(Login::Identity),
            _ => Err(SettingsError::Wrong { name: "MZ_LOGIN", expected: "identity or sql" }.into()),
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
        Login::Identity => Database::from_libpq(settings),
    }
}

/// One connection outside a pool, for migrations.
///
/// # Errors
/// A variable is missing or unreadable, or the database cannot be reached.
pub async fn connect_alone(settings: &Settings) -> Result<tokio_postgres::Client, OpenError> {
    match Login::of(settings)? {
        Login::Sql => database::connect_alone(settings, "DATABASE_URL").await,
        Login::Identity => database::connect_alone_from_libpq(settings).await,
    }
}
