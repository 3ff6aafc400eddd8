//! A home that is thrown away: for runs of checks, which must never touch a person's stamps.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Mutex};

use anyhow::Context as _;
use api::{
    Secret,
    client::Client,
    supervisor::{Event, Ready, StampLine, StampRef, Status, UpRequest},
};
use prove::{Host, Moved, Site};
use supervisor::{Home, Places};

use crate::{connect, failure::Failed, target::Source};

type Told = Box<dyn FnMut(&Event) + Send>;

/// The home of one run, and the system that is tried in it.
pub struct Scratch {
    home: Home,
    client: Client,
    system: String,
    folder: PathBuf,
    programs: Vec<PathBuf>,
    program: PathBuf,
    /// Steps as they happen, for the person who waits.
    told: Mutex<Told>,
    /// What was missing when workloads were placed; one that is adopted later does not tell again.
    missing: Mutex<Vec<String>>,
}

impl Scratch {
    /// Makes a home beside the person's, with its engines, and a supervisor in it; on a disk of `disk` bytes of its own
    /// if it is to be filled.
    pub async fn make(
        person: &Home,
        source: &Source,
        system: &str,
        disk: Option<u64>,
        told: impl FnMut(&Event) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let all = person.root().join("scratch-homes");
        person.prepare().with_context(|| format!("could not make {}", person.root().display()))?;
        sweep(&all).await;
        let own = drivers::proc::identify(std::process::id()).context("could not see this process")?;
        let root = all.join(format!("{}-{}", own.pid, own.start_ticks));
        let open = |path: &PathBuf| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711));
        std::fs::create_dir_all(&root)
            .and_then(|()| open(&all))
            .and_then(|()| open(&root))
            .with_context(|| format!("could not make {}", root.display()))?;
        if let Some(bytes) = disk
            && let Err(error) = drivers::disk::small(&root, bytes)
        {
            let _ = std::fs::remove_dir(&root);
            return Err(Failed::world(
                "this drill fills a disk, and this machine gives it none of its own",
                format!("refused: {error}"),
            ));
        }
        let engines = person.engines().canonicalize().context("could not find the engines")?;
        std::os::unix::fs::symlink(engines, root.join("engines")).context("could not link the engines")?;
        let home = Home::at(root);
        std::fs::write(home.scratch(), "made by `stamp prove`, removed at its end\n")
            .context("could not mark the home")?;
        let client = connect::supervisor(&home).await?;
        let own = std::env::current_exe().context("could not find this program")?;
        let programs = own.parent().map(|p| vec![p.to_owned()]).unwrap_or_default();
        let program = connect::kept(&home)?;
        let told = Mutex::new(Box::new(told) as Told);
        Ok(Self {
            home,
            client,
            system: system.to_owned(),
            folder: source.folder.clone(),
            programs,
            program,
            told,
            missing: Mutex::default(),
        })
    }

    /// Ends and removes everything.
    pub async fn end(home: &Home) {
        remove(home).await;
    }

    /// Where it lies.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

/// Removes homes whose makers are gone.
async fn sweep(all: &std::path::Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.split_once('-').and_then(|(pid, start)| {
            Some(drivers::ProcessId { pid: pid.parse().ok()?, start_ticks: start.parse().ok()? })
        });
        if maker.is_some_and(|m| !drivers::proc::runs(m)) {
            remove(&Home::at(entry.path())).await;
        }
    }
}

/// Destroys stamps, all at once.
async fn destroy(client: &Client, stamps: Vec<StampLine>) -> anyhow::Result<()> {
    let mut running = tokio::task::JoinSet::new();
    for line in stamps {
        let (client, of) = (client.clone(), StampRef { system: line.system, stamp: line.stamp });
        running.spawn(async move { connect::events(&client, "/destroy", &of, |_| ()).await.map(drop) });
    }
    while let Some(ended) = running.join_next().await {
        ended.context("a task failed")??;
    }
    Ok(())
}

async fn remove(home: &Home) {
    if !home.is_scratch() {
        return;
    }
    // A supervisor is needed to end what runs; where none can be had, the files stay for a person to look at.
    if home.journal().exists() {
        let Ok(client) = connect::supervisor(home).await else { return };
        let stamps = client.get::<Vec<StampLine>>("/stamps").await.unwrap_or_default();
        if destroy(&client, stamps).await.is_err() {
            return;
        }
        connect::stop(home).await;
    }
    let _ = std::fs::remove_dir_all(home.root());
    let _ = drivers::disk::remove(home.root());
    let _ = std::fs::remove_dir(home.root());
    let _ = std::fs::remove_dir_all(home.sockets());
}

/// The same home, for more than one laboratory.
pub struct Shared(pub std::sync::Arc<Scratch>);

impl Host for Shared {
    fn up<'a>(
        &'a self,
        stamp: &'a str,
        manifest: &'a str,
        moved: Moved,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Site, String>> + 'a>> {
        Box::pin(async move { self.0.bring_up(stamp, manifest, moved).await.map_err(|e| said(&e)) })
    }

    fn down<'a>(&'a self, stamp: &'a str) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        let of = StampRef { system: self.0.system.clone(), stamp: stamp.to_owned() };
        Box::pin(async move { take_down(&self.0.client, &of).await })
    }

    fn destroy<'a>(&'a self, stamp: &'a str) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        Box::pin(async move { self.0.remove(stamp).await.map_err(|e| said(&e)) })
    }

    fn up_from<'a>(
        &'a self,
        stamp: &'a str,
        manifest: &'a str,
        from: &'a std::path::Path,
        key: &'a Secret,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        Box::pin(async move { self.0.restore_from(stamp, manifest, from, key).await.map_err(|e| said(&e)) })
    }
}

/// An error with its causes, and what it shows below them: the faults of a manifest, the end of a log.
fn said(error: &anyhow::Error) -> String {
    let lines = error.downcast_ref::<Failed>().map_or(&[][..], |failed| failed.0.lines.as_slice());
    std::iter::once(format!("{error:#}")).chain(lines.iter().cloned()).collect::<Vec<_>>().join("\n")
}

impl Scratch {
    /// Removes all stamps; the home stays.
    pub async fn clear(&self) -> anyhow::Result<()> {
        if connect::running(&self.home).await.is_none() {
            return Ok(());
        }
        destroy(&self.client, self.client.get::<Vec<StampLine>>("/stamps").await?).await
    }

    fn request(&self, stamp: &str, manifest: &str, moved: Moved) -> UpRequest {
        UpRequest {
            folder: self.folder.clone(),
            manifest: manifest.to_owned(),
            stamp: stamp.to_owned(),
            programs: self.programs.clone(),
            clock_offset_ms: moved.clock_offset_ms,
            certificate_seconds: moved.certificate_seconds,
        }
    }

    async fn remove(&self, stamp: &str) -> anyhow::Result<()> {
        let client = connect::supervisor(&self.home).await?;
        let all = client.get::<Vec<StampLine>>("/stamps").await?;
        destroy(&client, all.into_iter().filter(|line| line.stamp == stamp).collect()).await
    }

    async fn restore_from(
        &self,
        stamp: &str,
        manifest: &str,
        from: &std::path::Path,
        key: &Secret,
    ) -> anyhow::Result<()> {
        let client = connect::supervisor(&self.home).await?;
        let mut body = serde_json::to_value(self.request(stamp, manifest, Moved::default()))?;
        body["from"] = from.display().to_string().into();
        // A secret has no `Serialize`, so that it cannot be written by accident.
        body["recovery_key"] = key.expose().into();
        connect::events(&client, "/restore-from", &body, |_| ()).await.map(drop)
    }

    async fn bring_up(&self, stamp: &str, manifest: &str, moved: Moved) -> anyhow::Result<Site> {
        let request = self.request(stamp, manifest, moved);
        let tell = |event: Option<&Event>| {
            if let (Some(event), Ok(mut told)) = (event, self.told.lock()) {
                told(event);
            }
        };
        let ready = bring(&self.home, &self.client, &request, tell).await?;
        let missing = self.missing.lock().map(|mut all| {
            all.extend(ready.missing.iter().cloned());
            all.sort();
            all.dedup();
            all.clone()
        });
        let mut site = site(&self.home, &self.client, &ready.system, stamp, manifest, self.program.clone()).await?;
        site.missing = missing.unwrap_or_default();
        Ok(site)
    }
}

/// Brings a stamp up, whether or not a supervisor runs: one may have been killed on purpose, and one without stamps ends by
/// itself.
async fn bring(
    home: &Home,
    client: &Client,
    request: &UpRequest,
    tell: impl FnMut(Option<&Event>),
) -> anyhow::Result<Ready> {
    if connect::running(home).await.is_none() {
        connect::supervisor(home).await?;
    }
    let end = connect::events(client, "/up", request, tell).await?;
    let Event::Ready(ready) = end else { anyhow::bail!("{} did not become ready", request.stamp) };
    Ok(*ready)
}

async fn take_down(client: &Client, of: &StampRef) -> Result<(), String> {
    connect::events(client, "/down", of, |_| ()).await.map(drop).map_err(|e| said(&e))
}

/// A stamp of a person's, for a drill that was asked to break it.
pub struct Person {
    home: Home,
    client: Client,
    /// What brings it up as it is.
    pub request: UpRequest,
    system: String,
}

impl Person {
    /// The stamp as the journal knows it.
    pub async fn stamp(home: Home, system: &str, stamp: &str) -> anyhow::Result<Self> {
        let places = Places::of(&home, system, stamp).map_err(|e| Failed(e.failure()))?;
        if !places.is_wanted_up() {
            return Err(Failed::asked(
                format!("{system}/{stamp} is down"),
                "a drill breaks what serves: bring it up first",
            ));
        }
        let client = connect::supervisor(&home).await?;
        Ok(Self { request: places.request(), system: system.to_owned(), home, client })
    }
}

impl Host for Person {
    fn up<'a>(
        &'a self,
        stamp: &'a str,
        manifest: &'a str,
        moved: Moved,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Site, String>> + 'a>> {
        Box::pin(async move {
            let request = UpRequest {
                manifest: manifest.to_owned(),
                clock_offset_ms: moved.clock_offset_ms,
                certificate_seconds: moved.certificate_seconds,
                ..self.request.clone()
            };
            let brought = async {
                bring(&self.home, &self.client, &request, |_| ()).await?;
                let program = connect::kept(&self.home)?;
                site(&self.home, &self.client, &self.system, stamp, manifest, program).await
            };
            brought.await.map_err(|e| said(&e))
        })
    }

    fn down<'a>(&'a self, stamp: &'a str) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        let of = StampRef { system: self.system.clone(), stamp: stamp.to_owned() };
        Box::pin(async move { take_down(&self.client, &of).await })
    }

    fn destroy<'a>(&'a self, stamp: &'a str) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        Box::pin(async move { Err(format!("{stamp} is a person's: no drill removes it")) })
    }

    fn up_from<'a>(
        &'a self,
        stamp: &'a str,
        _: &'a str,
        _: &'a std::path::Path,
        _: &'a Secret,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        Box::pin(async move { Err(format!("{stamp} is a person's: no drill brings it up from a copy")) })
    }
}

/// A running stamp as checks see it.
pub async fn site(
    home: &Home,
    client: &Client,
    name: &str,
    stamp: &str,
    manifest: &str,
    program: PathBuf,
) -> anyhow::Result<Site> {
    let system = supervisor::resolve(manifest, stamp).map_err(|e| anyhow::anyhow!("{e}"))?;
    let status: Status = client.get(&format!("/status?system={name}&stamp={stamp}")).await?;
    let places = Places::of(home, name, stamp)?;
    let workloads = places.workloads();
    let scratch = home.root().join("checks");
    std::fs::create_dir_all(&scratch)?;
    std::fs::set_permissions(&scratch, std::fs::Permissions::from_mode(0o711))?;
    Ok(Site {
        ca_pem: std::fs::read(&status.ca).with_context(|| format!("could not read {}", status.ca.display()))?,
        hosts: std::sync::Arc::new(places.hosts(&system)?),
        controls: workloads.iter().map(|w| (w.clone(), places.control(w))).collect(),
        places: workloads.iter().map(|w| (w.clone(), places.place(w))).collect(),
        supervisor: client.clone(),
        stamp: stamp.to_owned(),
        manifest: manifest.to_owned(),
        system,
        status,
        missing: Vec::new(),
        door: None,
        scratch,
        program,
    })
}
