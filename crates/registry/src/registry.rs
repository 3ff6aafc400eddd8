//! The registry: its store, its configuration, and the record of what is done with it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use api::{
    Secret,
    audit::{Event, Outcome},
    registry::{ADMIN_KEY, RegistryConfig, RegistryStatus},
};
use rusqlite::Connection;
use service::{Clock, Spool, Verifier};

use crate::{Error, blobs::Upload, config::Settings, names::Digest, refusal::Refusal, rows, token::Tokens};

/// Bad credentials that are recorded a second; the rest are counted, so that garbage cannot fill the disk.
const RECORDED_A_SECOND: u32 = 20;

/// The registry. One a process.
pub struct Registry {
    settings: RwLock<Arc<Settings>>,
    pub verifier: Verifier,
    pub tokens: Tokens,
    /// The admin user's password.
    pub admin: Secret,
    pub clock: Clock,
    pub spool: Spool,
    /// What audit records call this registry, such as `registry.main`.
    pub resource: String,
    dir: PathBuf,
    db: Mutex<Connection>,
    /// Uploads that this process has open, by id.
    pub uploads: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Upload>>>>,
    /// Read while something is put in place, written while something is removed: what is just being named stays.
    pub keeping: tokio::sync::RwLock<()>,
    /// Bytes of blobs and manifests.
    used: AtomicU64,
    /// Bytes of uploads that are not finished.
    coming: AtomicU64,
    bad: Mutex<Bad>,
}

#[derive(Default)]
struct Bad {
    second: i64,
    recorded: u32,
    left_out: u64,
}

impl Registry {
    /// Opens or makes the registry in `dir`, and puts in order what a cut left there. Blocks on the disk.
    pub fn open(
        settings: Settings,
        dir: &Path,
        root: &Secret,
        verifier: Verifier,
        spool: Spool,
        clock: Clock,
    ) -> Result<Self, Error> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        for folder in [dir.to_owned(), dir.join("uploads"), dir.join("blobs/sha256")] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(Error::disk(&folder))?;
        }
        let file = dir.join("registry.db");
        // SQLite gives its own files the mode of the database.
        let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
        made.map_err(Error::disk(&file))?;
        let db = rows::open(&file)?;
        let coming = crate::sweep::tidy(&db, dir)?;
        let used = rows::used(&db)?;
        let resource = spool.source().to_owned();
        Ok(Self {
            settings: RwLock::new(Arc::new(settings)),
            verifier,
            tokens: Tokens::new(root, &resource),
            admin: root.derive(ADMIN_KEY),
            clock,
            spool,
            resource,
            dir: dir.to_owned(),
            db: Mutex::new(db),
            uploads: Mutex::default(),
            keeping: tokio::sync::RwLock::default(),
            used: AtomicU64::new(used),
            coming: AtomicU64::new(coming),
            bad: Mutex::default(),
        })
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a configuration that was read again; recorded first.
    pub async fn reconfigure(&self, config: RegistryConfig) -> Result<(), Error> {
        let settings = Settings::new(config)?;
        let mut event = self.spool.event("supervisor", "registry.reconfigure", &self.resource, Outcome::Ok);
        let grants = serde_json::to_value(&settings.config.grants).expect("grants are JSON");
        event.detail.insert("grants".into(), grants);
        event.detail.insert("admin_user".into(), settings.config.admin_user.into());
        self.spool.append(event).await?;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        Ok(())
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
        let registry = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&registry)).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Where a blob lies.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        blob_file(&self.dir, digest.hex())
    }

    /// Where the bytes of an upload lie. `id` is one of ours: from the database, never from a request.
    pub fn upload_file(&self, id: &str) -> PathBuf {
        self.dir.join("uploads").join(id)
    }

    /// Takes room for `bytes` that come.
    pub fn take(&self, bytes: u64) -> Result<(), Refusal> {
        self.has_room(bytes)?;
        self.coming.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives room back that was taken for what came.
    pub fn give_back(&self, bytes: u64) {
        let less = |coming: u64| Some(coming.saturating_sub(bytes));
        let _ = self.coming.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Refuses what would be more than the registry's size holds.
    pub fn has_room(&self, bytes: u64) -> Result<(), Refusal> {
        let settings = self.settings();
        let Some(limit) = settings.config.tier.storage_bytes() else { return Ok(()) };
        let there = self.used.load(Ordering::Relaxed).saturating_add(self.coming.load(Ordering::Relaxed));
        if there.saturating_add(bytes) > limit {
            return Err(Refusal::no_room_in_tier(&format!("{:?}", settings.config.tier), limit));
        }
        Ok(())
    }

    /// Counts again what is stored; after each change.
    pub fn recount(&self, db: &Connection) -> Result<(), Refusal> {
        self.used.store(rows::used(db)?, Ordering::Relaxed);
        Ok(())
    }

    /// The event of something done to `object` of this registry.
    pub fn event(&self, actor: &str, action: &str, object: &str, outcome: Outcome, client: &str) -> Event {
        let slash = if object.is_empty() { "" } else { "/" };
        let mut event = self.spool.event(actor, action, &format!("{}{slash}{object}", self.resource), outcome);
        event.detail.insert("client".into(), client.into());
        event
    }

    /// Records what was done, or refused.
    pub async fn record(
        &self,
        actor: &str,
        action: &str,
        object: &str,
        outcome: Outcome,
        client: &str,
        refusal: Option<&Refusal>,
    ) -> Result<(), Refusal> {
        let mut event = self.event(actor, action, object, outcome, client);
        if let Some(refusal) = refusal {
            event.detail.insert("status".into(), refusal.status.as_u16().into());
            event.detail.insert("code".into(), refusal.code.into());
        }
        self.spool.append(event).await?;
        Ok(())
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
        event.detail.insert("status".into(), 401.into());
        event.detail.insert("why".into(), why.into());
        if left_out > 0 {
            event.detail.insert("not_recorded_before".into(), left_out.into());
        }
        self.spool.append(event).await?;
        Ok(())
    }

    /// What the control socket shows. Blocks on the disk.
    pub fn status(&self) -> Result<RegistryStatus, Refusal> {
        let settings = self.settings();
        let db = self.db();
        let (repositories, manifests, tags) = rows::counts(&db)?;
        let set_up_ms = rows::fact(&db, SET_UP)?;
        let mut warnings = Vec::new();
        if settings.config.admin_user && set_up_ms.is_some() {
            warnings.push(
                "the admin user is still enabled after set-up; take `admin_user` away once nobody logs in by it"
                    .to_owned(),
            );
        }
        Ok(RegistryStatus {
            name: settings.config.name.clone(),
            tier: settings.config.tier,
            storage_bytes: settings.config.tier.storage_bytes(),
            used_bytes: self.used.load(Ordering::Relaxed),
            repositories,
            manifests,
            tags,
            admin_user: settings.config.admin_user,
            set_up_ms,
            warnings,
            audited: self.spool.durable(),
        })
    }
}

/// The fact that says when the first image was pushed, Unix milliseconds.
pub const SET_UP: &str = "set-up-ms";

/// Where the blob with this SHA-256 lies under a registry's folder.
pub fn blob_file(dir: &Path, hex: &str) -> PathBuf {
    dir.join("blobs/sha256").join(&hex[..2]).join(hex)
}
