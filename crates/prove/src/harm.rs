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

/// Sends a signal to every process of a workload; how many got it.
pub fn all_of(site: &Site, workload: &str, sent: Signal) -> Result<usize, Miss> {
    let pids = site.pids(workload);
    must!(!pids.is_empty(), "{workload} has no process");
    // One that ends by itself meanwhile is as good as reached.
    Ok(pids.iter().filter(|pid| signal(**pid, sent).is_ok()).count())
}
