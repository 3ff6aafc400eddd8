//! What every route shares.

use std::{net::IpAddr, ops::Deref, sync::Arc, time::Duration};

use api::{
    Secret,
    audit::{Event, Outcome},
};
use arc_swap::ArcSwap;
use serde_json::{Map, Value};
use service::{Clock, Spool};

use crate::{
    config::Settings, error::Error, keys::Keys, limit::Limiter, outside::Ways, password::Passwords, store::Store,
};

/// Cheap to clone; routes take it as their state.
#[derive(Clone)]
pub struct App(Arc<Inner>);

pub struct Inner {
    pub settings: ArcSwap<Settings>,
    pub store: Store,
    pub keys: Keys,
    pub passwords: Passwords,
    /// Failed sign-ins by e-mail.
    pub accounts: Limiter<String>,
    /// Failed sign-ins by address. Many people may share one, so it is more patient and never holds up for long.
    pub addresses: Limiter<Option<IpAddr>>,
    /// Refusals of callers who proved nothing, that are recorded one by one; beyond, they are refused without a record, so
    /// that nobody can fill the disk with them.
    pub refusals: Limiter<Option<IpAddr>>,
    /// To outside issuers, a directory, and the vault.
    pub ways: Ways,
    pub spool: Spool,
    pub clock: Clock,
    /// Workload keys and client secrets derive from it.
    pub root: Secret,
    /// Form tokens derive from it.
    pub form_key: Secret,
    pub system: String,
    pub stamp: String,
    /// Its own name, such as `identity.main`.
    pub resource: String,
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Limits of sign-in by e-mail: five free failures, then 5 s, 10 s, 20 s ... five minutes.
    pub fn account_limiter() -> Limiter<String> {
        Limiter::new(5, Duration::from_secs(5), Duration::from_secs(300))
    }

    /// Limits of sign-in by address.
    pub fn address_limiter() -> Limiter<Option<IpAddr>> {
        Limiter::new(30, Duration::from_secs(1), Duration::from_secs(30))
    }

    /// Limits of what is recorded about callers who proved nothing.
    pub fn refusal_limiter() -> Limiter<Option<IpAddr>> {
        Limiter::new(20, Duration::from_secs(1), Duration::from_secs(60))
    }

    /// Unix seconds.
    pub fn now(&self) -> i64 {
        self.clock.now_s()
    }

    /// Records what happened, durably, before it is answered. `object` is below this role, such as `people/ID`.
    pub async fn record(
        &self,
        actor: &str,
        action: &str,
        object: &str,
        outcome: Outcome,
        detail: &[(&str, Value)],
    ) -> Result<(), Error> {
        let detail: Map<String, Value> =
            detail.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let object = format!("{}/{object}", self.resource);
        let event = Event { detail, ..self.spool.event(actor, action, &object, outcome) };
        self.spool.append(event).await.map(drop).map_err(|e| Error::Audit(Box::new(e)))
    }

    /// The secret of an OIDC client.
    pub fn client_secret(&self, id: &str) -> Secret {
        self.root.derive(&format!("client:{id}"))
    }

    /// The token that makes a form of this browser ours.
    pub fn form_token(&self, browser: &str, session: Option<&str>) -> Secret {
        self.form_key.derive(&format!("{browser}|{}", session.unwrap_or("-")))
    }
}
