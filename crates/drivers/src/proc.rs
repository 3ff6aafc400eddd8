//! What `/proc` says of processes.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{Error, ProcessId};

/// The fields of `/proc/PID/stat` that we use.
pub struct Stat {
    pub state: char,
    pub parent: u32,
    pub session: u32,
    pub start_ticks: u64,
}

/// Reads `/proc/PID/stat`; None if there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces and parentheses too: fields count from the last one.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// The process `pid` with its start, if it runs (a zombie does not).
pub fn identify(pid: u32) -> Option<ProcessId> {
    stat(pid).filter(|s| s.state != 'Z' && s.state != 'X').map(|s| ProcessId { pid, start_ticks: s.start_ticks })
}

/// Whether this very process runs.
pub fn runs(id: ProcessId) -> bool {
    identify(id.pid) == Some(id)
}

/// All processes' numbers.
pub fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The processes whose working directory is `folder`, as far as we may see.
pub fn working_in(folder: &Path) -> Vec<u32> {
    let Ok(folder) = fs::canonicalize(folder) else { return Vec::new() };
    let works = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
    all().into_iter().filter(works).filter(|pid| identify(*pid).is_some()).collect()
}

/// Kills every process whose working directory is `folder` and waits until none is left.
///
/// # Errors
/// Some were left after `within`.
pub fn kill_working_in(folder: &Path, within: Duration) -> Result<(), Error> {
    let until = Instant::now() + within;
    loop {
        let pids = working_in(folder);
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::Survivors { mark: folder.display().to_string(), seconds: within.as_secs(), pids });
        }
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The real user of a process.
pub fn user(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// Whether a process carries `name=value` in the environment it was started with.
pub fn has_environment(pid: u32, name: &str, value: &str) -> bool {
    let Ok(text) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{name}={value}");
    text.split(|b| *b == 0).any(|entry| entry == wanted.as_bytes())
}

/// All that descend from any of `roots`, the roots included.
pub fn descendants(roots: &[u32]) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = all().into_iter().filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut found: Vec<u32> = roots.to_vec();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        next += 1;
        for (&pid, &of) in &parents {
            if of == parent && !found.contains(&pid) {
                found.push(pid);
            }
        }
    }
    found
}

/// Proportional set size in bytes, from `smaps_rollup`.
pub fn pss_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Who listens on a TCP port of an IPv4 address, as `name (pid N)`, as far as we may see.
pub fn listener_of(address: std::net::SocketAddrV4) -> Option<String> {
    let text = fs::read_to_string("/proc/net/tcp").ok()?;
    let port = format!("{:04X}", address.port());
    let ip = format!("{:08X}", u32::from_ne_bytes(address.ip().octets()));
    let inode = text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (at, listening_port) = fields.get(1)?.split_once(':')?;
        let here = (at == ip || at == "00000000") && listening_port == port && *fields.get(3)? == "0A";
        here.then(|| fields.get(9).map(|i| (*i).to_owned()))?
    })?;
    let socket = format!("socket:[{inode}]");
    for pid in all() {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        if entries.flatten().any(|e| fs::read_link(e.path()).is_ok_and(|l| l == Path::new(&socket))) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    Some("a process of another user".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_number_and_start() {
        let id = identify(std::process::id()).unwrap();
        assert!(runs(id));
        assert!(!runs(ProcessId { start_ticks: id.start_ticks + 1, ..id }));
        assert!(descendants(&[stat(id.pid).unwrap().parent]).contains(&id.pid));
        assert!(pss_bytes(id.pid).unwrap() > 0);
    }

    #[test]
    fn a_taken_port_is_named_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!("IPv4") };
        let owner = listener_of(at).unwrap();
        assert!(owner.contains(&format!("(pid {})", std::process::id())), "{owner}");
    }
}
