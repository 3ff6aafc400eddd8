//! Workloads as local processes: own user, own names, limits, inherited listeners.

use std::{
    ffi::CString,
    fs,
    io::Write as _,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    mount::{MoveMountFlags, move_mount},
    process::{Pid, Signal},
};

use crate::{
    At, Driver, Error, Placed, Placement, ProcessId,
    cgroup::Cgroups,
    network,
    probe::{Machine, Mounts},
    proc, share, sockets, volume,
};

/// Inherited descriptors are first lifted above this, so that putting them at 3 and on overwrites none of them.
const LIFTED: RawFd = 200;
const KILL_WAIT: Duration = Duration::from_secs(10);

/// The driver of local processes.
pub struct Process {
    machine: Machine,
}

impl Process {
    /// A driver for this machine, as [`Machine::probe`] found it.
    pub fn new(machine: Machine) -> Self {
        Self { machine }
    }

    fn cgroups(&self) -> &Cgroups {
        &self.machine.cgroups
    }
}

/// The name of a workload's control group.
fn group_of(mark: &str) -> String {
    let mut parts = mark.splitn(4, '/');
    let (home, system, stamp, resource) = (
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
    );
    format!("stampwright-{home}/{system}.{stamp}/{resource}")
}

/// Everything the child does between fork and exec, prepared: there, only system calls are allowed.
struct Child {
    joins: Vec<OwnedFd>,
    network: Option<OwnedFd>,
    fds: Vec<(RawFd, RawFd)>,
    user: Option<u32>,
    mounts: Mounts,
    hosts: Option<CString>,
    /// A mount that is nowhere yet, where it goes, and the folder to stand in, which may lie in it.
    volume: Option<(OwnedFd, CString, CString)>,
    shares: Vec<share::Act>,
    /// Of the shares.
    groups: Vec<libc::gid_t>,
    /// What it makes is the group's to change as well.
    writes_shares: bool,
    id_map: Vec<u8>,
    group_map: Vec<u8>,
}

impl Child {
    /// Runs in the child.
    fn become_workload(&self) -> std::io::Result<()> {
        rustix::process::setsid()?;
        for join in &self.joins {
            rustix::io::write(join, b"0")?;
        }
        if let Some(network) = &self.network {
            network::namespace::enter(network)?;
        }
        if matches!(self.mounts, Mounts::Root) {
            self.mount_own()?;
        }
        if let Some(user) = self.user {
            // SAFETY: plain system calls; the process has one thread here.
            unsafe {
                check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
                check(libc::setresgid(user, user, user))?;
                check(libc::setresuid(user, user, user))?;
            }
        }
        if matches!(self.mounts, Mounts::UserNamespace) && self.hosts.is_some() {
            // After setresuid the process counts as undumpable, and /proc/self then belongs to root.
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
            // SAFETY: a plain system call in a process of one thread.
            unsafe { check(libc::unshare(libc::CLONE_NEWUSER))? };
            write_file(c"/proc/self/setgroups", b"deny")?;
            write_file(c"/proc/self/uid_map", &self.id_map)?;
            write_file(c"/proc/self/gid_map", &self.group_map)?;
            self.mount_own()?;
        }
        if self.writes_shares {
            rustix::process::umask(rustix::fs::Mode::WOTH);
        }
        rustix::thread::set_no_new_privs(true)?;
        for (from, to) in &self.fds {
            // SAFETY: `from` was lifted above every target, so nothing is overwritten that is still needed.
            unsafe { check(libc::dup2(*from, *to))? };
        }
        Ok(())
    }

    fn mount_own(&self) -> std::io::Result<()> {
        if self.hosts.is_none() && self.volume.is_none() && self.shares.is_empty() {
            return Ok(());
        }
        // SAFETY: plain system calls with texts that outlive them.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let none = std::ptr::null();
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            if let Some(hosts) = &self.hosts {
                check(libc::mount(hosts.as_ptr(), c"/etc/hosts".as_ptr(), none, libc::MS_BIND, none.cast()))?;
            }
        }
        if let Some((mount, at, stand)) = &self.volume {
            let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(mount, c"", rustix::fs::CWD, at.as_c_str(), from_descriptor)?;
            // It stood in what is below the mount.
            rustix::process::chdir(stand.as_c_str())?;
        }
        for act in &self.shares {
            act.carry_out()?;
        }
        Ok(())
    }
}

fn c_path(path: &std::path::Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Error::Refused("a path with a zero byte".into()))
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn write_file(path: &std::ffi::CStr, text: &[u8]) -> std::io::Result<()> {
    let file =
        rustix::fs::open(path, rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    rustix::io::write(&file, text)?;
    Ok(())
}

impl Driver for Process {
    fn place(&self, placement: Placement) -> Result<Placed, Error> {
        let mut missing = Vec::new();
        let group = group_of(&placement.mark);
        let joins = if self.cgroups().limits() || self.cgroups().killer.is_some() {
            self.cgroups().prepare(&group, placement.limits)?
        } else {
            if placement.limits != crate::Limits::default() {
                missing.push(format!("limits ({})", self.cgroups().refused.clone().unwrap_or_default()));
            }
            Vec::new()
        };
        let mut names = Vec::new();
        let mut sources = Vec::new();
        for listen in placement.listeners {
            let fd = match listen.at {
                At::Tcp(address) => sockets::tcp(address)?,
                At::Inside(address) => match &placement.network {
                    Some(network) => sockets::tcp_inside(network, address)?,
                    None => sockets::tcp(address)?,
                },
                At::Unix(path) => sockets::unix(&path, placement.user)?,
                At::Open(fd) => fd,
            };
            names.push(listen.name);
            sources.push(fd);
        }
        let program = placement.program.clone();
        let spawn = |source: std::io::Error| Error::Spawn { program: program.clone(), source };
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| spawn(e.into()))?;
        sources.push(reader);
        let mut lifted = Vec::new();
        for fd in &sources {
            lifted.push(rustix::io::fcntl_dupfd_cloexec(fd, LIFTED).map_err(|e| spawn(e.into()))?);
        }
        let fds: Vec<(RawFd, RawFd)> =
            lifted.iter().enumerate().map(|(i, fd)| (fd.as_raw_fd(), 3 + i as RawFd)).collect();

        let mut command = Command::new(&placement.program);
        command
            .args(&placement.arguments)
            .env_clear()
            .envs(placement.environment)
            .env("STAMP_MARK", &placement.mark)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("STAMP_SECRETS_FD", (3 + names.len()).to_string())
            .current_dir(&placement.directory);
        if let Some(log) = &placement.log {
            let out = fs::OpenOptions::new().create(true).append(true).open(log).map_err(spawn)?;
            let err = out.try_clone().map_err(spawn)?;
            command.stdin(Stdio::null()).stdout(out).stderr(err);
        }
        let hosts = match (&placement.hosts_file, &self.machine.mounts) {
            (Some(_), Mounts::None(why)) => {
                missing.push(format!("own names ({why})"));
                None
            }
            (Some(path), _) => Some(c_path(path)?),
            (None, _) => None,
        };
        let (uid, gid) = match placement.user {
            Some(user) => (user, user),
            None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        };
        let network = placement.network.as_deref().map(network::namespace::open).transpose().map_err(spawn)?;
        let volume = match (&placement.volume, &self.machine.mounts) {
            (Some(volume), Mounts::Root) => {
                let failed = |source| Error::Volume { file: volume.file.clone(), source };
                let mount = volume::open(volume, placement.user).map_err(failed)?;
                Some((mount, c_path(&volume.at)?, c_path(&placement.directory)?))
            }
            (Some(volume), _) => {
                missing.push(format!("a disk of its own ({})", volume.at.display()));
                None
            }
            (None, _) => None,
        };
        let (shares, refused) = match &self.machine.mounts {
            Mounts::None(why) => {
                let named = |share: &share::Share| format!("a share at {} ({why})", share.at.display());
                (Vec::new(), placement.shares.iter().map(named).collect())
            }
            _ => share::prepare(&placement.shares).map_err(spawn)?,
        };
        missing.extend(refused);
        let mut groups: Vec<libc::gid_t> = placement.shares.iter().filter_map(|share| share.group).collect();
        groups.dedup();
        let child = Child {
            joins,
            shares,
            groups,
            writes_shares: placement.shares.iter().any(|share| share.write),
            volume,
            network,
            fds,
            user: placement.user,
            mounts: self.machine.mounts.clone(),
            hosts,
            id_map: format!("{uid} {uid} 1").into_bytes(),
            group_map: format!("{gid} {gid} 1").into_bytes(),
        };
        // SAFETY: `become_workload` only makes system calls on what was prepared here.
        unsafe { command.pre_exec(move || child.become_workload()) };
        let foreground = placement.log.is_none();
        let mut child = command.spawn().map_err(spawn)?;
        drop(command);
        drop((sources, lifted));
        let pid = child.id();
        // A pipe holds 64 KiB; secrets are a few KiB. If the child died already, its exit says why.
        let _ = fs::File::from(writer).write_all(&placement.secrets);
        let id = proc::identify(pid).unwrap_or(ProcessId { pid, start_ticks: 0 });
        if foreground {
            return Ok(Placed { id, missing, child: Some(child) });
        }
        // The workload outlives us; whoever of us is its parent when it ends must still reap it.
        std::thread::Builder::new()
            .name(format!("reap-{pid}"))
            .stack_size(64 * 1024)
            .spawn(move || child.wait())
            .map_err(spawn)?;
        Ok(Placed { id, missing, child: None })
    }

    fn identify(&self, pid: u32) -> Option<ProcessId> {
        proc::identify(pid)
    }

    fn processes(&self, mark: &str, user: Option<u32>) -> Vec<u32> {
        let mut pids = self.cgroups().processes(&group_of(mark));
        for pid in proc::all() {
            if user.is_some_and(|u| u != 0 && proc::user(pid) == Some(u))
                || proc::has_environment(pid, "STAMP_MARK", mark)
            {
                pids.push(pid);
            }
        }
        // Some (PostgreSQL) write over their environment: what they descend from still shows whose they are.
        pids = proc::descendants(&pids);
        pids.retain(|pid| proc::identify(*pid).is_some());
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn kill(&self, mark: &str, user: Option<u32>) -> Result<(), Error> {
        let group = group_of(mark);
        let until = Instant::now() + KILL_WAIT;
        loop {
            self.cgroups().kill(&group);
            let pids = self.processes(mark, user);
            // Killing one by one races with forks: look again until none is left.
            for pid in &pids {
                if let Some(pid) = Pid::from_raw(*pid as i32) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            if pids.is_empty() {
                self.cgroups().remove(&group);
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Error::Survivors { mark: mark.into(), seconds: KILL_WAIT.as_secs(), pids });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn memory(&self, mark: &str, user: Option<u32>) -> Option<u64> {
        let sizes: Vec<u64> = self.processes(mark, user).into_iter().filter_map(proc::pss_bytes).collect();
        (!sizes.is_empty()).then(|| sizes.iter().sum())
    }
}

/// Starts the supervisor itself, in a session of its own, its output in `log`.
pub fn start_supervisor(program: &PathBuf, arguments: &[&str], log: &PathBuf) -> Result<(), Error> {
    let spawn = |source| Error::Spawn { program: program.clone(), source };
    let out = fs::OpenOptions::new().create(true).append(true).open(log).map_err(spawn)?;
    let err = out.try_clone().map_err(spawn)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(out).stderr(err);
    // SAFETY: setsid is a plain system call.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
    let mut child = command.spawn().map_err(spawn)?;
    // We may outlive it (tests do): then somebody must reap it.
    std::thread::spawn(move || child.wait());
    Ok(())
}
