//! A keeper with a real engine, in a folder of its own, as a user of its own where the tests run as root.

#![allow(dead_code, reason = "each test file uses its part of the bed")]

pub mod pair;

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, TcpListener},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use api::{
    Secret, Secrets,
    backup::{BackupConfig, BackupRequest, Backups, RestoreOrder, Target},
    client::Client,
    context::secret,
    postgres::{PostgresConfig, PostgresStatus, Right, RoleRequest},
};
use postgres::engine::{self, Engine};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A user that has no entry in /etc/passwd, as workloads have none.
const WORKLOAD_UID: u32 = 64_321;

pub struct Bed {
    dir: tempfile::TempDir,
    pub config: PostgresConfig,
    pub secrets: Secrets,
    ca_pem: String,
    keeper: Option<Child>,
    offset_ms: i64,
}

/// The engine under test and the folder of engines; `./stampw test` says where by STAMP_ENGINES.
fn engine() -> (Engine, PathBuf) {
    let home = || match std::env::var_os("HOME") {
        Some(home) if !rustix::process::geteuid().is_root() => {
            Path::new(&home).join(".local/share/stampwright/engines")
        }
        _ => PathBuf::from("/var/lib/stampwright/engines"),
    };
    let engines = std::env::var_os("STAMP_ENGINES").map_or_else(home, PathBuf::from);
    let engine = engine::choose(&engines, 16, &[15, 17, 18]).unwrap_or_else(|| {
        panic!("no engine in {}; run ./stampw test, or engines/bring postgresql {0}", engines.display())
    });
    (engine, engines)
}

fn as_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Bed {
    /// Everything made but the keeper not started.
    pub fn new(databases: &[&str]) -> anyhow::Result<Self> {
        Self::at(databases, IpAddr::V4(Ipv4Addr::new(127, 77, 1, 9)), &Authority::new()?)
    }

    /// The same, at an address, with a certificate of an authority.
    pub fn at(databases: &[&str], address: IpAddr, authority: &Authority) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("pg").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let (engine, engines) = engine();
        // The machine's own template where there may be one, to spare each test the making.
        let shared = engines.with_file_name("templates").join(engine.template_name());
        let template = match postgres::make_template(&engine.bin, &shared) {
            Ok(()) => shared,
            Err(_) => dir.path().join("templates").join(engine.template_name()),
        };
        postgres::make_template(&engine.bin, &template)?;
        for own in ["data", "run"] {
            let path = dir.path().join(own);
            fs::create_dir(&path)?;
            if as_root() {
                std::os::unix::fs::chown(&path, Some(WORKLOAD_UID), Some(WORKLOAD_UID))?;
            }
        }
        // The clone may lie where the workload's user cannot pass.
        let built = std::env::current_exe()?
            .parent()
            .and_then(Path::parent)
            .context("a test lies in deps")?
            .join("examples/keeper");
        fs::copy(&built, dir.path().join("keeper")).with_context(|| format!("copy {}", built.display()))?;

        let port = TcpListener::bind((address, 0))?.local_addr()?.port();
        let (ca_pem, (cert, key)) = (authority.pem(), authority.certificate(address)?);
        let mut secrets = Secrets::default();
        secrets.insert(secret::TLS_CERT, Secret::new(cert));
        secrets.insert(secret::TLS_KEY, Secret::new(key));
        secrets.insert(secret::POSTGRES_ADMIN, Secret::random());
        let config = PostgresConfig {
            bin: engine.bin,
            template,
            address,
            port,
            socket_dir: dir.path().join("run/sql"),
            databases: databases.iter().map(|d| (*d).to_owned()).collect(),
            settings: Default::default(),
            member: None,
            tenant: None,
            backup: None,
        };
        Ok(Self { dir, config, secrets, ca_pem, keeper: None, offset_ms: 0 })
    }

    /// Whether the engine has PostgreSQL's client tools; without them SKIP is said, and STAMP_REQUIRE=tools makes that a failure.
    pub fn has_tools(&self) -> bool {
        let bin = &self.config.bin;
        let there =
            [bin.clone(), bin.with_file_name("tools").join("bin")].iter().any(|f| f.join("pg_basebackup").exists());
        let required = std::env::var("STAMP_REQUIRE").is_ok_and(|r| r.split(',').any(|word| word == "tools"));
        assert!(there || !required, "no pg_basebackup beside {}", bin.display());
        if !there {
            eprintln!("SKIP: no pg_basebackup beside {}; `engines/bring postgresql` brings it", bin.display());
        }
        there
    }

    /// Keeps backups from now on; a base backup only when it is asked for.
    pub fn keep_backups(&mut self) -> anyhow::Result<()> {
        self.secrets.insert(secret::BACKUP_KEY, Secret::random());
        self.config.backup = Some(BackupConfig {
            repository: self.data().join("backups"),
            copy: None,
            every_s: 86_400,
            retention_s: 7 * 86_400,
            archive_timeout_s: 60,
            program: self.dir.path().join("keeper"),
            control: self.dir.path().join("run/control"),
            restore: None,
        });
        Ok(())
    }

    /// A server of its own that is made from this one's backups.
    pub fn restored(&self, target: Target) -> anyhow::Result<Self> {
        let mut bed = Self::new(&[])?;
        bed.keep_backups()?;
        bed.secrets = self.secrets.clone();
        bed.ca_pem = self.ca_pem.clone();
        // Where tests run as root, both are the same user, and the certificate is for the same address.
        let from = self.config.backup.as_ref().context("it keeps backups")?.repository.clone();
        let order = RestoreOrder { from, target, aside: true, verify: true };
        bed.config.backup.as_mut().context("it keeps backups")?.restore = Some(order);
        bed.config.databases = Vec::new();
        Ok(bed)
    }

    /// Takes a base backup now, and waits for it.
    pub async fn back_up(&self) -> anyhow::Result<Backups> {
        let control = self.control();
        let name = api::backup::back_up(&control, &BackupRequest::default()).await?.name.context("it has a name")?;
        let taken = || async {
            let all = api::backup::backups(&control).await.map_err(|e| format!("{e:?}"))?;
            let there = all.running.is_none() && all.bases.iter().any(|b| b.name == name);
            if there { Ok(all) } else { Err(format!("{:?} {:?}", all.running, all.trouble)) }
        };
        until("the base backup is taken", taken).await
    }

    /// Moves the clock by which backups are due and let go, from the next start on.
    pub fn move_clock(&mut self, days: i64) {
        self.offset_ms = days * 86_400_000;
    }

    /// Started, and ready.
    pub async fn up(databases: &[&str]) -> anyhow::Result<Self> {
        let mut bed = Self::new(databases)?;
        bed.start()?;
        bed.ready().await?;
        Ok(bed)
    }

    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"))?;
        let mut command = Command::new(self.dir.path().join("keeper"));
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        if as_root() {
            command.gid(WORKLOAD_UID).uid(WORKLOAD_UID);
        }
        let mut child = command.spawn()?;
        let start = serde_json::json!({
            "config": self.config,
            "data": self.data(),
            "control": self.dir.path().join("run/control"),
            "secrets": self.secrets.encode().expose(),
            "offset_ms": self.offset_ms,
        });
        child.stdin.take().context("stdin was piped")?.write_all(start.to_string().as_bytes())?;
        self.keeper = Some(child);
        Ok(())
    }

    pub fn control(&self) -> Client {
        Client::unix(self.dir.path().join("run/control"))
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn pgdata(&self) -> PathBuf {
        self.data().join("pgdata")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the keeper says that the server is ready.
    pub async fn ready(&self) -> anyhow::Result<PostgresStatus> {
        let control = self.control();
        let status = until("the server is ready", || async {
            control.get::<serde_json::Value>("/health").await.map_err(|e| e.to_string())?;
            api::postgres::status(&control).await.map_err(|e| e.to_string())
        });
        status.await.with_context(|| format!("the log ends:\n{}", tail(&self.log())))
    }

    /// The CA's certificate as a file that the members read.
    pub fn ca_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join("ca.pem");
        fs::write(&path, &self.ca_pem)?;
        Ok(path)
    }

    /// kill -9 of every process of the server, and waits until they are gone.
    pub fn kill_server(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(20), "still there: {left:?}");
            self.signal_server(rustix::process::Signal::KILL);
            std::thread::yield_now();
        }
    }

    /// Sends a signal to every process of the server.
    pub fn signal_server(&self, signal: rustix::process::Signal) {
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().map_or(0, Child::id)
    }

    /// kill -9, and the keeper alone.
    pub fn kill_keeper(&mut self) -> anyhow::Result<()> {
        let mut keeper = self.keeper.take().context("the keeper runs")?;
        keeper.kill()?;
        keeper.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the keeper's end.
    pub fn stop_keeper(&mut self) -> anyhow::Result<ExitStatus> {
        let mut keeper = self.keeper.take().context("the keeper runs")?;
        rustix::process::kill_process(rustix::process::Pid::from_child(&keeper), rustix::process::Signal::TERM)?;
        Ok(keeper.wait()?)
    }

    /// Makes or changes a role; gives its password.
    pub async fn role(&self, name: &str, database: &str, right: Right) -> anyhow::Result<Secret> {
        let password = Secret::random();
        let request = RoleRequest { database: database.into(), right, password: password.clone() };
        api::postgres::set_role(&self.control(), name, &request).await?;
        Ok(password)
    }

    /// A TLS connection, as an application makes it.
    pub async fn connect(
        &self,
        user: &str,
        password: &Secret,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let tls = api::client::trust(self.ca_pem.as_bytes()).expect("the test's own CA is good");
        let (client, connection) = tokio_postgres::Config::new()
            .host(self.config.address.to_string())
            .port(self.config.port)
            .user(user)
            .password(password.expose())
            .dbname(database)
            .ssl_mode(tokio_postgres::config::SslMode::Require)
            .connect(MakeRustlsConnect::new(Arc::unwrap_or_clone(tls)))
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// As administrator by the unix socket (tests that run as root pass its folder).
    pub async fn connect_locally(&self, password: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.config.socket_dir)
            .port(self.config.port)
            .user("postgres")
            .password(password)
            .connect(tokio_postgres::NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// All processes that work in this bed's data directory.
    pub fn processes(&self) -> Vec<i32> {
        let pgdata = self.pgdata();
        let numbers =
            fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        numbers.filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == pgdata)).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let _ = self.stop_keeper();
        }
        // Only when a test failed while the keeper was dead: by number, and only what works in this bed's folder.
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("the log ends:\n{}", tail(&self.log()));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Asks every 10 ms until the answer is good; the last bad one is in the error.
pub async fn until<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tick.tick().await;
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(last) if begun.elapsed() > Duration::from_secs(45) => {
                anyhow::bail!("not in 45 s: {what}; last: {last}")
            }
            Err(_) => {}
        }
    }
}

/// A CA of a test.
pub struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    pub fn new() -> anyhow::Result<Self> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        // OpenSSL takes a certificate whose issuer has its own name for a self-signed one.
        params.distinguished_name.push(rcgen::DnType::CommonName, "the test's CA");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Ok(Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate()?)?))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for an address, and its key; PEM.
    fn certificate(&self, address: IpAddr) -> anyhow::Result<(String, String)> {
        let key = rcgen::KeyPair::generate()?;
        let cert = rcgen::CertificateParams::new(vec![address.to_string()])?.signed_by(&key, &self.0)?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}
