//! A declared fault, on purpose: people work, something breaks, it is brought back, and what was lost is counted.
//!
//! Every drill runs under a [`Load`] with a ledger of acknowledged writes, so that loss is counted and not guessed. What is
//! measured: how long people were not served as promised after the fault (the recovery time), and how far back the oldest
//! acknowledged write that is gone lies (the recovery point).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use model::system::{Objective, Target};
use serde::Serialize;

use crate::{
    Lab, Miss, Seen, drills,
    load::{Load, Tape},
    miss,
};

/// People must be served so long without a fault before anything is broken, and again before a drill is over.
const CALM: Duration = Duration::from_secs(3);
/// What must be served again within this time after a drill has done all it does to mend.
const CALM_WITHIN: Duration = Duration::from_secs(60);

/// TOML to be laid on a manifest, from its text and the stamp that is drilled.
type Lay = fn(&str, &str) -> Result<String, Miss>;
type Acting<'a> = std::pin::Pin<Box<dyn Future<Output = Seen> + 'a>>;

/// One fault and how it is met.
pub struct Drill {
    pub name: &'static str,
    /// What is broken, and what must hold.
    pub about: &'static str,
    /// It needs a home on a disk so small that it can be filled; its size in bytes.
    pub disk: Option<u64>,
    /// It is never run on a person's stamp.
    pub scratch_only: bool,
    /// What is laid on the manifest for the time of the drill.
    pub(crate) lay: Option<Lay>,
    pub(crate) act: for<'a> fn(&'a Scene<'a>) -> Acting<'a>,
}

/// All drills there are.
pub fn all() -> &'static [Drill] {
    drills::ALL
}

/// The drill of this name.
pub fn named(name: &str) -> Option<&'static Drill> {
    all().iter().find(|d| d.name == name)
}

/// One line of what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Milliseconds since people began to work.
    pub ms: u64,
    pub what: String,
}

/// What a drill acts on.
pub struct Scene<'a> {
    pub lab: &'a Lab,
    /// The stamp.
    pub on: &'a str,
    pub load: &'a Load,
    timeline: Mutex<Vec<Moment>>,
    told: &'a dyn Fn(&Moment),
    fault: Mutex<Option<Duration>>,
    mended: Mutex<Option<Duration>>,
    undone: Mutex<Option<Duration>>,
    recovered: Mutex<Option<Duration>>,
}

impl Scene<'_> {
    /// Adds a line to the timeline.
    pub fn say(&self, what: impl Into<String>) {
        let moment = Moment { ms: millis(self.load.now()), what: what.into() };
        (self.told)(&moment);
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    }

    /// Notes that the fault happens now; the first one counts.
    pub fn fault(&self, what: impl Into<String>) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(self.load.now());
        self.say(format!("fault: {}", what.into()));
    }

    /// What is acknowledged from now on is taken back on purpose: it is counted, and not as lost.
    pub fn undone_from_now(&self) {
        *lock(&self.undone) = Some(self.load.now());
    }

    /// Notes that people are served again: what they wait for from now on is announced work, and no part of the recovery time.
    pub fn recovered(&self, what: impl Into<String>) {
        lock(&self.recovered).get_or_insert(self.load.now());
        self.say(what);
    }

    /// Notes that what was broken is whole again now, where people may not have noticed it at all.
    pub fn mended(&self, what: impl Into<String>) {
        *self.mended.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.load.now());
        self.say(what);
    }
}

/// What a drill measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub drill: String,
    pub system: String,
    pub stamp: String,
    /// From the fault until people were served again, and what was broken was whole again.
    pub rto_ms: u64,
    /// How far back the oldest acknowledged write that is gone lies; 0 if none is.
    pub rpo_ms: u64,
    /// Writes that were answered as done.
    pub acknowledged: usize,
    /// Of them, those that the database does not hold.
    pub lost: usize,
    /// Writes that were acknowledged after the moment to which the drill went back on purpose, and are gone.
    pub undone: usize,
    /// What the manifest declares for this drill.
    pub objective: Declared,
    /// Everything declared was kept, and so was what the drill itself says must hold.
    pub met: bool,
    pub timeline: Vec<Moment>,
    pub requests: usize,
    /// Requests that were not answered as done, by kind.
    pub troubles: BTreeMap<String, usize>,
    /// The longest time after the fault in which no write was acknowledged.
    pub longest_gap_ms: u64,
    pub p95_ms: u64,
    /// What the drill saw.
    pub observed: String,
    /// What did not hold; empty if `met`.
    pub failed: Vec<String>,
}

/// Objectives that name a drill, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Declared {
    pub rto_ms: Option<u64>,
    pub rpo_ms: Option<u64>,
}

impl Declared {
    /// Those of a manifest that name `drill`.
    pub fn of(objectives: &BTreeMap<String, Objective>, drill: &str) -> Self {
        let within = |key: &str| match objectives.get(key) {
            Some(Objective { target: Target::Within(limit), drills, .. }) if drills.iter().any(|d| d == drill) => {
                Some(millis(*limit))
            }
            _ => None,
        };
        Self { rto_ms: within("rto"), rpo_ms: within("rpo") }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Runs one drill on the stamp `on` under the load `mix`; `told` gets each line of the timeline as it happens.
///
/// # Errors
/// The drill could not begin: the stamp does not serve the load before anything is broken, or this machine does not allow
/// what the drill does. A fault that was not survived is no error, it is in [`Measured::failed`].
pub async fn run(lab: &Lab, on: &str, drill: &Drill, mix: &str, told: &dyn Fn(&Moment)) -> Result<Measured, Miss> {
    let Some(lay) = drill.lay else { return run_on(lab, on, drill, mix, told).await };
    let laid = lab.with(&lay(lab.manifest(), on)?)?;
    let measured = run_on(&laid, on, drill, mix, told).await;
    // The others find what they know: stamps that only this manifest has are removed, and the stamp is as it was declared.
    clear(lab, &laid, on).await?;
    measured
}

/// Removes the stamps that `laid` has and `lab` has not, and brings `on` up as `lab` has it.
async fn clear(lab: &Lab, laid: &Lab, on: &str) -> Result<(), Miss> {
    let stamps = |text: &str| -> BTreeSet<String> {
        model::Manifest::parse(text).map(|m| m.stamps().map(str::to_owned).collect()).unwrap_or_default()
    };
    let mut gone: BTreeSet<String> = stamps(laid.manifest()).difference(&stamps(lab.manifest())).cloned().collect();
    // One whose root is lost comes up no more by itself.
    if lab.restore(on).await.is_err() {
        gone.insert(on.to_owned());
    }
    for stamp in gone {
        laid.destroy(&stamp).await?;
    }
    lab.restore(on).await.map(drop)
}

async fn run_on(lab: &Lab, on: &str, drill: &Drill, mix: &str, told: &dyn Fn(&Moment)) -> Result<Measured, Miss> {
    let site = lab.site(on).await?;
    let objective = Declared::of(&site.system.objectives, drill.name);
    let load = Load::begin(lab, on, mix).await?;
    let scene = Scene {
        lab,
        on,
        load: &load,
        timeline: Mutex::default(),
        told,
        fault: Mutex::default(),
        mended: Mutex::default(),
        undone: Mutex::default(),
        recovered: Mutex::default(),
    };
    scene.say("people work");
    if !load.calm(CALM, CALM_WITHIN).await {
        miss!("{on} does not serve its load before anything is broken: {:?}", load.tape().troubles());
    }
    let acted = (drill.act)(&scene).await;
    if let Err(miss @ Miss::NotHere { .. }) = acted {
        return Err(miss);
    }
    let calm = load.calm(CALM, CALM_WITHIN).await;
    scene.say(if calm { "everybody is served" } else { "people are still not served" });
    let (fault, mended, undone) = (*lock(&scene.fault), *lock(&scene.mended), *lock(&scene.undone));
    let recovered = *lock(&scene.recovered);
    let timeline = std::mem::take(&mut *lock(&scene.timeline));
    drop(scene);
    let end = load.now();
    let (tape, book) = load.end().await;
    // The drill may have replaced what was looked at.
    let site = lab.restore(on).await?;
    let stored = book.stored(&site).await?;
    let fault = fault.unwrap_or(end);
    let mut failed = Vec::new();
    let observed = match acted {
        Ok(observed) => observed,
        Err(Miss::Failed(why) | Miss::Substituted(why) | Miss::NotHere { why, .. }) => {
            failed.push(why);
            String::new()
        }
    };
    if !calm {
        failed.push(format!(
            "{} s after the drill people were still not served: {:?}",
            CALM_WITHIN.as_secs(),
            tape.troubles()
        ));
    }
    let mut measured = Measured {
        drill: drill.name.into(),
        system: site.system.name.clone(),
        stamp: on.to_owned(),
        rto_ms: millis(
            tape.until(recovered.unwrap_or(end)).restored(fault).max(mended).unwrap_or(fault).saturating_sub(fault),
        ),
        rpo_ms: 0,
        acknowledged: 0,
        lost: 0,
        undone: 0,
        objective,
        met: false,
        timeline,
        requests: tape.samples.len(),
        troubles: tape.troubles(),
        longest_gap_ms: millis(tape.longest_gap(fault, end)),
        p95_ms: millis(tape.percentile(95)),
        observed,
        failed,
    };
    measured.judge(&tape, &stored, fault, undone);
    Ok(measured)
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Measured {
    /// Counts what is gone, and says what was not kept.
    fn judge(&mut self, tape: &Tape, stored: &BTreeSet<String>, fault: Duration, undone: Option<Duration>) {
        let acknowledged = tape.acknowledged();
        let gone = acknowledged.iter().filter(|(mark, _)| !stored.contains(**mark)).map(|(_, at)| *at);
        let (taken_back, lost): (Vec<Duration>, Vec<Duration>) =
            gone.partition(|at| undone.is_some_and(|from| *at >= from));
        self.undone = taken_back.len();
        self.acknowledged = acknowledged.len();
        self.lost = lost.len();
        if let (Some(first), Some(last)) = (lost.iter().min(), lost.iter().max()) {
            // The oldest that is gone, seen from the fault; what was lost after it counts from the last of them.
            self.rpo_ms = millis((*last).max(fault) - *first).max(1);
        }
        if acknowledged.is_empty() {
            self.failed.push("no write was acknowledged, so that nothing could have been lost".into());
        }
        if let Some(limit) = self.objective.rto_ms
            && self.rto_ms > limit
        {
            self.failed.push(format!("recovered after {} ms, {limit} ms are declared", self.rto_ms));
        }
        match self.objective.rpo_ms {
            Some(limit) if self.rpo_ms > limit => {
                self.failed.push(format!("lost {} ms of writes, {limit} ms are declared", self.rpo_ms));
            }
            None if self.lost > 0 => {
                self.failed
                    .push(format!("{} acknowledged writes are gone, and nothing declares that they may be", self.lost));
            }
            _ => {}
        }
        self.met = self.failed.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Outcome, Sample};

    fn measured(objective: Declared) -> Measured {
        Measured {
            drill: "d".into(),
            system: "s".into(),
            stamp: "dev".into(),
            rto_ms: 500,
            rpo_ms: 0,
            acknowledged: 0,
            lost: 0,
            undone: 0,
            objective,
            met: false,
            timeline: Vec::new(),
            requests: 0,
            troubles: BTreeMap::new(),
            longest_gap_ms: 0,
            p95_ms: 0,
            observed: String::new(),
            failed: Vec::new(),
        }
    }

    fn tape() -> Tape {
        let sample = |sent: u64, mark: &str| Sample {
            sent: Duration::from_millis(sent),
            took: Duration::ZERO,
            mark: Some(mark.into()),
            outcome: Outcome::Done,
        };
        Tape { samples: vec![sample(100, "a"), sample(700, "b"), sample(900, "c")] }
    }

    fn judged(objective: Declared, stored: &[&str]) -> Measured {
        judged_from(objective, stored, None)
    }

    fn judged_from(objective: Declared, stored: &[&str], undone: Option<u64>) -> Measured {
        let mut measured = measured(objective);
        let stored: BTreeSet<String> = stored.iter().map(|s| (*s).to_owned()).collect();
        measured.judge(&tape(), &stored, Duration::from_millis(1_000), undone.map(Duration::from_millis));
        measured
    }

    #[test]
    fn what_is_gone_is_counted_from_the_ledger() {
        let whole = judged(Declared::default(), &["a", "b", "c", "of somebody else"]);
        assert_eq!((whole.acknowledged, whole.lost, whole.rpo_ms, whole.met), (3, 0, 0, true));
        let gone = judged(Declared::default(), &["a", "c"]);
        assert_eq!((gone.lost, gone.rpo_ms, gone.met), (1, 300, false));
    }

    #[test]
    fn what_is_taken_back_on_purpose_is_not_lost() {
        let back = judged_from(Declared::default(), &["a", "b"], Some(800));
        assert_eq!((back.lost, back.undone, back.met), (0, 1, true));
        let more = judged_from(Declared::default(), &["a"], Some(800));
        assert_eq!((more.lost, more.undone, more.met), (1, 1, false), "`b` was there before the moment");
    }

    #[test]
    fn a_declared_recovery_point_allows_so_much() {
        let rpo = |limit| Declared { rto_ms: None, rpo_ms: Some(limit) };
        assert!(judged(rpo(300), &["a", "c"]).met);
        assert!(!judged(rpo(299), &["a", "c"]).met);
    }

    #[test]
    fn a_declared_recovery_time_is_a_limit() {
        let rto = |limit| Declared { rto_ms: Some(limit), rpo_ms: None };
        assert!(judged(rto(500), &["a", "b", "c"]).met);
        assert!(!judged(rto(499), &["a", "b", "c"]).met);
    }

    #[test]
    fn names_are_there_once() {
        let mut names: Vec<&str> = all().iter().map(|d| d.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }
}
