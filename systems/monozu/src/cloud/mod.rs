//! Cloud: what the people of a tenant and their devices use, each fenced into their tenant by the database.

mod access;
mod auth;
mod devices;
mod internal;
mod live;
mod openapi;
mod passwords;
mod records;
mod routes;
mod snaps;
mod staff_pages;
mod tell;

use std::sync::Arc;

use sdk::{
    Secret, Settings, SettingsError, Trust, TrustError,
    database::{Connection, Database, OpenError},
    https::Client,
};
use url::Url;

pub use access::{INTERNAL_TOKEN, Right, Token, plausible};
pub use routes::{Route, all, router};
pub use snaps::{CONTAINER, Store, StoreError, object};
pub use tell::beside;

use crate::{
    fault::Fault,
    ingest::limit::Limits,
    login,
    staff::{Staff, StaffError},
    webhook::Signer,
};

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the database cannot be used")]
    Database(#[from] OpenError),
    #[error("MANAGEMENT_API_URL is not a URL")]
    Management,
    #[error("the store of snaps cannot be used")]
    Store(#[from] StoreError),
    #[error("staff cannot sign in")]
    Staff(#[from] StaffError),
    #[error("outgoing TLS cannot be set up")]
    Trust(#[from] TrustError),
}

/// What every handler has at hand. Cloning shares everything.
#[derive(Clone)]
pub struct App {
    pub database: Database,
    inner: Arc<Inner>,
}

struct Inner {
    tokens: access::Tokens,
    passwords: passwords::Passwords,
    internal_token: Secret,
    publish_token: Secret,
    signer: Signer,
    management: Url,
    https: Client,
    store: Store,
    staff: Staff,
    live: live::Room,
    registrations: Limits,
}

impl App {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<App, AppError> {
        let key = settings.secret("SECRET_KEY", "at least 32 random characters; signs tokens")?;
        let address = settings.required("MANAGEMENT_API_URL", "where Management answers, http(s)://...")?;
        let trust = Trust::from_settings(settings, &[])?;
        let inner = Inner {
            tokens: access::Tokens::new(&key)?,
            passwords: passwords::Passwords::default(),
            internal_token: settings.secret("CLOUD_INTERNAL_API_TOKEN", "what Cloud and Management show each other")?,
            publish_token: settings.secret("SNAP_PUBLISH_TOKEN", "what whoever publishes snaps shows")?,
            signer: Signer::new(&settings.secret("CLOUD_WEBHOOK_HMAC_SECRET", "what signs webhooks")?),
            management: Url::parse(address).map_err(|_| AppError::Management)?,
            https: Client::new(&trust)?,
            store: Store::from_settings(settings, &trust)?,
            staff: Staff::from_settings(settings, "", &key)?,
            live: live::Room::default(),
            registrations: Limits::of(20, 5.0),
        };
        Ok(App { database: login::open(settings)?, inner: Arc::new(inner) })
    }

    /// A database connection for one request.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn connection(&self) -> Result<Connection, Fault> {
        Ok(self.database.get().await?)
    }
}
