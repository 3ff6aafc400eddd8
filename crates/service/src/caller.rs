//! Who is calling: bearer tokens of the identity role, checked with its public keys.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{client::Client, context::IdentityRef};
use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::Clock;

/// Unknown key ids ask identity again at most this often, so that garbage tokens cannot flood it.
const REFETCH: Duration = Duration::from_secs(5);

/// A caller whose token is good.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token's `sub`: a resource such as `service.web`, `supervisor`, or a person's id.
    pub subject: String,
    pub groups: Vec<String>,
    pub claims: Map<String, Value>,
}

/// Why a caller was turned away.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("there is no bearer token")]
    Missing,
    #[error("the token is not for this service")]
    Audience,
    #[error("the token has expired or is not yet valid")]
    Expired,
    #[error("the token is not signed by this stamp's identity")]
    Signature,
    #[error("the token is not a token: {0}")]
    Malformed(String),
    #[error("the keys of identity could not be had")]
    Keys(#[source] Box<api::WireError>),
}

/// Checks tokens; keeps the keys when identity is down.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    identity: IdentityRef,
    client: Client,
    path: String,
    clock: Clock,
    keys: ArcSwap<HashMap<String, DecodingKey>>,
    fetched: Mutex<Option<Instant>>,
}

impl Verifier {
    /// A verifier of the tokens of `identity`; `client` leads to its base URL.
    pub fn new(identity: IdentityRef, client: Client, clock: Clock) -> Self {
        let path = identity.jwks.find("://").and_then(|at| identity.jwks[at + 3..].find('/').map(|s| at + 3 + s));
        let path = path.map_or_else(|| "/jwks".to_owned(), |at| identity.jwks[at..].to_owned());
        Self {
            inner: Arc::new(Inner {
                identity,
                client,
                path,
                clock,
                keys: ArcSwap::default(),
                fetched: Mutex::new(None),
            }),
        }
    }

    /// A verifier that knows `jwks` already (tests, or keys from a file).
    pub fn with_keys(identity: IdentityRef, jwks: &JwkSet, clock: Clock) -> Self {
        let verifier = Self::new(identity, Client::unix("/nonexistent"), clock);
        verifier.inner.keys.store(Arc::new(keys_of(jwks)));
        verifier
    }

    /// The caller named by an `Authorization` header whose token's audience passes `audience`.
    pub async fn verify(&self, authorization: Option<&str>, audience: impl Fn(&str) -> bool) -> Result<Caller, Denied> {
        let token = authorization
            .and_then(|a| a.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(Denied::Missing)?;
        let header = decode_header(token).map_err(|e| Denied::Malformed(e.to_string()))?;
        let kid = header.kid.ok_or_else(|| Denied::Malformed("no key id".into()))?;
        if header.alg != Algorithm::RS256 {
            return Err(Denied::Malformed("not RS256".into()));
        }
        if !self.inner.keys.load().contains_key(&kid) {
            self.fetch(&kid).await?;
        }
        let keys = self.inner.keys.load();
        let key = keys.get(&kid).ok_or(Denied::Signature)?;
        // Times are checked below by our own clock, which a scratch stamp can move.
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.set_issuer(&[&self.inner.identity.issuer]);
        validation.set_required_spec_claims(&["iss", "sub", "exp", "aud"]);
        let claims = decode::<Map<String, Value>>(token, key, &validation)
            .map_err(|e| match e.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature | jsonwebtoken::errors::ErrorKind::InvalidIssuer => {
                    Denied::Signature
                }
                _ => Denied::Malformed(e.to_string()),
            })?
            .claims;
        let now = self.inner.clock.now_s();
        let at = |name: &str| claims.get(name).and_then(Value::as_i64);
        if at("exp").is_none_or(|exp| exp <= now) || at("nbf").is_some_and(|nbf| nbf > now + 30) {
            return Err(Denied::Expired);
        }
        let for_us = match claims.get("aud") {
            Some(Value::String(one)) => audience(one),
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).any(&audience),
            _ => false,
        };
        if !for_us {
            return Err(Denied::Audience);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let groups = claims
            .get("groups")
            .and_then(Value::as_array)
            .map(|all| all.iter().filter_map(|g| g.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        Ok(Caller { subject, groups, claims })
    }

    async fn fetch(&self, kid: &str) -> Result<(), Denied> {
        // One fetch at a time; who waited here finds the keys of the one before.
        let mut fetched = self.inner.fetched.lock().await;
        if self.inner.keys.load().contains_key(kid) {
            return Ok(());
        }
        if fetched.is_some_and(|at| at.elapsed() < REFETCH) {
            return Err(Denied::Signature);
        }
        let jwks: JwkSet = self.inner.client.get(&self.inner.path).await.map_err(|e| Denied::Keys(Box::new(e)))?;
        *fetched = Some(Instant::now());
        self.inner.keys.store(Arc::new(keys_of(&jwks)));
        Ok(())
    }
}

fn keys_of(jwks: &JwkSet) -> HashMap<String, DecodingKey> {
    jwks.keys.iter().filter_map(|jwk| Some((jwk.common.key_id.clone()?, DecodingKey::from_jwk(jwk).ok()?))).collect()
}
