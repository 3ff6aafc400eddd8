//! The workload's process: start, streams, signals, and what it left behind.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    process::Stdio,
};

use api::{Secrets, shim::StopSignal};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::Error;

const LIFTED: RawFd = 200;

/// Starts the workload. It dies with this shim.
pub fn start(
    run: &[String],
    directory: &std::path::Path,
    env: &BTreeMap<String, String>,
    listeners: &[(String, OwnedFd)],
    secrets: Option<&Secrets>,
    foreground: bool,
) -> Result<Child, Error> {
    let program = run.first().cloned().unwrap_or_default();
    let failed = |source: std::io::Error| Error::Spawn { program: program.clone(), source };
    let mut command = Command::new(&program);
    command.args(&run[1..]).env_clear().envs(env).current_dir(directory);
    let mut lifted = Vec::new();
    for (_, fd) in listeners {
        lifted.push(rustix::io::fcntl_dupfd_cloexec(fd, LIFTED).map_err(|e| failed(e.into()))?);
    }
    if !listeners.is_empty() {
        let names: Vec<&str> = listeners.iter().map(|(n, _)| n.as_str()).collect();
        command.env("LISTEN_FDS", listeners.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    }
    let mut pipe = None;
    if secrets.is_some() {
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        lifted.push(rustix::io::fcntl_dupfd_cloexec(reader.as_fd(), LIFTED).map_err(|e| failed(e.into()))?);
        command.env(api::context::SECRETS_FD, (3 + listeners.len()).to_string());
        pipe = Some(writer);
    }
    let fds: Vec<(RawFd, RawFd)> = lifted.iter().enumerate().map(|(i, fd)| (fd.as_raw_fd(), 3 + i as RawFd)).collect();
    if !foreground {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    }
    let shim = std::process::id();
    // SAFETY: only system calls on what was prepared above.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The shim may have died before the line above took effect.
            if rustix::process::getppid().map(|p| p.as_raw_nonzero().get() as u32) != Some(shim) {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            for (from, to) in &fds {
                if libc::dup2(*from, *to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(failed)?;
    if let (Some(writer), Some(secrets)) = (pipe, secrets) {
        // If the child is gone already, its exit status says why.
        let _ = std::fs::File::from(writer).write_all(secrets.encode().expose().as_bytes());
    }
    Ok(child)
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // Gone already is what a stop wants.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The signal by which a workload is asked to end.
pub fn stop_signal(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
    }
}

/// Processes that descend from this shim.
pub fn orphans() -> Vec<u32> {
    let own = std::process::id();
    crate::proc::family().into_iter().filter(|pid| *pid != own).collect()
}

/// Reaps children that were handed to us when their parent ended; `own` is left to its waiter.
pub fn reap_others(own: Option<u32>) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    while let Ok(Some(status)) =
        waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    {
        // rustix gives no pid here; libc does.
        let Some(pid) = exited_child() else { return };
        let _ = status;
        if Some(pid) == own {
            return;
        }
        let Some(id) = Pid::from_raw(pid as i32) else { return };
        let _ = waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

fn exited_child() -> Option<u32> {
    // SAFETY: `info` is a plain struct that the call fills.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        (libc::waitid(libc::P_ALL, 0, &mut info, flags) == 0 && info.si_pid() > 0).then(|| info.si_pid() as u32)
    }
}
