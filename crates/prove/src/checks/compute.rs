//! What a workload may use, as the kernel keeps it.

use std::path::PathBuf;

use crate::{Lab, Miss, Seen, claim::Call, miss, must};

/// A file of the control group that a process is in: version 1 by controller, version 2 by the one tree.
fn group_file(pid: u32, controller: &str, old: &str, new: &str) -> Result<Option<PathBuf>, Miss> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mounted = |fits: &dyn Fn(&[&str]) -> bool| {
        mounts
            .lines()
            .map(|l| l.split(' ').collect::<Vec<_>>())
            .find(|w| w.len() > 3 && fits(w))
            .map(|w| PathBuf::from(w[1]))
    };
    // Lines of cgroups(7): number, controllers, path.
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let path = path.trim_start_matches('/');
        let found = if controllers.is_empty() {
            mounted(&|w| w[2] == "cgroup2").map(|m| m.join(path).join(new))
        } else if controllers.split(',').any(|c| c == controller) {
            mounted(&|w| w[2] == "cgroup" && w[3].split(',').any(|o| o == controller)).map(|m| m.join(path).join(old))
        } else {
            None
        };
        if let Some(file) = found.filter(|f| f.exists()) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// `bounds(WORKLOAD, CPUS, MIB)`: the kernel's limits of every process of the workload but its shim's.
pub async fn bounds(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let workload = c.argument(0, "service.web");
    let (cpus, mib): (f64, u64) = (c.argument(1, "1").parse()?, c.argument(2, "0").parse()?);
    let pids = site.pids(workload);
    must!(!pids.is_empty(), "{workload} does not run");
    if let Some(refused) = site.missing.iter().find(|m| m.contains("limits (")) {
        return Err(Miss::NotHere { why: "this machine sets no limits for us".into(), command: refused.clone() });
    }
    for pid in pids {
        let memory = group_file(*pid, "memory", "memory.limit_in_bytes", "memory.max")?;
        let quota = group_file(*pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
        let (Some(memory), Some(quota)) = (memory, quota) else {
            return Err(Miss::NotHere {
                why: format!("process {pid} is in no control group with limits"),
                command: format!("cat /proc/{pid}/cgroup"),
            });
        };
        let bytes: u64 = match std::fs::read_to_string(&memory)?.trim().parse() {
            Ok(bytes) => bytes,
            Err(_) => miss!("{} of process {pid} has no bound", memory.display()),
        };
        must!(bytes == mib << 20, "process {pid} may use {} MiB, not {mib}", bytes >> 20);
        let text = std::fs::read_to_string(&quota)?;
        let period = match text.split_once(' ') {
            Some((_, period)) => period.trim().to_owned(),
            None => std::fs::read_to_string(quota.with_file_name("cpu.cfs_period_us"))?.trim().to_owned(),
        };
        let share = text.split(' ').next().unwrap_or_default().trim().parse::<f64>();
        let Ok(share) = share else { miss!("{} of process {pid} has no bound", quota.display()) };
        let cores = share / period.parse::<f64>()?;
        must!((cores - cpus).abs() < 0.01, "process {pid} may use {cores} cores, not {cpus}");
    }
    Ok(format!("{} processes of {workload}: {cpus} core(s) and {mib} MiB by the kernel's control groups", pids.len()))
}
