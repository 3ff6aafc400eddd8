//! The loop: what is wanted, what is seen, the plan between, and its carrying out.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Instant,
};

use api::supervisor::{Event, PlannedStep, Ready, StampRef, UpRequest};
use model::{Manifest, System, plan};

use crate::{
    Error,
    apply::{self, Scene},
    authority::Authority,
    border,
    compose::Composer,
    doors,
    files::digest,
    home,
    journal::{StampRow, Wanted},
    layout::{self, Layout},
    lead,
    network::{self, Closed},
    people, place, recovery, renew,
    stamp::{Ground, What, Work},
    state, storage,
};

/// Reads a manifest for one stamp; every fault is in the error, as it is shown.
pub fn resolve(text: &str, stamp: &str) -> Result<System, Error> {
    let manifest = Manifest::parse(text)
        .map_err(|faults| Error::Manifest(model::render_all(&faults, "system.toml", text, false)))?;
    manifest.resolve(stamp).map_err(|faults| Error::Manifest(model::render_all(&faults, "system.toml", text, false)))
}

/// What cannot run yet may be declared, and is told of; but nothing that runs may need it.
fn runnable(system: &System) -> Result<(), Error> {
    for (id, resource) in system.resources.iter().filter(|(_, r)| r.is_provided()) {
        let missing = system.needs(id).into_iter().find(|n| system.resources.get(n).is_some_and(|r| !r.is_provided()));
        if let Some(missing) = missing {
            return Err(Error::NotBuilt(format!("{missing}, which {id} needs,")));
        }
        if matches!(resource, model::Resource::Service(s) if matches!(s.program.source, model::resource::Source::Image { .. }))
        {
            return Err(Error::NotBuilt(format!("{id}'s image (processes, not containers yet)")));
        }
        if matches!(resource, model::Resource::Job(j) if matches!(j.program.source, model::resource::Source::Image { .. }))
        {
            return Err(Error::NotBuilt(format!("{id}'s image (processes, not containers yet)")));
        }
    }
    if system.resources.values().any(model::Resource::is_provided) {
        return Ok(());
    }
    Err(Error::NotBuilt(format!("everything in {}", system.name)))
}

/// Begins bringing a stamp up, or joins the work that does so already.
pub async fn up(ground: &Arc<Ground>, request: UpRequest) -> Result<Work, Error> {
    begin_up(ground, request, |_, _| Ok(())).await
}

/// As [`up`]; `lay` is done once the stamp is written down and before it is wanted up: a cut one is not gone on with.
pub(crate) async fn begin_up(
    ground: &Arc<Ground>,
    request: UpRequest,
    lay: impl Fn(&mut StampRow, &System) -> Result<(), Error>,
) -> Result<Work, Error> {
    let system = resolve(&request.manifest, &request.stamp)?;
    runnable(&system)?;
    storage::refuse_smaller(&ground.journal, &system, &request.stamp)?;
    if let Some(front) = system.front()
        && doors::address(&ground.journal, &system.name, front)?.is_none()
    {
        return Err(Error::Asked {
            what: format!(
                "people come to {}/{} through {front}, which was not brought up yet",
                system.name, request.stamp
            ),
            hint: Some(format!("bring it up first: stamp up {} --stamp {front}", system.name)),
        });
    }
    if (request.clock_offset_ms != 0 || request.certificate_seconds != 0) && !ground.home.is_scratch() {
        return Err(Error::Asked {
            what: "the clock of a person's stamp is not moved, nor the life of its certificates".into(),
            hint: Some("`stamp prove` moves the clocks of scratch stamps of its own".into()),
        });
    }
    let stamp = ground.stamp(&system.name, &request.stamp);
    let what = What::Up(digest(
        format!("{}\n{}\n{}", request.manifest, request.folder.display(), request.clock_offset_ms).as_bytes(),
    ));
    loop {
        if let Some(current) = stamp.current() {
            if current.what == what {
                return Ok(current);
            }
            if matches!(current.what, What::Up(_) | What::Mend | What::Verify) {
                // Another manifest: the newer wish wins.
                current.cancel.ask();
            }
            current.feed.end().await;
        }
        if ground.journal.stamp(&system.name, &request.stamp)?.is_some_and(|row| row.wanted == Wanted::Gone) {
            // What a cut `destroy` left is half a stamp: nothing may be built on it.
            finish_removal(ground, &system.name, &request.stamp).await?;
        }
        let _alone = ground.settling.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.current().is_some() {
            // Somebody was quicker.
            continue;
        }
        if ground.shutdown.is_asked() {
            return Err(Error::Interrupted("the supervisor".into()));
        }
        let mut row = wanted_row(ground, &system, &request)?;
        lay(&mut row, &system)?;
        ground.journal.want(&row)?;
        ground.journal.set_fact(&row.system, &row.stamp, CLOCK, &request.clock_offset_ms.to_string())?;
        let life = request.certificate_seconds.to_string();
        ground.journal.set_fact(&row.system, &row.stamp, renew::LIFE_FACT, &life)?;
        let work = stamp.begin(what);
        tokio::spawn(carry_out(ground.clone(), row, work.clone()));
        return Ok(work);
    }
}

async fn finish_removal(ground: &Arc<Ground>, system: &str, stamp: &str) -> Result<(), Error> {
    let work = end(ground, StampRef { system: system.into(), stamp: stamp.into() }, true).await?;
    match work.feed.end().await {
        Some(Event::Failed(why)) => {
            Err(Error::HalfRemoved { system: system.into(), stamp: stamp.into(), why: why.message })
        }
        _ => Ok(()),
    }
}

/// Brings up again what the journal wants up: after a restart, or when something ended by itself.
pub fn mend(ground: &Arc<Ground>, row: StampRow) -> Option<Work> {
    let stamp = ground.stamp(&row.system, &row.stamp);
    let _alone = ground.settling.lock().unwrap_or_else(PoisonError::into_inner);
    // Read anew: it may have been taken down since the caller looked.
    let row = ground.journal.stamp(&row.system, &row.stamp).ok().flatten().filter(|row| row.wanted == Wanted::Up)?;
    if stamp.current().is_some() {
        return None;
    }
    let work = stamp.begin(What::Mend);
    tokio::spawn(carry_out(ground.clone(), row, work.clone()));
    Some(work)
}

fn wanted_row(ground: &Ground, system: &System, request: &UpRequest) -> Result<StampRow, Error> {
    let known = ground.journal.stamps()?;
    let old = known.iter().find(|r| r.system == system.name && r.stamp == request.stamp);
    let block = match old {
        Some(row) => row.block,
        None => {
            let taken: Vec<u16> = known.iter().map(|r| r.block).collect();
            let busy = if ground.seams.alone { BTreeSet::new() } else { layout::listening_blocks() };
            layout::free_block(&ground.home, &system.name, &request.stamp, &taken, &busy)?
        }
    };
    Ok(StampRow {
        system: system.name.clone(),
        stamp: request.stamp.clone(),
        folder: request.folder.clone(),
        manifest: request.manifest.clone(),
        programs: request.programs.clone(),
        wanted: Wanted::Up,
        block,
        tenant: old.map_or_else(|| uuid::Uuid::new_v4().to_string(), |r| r.tenant.clone()),
    })
}

async fn carry_out(ground: Arc<Ground>, row: StampRow, work: Work) {
    let stamp = ground.stamp(&row.system, &row.stamp);
    let _busy = stamp.busy.lock().await;
    let started = Instant::now();
    let end = match bring_up(&ground, &row, &work).await {
        Ok(mut ready) => {
            ready.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            Event::Ready(Box::new(ready))
        }
        Err(error) => {
            tracing::error!(
                system = row.system,
                stamp = row.stamp,
                error = crate::error::chain(&error),
                "could not bring the stamp up"
            );
            Event::Failed(error.failure())
        }
    };
    work.feed.tell(end);
}

/// A stamp as it is declared, with what was restored beside it.
pub fn system_of(ground: &Ground, row: &StampRow) -> Result<System, Error> {
    let mut system = resolve(&row.manifest, &row.stamp)?;
    crate::backups::add_restored(&ground.journal, row, &mut system)?;
    Ok(system)
}

pub(crate) async fn bring_up(ground: &Arc<Ground>, row: &StampRow, work: &Work) -> Result<Ready, Error> {
    apply::all_placed(ground, row).await?;
    crate::backups::finish_swap(ground, row).await?;
    let system = system_of(ground, row)?;
    let scene = {
        let (ground, row, system) = (ground.clone(), row.clone(), system);
        let fresh = matches!(work.what, What::Up(_));
        blocking(move || prepare(&ground, &row, system, fresh)).await?
    };
    let scene = Arc::new(scene);
    let observed = {
        let (ground, scene) = (ground.clone(), scene.clone());
        blocking(move || observe(&ground, &scene)).await?
    };
    let plan = plan::up(&scene.system, &observed);
    debug_assert!(plan.is_ordered());
    work.feed.tell(Event::Plan {
        steps: plan.steps.iter().map(|s| PlannedStep { id: s.id.clone(), needs: s.needs.clone() }).collect(),
    });
    let outcome = apply::run(ground, &scene, plan, work).await?;
    {
        let (row, scene) = (row.clone(), scene.clone());
        blocking(move || state::put_keys(&row, &scene.layout, &scene.authority, &scene.system)).await?;
    }
    let mut ready = apply::ready(&scene)?;
    ready.missing = outcome.missing;
    if scene.layout.closed.is_none() {
        // What an earlier `up` closed is open now, by the manifest or by the machine; its workloads have been replaced.
        let network = network::network(&ground.home, row);
        blocking(move || network.remove().map_err(Error::Network)).await?;
        if scene.system.wants_network()
            && let Err(refused) = &ground.machine.network
        {
            ready.missing.push(format!("closed network ({refused})"));
        }
    }
    ready.notes.extend(outcome.notes);
    if let Some(front) = scene.system.front()
        && let Some(address) = doors::address(&ground.journal, &row.system, front)?
    {
        let url = layout::https(&address.to_string(), scene.layout.https_port(model::Kind::Edge));
        ready.notes.push(format!("people come in through {front}: {url}"));
    }
    ready.admin_link = people::unused_link(ground, &scene).await?;
    Ok(ready)
}

/// Settles places, keys and files that everything else stands on. Run twice, it changes nothing.
pub(crate) fn prepare(ground: &Ground, row: &StampRow, system: System, fresh: bool) -> Result<Scene, Error> {
    ground.home.prepare().map_err(Error::file("make", ground.home.root()))?;
    ballast(ground);
    let mut names: Vec<String> = system.resources.iter().flat_map(|(id, r)| plan::workloads(id, r)).collect();
    names.extend(system.services().filter(|(_, s)| s.migrate.is_some()).map(|(id, _)| format!("{id}.migrate")));
    names.extend(system.jobs().map(|(id, _)| id.to_string()));
    // A share has a group's number instead of a user's.
    names.extend(system.resources.keys().filter(|id| id.kind == model::Kind::Share).map(ToString::to_string));
    let mut layout = {
        let _alone = ground.settling.lock().unwrap_or_else(PoisonError::into_inner);
        Layout::settle(&ground.home, &ground.journal, &ground.machine, row, &names)?
    };
    Closed::settle(ground, row, &system, &mut layout)?;
    for folder in [&layout.folder, &layout.folder.join("public"), &layout.sockets] {
        home::make(folder, 0o711).map_err(Error::file("make", folder))?;
    }
    let authority = root(ground, &layout, &system)?;
    // Made by who keeps the authority: others only read it.
    for id in system.resources.keys().filter(|id| id.kind == model::Kind::Redis) {
        authority.key(&crate::redis::root(id))?;
    }
    if system.resources.keys().any(|id| id.kind == model::Kind::Postgres) {
        recovery::ensure(&layout.folder)?;
    }
    crate::compose::make_shares(&layout, &system)?;
    lead::settle(ground, &layout, &system)?;
    storage::settle(ground, row, &system)?;
    border::settle(ground, row, &system, &authority)?;
    write_public(ground, &layout, &authority, &system)?;
    let composer = composer(ground, row, &system, &layout, fresh);
    let composed = composer.all()?;
    let mut migrations = std::collections::BTreeMap::new();
    for (id, service) in system.services() {
        if let Some(migration) = composer.migration(id, service)? {
            migrations.insert(id.clone(), migration);
        }
    }
    // A run is composed when it begins; here, so that what is missing is told at `up`, and that its place in the network is made.
    let jobs = system.jobs().map(|(id, job)| composer.job(id, job)).collect::<Result<Vec<_>, _>>()?;
    if let Some(closed) = &layout.closed {
        let all: Vec<_> = composed.iter().chain(migrations.values()).chain(&jobs).collect();
        let state = ground.stamp(&row.system, &row.stamp);
        let migrating = state.migrating.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let crossings = border::crossings(ground, row, &system, &layout)?;
        closed.ensure(&layout, &system, &all, &migrating, &crossings)?;
        network::spoil_again(ground, row, &layout)?;
    }
    Ok(Scene { row: row.clone(), layout, authority, composed, migrations, jobs, system })
}

/// The stamp's authority, made at its first `up`. One that was there and is gone is not made anew: what came up with new keys would
/// be another stamp under the old one's name, and its empty databases would be archived over the copies that can bring it back.
fn root(ground: &Ground, layout: &Layout, system: &System) -> Result<Authority, Error> {
    let rooted = ground.journal.fact(&layout.system, &layout.stamp, ROOTED)?.is_some();
    if rooted && !Authority::is_there(&layout.folder) {
        let of = format!("{}/{}", layout.system, layout.stamp);
        return Err(Error::Asked {
            what: format!("the root keys of {of} are gone from {}", layout.folder.join("root").display()),
            hint: Some(
                "put the folder back, or bring the stamp up under another name from a copy of its backups: stamp restore --from COPY --key-file FILE --stamp NAME"
                    .into(),
            ),
        });
    }
    let authority = Authority::ensure(&layout.folder, &layout.zone, system.cloud_names)?;
    if !rooted {
        ground.journal.set_fact(&layout.system, &layout.stamp, ROOTED, "")?;
    }
    Ok(authority)
}

/// What everybody in the stamp may read: the CA, a bundle with the machine's CAs, the names.
fn write_public(ground: &Ground, layout: &Layout, authority: &Authority, system: &System) -> Result<(), Error> {
    let machine = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let bundle = format!("{machine}\n{}", authority.ca_pem);
    let hosts = lead::hosts_text(ground, layout, system)?;
    // Workloads that run have it mounted: they see what is written into it, not another file of its name.
    lead::write_in_place(&layout.hosts_file(), hosts.as_bytes())?;
    for (path, text) in [(layout.ca(), authority.ca_pem.as_str()), (layout.bundle(), &bundle)] {
        // A file that is mounted into running workloads keeps its inode as long as it says the same.
        if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        crate::files::write(&path, text.as_bytes(), 0o644, None).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

/// A file that is given up when the disk is full, so that `down` and the journal still work.
fn ballast(ground: &Ground) {
    let path = ground.home.ballast();
    if !path.exists() {
        // On a disk that has no room for it, there is nothing to give up.
        let _ = crate::files::write(&path, &vec![0x55; 4 * 1024 * 1024], 0o600, None);
    }
}

fn observe(ground: &Ground, scene: &Scene) -> Result<plan::Observed, Error> {
    let mut observed = plan::Observed::default();
    let (system, stamp) = (&scene.row.system, &scene.row.stamp);
    for composed in &scene.composed {
        if let Some(seen) = place::observe(ground, &scene.layout, composed) {
            observed.workloads.insert(composed.workload.clone(), seen);
        }
    }
    for (id, migration) in &scene.migrations {
        if ground.journal.fact(system, stamp, &format!("migrated/{id}"))?.as_deref() == Some(&migration.digest()) {
            observed.migrated.insert(id.clone());
        }
    }
    for row in scene.layout.workloads() {
        // A migration that is to run is ended by its own step; one that a cut `up` of another manifest left is not.
        let runs_later = |(id, m): (&model::ResourceId, &crate::compose::Composed)| {
            m.workload == row.workload && !observed.migrated.contains(id)
        };
        let known = scene.composed.iter().chain(&scene.jobs).any(|c| c.workload == row.workload)
            || scene.migrations.iter().any(runs_later);
        // One that has ended is still to be struck out; one whose supervisor died before it wrote the process down runs.
        let placed = || {
            let mark = scene.layout.mark(&row.workload);
            row.shim.is_some() || (!row.digest.is_empty() && !ground.driver.processes(&mark, row.user).is_empty())
        };
        if !known && placed() {
            observed.workloads.insert(row.workload.clone(), plan::Seen::Changed);
        }
    }
    for (id, _) in lead::groups(&scene.system) {
        observed.leads.insert(id.clone(), lead::primary(ground, &scene.layout, id)?);
    }
    observed.first_person = ground.journal.fact(system, stamp, "first-person")?.is_some();
    Ok(observed)
}

/// Runs blocking work off the runtime's threads.
pub async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|e| Err(Error::Fault(format!("a task failed: {e}"))))
}

/// Begins taking a stamp down (`destroy`: and removing all of it). Work under way is cut.
pub async fn end(ground: &Arc<Ground>, stamp: StampRef, destroy: bool) -> Result<Work, Error> {
    let no_stamp = || Error::NoStamp { system: stamp.system.clone(), stamp: stamp.stamp.clone() };
    let state = ground.stamp(&stamp.system, &stamp.stamp);
    let what = if destroy { What::Destroy } else { What::Down };
    loop {
        if let Some(current) = state.current() {
            if current.what == what {
                return Ok(current);
            }
            current.cancel.ask();
            current.feed.end().await;
        }
        let _alone = ground.settling.lock().unwrap_or_else(PoisonError::into_inner);
        if state.current().is_some() {
            // Somebody was quicker.
            continue;
        }
        let row = ground.journal.stamp(&stamp.system, &stamp.stamp)?.ok_or_else(no_stamp)?;
        // What a cut `destroy` left is half a stamp, perhaps without its keys: it is not kept for a later `up`.
        let destroy = destroy || row.wanted == Wanted::Gone;
        let what = if destroy { What::Destroy } else { what };
        let wanted = if destroy { Wanted::Gone } else { Wanted::Down };
        if ground.journal.set_wanted(&stamp.system, &stamp.stamp, wanted).is_err() {
            // A full disk must not keep a stamp from being taken down.
            let _ = std::fs::remove_file(ground.home.ballast());
            ground.journal.set_wanted(&stamp.system, &stamp.stamp, wanted)?;
        }
        let work = state.begin(what);
        tokio::spawn(take_down(ground.clone(), row, work.clone(), destroy));
        return Ok(work);
    }
}

async fn take_down(ground: Arc<Ground>, row: StampRow, work: Work, destroy: bool) {
    let state = ground.stamp(&row.system, &row.stamp);
    let _busy = state.busy.lock().await;
    let started = Instant::now();
    let outcome = apply::take_down(&ground, &row, &work, destroy).await;
    let milliseconds = started.elapsed().as_millis() as u64;
    work.feed.tell(match outcome {
        Ok(()) if destroy => Event::Destroyed { milliseconds },
        Ok(()) => Event::Stopped { milliseconds },
        Err(error) => Event::Failed(error.failure()),
    });
}

/// Every workload as it would be composed now.
pub fn scene_of(
    ground: &Ground,
    row: &StampRow,
    system: &System,
    layout: &Layout,
) -> Result<Vec<crate::compose::Composed>, Error> {
    composer(ground, row, system, layout, false).all()
}

/// The composer of a stamp.
pub fn composer<'a>(
    ground: &'a Ground,
    row: &'a StampRow,
    system: &'a System,
    layout: &'a Layout,
    fresh: bool,
) -> Composer<'a> {
    Composer {
        home: &ground.home,
        row,
        system,
        layout,
        stamp_binary: &ground.stamp_binary,
        shared_user: ground.machine.users.is_err(),
        fresh,
        journal: &ground.journal,
        clock_offset_ms: clock_offset(ground, row),
    }
}

const CLOCK: &str = "clock-offset-ms";
/// The stamp's root keys have been made.
const ROOTED: &str = "rooted";

pub fn clock_offset(ground: &Ground, row: &StampRow) -> i64 {
    let fact = ground.journal.fact(&row.system, &row.stamp, CLOCK).ok().flatten();
    fact.and_then(|text| text.parse().ok()).unwrap_or_default()
}
