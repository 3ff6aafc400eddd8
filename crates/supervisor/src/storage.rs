//! The disks of databases: how large each is, when it grows, and what a full one is given to come up again.
//!
//! What a database was given is written down (it never becomes smaller), and what the kernel enforces is made to agree with it
//! again and again: after a growth, a raised declaration, a supervisor's death. The sizes are those of a whole database: each
//! of its members has a volume of its own of that size.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{client::Client, postgres::PostgresHealth, supervisor::StorageStatus};
use drivers::volume::{self, Use, Volume};
use model::{Resource, ResourceId, System, plan, resource::Storage, unit::Bytes};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    acts::Acts,
    compose::Composed,
    journal::{Journal, StampRow, Wanted, WorkloadRow},
    layout::Layout,
    reconcile::resolve,
    stamp::Ground,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// How often a volume is looked at: a fast writer fills a gigabyte in seconds.
const TICK: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(1);
const NEAR: u64 = 2 * GIB;
/// What is left of the machine's own disk; a file system above it that finds none breaks instead of refusing.
const HOST_MARGIN: u64 = 64 * MIB;
/// With less than this on the machine's own disk, a volume is held to what is there.
const HOST_NEAR: u64 = GIB;
/// What a server that cannot start on its full disk is lent until it serves: it replays its log and makes its next file.
const LOAN: u64 = 64 * MIB;
const CANNOT_START: u64 = 32 * MIB;
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What a database was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// As it was declared last.
    declared: u64,
    /// As large as it is, by its declaration or by growing.
    granted: u64,
}

fn fact(id: &ResourceId) -> String {
    format!("storage/{id}")
}

fn known(journal: &Journal, system: &str, stamp: &str, id: &ResourceId) -> Result<Option<Known>, Error> {
    let text = journal.fact(system, stamp, &fact(id))?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| Error::Fault(format!("{}: {e}", fact(id))))).transpose()
}

fn write(journal: &Journal, row: &StampRow, id: &ResourceId, known: Known) -> Result<(), Error> {
    let text = serde_json::to_string(&known).map_err(|e| Error::Fault(e.to_string()))?;
    journal.set_fact(&row.system, &row.stamp, &fact(id), &text)
}

fn databases(system: &System) -> impl Iterator<Item = (&ResourceId, Storage)> {
    let storage = |r: &Resource| if let Resource::Postgres(postgres) = r { Some(postgres.storage) } else { None };
    system.resources.iter().filter_map(move |(id, r)| Some((id, storage(r)?)))
}

/// Refuses a declaration that is smaller than what a database was declared with before.
pub fn refuse_smaller(journal: &Journal, system: &System, stamp: &str) -> Result<(), Error> {
    for (id, storage) in databases(system) {
        let before = known(journal, &system.name, stamp, id)?.map_or(0, |known| known.declared);
        if let Some(now) = storage.size.filter(|now| now.0 < before) {
            return Err(Error::Smaller {
                of: format!("{}/{stamp}", system.name),
                resource: id.to_string(),
                now: now.to_string(),
                before: Bytes(before).to_string(),
            });
        }
    }
    Ok(())
}

/// Writes down what each database is given by its declaration; one that has grown beyond keeps that.
pub fn settle(ground: &Ground, row: &StampRow, system: &System) -> Result<(), Error> {
    for (id, storage) in databases(system) {
        let Some(declared) = storage.size else { continue };
        let before = known(&ground.journal, &row.system, &row.stamp, id)?;
        let origin = crate::backups::origin(&ground.journal, row, id)?;
        // What is restored is as large as what it comes from was.
        let origins = known(&ground.journal, &row.system, &row.stamp, &origin)?.map_or(0, |known| known.granted);
        let granted = before.map_or(0, |known| known.granted).max(origins).max(declared.0);
        let now = Known { declared: declared.0, granted };
        if before == Some(now) {
            continue;
        }
        write(&ground.journal, row, id, now)?;
        // What runs has it at once, without being touched.
        for workload in ground.journal.workloads(&row.system, &row.stamp)? {
            let place = ground.home.stamp(&row.system, &row.stamp).join(&workload.workload);
            let of_it = plan::resource_of(&workload.workload) == id.to_string();
            let seen = workload.shim.filter(|_| of_it).and_then(|shim| volume::look(shim.pid, &place.join("data")));
            if let Some(seen) = seen {
                let bytes = enforced(granted, seen.used, host_free(&place), false) / 4096 * 4096;
                volume::resize(&seen, bytes).map_err(Error::file("give another size to", file(&place)))?;
            }
        }
    }
    Ok(())
}

/// The size of a database's disks; None: as much as the machine's gives.
pub fn granted(journal: &Journal, row: &StampRow, id: &ResourceId, storage: Storage) -> Result<Option<u64>, Error> {
    let known = known(journal, &row.system, &row.stamp, id)?;
    Ok(known.map(|known| known.granted).max(storage.size.map(|size| size.0)))
}

/// What holds the volume of a workload.
pub fn file(place: &Path) -> PathBuf {
    place.join("volume.ext4")
}

/// The volume a workload is placed with; else what is missing, if anything is.
pub fn of(ground: &Ground, layout: &Layout, composed: &Composed) -> Result<Result<Volume, Option<String>>, Error> {
    let workload = &composed.workload;
    let place = layout.place(workload);
    let (file, at) = (file(&place), place.join("data"));
    let missing = |why: &str| Ok(Err(Some(format!("the size of {workload}'s disk ({why})"))));
    match (composed.volume, &ground.machine.volumes, file.exists()) {
        (None, _, false) => Ok(Err(None)),
        (_, Err(refused), true) => Err(Error::NoVolume { workload: workload.clone(), refused: refused.clone() }),
        (_, Err(refused), false) => missing(refused),
        (_, Ok(()), false) if at.join("pgdata").exists() => missing(
            "its data was laid out in a folder before: `stamp restore` makes it anew beside, and `--swap` puts it in place",
        ),
        (bytes, Ok(()), _) => {
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => std::fs::metadata(&file).map_err(Error::file("look at", &file))?.len() / 2,
            };
            Ok(Ok(Volume { file, at, bytes }))
        }
    }
}

/// A path of a running workload's data as it lies there: its disk is seen by the workload alone.
pub fn inside(layout: &Layout, workload: &str, path: &Path) -> PathBuf {
    let shim = layout.row(workload).ok().and_then(|row| row.shim);
    match shim.filter(|_| file(&layout.place(workload)).exists()) {
        Some(id) => volume::inside(id.pid, path),
        None => path.to_owned(),
    }
}

/// So little free, and it grows: a fifth of it, or 64 GiB if that is less; a tenth beyond a terabyte. It doubles. Both are those
/// of Azure Database for PostgreSQL (learn.microsoft.com, "Configure storage autogrow").
fn grows_below(bytes: u64) -> u64 {
    let share = if bytes > 1024 * GIB { bytes / 10 } else { bytes / 5 };
    share.min(64 * GIB)
}

/// The next size of a database whose disk has `used` taken; None: it stays.
fn next(granted: u64, used: u64, most: u64) -> Option<u64> {
    let full = granted.saturating_sub(used) < grows_below(granted);
    let larger = granted.saturating_mul(2).min(most / MIB * MIB);
    (full && larger > granted).then_some(larger)
}

/// What the kernel is to enforce: what was given, but no more than the machine's disk has, and a loan for a server that is down.
fn enforced(granted: u64, used: u64, host_free: u64, down: bool) -> u64 {
    let there = match host_free < HOST_NEAR {
        true => granted.min(used.saturating_add(host_free.saturating_sub(HOST_MARGIN))),
        false => granted,
    };
    if down && granted.saturating_sub(used) < CANNOT_START && host_free > LOAN + HOST_MARGIN {
        return used + LOAN;
    }
    there
}

fn host_free(place: &Path) -> u64 {
    rustix::fs::statvfs(place).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize)
}

/// The state of a workload's disk, for people.
pub fn status(
    journal: &Journal,
    row: &StampRow,
    layout: &Layout,
    id: &ResourceId,
    workload: &str,
    storage: Storage,
) -> Option<StorageStatus> {
    let place = layout.place(workload);
    let seen = volume::look(layout.row(workload).ok()?.shim?.pid, &place.join("data"))?;
    let host = host_free(&place);
    Some(StorageStatus {
        bytes: granted(journal, row, id, storage).ok()??,
        used_bytes: seen.used,
        free_bytes: seen.free.min(host.saturating_sub(HOST_MARGIN)),
        grows: storage.grow,
        most_bytes: seen.most,
        disk_free_bytes: host,
    })
}

/// One line on a disk that is nearly full; empty while it is not.
pub fn note(status: &StorageStatus, of: &str) -> String {
    let mib = |bytes: u64| bytes / MIB;
    let low = status.free_bytes < grows_below(status.bytes).min(status.bytes / 10);
    if !low {
        return String::new();
    }
    let (used, all) = (mib(status.used_bytes), mib(status.bytes));
    if status.disk_free_bytes < HOST_NEAR.min(HOST_MARGIN + status.bytes.saturating_sub(status.used_bytes)) {
        return format!("the machine's disk is full ({} MiB free): make room on it", mib(status.disk_free_bytes));
    }
    let state = if status.free_bytes < full_below(status.bytes) { "full, and takes no writes" } else { "nearly full" };
    let mend = match status.grows {
        true if status.bytes.saturating_mul(2) > status.most_bytes => {
            format!("it was made to grow to {} GiB and not beyond: restore it beside, larger", status.most_bytes / GIB)
        }
        true => "it grows by itself".into(),
        false => format!("storage.grow = true or a larger storage.size in system.toml, then `stamp up` ({of})"),
    };
    format!("its disk is {state}: {used} of {all} MiB used; {mend}")
}

/// As the keeper has it, which then lets no more writes in.
fn full_below(bytes: u64) -> u64 {
    api::postgres::read_only_below(bytes)
}

/// What is remembered of a stamp between two looks.
struct Declared {
    manifest: String,
    system: Option<System>,
}

/// Watches until the supervisor ends.
pub async fn watch(ground: Arc<Ground>, acts: Acts) {
    let mut declared: HashMap<(String, String), Declared> = HashMap::new();
    let mut next: HashMap<(String, String, String), Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = ground.shutdown.asked() => return,
        }
        let rows = ground.journal.stamps().unwrap_or_default();
        declared.retain(|key, _| rows.iter().any(|r| (&r.system, &r.stamp) == (&key.0, &key.1)));
        next.retain(|key, _| rows.iter().any(|r| (&r.system, &r.stamp) == (&key.0, &key.1)));
        for row in rows.into_iter().filter(|row| row.wanted == Wanted::Up) {
            let of = (row.system.clone(), row.stamp.clone());
            if declared.get(&of).is_none_or(|d| d.manifest != row.manifest) {
                let system = resolve(&row.manifest, &row.stamp).ok();
                declared.insert(of.clone(), Declared { manifest: row.manifest.clone(), system });
            }
            let Some(system) = declared.get(&of).and_then(|d| d.system.as_ref()) else { continue };
            if databases(system).next().is_none() {
                continue;
            }
            for workload in ground.journal.workloads(&row.system, &row.stamp).unwrap_or_default() {
                let key = (of.0.clone(), of.1.clone(), workload.workload.clone());
                if !workload.workload.starts_with("postgres.") || next.get(&key).is_some_and(|at| *at > Instant::now())
                {
                    continue;
                }
                let again = match look(&ground, &acts, &row, system, &workload).await {
                    Ok(again) => again,
                    Err(error) => {
                        let why = crate::error::chain(&error);
                        tracing::warn!(workload = workload.workload, error = why, "could not see to a disk");
                        SELDOM
                    }
                };
                next.insert(key, Instant::now() + again);
            }
        }
    }
}

/// Looks at the disk of one workload, and makes it what it should be. Gives when to look again.
async fn look(
    ground: &Arc<Ground>,
    acts: &Acts,
    row: &StampRow,
    system: &System,
    workload: &WorkloadRow,
) -> Result<Duration, Error> {
    let place = ground.home.stamp(&row.system, &row.stamp).join(&workload.workload);
    let Some(shim) = workload.shim else { return Ok(SELDOM) };
    let Some(seen) = volume::look(shim.pid, &place.join("data")) else { return Ok(SELDOM) };
    let Ok(id) = plan::resource_of(&workload.workload).parse::<ResourceId>() else { return Ok(SELDOM) };
    let Some(mut known) = known(&ground.journal, &row.system, &row.stamp, &id)? else { return Ok(SELDOM) };
    let origin = crate::backups::origin(&ground.journal, row, &id)?;
    let grows = databases(system).find(|(known, _)| **known == origin).is_none_or(|(_, storage)| storage.grow);
    let host = host_free(&place);
    if seen.broken {
        if host > LOAN + HOST_MARGIN {
            remount(ground, row, workload).await?;
        }
        return Ok(SELDOM);
    }
    if grows && let Some(larger) = next(known.granted, seen.used, seen.most) {
        let before = known.granted;
        known.granted = larger;
        grow(ground, acts, row, &id, known, before, &seen).await?;
    }
    let near = known.granted.saturating_sub(seen.used) < CANNOT_START;
    let down = near && !answers(ground, row, &workload.workload).await;
    let wanted = enforced(known.granted, seen.used, host, down) / 4096 * 4096;
    if wanted != seen.bytes {
        let path = file(&place);
        volume::resize(&seen, wanted).map_err(Error::file("give another size to", path))?;
        if wanted > known.granted {
            let lent = (wanted - seen.used) / MIB;
            tracing::warn!(workload = workload.workload, "its disk is full and it is down: {lent} MiB are lent to it");
        }
    }
    let left = known.granted.saturating_sub(seen.used).min(host);
    Ok(if left < NEAR { TICK } else { SELDOM })
}

async fn answers(ground: &Ground, row: &StampRow, workload: &str) -> bool {
    let control = crate::layout::sockets(&ground.home, row).join(format!("{workload}.ctl"));
    Client::unix(control).timeout(ANSWERS_WITHIN).get::<PostgresHealth>("/health").await.is_ok()
}

/// Writes a growth down and records it; every member's disk then follows.
async fn grow(
    ground: &Ground,
    acts: &Acts,
    row: &StampRow,
    id: &ResourceId,
    known: Known,
    before: u64,
    seen: &Use,
) -> Result<(), Error> {
    let (from, to, used) = (Bytes(before).to_string(), Bytes(known.granted).to_string(), seen.used / MIB);
    let note = format!("from {from} to {to}, {used} MiB were used");
    write(&ground.journal, row, id, known)?;
    ground.journal.step(&row.system, &row.stamp, &format!("grow {id}"), "done", ground.clock.now_ms(), &note)?;
    tracing::info!(system = row.system, stamp = row.stamp, id = id.to_string(), from, to, "a disk grows");
    let detail = [("resource", id.to_string()), ("from", from), ("to", to), ("used_bytes", seen.used.to_string())];
    acts.own("stamp.storage.grow", &format!("{}/{}", row.system, row.stamp), &detail).await;
    Ok(())
}

/// A file system whose disk failed under it takes no more writes until it is mounted anew: its workload is ended whole, and
/// mended as any that ends.
async fn remount(ground: &Arc<Ground>, row: &StampRow, workload: &WorkloadRow) -> Result<(), Error> {
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    tracing::warn!(workload = workload.workload, "its disk failed under it; it is placed anew");
    let (ground, name) = (ground.clone(), workload.workload.clone());
    crate::reconcile::blocking(move || {
        let failed = |source| Error::Place { workload: name.clone(), source };
        ground.driver.kill(&layout.mark(&name), layout.user(&name)).map_err(failed)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_doubles_once_a_fifth_of_it_is_left() {
        assert_eq!(next(32 * GIB, 25 * GIB, 512 * GIB), None);
        assert_eq!(next(32 * GIB, 26 * GIB, 512 * GIB), Some(64 * GIB));
        assert_eq!(next(256 * MIB, 210 * MIB, 64 * GIB), Some(512 * MIB));
        // 64 GiB are enough for anybody, and no disk grows beyond what it was made for.
        assert_eq!(next(900 * GIB, 800 * GIB, 2048 * GIB), None);
        assert_eq!(next(2048 * GIB, 2000 * GIB, 3000 * GIB + 17), Some(3000 * GIB));
        assert_eq!(next(512 * GIB, 511 * GIB, 512 * GIB), None);
    }

    #[test]
    fn no_more_is_promised_than_the_machine_has() {
        assert_eq!(enforced(32 * GIB, GIB, 500 * GIB, false), 32 * GIB);
        assert_eq!(
            enforced(32 * GIB, GIB, 2 * GIB, false),
            32 * GIB,
            "a sparse file may be larger than the disk it lies on"
        );
        assert_eq!(enforced(32 * GIB, GIB, GIB - MIB, false), 2 * GIB - MIB - HOST_MARGIN);
        assert_eq!(enforced(32 * GIB, GIB, MIB, false), GIB);
    }

    #[test]
    fn a_server_that_is_down_on_a_full_disk_is_lent_room_and_gives_it_back() {
        assert_eq!(enforced(GIB, GIB, 500 * GIB, true), GIB + LOAN);
        assert_eq!(enforced(GIB, GIB + MIB, 500 * GIB, false), GIB);
        assert_eq!(enforced(GIB, GIB / 2, 500 * GIB, true), GIB, "it is down for another reason");
    }
}
