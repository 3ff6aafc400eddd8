//! Carries a plan out: each step is recorded, done, recorded; steps that need nothing of each other run side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use api::{
    identity::UserRequest,
    supervisor::{Event, Ready, StepState},
};
use model::{
    Kind, Resource, ResourceId, System,
    plan::{self, Act, Plan, Step},
    resource::When,
};
use tokio::task::JoinSet;

use crate::{
    Error,
    authority::Authority,
    compose::Composed,
    failover, identity_roles,
    journal::StampRow,
    layout::Layout,
    lead, network, people, place, ready,
    reconcile::blocking,
    secrets,
    stamp::{Ground, What, Work},
    state,
};

/// The entry looks at each service once a second ([`crate::compose`]), with a limit of two.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Everything that the steps of one plan stand on.
pub struct Scene {
    pub row: StampRow,
    pub system: System,
    pub layout: Layout,
    pub authority: Authority,
    pub composed: Vec<Composed>,
    pub migrations: BTreeMap<ResourceId, Composed>,
    /// As their next runs would be.
    pub jobs: Vec<Composed>,
}

/// What is worth telling at the end.
#[derive(Default)]
pub struct Outcome {
    pub missing: Vec<String>,
    pub notes: Vec<String>,
}

/// What one step leaves behind.
#[derive(Default)]
struct Done {
    note: String,
    missing: Vec<String>,
}

/// Carries the plan out. On a failure, steps under way are cut: every step may be.
pub async fn run(ground: &Arc<Ground>, scene: &Arc<Scene>, plan: Plan, work: &Work) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut waiting: Vec<Step> = plan.steps;
    let mut running: JoinSet<(String, u64, Result<Done, Error>)> = JoinSet::new();
    loop {
        let (now, later): (Vec<Step>, Vec<Step>) =
            waiting.into_iter().partition(|step| step.needs.iter().all(|need| done.contains(need)));
        waiting = later;
        for step in now {
            running.spawn(one(ground.clone(), scene.clone(), step, work.clone()));
        }
        let next = tokio::select! {
            next = running.join_next() => next,
            () = work.cancel.asked() => {
                running.shutdown().await;
                return Err(Error::Interrupted(format!("{}/{}", scene.row.system, scene.row.stamp)));
            }
        };
        let Some(next) = next else { return Ok(outcome) };
        let (id, milliseconds, result) = next.map_err(|e| Error::Fault(format!("a step failed: {e}")))?;
        match result {
            Ok(left) => {
                work.feed.tell(Event::Step { id: id.clone(), state: StepState::Done, milliseconds, note: left.note });
                outcome
                    .missing
                    .extend(left.missing.into_iter().filter(|m| !outcome.missing.contains(m)).collect::<Vec<_>>());
                done.insert(id);
            }
            Err(error) => {
                work.feed.tell(Event::Step { id, state: StepState::Failed, milliseconds, note: error.to_string() });
                running.shutdown().await;
                return Err(error);
            }
        }
    }
}

async fn one(ground: Arc<Ground>, scene: Arc<Scene>, step: Step, work: Work) -> (String, u64, Result<Done, Error>) {
    let started = Instant::now();
    let (system, stamp) = (scene.row.system.clone(), scene.row.stamp.clone());
    let id = step.id.clone();
    work.feed.tell(Event::Step { id: id.clone(), state: StepState::Running, milliseconds: 0, note: String::new() });
    let result: Result<Done, Error> = async {
        ground.journal.step(&system, &stamp, &id, "begun", ground.clock.now_ms(), "")?;
        let mut done = act(&ground, &scene, &step, &work, started).await?;
        if ground.seams.twice {
            done = act(&ground, &scene, &step, &work, started).await?;
        }
        ground.journal.step(&system, &stamp, &id, "done", ground.clock.now_ms(), &done.note)?;
        Ok(done)
    }
    .await;
    if let Err(error) = &result {
        // The failure itself is what is told; that it could not be written down as well would add nothing.
        let _ = ground.journal.step(&system, &stamp, &id, "failed", ground.clock.now_ms(), &error.to_string());
    }
    (id, started.elapsed().as_millis() as u64, result)
}

async fn act(
    ground: &Arc<Ground>,
    scene: &Arc<Scene>,
    step: &Step,
    work: &Work,
    started: Instant,
) -> Result<Done, Error> {
    // A member is placed and ended by one at a time, and after a change of the lead that was begun before.
    let held = match &step.act {
        Act::Start { workload } | Act::Replace { workload } | Act::Reload { workload } | Act::Await { workload } => {
            hold_member(ground, scene, workload).await?
        }
        _ => None,
    };
    let note = |note: String| {
        let milliseconds = started.elapsed().as_millis() as u64;
        work.feed.tell(Event::Step { id: step.id.clone(), state: StepState::Waiting, milliseconds, note });
    };
    match &step.act {
        // Done while the scene was set; the step is in the plan because it is part of what happens.
        Act::Prepare => Ok(Done { note: address_note(scene)?, ..Done::default() }),
        Act::Start { workload } | Act::Replace { workload } => {
            let replace = matches!(step.act, Act::Replace { .. });
            let missing = placed(ground, scene, workload, replace).await?;
            // From here on it mends itself, and others may change who leads.
            drop(held);
            let composed = find(scene, workload)?;
            if let Some(missing) = no_standby(ground, scene, composed) {
                return Ok(Done { missing: vec![missing], ..Done::default() });
            }
            if work.what == What::Mend && follows(ground, scene, workload) {
                // It may take long to be made anew; whatever else ends meanwhile is mended meanwhile.
                return Ok(Done { note: "is made or catches up".into(), missing });
            }
            ready::wait(&scene.layout, composed, note).await?;
            Ok(Done { note: ready_note(scene, composed).await, missing })
        }
        Act::Await { workload } => {
            let (ground2, scene2, name) = (ground.clone(), scene.clone(), workload.clone());
            blocking(move || place::adopt(&ground2, &scene2.layout, &name)).await?;
            drop(held);
            let composed = find(scene, workload)?;
            if let Some(missing) = no_standby(ground, scene, composed) {
                return Ok(Done { missing: vec![missing], ..Done::default() });
            }
            if work.what == What::Mend && follows(ground, scene, workload) {
                return Ok(Done { note: "ran already".into(), ..Done::default() });
            }
            ready::wait(&scene.layout, composed, note).await?;
            Ok(Done { note: "ran already".into(), ..Done::default() })
        }
        Act::Reload { workload } => {
            let (ground, scene2, name) = (ground.clone(), scene.clone(), workload.clone());
            blocking(move || place::reload(&ground, &scene2.layout, find(&scene2, &name)?)).await?;
            let composed = find(scene, workload)?;
            ready::wait(&scene.layout, composed, note).await?;
            Ok(Done { note: "took up its new configuration".into(), ..Done::default() })
        }
        Act::Secrets { vault } => {
            let Some(Resource::Vault(declared)) = scene.system.resources.get(vault) else { return Ok(Done::default()) };
            let note = secrets::ensure(ground, &scene.layout, &scene.authority, &scene.system, vault, declared).await?;
            Ok(Done { note, ..Done::default() })
        }
        Act::Roles { postgres } => {
            let note = identity_roles::ensure(ground, &scene.layout, &scene.system, postgres).await?;
            Ok(Done { note, ..Done::default() })
        }
        Act::Migrate { service } => migrate(ground, scene, service, note).await,
        Act::FirstPerson { identity } => first_person(ground, scene, identity).await,
        Act::Open { edge } => {
            // As long as the slowest of the services behind it may take, and it sees them a moment later.
            let slowest = scene.system.services().map(|(_, service)| service.start_within).max().unwrap_or_default();
            ready::open(&scene.layout, &edge.to_string(), slowest + SEEN_WITHIN, note).await?;
            Ok(Done { note: scene.layout.url(edge)?, ..Done::default() })
        }
        Act::Remove { workload } => {
            let (ground, scene2, name) = (ground.clone(), scene.clone(), workload.clone());
            blocking(move || {
                place::stop(&ground, &scene2.layout, &name)?;
                match &scene2.layout.closed {
                    Some(closed) => closed.network.leave(&name).map_err(Error::Network),
                    None => Ok(()),
                }
            })
            .await?;
            Ok(Done::default())
        }
    }
}

/// The lock of the database that a workload is a member of; None for all others.
async fn hold_member(
    ground: &Arc<Ground>,
    scene: &Scene,
    workload: &str,
) -> Result<Option<tokio::sync::OwnedMutexGuard<()>>, Error> {
    let id = plan::resource_of(workload);
    let Some((id, _)) = lead::groups(&scene.system).find(|(group, _)| group.to_string() == id) else { return Ok(None) };
    let guard = ground.lead_lock(&scene.row.system, &scene.row.stamp, id).lock_owned().await;
    failover::finish(ground, &scene.row, id).await?;
    Ok(Some(guard))
}

/// Why a member that should follow cannot be made on this machine; the others serve without it.
fn no_standby(ground: &Ground, scene: &Scene, composed: &Composed) -> Option<String> {
    let (bin, _) = composed.template.as_ref()?;
    let lacks = follows(ground, scene, &composed.workload) && api::engine::tool(bin, "pg_basebackup").is_none();
    lacks.then(|| {
        format!(
            "{} (no pg_basebackup in {}; `engines/bring postgresql` adds PostgreSQL's tools)",
            composed.workload,
            bin.display()
        )
    })
}

/// Whether a workload follows another: it is looked after beside what others wait for.
fn follows(ground: &Ground, scene: &Scene, workload: &str) -> bool {
    let of = |(id, _): (&ResourceId, _)| {
        id.to_string() == plan::resource_of(workload)
            && lead::primary(ground, &scene.layout, id).is_ok_and(|primary| primary != workload)
    };
    lead::groups(&scene.system).any(of)
}

fn find<'a>(scene: &'a Scene, workload: &str) -> Result<&'a Composed, Error> {
    scene
        .composed
        .iter()
        .find(|c| c.workload == workload)
        .ok_or_else(|| Error::Fault(format!("{workload} was not composed")))
}

async fn placed(ground: &Arc<Ground>, scene: &Arc<Scene>, workload: &str, replace: bool) -> Result<Vec<String>, Error> {
    let (ground, scene, workload) = (ground.clone(), scene.clone(), workload.to_owned());
    blocking(move || {
        if replace {
            place::stop(&ground, &scene.layout, &workload)?;
        }
        place::place(&ground, &scene.layout, &scene.authority, find(&scene, &workload)?)
    })
    .await
}

async fn migrate(
    ground: &Arc<Ground>,
    scene: &Arc<Scene>,
    service: &ResourceId,
    note: impl FnMut(String),
) -> Result<Done, Error> {
    let Some(composed) = scene.migrations.get(service) else { return Ok(Done::default()) };
    let workload = composed.workload.clone();
    let gate = {
        let (ground, scene, service) = (ground.clone(), scene.clone(), service.clone());
        blocking(move || network::Gate::open(ground, scene, service)).await?
    };
    let place_one = {
        let (ground, scene, service) = (ground.clone(), scene.clone(), service.clone());
        move || {
            let Some(composed) = scene.migrations.get(&service) else { return Ok(()) };
            // One that ran before and failed, or was cut, is not adopted: a migration runs anew and to its end.
            place::stop(&ground, &scene.layout, &composed.workload)?;
            place::place(&ground, &scene.layout, &scene.authority, composed).map(drop)
        }
    };
    blocking(place_one).await?;
    let waited = ready::wait(&scene.layout, composed, note).await;
    let stopped = {
        let (ground, scene, workload) = (ground.clone(), scene.clone(), workload.clone());
        blocking(move || place::stop(&ground, &scene.layout, &workload)).await
    };
    let shut = blocking(move || gate.close()).await;
    match waited {
        Err(Error::KeepsEnding { how, tail, .. }) => {
            let declared = scene.system.services().find(|(id, _)| *id == service).and_then(|(_, s)| s.migrate.as_ref());
            let after = declared.is_some_and(|m| m.when == When::After);
            return Err(Error::Migration { service: service.to_string(), how, tail, after });
        }
        other => other?,
    }
    stopped?;
    shut?;
    ground.journal.set_fact(&scene.row.system, &scene.row.stamp, &format!("migrated/{service}"), &composed.digest())?;
    Ok(Done::default())
}

async fn first_person(ground: &Arc<Ground>, scene: &Arc<Scene>, identity: &ResourceId) -> Result<Done, Error> {
    let Some(Resource::Identity(declared)) = scene.system.resources.get(identity) else { return Ok(Done::default()) };
    let groups = declared.admin_group.iter().cloned().collect();
    let request = UserRequest { email: people::FIRST_ADMIN.into(), name: "Administrator".into(), groups };
    let answer = people::invite(&scene.layout, identity, &request).await?;
    // The link goes first: once the person is written down, nobody asks for another link.
    if let Some(link) = answer.link {
        ground.journal.set_fact(&scene.row.system, &scene.row.stamp, people::LINK, &link)?;
    }
    ground.journal.set_fact(&scene.row.system, &scene.row.stamp, "first-person", people::FIRST_ADMIN)?;
    Ok(Done { note: people::FIRST_ADMIN.into(), ..Done::default() })
}

fn address_note(scene: &Scene) -> Result<String, Error> {
    let Some(first) = scene.composed.first() else { return Ok(String::new()) };
    let [a, b, c, _] = scene.layout.outer(&first.workload)?.octets();
    let closed = scene.layout.closed.as_ref().map(|closed| format!("{} closed, people at ", closed.space()));
    Ok(format!("{}{a}.{b}.{c}.0/24, {}", closed.unwrap_or_default(), scene.layout.zone))
}

async fn ready_note(scene: &Scene, composed: &Composed) -> String {
    if composed.template.is_some() {
        let client = api::client::Client::unix(scene.layout.control(&composed.workload));
        if let Ok(status) = client.get::<api::postgres::PostgresStatus>("/status").await {
            return format!("PostgreSQL {} from {}", status.version, status.bin.display());
        }
    }
    String::new()
}

/// What a person should know of the declaration.
fn notes(system: &System) -> Vec<String> {
    let later = system.unbuilt.iter().map(|path| format!("declared and not carried out yet: {path}"));
    let has = |kind: Kind| system.resources.keys().any(move |id| id.kind == kind);
    let acting: Vec<String> =
        system.resources.keys().filter(|id| id.kind.keeps_a_record()).map(ToString::to_string).collect();
    // Records are written first where they arise, and given up only once an audit role has them.
    let grows = (!acting.is_empty() && !has(Kind::Audit)).then(|| {
        format!(
            "no audit role is declared: the audit records of {} stay in their own folders, and nothing bounds them; add `[audit.main]`",
            acting.join(" and ")
        )
    });
    later.chain(grows).collect()
}

/// The stamp as it serves.
pub fn ready(scene: &Scene) -> Result<Ready, Error> {
    let mut urls = BTreeMap::new();
    for id in scene.system.resources.keys() {
        match id.kind {
            kind if kind.is_open_to_people() => {
                urls.insert(id.to_string(), scene.layout.url(id)?);
            }
            Kind::Vault => {
                urls.insert(id.to_string(), scene.layout.named_url(id));
            }
            _ => {}
        }
    }
    let mut notes = notes(&scene.system);
    for (id, resource) in &scene.system.resources {
        if let Resource::External(model::resource::External { stand_in: None, url, .. }) = resource
            && scene.layout.closed.is_some()
        {
            notes.push(format!("{id} has no stand-in, and a closed network has no way out yet: {url} is not reached"));
        }
    }
    Ok(Ready {
        system: scene.row.system.clone(),
        stamp: scene.row.stamp.clone(),
        title: scene.system.title.clone(),
        seconds: 0.0,
        urls,
        ca: scene.layout.ca(),
        admin_link: None,
        missing: Vec::new(),
        notes,
    })
}

/// Waits until what steps that were cut still place is there: their blocking half goes on by itself.
pub async fn all_placed(ground: &Ground, row: &StampRow) -> Result<(), Error> {
    let stamp = ground.stamp(&row.system, &row.stamp);
    blocking(move || {
        drop(stamp.placing.write().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    })
    .await
}

/// Ends every workload, the entry first; `destroy` removes what is left of the stamp.
pub async fn take_down(ground: &Arc<Ground>, row: &StampRow, work: &Work, destroy: bool) -> Result<(), Error> {
    let layout = Arc::new(Layout::read(&ground.home, &ground.journal, &ground.machine, row)?);
    // Nothing of a share runs.
    let runs = |workload: &String| !workload.starts_with("share.");
    let order = plan::down(layout.workloads().map(|w| w.workload.clone()).filter(runs));
    all_placed(ground, row).await?;
    work.feed.tell(Event::Plan {
        steps: order
            .iter()
            .map(|w| format!("stop {w}"))
            .chain(destroy.then(|| "remove its data".to_owned()))
            .map(|id| api::supervisor::PlannedStep { id, needs: Vec::new() })
            .collect(),
    });
    let mut failed = None;
    // Nobody changes who leads while all is ended.
    let mut members = Vec::new();
    for id in layout.workloads().map(|w| plan::resource_of(&w.workload).to_owned()).collect::<BTreeSet<_>>() {
        if let Ok(id) = id.parse::<ResourceId>()
            && id.kind == Kind::Postgres
        {
            members.push(ground.lead_lock(&row.system, &row.stamp, &id).lock_owned().await);
        }
    }
    let mut kept = destroy;
    for workload in order {
        let is_database = plan::resource_of(&workload).parse::<ResourceId>().is_ok_and(|id| id.kind == Kind::Postgres);
        if is_database && !std::mem::replace(&mut kept, true) {
            // Nobody comes in any more: what the roles have now is what a stamp that goes on from a copy begins with.
            state::last(ground, row).await;
        }
        let id = format!("stop {workload}");
        let started = Instant::now();
        work.feed.tell(Event::Step { id: id.clone(), state: StepState::Running, milliseconds: 0, note: String::new() });
        let result = {
            let (ground, layout, workload) = (ground.clone(), layout.clone(), workload.clone());
            blocking(move || place::stop(&ground, &layout, &workload)).await
        };
        let milliseconds = started.elapsed().as_millis() as u64;
        match result {
            Ok(()) => work.feed.tell(Event::Step { id, state: StepState::Done, milliseconds, note: String::new() }),
            Err(error) => {
                // The others are ended all the same.
                work.feed.tell(Event::Step { id, state: StepState::Failed, milliseconds, note: error.to_string() });
                failed.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    {
        let (ground, row) = (ground.clone(), row.clone());
        blocking(move || {
            network::network(&ground.home, &row).remove().map_err(Error::Network)?;
            network::forget_links(&ground.journal, &row)
        })
        .await?;
    }
    let _ = std::fs::remove_dir_all(&layout.sockets);
    if destroy {
        let (ground, row, folder) = (ground.clone(), row.clone(), layout.folder.clone());
        let (id, started) = ("remove its data".to_owned(), Instant::now());
        let removed = blocking(move || remove(&ground, &row, &folder)).await;
        let state = if removed.is_ok() { StepState::Done } else { StepState::Failed };
        let milliseconds = started.elapsed().as_millis() as u64;
        work.feed.tell(Event::Step { id, state, milliseconds, note: String::new() });
        removed?;
    }
    Ok(())
}

fn remove(ground: &Ground, row: &StampRow, folder: &std::path::Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::file("remove", folder)(e)),
        _ => {}
    }
    for region in std::fs::read_dir(ground.home.regions()).into_iter().flatten().flatten() {
        let copy = region.path().join(format!("{}.{}", row.system, row.stamp));
        match std::fs::remove_dir_all(&copy) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::file("remove", copy)(e)),
            _ => {}
        }
    }
    if let Ok(entries) = std::fs::read_dir(ground.home.apps()) {
        let prefix = format!("{}.{}.", row.system, row.stamp);
        for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)) {
            std::fs::remove_dir_all(entry.path()).map_err(Error::file("remove", entry.path()))?;
        }
    }
    ground.journal.forget(&row.system, &row.stamp)
}
