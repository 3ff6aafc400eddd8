//! A region is lost with all that carries its label; the stamp comes back in another from the second copy and the recovery key, people
//! come to it by the name they know, and later it goes back.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{Secret, backup::CopyStatus, supervisor::RecoveryKey};
use toml_edit::{DocumentMut, Item, Table, value};

use crate::{
    Error, Miss, Seen, Site,
    checks::{backup, members, vault::folder},
    drill::Scene,
    harm::kill,
    miss, must,
    site::until_in,
};

/// A file of the log is at most a minute old when it is shipped; a base backup takes seconds.
const LONG: Duration = Duration::from_secs(150);
/// What people write on after the last file of the log that the copy has: none of it may be there.
const UNSHIPPED: usize = 100;
/// Everybody is served for so long before it counts as served.
const CALM: Duration = Duration::from_secs(3);

fn elsewhere(on: &str) -> String {
    format!("{on}-elsewhere")
}

fn door(on: &str) -> String {
    format!("{on}-door")
}

/// The stamp gets a twin in the region that a cloud pairs with its own, and a front door before both.
pub fn lay(manifest: &str, on: &str) -> Result<String, Miss> {
    let fault = |what: String| Error::File { file: "system.toml".into(), what };
    let document: DocumentMut = manifest.parse().map_err(|e: toml_edit::TomlError| fault(e.to_string()))?;
    let known = model::Manifest::parse(manifest).ok().and_then(|m| m.resolve(on).ok());
    let Some(system) = known else { miss!("the system has no stamp {on}") };
    if !system.databases().any(|(_, postgres)| postgres.backup.geo) {
        miss!("{on} has no second copy of its backups: `backup.geo` of a database makes one");
    }
    let probe = system.edge().and_then(|edge| edge.routes.first()).and_then(|route| match system.get(&route.to) {
        Some(model::Resource::Service(service)) => service.health.clone(),
        _ => None,
    });
    let (door, twin) = (door(on), elsewhere(on));
    let mut changes = DocumentMut::new();
    changes["stamps"] = Item::Table(Table::new());
    let own = document.get("stamps").and_then(|stamps| stamps.get(on)).cloned();
    changes["stamps"][&twin] = own.unwrap_or_else(|| Item::Table(Table::new()));
    changes["stamps"][&twin]["region"] = value(model::region::paired(system.region.as_deref()));
    changes["stamps"][&twin]["edge"]["front"] = value(&door);
    changes["stamps"][on]["edge"]["front"] = value(&door);
    let mut before = DocumentMut::new();
    before["only"] = value(["edge"].into_iter().collect::<toml_edit::Array>());
    before["edge"]["routes"] = value(toml_edit::Array::new());
    before["edge"]["origins"] = value([on, &twin].into_iter().collect::<toml_edit::Array>());
    before["edge"]["probe"]["path"] = value(probe.unwrap_or_else(|| "/".into()));
    changes["stamps"][&door] = Item::Table(before.as_table().clone());
    Ok(changes.to_string())
}

/// A copy that has all there is, and what a stamp is brought up from it with.
struct Kept {
    copy: CopyStatus,
    /// The stamp's folder in the copy.
    from: PathBuf,
    key: Secret,
}

/// Waits until a base backup that begins now, the roles' state and the keys are in the second copy.
async fn kept(site: &Site) -> Result<Kept, Miss> {
    backup::base(site).await?;
    let key: RecoveryKey = site.supervisor.post("/recovery-key", &site.of()).await?;
    let Some(key) = key.recovery_key else { miss!("the recovery key of {} was shown already", site.stamp) };
    let copy = until_in("the second copy", LONG, async || {
        let Some(copy) = backup::backups(site).await?.backups.copy else { miss!("there is no second copy") };
        must!(copy.files_behind == 0 && copy.age_s.is_some(), "{} files behind, {:?}", copy.files_behind, copy.trouble);
        let roles = names(&copy.folder).iter().any(|name| name.starts_with("roles-"));
        must!(roles && copy.folder.join("keys.box").exists(), "the state of the roles is not in it yet");
        Ok(copy)
    })
    .await?;
    let from = copy.folder.parent().map(Path::to_owned).unwrap_or_default();
    Ok(Kept { copy, from, key })
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|name| !name.starts_with('.')).collect()
}

pub async fn loss(scene: &Scene<'_>) -> Seen {
    let (lab, on) = (scene.lab, scene.on);
    let site = lab.site(on).await?;
    let Some(door) = site.door.clone() else { miss!("{on} has no front door") };
    let first = kept(&site).await?;
    let based = scene.load.now();
    scene.say("a base backup, the people and the keys are in the second copy");
    let before = names(&first.copy.folder.join("wal"));
    until_in("a later file of the log is in the second copy", LONG, async || {
        let now = names(&first.copy.folder.join("wal"));
        must!(now.difference(&before).next().is_some(), "it has {} files", now.len());
        Ok(())
    })
    .await?;
    let shipped = scene.load.now();
    scene.say("a file of the log came after it");
    people_write(scene, UNSHIPPED).await?;

    let here = site.system.region.clone().unwrap_or_else(|| "local".into());
    let folder = folder(&site)?;
    must!(!first.from.starts_with(&folder), "the copy in {} lies with what it is a copy of", first.from.display());
    let status = members::status(&site).await?;
    scene.fault(format!("all of {here} is lost: the supervisor, every process, every file"));
    let killed = end_all(&site, &status, &folder).await?;
    // Copies of others that were kept in this region are gone with it.
    let label = first.from.parent().and_then(Path::parent).map(|regions| regions.join(&here)).unwrap_or_default();
    for lost in [&folder, &label] {
        remove(lost).await?;
    }
    scene.say(format!("{killed} processes killed, {} and what {here} kept removed", folder.display()));

    // From here on there are a copy, a key and a manifest.
    let twin = elsewhere(on);
    let there = lab.restore_from(&twin, &first.from, &first.key).await?;
    let region = there.system.region.clone().unwrap_or_default();
    scene.say(format!("{twin} is up in {region}"));
    let since = scene.load.now();
    until_in("people write again", LONG, async || written_since(scene, since)).await?;
    must!(scene.load.calm(CALM, LONG).await, "people are not served by {twin}: {:?}", scene.load.tape().troubles());
    let recovered = scene.load.now();
    scene.recovered(format!("people are served by {twin}, at the address they know: {}", door.url));
    let stored = scene.load.book().stored(&there).await?;
    let tape = scene.load.tape();
    let held = |from: Duration, to: Duration| {
        let of = tape.acknowledged().into_iter().filter(|(_, at)| *at >= from && *at < to).map(|(mark, _)| mark);
        let (there, gone): (Vec<&str>, Vec<&str>) = of.partition(|mark| stored.contains(*mark));
        (there.len(), gone.len())
    };
    let (by_log, _) = held(based, shipped);
    must!(by_log > 0, "nothing that was written after the base backup came back: the log was not shipped");
    let lost = held(Duration::ZERO, recovered).1;
    scene.say(format!("{by_log} writes came by the log alone, {lost} acknowledged ones are gone"));

    people_write(scene, UNSHIPPED / 2).await?;
    let second = kept(&there).await?;
    scene.say("the copy of the new region is whole; going back is announced");
    lab.destroy(on).await?;
    // In order: nobody writes any more, and the last of the log is shipped before the database's keeper ends.
    let pause = scene.load.now();
    lab.down(&twin).await?;
    scene.say(format!("{twin} is down"));
    let back = lab.restore_from(on, &second.from, &second.key).await?;
    let since = scene.load.now();
    until_in("people write again", LONG, async || written_since(scene, since)).await?;
    must!(scene.load.calm(CALM, LONG).await, "people are not served by {on} again: {:?}", scene.load.tape().troubles());
    let tape = scene.load.tape();
    let waited = tape.restored(pause).unwrap_or(pause).saturating_sub(pause);
    scene.say(format!("people are served by {on} in {here} again, after {} ms", waited.as_millis()));
    let stored = scene.load.book().stored(&back).await?;
    let meanwhile: Vec<&str> =
        tape.acknowledged().into_iter().filter(|(_, at)| *at >= recovered).map(|(mark, _)| mark).collect();
    let gone = meanwhile.iter().filter(|mark| !stored.contains(**mark)).count();
    must!(gone == 0, "going back lost {gone} of {} acknowledged writes", meanwhile.len());
    lab.destroy(&twin).await?;
    Ok(format!(
        "{killed} processes of {here} killed and its files removed; {twin} came up in {region} from the copy and the recovery key, with {by_log} writes \
         that only the shipped log had; {lost} acknowledged writes are gone; the same address throughout; back in {here} after an announced pause of \
         {:.1} s with all {} writes of the meantime",
        waited.as_secs_f64(),
        meanwhile.len()
    ))
}

async fn people_write(scene: &Scene<'_>, more: usize) -> Result<(), Miss> {
    let before = scene.load.tape().acknowledged().len();
    until_in("people write on", LONG, async || {
        let now = scene.load.tape().acknowledged().len();
        must!(now >= before + more, "{now} writes are acknowledged, {before} were before");
        Ok(())
    })
    .await
}

fn written_since(scene: &Scene<'_>, since: Duration) -> Result<(), Miss> {
    let tape = scene.load.tape();
    must!(tape.acknowledged().values().any(|at| *at > since), "no write since then: {:?}", tape.troubles());
    Ok(())
}

/// Kills the supervisor, which would bring back what ends, then every process of the stamp until none is left.
async fn end_all(site: &Site, status: &api::supervisor::Status, folder: &Path) -> Result<usize, Miss> {
    kill(status.supervisor_pid)?;
    let first = |r: &api::supervisor::ResourceStatus| r.pids.first().copied();
    // Shims first: they start anew what ends.
    let shims = status.resources.iter().filter_map(first);
    let all: Vec<u32> = shims.chain(status.resources.iter().flat_map(|r| r.pids.clone())).collect();
    let all: Vec<u32> = all.iter().copied().chain(drivers::proc::descendants(&all)).collect();
    let killed = all.iter().filter(|pid| kill(**pid).is_ok()).count();
    must!(killed > 10, "{} had {killed} processes", site.stamp);
    until_in("the end of all processes", LONG, async || {
        let mut left: Vec<u32> = drivers::proc::working_in(folder);
        left.extend(all.iter().filter(|pid| drivers::proc::identify(**pid).is_some()));
        left.retain(|pid| kill(*pid).is_ok());
        must!(left.is_empty(), "{left:?} live");
        Ok(())
    })
    .await?;
    Ok(killed)
}

async fn remove(folder: &Path) -> Result<(), Miss> {
    until_in("an empty place", LONG, async || match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Miss::Failed(format!("{}: {e}", folder.display()))),
        _ => Ok(()),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twin_is_the_stamp_in_the_other_region_behind_one_door() {
        let text = include_str!("../../../../systems/time-tracker/system.toml");
        let laid = crate::patched(text, &lay(text, "prod").expect("prod has a second copy")).expect("sound");
        let manifest = model::Manifest::parse(&laid).expect("a manifest");
        let of = |stamp: &str| manifest.resolve(stamp).unwrap_or_else(|faults| panic!("{stamp}: {faults:?}"));
        let (first, twin, door) = (of("prod"), of("prod-elsewhere"), of("prod-door"));
        assert_eq!(twin.region.as_deref(), Some("australiasoutheast"));
        assert_eq!((first.front(), twin.front()), (Some("prod-door"), Some("prod-door")));
        let origins: Vec<(&str, u32)> = door.origins().iter().map(|o| (o.stamp.as_str(), o.priority)).collect();
        assert_eq!(origins, [("prod", 1), ("prod-elsewhere", 2)]);
        assert_eq!(door.resources.len(), 1);
        assert_eq!(first.resources, twin.resources);
        assert!(lay(text, "dev").is_err(), "development has no second copy");
    }
}
