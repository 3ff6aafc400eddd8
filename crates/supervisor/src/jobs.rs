//! Jobs: each run at its times, one at a time, by the stamp's clock. A run is written down before it begins; one that goes on while
//! a supervisor dies is waited for by the next. A time that passed while nobody looked is made good by one run that says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use api::{
    job::{JobRequest, JobRun, JobStatus},
    shim::{ShimStatus, WorkloadState},
};
use model::{
    ResourceId,
    resource::{Job, Schedule},
};

use crate::{
    Error,
    authority::Authority,
    compose::Composed,
    journal::{StampRow, Wanted},
    layout::Layout,
    place, ready,
    reconcile::{blocking, clock_offset, composer, resolve, system_of},
    stamp::{Ground, What},
};

/// A run that begins so much later than its time is told as missed: nobody was there to begin it.
const LATE: Duration = Duration::from_secs(90);
/// Missed times are counted so far.
const COUNTED: u32 = 1000;
/// So many starts that fail, such as by a secret that is refused, are a run that cannot begin.
const STARTS: u32 = 5;
/// How long a shim that does not answer may be silent before its run counts as lost, if its process is gone.
const SILENT: Duration = Duration::from_secs(2);
/// How often a run under way is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The jobs of a stamp, as its manifest was read last.
#[derive(Default)]
pub struct Known {
    manifest: String,
    jobs: Vec<(ResourceId, Job)>,
}

/// By system and stamp.
pub type All = BTreeMap<(String, String), Known>;

/// Whether a workload is a job's run.
pub fn is_one(workload: &str) -> bool {
    workload.starts_with("job.")
}

/// Begins what is due of one stamp, and takes over runs that go on.
pub fn look(ground: &Arc<Ground>, row: &StampRow, all: &mut All) {
    let known = all.entry((row.system.clone(), row.stamp.clone())).or_default();
    if known.manifest != row.manifest {
        let jobs = resolve(&row.manifest, &row.stamp)
            .map(|system| system.jobs().map(|(id, job)| (id.clone(), job.clone())).collect())
            .unwrap_or_default();
        *known = Known { manifest: row.manifest.clone(), jobs };
    }
    for (id, job) in &known.jobs {
        if let Err(error) = try_look(ground, row, id, job) {
            tracing::warn!(
                system = row.system,
                stamp = row.stamp,
                job = id.to_string(),
                error = crate::error::chain(&error),
                "could not look after a job"
            );
        }
    }
}

fn try_look(ground: &Arc<Ground>, row: &StampRow, id: &ResourceId, job: &Job) -> Result<(), Error> {
    let (system, stamp, name) = (row.system.as_str(), row.stamp.as_str(), id.to_string());
    if !claim(ground, row, id) {
        // Somebody of us waits for its end.
        return Ok(());
    }
    let claim = Claim { ground: ground.clone(), row: row.clone(), id: id.clone() };
    if let Some(run) = ground.journal.open_run(system, stamp, &name)? {
        tokio::spawn(attend(claim, job.clone(), run, true));
        return Ok(());
    }
    let state = ground.stamp(system, stamp);
    let failed = state.work.lock().is_ok_and(|w| w.as_ref().is_some_and(|w| w.failed_recently()));
    if failed || state.current().is_some_and(|work| work.what != What::Verify) {
        // What it needs may not be there yet.
        return Ok(());
    }
    if ground.journal.workload(system, stamp, &name)?.is_none() {
        return Ok(());
    }
    let now = now(ground, row);
    let (fact, since) = since(ground, row, id, job)?;
    let Some(since) = since else {
        return ground.journal.set_fact(system, stamp, &fact, &written(now, &job.schedule));
    };
    let Some(due) = job.schedule.next(since).filter(|due| *due <= now) else { return Ok(()) };
    let missed = now - due > LATE.as_millis() as i64;
    let note = if missed { missed_note(&job.schedule, due, now) } else { String::new() };
    ground.journal.set_fact(system, stamp, &fact, &written(now, &job.schedule))?;
    let why = if missed { "missed" } else { "schedule" };
    begin(claim, job, why, due, note).map(drop)
}

/// What is told of a run that stands for times that passed while nobody looked.
fn missed_note(schedule: &Schedule, due: i64, now: i64) -> String {
    let mut times = 0;
    let mut at = Some(due);
    while let Some(time) = at.filter(|time| *time <= now && times < COUNTED) {
        times += 1;
        at = schedule.next(time);
    }
    let more = if times == COUNTED { " or more" } else { "" };
    format!("its time passed {times}{more} time(s) while nobody looked; it runs once for them")
}

/// The stamp's clock.
fn now(ground: &Ground, row: &StampRow) -> i64 {
    ground.clock.now_ms() + clock_offset(ground, row)
}

/// From when on its times count, with the schedule that this was written for: under another one they count from now on.
fn since(ground: &Ground, row: &StampRow, id: &ResourceId, job: &Job) -> Result<(String, Option<i64>), Error> {
    let fact = format!("since/{id}");
    let text = ground.journal.fact(&row.system, &row.stamp, &fact)?;
    let since = text
        .as_deref()
        .and_then(|text| text.split_once(' '))
        .and_then(|(at, schedule)| (schedule == job.schedule.to_string()).then(|| at.parse().ok())?);
    Ok((fact, since))
}

fn written(now: i64, schedule: &Schedule) -> String {
    format!("{now} {schedule}")
}

/// Takes the one place of a job's run; false if another has it.
fn claim(ground: &Ground, row: &StampRow, id: &ResourceId) -> bool {
    let state = ground.stamp(&row.system, &row.stamp);
    state.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone())
}

/// The place of a job's run, given back when this goes.
struct Claim {
    ground: Arc<Ground>,
    row: StampRow,
    id: ResourceId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let state = self.ground.stamp(&self.row.system, &self.row.stamp);
        state.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Writes a run down and begins it.
fn begin(claim: Claim, job: &Job, why: &str, due_ms: i64, note: String) -> Result<JobRun, Error> {
    let started_ms = now(&claim.ground, &claim.row);
    let mut run = JobRun { why: why.into(), due_ms, started_ms, outcome: "running".into(), note, ..JobRun::default() };
    let (system, stamp) = (&claim.row.system, &claim.row.stamp);
    run.number = claim.ground.journal.begin_run(system, stamp, &claim.id.to_string(), &run)?;
    tokio::spawn(attend(claim, job.clone(), run.clone(), false));
    Ok(run)
}

/// Sees a run to its end and writes that down.
async fn attend(claim: Claim, job: Job, mut run: JobRun, goes_on: bool) {
    let (ground, row) = (claim.ground.clone(), claim.row.clone());
    let ended = to_the_end(&claim, &job, goes_on).await;
    match ended {
        Ok(Some(end)) => {
            run.outcome = end.outcome.into();
            run.exit_code = end.status.as_ref().and_then(|s| s.last_exit.as_ref()).and_then(|e| e.code);
            run.signal = end.status.as_ref().and_then(|s| s.last_exit.as_ref()).and_then(|e| e.signal);
            add(&mut run.note, &end.note);
        }
        // The supervisor ends: the next one takes it over.
        Ok(None) => return,
        Err(error) => {
            run.outcome = "not-started".into();
            add(&mut run.note, &crate::error::chain(&error));
        }
    }
    run.ended_ms = Some(now(&ground, &row));
    let told = (row.system.as_str(), row.stamp.as_str(), claim.id.to_string());
    tracing::info!(
        system = told.0,
        stamp = told.1,
        job = told.2,
        outcome = run.outcome,
        note = run.note,
        "a run ended"
    );
    if let Err(error) = ground.journal.end_run(&run) {
        tracing::warn!(job = told.2, error = crate::error::chain(&error), "could not write down how a run ended");
    }
}

fn add(note: &mut String, more: &str) {
    if !note.is_empty() && !more.is_empty() {
        note.push_str("; ");
    }
    note.push_str(more);
}

/// How a run ended.
struct End {
    outcome: &'static str,
    status: Option<ShimStatus>,
    note: String,
}

impl End {
    fn new(outcome: &'static str, status: Option<ShimStatus>, note: impl Into<String>) -> Self {
        Self { outcome, status, note: note.into() }
    }
}

/// Places the run, if it does not go on already, and waits for its end; None if the supervisor ends before.
async fn to_the_end(claim: &Claim, job: &Job, goes_on: bool) -> Result<Option<End>, Error> {
    let Claim { ground, row, id } = claim;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let workload = id.to_string();
    if !goes_on {
        let (ground, row, id, job, layout) = (ground.clone(), row.clone(), id.clone(), job.clone(), layout.clone());
        blocking(move || place_one(&ground, &row, &id, &job, &layout)).await?;
    }
    let begun = Instant::now();
    let mut silent: Option<Instant> = None;
    let end = loop {
        let status = ready::shim(&layout, &workload).await;
        if let Some(end) = status.as_ref().and_then(ended) {
            break end;
        }
        let up = ground.journal.stamp(&row.system, &row.stamp)?.is_some_and(|row| row.wanted == Wanted::Up);
        match &status {
            Some(_) => silent = None,
            // Not there yet, or ended with its stamp.
            None if !up => break End::new("stopped", None, "the stamp was taken down"),
            None => {
                let placed = ground.journal.workload(&row.system, &row.stamp, &workload)?.and_then(|w| w.shim);
                let runs = placed.is_some_and(|id| ground.driver.runs(id));
                if !runs && silent.get_or_insert_with(Instant::now).elapsed() > SILENT {
                    break End::new("lost", None, "it was killed, and how far it came is not known");
                }
            }
        }
        if begun.elapsed() > job.timeout {
            let within = model::unit::show_duration(job.timeout);
            break End::new("timeout", status, format!("it was ended after {within}"));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = ground.shutdown.asked() => return Ok(None),
        }
    };
    let (ground, layout) = (ground.clone(), layout.clone());
    blocking(move || place::stop(&ground, &layout, &workload)).await?;
    Ok(Some(end))
}

fn place_one(ground: &Ground, row: &StampRow, id: &ResourceId, job: &Job, layout: &Layout) -> Result<(), Error> {
    let system = system_of(ground, row)?;
    let authority = Authority::open(&layout.folder)?;
    let composed: Composed = composer(ground, row, &system, layout, false).job(id, job)?;
    // A run before this one that was cut is not taken for it.
    place::stop(ground, layout, &composed.workload)?;
    place::place(ground, layout, &authority, &composed).map(drop)
}

/// Whether a run has come to its end, by what its shim says.
fn ended(status: &ShimStatus) -> Option<End> {
    let last = || status.last_exit.as_ref().and_then(|e| e.tail.last().cloned()).unwrap_or_default();
    match status.state {
        WorkloadState::Done => Some(End::new("done", Some(status.clone()), "")),
        WorkloadState::Failed => Some(End::new("failed", Some(status.clone()), last())),
        _ if status.restarts >= STARTS => {
            let why = status.trouble.clone().unwrap_or_else(|| ready::how(status));
            Some(End::new("not-started", Some(status.clone()), why))
        }
        _ => None,
    }
}

/// Every job of a stamp with its last runs; `named`: this one alone.
pub fn list(ground: &Ground, row: &StampRow, named: Option<&str>) -> Result<Vec<JobStatus>, Error> {
    let system = system_of(ground, row)?;
    let wanted = named.map(|name| name.strip_prefix("job.").unwrap_or(name));
    let mut all = Vec::new();
    for (id, job) in system.jobs().filter(|(id, _)| wanted.is_none_or(|name| name == id.name)) {
        let runs = ground.journal.runs(&row.system, &row.stamp, &id.to_string())?;
        let runs_now = runs.first().is_some_and(|run| !run.is_over());
        let (_, since) = since(ground, row, id, job)?;
        let next = job.schedule.next(since.unwrap_or_else(|| now(ground, row)));
        all.push(JobStatus {
            name: id.to_string(),
            schedule: job.schedule.to_string(),
            next_ms: next.filter(|_| row.wanted == Wanted::Up && !runs_now),
            runs,
        });
    }
    if let (true, Some(name)) = (all.is_empty(), named) {
        let known: Vec<String> = system.jobs().map(|(id, _)| id.name.clone()).collect();
        return Err(Error::Asked {
            what: format!("there is no job `{name}` in {}", row.system),
            hint: Some(match known.as_slice() {
                [] => "it declares none: `[job.NAME]` in system.toml".into(),
                known => format!("one of: {}", known.join(", ")),
            }),
        });
    }
    Ok(all)
}

/// Runs a job now, because somebody asks.
pub fn run(ground: &Arc<Ground>, row: &StampRow, ask: &JobRequest) -> Result<JobRun, Error> {
    let system = system_of(ground, row)?;
    let found = list(ground, row, Some(&ask.name))?.pop().map(|job| job.name);
    let found = found.and_then(|name| name.parse::<ResourceId>().ok());
    let Some((id, job)) = system.jobs().find(|(id, _)| Some(*id) == found.as_ref()) else {
        return Err(Error::Fault(format!("{} is not declared", ask.name)));
    };
    let asked = |what: String, hint: String| Err(Error::Asked { what, hint: Some(hint) });
    if row.wanted != Wanted::Up || ground.journal.workload(&row.system, &row.stamp, &id.to_string())?.is_none() {
        let hint = format!("bring it up first: `stamp up {} --stamp {}`", row.system, row.stamp);
        return asked(format!("{}/{} is not up", row.system, row.stamp), hint);
    }
    if !claim(ground, row, id) {
        let hint = format!("see `stamp job runs {} {}`", row.system, id.name);
        return asked(format!("{id} runs already, and runs one at a time"), hint);
    }
    let claim = Claim { ground: ground.clone(), row: row.clone(), id: id.clone() };
    if ground.journal.open_run(&row.system, &row.stamp, &id.to_string())?.is_some() {
        return asked(format!("{id} runs already, and runs one at a time"), "wait for its end".into());
    }
    let due = now(ground, row);
    begin(claim, job, "asked", due, String::new())
}

/// A line of `stamp status` for each job: its state, and what is told of it.
pub fn states(ground: &Ground, row: &StampRow) -> Result<Vec<(String, &'static str, String)>, Error> {
    let told = |job: JobStatus| {
        let last = job.runs.first();
        let state = match last.map(|run| run.outcome.as_str()) {
            Some("running") => "running",
            None | Some("done" | "stopped") => "scheduled",
            Some(_) => "failed",
        };
        let mut note = job.schedule.clone();
        if let Some(run) = last.filter(|run| run.is_over()) {
            let code = run.exit_code.filter(|code| *code != 0).map(|c| format!(" with {c}")).unwrap_or_default();
            note.push_str(&format!("; last: {}{code}", run.outcome));
            add(&mut note, &run.note);
        }
        (job.name, state, note)
    };
    Ok(list(ground, row, None)?.into_iter().map(told).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn missed_times_are_counted() {
        let hourly = Schedule::Cron("0 * * * *".into());
        let hour = 3_600_000;
        let due = hourly.next(0).unwrap();
        assert!(missed_note(&hourly, due, due + 2 * hour + 5).contains("passed 3 time(s)"));
        let often = Schedule::Every(Duration::from_secs(1));
        assert!(missed_note(&often, 0, 10_000_000).contains("passed 1000 or more time(s)"));
    }
}
