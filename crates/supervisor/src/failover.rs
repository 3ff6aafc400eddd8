//! A change of who leads a database, carried out: [`model::failover`] decides, here it is looked and done. Each step is in the
//! journal before it is begun; a supervisor that dies in between goes on at its next start.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    client::Client,
    member::{Part, Pulse},
    supervisor::{Event, Led, PlannedStep, StepState},
};
use model::{
    Resource, ResourceId, System,
    failover::{Lead, Order, Saga, Sight, Step, next},
    plan,
    resource::Postgres,
};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Error,
    journal::{StampRow, Wanted},
    layout::Layout,
    lead, place,
    reconcile::{self, blocking, system_of},
    shims,
    stamp::{Feed, Ground},
};

/// A member's keeper answers from memory.
pub const PULSE: Duration = Duration::from_millis(300);
const TURN: Duration = Duration::from_millis(10);
/// An orderly end writes what is in memory to the disk; after this it is killed.
const STEP_DOWN: Duration = Duration::from_secs(60);
const KILL: Duration = Duration::from_secs(10);
/// A server whose processes are gone and whose keeper does not say that it ended in order has died, and nobody will say so later: its
/// keeper may have died in the middle. On a busy machine the keeper takes a moment to say it.
const DIED: Duration = Duration::from_secs(3);
/// Between two looks at all processes.
const LOOK: Duration = Duration::from_millis(200);

/// How a member stands, as its keeper says; None: it does not answer.
pub async fn pulse(layout: &Layout, workload: &str) -> Option<Pulse> {
    api::member::pulse(&Client::unix(layout.control(workload)).timeout(PULSE)).await.ok()
}

/// The other member that can lead.
pub fn partner(id: &ResourceId, postgres: &Postgres, primary: &str) -> Option<String> {
    let mut can = (1..=postgres.members()).filter(|n| !postgres.only_reads(*n)).map(|n| plan::workload(id, n));
    can.find(|name| name != primary)
}

/// Whether `to` has every write that `from` acknowledged, by the record beside `from`'s data, or was declared not to need it.
fn has_all(layout: &Layout, postgres: &Postgres, from: &str, to: &str) -> bool {
    !postgres.standby.synchronous || lead::safe_with(layout, from).iter().any(|name| name == to)
}

/// What a person asks for.
pub struct Ask {
    /// None: the only database that has a standby.
    pub resource: Option<String>,
    pub planned: bool,
    pub accept_loss: bool,
}

/// Begins a change of the lead that a person asks for.
pub async fn begin(ground: &Arc<Ground>, row: StampRow, ask: Ask) -> Result<Arc<Feed>, Error> {
    let system = system_of(ground, &row)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, &row)?;
    let able: Vec<&ResourceId> = lead::groups(&system).filter(|(_, p)| p.has_standby()).map(|(id, _)| id).collect();
    let chosen: Vec<&&ResourceId> =
        able.iter().filter(|id| ask.resource.as_ref().is_none_or(|r| *r == id.to_string() || *r == id.name)).collect();
    let [id] = chosen.as_slice() else {
        let names: Vec<String> = able.iter().map(ToString::to_string).collect();
        let hint = match names.is_empty() {
            true => "declare one: `high_availability = \"zone-redundant\"` in [postgres.main]".to_owned(),
            false => format!("name one of: {}", names.join(", ")),
        };
        return Err(Error::Asked { what: "there is no such database with a standby".into(), hint: Some(hint) });
    };
    let id = (**id).clone();
    if row.wanted != Wanted::Up {
        return Err(Error::Asked {
            what: format!("{}/{} is not up", row.system, row.stamp),
            hint: Some(format!("bring it up with `stamp up {} --stamp {}`", row.system, row.stamp)),
        });
    }
    let Some(Resource::Postgres(postgres)) = system.resources.get(&id) else {
        return Err(Error::Fault(format!("{id} is no database")));
    };
    let guard = ground.lead_lock(&row.system, &row.stamp, &id).lock_owned().await;
    let refuse = |what: String, hint: &str| Err(Error::Failover { what, hint: hint.to_owned() });
    if lead::saga(ground, &row.system, &row.stamp, &id)?.is_some() {
        return refuse(format!("a change of who leads {id} is under way already"), "see `stamp status`, and wait");
    }
    let now = lead::of(ground, &row.system, &row.stamp, &id.to_string())?;
    let now = now.ok_or_else(|| Error::Fault(format!("nobody leads {id}")))?;
    let Some(to) = partner(&id, postgres, &now.primary) else {
        return Err(Error::Fault(format!("{id} has no standby")));
    };
    let standby = pulse(&layout, &to).await.unwrap_or_default();
    if standby.part != Part::Standby || (ask.planned && !standby.streaming) {
        return refuse(
            format!(
                "{to} cannot lead: {}",
                if standby.doing.is_empty() { "it does not answer" } else { &standby.doing }
            ),
            "see `stamp status` and `stamp logs`; a standby that is being made needs time",
        );
    }
    if !has_all(&layout, postgres, &now.primary, &to) && !ask.accept_loss {
        let hint = match ask.planned {
            true => "wait until `stamp status` shows it as synchronous",
            false => "wait until `stamp status` shows it as synchronous, or say `--accept-loss`",
        };
        return refuse(format!("{to} lacks writes that {} has acknowledged", now.primary), hint);
    }
    let saga = Saga {
        term: now.term + 1,
        from: now.primary,
        to,
        planned: ask.planned,
        accept_loss: ask.accept_loss,
        step: Step::Fence,
        why: "a person asked for it".into(),
        last_served_ms: ground.clock.now_ms(),
    };
    lead::set_saga(ground, &layout, &id, &saga)?;
    let feed = Arc::new(Feed::default());
    spawn(ground.clone(), row, id, saga, feed.clone(), guard);
    Ok(feed)
}

/// Carries a written-down change on, in the background.
pub fn spawn(
    ground: Arc<Ground>,
    row: StampRow,
    id: ResourceId,
    saga: Saga,
    feed: Arc<Feed>,
    guard: OwnedMutexGuard<()>,
) {
    tokio::spawn(async move {
        let result = carry(&ground, &row, &id, saga, &feed).await;
        drop(guard);
        feed.tell(match result {
            Ok(led) => Event::Led(led),
            Err(error) => {
                tracing::error!(
                    id = id.to_string(),
                    error = crate::error::chain(&error),
                    "the change of the lead failed"
                );
                Event::Failed(error.failure())
            }
        });
    });
}

/// Ends a change that was begun before; the caller holds the database's lock.
pub async fn finish(ground: &Arc<Ground>, row: &StampRow, id: &ResourceId) -> Result<(), Error> {
    match lead::saga(ground, &row.system, &row.stamp, id)? {
        Some(saga) => carry(ground, row, id, saga, &Feed::default()).await.map(drop),
        None => Ok(()),
    }
}

struct Carrier<'a> {
    ground: &'a Arc<Ground>,
    row: &'a StampRow,
    id: &'a ResourceId,
    layout: Layout,
    system: System,
    postgres: Postgres,
    begun: Instant,
    killed: bool,
    /// When the old server's processes were looked for last, and since when there are none.
    looked: Option<Instant>,
    gone: Option<Instant>,
    others_told: bool,
    new: Pulse,
}

async fn carry(
    ground: &Arc<Ground>,
    row: &StampRow,
    id: &ResourceId,
    mut saga: Saga,
    feed: &Feed,
) -> Result<Led, Error> {
    let system = system_of(ground, row)?;
    let Some(Resource::Postgres(postgres)) = system.resources.get(id).cloned() else {
        return Err(Error::Fault(format!("{id} is no database")));
    };
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let mut carrier = Carrier {
        ground,
        row,
        id,
        layout,
        system,
        postgres,
        begun: Instant::now(),
        killed: false,
        looked: None,
        gone: None,
        others_told: false,
        new: Pulse::default(),
    };
    tracing::warn!(
        id = id.to_string(),
        from = saga.from,
        to = saga.to,
        term = saga.term,
        why = saga.why,
        "changing who leads"
    );
    let steps = [Step::Fence, Step::Promote, Step::Point, Step::Rejoin];
    let mut needs = Vec::new();
    let mut planned = Vec::new();
    for step in steps {
        let name = name_of(step, &saga);
        planned.push(PlannedStep { id: name.clone(), needs: std::mem::replace(&mut needs, vec![name]) });
    }
    feed.tell(Event::Plan { steps: planned });
    let mut outage_ms = None;
    let mut step_begun = Instant::now();
    carrier.record(&saga, saga.step, "begun")?;
    tell(feed, name_of(saga.step, &saga), StepState::Running, step_begun, String::new());
    loop {
        let wanted = ground.journal.stamp(&row.system, &row.stamp)?.map(|r| r.wanted);
        if ground.shutdown.is_asked() || wanted != Some(Wanted::Up) {
            return Err(Error::Interrupted(format!("the change of who leads {id}")));
        }
        let seen = carrier.look(&mut saga).await;
        match next(&saga, &seen) {
            Order::AskToStepDown => {
                let word = Lead { term: saga.term, primary: saga.to.clone() };
                lead::give(&carrier.layout, &saga.from, &word)?;
                carrier.ask_to_read(&saga.from).await;
                tokio::time::sleep(TURN).await;
            }
            Order::Kill => carrier.kill(&saga).await?,
            Order::Write(step) => {
                if step == Step::Point {
                    let away = ground.clock.now_ms() - saga.last_served_ms;
                    outage_ms = Some(away.max(0) as u64);
                }
                carrier.record(&saga, saga.step, "done")?;
                tell(feed, name_of(saga.step, &saga), StepState::Done, step_begun, String::new());
                saga.step = step;
                lead::set_saga(ground, &carrier.layout, id, &saga)?;
                step_begun = Instant::now();
                carrier.record(&saga, step, "begun")?;
                tell(feed, name_of(step, &saga), StepState::Running, step_begun, String::new());
            }
            Order::Call => carrier.call(&saga).await?,
            Order::Point => lead::point(ground, &carrier.layout, row, &carrier.system)?,
            Order::TellOthers => carrier.tell_others(&saga).await?,
            Order::Abandon => {
                let back = Lead { term: saga.term + 1, primary: saga.from.clone() };
                lead::set(ground, &carrier.layout, id, &back)?;
                carrier.start(&saga.from).await?;
                lead::end_saga(ground, &carrier.layout, id)?;
                return Err(Error::Failover {
                    what: format!(
                        "{} lacks writes that {} has acknowledged; {} leads again",
                        saga.to, saga.from, saga.from
                    ),
                    hint: "wait until `stamp status` shows the standby as synchronous".into(),
                });
            }
            Order::Over => {
                carrier.record(&saga, saga.step, "done")?;
                tell(feed, name_of(saga.step, &saga), StepState::Done, step_begun, String::new());
                lead::end_saga(ground, &carrier.layout, id)?;
                let milliseconds = carrier.begun.elapsed().as_millis() as u64;
                tracing::warn!(
                    id = id.to_string(),
                    primary = saga.to,
                    milliseconds,
                    outage_ms,
                    "who leads has changed"
                );
                return Ok(Led {
                    resource: id.to_string(),
                    primary: saga.to,
                    before: saga.from,
                    term: saga.term,
                    outage_ms,
                    milliseconds,
                });
            }
        }
    }
}

fn name_of(step: Step, saga: &Saga) -> String {
    match step {
        Step::Fence if saga.planned => format!("{} steps down", saga.from),
        Step::Fence => format!("fence {}", saga.from),
        Step::Promote => format!("promote {}", saga.to),
        Step::Point => format!("lead clients to {}", saga.to),
        Step::Rejoin => format!("{} follows", saga.from),
    }
}

fn tell(feed: &Feed, id: String, state: StepState, begun: Instant, note: String) {
    feed.tell(Event::Step { id, state, milliseconds: begun.elapsed().as_millis() as u64, note });
}

impl Carrier<'_> {
    fn record(&self, saga: &Saga, step: Step, state: &str) -> Result<(), Error> {
        let name = format!("failover {}: {}", self.id, name_of(step, saga));
        let now = self.ground.clock.now_ms();
        self.ground.journal.step(&self.row.system, &self.row.stamp, &name, state, now, &saga.why)
    }

    /// What the present step asks to be seen, and no more: each look takes time that clients wait.
    async fn look(&mut self, saga: &mut Saga) -> Sight {
        let mut seen = Sight::default();
        match saga.step {
            Step::Fence => {
                seen.new_has_all = has_all(&self.layout, &self.postgres, &saga.from, &saga.to);
                seen.old_is_fenced = self.killed;
                if saga.planned && !self.killed {
                    let old = pulse(&self.layout, &saga.from).await;
                    let serves = old.as_ref().is_some_and(|p| p.part == Part::Primary);
                    if serves {
                        saga.last_served_ms = self.ground.clock.now_ms();
                    }
                    let stepped_down = old.is_some_and(|p| p.part != Part::Primary && p.term >= saga.term);
                    // PostgreSQL takes no write while this file is there, and the keeper puts it there after an orderly end.
                    let signal = self.layout.place(&saga.from).join("data/pgdata/standby.signal");
                    let signal = crate::storage::inside(&self.layout, &saga.from, &signal);
                    seen.old_is_fenced = stepped_down && signal.exists();
                    seen.old_is_late = self.begun.elapsed() > STEP_DOWN
                        || self.shim_is_gone(&saga.from)
                        || (!serves && !seen.old_is_fenced && self.server_died(&saga.from).await);
                }
            }
            Step::Promote | Step::Rejoin => {
                let new = pulse(&self.layout, &saga.to).await.unwrap_or_default();
                seen.new_leads = new.part == Part::Primary && new.term == saga.term;
                seen.new_is_settled = seen.new_leads && new.settled;
                seen.others_told = self.others_told;
                self.new = new;
            }
            Step::Point => {
                seen.pointed = lead::is_pointed(self.ground, &self.layout, &self.system).unwrap_or(false);
            }
        }
        seen
    }

    fn shim_is_gone(&self, workload: &str) -> bool {
        shims::ask(&self.layout.shim_socket(workload), &api::shim::Ask::Status).is_none()
    }

    /// Whether no process of the server has been there for a while. One that ends in order is there until it has written all.
    async fn server_died(&mut self, workload: &str) -> bool {
        if self.looked.is_none_or(|looked| looked.elapsed() > LOOK) {
            let (driver, mark) = (self.ground.driver.clone(), self.layout.mark(workload));
            let user = self.layout.user(workload);
            let serves = |pid: &u32| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "postgres")
            };
            let there = blocking(move || Ok(driver.processes(&mark, user).iter().any(serves))).await;
            // What could not be looked at is taken to be there.
            let gone = matches!(there, Ok(false));
            self.looked = Some(Instant::now());
            self.gone = gone.then(|| self.gone.unwrap_or_else(Instant::now));
        }
        self.gone.is_some_and(|since| since.elapsed() > DIED)
    }

    async fn ask_to_read(&self, workload: &str) {
        // Who does not hear it reads it at its next look or start.
        let control = Client::unix(self.layout.control(workload)).timeout(PULSE);
        let _ = api::member::read_lead(&control).await;
    }

    /// Ends every process of the old primary, paused ones too, and sees that none is left. The word is there before, so that
    /// whatever might start of it knows its place.
    async fn kill(&mut self, saga: &Saga) -> Result<(), Error> {
        let word = Lead { term: saga.term, primary: saga.to.clone() };
        lead::give(&self.layout, &saga.from, &word)?;
        let (ground, layout, from) = (self.ground.clone(), self.layout.clone(), saga.from.clone());
        blocking(move || {
            let failed = |source| Error::Place { workload: from.clone(), source };
            ground.driver.kill(&layout.mark(&from), layout.user(&from)).map_err(failed)?;
            // A server whose keeper and shim had died before it carries no mark: it is known by its data.
            let pgdata = layout.place(&from).join("data/pgdata");
            drivers::proc::kill_working_in(&pgdata, KILL)
                .map_err(|source| Error::Place { workload: from.clone(), source })
        })
        .await?;
        self.killed = true;
        Ok(())
    }

    /// The word, first in the journal, then to the new primary, and a moment to take it up.
    async fn call(&mut self, saga: &Saga) -> Result<(), Error> {
        let word = Lead { term: saga.term, primary: saga.to.clone() };
        let known = lead::of(self.ground, &self.row.system, &self.row.stamp, &self.id.to_string())?;
        if known.as_ref() != Some(&word) {
            lead::set(self.ground, &self.layout, self.id, &word)?;
        }
        lead::give(&self.layout, &saga.to, &word)?;
        if self.new.term < saga.term {
            self.ask_to_read(&saga.to).await;
        }
        if self.shim_is_gone(&saga.to) {
            self.start(&saga.to).await?;
        }
        tokio::time::sleep(TURN).await;
        Ok(())
    }

    async fn tell_others(&mut self, saga: &Saga) -> Result<(), Error> {
        for n in 1..=self.postgres.members() {
            let workload = plan::workload(self.id, n);
            if workload == saga.to {
                continue;
            }
            lead::hand_out(self.ground, &self.layout, &workload)?;
            if self.shim_is_gone(&workload) {
                self.start(&workload).await?;
            } else {
                self.ask_to_read(&workload).await;
            }
        }
        self.others_told = true;
        Ok(())
    }

    /// Places a member; it reads the journal's word.
    async fn start(&self, workload: &str) -> Result<(), Error> {
        let (ground, row, system, workload) =
            (self.ground.clone(), self.row.clone(), self.system.clone(), workload.to_owned());
        blocking(move || {
            let scene = reconcile::prepare(&ground, &row, system, false)?;
            let composed = scene.composed.iter().find(|c| c.workload == workload);
            let composed = composed.ok_or_else(|| Error::Fault(format!("{workload} was not composed")))?;
            place::place(&ground, &scene.layout, &scene.authority, composed).map(drop)
        })
        .await
    }
}
