//! Shares: folders that several workloads see, each at a path of its own choice in its own mount namespace, and writable or not as
//! is declared. Nothing of the machine is changed: a path that is not there is made on a file system in memory that only the
//! workload sees, and nothing that has content is ever hidden.

use std::{
    collections::BTreeSet,
    ffi::CString,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A share as one workload is to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Where it lies.
    pub folder: PathBuf,
    /// Where the workload sees it.
    pub at: PathBuf,
    pub write: bool,
    /// The group whose members may use it; None: we share one user.
    pub group: Option<u32>,
}

/// Whether a share can be seen at a path on this machine: an empty folder, or one that can be made in an empty one.
pub fn is_possible(at: &Path) -> bool {
    stand(at).is_some()
}

/// The folder that is mounted over, and whether it is the path itself.
fn stand(at: &Path) -> Option<(PathBuf, bool)> {
    if !at.is_absolute() || at.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        return None;
    }
    let there = at.ancestors().find(|folder| folder.symlink_metadata().is_ok())?;
    let real_folder = there.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let empty = || std::fs::read_dir(there).is_ok_and(|mut entries| entries.next().is_none());
    (real_folder && empty()).then(|| (there.to_owned(), there == at))
}

/// One act in the new process, prepared: there, only system calls are allowed.
pub(crate) enum Act {
    Memory(CString),
    Folder(CString),
    Bind { from: CString, to: CString, flags: libc::c_ulong },
}

impl Act {
    /// Runs in the child, in a mount namespace of its own.
    pub fn carry_out(&self) -> io::Result<()> {
        let none = std::ptr::null();
        // SAFETY: plain system calls with texts that outlive them.
        let done = unsafe {
            match self {
                Self::Memory(at) => {
                    let options = c"mode=0755,size=64k".as_ptr().cast();
                    let flags = libc::MS_NOSUID | libc::MS_NODEV;
                    libc::mount(c"tmpfs".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), flags, options)
                }
                Self::Folder(at) => match libc::mkdir(at.as_ptr(), 0o755) {
                    -1 if io::Error::last_os_error().kind() == io::ErrorKind::AlreadyExists => 0,
                    done => done,
                },
                Self::Bind { from, to, flags } => {
                    if libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast()) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                    // The flags of a bind are taken in a second step only.
                    libc::mount(none, to.as_ptr(), none, libc::MS_BIND | libc::MS_REMOUNT | flags, none.cast())
                }
            }
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The acts by which a workload sees its shares, and what is not possible here.
pub(crate) fn prepare(shares: &[Share]) -> io::Result<(Vec<Act>, Vec<String>)> {
    let (mut acts, mut missing) = (Vec::new(), Vec::new());
    let mut in_memory = BTreeSet::new();
    for share in shares {
        // What the file system that it lies on forbids stays forbidden: a user namespace may take nothing of it away.
        let kept = kept_flags(&share.folder)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | kept | if share.write { 0 } else { libc::MS_RDONLY };
        if !share.write {
            // By no other way either: where it lies it is as it is declared.
            acts.push(Act::Bind { from: text(&share.folder)?, to: text(&share.folder)?, flags });
        }
        let Some((stand, itself)) = stand(&share.at) else {
            missing.push(format!("a share at {} (it is not an empty folder)", share.at.display()));
            continue;
        };
        if !itself {
            if in_memory.insert(stand.clone()) {
                acts.push(Act::Memory(text(&stand)?));
            }
            let made: Vec<&Path> = share.at.ancestors().take_while(|folder| **folder != *stand).collect();
            for folder in made.into_iter().rev() {
                acts.push(Act::Folder(text(folder)?));
            }
        }
        acts.push(Act::Bind { from: text(&share.folder)?, to: text(&share.at)?, flags });
    }
    Ok((acts, missing))
}

fn kept_flags(folder: &Path) -> io::Result<libc::c_ulong> {
    use rustix::fs::StatVfsMountFlags as Has;
    // Fails by name where the folder is not there.
    std::fs::metadata(folder)?.ino();
    let has = rustix::fs::statvfs(folder)?.f_flag;
    let pairs = [
        (Has::NOEXEC, libc::MS_NOEXEC),
        (Has::RDONLY, libc::MS_RDONLY),
        (Has::NOATIME, libc::MS_NOATIME),
        (Has::NODIRATIME, libc::MS_NODIRATIME),
        (Has::RELATIME, libc::MS_RELATIME),
    ];
    Ok(pairs.into_iter().filter(|(flag, _)| has.contains(*flag)).fold(0, |all, (_, flag)| all | flag))
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_has_content_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::create_dir(at("full")).unwrap();
        std::fs::write(at("full/file"), "").unwrap();
        std::os::unix::fs::symlink(at("empty"), at("link")).unwrap();
        assert!(is_possible(&at("empty")));
        assert!(is_possible(&at("empty/a/b")));
        for refused in ["full", "full/x", "full/file", "full/file/x", "link", "link/x", "none", "empty/../full"] {
            assert!(!is_possible(&at(refused)), "{refused}");
        }
        assert!(!is_possible(Path::new("empty")) && !is_possible(Path::new("/etc")) && !is_possible(Path::new("/")));
    }

    #[test]
    fn one_memory_serves_all_shares_beneath_it() {
        let dir = tempfile::tempdir().unwrap();
        let share = |at: &str| Share { folder: dir.path().into(), at: at.into(), write: false, group: None };
        let root = tempfile::tempdir().unwrap();
        let below = |name: &str| root.path().join(name).display().to_string();
        let (acts, missing) = prepare(&[share(&below("a/one")), share(&below("a/two")), share("/etc")]).unwrap();
        let count = |wanted: fn(&Act) -> bool| acts.iter().filter(|act| wanted(act)).count();
        assert_eq!(count(|act| matches!(act, Act::Memory(_))), 1);
        assert_eq!(count(|act| matches!(act, Act::Bind { .. })), 5, "where it lies, too, it is not written");
        assert_eq!(missing.len(), 1);
        assert!(missing[0].contains("/etc"));
    }
}
