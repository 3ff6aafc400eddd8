//! Files that are there whole or not at all.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// SHA-256 as lower-case hex.
pub fn digest(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hash.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a file beside, syncs it, and renames it into place; `user` owns it.
pub fn write(path: &Path, text: &[u8], mode: u32, user: Option<u32>) -> io::Result<()> {
    write_as(path, text, mode, user, |beside| fs::rename(beside, path))
}

fn write_as(
    path: &Path,
    text: &[u8],
    mode: u32,
    user: Option<u32>,
    name_it: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    // Stamps come up side by side: two of this process may write the same file at once.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}.{}", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
    let written = (|| {
        // A leftover of a cut attempt may have another mode.
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some(user) = user {
            std::os::unix::fs::fchown(&file, Some(user), Some(user))?;
        }
        file.sync_data()?;
        // Closed before it has its name: what somebody has open for writing cannot be run (ETXTBSY).
        drop(file);
        name_it(&beside)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Keeps a program's bytes as `folder/name`: others may run it, nobody may change it. Whoever is quicker wins: what runs
/// from the one file shares its memory.
pub fn keep(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    crate::home::make(folder, 0o755)?;
    let path = folder.join(name);
    write_as(&path, bytes, 0o755, None, |beside| {
        match fs::hard_link(beside, &path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        fs::remove_file(beside)
    })
}

/// Copies a program into `bin/DIGEST/NAME`, once; others may run it, nobody may change it.
pub fn keep_program(bin: &Path, program: &Path) -> io::Result<PathBuf> {
    let bytes = fs::read(program)?;
    let name = program.file_name().unwrap_or_default();
    let folder = bin.join(&digest(&bytes)[..16]);
    let kept = folder.join(name);
    if !kept.exists() {
        keep(&folder, &name.to_string_lossy(), &bytes)?;
    }
    Ok(kept)
}

/// Whether an entry of an application's folder is part of it: hidden files and build output are not.
fn belongs(name: &std::ffi::OsStr) -> bool {
    !name.to_string_lossy().starts_with('.') && name != "target" && name != "node_modules" && name != "__pycache__"
}

/// Digest of the files that [`copy_folder`] would copy: names, times and sizes, which change whenever a file does.
pub fn folder_digest(from: &Path) -> io::Result<String> {
    fn gather(from: &Path, text: &mut String) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries.into_iter().filter(|e| belongs(&e.file_name())) {
            let about = entry.metadata()?;
            if about.is_dir() {
                gather(&entry.path(), text)?;
            } else {
                use std::os::unix::fs::MetadataExt as _;
                let time = (about.mtime(), about.mtime_nsec());
                text.push_str(&format!("{} {} {time:?}\n", entry.path().display(), about.len()));
            }
        }
        Ok(())
    }
    let mut text = String::new();
    gather(from, &mut text)?;
    Ok(digest(text.as_bytes()))
}

/// Copies a folder's files for a workload to read; links, hidden files and build output stay behind.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    crate::home::make(to, 0o755)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !belongs(&name) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_folder(&entry.path(), &to.join(&name))?;
        } else if kind.is_file() {
            let mode = if entry.metadata()?.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            write(&to.join(&name), &fs::read(entry.path())?, mode, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        write(&path, b"one", 0o600, None).unwrap();
        write(&path, b"two", 0o640, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_changed_file_changes_the_digest_of_its_folder_and_a_hidden_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("app.py"), "one").unwrap();
        let first = folder_digest(dir.path()).unwrap();
        fs::write(dir.path().join(".cache"), "x").unwrap();
        assert_eq!(folder_digest(dir.path()).unwrap(), first);
        fs::write(dir.path().join("app.py"), "other").unwrap();
        assert_ne!(folder_digest(dir.path()).unwrap(), first);
        let copy = dir.path().join("copy-of-it");
        copy_folder(dir.path(), &copy).unwrap_or_default();
        assert!(!copy.join(".cache").exists());
    }

    #[test]
    fn a_program_is_kept_once_by_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        fs::write(&program, "v1").unwrap();
        let first = keep_program(&dir.path().join("bin"), &program).unwrap();
        fs::write(&program, "v2").unwrap();
        let second = keep_program(&dir.path().join("bin"), &program).unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read(first).unwrap(), b"v1");
    }
}
