//! The data directory: made once an engine by `initdb`, then copied for each server.
//!
//! `initdb` looks its user up by name, and a workload's user has none; it also takes a second. A copy takes neither.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::{Error, tools};

/// Makes the template at `template` with the `initdb` in `bin`, unless it is there. Blocks for about a second.
///
/// As root, `initdb` runs as `nobody`; the template then belongs to the caller and everybody may read it (it holds no
/// secret and no role that can sign in). It has its name only once it is complete and on the disk.
///
/// # Errors
/// No user to run `initdb` as, `initdb` failed, or the disk did.
pub fn make_template(bin: &Path, template: &Path) -> Result<(), Error> {
    if template.join("PG_VERSION").exists() {
        return Ok(());
    }
    let parent = template
        .parent()
        .ok_or_else(|| Error::Config(format!("template {} has no parent folder", template.display())))?;
    fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
    let work = beside(template)?;
    let made = make_in(bin, &work).and_then(|data| put(&data, template));
    // On success only the empty folder is left; on failure whatever initdb wrote.
    let _ = fs::remove_dir_all(&work);
    made
}

fn make_in(bin: &Path, work: &Path) -> Result<PathBuf, Error> {
    fs::DirBuilder::new().mode(0o755).create(work).map_err(Error::io("make", work))?;
    let user = tools::initdb_user()?;
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(work, Some(uid), Some(gid)).map_err(Error::io("hand over", work))?;
    }
    let data = work.join("data");
    tools::initdb(bin, &data, user)?;
    let owner = user.map(|_| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    open_up(&data, owner)?;
    Ok(data)
}

/// Readable by everybody, and the caller's own.
fn open_up(path: &Path, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let kind = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(Error::io("take over", path))?;
    }
    let mode = if kind.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("open up", path))?;
    if kind.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
            open_up(&entry.map_err(Error::io("list", path))?.path(), owner)?;
        }
    }
    Ok(())
}

/// Copies the template to `pgdata`, unless that is there. True when it was copied.
///
/// `pgdata` exists only complete and on the disk: a copy that was cut leaves a folder of another name, which the next
/// start removes.
pub(crate) fn copy(template: &Path, pgdata: &Path) -> Result<bool, Error> {
    let Some(work) = prepare(pgdata)? else { return Ok(false) };
    if !template.join("PG_VERSION").exists() {
        return Err(Error::Config(format!("there is no template at {}", template.display())));
    }
    copy_tree(template, &work)?;
    put(&work, pgdata)?;
    Ok(true)
}

/// Where a data directory may be made before it gets its name; None where there is one. Clears away what a cut one left.
pub(crate) fn prepare(pgdata: &Path) -> Result<Option<PathBuf>, Error> {
    remove_leftovers(pgdata)?;
    if pgdata.exists() { Ok(None) } else { beside(pgdata).map(Some) }
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    // PostgreSQL refuses a data directory that others may enter.
    fs::DirBuilder::new().mode(0o700).create(to).map_err(Error::io("make", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let entry = entry.map_err(Error::io("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(Error::io("look at", &source))?.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(Error::io("copy to", &target))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).map_err(Error::io("close", &target))?;
        }
    }
    Ok(())
}

const WORK: &str = ".making-";

/// A name beside `path` for unfinished work, of this process alone.
pub(crate) fn beside(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().ok_or_else(|| Error::Config(format!("{} names no folder", path.display())))?;
    let work = path.with_file_name(format!("{WORK}{}-{}", name.to_string_lossy(), std::process::id()));
    match fs::remove_dir_all(&work) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { what: "remove", path: work, source })
        }
        _ => Ok(work),
    }
}

pub(crate) fn remove_leftovers(path: &Path) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!("{WORK}{}-", name.to_string_lossy());
    for entry in fs::read_dir(parent).map_err(Error::io("list", parent))? {
        let entry = entry.map_err(Error::io("list", parent))?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Flushes the finished folder and gives it its name. Another process that was quicker wins.
pub(crate) fn put(work: &Path, path: &Path) -> Result<(), Error> {
    // One flush of the file system instead of a thousand of files: 30 ms against 200.
    let folder = fs::File::open(work).map_err(Error::io("open", work))?;
    rustix::fs::syncfs(&folder).map_err(|e| Error::io("flush", work)(e.into()))?;
    match fs::rename(work, path) {
        Err(source) if source.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            fs::remove_dir_all(work).map_err(Error::io("remove", work))?;
        }
        other => other.map_err(Error::io("rename to", path))?,
    }
    let parent = path.parent().expect("a folder with a name beside it has a parent");
    fs::File::open(parent).and_then(|f| f.sync_all()).map_err(Error::io("flush", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_was_cut_is_removed_and_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (template, pgdata) = (dir.path().join("template"), dir.path().join("pgdata"));
        fs::create_dir_all(template.join("base/1")).unwrap();
        fs::write(template.join("PG_VERSION"), "16\n").unwrap();
        fs::write(template.join("base/1/112"), "rows").unwrap();
        let cut = dir.path().join(".making-pgdata-1");
        fs::create_dir(&cut).unwrap();
        fs::write(cut.join("PG_VERSION"), "1").unwrap();

        assert!(copy(&template, &pgdata).unwrap());
        assert!(!cut.exists());
        assert_eq!(fs::read_to_string(pgdata.join("base/1/112")).unwrap(), "rows");
        assert_eq!(fs::metadata(&pgdata).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(pgdata.join("PG_VERSION")).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(pgdata.join("base/1/112"), "newer rows").unwrap();
        assert!(!copy(&template, &pgdata).unwrap(), "what is there is never copied over");
        assert_eq!(fs::read_to_string(pgdata.join("base/1/112")).unwrap(), "newer rows");
    }

    #[test]
    fn without_a_template_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let pgdata = dir.path().join("pgdata");
        assert!(copy(&dir.path().join("none"), &pgdata).is_err());
        assert!(!pgdata.exists());
    }
}
