//! What a workload may use, as the kernel keeps it.

use std::path::PathBuf;

use crate::{Lab, Miss, Seen, claim::Call, miss, must};

/// A file of the control group that a process is in, then of each group above it: version 1 by controller, version 2 by the
/// one tree. The kernel applies the tightest of them.
fn group_files(pid: u32, controller: &str, old: &str, new: &str) -> Result<Vec<PathBuf>, Miss> {
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
            mounted(&|w| w[2] == "cgroup2").map(|m| (m, new))
        } else if controllers.split(',').any(|c| c == controller) {
            mounted(&|w| w[2] == "cgroup" && w[3].split(',').any(|o| o == controller)).map(|m| (m, old))
        } else {
            None
        };
        let Some((mount, name)) = found else { continue };
        let own = mount.join(path);
        let files: Vec<PathBuf> =
            own.ancestors().take_while(|at| at.starts_with(&mount)).map(|at| at.join(name)).collect();
        if files.first().is_some_and(|file| file.exists()) {
            return Ok(files.into_iter().filter(|file| file.exists()).collect());
        }
    }
    Ok(Vec::new())
}

/// The tightest number of bytes; None: no bound.
fn bytes(files: &[PathBuf]) -> Result<Option<u64>, Miss> {
    let mut least = None;
    for file in files {
        // `max`, and version 1's largest multiple of a page, are no bound.
        let bound = std::fs::read_to_string(file)?.trim().parse::<u64>().ok().filter(|bytes| *bytes < 1 << 60);
        least = least.into_iter().chain(bound).min();
    }
    Ok(least)
}

/// The tightest number of cores; None: no bound.
fn cores(files: &[PathBuf]) -> Result<Option<f64>, Miss> {
    let mut least: Option<f64> = None;
    for file in files {
        let text = std::fs::read_to_string(file)?;
        let period = match text.split_once(' ') {
            Some((_, period)) => period.trim().to_owned(),
            None => std::fs::read_to_string(file.with_file_name("cpu.cfs_period_us"))?.trim().to_owned(),
        };
        let share = text.split(' ').next().unwrap_or_default().trim().parse::<f64>().ok().filter(|share| *share > 0.0);
        let Some(share) = share else { continue };
        let cores = share / period.parse::<f64>()?;
        least = Some(least.map_or(cores, |least| least.min(cores)));
    }
    Ok(least)
}

/// The address space that a process may have, in bytes (`/proc/PID/limits`); None: no bound.
fn address_space(pid: u32) -> Result<Option<u64>, Miss> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()))
}

/// `bounds(WORKLOAD, CPUS, MIB[, SIZE])`: with the name of a size, the workload is declared to be of it; the kernel's limits of every process of the workload but its shim's.
pub async fn bounds(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let workload = c.argument(0, "service.web");
    let (cpus, mib): (f64, u64) = (c.argument(1, "1").parse()?, c.argument(2, "0").parse()?);
    let pids = site.pids(workload);
    must!(!pids.is_empty(), "{workload} does not run");
    if let Some(name) = c.arguments.get(3) {
        // What people know it by, and pay for.
        let size = workload.parse().ok().and_then(|id: model::ResourceId| match site.system.resources.get(&id) {
            Some(model::Resource::Service(service)) => service.size.clone(),
            Some(model::Resource::Postgres(postgres)) => postgres.size.clone(),
            _ => None,
        });
        must!(size.as_ref() == Some(name), "{workload} is of the size {size:?}, not {name}");
    }
    if let Some(refused) = site.missing.iter().find(|m| m.contains("limits (")) {
        return Err(Miss::NotHere { why: "this machine sets no limits for us".into(), command: refused.clone() });
    }
    let mut looked = 0;
    for pid in pids {
        // A database starts and ends workers of its own all the time.
        if !std::path::Path::new(&format!("/proc/{pid}/cgroup")).exists() {
            continue;
        }
        looked += 1;
        let memory = group_files(*pid, "memory", "memory.limit_in_bytes", "memory.max")?;
        let quota = group_files(*pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
        if memory.is_empty() || quota.is_empty() {
            return Err(Miss::NotHere {
                why: format!("process {pid} is in no control group with limits"),
                command: format!("cat /proc/{pid}/cgroup"),
            });
        }
        let Some(bytes) = bytes(&memory)? else { miss!("the memory of process {pid} has no bound") };
        must!(bytes == mib << 20, "process {pid} may use {} MiB, not {mib}", bytes >> 20);
        let Some(cores) = cores(&quota)? else { miss!("the CPU time of process {pid} has no bound") };
        must!((cores - cpus).abs() < 0.01, "process {pid} may use {cores} cores, not {cpus}");
        let space = address_space(*pid)?;
        must!(
            space.is_none_or(|space| space >= mib << 20),
            "process {pid} may have {} MiB of addresses, less than {mib}",
            space.unwrap_or_default() >> 20
        );
    }
    must!(looked > 0, "none of {pids:?} of {workload} is there any more");
    Ok(format!("{looked} processes of {workload}: {cpus} core(s) and {mib} MiB by the kernel's control groups"))
}
