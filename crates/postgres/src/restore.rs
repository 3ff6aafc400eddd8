//! A server whose data comes from backups: the base backup is unpacked and compared, PostgreSQL replays the log to the asked
//! moment, and what comes of it is told.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use api::{
    Secret,
    backup::{Base, RestoreOrder, RestoreStatus, Target, Window},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, archive, base,
    repository::{Repository, reach_of, window},
    template, tools,
};

/// A restore that is under way or done.
pub(crate) struct Restore {
    order: RestoreOrder,
    repository: Repository,
    state: Mutex<RestoreStatus>,
    bytes: AtomicU64,
    next: archive::Next,
}

/// What was restored, kept beside the data: a keeper that was killed goes on by it.
#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    order: RestoreOrder,
    base: String,
}

impl Restore {
    pub fn new(order: RestoreOrder, key: &Secret) -> Result<Self, Error> {
        let repository = Repository::at(&order.from, key)?;
        Ok(Self {
            order,
            repository,
            state: Mutex::default(),
            bytes: AtomicU64::new(0),
            next: archive::Next::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, RestoreStatus> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> RestoreStatus {
        RestoreStatus { bytes: self.bytes.load(Ordering::Relaxed), ..self.state().clone() }
    }

    /// Unpacks the data, unless it is there. True when it did. Blocks.
    pub fn lay(&self, bin: &Path, pgdata: &Path) -> Result<bool, Error> {
        let work = match template::prepare(pgdata)? {
            Some(work) => work,
            None => {
                let done = !pgdata.join(SIGNAL).exists();
                self.state().phase = if done { "done" } else { "replaying" }.into();
                return Ok(false);
            }
        };
        let laid = self.lay_at(bin, &work, pgdata);
        if let Err(error) = &laid {
            let _ = fs::remove_dir_all(&work);
            self.fail(error.chain());
        }
        laid.map(|()| true)
    }

    fn lay_at(&self, bin: &Path, work: &Path, pgdata: &Path) -> Result<(), Error> {
        let base = choose(&self.repository, &self.order.target)?;
        *self.state() = RestoreStatus {
            phase: "unpacking".into(),
            base: base.name.clone(),
            total_bytes: base.bytes,
            ..RestoreStatus::default()
        };
        self.bytes.store(0, Ordering::Relaxed);
        base::unpack(&self.repository, &format!("base/{}", base.name), work, &self.bytes)?;
        if self.order.verify {
            tools::verify_backup(bin, work)?;
        }
        // Folders of the log, which the base backup has without content.
        for folder in ["pg_wal", "pg_wal/archive_status"] {
            let folder = work.join(folder);
            fs::create_dir_all(&folder).map_err(Error::io("make", &folder))?;
        }
        let signal = work.join(SIGNAL);
        fs::write(&signal, "").map_err(Error::io("write", &signal))?;
        let note = Note { version: 1, order: self.order.clone(), base: base.name };
        let path = base::note(pgdata);
        let text = serde_json::to_vec(&note).map_err(|e| Error::Config(e.to_string()))?;
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        template::put(work, pgdata)?;
        self.state().phase = "replaying".into();
        Ok(())
    }

    /// Settings under which the log is replayed to the target and no further.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("recovery_target_timeline", "latest".to_owned()),
            ("recovery_target_action", "promote".into()),
            // Nobody looks at it before it is where it was asked to be.
            ("hot_standby", "off".into()),
        ];
        match &self.order.target {
            Target::Latest => {}
            Target::Time { ms } => settings.push(("recovery_target_time", time(*ms))),
            Target::Point { name } => settings.push(("recovery_target_name", name.clone())),
        }
        settings
    }

    /// Gives the server a file of the archive. Blocks.
    pub fn fetch(&self, pgdata: &Path, name: &str, to: &str) -> Result<(), Error> {
        let given = archive::give(&self.repository, &self.next, pgdata, name, to);
        let mut state = self.state();
        match &given {
            Ok(()) => {
                state.segment = Some(name.to_owned());
                state.segments += 1;
            }
            Err(Error::NoSegment(_)) => {}
            Err(error) => state.failed = Some(error.chain()),
        }
        given
    }

    /// Whether the server on this data has its log still to replay.
    pub fn is_replaying(pgdata: &Path) -> bool {
        pgdata.join(SIGNAL).exists()
    }

    /// The server ended before it was restored.
    pub fn ended(&self, pgdata: &Path, why: &str) {
        if pgdata.join(SIGNAL).exists() {
            let known = self.state().failed.clone();
            self.fail(known.unwrap_or_else(|| {
                let asked = words(&self.order.target);
                format!("the log was replayed and {asked} was not reached: {why}")
            }));
        }
    }

    fn fail(&self, why: String) {
        self.next.forget();
        let mut state = self.state();
        state.phase = "failed".into();
        state.failed = Some(why);
    }

    /// The server serves. What it says of where replay ended is in the history of its timeline.
    pub fn done(&self, pgdata: &Path, last_commit_ms: Option<i64>) {
        self.next.forget();
        let newest = crate::repository::names(&pgdata.join("pg_wal")).unwrap_or_default();
        let newest = newest.into_iter().rfind(|n| n.ends_with(".history"));
        let history = newest.and_then(|n| fs::read_to_string(pgdata.join("pg_wal").join(n)).ok()).unwrap_or_default();
        let reason = history.lines().rfind(|l| !l.trim().is_empty()).map(|line| {
            let mut words = line.split('\t');
            let (_, place, why) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
            format!("{why}, at {place}")
        });
        let mut state = self.state();
        state.phase = "done".into();
        state.failed = None;
        if state.stopped.is_none() {
            state.stopped = reason;
        }
        state.last_commit_ms = last_commit_ms.or(state.last_commit_ms);
    }
}

/// PostgreSQL replays the log while this is there, and removes it once it is done.
const SIGNAL: &str = "recovery.signal";

/// The base backup from which a target is reached, or why it is not.
pub(crate) fn choose(repository: &Repository, target: &Target) -> Result<Base, Error> {
    let ((mut bases, mut broken), path) = (repository.all_bases()?, repository.path()?);
    let segments = repository.segments()?;
    if bases.is_empty()
        && let Some(error) = broken.pop()
    {
        return Err(error);
    }
    let window = window(&bases, &path, &segments);
    let outside = |asked: String| Error::Outside { asked, window: window_words(window) };
    let at_ms = match target {
        Target::Latest => i64::MAX,
        Target::Time { ms } => *ms,
        Target::Point { name } => {
            let points = repository.points()?;
            points.iter().find(|p| p.name == *name).ok_or_else(|| Error::NoPoint(name.clone()))?.at_ms
        }
    };
    bases.retain(|base| base.earliest_ms <= at_ms && reach_of(base, &path, &segments).is_some());
    let base = bases.pop().ok_or_else(|| outside(words(target)))?;
    let reached = reach_of(&base, &path, &segments).ok_or_else(|| outside(words(target)))?;
    let to_ms = reached.last.map_or(i64::MIN, |(_, written)| written);
    match reached.hole {
        // To the latest there is, a hole would lose what comes after it unseen.
        Some(hole) if at_ms > to_ms => Err(Error::Hole { missing: hole.name(), to: time(to_ms.max(base.earliest_ms)) }),
        None if at_ms > to_ms && *target != Target::Latest => Err(outside(words(target))),
        _ => Ok(base),
    }
}

/// A target in words.
pub(crate) fn words(target: &Target) -> String {
    match target {
        Target::Latest => "the latest moment".into(),
        Target::Time { ms } => time(*ms),
        Target::Point { name } => format!("the point {name}"),
    }
}

fn window_words(window: Option<Window>) -> String {
    match window {
        Some(window) => format!("{} to {}", time(window.from_ms), time(window.to_ms)),
        None => "nothing yet: there is no base backup with its log".into(),
    }
}

/// `2026-01-24 12:00:00.123+00`, as PostgreSQL reads it.
pub(crate) fn time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S%.3f+00").to_string(),
        Err(_) => format!("{ms} ms"),
    }
}
