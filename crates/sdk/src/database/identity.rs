//! Signing in to the database by identity: a token of the platform's identity endpoint in the place of a password.
//!
//! Asked for when a connection is made, and kept until shortly before it runs out; connections that are open go on after that.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use deadpool_postgres::Connect;
use http::{HeaderMap, HeaderValue, Method};
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_postgres::{Client as Session, Config, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use crate::{
    Secret, Settings, SettingsError, Trust, TrustError,
    https::{Client, HttpsError},
};

/// What a token is for, on Azure Database for PostgreSQL and here.
const RESOURCE: &str = "https://ossrdbms-aad.database.windows.net";
/// A token is asked for anew when no more than this is left of it: a connection may take a moment to be made.
const SPARE: Duration = Duration::from_secs(60);
/// After a failure nobody is asked for this long, so that a flood of requests does not become one of the endpoint.
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the identity endpoint does not answer")]
    Endpoint(#[source] HttpsError),
    #[error("the identity endpoint gave no token for the database: {status}: {said}")]
    Refused { status: u16, said: String },
    #[error("the identity endpoint gave no token for the database a moment ago: {0}")]
    Lately(String),
}

/// The tokens of this workload.
pub(super) struct Tokens {
    https: Client,
    endpoint: Url,
    header: HeaderValue,
    kept: Mutex<Kept>,
    /// Why the last one could not be had.
    failed: std::sync::Mutex<Option<TokenError>>,
}

#[derive(Default)]
struct Kept {
    token: Option<(Secret, SystemTime)>,
    failed: Option<(Instant, String)>,
}

#[derive(serde::Deserialize)]
struct Answer {
    access_token: String,
    /// Unix seconds; App Service sends them as a text.
    expires_on: serde_json::Value,
}

impl Tokens {
    /// None: the platform gives this workload no identity.
    ///
    /// # Errors
    /// The endpoint's variables cannot be read.
    pub fn from_settings(settings: &Settings) -> Result<Option<Arc<Tokens>>, TokensError> {
        let Some(endpoint) = settings.optional("IDENTITY_ENDPOINT")? else { return Ok(None) };
        let wrong = |name, expected| TokensError::Settings(SettingsError::Wrong { name, expected });
        let mut endpoint = Url::parse(endpoint).map_err(|_| wrong("IDENTITY_ENDPOINT", "a URL"))?;
        endpoint.query_pairs_mut().append_pair("resource", RESOURCE).append_pair("api-version", "2019-08-01");
        let header = settings.required("IDENTITY_HEADER", "what the identity endpoint asks for")?;
        let mut header = HeaderValue::from_str(header).map_err(|_| wrong("IDENTITY_HEADER", "a header's value"))?;
        header.set_sensitive(true);
        let https = Client::new(&Trust::from_settings(settings, &[])?)?;
        Ok(Some(Arc::new(Tokens { https, endpoint, header, kept: Mutex::default(), failed: Default::default() })))
    }

    /// A token that opens the database now.
    ///
    /// # Errors
    /// The endpoint gives none.
    pub async fn token(&self) -> Result<Secret, TokenError> {
        // One asks; the others wait for its answer.
        let mut kept = self.kept.lock().await;
        if let Some((token, until)) = &kept.token
            && SystemTime::now() + SPARE < *until
        {
            return Ok(token.clone());
        }
        if let Some((at, why)) = &kept.failed
            && at.elapsed() < PAUSE
        {
            return Err(TokenError::Lately(why.clone()));
        }
        match self.ask().await {
            Ok((token, until)) => {
                *kept = Kept { token: Some((token.clone(), until)), failed: None };
                Ok(token)
            }
            Err(error) => {
                kept.failed = Some((Instant::now(), error.to_string()));
                Err(error)
            }
        }
    }

    async fn ask(&self) -> Result<(Secret, SystemTime), TokenError> {
        let headers = HeaderMap::from_iter([("x-identity-header".parse().expect("a header"), self.header.clone())]);
        let answer = self.https.send(Method::GET, &self.endpoint, headers, Bytes::new()).await;
        let answer = answer.map_err(TokenError::Endpoint)?;
        let status = answer.status.as_u16();
        let said = |text: &str| TokenError::Refused { status, said: text.chars().take(200).collect() };
        if !answer.status.is_success() {
            return Err(said(&String::from_utf8_lossy(&answer.body)));
        }
        let body: Answer = serde_json::from_slice(&answer.body).map_err(|_| said("no token in its answer"))?;
        let until = match &body.expires_on {
            serde_json::Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let until: u64 = until.ok_or_else(|| said("no `expires_on` in its answer"))?;
        Ok((Secret::new(body.access_token), UNIX_EPOCH + Duration::from_secs(until)))
    }

    /// The database refused it: another is asked for at the next connection.
    async fn forget(&self) {
        self.kept.lock().await.token = None;
    }

    /// Why the last connection had no token, once.
    pub fn why(&self) -> Option<TokenError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why signing in by identity cannot even begin.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("no authority to trust")]
    Trust(#[from] TrustError),
}

/// Makes connections, each with a token that is good at that moment.
pub(super) struct ByIdentity {
    pub tls: MakeRustlsConnect,
    pub tokens: Arc<Tokens>,
}

impl ByIdentity {
    /// A connection with a token; its driver runs by itself.
    pub async fn made(&self, config: &Config) -> Result<(Session, JoinHandle<()>), tokio_postgres::Error> {
        let mut config = config.clone();
        match self.tokens.token().await {
            Ok(token) => config.password(token.reveal()),
            // Without a password the connection fails; this is why.
            Err(error) => {
                *self.tokens.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                &mut config
            }
        };
        let made = config.connect(self.tls.clone()).await;
        if let Err(error) = &made
            && matches!(error.code(), Some(c) if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(c))
        {
            self.tokens.forget().await;
        }
        let (client, connection) = made?;
        // Its error also reaches the client's pending statement.
        Ok((client, tokio::spawn(async move { drop(connection.await) })))
    }
}

type Made<'a> = Pin<Box<dyn Future<Output = Result<(Session, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>>;

impl Connect for ByIdentity {
    fn connect(&self, config: &Config) -> Made<'_> {
        let config = config.clone();
        Box::pin(async move { self.made(&config).await })
    }
}
