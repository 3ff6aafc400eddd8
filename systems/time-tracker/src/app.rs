//! What every handler has at hand.

use std::sync::Arc;

use jiff::{Zoned, civil::Date, tz::TimeZone};
use sdk::{
    Settings, SettingsError,
    database::{Connection, Database, OpenError},
    oidc::{OidcError, RelyingParty},
    seal::{SealError, Sealer},
};

use crate::{access::RoleNames, fault::Fault};

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the database cannot be used")]
    Database(#[from] OpenError),
    #[error("sign-in cannot be used")]
    Oidc(#[from] OidcError),
    #[error("SESSION_KEY cannot be used")]
    Seal(#[from] SealError),
}

/// Cloning shares everything.
#[derive(Clone)]
pub struct App {
    pub database: Database,
    pub oidc: RelyingParty,
    pub sealer: Arc<Sealer>,
    pub role_names: Arc<RoleNames>,
    pub zone: TimeZone,
    /// The content security policy of every page.
    pub policy: Arc<str>,
}

/// Where the issuer sends people back to.
pub const CALLBACK: &str = "/signin-oidc";
/// Where the issuer sends people after signing out.
pub const SIGNED_OUT: &str = "/signout-callback-oidc";

impl App {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<App, AppError> {
        let oidc = RelyingParty::from_settings(settings, CALLBACK)?;
        let key = settings.secret("SESSION_KEY", "at least 32 random characters, the same for all instances")?;
        let name = settings.optional("TIME_ZONE")?.unwrap_or("UTC");
        let wrong = SettingsError::Wrong { name: "TIME_ZONE", expected: "a time zone's name, such as Europe/Berlin" };
        let zone = TimeZone::get(name).map_err(|_| wrong)?;
        // Signing out is a form that ends at the issuer, so the issuer is the one other place a form may lead to.
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
             form-action 'self' {}; base-uri 'none'; frame-ancestors 'none'",
            oidc.issuer_origin()
        );
        Ok(App {
            database: Database::from_settings(settings, "ConnectionStrings__DefaultConnection")?,
            sealer: Arc::new(Sealer::new(&key)?),
            role_names: Arc::new(RoleNames::from_settings(settings)?),
            oidc,
            zone,
            policy: policy.into(),
        })
    }

    /// A database connection for one request.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn connection(&self) -> Result<Connection, Fault> {
        Ok(self.database.get().await?)
    }

    /// Today where the office is.
    pub fn today(&self) -> Date {
        Zoned::now().with_time_zone(self.zone.clone()).date()
    }
}
