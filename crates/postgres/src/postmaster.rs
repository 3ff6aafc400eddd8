//! The server's first process: found again, watched, and ended.
//!
//! It is held by a pidfd that is opened before its identity is looked at, so that a process number that was given to
//! somebody else in between can be neither adopted nor hit. Wall-clock start times, as `postmaster.pid` has them, are not
//! compared: a clock may jump.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
    process::{Child, ExitStatus},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};

/// A running server.
pub(crate) struct Postmaster {
    pid: Pid,
    fd: AsyncFd<OwnedFd>,
    /// Our own child, to be reaped; None for an adopted one.
    child: Option<Child>,
}

/// What `postmaster.pid` says of where the server listens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listens {
    pub port: String,
    pub socket_dir: String,
    pub address: String,
}

impl Postmaster {
    /// Takes charge of a server that was just started.
    pub fn child(child: Child) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        Ok(Self { pid, fd: hold(pid)?, child: Some(child) })
    }

    /// The server that runs on this data directory, if one does, and where it listens.
    pub fn find(pgdata: &Path) -> io::Result<Option<(Self, Listens)>> {
        let Some(text) = lock(pgdata)? else { return Ok(None) };
        let Some((pid, listens)) = parse(&text) else { return Ok(None) };
        let fd = match hold(pid) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
            other => other?,
        };
        // After the pidfd: what is looked at now is what is held, or it has ended since and the pidfd says so.
        if !is_server(pid, pgdata) {
            return Ok(None);
        }
        Ok(Some((Self { pid, fd, child: None }, listens)))
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until the server has ended.
    pub async fn watch(&self) {
        // A pidfd is readable once its process has ended. An error here could only be the runtime's end.
        let _ = self.fd.ready(Interest::READABLE).await.map(drop);
    }

    /// Waits until the server has ended; how, is known of an own child only.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        self.watch().await;
        self.child.as_mut().and_then(|child| child.wait().ok())
    }

    /// Has the server read its configuration again.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Ends the server: first "fast" (sessions are cut, the state is written), then harder.
    pub async fn stop(&mut self) -> Option<ExitStatus> {
        for (signal, grace) in [(Signal::INT, 30), (Signal::QUIT, 10), (Signal::KILL, 10)] {
            self.signal(signal);
            if let Ok(status) = tokio::time::timeout(Duration::from_secs(grace), self.ended()).await {
                return status;
            }
            tracing::warn!(pid = self.pid(), ?signal, "the server did not end in {grace} s");
        }
        None
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(self.fd.get_ref(), signal) {
            // It has ended already; whoever waits for it learns so.
            tracing::debug!(%error, ?signal, "could not signal the server");
        }
    }
}

/// What `postmaster.pid` holds; a full disk may have left anything in it.
fn lock(pgdata: &Path) -> io::Result<Option<String>> {
    match fs::read(pgdata.join("postmaster.pid")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

/// Removes a `postmaster.pid` that names no process: its content never reached a disk that was full, and no server starts
/// where one lies. Only for whoever has just ended all that ran on the data directory.
pub(crate) fn drop_empty_lock(pgdata: &Path) -> io::Result<()> {
    if lock(pgdata)?.is_some_and(|text| parse(&text).is_none()) {
        tracing::warn!("postmaster.pid names no process; removing it");
        fs::remove_file(pgdata.join("postmaster.pid"))?;
    }
    Ok(())
}

fn hold(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    // SAFETY: the descriptor is owned by what is registered, which neither closes nor replaces it before it is dropped.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Lines of `postmaster.pid`: pid, data directory, start time, port, socket folder, first address, shared memory, state.
fn parse(text: &str) -> Option<(Pid, Listens)> {
    let lines: Vec<&str> = text.lines().collect();
    // A single-user server writes a negative number; none of ours outlives its start.
    let pid = lines.first()?.trim().parse().ok().filter(|n| *n > 1).and_then(Pid::from_raw)?;
    let line = |index: usize| lines.get(index).map(|l| l.trim().to_owned()).unwrap_or_default();
    Some((pid, Listens { port: line(3), socket_dir: line(4), address: line(5) }))
}

/// Whether a process is the first process of a server on this data directory. Its children have the same working
/// directory, but show other words as their command line.
fn is_server(pid: Pid, pgdata: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    let Ok(command) = fs::read(proc.join("cmdline")) else { return false };
    let words: Vec<&[u8]> = command.split(|b| *b == 0).collect();
    let names_it = words.windows(2).any(|pair| pair[0] == b"-D" && pair[1] == pgdata.as_os_str().as_bytes());
    names_it && works_in(&proc, pgdata)
}

fn works_in(proc: &Path, pgdata: &Path) -> bool {
    let (Ok(at), Ok(here)) = (fs::read_link(proc.join("cwd")), fs::canonicalize(pgdata)) else { return false };
    at == here
        && fs::read_link(proc.join("exe"))
            .is_ok_and(|exe| exe.file_name().is_some_and(|n| n.as_bytes().starts_with(b"postgres")))
}

/// Ends the processes that a killed server left behind on this data directory. They notice its death by themselves, but
/// one that is busy notices late, and no new server starts while one lives.
pub(crate) async fn end_orphans(pgdata: &Path) -> io::Result<()> {
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(fd) = hold(pid) else { continue };
        if works_in(&entry.path(), pgdata) {
            left.push((pid, fd));
        }
    }
    for (signal, grace) in [(Signal::QUIT, 5), (Signal::KILL, 5)] {
        for (pid, fd) in &left {
            tracing::info!(pid = pid.to_string(), ?signal, "ending what a killed server left behind");
            let _ = pidfd_send_signal(fd.get_ref(), signal);
        }
        let all = async {
            for (_, fd) in &left {
                let _ = fd.ready(Interest::READABLE).await.map(drop);
            }
        };
        if tokio::time::timeout(Duration::from_secs(grace), all).await.is_ok() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pid_file_is_read() {
        let text = "4711\n/data/pgdata\n1763800000\n5432\n/run/pg\n127.0.0.2\n  1234 5\nready   \n";
        let (pid, listens) = parse(text).unwrap();
        assert_eq!(pid.as_raw_nonzero().get(), 4711);
        let expected = Listens { port: "5432".into(), socket_dir: "/run/pg".into(), address: "127.0.0.2".into() };
        assert_eq!(listens, expected);
    }

    #[tokio::test]
    async fn a_process_that_only_has_the_number_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::process::id();
        fs::write(
            dir.path().join("postmaster.pid"),
            format!("{own}\n{}\n1\n5432\n/run\n127.0.0.2\n", dir.path().display()),
        )
        .unwrap();
        assert!(Postmaster::find(dir.path()).unwrap().is_none());
    }

    #[test]
    fn only_a_lock_that_names_no_process_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postmaster.pid");
        drop_empty_lock(dir.path()).unwrap();
        for empty in [&b""[..], &[0; 90], b"\xff\xfe\n"] {
            fs::write(&path, empty).unwrap();
            drop_empty_lock(dir.path()).unwrap();
            assert!(!path.exists(), "{empty:?}");
        }
        fs::write(&path, "4711\n/data\n").unwrap();
        drop_empty_lock(dir.path()).unwrap();
        assert!(path.exists());
    }

    proptest! {
        #[test]
        fn no_pid_file_makes_it_fail(text in "(-?[0-9]{0,12}\\n)?\\PC{0,80}") {
            if let Some((pid, _)) = parse(&text) {
                prop_assert!(pid.as_raw_nonzero().get() > 1);
            }
        }
    }
}
