//! What every handler has at hand.

use std::sync::Arc;

use sdk::{
    Settings, SettingsError,
    database::{Connection, Database, OpenError},
    oidc::{OidcError, RelyingParty},
    seal::{SealError, Sealer},
};

use crate::{
    fault::Fault,
    images::{Images, ImagesError},
    progress::Progress,
};

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the database cannot be used")]
    Database(#[from] OpenError),
    #[error("sign-in cannot be used")]
    Oidc(#[from] OidcError),
    #[error("SESSION_KEY or PROMPT_KEY cannot be used")]
    Seal(#[from] SealError),
    #[error("the image store cannot be used")]
    Images(#[from] ImagesError),
}

/// Cloning shares everything.
#[derive(Clone)]
pub struct App {
    pub database: Database,
    pub oidc: RelyingParty,
    /// Seals cookies and sessions.
    pub sealer: Arc<Sealer>,
    /// Seals prompts: the worker has this key too, and not the other.
    pub prompts: Arc<Sealer>,
    pub images: Images,
    pub progress: Progress,
    /// The content security policy of every page.
    pub policy: Arc<str>,
    /// The origin that people open, which a WebSocket must come from.
    pub origin: Arc<str>,
}

/// Where the issuer sends people back to.
pub const CALLBACK: &str = "/api/v1/auth/callback";
/// Where the issuer sends people after signing out.
pub const SIGNED_OUT: &str = "/signed-out";

/// The key that prompts are sealed with, from `PROMPT_KEY`.
///
/// # Errors
/// It is missing or too short.
pub fn prompts(settings: &Settings) -> Result<Arc<Sealer>, AppError> {
    let key = settings.secret("PROMPT_KEY", "at least 32 random characters, the same for api and worker")?;
    Ok(Arc::new(Sealer::new(&key)?))
}

impl App {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<App, AppError> {
        let oidc = RelyingParty::from_settings(settings, CALLBACK)?;
        let key = settings.secret("SESSION_KEY", "at least 32 random characters, the same for all instances")?;
        // Signing out is a form that ends at the issuer, so the issuer is the one other place a form may lead to.
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
             form-action 'self' {}; base-uri 'none'; frame-ancestors 'none'",
            oidc.issuer_origin()
        );
        let public = settings.required("PUBLIC_URL", "the address people open, https://...")?;
        let wrong = SettingsError::Wrong { name: "PUBLIC_URL", expected: "an address such as https://images.example" };
        let origin = url::Url::parse(public).map_err(|_| wrong)?.origin().ascii_serialization();
        let database = Database::from_settings(settings, "ConnectionStrings__DefaultConnection")?;
        Ok(App {
            images: Images::from_settings(settings, &database)?,
            database,
            sealer: Arc::new(Sealer::new(&key)?),
            prompts: prompts(settings)?,
            progress: Progress::default(),
            oidc,
            policy: policy.into(),
            origin: origin.into(),
        })
    }

    /// A database connection for one request.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn connection(&self) -> Result<Connection, Fault> {
        Ok(self.database.get().await?)
    }
}
