//! Signals to the processes of a scratch stamp.

use rustix::process::{Pid, Signal, kill_process};

use crate::{Miss, Site, must};

/// Sends a signal to a process; one that is gone already is an error.
pub fn signal(pid: u32, signal: Signal) -> Result<(), Miss> {
    let pid = Pid::from_raw(pid as i32).ok_or_else(|| Miss::Failed("there is no process".into()))?;
    Ok(kill_process(pid, signal)?)
}

/// Ends a process at once.
pub fn kill(pid: u32) -> Result<(), Miss> {
    signal(pid, Signal::KILL)
}

/// Sends a signal to every process of a workload, also to those that it has begun since its status was read; which got it.
pub fn all_of(site: &Site, workload: &str, sent: Signal) -> Result<Vec<u32>, Miss> {
    let mut known = site.pids(workload).to_vec();
    must!(!known.is_empty(), "{workload} has no process");
    let mut reached = Vec::new();
    loop {
        // One that ends by itself meanwhile is as good as reached.
        reached.extend(known.iter().filter(|pid| signal(**pid, sent).is_ok()));
        // Until each is reached it may begin another.
        let fresh: Vec<u32> = children(&reached).into_iter().filter(|pid| !reached.contains(pid)).collect();
        if fresh.is_empty() || sent == Signal::KILL {
            return Ok(reached);
        }
        known = fresh;
    }
}

/// Processes that these have begun, and that live.
fn children(of: &[u32]) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name in parentheses: its state, then its parent.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    numbers.filter(|pid| parent(*pid).is_some_and(|parent| of.contains(&parent))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn whoever_was_begun_is_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = super::children(&[std::process::id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id()), "{found:?}");
    }
}
