//! What roles keep (people, secrets, the audit record) goes beside the backups of the databases, sealed for whoever has the
//! recovery key: a stamp whose machine is lost is brought up again from a copy of them.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use model::{Kind, Resource, ResourceId, System};
use zeroize::Zeroizing;

use crate::{
    Error,
    authority::Authority,
    backups::repository,
    files,
    journal::StampRow,
    layout::Layout,
    reconcile::{self, blocking},
    recovery,
    stamp::Ground,
};

/// The age of a change that may be lost with the machine: well under the five minutes that documents promise.
const EVERY: Duration = Duration::from_secs(60);
/// The first file of a stamp that has just come up: its vault is filled by then.
const FIRST: Duration = Duration::from_secs(5);
const PREFIX: &str = "roles-";

/// When the state of a stamp is to be looked at next, and what it was when it was kept last.
pub struct Kept {
    next: Instant,
    was: String,
}

/// The databases of a stamp, beside whose backups all of it lies.
fn databases(system: &System) -> Vec<(&ResourceId, &model::resource::Postgres)> {
    let all = system.resources.iter();
    all.filter_map(|(id, r)| if let Resource::Postgres(postgres) = r { Some((id, postgres)) } else { None }).collect()
}

/// Puts the root keys beside every repository of backups, sealed under the recovery key; nothing changes where they are there.
pub fn put_keys(row: &StampRow, layout: &Layout, authority: &Authority, system: &System) -> Result<(), Error> {
    let content = authority.content(&row.tenant);
    let name = format!("{}/{}", row.system, row.stamp);
    for (id, postgres) in databases(system) {
        for workload in (1..=postgres.members()).map(|n| model::plan::workload(id, n)) {
            let folder = layout.place(&workload).join("backups");
            if folder.is_dir() {
                recovery::put_box(&layout.folder, &folder, &name, &content, layout.user(&workload))?;
            }
        }
    }
    Ok(())
}

/// Keeps the state of a stamp's roles if it has changed. What fails is logged and tried again.
pub async fn look(ground: &std::sync::Arc<Ground>, row: &StampRow, kept: &mut BTreeMap<String, Kept>) {
    let key = format!("{}/{}", row.system, row.stamp);
    let begin = Kept { next: Instant::now() + FIRST, was: String::new() };
    let known = kept.entry(key).or_insert(begin);
    if Instant::now() < known.next || ground.stamp(&row.system, &row.stamp).current().is_some() {
        return;
    }
    known.next = Instant::now() + EVERY;
    let (own, of, was) = (ground.clone(), row.clone(), known.was.clone());
    match blocking(move || keep(&own, &of, &was)).await {
        Ok(now) => known.was = now,
        Err(error) => tracing::warn!(
            system = row.system,
            stamp = row.stamp,
            error = crate::error::chain(&error),
            "could not keep the state of the roles beside the backups"
        ),
    }
}

/// Keeps the state of a stamp's roles as it is at its orderly end, before the keepers of its databases copy for the last time.
pub async fn last(ground: &std::sync::Arc<Ground>, row: &StampRow) {
    let (own, of) = (ground.clone(), row.clone());
    if let Err(error) = blocking(move || keep(&own, &of, "")).await {
        tracing::warn!(stamp = row.stamp, error = crate::error::chain(&error), "could not keep the state of the roles");
    }
}

fn keep(ground: &Ground, row: &StampRow, was: &str) -> Result<String, Error> {
    let system = reconcile::resolve(&row.manifest, &row.stamp)?;
    let databases = databases(&system);
    if databases.is_empty() {
        return Ok(String::new());
    }
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let authority = Authority::open(&layout.folder)?;
    put_keys(row, &layout, &authority, &system)?;
    let mut found = Vec::new();
    for id in system.resources.keys().filter(|id| is_kept(id.kind)) {
        let data = layout.place(&id.to_string()).join("data");
        list(&data, Path::new(&id.to_string()), &mut found).map_err(Error::file("list", &data))?;
    }
    let now: String = found.iter().map(|f| format!("{} {} {}\n", f.name.display(), f.bytes, f.changed)).collect();
    if found.is_empty() || now == was {
        return Ok(now);
    }
    let content = pack(&layout, &found)?;
    // One file a day: the newest of each day stays as long as backups do.
    let name = format!("{PREFIX}{}", ground.clock.now_s() / 86_400);
    if let Some(sealed) = recovery::seal(&layout.folder, &name, &content)? {
        for (id, postgres) in databases {
            let folder = repository(&layout, id);
            let path = folder.join(&name);
            files::write(&path, &sealed, 0o644, layout.user(&id.to_string())).map_err(Error::file("write", &path))?;
            let oldest = ground.clock.now_s() / 86_400 - (postgres.backup.retention.as_secs() / 86_400) as i64;
            for (day, path) in days(&folder) {
                if day < oldest {
                    std::fs::remove_file(&path).map_err(Error::file("remove", path))?;
                }
            }
        }
    }
    Ok(now)
}

fn is_kept(kind: Kind) -> bool {
    matches!(kind, Kind::Vault | Kind::Identity | Kind::Audit)
}

fn days(folder: &Path) -> Vec<(i64, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut days: Vec<(i64, PathBuf)> =
        entries.filter_map(|e| Some((e.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?, e.path()))).collect();
    days.sort();
    days
}

struct Found {
    /// `vault.main/vault.db`.
    name: PathBuf,
    path: PathBuf,
    bytes: u64,
    changed: i64,
}

/// The files of a role; SQLite's own beside a database are in the copy that it makes of it.
fn list(folder: &Path, name: &Path, found: &mut Vec<Found>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        // A file that is removed meanwhile is not missed.
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            list(&path, &name, found)?;
        } else if meta.is_file() {
            let changed = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
            found.push(Found { name, path, bytes: meta.len(), changed });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// One after the other: length and text of the name, length and bytes of the content.
fn pack(layout: &Layout, found: &[Found]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut all = Zeroizing::new(Vec::new());
    for file in found {
        let text = file.name.to_string_lossy();
        if ["-wal", "-shm", "-journal"].iter().any(|end| text.ends_with(end)) {
            continue;
        }
        let Some(content) = content(layout, &file.path)? else { continue };
        all.extend_from_slice(&(text.len() as u32).to_le_bytes());
        all.extend_from_slice(text.as_bytes());
        all.extend_from_slice(&(content.len() as u64).to_le_bytes());
        all.extend_from_slice(&content);
    }
    Ok(all)
}

/// A file as it is at one moment: a database by its own means, anything else as it lies (spools and records only grow).
fn content(layout: &Layout, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => Zeroizing::new(other.map_err(Error::file("read", path))?),
    };
    if !bytes.starts_with(b"SQLite format 3\0") {
        return Ok(Some(bytes));
    }
    let copy = layout.folder.join("root/copying.db");
    let _ = std::fs::remove_file(&copy);
    let open = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copied = (|| {
        // Readable for us alone, whatever the umask: the folder is.
        let database = rusqlite::Connection::open_with_flags(path, open)?;
        database.busy_timeout(Duration::from_secs(5))?;
        database.execute("VACUUM INTO ?1", [copy.display().to_string()])
    })();
    copied?;
    let bytes = std::fs::read(&copy).map_err(Error::file("read", &copy))?;
    std::fs::remove_file(&copy).map_err(Error::file("remove", &copy))?;
    Ok(Some(Zeroizing::new(bytes)))
}

/// The newest state in a copy of the backups, opened; None where there is none.
pub fn newest(repository: &Path, recovery_key: &api::Secret) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let Some((_, path)) = days(repository).pop() else { return Ok(None) };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sealed = std::fs::read(&path).map_err(Error::file("read", &path))?;
    let opened = recovery::unseal(&name, &sealed, recovery_key).ok_or_else(|| Error::Asked {
        what: format!("{} was changed or cut short", path.display()),
        hint: Some("take the file from another copy, or remove it: the state of the day before counts then".into()),
    })?;
    Ok(Some(opened))
}

/// Lays the state of roles out where their workloads find it.
pub fn lay(layout: &Layout, state: &[u8]) -> Result<u32, Error> {
    let broken = || Error::Fault("the state of roles is not understood".into());
    let mut rest = state;
    let mut laid = 0;
    while !rest.is_empty() {
        let (length, after) = rest.split_at_checked(4).ok_or_else(broken)?;
        let length = u32::from_le_bytes(length.try_into().map_err(|_| broken())?) as usize;
        let (name, after) = after.split_at_checked(length).ok_or_else(broken)?;
        let (length, after) = after.split_at_checked(8).ok_or_else(broken)?;
        let length = u64::from_le_bytes(length.try_into().map_err(|_| broken())?) as usize;
        let (content, after) = after.split_at_checked(length).ok_or_else(broken)?;
        rest = after;
        let name = Path::new(std::str::from_utf8(name).map_err(|_| broken())?);
        let plain = name.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        let (Some(workload), true) = (name.iter().next().and_then(|w| w.to_str()), plain) else { return Err(broken()) };
        // A role that the manifest no longer has is left out.
        if layout.row(workload).is_err() {
            continue;
        }
        let (user, place) = (layout.user(workload), layout.place(workload));
        crate::home::make(&place, 0o711).map_err(Error::file("make", &place))?;
        let mut folder = place.join("data");
        crate::home::make_for(&folder, 0o700, user).map_err(Error::file("make", &folder))?;
        let inside: PathBuf = name.iter().skip(1).collect();
        for part in inside.parent().into_iter().flat_map(Path::iter) {
            folder.push(part);
            crate::home::make_for(&folder, 0o700, user).map_err(Error::file("make", &folder))?;
        }
        let path = place.join("data").join(&inside);
        files::write(&path, content, 0o600, user).map_err(Error::file("write", path))?;
        laid += 1;
    }
    Ok(laid)
}
