//! Who calls: bearer tokens, verified once and then remembered by their hash for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use api::context::IdentityRef;
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use service::{Caller, Clock, Denied, Verifier};

use crate::config::Settings;

const REMEMBERED: usize = 4096;
/// A token is verified again after this many seconds, so that a withdrawn signing key counts.
const REMEMBERED_SECONDS: i64 = 300;
/// Bad tokens that are recorded a second; the rest are counted, so that garbage cannot fill the disk.
const RECORDED_A_SECOND: u32 = 20;

/// Verifies tokens.
pub struct Callers {
    verifier: Verifier,
    issuer: String,
    tenant: String,
    clock: Clock,
    known: Mutex<HashMap<[u8; 32], Known>>,
    bad: Mutex<Bad>,
}

struct Known {
    caller: Arc<Caller>,
    verified_s: i64,
    exp: i64,
}

#[derive(Default)]
struct Bad {
    second: i64,
    recorded: u32,
    left_out: u64,
}

impl Callers {
    pub fn new(verifier: Verifier, identity: &IdentityRef, clock: Clock) -> Self {
        let (issuer, tenant) = (identity.issuer.trim_end_matches('/').to_owned(), identity.tenant.clone());
        Self { verifier, issuer, tenant, clock, known: Mutex::default(), bad: Mutex::default() }
    }

    /// Where tokens come from: the issuer's URL and the tenant.
    pub fn issuer(&self) -> (&str, &str) {
        (&self.issuer, &self.tenant)
    }

    /// The caller whose token is in `authorization` and meant for this vault.
    pub async fn verify(&self, authorization: Option<&str>, settings: &Settings) -> Result<Arc<Caller>, Denied> {
        let Some(text) = authorization else { return Err(Denied::Missing) };
        let hash: [u8; 32] = digest(&SHA256, text.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes");
        let now = self.clock.now_s();
        if let Some(known) = self.lock().get(&hash)
            && now < known.exp
            && (0..REMEMBERED_SECONDS).contains(&(now - known.verified_s))
        {
            return Ok(known.caller.clone());
        }
        let caller = Arc::new(self.verifier.verify(authorization, |a| settings.is_audience(a)).await?);
        let exp = caller.claims.get("exp").and_then(Value::as_i64).unwrap_or_default();
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, k| now < k.exp && now - k.verified_s < REMEMBERED_SECONDS);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        known.insert(hash, Known { caller: caller.clone(), verified_s: now, exp });
        Ok(caller)
    }

    /// Forgets all tokens; after the configuration changed.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Whether one more bad token is recorded; if so, how many were left out since the last.
    pub fn record_bad(&self) -> Option<u64> {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now_s();
        if bad.second != now {
            (bad.second, bad.recorded) = (now, 0);
        }
        if bad.recorded >= RECORDED_A_SECOND {
            bad.left_out += 1;
            return None;
        }
        bad.recorded += 1;
        Some(std::mem::take(&mut bad.left_out))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
