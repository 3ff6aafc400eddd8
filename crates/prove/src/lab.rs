//! Where stamps are tried: brought up on demand, changed, broken, brought back.

use std::{collections::BTreeMap, sync::Arc};

use api::Secret;
use tokio::sync::Mutex;

use crate::{Drill, Measured, Miss, Site, drill, patched, site::Door};

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

    /// Removes `stamp` with all it has, if it is there.
    fn destroy<'a>(&'a self, stamp: &'a str) -> Done<'a>;

    /// Brings `stamp` up from a copy of another one's backups and that one's recovery key.
    fn up_from<'a>(&'a self, stamp: &'a str, manifest: &'a str, from: &'a std::path::Path, key: &'a Secret)
    -> Done<'a>;
}

/// A system's scratch stamps.
pub struct Lab {
    /// The system's folder.
    folder: std::path::PathBuf,
    host: Arc<dyn Host>,
    /// The manifest of this run; a sabotage may have been laid on it.
    manifest: String,
    sites: Mutex<BTreeMap<String, Arc<Site>>>,
    /// Held while a stamp is brought up at its first mention.
    bringing: Mutex<()>,
    /// Drills of this run, by their name and stamp: several checks may ask for the same one.
    drilled: Mutex<BTreeMap<(&'static str, String), Measured>>,
    /// What a sabotage put into the sources, and in which file.
    source: std::sync::OnceLock<(String, String)>,
}

impl Lab {
    pub fn new(host: Box<dyn Host>, folder: std::path::PathBuf, manifest: String) -> Self {
        Self::over(host.into(), folder, manifest)
    }

    fn over(host: Arc<dyn Host>, folder: std::path::PathBuf, manifest: String) -> Self {
        Self {
            folder,
            host,
            manifest,
            sites: Mutex::default(),
            bringing: Mutex::default(),
            drilled: Mutex::default(),
            source: std::sync::OnceLock::new(),
        }
    }

    /// The same stamps with TOML laid on their manifest for as long as this laboratory is used.
    pub(crate) fn with(&self, changes: &str) -> Result<Self, Miss> {
        Ok(Self::over(self.host.clone(), self.folder.clone(), patched(&self.manifest, changes)?))
    }

    /// The manifest of all stamps.
    pub(crate) fn manifest(&self) -> &str {
        &self.manifest
    }

    /// What a drill measured on a stamp; run at its first mention.
    pub(crate) async fn drilled(&self, drill: &'static Drill, on: &str, mix: &str) -> Result<Measured, Miss> {
        let mut drilled = self.drilled.lock().await;
        let key = (drill.name, on.to_owned());
        if let Some(measured) = drilled.get(&key) {
            return Ok(measured.clone());
        }
        let measured = drill::run(self, on, drill, mix, &|_| ()).await?;
        drilled.insert(key, measured.clone());
        Ok(measured)
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
        let _alone = self.bringing.lock().await;
        if let Some(site) = self.sites.lock().await.get(stamp) {
            return Ok(site.clone());
        }
        let site = Arc::new(self.up(stamp, &self.manifest, Moved::default()).await?);
        self.sites.lock().await.insert(stamp.to_owned(), site.clone());
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

    /// The stamp, anew, from a copy of another one's backups.
    pub(crate) async fn restore_from(
        &self,
        stamp: &str,
        from: &std::path::Path,
        key: &Secret,
    ) -> Result<Arc<Site>, Miss> {
        self.host.up_from(stamp, &self.manifest, from, key).await.map_err(Miss::Failed)?;
        self.restore(stamp).await
    }

    /// Takes the stamp down; [`Lab::restore`] brings it back.
    pub async fn down(&self, stamp: &str) -> Result<(), Miss> {
        self.sites.lock().await.remove(stamp);
        self.host.down(stamp).await.map_err(Miss::Failed)
    }

    /// Removes a stamp with all it has; one that there is not is no error.
    pub(crate) async fn destroy(&self, stamp: &str) -> Result<(), Miss> {
        self.sites.lock().await.remove(stamp);
        self.host.destroy(stamp).await.map_err(Miss::Failed)
    }

    async fn up(&self, stamp: &str, manifest: &str, moved: Moved) -> Result<Site, Miss> {
        // A front door is there first: the stamp is told of its address.
        let front = model::Manifest::parse(manifest).ok().and_then(|m| m.resolve(stamp).ok());
        let door = match front.as_ref().and_then(model::System::front) {
            None => None,
            Some(front) => {
                let site = self.host.up(front, manifest, Moved::default()).await.map_err(Miss::Failed)?;
                let door = Door { stamp: front.to_owned(), url: site.url("edge")?, ca_pem: site.ca_pem.clone() };
                self.sites.lock().await.insert(front.to_owned(), Arc::new(site));
                Some(door)
            }
        };
        let site = self.host.up(stamp, manifest, moved).await.map_err(Miss::Failed)?;
        Ok(Site { door, ..site })
    }
}
