//! Looks at whoever leads a database, ten times a second, and begins a failover when it is dead. A process that is gone is dead
//! at once; silence is a death only after many looks over seconds ([`model::failover::Watch`]), since a busy machine is slow.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{client::Client, member::Part};
use drivers::ProcessId;
use model::{
    ResourceId,
    failover::{Lead, Look, Saga, Step, Verdict, Watch},
    plan,
    resource::Postgres,
};

use crate::{
    Error,
    failover::{self, pulse},
    journal::{StampRow, Wanted},
    layout::Layout,
    lead,
    reconcile::resolve,
    stamp::{Feed, Ground},
};

const TICK: Duration = Duration::from_millis(100);
/// The server answered its keeper at most this long ago.
const FRESH_MS: u64 = 1500;
/// A standby that the log does not reach for so long, while its primary is well, is made anew.
const ASTRAY: Duration = Duration::from_secs(20);
/// The log that a standby may lack and still take over by itself, where writes do not wait for it.
const NEAR: u64 = 16 * 1024 * 1024;

/// What is remembered of one database between two looks.
#[derive(Default)]
struct Eye {
    watch: Watch,
    /// The server's first process, when it last served.
    process: Option<ProcessId>,
    last_served_ms: i64,
    /// How far the standby was behind, when both last answered.
    behind: Option<u64>,
    astray: HashMap<String, Instant>,
}

/// A manifest as it was read once.
struct Known {
    manifest: String,
    groups: Vec<(ResourceId, Postgres)>,
}

/// When a look is taken, on a steady clock, and how much too late the watcher was woken for it.
#[derive(Clone, Copy)]
struct Now {
    at: Duration,
    late: Duration,
}

/// Watches until the supervisor ends.
pub async fn watch(ground: Arc<Ground>) {
    let begun = Instant::now();
    let mut known: HashMap<(String, String), Known> = HashMap::new();
    let mut eyes: HashMap<(String, String, ResourceId), Eye> = HashMap::new();
    loop {
        let asleep = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = ground.shutdown.asked() => return,
        }
        let now = Now { at: begun.elapsed(), late: asleep.elapsed().saturating_sub(TICK) };
        let rows = ground.journal.stamps().unwrap_or_default();
        known.retain(|key, _| rows.iter().any(|r| (&r.system, &r.stamp) == (&key.0, &key.1)));
        for row in rows.into_iter().filter(|row| row.wanted == Wanted::Up) {
            let of = (row.system.clone(), row.stamp.clone());
            if known.get(&of).is_none_or(|k| k.manifest != row.manifest) {
                let groups = resolve(&row.manifest, &row.stamp)
                    .map(|s| lead::groups(&s).map(|(id, p)| (id.clone(), p.clone())).collect())
                    .unwrap_or_default();
                known.insert(of.clone(), Known { manifest: row.manifest.clone(), groups });
            }
            for (id, postgres) in known.get(&of).map(|k| k.groups.clone()).unwrap_or_default() {
                let eye = eyes.entry((of.0.clone(), of.1.clone(), id.clone())).or_default();
                if let Err(error) = look(&ground, &row, &id, &postgres, eye, now).await {
                    tracing::warn!(
                        id = id.to_string(),
                        error = crate::error::chain(&error),
                        "could not look at a database"
                    );
                }
            }
        }
    }
}

async fn look(
    ground: &Arc<Ground>,
    row: &StampRow,
    id: &ResourceId,
    postgres: &Postgres,
    eye: &mut Eye,
    now: Now,
) -> Result<(), Error> {
    // Whoever changes a member holds this: what it ends is no death.
    let Ok(guard) = ground.lead_lock(&row.system, &row.stamp, id).try_lock_owned() else {
        *eye = Eye::default();
        return Ok(());
    };
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    if let Some(saga) = lead::saga(ground, &row.system, &row.stamp, id)? {
        failover::spawn(ground.clone(), row.clone(), id.clone(), saga, Arc::new(Feed::default()), guard);
        return Ok(());
    }
    let Some(word) = lead::of(ground, &row.system, &row.stamp, &id.to_string())? else { return Ok(()) };
    let Some(to) = failover::partner(id, postgres, &word.primary).filter(|_| postgres.has_standby()) else {
        return astray(ground, &layout, row, id, postgres, &word, eye).await;
    };
    let (primary, standby) = tokio::join!(pulse(&layout, &word.primary), pulse(&layout, &to));
    let serves = primary.as_ref().filter(|p| p.part == Part::Primary && p.term == word.term && p.age_ms < FRESH_MS);
    let seen = match serves {
        Some(pulse) => {
            eye.process = ground.driver.identify(pulse.pid);
            eye.last_served_ms = ground.clock.now_ms() - pulse.age_ms as i64;
            eye.behind = standby.as_ref().map(|s| pulse.wal.saturating_sub(s.wal));
            Look::Serves
        }
        None if eye.process.is_some_and(|process| !ground.driver.runs(process)) => Look::Gone,
        None => Look::Silent,
    };
    if eye.watch.look(now.at, now.late, seen) != Verdict::Dead {
        return match seen {
            Look::Serves => astray(ground, &layout, row, id, postgres, &word, eye).await,
            Look::Silent | Look::Gone => Ok(()),
        };
    }
    // Whoever takes over must be there, and have everything; else the old one is started again, as any workload is.
    let standby = standby.filter(|s| s.part == Part::Standby && s.term <= word.term && s.age_ms < FRESH_MS);
    let safe = match postgres.standby.synchronous {
        true => lead::safe_with(&layout, &word.primary).contains(&to),
        false => eye.behind.is_some_and(|behind| behind <= NEAR),
    };
    if standby.is_none() || !safe {
        return Ok(());
    }
    let why = match seen {
        Look::Gone => format!("the server of {} is gone", word.primary),
        _ => format!("{} has not answered for {} s", word.primary, model::failover::SILENCE.as_secs()),
    };
    let saga = Saga {
        term: word.term + 1,
        from: word.primary,
        to,
        planned: false,
        accept_loss: false,
        step: Step::Fence,
        why,
        last_served_ms: eye.last_served_ms,
    };
    lead::set_saga(ground, &layout, id, &saga)?;
    failover::spawn(ground.clone(), row.clone(), id.clone(), saga, Arc::new(Feed::default()), guard);
    *eye = Eye::default();
    Ok(())
}

/// A standby that cannot follow a primary that is well: what it needs is gone there, or it went another way. It is made anew.
async fn astray(
    ground: &Ground,
    layout: &Layout,
    row: &StampRow,
    id: &ResourceId,
    postgres: &Postgres,
    word: &Lead,
    eye: &mut Eye,
) -> Result<(), Error> {
    let Some(primary) = pulse(layout, &word.primary).await.filter(|p| p.part == Part::Primary && p.settled) else {
        eye.astray.clear();
        return Ok(());
    };
    for workload in (1..=postgres.members()).map(|n| plan::workload(id, n)).filter(|w| *w != word.primary) {
        let standby = pulse(layout, &workload).await.filter(|s| s.part == Part::Standby && s.term == primary.term);
        if standby.is_none_or(|s| s.streaming) {
            eye.astray.remove(&workload);
            continue;
        }
        let since = *eye.astray.entry(workload.clone()).or_insert_with(Instant::now);
        if since.elapsed() > ASTRAY {
            eye.astray.remove(&workload);
            let step = format!("rebuild {workload}");
            ground.journal.step(&row.system, &row.stamp, &step, "begun", ground.clock.now_ms(), "it cannot follow")?;
            let control = Client::unix(layout.control(&workload)).timeout(failover::PULSE);
            let _ = control.post::<_, serde_json::Value>("/rebuild", &serde_json::json!({})).await;
        }
    }
    Ok(())
}
