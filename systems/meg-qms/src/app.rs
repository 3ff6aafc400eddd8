//! What every handler has at hand, and which part of the whole this process is.

use std::{path::PathBuf, sync::Arc};

use jiff::{Zoned, civil::Date, tz::TimeZone};
use sdk::{
    Settings, SettingsError, TrustError,
    database::{Connection, Database, OpenError},
    oidc::{OidcError, RelyingParty},
    seal::{SealError, Sealer},
};

use crate::{directory::Directory, fault::Fault, link::Links, media::Shelf, redis::Redis};

/// Which part of the whole a stamp is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Knows who belongs where, signs in, hands down.
    Centre,
    /// Keeps all data of its people, takes who the centre hands down, sends its records up.
    Region,
    /// Everything on one machine, with nobody above.
    Alone,
}

impl Part {
    /// `MEG_ROLE`: `centre`, `region` or `alone` (also without it).
    ///
    /// # Errors
    /// Another word.
    pub fn from_settings(settings: &Settings) -> Result<Part, SettingsError> {
        match settings.optional("MEG_ROLE")? {
            Some("centre") => Ok(Part::Centre),
            Some("region") => Ok(Part::Region),
            None | Some("alone") => Ok(Part::Alone),
            Some(_) => Err(SettingsError::Wrong { name: "MEG_ROLE", expected: "one of: centre, region, alone" }),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the database cannot be used")]
    Database(#[from] OpenError),
    #[error("sign-in cannot be used")]
    Oidc(#[from] OidcError),
    #[error("a key cannot be used")]
    Seal(#[from] SealError),
    #[error("the certificate authorities cannot be used")]
    Trust(#[from] TrustError),
    #[error("the links to the other stamps cannot be used")]
    Link(#[from] crate::link::LinkError),
    #[error("the directory cannot be used")]
    Directory(#[from] crate::directory::DirectoryError),
    #[error("redis cannot be used")]
    Redis(#[from] crate::redis::RedisError),
}

/// Cloning shares everything.
#[derive(Clone)]
pub struct App {
    pub part: Part,
    /// The stamp's own name, which is the region's name where it is one.
    pub name: Arc<str>,
    /// The address people open, without a slash at its end.
    pub url: Arc<str>,
    pub database: Database,
    pub oidc: RelyingParty,
    pub sealer: Arc<Sealer>,
    pub links: Links,
    pub media: Arc<Shelf>,
    /// Cache and queue; without it pages are slower and jobs wait in the database.
    pub redis: Option<Redis>,
    /// A site's own directory, where there is one.
    pub directory: Option<Arc<Directory>>,
    pub zone: TimeZone,
    /// The content security policy of every page.
    pub policy: Arc<str>,
}

/// Where the issuer sends people back to.
pub const CALLBACK: &str = "/signin-oidc";
/// Where people come after signing out.
pub const SIGNED_OUT: &str = "/";

impl App {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<App, AppError> {
        let part = Part::from_settings(settings)?;
        let oidc = RelyingParty::from_settings(settings, CALLBACK)?;
        let key = settings.secret("SESSION_KEY", "at least 32 random characters, the same for all instances")?;
        let name = settings.optional("MEG_REGION")?.unwrap_or("site").to_owned();
        let url = settings.required("PUBLIC_URL", "the address people open, https://...")?;
        let zone = settings.optional("TIME_ZONE")?.unwrap_or("UTC");
        let wrong = SettingsError::Wrong { name: "TIME_ZONE", expected: "a time zone's name, such as Asia/Riyadh" };
        let zone = TimeZone::get(zone).map_err(|_| wrong)?;
        // Signing out is a form that ends at the issuer, so the issuer is the one other place a form may lead to.
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; \
             form-action 'self' {}; base-uri 'none'; frame-ancestors 'none'",
            oidc.issuer_origin()
        );
        Ok(App {
            part,
            links: Links::from_settings(settings, part, &name)?,
            name: name.into(),
            url: url.trim_end_matches('/').into(),
            database: Database::from_settings(settings, "ConnectionStrings__DefaultConnection")?,
            sealer: Arc::new(Sealer::new(&key)?),
            media: Arc::new(Shelf::from_settings(settings)?),
            redis: Redis::from_settings(settings)?,
            directory: Directory::from_settings(settings)?.map(Arc::new),
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

    /// Today where the site is.
    pub fn today(&self) -> Date {
        Zoned::now().with_time_zone(self.zone.clone()).date()
    }
}

/// Where the share called `name` is: `MOUNT_<NAME>` of the platform.
///
/// # Errors
/// The variable is not set.
pub fn mount(settings: &Settings, name: &'static str, holds: &'static str) -> Result<PathBuf, SettingsError> {
    Ok(PathBuf::from(settings.required(name, holds)?))
}
