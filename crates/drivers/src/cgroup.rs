//! Limits by control groups: version 2 where its controllers are there, else version 1, else none.
//!
//! On a hybrid machine the controllers are in version 1 while the version 2 tree has none, but it still has `cgroup.kill`:
//! both are used. Paths: `ROOT/stampwright-HOMEHASH/SYSTEM.STAMP/RESOURCE`.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use crate::{Error, Limits};

const V1: [&str; 3] = ["memory", "cpu", "pids"];

/// What this machine offers.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    /// Version 2 with memory, cpu and pids.
    pub v2: Option<PathBuf>,
    /// Version 1 hierarchies by controller.
    pub v1: Vec<(&'static str, PathBuf)>,
    /// A version 2 tree without controllers, for `cgroup.kill`.
    pub killer: Option<PathBuf>,
    /// Why there is none.
    pub refused: Option<String>,
}

impl Cgroups {
    /// Looks at the machine; makes and removes a folder to know whether it may.
    pub fn detect() -> Self {
        Self::detect_below(Path::new("/sys/fs/cgroup"))
    }

    fn detect_below(root: &Path) -> Self {
        let mut found = Self::default();
        let probe = format!("stampwright-probe-{}", std::process::id());
        let mut may = |at: &Path| {
            let path = at.join(&probe);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let _ = fs::remove_dir(&path);
                    true
                }
                Err(e) => {
                    found.refused = Some(format!("mkdir {}: {e}", path.display()));
                    false
                }
            }
        };
        if root.join("cgroup.controllers").exists() {
            let has = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
            let all = V1.iter().all(|c| has.split_whitespace().any(|h| h == *c));
            if may(root) {
                if all {
                    found.v2 = Some(root.into());
                } else {
                    found.refused = Some(format!(
                        "{}: not all of memory, cpu, pids",
                        root.join("cgroup.subtree_control").display()
                    ));
                    found.killer = Some(root.into());
                }
            }
            return found;
        }
        let mut v1 = Vec::new();
        for controller in V1 {
            let at = root.join(controller);
            if at.join("cgroup.procs").exists() && may(&at) {
                v1.push((controller, at));
            }
        }
        let unified = root.join("unified");
        let killer = (unified.join("cgroup.procs").exists() && may(&unified)).then_some(unified);
        if v1.is_empty() && found.refused.is_none() {
            found.refused = Some(format!("{}: no control groups are mounted", root.display()));
        }
        found.v1 = v1;
        found.killer = killer;
        found
    }

    /// Whether limits can be set.
    pub fn limits(&self) -> bool {
        self.v2.is_some() || self.v1.len() == V1.len()
    }

    fn folders(&self, name: &str) -> Vec<PathBuf> {
        self.v2.iter().chain(self.v1.iter().map(|(_, p)| p)).chain(self.killer.iter()).map(|p| p.join(name)).collect()
    }

    /// Makes the workload's groups with their limits; returns the files by which a process joins (it writes `0`).
    pub fn prepare(&self, name: &str, limits: Limits) -> Result<Vec<OwnedFd>, Error> {
        let mut joins = Vec::new();
        for folder in self.folders(name) {
            let failed = |source: io::Error| Error::Cgroup { path: folder.clone(), source };
            fs::create_dir_all(&folder).map_err(failed)?;
            if self.v2.is_some() {
                // Controllers reach a folder only if every folder above it hands them down.
                for above in
                    folder.ancestors().skip(1).take_while(|a| Some(*a) != self.v2.as_deref().and_then(Path::parent))
                {
                    let _ = fs::write(above.join("cgroup.subtree_control"), "+memory +cpu +pids");
                }
            }
            for (file, value) in self.settings(&folder, limits) {
                let path = folder.join(file);
                if path.exists() {
                    fs::write(&path, value).map_err(|source| Error::Cgroup { path, source })?;
                }
            }
            let file = fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).map_err(failed)?;
            joins.push(file.into());
        }
        Ok(joins)
    }

    fn settings(&self, folder: &Path, limits: Limits) -> Vec<(&'static str, String)> {
        let or = |v: Option<u64>, none: &str| v.map_or_else(|| none.to_owned(), |v| v.to_string());
        let quota = limits.cpu_millis.map(|m| m * 100);
        if self.v2.is_some() {
            return vec![
                ("memory.max", or(limits.memory_bytes, "max")),
                ("cpu.max", format!("{} 100000", or(quota, "max"))),
                ("pids.max", or(limits.pids, "max")),
            ];
        }
        let under = |c: &str| self.v1.iter().any(|(name, p)| *name == c && folder.starts_with(p));
        if under("memory") {
            vec![("memory.limit_in_bytes", or(limits.memory_bytes, "-1"))]
        } else if under("cpu") {
            vec![("cpu.cfs_period_us", "100000".into()), ("cpu.cfs_quota_us", or(quota, "-1"))]
        } else if under("pids") {
            vec![("pids.max", or(limits.pids, "max"))]
        } else {
            Vec::new()
        }
    }

    /// The processes in the workload's groups.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let mut pids: Vec<u32> = self
            .folders(name)
            .iter()
            .filter_map(|f| fs::read_to_string(f.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<u32>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills all in the groups at once, where the kernel can (version 2); the caller kills what is left one by one.
    pub fn kill(&self, name: &str) {
        for root in self.v2.iter().chain(self.killer.iter()) {
            let _ = fs::write(root.join(name).join("cgroup.kill"), "1");
        }
    }

    /// Removes the workload's groups, those below them (of commands run in its place), and their parents if empty.
    pub fn remove(&self, name: &str) {
        for folder in self.folders(name) {
            let below = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            for group in below.filter(|path| path.is_dir()) {
                let _ = fs::remove_dir(group);
            }
            let mut at = folder.as_path();
            // A group with members or children refuses to go: that is the end of the walk up.
            for _ in Path::new(name).components() {
                if fs::remove_dir(at).is_err() {
                    break;
                }
                let Some(parent) = at.parent() else { break };
                at = parent;
            }
        }
    }
}
