//! Tokens of the workload's own identity (App Service's managed identity endpoint, api-version 2019-08-01).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use crate::{
    Secret, Settings, SettingsError, Trust, TrustError,
    https::{Client, HttpsError},
};

/// A token is asked for anew this long before it ends.
const EARLY: Duration = Duration::from_secs(120);

/// The workload's identity. Clones share their tokens.
#[derive(Clone)]
pub struct Identity {
    endpoint: Url,
    header: Secret,
    client: Client,
    /// By audience.
    tokens: Arc<Mutex<HashMap<String, Token>>>,
}

#[derive(Clone)]
struct Token {
    text: Secret,
    until: SystemTime,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("IDENTITY_ENDPOINT is not a URL")]
    Endpoint,
    #[error("TLS cannot be set up for the identity endpoint")]
    Trust(#[from] TrustError),
    #[error("the identity endpoint cannot be reached")]
    Unreachable(#[from] HttpsError),
    #[error("the identity endpoint answered {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("the identity endpoint's answer cannot be understood")]
    Answer(#[source] serde_json::Error),
}

impl IdentityError {
    /// Whether the fault may pass, so that trying again may help.
    pub fn is_outage(&self) -> bool {
        matches!(self, IdentityError::Unreachable(_) | IdentityError::Refused { status: 429 | 500.., .. })
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_on: serde_json::Value,
}

impl Identity {
    /// The identity that `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` lead to. Nothing is asked for yet.
    ///
    /// # Errors
    /// One of the variables is missing or wrong.
    pub fn from_settings(settings: &Settings, trust: &Trust) -> Result<Identity, IdentityError> {
        let endpoint = settings.required("IDENTITY_ENDPOINT", "where this workload gets its tokens")?;
        let header = settings.secret("IDENTITY_HEADER", "what the identity endpoint knows this workload by")?;
        Ok(Identity {
            endpoint: Url::parse(endpoint).map_err(|_| IdentityError::Endpoint)?,
            header,
            client: Client::new(trust)?,
            tokens: Arc::default(),
        })
    }

    /// A token for `audience`, such as `https://storage.azure.com`; the kept one while it lasts.
    ///
    /// # Errors
    /// The endpoint does not answer, or refuses.
    pub async fn token(&self, audience: &str) -> Result<Secret, IdentityError> {
        // One asks, the others wait for what it gets.
        let mut tokens = self.tokens.lock().await;
        if let Some(token) = tokens.get(audience).filter(|token| token.until > SystemTime::now()) {
            return Ok(token.text.clone());
        }
        let mut url = self.endpoint.clone();
        url.query_pairs_mut().append_pair("resource", audience).append_pair("api-version", "2019-08-01");
        let mut headers = HeaderMap::new();
        let mut header = HeaderValue::from_str(self.header.reveal())
            .map_err(|_| SettingsError::Wrong { name: "IDENTITY_HEADER", expected: "the text of an HTTP field" })?;
        header.set_sensitive(true);
        headers.insert(HeaderName::from_static("x-identity-header"), header);
        let answer = self.client.send(Method::GET, &url, headers, Bytes::new()).await?;
        if !answer.status.is_success() {
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let message = body["message"].as_str().unwrap_or("it does not say why").to_owned();
            return Err(IdentityError::Refused { status: answer.status.as_u16(), message });
        }
        let read: Answer = serde_json::from_slice(&answer.body).map_err(IdentityError::Answer)?;
        // Unix seconds, as a number or as text.
        let ends = read.expires_on.as_u64().or_else(|| read.expires_on.as_str()?.parse().ok()).unwrap_or(0);
        let until = UNIX_EPOCH + Duration::from_secs(ends).saturating_sub(EARLY);
        let token = Token { text: Secret::new(read.access_token), until };
        tokens.insert(audience.to_owned(), token.clone());
        Ok(token.text)
    }

    /// Forgets the token for `audience`: a server says that it is none.
    pub async fn forget(&self, audience: &str) {
        self.tokens.lock().await.remove(audience);
    }
}
