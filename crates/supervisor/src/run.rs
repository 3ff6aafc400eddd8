//! The supervisor's life: one per home, its socket, and a look at every workload now and then.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use drivers::{probe::Machine, process::Process};
use model::plan;
use service::{Limits, Listener};

use crate::{
    Error, Home,
    acts::Acts,
    border, doors, files, http, jobs,
    journal::{StampRow, Wanted, WorkloadRow},
    layout::Layout,
    lead, reconcile, renew, shims,
    stamp::{Ground, Seams, Stamp, What},
    state,
    supervisor::Supervisor,
    verify,
};

/// A supervisor that has had no stamp for so long ends; the next command starts another.
const IDLE: Duration = Duration::from_secs(5);
/// As long as one that ends may still hold the lock.
const HANDOVER: Duration = Duration::from_secs(3);

/// How often every shim is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until asked to end. What it placed goes on.
pub async fn run(home: Home, stamp_binary: PathBuf) -> Result<(), Error> {
    home.prepare().map_err(Error::file("make", home.root()))?;
    let lock = std::fs::File::create(home.lock()).map_err(Error::file("open", home.lock()))?;
    let until = Instant::now() + HANDOVER;
    while rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            // Another supervisor of this home runs: that is what was wanted.
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let digest = files::digest(&std::fs::read(&stamp_binary).map_err(Error::file("read", &stamp_binary))?);
    let machine = Machine::probe();
    let driver = Arc::new(Process::new(machine.clone()));
    let supervisor = Supervisor::open(home.clone(), driver, machine, stamp_binary, digest, Seams::default())?;
    let ground = supervisor.ground().clone();
    ground.shutdown.on_signals().map_err(Error::file("watch signals for", home.root()))?;
    let socket = drivers::sockets::unix(&home.socket(), None)
        .map_err(|source| Error::Place { workload: "the supervisor".into(), source })?;
    tracing::info!(home = %home.root().display(), "the supervisor serves");
    let acts = Acts::open(&home)?;
    tokio::spawn(watch(ground.clone()));
    tokio::spawn(crate::watch::watch(ground.clone()));
    tokio::spawn(crate::storage::watch(ground.clone(), acts.clone()));
    let limits = Limits { body_bytes: 4 * 1024 * 1024, drain: Duration::from_millis(500), ..Limits::default() };
    service::serve(
        Listener::Unix(socket.into()),
        None,
        http::routes(ground.clone(), acts),
        limits,
        ground.shutdown.clone(),
    )
    .await
    .map_err(Error::file("serve", home.socket()))?;
    if ground.journal.stamps().is_ok_and(|stamps| stamps.is_empty()) {
        // Nothing of this home is left outside of it. Who comes next makes the folder once it has the lock.
        let _ = std::fs::remove_dir_all(home.sockets());
    }
    // The lock falls with the process.
    drop(lock);
    Ok(())
}

/// Goes on with what the journal has begun, then mends what ends by itself.
async fn watch(ground: Arc<Ground>) {
    let mut first = true;
    let mut empty = None;
    let mut tried = BTreeMap::new();
    let mut kept = BTreeMap::new();
    let mut verified = BTreeMap::new();
    let mut doors = BTreeMap::new();
    let mut known_jobs = jobs::All::new();
    let mut links = BTreeMap::new();
    loop {
        match ground.journal.stamps() {
            Ok(rows) if rows.is_empty() => {
                if empty.get_or_insert_with(Instant::now).elapsed() > IDLE && leave(&ground) {
                    return;
                }
            }
            Ok(rows) => {
                empty = None;
                for row in rows {
                    if row.wanted == Wanted::Up {
                        renew::look(&ground, &row, &mut tried).await;
                        state::look(&ground, &row, &mut kept).await;
                        verify::look(&ground, &row, &mut verified).await;
                        doors::look(&ground, &row, &mut doors);
                        jobs::look(&ground, &row, &mut known_jobs);
                        border::look(&ground, &row, &mut links);
                    }
                    look(&ground, row, first).await;
                }
            }
            Err(error) => tracing::warn!(error = crate::error::chain(&error), "could not read the journal"),
        }
        first = false;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = ground.shutdown.asked() => return,
        }
    }
}

/// Ends the supervisor if there is still no stamp; whether it did. An `up` that comes at this moment is refused, not lost.
fn leave(ground: &Ground) -> bool {
    let _alone = ground.settling.lock().unwrap_or_else(PoisonError::into_inner);
    let idle = ground.journal.stamps().is_ok_and(|stamps| stamps.is_empty());
    if idle {
        tracing::info!("no stamp is left: the supervisor ends");
        ground.shutdown.ask();
    }
    idle
}

/// Goes on with what the journal has begun of one stamp, or mends it.
pub async fn look(ground: &Arc<Ground>, row: StampRow, first: bool) {
    let state = ground.stamp(&row.system, &row.stamp);
    if let Some(current) = state.current() {
        if current.what == What::Verify && row.wanted == Wanted::Up && lost(ground, &row) {
            // What serves people comes first; it is mended once this has ended.
            current.cancel.ask();
        }
        return;
    }
    match row.wanted {
        Wanted::Up => {
            let after_failure = state.work.lock().is_ok_and(|w| w.as_ref().is_some_and(|w| w.failed_recently()));
            if first || (lost(ground, &row) && !after_failure && !is_the_watchers(ground, &row, &state)) {
                reconcile::mend(ground, row);
            }
        }
        Wanted::Gone => {
            let of = api::supervisor::StampRef { system: row.system, stamp: row.stamp };
            if let Err(error) = reconcile::end(ground, of, true).await {
                tracing::warn!(error = crate::error::chain(&error), "could not go on with a removal");
            }
        }
        Wanted::Down => {
            if first && let Err(error) = leftovers(ground, &row).await {
                tracing::warn!(error = crate::error::chain(&error), "could not look for what a cut `down` left");
            }
        }
    }
}

/// Whether a workload that was placed is gone.
fn lost(ground: &Ground, row: &StampRow) -> bool {
    let Ok(workloads) = ground.journal.workloads(&row.system, &row.stamp) else { return false };
    // Who sees to a job's run notices its end, and writes down how it came.
    workloads.iter().any(|w| !jobs::is_one(&w.workload) && w.shim.is_some_and(|id| !ground.driver.runs(id)))
}

/// Whether what is gone leads a database of which another member is there: the watcher of databases, who looks more often, has
/// the first word. If it begins no failover until the next look, the old one is started again like any workload.
fn is_the_watchers(ground: &Ground, row: &StampRow, state: &Stamp) -> bool {
    let Ok(workloads) = ground.journal.workloads(&row.system, &row.stamp) else { return false };
    let runs = |w: &WorkloadRow| w.shim.is_some_and(|id| ground.driver.runs(id));
    let leads = |w: &&WorkloadRow| {
        let database = plan::resource_of(&w.workload);
        let lead = lead::of(ground, &row.system, &row.stamp, database).ok().flatten();
        let other = |o: &WorkloadRow| o.workload != w.workload && plan::resource_of(&o.workload) == database && runs(o);
        lead.is_some_and(|lead| lead.primary == w.workload) && workloads.iter().any(other)
    };
    let leaderless = workloads.iter().filter(|w| w.shim.is_some() && !runs(w)).any(|w| leads(&w));
    let mut since = state.leaderless.lock().unwrap_or_else(PoisonError::into_inner);
    if !leaderless {
        *since = None;
        return false;
    }
    since.get_or_insert_with(Instant::now).elapsed() < LOOK / 2
}

/// A `down` that was cut is finished.
async fn leftovers(ground: &Arc<Ground>, row: &StampRow) -> Result<(), Error> {
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let any = layout.workloads().any(|w| {
        w.shim.is_some_and(|id| ground.driver.runs(id))
            || shims::ask(&layout.shim_socket(&w.workload), &api::shim::Ask::Status).is_some()
    });
    if any {
        let of = api::supervisor::StampRef { system: row.system.clone(), stamp: row.stamp.clone() };
        reconcile::end(ground, of, false).await?;
    }
    Ok(())
}
