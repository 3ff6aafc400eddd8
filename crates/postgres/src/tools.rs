//! PostgreSQL's own programs. The only file of this crate that starts processes.

use std::{
    fs,
    io::{self, Read, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread::JoinHandle,
};

use api::Secret;

use crate::Error;

/// The user `initdb` runs as: `None` for this process's own, (uid, gid) of `nobody` for root, whom `initdb` refuses.
pub(crate) fn initdb_user() -> Result<Option<(u32, u32)>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(Error::io("read", "/etc/passwd"))?;
    users
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == "nobody").then_some(())?;
            Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .map(Some)
        .ok_or(Error::NoUser)
}

/// Makes a data directory in which nobody can sign in: no password is set, and its own access file rejects everybody (the
/// keeper brings another). Not flushed to the disk.
pub(crate) fn initdb(bin: &Path, data: &Path, user: Option<(u32, u32)>) -> Result<(), Error> {
    let run = |locale: &str| {
        let mut command = tool(bin, "initdb");
        command
            .args(["--username=postgres", "--auth=reject", "--encoding=UTF8", "--data-checksums"])
            .args(["--no-sync", "--no-instructions"])
            .arg(format!("--locale={locale}"))
            .arg("--lc-messages=C")
            .arg("--pgdata")
            .arg(data)
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some((uid, gid)) = user {
            command.gid(gid).uid(uid);
        }
        command.output().map_err(Error::io("start", bin.join("initdb")))
    };
    let mut output = run("C.UTF-8")?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("invalid locale name") {
        // C libraries before 2.35 may lack it. Sorting is the same by code point; upper() and lower() know ASCII only.
        output = run("C")?;
    }
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|l| !l.is_empty())
        .take(4)
        .collect::<Vec<_>>()
        .join("; ");
    Err(Error::Initdb { bin: bin.into(), status: output.status, text })
}

/// Starts the server. Options on its command line are those that nothing inside the server may override.
///
/// Its log lines go straight to this process's stderr, so that they keep flowing when the keeper is killed and the server
/// lives on; it gets a process group of its own, so that a terminal's interrupt reaches the keeper only.
pub(crate) fn server(bin: &Path, pgdata: &Path, options: &[(String, String)]) -> io::Result<Child> {
    let mut command = tool(bin, "postgres");
    command.arg("-D").arg(pgdata).process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
    for (name, value) in options {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    mark(&mut command);
    command.spawn()
}

/// One of PostgreSQL's client tools (`pg_basebackup`, `pg_rewind`, ...), which lie beside the server, or in a folder of their
/// own beside `bin` where the engine's package left them out. It has no environment but the little it needs; a password goes
/// to it by a file or not at all.
///
/// # Errors
/// The engine has no such tool.
pub(crate) fn client(bin: &Path, name: &'static str) -> Result<Command, Error> {
    let engine = bin.parent().unwrap_or(bin);
    let own = engine.join("tools/bin");
    let folder = [bin, &own].into_iter().find(|folder| folder.join(name).is_file());
    let folder = folder.ok_or_else(|| Error::NoTool { tool: name, bin: bin.into() })?;
    let mut command = tool(folder, name);
    if folder == own {
        // The tools are linked to a libpq of another name and to the engine's own libraries.
        let mut path = own.with_file_name("lib").into_os_string();
        path.push(":");
        path.push(engine.join("lib"));
        command.env("LD_LIBRARY_PATH", path);
    }
    command.current_dir("/").stdin(Stdio::null());
    mark(&mut command);
    Ok(command)
}

fn tool(bin: &Path, name: &str) -> Command {
    let mut command = Command::new(bin.join(name));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
    // An engine that was unpacked brings its libraries beside it.
    if let Some(lib) = bin.parent().map(|engine| engine.join("lib")).filter(|lib| lib.is_dir()) {
        command.env("LD_LIBRARY_PATH", lib);
    }
    command
}

/// By this mark every process of a workload is found.
fn mark(command: &mut Command) {
    if let Some(mark) = std::env::var_os(api::context::MARK) {
        command.env(api::context::MARK, mark);
    }
}

/// Runs a client tool to its end. It ends with the future that is waited for here.
///
/// # Errors
/// It could not be started, or ended with anything but success; its last words are in the error.
pub(crate) async fn to_end(command: Command, name: &'static str) -> Result<(), Error> {
    let mut command = tokio::process::Command::from(command);
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).output().await;
    let output = output.map_err(Error::io("start", name))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty()).collect();
    let text = lines[lines.len().saturating_sub(4)..].join("; ");
    Err(Error::Tool { tool: name, status: output.status, text })
}

/// What `pg_basebackup` is asked for.
pub(crate) struct BaseBackup<'a> {
    pub bin: &'a Path,
    pub socket_dir: &'a Path,
    pub port: u16,
    pub password: &'a Secret,
    pub label: &'a str,
}

/// A tool under way, read by its standard output. Dropped, it is ended.
pub(crate) struct Running {
    tool: &'static str,
    child: Child,
    out: ChildStdout,
    said: Option<JoinHandle<String>>,
}

/// Starts `pg_basebackup`: a tar stream with the manifest in it. It waits until the log it needs is archived.
pub(crate) fn base_backup(asked: &BaseBackup<'_>) -> Result<Running, Error> {
    const TOOL: &str = "pg_basebackup";
    let mut command = client(asked.bin, TOOL)?;
    command
        .arg("--host")
        .arg(asked.socket_dir)
        .arg(format!("--port={}", asked.port))
        .args(["--username=postgres", "--no-password", "--pgdata=-", "--format=tar", "--wal-method=none"])
        .args(["--checkpoint=fast", "--manifest-checksums=SHA256"])
        .arg(format!("--label={}", asked.label));
    start(TOOL, command, asked.password)
}

/// Starts a tool that signs in as administrator. The password is in a file without a name, in memory, that only this child has.
fn start(tool: &'static str, mut command: Command, password: &Secret) -> Result<Running, Error> {
    let failed = || Error::io("start", tool);
    let mut child = command
        .stdin(Stdio::from(pass_file(password).map_err(failed())?))
        .env("PGPASSFILE", "/proc/self/fd/0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (Some(out), Some(mut err)) = (out, err) else { return Err(Error::Config(format!("{tool} has no output"))) };
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        // A tool that says too much is still read to its end, so that it never waits for a reader.
        let _ = (&mut err).take(64 * 1024).read_to_string(&mut text);
        let _ = io::copy(&mut err, &mut io::sink());
        text
    });
    Ok(Running { tool, child, out, said: Some(said) })
}

impl Running {
    /// Waits for its end, which must be a success.
    pub fn ended(&mut self) -> Result<(), Error> {
        let status = self.child.wait().map_err(Error::io("wait for", self.tool))?;
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let text = said.lines().filter(|l| !l.is_empty()).take(4).collect::<Vec<_>>().join("; ");
        Err(Error::Tool { tool: self.tool, status, text })
    }
}

impl Read for Running {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.out.read(into)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is not signalled: it was waited for.
        if self.said.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn pass_file(password: &Secret) -> io::Result<fs::File> {
    let file = fs::File::from(rustix::fs::memfd_create(c"pass", rustix::fs::MemfdFlags::CLOEXEC)?);
    // libpq takes a file that others could read for no password file.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let escaped = Secret::new(password.expose().replace('\\', "\\\\").replace(':', "\\:"));
    (&file).write_all(b"*:*:*:postgres:")?;
    (&file).write_all(escaped.expose().as_bytes())?;
    (&file).write_all(b"\n")?;
    Ok(file)
}

/// `pg_verifybackup` over an unpacked base backup, without its log.
pub(crate) fn verify_backup(bin: &Path, folder: &Path) -> Result<(), Error> {
    const TOOL: &str = "pg_verifybackup";
    let mut command = client(bin, TOOL)?;
    let output = command
        .args(["--no-parse-wal", "--exit-on-error", "--quiet"])
        .arg(folder)
        .output()
        .map_err(Error::io("start", TOOL))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).lines().take(4).collect::<Vec<_>>().join("; ");
    Err(Error::Tool { tool: TOOL, status: output.status, text })
}

/// `pg_dump` of one database into a file, in the form that [`load`] reads.
pub(crate) fn dump(
    bin: &Path,
    socket_dir: &Path,
    port: u16,
    password: &Secret,
    database: &str,
    to: &Path,
) -> Result<(), Error> {
    const TOOL: &str = "pg_dump";
    let mut command = client(bin, TOOL)?;
    command.arg("--host").arg(socket_dir).arg(format!("--port={port}"));
    command.args(["--username=postgres", "--no-password", "--format=custom", "--compress=1"]);
    command.arg(format!("--dbname={database}")).arg("--file").arg(to);
    whole(start(TOOL, command, password)?)
}

/// `pg_restore` of a file into an empty database: all of it, or nothing.
pub(crate) fn load(
    bin: &Path,
    socket_dir: &Path,
    port: u16,
    password: &Secret,
    database: &str,
    from: &Path,
) -> Result<(), Error> {
    const TOOL: &str = "pg_restore";
    let mut command = client(bin, TOOL)?;
    command.arg("--host").arg(socket_dir).arg(format!("--port={port}"));
    command.args(["--username=postgres", "--no-password", "--single-transaction", "--exit-on-error"]);
    command.arg(format!("--dbname={database}")).arg(from);
    whole(start(TOOL, command, password)?)
}

/// Waits for a tool that says nothing worth keeping.
fn whole(mut running: Running) -> Result<(), Error> {
    io::copy(&mut running, &mut io::sink()).map_err(Error::io("read from", running.tool))?;
    running.ended()
}

/// `pg_amcheck` over every table and index of every database. Gives its words.
pub(crate) fn check(bin: &Path, socket_dir: &Path, port: u16, password: &Secret) -> Result<String, Error> {
    const TOOL: &str = "pg_amcheck";
    let mut command = client(bin, TOOL)?;
    command.arg("--host").arg(socket_dir).arg(format!("--port={port}")).args([
        "--username=postgres",
        "--no-password",
        "--all",
        "--install-missing=pg_catalog",
        "--heapallindexed",
    ]);
    let mut running = start(TOOL, command, password)?;
    let mut words = String::new();
    running.read_to_string(&mut words).map_err(Error::io("read from", TOOL))?;
    running.ended().map_err(|error| match error {
        Error::Tool { tool, status, text } => {
            let found = words.lines().take(4).collect::<Vec<_>>().join("; ");
            Error::Tool { tool, status, text: format!("{text} {found}") }
        }
        other => other,
    })?;
    Ok(words)
}
