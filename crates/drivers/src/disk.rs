//! Disks that drills may fill: a file system in memory, of a fixed size.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Puts an empty disk of `bytes` at `path`. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// The machine refused; the error's text says the command that a person would try.
pub fn small(path: &Path, bytes: u64) -> io::Result<()> {
    let options = std::ffi::CString::new(format!("size={bytes},mode=0711")).unwrap_or_default();
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .map_err(|e| io::Error::other(format!("mount -t tmpfs -o size={bytes} tmpfs {}: {e}", path.display())))
}

/// Takes away a disk of [`small`]; a folder that is none stays as it is.
///
/// # Errors
/// The machine refused.
pub fn remove(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    // A mount point lies on another device than its parent.
    if std::fs::metadata(path)?.dev() == std::fs::metadata(parent)?.dev() {
        return Ok(());
    }
    // Detached: what still holds a file there (a process that ends) does not keep it in the way.
    unmount(path, UnmountFlags::DETACH).map_err(Into::into)
}
