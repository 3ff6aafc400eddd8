//! The issuer's public keys, fetched when a token names an unknown one.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::{OidcError, fetch};
use crate::https::Client;

/// Unknown key ids lead to one request in this time, however many tokens bring them.
const REFETCH: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Keys {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, DecodingKey>,
    fetched: Option<Instant>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    n: Option<String>,
    e: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
}

impl Keys {
    pub(super) async fn get(&self, kid: &str, https: &Client, jwks: &Url) -> Result<DecodingKey, OidcError> {
        // The lock is held over the request on purpose: a burst of tokens with a new key asks the issuer once.
        let mut state = self.state.lock().await;
        if let Some(key) = state.keys.get(kid) {
            return Ok(key.clone());
        }
        if state.fetched.is_none_or(|at| at.elapsed() >= REFETCH) {
            let set: KeySet = fetch(https, jwks, "keys").await?;
            state.keys = set.keys.into_iter().filter_map(readable).collect();
            state.fetched = Some(Instant::now());
        }
        state.keys.get(kid).cloned().ok_or(OidcError::Token("its key is not one of the issuer's"))
    }
}

fn readable(key: Key) -> Option<(String, DecodingKey)> {
    if key.kty != "RSA" || key.usage.is_some_and(|u| u != "sig") {
        return None;
    }
    Some((key.kid?, DecodingKey::from_rsa_components(&key.n?, &key.e?).ok()?))
}
