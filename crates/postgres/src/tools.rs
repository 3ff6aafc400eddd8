//! PostgreSQL's own programs. The only file of this crate that starts processes.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

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
