//! Sign-in as an OpenID Connect relying party: discovery, code flow with PKCE, ID tokens checked by the issuer's keys.
//!
//! The state between leaving for the issuer and coming back is sealed into a short-lived cookie, so any instance can finish
//! a sign-in that another began. Nothing is fetched before the first sign-in: the application starts without its issuer.

mod keys;

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Secret, Settings, SettingsError, Trust, TrustError,
    https::{Client, HttpsError},
    seal::{SealError, Sealer, random_text, sha256_text},
};
use keys::Keys;

/// A sign-in that takes longer than this is begun anew.
const SIGN_IN_SECONDS: u64 = 600;
/// A discovery document is asked for again after this; the old one is kept while the issuer is away.
const DISCOVERY_LIFE: Duration = Duration::from_secs(3600);
const PURPOSE: &str = "oidc sign-in";

#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0} is not a URL")]
    Url(&'static str),
    #[error("the issuer's certificate authority is unusable")]
    Trust(#[from] TrustError),
    #[error("the issuer cannot be reached")]
    Unreachable(#[from] HttpsError),
    #[error("the issuer's {what} cannot be understood")]
    Answer { what: &'static str, source: serde_json::Error },
    #[error("the issuer answered {status} for its {what}")]
    Status { what: &'static str, status: u16 },
    #[error("the discovery document names another issuer than the configured one")]
    OtherIssuer,
    #[error("this sign-in was not begun here, has expired or was already finished")]
    State,
    #[error("the issuer refused the sign-in: {0}")]
    Refused(String),
    #[error("the ID token is not acceptable: {0}")]
    Token(&'static str),
    #[error("the ID token's signature or times are not acceptable")]
    Jwt(#[from] jsonwebtoken::errors::Error),
    #[error("sealing failed")]
    Seal(#[from] SealError),
}

impl OidcError {
    /// Whether the fault is the issuer's or the network's, so that trying again may help.
    pub fn is_outage(&self) -> bool {
        matches!(self, OidcError::Unreachable(_) | OidcError::Status { status: 500.., .. })
    }
}

/// What a relying party must know of its issuer (OpenID Connect Discovery 1.0).
#[derive(Clone, Debug, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: Url,
    token_endpoint: Url,
    jwks_uri: Url,
    end_session_endpoint: Option<Url>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// The checked claims of an ID token.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Claims {
    /// The issuer's lasting name of the person.
    pub sub: String,
    pub email: Option<String>,
    pub email_verified: Option<bool>,
    pub name: Option<String>,
    pub given_name: Option<String>,
    pub family_name: Option<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    /// The directory tenant, where the issuer has several (Entra).
    pub tid: Option<String>,
    /// Unix seconds.
    pub exp: u64,
    nonce: Option<String>,
    azp: Option<String>,
    #[serde(default)]
    aud: serde_json::Value,
}

/// The way to the issuer: where to send the browser, and the cookie to give it.
pub struct Start {
    pub location: Url,
    /// Sealed; keep it as an HttpOnly cookie for ten minutes at most.
    pub cookie: String,
}

/// The query with which the issuer sends the browser back.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Callback {
    pub code: Option<String>,
    pub state: Option<String>,
    pub error: Option<String>,
    pub iss: Option<String>,
}

/// A finished sign-in.
pub struct SignedIn {
    pub claims: Claims,
    /// The ID token as received, for [`RelyingParty::end_session`].
    pub id_token: String,
    /// Where the person wanted to go: a path of this application.
    pub return_to: String,
}

#[derive(Serialize, Deserialize)]
struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
    until: u64,
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: String,
}

/// The application's side of sign-in. Cloning shares the caches.
#[derive(Clone)]
pub struct RelyingParty {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: String,
    client_id: String,
    client_secret: Secret,
    public_url: Url,
    redirect_path: String,
    https: Client,
    discovery: RwLock<Option<(Instant, Arc<Discovery>)>>,
    keys: Keys,
}

impl RelyingParty {
    /// Reads `OIDC_ISSUER`, `OIDC_CLIENT_ID`, `OIDC_CLIENT_SECRET` and `PUBLIC_URL`; the redirect URI is `PUBLIC_URL` with
    /// `redirect_path`. The issuer is verified against `SSL_CERT_FILE` or the system's authorities.
    ///
    /// # Errors
    /// A variable is missing or unreadable.
    pub fn from_settings(settings: &Settings, redirect_path: &str) -> Result<RelyingParty, OidcError> {
        let url = |name, holds| -> Result<Url, OidcError> {
            Url::parse(settings.required(name, holds)?).map_err(|_| OidcError::Url(name))
        };
        let issuer = url("OIDC_ISSUER", "the sign-in service's address, https://...")?;
        let public_url = url("PUBLIC_URL", "the address people open, https://...")?;
        let inner = Inner {
            issuer: issuer.as_str().trim_end_matches('/').to_owned(),
            client_id: settings.required("OIDC_CLIENT_ID", "this application's client id at the issuer")?.to_owned(),
            client_secret: settings.secret("OIDC_CLIENT_SECRET", "this application's secret at the issuer")?,
            public_url,
            redirect_path: redirect_path.to_owned(),
            https: Client::new(&Trust::from_settings(settings, &[])?)?,
            discovery: RwLock::default(),
            keys: Keys::default(),
        };
        Ok(RelyingParty { inner: Arc::new(inner) })
    }

    /// Begins a sign-in. `return_to` is a path of this application; anything else becomes `/`.
    ///
    /// # Errors
    /// The issuer cannot be reached or says nonsense.
    pub async fn start(&self, sealer: &Sealer, return_to: &str) -> Result<Start, OidcError> {
        let discovery = self.discovery().await?;
        let pending = Pending {
            state: random_text()?,
            nonce: random_text()?,
            verifier: random_text()?,
            return_to: local_path(return_to).to_owned(),
            until: now() + SIGN_IN_SECONDS,
        };
        let mut location = discovery.authorization_endpoint.clone();
        location
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.inner.client_id)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("scope", "openid profile email groups")
            .append_pair("state", &pending.state)
            .append_pair("nonce", &pending.nonce)
            .append_pair("code_challenge", &sha256_text(&pending.verifier))
            .append_pair("code_challenge_method", "S256");
        let value = serde_json::to_vec(&pending).map_err(|source| OidcError::Answer { what: "state", source })?;
        Ok(Start { location, cookie: sealer.seal(PURPOSE, &value)? })
    }

    /// Finishes a sign-in: exchanges the code and checks the ID token.
    ///
    /// # Errors
    /// The state does not belong to the cookie, the issuer refused, or the token is not acceptable.
    pub async fn finish(&self, sealer: &Sealer, callback: &Callback, cookie: &str) -> Result<SignedIn, OidcError> {
        let pending = sealer.open(PURPOSE, cookie).map_err(|_| OidcError::State)?;
        let pending: Pending = serde_json::from_slice(&pending).map_err(|_| OidcError::State)?;
        let state = Secret::new(pending.state);
        if pending.until < now() || !callback.state.as_deref().is_some_and(|s| state.matches(s)) {
            return Err(OidcError::State);
        }
        // RFC 9207: an answer that says whose it is must be the configured issuer's.
        if callback.iss.as_deref().is_some_and(|iss| iss.trim_end_matches('/') != self.inner.issuer) {
            return Err(OidcError::OtherIssuer);
        }
        if let Some(error) = &callback.error {
            let known: String = error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
            return Err(OidcError::Refused(known));
        }
        let code = callback.code.as_deref().ok_or(OidcError::State)?;
        let id_token = self.exchange(code, &pending.verifier).await?;
        let claims = self.verify(&id_token).await?;
        if claims.nonce.as_deref() != Some(pending.nonce.as_str()) {
            return Err(OidcError::Token("it was made for another sign-in"));
        }
        Ok(SignedIn { claims, id_token, return_to: pending.return_to })
    }

    /// Checks an ID token of the issuer for this client: signature (RS256), issuer, audience and times.
    ///
    /// # Errors
    /// The token is not acceptable, or its key is unknown and the issuer cannot be asked.
    pub async fn verify(&self, id_token: &str) -> Result<Claims, OidcError> {
        let discovery = self.discovery().await?;
        let header = jsonwebtoken::decode_header(id_token)?;
        if header.alg != jsonwebtoken::Algorithm::RS256 {
            return Err(OidcError::Token("its algorithm is not RS256"));
        }
        let kid = header.kid.ok_or(OidcError::Token("it names no key"))?;
        let key = self.inner.keys.get(&kid, &self.inner.https, &discovery.jwks_uri).await?;
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        rules.set_audience(&[&self.inner.client_id]);
        rules.set_issuer(&[&discovery.issuer]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.validate_nbf = true;
        let claims = jsonwebtoken::decode::<Claims>(id_token, &key, &rules)?.claims;
        let several = claims.aud.as_array().is_some_and(|a| a.len() > 1);
        if (several || claims.azp.is_some()) && claims.azp.as_deref() != Some(self.inner.client_id.as_str()) {
            return Err(OidcError::Token("it was issued to another client"));
        }
        Ok(claims)
    }

    /// Where to send the browser to sign out at the issuer too; `return_path` is where it comes back to. None when the
    /// issuer has no such place or cannot be reached: the own session has ended either way.
    pub async fn end_session(&self, id_token: Option<&str>, return_path: &str) -> Option<Url> {
        let mut url = self.discovery().await.ok()?.end_session_endpoint.clone()?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("client_id", &self.inner.client_id);
            query.append_pair("post_logout_redirect_uri", &self.absolute(return_path));
            if let Some(token) = id_token {
                query.append_pair("id_token_hint", token);
            }
        }
        Some(url)
    }

    /// The origin of the issuer, for a content security policy's `form-action`.
    pub fn issuer_origin(&self) -> String {
        Url::parse(&self.inner.issuer).map(|u| u.origin().ascii_serialization()).unwrap_or_default()
    }

    fn redirect_uri(&self) -> String {
        self.absolute(&self.inner.redirect_path)
    }

    fn absolute(&self, path: &str) -> String {
        format!("{}{path}", self.inner.public_url.as_str().trim_end_matches('/'))
    }

    async fn exchange(&self, code: &str, verifier: &str) -> Result<String, OidcError> {
        let discovery = self.discovery().await?;
        let (headers, body) = self.token_request(&discovery, code, verifier)?;
        let answer = self.inner.https.send(Method::POST, &discovery.token_endpoint, headers, body).await?;
        if answer.status.as_u16() == 400 {
            return Err(OidcError::State);
        }
        if !answer.status.is_success() {
            return Err(OidcError::Status { what: "tokens", status: answer.status.as_u16() });
        }
        let answer: TokenAnswer = understood("tokens", &answer.body)?;
        Ok(answer.id_token)
    }

    fn token_request(
        &self,
        discovery: &Discovery,
        code: &str,
        verifier: &str,
    ) -> Result<(HeaderMap, Bytes), OidcError> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("code_verifier", verifier);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let methods = &discovery.token_endpoint_auth_methods_supported;
        // client_secret_basic is the default of the specification when the issuer names no methods.
        if methods.is_empty() || methods.iter().any(|m| m == "client_secret_basic") {
            headers.insert(header::AUTHORIZATION, self.basic()?);
        } else {
            form.append_pair("client_id", &self.inner.client_id);
            form.append_pair("client_secret", self.inner.client_secret.reveal());
        }
        Ok((headers, Bytes::from(form.finish())))
    }

    fn basic(&self) -> Result<HeaderValue, OidcError> {
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pair = format!("{}:{}", escape(&self.inner.client_id), escape(self.inner.client_secret.reveal()));
        let value = format!("Basic {}", STANDARD.encode(pair));
        let mut value = HeaderValue::from_str(&value).map_err(|_| OidcError::Url("OIDC_CLIENT_ID"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn discovery(&self) -> Result<Arc<Discovery>, OidcError> {
        let known = self.inner.discovery.read().ok().and_then(|d| d.clone());
        if let Some((_, discovery)) = known.as_ref().filter(|(at, _)| at.elapsed() < DISCOVERY_LIFE) {
            return Ok(discovery.clone());
        }
        match (self.discover().await, known) {
            (Ok(found), _) => {
                if let Ok(mut slot) = self.inner.discovery.write() {
                    *slot = Some((Instant::now(), found.clone()));
                }
                Ok(found)
            }
            (Err(error), Some((_, old))) if error.is_outage() => Ok(old),
            (Err(error), _) => Err(error),
        }
    }

    async fn discover(&self) -> Result<Arc<Discovery>, OidcError> {
        let url = format!("{}/.well-known/openid-configuration", self.inner.issuer);
        let url = Url::parse(&url).map_err(|_| OidcError::Url("OIDC_ISSUER"))?;
        let found: Discovery = fetch(&self.inner.https, &url, "discovery document").await?;
        if found.issuer.trim_end_matches('/') != self.inner.issuer {
            return Err(OidcError::OtherIssuer);
        }
        Ok(Arc::new(found))
    }
}

/// GET `url` as JSON.
async fn fetch<T: for<'de> Deserialize<'de>>(https: &Client, url: &Url, what: &'static str) -> Result<T, OidcError> {
    let answer = https.send(Method::GET, url, HeaderMap::new(), Bytes::new()).await?;
    if !answer.status.is_success() {
        return Err(OidcError::Status { what, status: answer.status.as_u16() });
    }
    understood(what, &answer.body)
}

fn understood<T: for<'de> Deserialize<'de>>(what: &'static str, body: &[u8]) -> Result<T, OidcError> {
    serde_json::from_slice(body).map_err(|source| OidcError::Answer { what, source })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `text` if it is a path of this application, else `/`. `//host` and `/\host` lead elsewhere in a browser.
pub fn local_path(text: &str) -> &str {
    let other = text.starts_with("//") || text.chars().any(|c| c == '\\' || c.is_control());
    if text.starts_with('/') && !other { text } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_stays_in_the_application() {
        assert_eq!(local_path("/sheets/4?x=1"), "/sheets/4?x=1");
        for bad in
            ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\r\nSet-Cookie: x", "javascript:x"]
        {
            assert_eq!(local_path(bad), "/", "{bad:?}");
        }
    }
}
