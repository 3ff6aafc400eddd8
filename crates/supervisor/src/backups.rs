//! Backups of databases: what their keepers are told to keep, restores beside the database there is, and the swap.
//!
//! A restore and a swap are sagas: each step is written down first, may be run twice, and is gone on with after a cut. What was
//! restored is a database of its own (`postgres.main-restored`) until a person swaps it in or removes it; its origin is not
//! touched before.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    backup::{BackupAnswer, BackupConfig, BackupRequest, RestoreOrder, RestoreStatus, Target},
    client::Client,
    postgres::PostgresStatus,
    supervisor::{BackupList, BackupOf, Event, PlannedStep, RestoreRequest, Restored, StepState, SwapAct, SwapRequest},
};
use model::{Kind, Resource, ResourceId, System, plan};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    compose::Composer,
    journal::{Journal, StampRow},
    layout::{Layout, at},
    place,
    reconcile::{self, blocking, system_of},
    stamp::{Ground, What, Work},
    storage,
};

mod one_database;

/// A step of a keeper that waits for the archive takes up to a minute.
const PATIENCE: Duration = Duration::from_secs(90);
/// A large database is read for hours.
const CHECKED_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// How often a restore under way is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A restored server that says nothing for so long is given up; one that works says how far it is.
const SILENCE: Duration = Duration::from_secs(120);

/// What a throwaway database is called after the one it is made from.
const VERIFY: &str = "-verify";
const RESTORES: &str = "restores";
const SWAP: &str = "swap";

/// A database that was restored and stands beside its origin.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Beside {
    origin: ResourceId,
    name: ResourceId,
    target: Target,
}

/// A swap that was begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Swapping {
    origin: ResourceId,
    name: ResourceId,
    /// What the data that was there is called from then on.
    kept: String,
    /// Every member of the database; one swap that was begun before there could be several names none.
    #[serde(default)]
    members: Vec<String>,
    /// The member whose data is swapped: whoever led when all were stopped. None until then.
    #[serde(default)]
    leader: Option<String>,
}

fn read<T: serde::de::DeserializeOwned>(journal: &Journal, row: &StampRow, fact: &str) -> Result<Option<T>, Error> {
    let text = journal.fact(&row.system, &row.stamp, fact)?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| Error::Fault(format!("the fact {fact}: {e}")))).transpose()
}

fn write<T: Serialize>(journal: &Journal, row: &StampRow, fact: &str, value: &T) -> Result<(), Error> {
    let text = serde_json::to_string(value).map_err(|e| Error::Fault(e.to_string()))?;
    journal.set_fact(&row.system, &row.stamp, fact, &text)
}

fn restores(journal: &Journal, row: &StampRow) -> Result<Vec<Beside>, Error> {
    Ok(read(journal, row, RESTORES)?.unwrap_or_default())
}

/// The databases that were restored and stand beside their origins.
pub fn beside(journal: &Journal, row: &StampRow) -> Result<Vec<ResourceId>, Error> {
    Ok(restores(journal, row)?.into_iter().map(|beside| beside.name).collect())
}

/// Adds the databases that were restored to what is declared: from here on they are like any other.
pub fn add_restored(journal: &Journal, row: &StampRow, system: &mut System) -> Result<(), Error> {
    for beside in restores(journal, row)? {
        let Some(Resource::Postgres(origin)) = system.resources.get(&beside.origin) else { continue };
        let mut own = origin.clone();
        own.databases = Vec::new();
        // It stands alone until it takes its origin's place.
        own.high_availability = model::resource::HighAvailability::None;
        own.read_replicas = 0;
        system.resources.insert(beside.name.clone(), Resource::Postgres(own));
        let after = system.order.iter().position(|id| *id == beside.origin).map_or(0, |at| at + 1);
        system.order.insert(after, beside.name);
    }
    Ok(())
}

/// The database whose keys and backups a database has: its own, or those of the one it was restored from.
pub fn origin(journal: &Journal, row: &StampRow, id: &ResourceId) -> Result<ResourceId, Error> {
    let beside = restores(journal, row)?.into_iter().find(|b| b.name == *id);
    Ok(beside.map_or_else(|| id.clone(), |b| b.origin))
}

/// What a keeper is told of backups.
pub fn config(
    composer: &Composer<'_>,
    id: &ResourceId,
    workload: &str,
    origin: &ResourceId,
    declared: &model::resource::Postgres,
) -> Result<BackupConfig, Error> {
    let layout = composer.layout;
    let beside = restores(composer.journal, composer.row)?.into_iter().find(|b| b.name == *id);
    let beside = beside.map(|b| RestoreOrder {
        from: leading_repository(composer, &b.origin),
        verify: b.name.name.ends_with(VERIFY),
        target: b.target,
        aside: true,
    });
    let region = crate::region::source(composer.journal, composer.row)?;
    let region = region.map(|folder| RestoreOrder {
        from: folder.join(id.to_string()),
        target: Target::Latest,
        aside: false,
        verify: false,
    });
    // Whoever follows is made from the first.
    let restore = beside.or(region).filter(|_| *workload == id.to_string());
    let backup = &declared.backup;
    let copy = (backup.geo && id == origin).then(|| {
        // Under the label of the region that a cloud pairs with the stamp's own.
        let region = model::region::paired(composer.system.region.as_deref());
        let stamp = format!("{}.{}", layout.system, layout.stamp);
        composer.home.regions().join(region).join(stamp).join(workload)
    });
    Ok(BackupConfig {
        // Each member keeps the backups of the time in which it leads: two servers may not share an archive.
        repository: layout.place(workload).join("backups"),
        copy,
        every_s: backup.every.as_secs().max(1),
        retention_s: backup.retention.as_secs(),
        archive_timeout_s: backup.increments.as_secs().max(1),
        program: composer.stamp_binary.into(),
        control: layout.control(workload),
        restore,
    })
}

/// Where a database's backups lie: beside its data, which only its user reads. They are sealed.
pub fn repository(layout: &Layout, id: &ResourceId) -> PathBuf {
    layout.place(&id.to_string()).join("backups")
}

/// Where the member that leads keeps its backups.
fn leading_repository(composer: &Composer<'_>, id: &ResourceId) -> PathBuf {
    let (system, stamp) = (&composer.row.system, &composer.row.stamp);
    let lead = crate::lead::written(composer.journal, system, stamp, &id.to_string()).ok().flatten();
    lead.map_or_else(|| repository(composer.layout, id), |lead| composer.layout.place(&lead.primary).join("backups"))
}

/// The database that is meant: named, or the only one that is declared.
fn find(ground: &Ground, row: &StampRow, named: Option<&str>) -> Result<(System, Layout, ResourceId), Error> {
    let system = reconcile::resolve(&row.manifest, &row.stamp)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let wanted = named.map(|n| n.trim_start_matches("postgres."));
    let all: Vec<&ResourceId> = system.resources.keys().filter(|id| id.kind == Kind::Postgres).collect();
    let fitting: Vec<&&ResourceId> = all.iter().filter(|id| wanted.is_none_or(|w| w == id.name)).collect();
    let [id] = fitting.as_slice() else {
        let known: Vec<String> = all.iter().map(ToString::to_string).collect();
        return Err(Error::Asked {
            what: match named {
                Some(named) => format!("there is no database `{named}` in {}", system.name),
                None => format!("{} has {} databases", system.name, all.len()),
            },
            hint: Some(format!("name one of: {}", known.join(", "))),
        });
    };
    let id = (**id).clone();
    Ok((system, layout, id))
}

/// Whoever leads keeps the backups.
fn keeper(ground: &Ground, layout: &Layout, id: &ResourceId) -> Client {
    let primary = crate::lead::primary(ground, layout, id).unwrap_or_else(|_| id.to_string());
    Client::unix(layout.control(&primary)).timeout(PATIENCE)
}

fn refused<'a>(id: &'a ResourceId, what: &'a str) -> impl FnOnce(api::WireError) -> Error + 'a {
    move |source| Error::Role { resource: id.to_string(), what: what.to_owned(), source: Box::new(source) }
}

/// Takes a base backup, or names this moment.
pub async fn back_up(ground: &Ground, row: &StampRow, of: &BackupOf) -> Result<BackupAnswer, Error> {
    let (_, layout, id) = find(ground, row, of.resource.as_deref())?;
    let request = BackupRequest { point: of.point.clone() };
    api::backup::back_up(&keeper(ground, &layout, &id), &request).await.map_err(refused(&id, "back up"))
}

/// What there is of backups, of every database or of one.
pub async fn list(ground: &Ground, row: &StampRow, named: Option<&str>) -> Result<Vec<BackupList>, Error> {
    let system = reconcile::resolve(&row.manifest, &row.stamp)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let ids = match named {
        Some(_) => vec![find(ground, row, named)?.2],
        None => system.resources.keys().filter(|id| id.kind == Kind::Postgres).cloned().collect(),
    };
    let beside = restores(&ground.journal, row)?;
    let mut all = Vec::new();
    for id in ids {
        let backups =
            api::backup::backups(&keeper(ground, &layout, &id)).await.map_err(refused(&id, "tell of its backups"))?;
        all.push(BackupList {
            restored: beside.iter().filter(|b| b.origin == id).map(|b| b.name.to_string()).collect(),
            kept: kept(&layout, &id),
            verified: crate::verify::last(&ground.journal, row, &id.to_string())?.filter(|v| v.ok.is_some()),
            resource: id.to_string(),
            backups,
        });
    }
    Ok(all)
}

const KEPT: &str = "replaced-";

/// Data that swaps have kept.
fn kept(layout: &Layout, id: &ResourceId) -> Vec<PathBuf> {
    let id = id.to_string();
    let members = layout.workloads().map(|row| row.workload.as_str()).filter(|w| plan::resource_of(w) == id);
    let places = members.map(|workload| layout.place(workload));
    let folders: Vec<PathBuf> = places.flat_map(|place| [place.join("data"), place]).collect();
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let mut kept: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(KEPT))
        .map(|entry| entry.path())
        .collect();
    kept.sort();
    kept
}

/// One line on a database, for `stamp status`.
pub async fn note(layout: &Layout, workload: &str) -> String {
    let client = Client::unix(layout.control(workload)).timeout(Duration::from_secs(2));
    let Ok(status) = client.get::<PostgresStatus>("/status").await else { return String::new() };
    let archived = status.archive.as_ref().is_some_and(|archive| archive.on);
    if let Some(restore) = status.restore.as_ref().filter(|_| !archived) {
        let stopped = restore.stopped.as_ref().map(|s| format!(": replay ended {s}")).unwrap_or_default();
        return format!("restored from {}{stopped}", restore.base);
    }
    let Some(archive) = status.archive else { return String::new() };
    match (archive.trouble, archive.age_s) {
        (Some(trouble), _) => format!("the log is not archived ({} tries failed): {trouble}", archive.failures),
        (None, Some(age)) => format!("log archived {age} s ago"),
        (None, None) => "log not archived yet".into(),
    }
}

/// Begins work of its own on a stamp, once what is under way has ended.
async fn begin(ground: &Arc<Ground>, row: &StampRow, what: What) -> Result<Work, Error> {
    let state = ground.stamp(&row.system, &row.stamp);
    loop {
        if let Some(current) = state.current() {
            current.feed.end().await;
        }
        let _alone = ground.settling.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.current().is_none() {
            return Ok(state.begin(what.clone()));
        }
    }
}

/// Ends a restore that the stamp makes by itself: a person's comes first.
async fn give_way(ground: &Ground, row: &StampRow) {
    if let Some(current) = ground.stamp(&row.system, &row.stamp).current().filter(|w| w.what == What::Verify) {
        current.cancel.ask();
        current.feed.end().await;
    }
}

/// Begins restoring a database beside the one there is.
pub async fn restore(ground: &Arc<Ground>, row: StampRow, request: RestoreRequest) -> Result<Work, Error> {
    restore_as(ground, row, request, What::Restore).await
}

/// As [`restore`], as another kind of work.
pub async fn restore_as(
    ground: &Arc<Ground>,
    row: StampRow,
    request: RestoreRequest,
    what: What,
) -> Result<Work, Error> {
    if what != What::Verify {
        give_way(ground, &row).await;
    }
    let (system, _, origin) = find(ground, &row, request.resource.as_deref())?;
    let usual = match (&request.database, request.verify) {
        (Some(database), _) => {
            one_database::declared(ground, &row, &origin, database)?;
            one_database::ASIDE
        }
        (None, true) => VERIFY,
        (None, false) => "-restored",
    };
    let text = request.name.clone().unwrap_or_else(|| format!("{}{usual}", origin.name));
    let name: ResourceId = format!("postgres.{}", text.trim_start_matches("postgres.")).parse().map_err(|_| {
        let hint = Some("such as main-restored".to_owned());
        Error::Asked { what: format!("`{text}` is no name of a database"), hint }
    })?;
    let taken = system.resources.contains_key(&name)
        || restores(&ground.journal, &row)?.iter().any(|b| b.name == name || b.origin == origin);
    if taken {
        return Err(Error::Asked {
            what: format!("{origin} has a restored database beside it already, or `{name}` is taken"),
            hint: Some(format!(
                "put it in place or remove it: `stamp restore {} {origin} --stamp {} --swap` or `--discard`",
                row.system, row.stamp
            )),
        });
    }
    let work = begin(ground, &row, what).await?;
    let (ground, told) = (ground.clone(), work.clone());
    let beside = Beside { origin, name, target: request.target };
    tokio::spawn(async move {
        let state = ground.stamp(&row.system, &row.stamp);
        let _busy = state.busy.lock().await;
        let outcome = match (restore_beside(&ground, &row, &told, &beside).await, &request.database) {
            (Ok(restored), Some(database)) => {
                one_database::carried(&ground, &row, &told, &beside, database, restored).await
            }
            (Ok(restored), None) if request.verify => verified(&ground, &row, &told, &beside, restored).await,
            (other, _) => other,
        };
        told.feed.tell(match outcome {
            Ok(restored) => Event::Restored(Box::new(restored)),
            Err(error) => Event::Failed(error.failure()),
        });
    });
    Ok(work)
}

/// Tells of the steps of a saga.
struct Steps<'a>(&'a Work);

impl Steps<'_> {
    fn plan(&self, steps: &[&str]) {
        let steps = steps.iter().map(|id| PlannedStep { id: (*id).to_owned(), needs: Vec::new() }).collect();
        self.0.feed.tell(Event::Plan { steps });
    }

    fn tell(&self, id: &str, state: StepState, begun: Instant, note: String) {
        let milliseconds = begun.elapsed().as_millis() as u64;
        self.0.feed.tell(Event::Step { id: id.to_owned(), state, milliseconds, note });
    }

    async fn run<T>(&self, id: &str, act: impl Future<Output = Result<(T, String), Error>>) -> Result<T, Error> {
        let begun = Instant::now();
        self.tell(id, StepState::Running, begun, String::new());
        match act.await {
            Ok((value, note)) => {
                self.tell(id, StepState::Done, begun, note);
                Ok(value)
            }
            Err(error) => {
                self.tell(id, StepState::Failed, begun, error.to_string());
                Err(error)
            }
        }
    }
}

async fn restore_beside(ground: &Arc<Ground>, row: &StampRow, work: &Work, beside: &Beside) -> Result<Restored, Error> {
    let begun = Instant::now();
    let steps = Steps(work);
    let (close, make) = ("archive the log up to now", format!("restore {}", beside.name));
    steps.plan(&[close, &make]);
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let mut notes = Vec::new();
    let closed = steps.run(close, async {
        // A database that is lost cannot: what is archived then counts.
        Ok(match api::backup::close_log(&keeper(ground, &layout, &beside.origin)).await {
            Ok(()) => (None, String::new()),
            Err(error) => {
                let why = crate::error::chain(&error);
                (Some(why), "it could not be: what is archived counts".into())
            }
        })
    });
    if let Some(why) = closed.await? {
        notes.push(format!("the log of {} was not archived up to now: {why}", beside.origin));
    }
    // Written down first: a supervisor that dies here goes on with it, or shows it as what stands beside.
    let mut all = restores(&ground.journal, row)?;
    all.push(beside.clone());
    write(&ground.journal, row, RESTORES, &all)?;
    let made = steps.run(&make, async {
        let layout = placed(ground, row, &beside.name).await?;
        let status = restored(&layout, &beside.name, work, &make).await?;
        let note = status.stopped.clone().unwrap_or_default();
        Ok(((layout, status), note))
    });
    match made.await {
        Ok((layout, status)) => {
            let port = match system_of(ground, row)?.resources.get(&beside.name) {
                Some(Resource::Postgres(postgres)) => layout.port(postgres.port),
                _ => 5432,
            };
            Ok(Restored {
                origin: beside.origin.to_string(),
                name: beside.name.to_string(),
                state: "beside".into(),
                milliseconds: begun.elapsed().as_millis() as u64,
                address: at(layout.ip(&beside.name.to_string())?, port).to_string(),
                socket: layout.sockets.join(format!("{}.d", beside.name)),
                restore: Some(status),
                kept: None,
                notes,
            })
        }
        Err(error) => {
            // Half a database is of no use to anybody, and the stamp must not wait for it from now on.
            discard_now(ground, row, beside).await?;
            Err(error)
        }
    }
}

/// Has every table and index of what was restored read, and removes it.
async fn verified(
    ground: &Arc<Ground>,
    row: &StampRow,
    work: &Work,
    beside: &Beside,
    mut restored: Restored,
) -> Result<Restored, Error> {
    let begun = Instant::now();
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let client = keeper(ground, &layout, &beside.name).timeout(CHECKED_WITHIN);
    let steps = Steps(work);
    let checked = steps.run("read every table and index", async {
        tokio::select! {
            words = api::backup::check(&client) => Ok((words.map_err(refused(&beside.name, "be read whole"))?, String::new())),
            () = work.cancel.asked() => Err(Error::Interrupted(format!("the check of {}", beside.name))),
        }
    });
    let checked = checked.await;
    discard_now(ground, row, beside).await?;
    let words = checked?;
    restored.notes.extend(words.lines().map(str::to_owned));
    restored.state = "verified".into();
    restored.milliseconds += begun.elapsed().as_millis() as u64;
    Ok(restored)
}

/// Starts the restored database as any workload is started.
async fn placed(ground: &Arc<Ground>, row: &StampRow, name: &ResourceId) -> Result<Layout, Error> {
    let (ground, row, workload) = (ground.clone(), row.clone(), name.to_string());
    blocking(move || {
        let system = system_of(&ground, &row)?;
        let scene = reconcile::prepare(&ground, &row, system, false)?;
        let composed = scene.composed.iter().find(|c| c.workload == workload);
        let composed = composed.ok_or_else(|| Error::Fault(format!("{workload} was not composed")))?;
        place::place(&ground, &scene.layout, &scene.authority, composed)?;
        Ok(scene.layout)
    })
    .await
}

/// Waits until the restored server serves, and tells how far it is. There is no limit to how long a restore may take.
async fn restored(layout: &Layout, name: &ResourceId, work: &Work, step: &str) -> Result<RestoreStatus, Error> {
    let client = Client::unix(layout.control(&name.to_string())).timeout(Duration::from_secs(5));
    let begun = Instant::now();
    let (mut heard, mut told, mut last) = (Instant::now(), Instant::now(), String::new());
    loop {
        if let Ok(status) = client.get::<PostgresStatus>("/status").await {
            let restore = status.restore.unwrap_or_default();
            if let Some(why) = restore.failed {
                return Err(Error::Restore { name: name.to_string(), why });
            }
            if status.ready {
                return Ok(restore);
            }
            let now = match restore.phase.as_str() {
                "unpacking" => format!("{} of {} MiB unpacked", restore.bytes >> 20, restore.total_bytes >> 20),
                "replaying" => format!("{} files of the log replayed", restore.segments),
                _ => status.trouble.unwrap_or_default(),
            };
            if now != last {
                (last, heard) = (now, Instant::now());
            }
        }
        if heard.elapsed() > SILENCE {
            let why = format!("nothing happened for {} s; last: {last}", SILENCE.as_secs());
            return Err(Error::Restore { name: name.to_string(), why });
        }
        if told.elapsed() > Duration::from_millis(500) {
            told = Instant::now();
            Steps(work).tell(step, StepState::Waiting, begun, last.clone());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = work.cancel.asked() => return Err(Error::Interrupted(format!("the restore of {name}"))),
        }
    }
}

/// Begins putting a restored database in its origin's place, or removing it.
pub async fn swap(ground: &Arc<Ground>, row: StampRow, request: SwapRequest) -> Result<Work, Error> {
    give_way(ground, &row).await;
    if let Some(database) = request.database.clone() {
        return one_database::swap(ground, row, request, database).await;
    }
    let (system, layout, origin) = find(ground, &row, request.resource.as_deref())?;
    let beside = restores(&ground.journal, &row)?.into_iter().find(|b| b.origin == origin);
    let beside = match (beside, request.act) {
        (Some(beside), _) => beside,
        (None, SwapAct::Forget) => Beside { name: origin.clone(), origin, target: Target::Latest },
        (None, _) => {
            return Err(Error::Asked {
                what: format!("there is no restored database beside {origin}"),
                hint: Some(format!(
                    "make one: `stamp restore {} {origin} --stamp {} --to TIME`",
                    row.system, row.stamp
                )),
            });
        }
    };
    if request.act == SwapAct::Swap {
        // One whose replay was cut has not reached its moment.
        let status = keeper(ground, &layout, &beside.name).get::<PostgresStatus>("/status").await;
        let status = status.map_err(refused(&beside.name, "tell whether it is restored"))?;
        if !status.ready || status.restore.is_none_or(|restore| restore.phase != "done") {
            return Err(Error::Asked {
                what: format!("{} is not restored yet", beside.name),
                hint: Some(format!("`stamp status {} --stamp {}` shows how far it is", row.system, row.stamp)),
            });
        }
    }
    let work = begin(ground, &row, What::Swap).await?;
    let (ground, told) = (ground.clone(), work.clone());
    tokio::spawn(async move {
        let state = ground.stamp(&row.system, &row.stamp);
        let _busy = state.busy.lock().await;
        let begun = Instant::now();
        let outcome = match request.act {
            SwapAct::Swap => swap_now(&ground, &row, &told, &system, &beside).await,
            SwapAct::Discard => discard_now(&ground, &row, &beside).await.map(|()| None),
            SwapAct::Forget => forget(layout, beside.origin.clone()).await.map(|()| None),
        };
        let word = match request.act {
            SwapAct::Swap => "swapped",
            SwapAct::Discard => "discarded",
            SwapAct::Forget => "forgotten",
        };
        told.feed.tell(match outcome {
            Ok(kept) => Event::Restored(Box::new(Restored {
                origin: beside.origin.to_string(),
                name: beside.name.to_string(),
                state: word.into(),
                milliseconds: begun.elapsed().as_millis() as u64,
                kept,
                ..Restored::default()
            })),
            Err(error) => Event::Failed(error.failure()),
        });
    });
    Ok(work)
}

async fn swap_now(
    ground: &Arc<Ground>,
    row: &StampRow,
    work: &Work,
    system: &System,
    beside: &Beside,
) -> Result<Option<PathBuf>, Error> {
    let kept = format!("{KEPT}{}", ground.clock.now_s());
    let members = system.resources.get(&beside.origin).map(|r| plan::workloads(&beside.origin, r)).unwrap_or_default();
    let swapping = Swapping {
        origin: beside.origin.clone(),
        name: beside.name.clone(),
        kept: kept.clone(),
        members,
        leader: None,
    };
    write(&ground.journal, row, SWAP, &swapping)?;
    // From here on it is gone on with, by this or by the next `up`.
    reconcile::bring_up(ground, row, work).await?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    Ok(self::kept(&layout, &beside.origin).into_iter().find(|path| path.file_stem().is_some_and(|name| *name == *kept)))
}

/// Carries a swap out that was begun; nothing where none was. Run twice, or cut anywhere, it ends the same.
pub async fn finish_swap(ground: &Arc<Ground>, row: &StampRow) -> Result<(), Error> {
    let Some(swapping) = read::<Swapping>(&ground.journal, row, SWAP)? else { return Ok(()) };
    // Nobody takes over meanwhile: what is stopped here is no death.
    let guard = ground.lead_lock(&row.system, &row.stamp, &swapping.origin).lock_owned().await;
    if crate::lead::saga(ground, &row.system, &row.stamp, &swapping.origin)?.is_some() {
        return Err(Error::Asked {
            what: format!("a change of who leads {} is under way, and its data is swapped after that", swapping.origin),
            hint: Some(format!(
                "`stamp up` again once `stamp status {} --stamp {}` says it is over",
                row.system, row.stamp
            )),
        });
    }
    let (ground, row) = (ground.clone(), row.clone());
    blocking(move || {
        let _guard = guard;
        carry_out(&ground, &row, swapping)
    })
    .await
}

fn carry_out(ground: &Ground, row: &StampRow, mut swapping: Swapping) -> Result<(), Error> {
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let name = swapping.name.to_string();
    if swapping.members.is_empty() {
        swapping.members.push(swapping.origin.to_string());
    }
    for workload in std::iter::once(&name).chain(&swapping.members) {
        place::stop(ground, &layout, workload)?;
    }
    if swapping.members.len() > 1 {
        // Before another history begins: nobody is safe with anybody any more, so that no member without data takes over.
        for member in &swapping.members {
            remove(&crate::lead::records(&layout, member).join(api::member::SAFE_WITH))?;
        }
    }
    let origin = match &swapping.leader {
        Some(leader) => leader.clone(),
        None => crate::lead::primary(ground, &layout, &swapping.origin)?,
    };
    swapping.leader = Some(origin.clone());
    write(&ground.journal, row, SWAP, &swapping)?;
    let (own, other) = (layout.place(&origin).join("data"), layout.place(&name).join("data"));
    let disks = [&origin, &name].map(|workload| storage::file(&layout.place(workload)).exists());
    if disks == [true, false] && other.join("pgdata").exists() {
        return Err(Error::Asked {
            what: format!("{origin} has a disk of its own, and {name} was restored into a folder"),
            hint: Some("`--discard` it, and restore it where volumes can be mounted (`stamp doctor`)".into()),
        });
    }
    // The others' data parts from what was restored: each copies the leader's anew. What was acknowledged is all in the
    // leader's, which is kept.
    for member in swapping.members.iter().filter(|member| **member != origin) {
        let place = layout.place(member);
        remove(&storage::file(&place))?;
        remove(&place.join("data/pgdata"))?;
    }
    if disks.contains(&true) {
        swap_disks(&layout.place(&origin), &layout.place(&name), &swapping.kept)?;
        return swapped(ground, row, &layout, &swapping);
    }
    let (pgdata, kept, new) = (own.join("pgdata"), own.join(&swapping.kept), other.join("pgdata"));
    if new.exists() {
        if pgdata.exists() && !kept.exists() {
            rename(&pgdata, &kept)?;
        }
        rename(&new, &pgdata)?;
    }
    if let Some(user) = layout.user(&origin) {
        hand_over(&pgdata, user).map_err(Error::file("hand over", &pgdata))?;
    }
    swapped(ground, row, &layout, &swapping)
}

/// Each has a disk of its own: the restored one's takes the place of the other's, which is kept as it is. Whose it is from then
/// on is seen to when it is mounted.
fn swap_disks(own: &Path, other: &Path, kept: &str) -> Result<(), Error> {
    let (disk, new) = (storage::file(own), storage::file(other));
    let kept = own.join(format!("{kept}.ext4"));
    if !new.exists() {
        return Ok(());
    }
    if disk.exists() && !kept.exists() {
        rename(&disk, &kept)?;
    }
    // What lies in a folder, from before it had a disk, is kept as well.
    let (pgdata, aside) = (own.join("data/pgdata"), kept.with_extension("d"));
    if pgdata.exists() && !aside.exists() {
        rename(&pgdata, &aside)?;
    }
    rename(&new, &disk)
}

fn swapped(ground: &Ground, row: &StampRow, layout: &Layout, swapping: &Swapping) -> Result<(), Error> {
    let mut all = restores(&ground.journal, row)?;
    all.retain(|b| b.name != swapping.name);
    write(&ground.journal, row, RESTORES, &all)?;
    remove(&layout.place(&swapping.name.to_string()))?;
    ground.journal.drop_fact(&row.system, &row.stamp, SWAP)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(Error::file("rename", from))?;
    for path in [from, to] {
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(Error::file("flush", folder))?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), Error> {
    let removed = if folder.is_file() { std::fs::remove_file(folder) } else { std::fs::remove_dir_all(folder) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// Everything below a folder belongs to `user` from then on; links are not followed.
fn hand_over(path: &Path, user: u32) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(user), Some(user))?;
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            hand_over(&entry?.path(), user)?;
        }
    }
    Ok(())
}

async fn discard_now(ground: &Arc<Ground>, row: &StampRow, beside: &Beside) -> Result<(), Error> {
    let mut all = restores(&ground.journal, row)?;
    all.retain(|b| b.name != beside.name);
    // Its end first: a supervisor that dies in between still knows that it is there.
    let (own, known, workload) = (ground.clone(), row.clone(), beside.name.to_string());
    blocking(move || {
        let layout = Layout::read(&own.home, &own.journal, &own.machine, &known)?;
        if layout.row(&workload).is_ok() {
            place::stop(&own, &layout, &workload)?;
            if let Some(closed) = &layout.closed {
                closed.network.leave(&workload).map_err(Error::Network)?;
            }
        }
        write(&own.journal, &known, RESTORES, &all)?;
        remove(&layout.place(&workload))
    })
    .await
}

async fn forget(layout: Layout, origin: ResourceId) -> Result<(), Error> {
    blocking(move || kept(&layout, &origin).iter().try_for_each(|folder| remove(folder))).await
}
