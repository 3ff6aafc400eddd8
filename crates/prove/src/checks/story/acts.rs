//! What a story does to the stamp: jobs run, parts stopped, ended or changed. What is stopped or changed is put back at its end.

use std::time::Duration;

use api::job::{JobRequest, JobRun, JobStatus};
use rustix::process::Signal;
use serde::Deserialize;

use super::{Step, Teller};
use crate::{Miss, harm, must, site::until_in};

const LONG: Duration = Duration::from_secs(60);

#[derive(Default, Deserialize)]
pub struct Act {
    /// A job to run now; it must succeed.
    job: Option<String>,
    /// Every process of this workload is stopped (SIGSTOP), or goes on.
    pause: Option<String>,
    resume: Option<String>,
    /// The processes of this resource, every copy of it, are ended; it is waited for until all are there again.
    restart: Option<String>,
    /// The stamp is taken down, the folders of these workloads are removed with all they hold, and it comes up again.
    recreate: Option<Vec<String>>,
    /// TOML that is laid on the manifest.
    change: Option<String>,
    /// A file in `{scratch}`, which every workload may read, and its text.
    write: Option<(String, String)>,
}

/// What is to be put back.
#[derive(Default)]
pub struct Undo {
    paused: Vec<(String, Vec<u32>)>,
    changed: bool,
}

impl Teller<'_> {
    pub(super) async fn act(&mut self, step: &Step) -> Result<(), Miss> {
        let act = &step.act;
        if let Some((name, text)) = &act.write {
            use std::os::unix::fs::PermissionsExt as _;
            let (path, text) = (self.site.scratch.join(name), self.fill(text)?);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        }
        if let Some(change) = &act.change {
            self.undo.changed = true;
            self.site = self.lab.changed(self.on, &self.fill(change)?).await?;
            self.seen.push("the manifest was changed".into());
        }
        if let Some(workload) = &act.pause {
            let sent = harm::all_of(&self.site, workload, Signal::STOP)?;
            self.undo.paused.push((workload.clone(), self.site.pids(workload).to_vec()));
            self.seen.push(format!("{workload} stopped ({sent} processes)"));
        }
        if let Some(workload) = &act.resume {
            self.undo.go_on(workload);
            self.seen.push(format!("{workload} goes on"));
        }
        if let Some(resource) = &act.restart {
            self.restart(resource).await?;
        }
        if let Some(workloads) = &act.recreate {
            self.recreate(workloads).await?;
        }
        match &act.job {
            Some(job) => self.run(job).await,
            None => Ok(()),
        }
    }

    /// Puts back what was stopped and changed.
    pub(super) async fn undone(&mut self) -> Result<(), Miss> {
        self.undo.go_on("");
        if self.undo.changed {
            self.lab.restore(self.on).await?;
        }
        Ok(())
    }

    async fn recreate(&mut self, workloads: &[String]) -> Result<(), Miss> {
        let places: Vec<_> = workloads.iter().filter_map(|name| self.site.places.get(name)).cloned().collect();
        must!(places.len() == workloads.len(), "not all of {workloads:?} are there");
        self.lab.down(self.on).await?;
        for place in &places {
            std::fs::remove_dir_all(place)?;
        }
        self.site = self.lab.restore(self.on).await?;
        self.seen.push(format!("{} were removed with their folders and made anew", workloads.join(", ")));
        Ok(())
    }

    async fn restart(&mut self, resource: &str) -> Result<(), Miss> {
        let copies = |site: &crate::Site| -> Vec<Option<u32>> {
            let own = |name: &str| name == resource || name.strip_prefix(resource).is_some_and(|r| r.starts_with('+'));
            let all = site.status.resources.iter().filter(|r| own(&r.name));
            all.map(|r| r.pids.get(1).copied().filter(|_| r.state == "ready")).collect()
        };
        let before = copies(&self.site);
        must!(!before.is_empty() && before.iter().all(Option::is_some), "{resource} does not run: {before:?}");
        for pid in before.iter().flatten() {
            harm::kill(*pid)?;
        }
        let (lab, on) = (self.lab, self.on);
        self.site = until_in("every copy runs again", LONG, async || {
            let site = lab.restore(on).await?;
            let now = copies(&site);
            let fresh = now.len() == before.len() && now.iter().all(|pid| pid.is_some() && !before.contains(pid));
            must!(fresh, "{before:?} are {now:?}");
            Ok(site)
        })
        .await?;
        self.seen.push(format!("{} process(es) of {resource} ended and started anew", before.len()));
        Ok(())
    }

    async fn run(&mut self, job: &str) -> Result<(), Miss> {
        let run = run_job(&self.site, job).await?;
        self.seen.push(format!("{job} ran as number {} and succeeded", run.number));
        Ok(())
    }
}

impl Undo {
    /// Lets a workload go on, or with an empty name all of them.
    fn go_on(&mut self, workload: &str) {
        self.paused.retain(|(name, pids)| {
            let meant = workload.is_empty() || name == workload;
            if meant {
                for pid in pids {
                    // One that has ended meanwhile needs nothing.
                    let _ = harm::signal(*pid, Signal::CONT);
                }
            }
            !meant
        });
    }
}

/// Runs a job now, to its end; it must succeed.
pub async fn run_job(site: &crate::Site, job: &str) -> Result<JobRun, Miss> {
    let api::supervisor::StampRef { system, stamp } = site.of();
    let ask = JobRequest { system: system.clone(), stamp: stamp.clone(), name: job.into() };
    let begun: JobRun = site.supervisor.post("/job/run", &ask).await?;
    let path = format!("/jobs?system={system}&stamp={stamp}&name={job}");
    let ended = async || {
        let jobs: Vec<JobStatus> = site.supervisor.get(&path).await?;
        let run = jobs.into_iter().flat_map(|j| j.runs).find(|run| run.number == begun.number);
        run.filter(JobRun::is_over).ok_or_else(|| Miss::Failed(format!("{job} still runs")))
    };
    let run = until_in("a job's end", LONG, ended).await?;
    must!(run.outcome == "done", "{job}: {} {}", run.outcome, run.note);
    Ok(run)
}
