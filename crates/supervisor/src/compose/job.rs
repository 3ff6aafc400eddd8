//! What a job's run is started with.

use model::resource::Job;

use super::*;

impl Composer<'_> {
    /// One run of a job: to its end, with an identity of its own.
    pub fn job(&self, id: &ResourceId, job: &Job) -> Result<Composed, Error> {
        let Source::Run(run) = &job.program.source else {
            return Err(Error::NotBuilt(format!("{id}'s image (processes, not containers yet)")));
        };
        let workload = id.to_string();
        let mut shim = self.shim(&workload, id, &workload)?;
        shim.run = self.program(&workload, run)?;
        shim.directory = self.directory(job.program.directory.as_deref(), run, &workload)?;
        shim.env = self.environment(&workload, &job.env, None)?;
        self.mount_settings(&job.mounts, &mut shim.env);
        shim.once = true;
        shim.unresolved_as_text = job.unresolved == Unresolved::Text;
        Ok(Composed {
            limits: drivers::Limits {
                memory_bytes: job.limits.memory.map(|b| b.0),
                cpu_millis: job.limits.cpu_millis.map(u64::from),
                pids: job.limits.pids.map(u64::from),
            },
            ready: Ready::Done,
            start_within: job.timeout,
            shares: self.shares(&job.mounts)?,
            ..Composed::plain(workload, shim)
        })
    }
}
