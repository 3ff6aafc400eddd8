//! The operations: each is recorded in the audit spool before its answer leaves, and a change before it is committed.

use std::sync::{Arc, PoisonError, RwLock};

use api::{
    Secret,
    audit::Outcome,
    vault::{VaultConfig, VaultStatus},
};
use axum::{body::Bytes, http::StatusCode};
use rusqlite::{Transaction, TransactionBehavior};
use service::{Caller, Clock, Spool};

use crate::{
    Error, callers::Callers, config::Settings, operation::Operation, refusal::Refusal, seal::Key, store::Store,
};

/// The vault. One a process.
pub struct Vault {
    pub(crate) settings: RwLock<Arc<Settings>>,
    pub(crate) callers: Callers,
    pub(crate) store: Store,
    pub(crate) backup_key: Key,
    pub(crate) clock: Clock,
    pub(crate) spool: Spool,
    /// What audit records call this vault, such as `vault.main`.
    pub(crate) resource: String,
}

/// One authenticated request.
pub struct Ask {
    pub caller: Arc<Caller>,
    pub settings: Arc<Settings>,
    /// None where the path is not one of the API.
    pub operation: Option<Operation>,
    /// Host and port that ids speak of.
    pub authority: String,
    pub client: String,
    pub request: String,
    pub query: Query,
    pub body: zeroize::Zeroizing<Vec<u8>>,
}

/// What may stand behind the `?`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub api_version: Option<String>,
    pub max_results: Option<String>,
    pub skip_token: Option<String>,
}

/// A good answer, and what the record of it says more.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    /// Version and data key of the value that was read or written.
    pub version: Option<(String, u64)>,
    /// The secret's name, where the path does not say it.
    pub name: Option<String>,
}

impl Answer {
    pub fn json(value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("answers are JSON");
        Self { status: StatusCode::OK, body: body.into(), version: None, name: None }
    }

    #[must_use]
    pub fn of(self, version: &str, key: u64) -> Self {
        Self { version: Some((version.to_owned(), key)), ..self }
    }
}

impl Vault {
    pub fn new(
        settings: Settings,
        callers: Callers,
        store: Store,
        kek: &Secret,
        spool: Spool,
        clock: Clock,
    ) -> Result<Self, Error> {
        let resource = spool.source().to_owned();
        let settings = RwLock::new(Arc::new(settings));
        Ok(Self { settings, callers, store, backup_key: Key::backup(kek)?, clock, spool, resource })
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a configuration that was read again; recorded first.
    pub async fn reconfigure(&self, config: VaultConfig) -> Result<(), Error> {
        let settings = Settings::new(config)?;
        let mut event = self.spool.event("supervisor", "vault.reconfigure", &self.resource, Outcome::Ok);
        let assignments = serde_json::to_value(&settings.config.assignments).expect("assignments are JSON");
        event.detail.insert("assignments".into(), assignments);
        event.detail.insert("purge_protection".into(), settings.config.purge_protection.into());
        event.detail.insert("soft_delete_days".into(), settings.config.soft_delete_days.into());
        self.spool.append(event).await?;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.callers.forget();
        Ok(())
    }

    /// Records what became of `ask`, or refuses it.
    pub async fn record(&self, ask: &Ask, result: &Result<Answer, Refusal>) -> Result<(), Refusal> {
        if ask.settings.config.audit_off {
            return Ok(());
        }
        self.spool.append(self.event(ask, result)).await.map(|_| ()).map_err(|_| not_recorded())
    }

    fn event(&self, ask: &Ask, result: &Result<Answer, Refusal>) -> api::audit::Event {
        let mut object = format!("{}/secrets", self.resource);
        let restored = result.as_ref().ok().and_then(|a| a.name.as_deref());
        if let Some(name) = ask.operation.as_ref().and_then(Operation::name).or(restored) {
            object.push('/');
            object.push_str(name);
        }
        let (status, outcome) = match result {
            Ok(answer) => (answer.status, Outcome::Ok),
            Err(refusal) if refusal.is_denial() => (refusal.status, Outcome::Denied),
            Err(refusal) => (refusal.status, Outcome::Failed),
        };
        let action = ask.operation.as_ref().map_or("secret.unknown", Operation::action);
        let mut event = self.spool.event(&ask.caller.subject, action, &object, outcome);
        event.detail.insert("status".into(), status.as_u16().into());
        event.detail.insert("client".into(), ask.client.as_str().into());
        event.detail.insert("request".into(), ask.request.as_str().into());
        match result {
            Ok(answer) => {
                if let Some((version, key)) = &answer.version {
                    event.detail.insert("version".into(), version.as_str().into());
                    event.detail.insert("key".into(), (*key).into());
                }
            }
            Err(refusal) => {
                event.detail.insert("code".into(), refusal.inner.unwrap_or(refusal.code).into());
            }
        }
        event
    }

    /// Records a token that is none; answers whether the spool failed.
    pub async fn record_bad_token(&self, action: &str, client: &str, why: &str) -> Result<(), Refusal> {
        let Some(left_out) = self.callers.record_bad() else { return Ok(()) };
        let mut event = self.spool.event("anonymous", action, &format!("{}/secrets", self.resource), Outcome::Denied);
        event.detail.insert("status".into(), 401.into());
        event.detail.insert("client".into(), client.into());
        event.detail.insert("why".into(), why.into());
        if left_out > 0 {
            event.detail.insert("not_recorded_before".into(), left_out.into());
        }
        self.spool.append(event).await.map(|_| ()).map_err(|_| not_recorded())
    }

    /// Runs a change in a transaction: done, recorded, committed, in this order, so that nothing changes unrecorded. If the
    /// process dies before the commit, the record speaks of a change that was not made. Blocks on the disk.
    pub fn change(
        &self,
        ask: &Ask,
        act: impl FnOnce(&Transaction<'_>) -> Result<Answer, Refusal>,
    ) -> Result<Answer, Refusal> {
        self.purge_due()?;
        let mut db = self.store.db();
        let before = db.total_changes();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = act(&transaction);
        if result.is_err() {
            drop(transaction);
            self.append(ask, &result)?;
            return result;
        }
        self.append(ask, &result)?;
        if let Err(error) = transaction.commit() {
            let failed = Err(error.into());
            self.append(ask, &failed)?;
            return failed;
        }
        if db.total_changes() != before {
            self.store.forget();
        }
        result
    }

    fn append(&self, ask: &Ask, result: &Result<Answer, Refusal>) -> Result<(), Refusal> {
        if ask.settings.config.audit_off {
            return Ok(());
        }
        self.spool.append_blocking(self.event(ask, result)).map(|_| ()).map_err(|_| not_recorded())
    }

    /// Purges deleted secrets whose retention has ended. Blocks on the disk.
    pub fn purge_due(&self) -> Result<(), Refusal> {
        let mut db = self.store.db();
        let names = crate::rows::due(&db, self.clock.now_s())?;
        if names.is_empty() {
            return Ok(());
        }
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for name in names {
            let object = format!("{}/secrets/{name}", self.resource);
            let mut event = self.spool.event(&self.resource, "secret.purge", &object, Outcome::Ok);
            event.detail.insert("why".into(), "its retention has ended".into());
            self.spool.append_blocking(event).map_err(|_| not_recorded())?;
            crate::rows::purge(&transaction, &name)?;
        }
        transaction.commit()?;
        self.store.forget();
        Ok(())
    }

    /// Makes a fresh data key and seals everything under it. Blocks on the disk.
    pub fn renew_data_key(&self) -> Result<u64, Refusal> {
        let mut db = self.store.db();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let keys = self.store.renew_data_key(&transaction, self.clock.now_s())?;
        let id = keys.current();
        let mut event = self.spool.event("supervisor", "vault.renew-data-key", &self.resource, Outcome::Ok);
        event.detail.insert("key".into(), id.into());
        self.spool.append_blocking(event).map_err(|_| not_recorded())?;
        transaction.commit()?;
        self.store.set_keys(keys);
        self.store.forget();
        Ok(id)
    }

    /// What the control socket shows. Blocks on the disk.
    pub fn status(&self) -> Result<VaultStatus, Refusal> {
        let settings = self.settings();
        let (all, deleted) = crate::rows::count(&self.store.db())?;
        Ok(VaultStatus {
            name: settings.config.name.clone(),
            sku: if settings.config.premium { "premium" } else { "standard" }.into(),
            secrets: all - deleted,
            deleted,
            data_key: self.store.keys().current(),
            assignments: settings.config.assignments.len(),
            soft_delete_days: settings.config.soft_delete_days,
            purge_protection: settings.config.purge_protection,
            audited: self.spool.durable(),
        })
    }
}

fn not_recorded() -> Refusal {
    Refusal::unavailable("The access could not be recorded for audit, so it was not done; send the request again.")
}
