//! A scratch PostgreSQL: real binaries, a unix socket in a short directory, gone when dropped (also by a panic).

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sdk::{Settings, migrations::Migration};
use tempfile::TempDir;

/// PostgreSQL refuses to run as root; nobody's number on every Linux.
const NOBODY: u32 = 65534;

pub struct Scratch {
    folder: TempDir,
    bin: PathBuf,
    options: Vec<String>,
    port: u16,
    child: Option<Child>,
}

/// The newest PostgreSQL of the engines or of the system.
fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    if let Some(engines) = std::env::var_os("STAMP_ENGINES") {
        found.extend(std::fs::read_dir(engines).into_iter().flatten().flatten().map(|e| e.path().join("bin")));
    }
    found
        .extend(std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin")));
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop().expect("PostgreSQL's binaries are in $STAMP_ENGINES or /usr/lib/postgresql")
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn command(program: &Path) -> Command {
    // The server also ends when the thread that started it does, so a killed test leaves nothing behind.
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    command
}

impl Scratch {
    /// A fresh cluster with the superuser `postgres`, started. Nothing in it survives a crash of the machine.
    pub fn start() -> Scratch {
        Scratch::start_with(&[])
    }

    /// As [`Scratch::start`] with further settings such as `ssl=on`.
    pub fn start_with(options: &[&str]) -> Scratch {
        let folder = tempfile::Builder::new().prefix("pg").rand_bytes(6).tempdir().unwrap();
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let bin = binaries();
        let data = folder.path().join("data");
        let made = command(&bin.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        let mut scratch = Scratch { folder, bin, options, port: 5432, child: None };
        scratch.run();
        scratch
    }

    /// The folder of this cluster; the server may read what is put there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the stopped server and waits until it answers.
    pub fn run(&mut self) {
        self.run_at(5432);
    }

    /// As [`Scratch::run`] for a server whose `port` was set.
    pub fn run_at(&mut self, port: u16) {
        self.port = port;
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = command(&self.bin.join("postgres"));
        command.arg("-D").arg(self.folder.path().join("data")).arg("-k").arg(self.folder.path());
        let fixed = ["listen_addresses=", "fsync=off", "max_connections=40", "shared_buffers=16MB", "autovacuum=off"];
        for option in fixed.into_iter().chain(self.options.iter().map(String::as_str)) {
            command.args(["-c", option]);
        }
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // The server writes its state into the eighth line; not every engine brings pg_isready.
            let about = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap_or_default();
            let socket = self.folder.path().join(format!(".s.PGSQL.{port}"));
            if about.lines().nth(7).is_some_and(|state| state.trim() == "ready") && socket.exists() {
                return;
            }
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "PostgreSQL does not answer: {log}");
            std::thread::yield_now();
        }
    }

    /// A further setting for the next [`Scratch::run`].
    pub fn set(&mut self, option: String) {
        self.options.push(option);
    }

    /// Stops the server at once, as a crash would.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let quit = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
        if quit.is_err() {
            let _ = child.kill();
        }
        let _ = child.wait();
    }

    /// An Npgsql connection string.
    pub fn connection(&self, user: &str, database: &str) -> String {
        format!("Host={};Database={database};Username={user}", self.folder.path().display())
    }

    /// Applies migrations as `app_owner`, as an application's verb `migrate` does.
    pub async fn migrate(&self, database: &str, migrations: &[Migration]) {
        let settings = Settings::from_pairs([("OWNER", self.connection("app_owner", database))]);
        sdk::migrations::run(&settings, "OWNER", migrations).await.unwrap();
    }

    /// Runs statements as psql -At does: a line a row, fields with `|` between them.
    pub fn sql(&self, user: &str, database: &str, sql: &str) -> String {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.folder.path()).port(self.port).user(user).dbname(database);
        let text = sql.to_owned();
        // A runtime of its own: callers may be on one already.
        let run = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
                let connection = tokio::spawn(connection);
                let messages = client.simple_query(&text).await;
                drop(client);
                let _ = connection.await;
                messages
            })
        });
        let messages = run.join().unwrap().unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                let fields: Vec<&str> = (0..row.len()).map(|n| row.get(n).unwrap_or_default()).collect();
                Some(fields.join("|"))
            }
            _ => None,
        });
        rows.collect::<Vec<_>>().join("\n")
    }

    /// As the platform lays it out: a database `app`, its owner `app_owner`, and `app_rw`, who reads and writes the owner's
    /// tables and makes none.
    pub fn with_app_roles(self) -> Scratch {
        self.sql("postgres", "postgres", "CREATE ROLE app_owner LOGIN");
        self.sql("postgres", "postgres", "CREATE ROLE app_rw LOGIN");
        self.sql("postgres", "postgres", "CREATE DATABASE app OWNER app_owner");
        self.sql(
            "postgres",
            "app",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO app_owner; GRANT USAGE ON SCHEMA public TO app_rw;
             ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app_rw",
        );
        self
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.stop();
    }
}
