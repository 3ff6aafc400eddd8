//! Where stamps are tried: brought up on demand, changed, broken, brought back.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::Mutex;

use crate::{Miss, Site, patched};

type Done<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;
type Brought<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Site, String>> + 'a>>;

/// What a scratch stamp is told otherwise than a person's; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Milliseconds by which its roles' clock is moved.
    pub clock_offset_ms: i64,
    /// Seconds that certificates live; 0 is the usual time.
    pub certificate_seconds: u64,
}

/// Brings a scratch stamp up; `stamp` implements it over its supervisor.
pub trait Host: Send + Sync {
    /// Brings `stamp` up from `manifest`, `moved` as said. Run again, it changes only what changed.
    fn up<'a>(&'a self, stamp: &'a str, manifest: &'a str, moved: Moved) -> Brought<'a>;

    /// Takes `stamp` down; its data stays.
    fn down<'a>(&'a self, stamp: &'a str) -> Done<'a>;
}

/// A system's scratch stamps.
pub struct Lab {
    /// The system's folder.
    folder: std::path::PathBuf,
    host: Box<dyn Host>,
    /// The manifest of this run; a sabotage may have been laid on it.
    manifest: String,
    sites: Mutex<BTreeMap<String, Arc<Site>>>,
    /// What a sabotage put into the sources, and in which file.
    source: std::sync::OnceLock<(String, String)>,
}

impl Lab {
    pub fn new(host: Box<dyn Host>, folder: std::path::PathBuf, manifest: String) -> Self {
        Self { folder, host, manifest, sites: Mutex::default(), source: std::sync::OnceLock::new() }
    }

    /// A file of the system, such as `checks/projects.toml`.
    pub fn file(&self, name: &str) -> Result<String, Miss> {
        let path = self.folder.join(name);
        std::fs::read_to_string(&path).map_err(|e| Miss::Failed(format!("could not read {}: {e}", path.display())))
    }

    /// The system's folder.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// From now on FILE of the system's sources ends with this text, wherever they are looked at; the file itself stays.
    pub fn spoil_source(&self, file: &str, text: &str) {
        let _ = self.source.set((file.to_owned(), text.to_owned()));
    }

    /// What [`Lab::spoil_source`] said.
    pub fn spoilt_source(&self) -> Option<(String, String)> {
        self.source.get().cloned()
    }

    /// The stamp, brought up at its first mention.
    pub async fn site(&self, stamp: &str) -> Result<Arc<Site>, Miss> {
        let mut sites = self.sites.lock().await;
        if let Some(site) = sites.get(stamp) {
            return Ok(site.clone());
        }
        let site = Arc::new(self.up(stamp, &self.manifest, Moved::default()).await?);
        sites.insert(stamp.to_owned(), site.clone());
        Ok(site)
    }

    /// The stamp with TOML laid on its manifest; [`Lab::restore`] takes it back.
    pub async fn changed(&self, stamp: &str, changes: &str) -> Result<Arc<Site>, Miss> {
        Ok(Arc::new(self.up(stamp, &patched(&self.manifest, changes)?, Moved::default()).await?))
    }

    /// The stamp with its clock moved, in milliseconds; [`Lab::restore`] takes it back.
    pub async fn at(&self, stamp: &str, clock_offset_ms: i64) -> Result<Arc<Site>, Miss> {
        let moved = Moved { clock_offset_ms, ..Moved::default() };
        Ok(Arc::new(self.up(stamp, &self.manifest, moved).await?))
    }

    /// The stamp with certificates that live so many seconds; [`Lab::restore`] takes it back.
    pub async fn with_certificates(&self, stamp: &str, certificate_seconds: u64) -> Result<Arc<Site>, Miss> {
        let moved = Moved { certificate_seconds, ..Moved::default() };
        Ok(Arc::new(self.up(stamp, &self.manifest, moved).await?))
    }

    /// The stamp as its manifest says, seen anew.
    pub async fn restore(&self, stamp: &str) -> Result<Arc<Site>, Miss> {
        let site = Arc::new(self.up(stamp, &self.manifest, Moved::default()).await?);
        self.sites.lock().await.insert(stamp.to_owned(), site.clone());
        Ok(site)
    }

    /// Takes the stamp down; [`Lab::restore`] brings it back.
    pub async fn down(&self, stamp: &str) -> Result<(), Miss> {
        self.sites.lock().await.remove(stamp);
        self.host.down(stamp).await.map_err(Miss::Failed)
    }

    async fn up(&self, stamp: &str, manifest: &str, moved: Moved) -> Result<Site, Miss> {
        self.host.up(stamp, manifest, moved).await.map_err(Miss::Failed)
    }
}
