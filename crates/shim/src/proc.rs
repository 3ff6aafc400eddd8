//! What `/proc` says of processes, as far as a shim asks.

use std::{collections::HashSet, fs};

/// The fields of `/proc/PID/stat` that a shim uses.
pub struct Stat {
    pub state: char,
    pub parent: u32,
    /// Clock ticks since boot: with the number, which process it is.
    pub start_ticks: u64,
}

/// Reads `/proc/PID/stat`; None if there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything: fields count from the last one.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// Everything alive that descends from this process, itself included.
pub fn family() -> HashSet<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let pid: u32 = e.file_name().to_str()?.parse().ok()?;
            let stat = stat(pid)?;
            (stat.state != 'Z').then_some((pid, stat.parent))
        })
        .collect();
    let mut found = HashSet::from([std::process::id()]);
    loop {
        let before = found.len();
        for (pid, parent) in &all {
            if found.contains(parent) {
                found.insert(*pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_its_own_family_and_its_parent_is_not() {
        let own = std::process::id();
        let family = family();
        assert!(family.contains(&own));
        let stat = stat(own).unwrap();
        assert!(!family.contains(&stat.parent));
        assert!(stat.start_ticks > 0);
    }
}
