//! The account: its store, its configuration, and the record of what is done with it.

use std::{
    cell::RefCell,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use api::{
    Secret,
    audit::{Event, Outcome},
    blob::{BlobConfig, BlobStatus, account_key},
};
use aws_lc_rs::hmac;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use service::{Clock, Spool, Verifier};

use crate::{
    Error,
    config::Settings,
    files::Files,
    refusal::Refusal,
    rows::{self, ContainerFacts},
    shared_key,
    time::{Tick, Ticks},
};

/// Bad credentials that are recorded a second; the rest are counted, so that garbage cannot fill the disk.
const RECORDED_A_SECOND: u32 = 20;

/// The account. One a process.
pub struct Store {
    settings: RwLock<Arc<Settings>>,
    pub verifier: Verifier,
    /// What a caller without credentials is told about where to get some.
    pub challenge: String,
    pub tenant: String,
    pub account_key: hmac::Key,
    pub root: Secret,
    pub clock: Clock,
    pub spool: Spool,
    /// What audit records call this account, such as `blob.images`.
    pub resource: String,
    pub files: Arc<Files>,
    db: Mutex<Connection>,
    ticks: Ticks,
    bad: Mutex<Bad>,
}

#[derive(Default)]
struct Bad {
    second: i64,
    recorded: u32,
    left_out: u64,
}

/// A change that is being made: all of it is stored, or nothing.
pub struct Change<'a> {
    pub db: &'a Transaction<'a>,
    pub store: &'a Store,
    pub settings: &'a Settings,
    pub now_us: i64,
    gone: RefCell<Vec<String>>,
}

impl Change<'_> {
    /// Files that may have lost who named them; those that nothing names once all of this is stored are removed.
    pub fn gone(&self, files: Vec<String>) {
        self.gone.borrow_mut().extend(files);
    }

    pub fn tick(&self) -> Tick {
        self.store.ticks.next(self.now_us)
    }

    /// A container that must be there.
    pub fn container(&self, name: &str) -> Result<ContainerFacts, Refusal> {
        rows::container(self.db, name)?.ok_or_else(|| Refusal::no_container(name))
    }
}

impl Store {
    /// Opens or makes the account in `dir`, and puts in order what a cut left there. Blocks on the disk.
    pub fn open(
        settings: Settings,
        dir: &Path,
        root: Secret,
        identity: &api::context::IdentityRef,
        verifier: Verifier,
        spool: Spool,
        clock: Clock,
    ) -> Result<Self, Error> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::disk(dir))?;
        let files = Files::open(dir.join("content"))?;
        let file = dir.join("blob.db");
        // SQLite gives its own files the mode of the database.
        let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
        made.map_err(Error::disk(&file))?;
        let db = rows::open(&file)?;
        files.tidy(&rows::files(&db)?)?;
        let ticks = Ticks::after(rows::last_mark(&db)?.as_deref());
        let key = shared_key::key(&account_key(&root)).expect("the account's key is base64");
        let store = Self {
            settings: RwLock::new(Arc::new(settings)),
            verifier,
            challenge: format!(
                "Bearer authorization_uri={}/{}/oauth2/authorize resource_id={}",
                identity.issuer,
                identity.tenant,
                api::blob::AUDIENCE
            ),
            tenant: identity.tenant.clone(),
            account_key: key,
            root,
            clock,
            resource: spool.source().to_owned(),
            spool,
            files: Arc::new(files),
            db: Mutex::new(db),
            ticks,
            bad: Mutex::default(),
        };
        store.make_declared()?;
        Ok(store)
    }

    /// Makes the declared containers that are not there.
    fn make_declared(&self) -> Result<(), Error> {
        let (settings, now_us) = (self.settings(), self.clock.now_us());
        let mut db = self.db();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for name in settings.config.containers.keys() {
            if rows::container(&transaction, name)?.is_none() {
                let etag = self.ticks.next(now_us).etag();
                let facts = ContainerFacts { etag, modified_us: now_us, ..ContainerFacts::default() };
                rows::set_container(&transaction, name, &facts)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a configuration that was read again; recorded first.
    pub async fn reconfigure(self: &Arc<Self>, config: BlobConfig) -> Result<(), Error> {
        let settings = Settings::new(config)?;
        let mut event = self.spool.event("supervisor", "blob.reconfigure", &self.resource, Outcome::Ok);
        let grants = serde_json::to_value(&settings.config.grants).expect("grants are JSON");
        event.detail.insert("grants".into(), grants);
        event.detail.insert("shared_key".into(), settings.config.shared_key.into());
        self.spool.append(event).await?;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        let store = self.clone();
        let made = tokio::task::spawn_blocking(move || store.make_declared()).await;
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// The database, for one at a time. Blocks. Transactions that a panic cut are rolled back by their drop.
    pub fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that blocks on the disk, off the runtime's threads.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Makes a change and its record: both last, or neither is. Blocks.
    pub fn change<T>(
        &self,
        event: Option<Event>,
        work: impl FnOnce(&Change<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let settings = self.settings();
        let mut db = self.db();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let change = Change {
            db: &transaction,
            store: self,
            settings: &settings,
            now_us: self.clock.now_us(),
            gone: RefCell::default(),
        };
        let done = work(&change)?;
        let gone = rows::loose(&transaction, change.gone.into_inner().into_iter().collect())?;
        if let Some(event) = event {
            self.spool.append_blocking(event)?;
        }
        transaction.commit()?;
        drop(db);
        self.files.remove(&gone);
        Ok(done)
    }

    /// The event of something done to `object` of this account.
    pub fn event(&self, actor: &str, action: &str, object: &str, outcome: Outcome, client: &str) -> Event {
        let slash = if object.is_empty() { "" } else { "/" };
        let mut event = self.spool.event(actor, action, &format!("{}{slash}{object}", self.resource), outcome);
        if !client.is_empty() {
            event.detail.insert("client".into(), client.into());
        }
        event
    }

    /// Records credentials that are none. What they say is not repeated: it is not known to be true.
    pub async fn record_bad(&self, action: &str, why: &str, client: &str) -> Result<(), Refusal> {
        let left_out = {
            let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.now_s();
            if bad.second != now {
                (bad.second, bad.recorded) = (now, 0);
            }
            if bad.recorded >= RECORDED_A_SECOND {
                bad.left_out += 1;
                return Ok(());
            }
            bad.recorded += 1;
            std::mem::take(&mut bad.left_out)
        };
        let mut event = self.event("anonymous", action, "", Outcome::Denied, client);
        event.detail.insert("why".into(), why.into());
        if left_out > 0 {
            event.detail.insert("not_recorded_before".into(), left_out.into());
        }
        self.spool.append(event).await?;
        Ok(())
    }

    /// What the control socket shows. Blocks on the disk.
    pub fn status(&self) -> Result<BlobStatus, Refusal> {
        let (containers, blobs, kept, used_bytes) = rows::counts(&self.db())?;
        Ok(BlobStatus {
            account: self.settings().config.account.clone(),
            containers,
            blobs,
            kept,
            used_bytes,
            audited: self.spool.durable(),
        })
    }
}
