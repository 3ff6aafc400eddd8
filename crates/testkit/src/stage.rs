//! A `STAMP_HOME` of a test's own.

use std::{
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use api::{
    client::{Client, Target},
    supervisor::Status,
};

/// Whom `stamp` runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// Whoever runs the test.
    Caller,
    /// Root without CAP_SYS_ADMIN, as in the usual container.
    RootWithoutSysAdmin,
    /// An ordinary user.
    Nobody,
}

/// What a command said.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The one line of JSON on standard output.
    ///
    /// # Panics
    /// If it is not JSON; the panic shows everything that was said.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// Itself, if the command succeeded.
    ///
    /// # Panics
    /// If it did not.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A home, and the program that is tried in it.
pub struct Stage {
    folder: tempfile::TempDir,
    stamp: PathBuf,
    who: As,
    /// The home is a file system of its own, to be unmounted.
    mounted: bool,
}

/// Prints why a test is not run. With the word in `STAMP_REQUIRE`, that is a failure.
///
/// # Panics
/// If `STAMP_REQUIRE` holds `word`.
pub fn skip(word: &str, why: &str) {
    let required = std::env::var("STAMP_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r.trim() == word), "STAMP_REQUIRE asks for {word}: {why}");
    // To standard error: it is seen whatever becomes of the test.
    eprintln!("SKIP {word}: {why}");
}

/// Whether a thing that a test needs is there; prints SKIP if not.
pub fn require(word: &str, there: bool, why: &str) -> bool {
    if !there {
        skip(word, why);
    }
    there
}

/// The folder of engines that this machine's tests use, if there is one.
pub fn engines() -> Option<PathBuf> {
    let named = std::env::var_os("STAMP_ENGINES").map(PathBuf::from);
    let home = std::env::var_os("STAMP_HOME").map(|h| PathBuf::from(h).join("engines"));
    let standard = Some(PathBuf::from("/var/lib/stampwright/engines"));
    [named, home, standard].into_iter().flatten().find(|e| !api::engine::installed(e).is_empty())
}

impl Stage {
    /// A stage for the program at `stamp`; None (and SKIP) where `who` cannot be played here or no engine is there.
    pub fn new(stamp: &str, who: As) -> Option<Self> {
        let root = rustix::process::geteuid().is_root();
        if who != As::Caller && !require("root", root, "only root can play others: setpriv --reuid") {
            return None;
        }
        let engines = engines();
        if !require("engines", engines.is_some(), "no PostgreSQL engine; `./stampw up` brings one") {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("stage-").tempdir().expect("a scratch folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let stage = Self { folder, stamp: stamp.into(), who, mounted: false };
        std::fs::create_dir(stage.home()).expect("the home");
        if who == As::Nobody {
            std::os::unix::fs::chown(stage.home(), Some(65534), Some(65534)).expect("its owner");
        }
        // Engines are read only: all stages share them.
        std::os::unix::fs::symlink(engines?, stage.home().join("engines")).expect("the engines");
        Some(stage)
    }

    /// A stage whose home is a disk of `mebibytes`; None (and SKIP) where nothing can be mounted.
    pub fn on_small_disk(stamp: &str, mebibytes: u32) -> Option<Self> {
        let mut stage = Self::new(stamp, As::Caller)?;
        let engines = std::fs::read_link(stage.home().join("engines")).expect("the engines' link");
        let size = format!("size={mebibytes}m,mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(stage.home()).output();
        let mounted = mounted.expect("mount is started");
        let refused = String::from_utf8_lossy(&mounted.stderr).into_owned();
        if !require("mount", mounted.status.success(), &format!("mount -t tmpfs: {refused}")) {
            return None;
        }
        stage.mounted = true;
        std::os::unix::fs::symlink(engines, stage.home().join("engines")).expect("the engines");
        Some(stage)
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A scratch folder beside the home.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// A `stamp` command that has not been started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.who {
            As::Caller => Command::new(&self.stamp),
            As::RootWithoutSysAdmin => {
                let mut command = Command::new("setpriv");
                command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]).arg(&self.stamp);
                command
            }
            As::Nobody => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&self.stamp);
                command
            }
        };
        command.args(arguments).env("STAMP_HOME", self.home()).env("NO_COLOR", "1").stdin(Stdio::null());
        command.current_dir(self.folder.path());
        command
    }

    /// Runs `stamp` to its end.
    pub fn stamp(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("stamp is started");
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A stamp's status.
    pub fn status(&self, system: &str, stamp: &str) -> Result<Status, String> {
        let output = self.stamp(&["status", system, "--stamp", stamp, "--json"]);
        serde_json::from_str(&output.stdout).map_err(|_| format!("{output:?}"))
    }

    /// Waits until every resource of a stamp is ready; jobs run at their times.
    pub fn ready(&self, system: &str, stamp: &str) -> Status {
        crate::wait_until(&format!("{system}/{stamp} ready"), Duration::from_secs(60), || {
            let status = self.status(system, stamp)?;
            if status.resources.iter().all(|r| r.state == "ready" || r.name.starts_with("job.")) {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
    }

    /// A client that trusts the stamp's CA.
    pub fn client(&self, status: &Status, url: &str) -> Client {
        let pem = std::fs::read(&status.ca).expect("the stamp's CA");
        let tls = api::client::trust(&pem).expect("it is one");
        let hosts = std::sync::Arc::new(std::collections::BTreeMap::<String, IpAddr>::new());
        Client::new(Target::Https { base: url.parse().expect("a URL"), tls, hosts }).timeout(Duration::from_secs(20))
    }

    /// The supervisor's process, if it runs.
    pub fn supervisor(&self) -> Option<u32> {
        let home = self.home().display().to_string();
        drivers::proc::all().into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
            words.get(1).is_some_and(|w| w == "serve")
                && words.get(2).is_some_and(|w| w == "supervisor")
                && words.contains(&home)
        })
    }

    /// Every process that carries this home's mark.
    pub fn processes(&self) -> Vec<u32> {
        let hash = supervisor::Home::at(self.home()).hash().to_owned();
        let prefix = format!("STAMP_MARK={hash}/");
        drivers::proc::all()
            .into_iter()
            .filter(|pid| {
                let text = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                text.split(|b| *b == 0).any(|e| e.starts_with(prefix.as_bytes()))
            })
            .collect()
    }
}

/// Kills a process that this test started (or that what it started did).
fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let stamps = self.stamp(&["status", "--json"]);
        let list: Vec<api::supervisor::StampLine> = serde_json::from_str(&stamps.stdout).unwrap_or_default();
        for line in list {
            self.stamp(&["destroy", &line.system, "--stamp", &line.stamp, "--yes"]);
        }
        if let Some(pid) = self.supervisor() {
            kill(pid);
            let gone = || if drivers::proc::identify(pid).is_none() { Ok(()) } else { Err("it runs".into()) };
            if !std::thread::panicking() {
                crate::wait_until("the supervisor ends", Duration::from_secs(5), gone);
            }
        }
        for pid in self.processes() {
            kill(pid);
        }
        let _ = std::fs::remove_dir_all(supervisor::Home::at(self.home()).sockets());
        if self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.home()).status();
        }
    }
}
