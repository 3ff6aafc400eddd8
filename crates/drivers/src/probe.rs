//! What this machine lets us isolate: tried, not guessed. `stamp doctor` shows it with the refused command.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use crate::{cgroup::Cgroups, network, volume};

/// How a workload gets mounts of its own (for its own `/etc/hosts`).
#[derive(Clone, Debug)]
pub enum Mounts {
    /// As root with CAP_SYS_ADMIN.
    Root,
    /// In a user namespace of its own.
    UserNamespace,
    /// Not at all; why.
    None(String),
}

/// The machine as found.
#[derive(Clone, Debug)]
pub struct Machine {
    /// We are root and may become other users.
    pub users: Result<(), String>,
    pub mounts: Mounts,
    pub cgroups: Cgroups,
    /// Stamps can have closed networks of their own; if not, what was refused.
    pub network: Result<(), String>,
    /// Workloads can have disks of their own; if not, what was refused.
    pub volumes: Result<(), String>,
    /// The lowest port we may bind.
    pub lowest_port: u16,
}

impl Machine {
    /// Tries each thing once, in children that end at once.
    pub fn probe() -> Self {
        let root = rustix::process::geteuid().is_root();
        let users = if root {
            attempt(|| {
                // SAFETY: plain system calls in a child of one thread.
                unsafe {
                    ok(libc::setgroups(0, std::ptr::null()))?;
                    ok(libc::setresgid(54321, 54321, 54321))?;
                    ok(libc::setresuid(54321, 54321, 54321))
                }
            })
            .map_err(|e| format!("setresuid 54321: {e}"))
        } else {
            Err(format!("setresuid: this is user {}, not root", rustix::process::geteuid().as_raw()))
        };
        // SAFETY (both): a plain system call in a child of one thread.
        let mounts = match root.then(|| attempt(|| unsafe { ok(libc::unshare(libc::CLONE_NEWNS)) })) {
            Some(Ok(())) => Mounts::Root,
            refused => {
                let become_other = root && users.is_ok();
                match attempt(move || user_namespace(become_other)) {
                    Ok(()) => Mounts::UserNamespace,
                    Err(e) => {
                        let first = refused
                            .and_then(Result::err)
                            .map(|e| format!("unshare --mount: {e}; "))
                            .unwrap_or_default();
                        Mounts::None(format!("{first}unshare --user --mount: {e}"))
                    }
                }
            }
        };
        let volumes = match &mounts {
            Mounts::Root => volume::probe(),
            Mounts::UserNamespace => Err("mount -t ext4: only root of the machine may".into()),
            Mounts::None(why) => Err(why.clone()),
        };
        Self {
            users,
            mounts,
            volumes,
            cgroups: Cgroups::detect(),
            network: network::probe(),
            lowest_port: lowest_port(),
        }
    }
}

fn user_namespace(become_other: bool) -> io::Result<()> {
    // SAFETY: plain system calls in a child of one thread.
    unsafe {
        if become_other {
            ok(libc::setgroups(0, std::ptr::null()))?;
            ok(libc::setresgid(54321, 54321, 54321))?;
            ok(libc::setresuid(54321, 54321, 54321))?;
            ok(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0))?;
        }
        ok(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))
    }
}

fn ok(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs `act` in a child between fork and exec of `true`.
fn attempt(act: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: `act` only makes system calls.
    unsafe { command.pre_exec(act) };
    command.status().map(drop)
}

fn lowest_port() -> u16 {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(1024);
    // Capability 10 is CAP_NET_BIND_SERVICE.
    let capable = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|t| u64::from_str_radix(t.lines().find_map(|l| l.strip_prefix("CapEff:"))?.trim(), 16).ok())
        .is_some_and(|bits| bits & (1 << 10) != 0);
    if capable { 1 } else { first }
}
