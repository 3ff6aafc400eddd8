//! The room on the server's disk. On a disk of its own that is nearly full, the server takes no more writes: it can then still
//! be read, ended and started, and what was acknowledged stays. Whoever sets `default_transaction_read_only` off for a session
//! writes on until the disk itself refuses.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use api::postgres::read_only_below;
use rustix::process::{Pid, Signal};

use crate::Error;

const LOOK: Duration = Duration::from_millis(100);
/// Both of one length: on a full disk a file can be written over and not made longer.
const WRITES: &[u8] = b"default_transaction_read_only = off\n";
const READS: &[u8] = b"default_transaction_read_only = on \n";
const MIB: u64 = 1 << 20;

/// The file that the server's configuration includes.
pub(crate) const FILE: &str = "space.conf";

/// A disk as it is now, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    all: u64,
    free: u64,
}

/// Looks at the disk under a data folder.
pub(crate) struct Space {
    data: PathBuf,
    conf: PathBuf,
}

impl Space {
    pub fn of(data: &Path, conf: &Path) -> Self {
        Self { data: data.to_owned(), conf: conf.join(FILE) }
    }

    /// The room, where the data lies on a disk of its own.
    fn room(&self) -> Option<Room> {
        let above = fs::metadata(self.data.parent()?).ok()?.dev();
        if fs::metadata(&self.data).ok()?.dev() == above {
            return None;
        }
        let disk = rustix::fs::statvfs(&self.data).ok()?;
        let (used, free) = (disk.f_blocks.saturating_sub(disk.f_bfree), disk.f_bavail);
        Some(Room { all: (used + free) * disk.f_frsize, free: free * disk.f_frsize })
    }

    /// Has writes taken at the next start; a disk that is still full is seen at the first look.
    pub fn begin(&self) -> Result<(), Error> {
        self.put(WRITES).map_err(Error::io("write", &self.conf))
    }

    /// On a small disk, checkpoints come before the log takes it all.
    pub fn settings(&self, declared: &BTreeMap<String, String>) -> Option<(&'static str, String)> {
        let all = self.room()?.all;
        let most = (all / 4 / MIB).max(64);
        (all < 2048 * MIB && !declared.contains_key("max_wal_size")).then(|| ("max_wal_size", format!("{most}MB")))
    }

    fn put(&self, words: &[u8]) -> std::io::Result<()> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.conf)?;
        file.write_all_at(words, 0)?;
        file.sync_data()
    }

    /// Watches for as long as the keeper lives; `server` is the process to tell.
    pub async fn watch(&self, server: &AtomicU32) {
        let mut before: Option<Room> = None;
        // The server that was told to take reads only; another one begins with writes.
        let mut told: Option<u32> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(room) = self.room() else { continue };
            if let Some(old) = before
                && room.all > old.all + MIB
                && room.free > old.free
            {
                let (from, to) = (old.all / MIB, room.all / MIB);
                tracing::info!(from_mib = from, to_mib = to, "the disk has grown from {from} to {to} MiB");
            }
            before = Some(room);
            let pid = server.load(Ordering::Relaxed);
            let full = read_only_below(room.all);
            let now = match (told == Some(pid), room.free) {
                (false, free) if free < full && pid != 0 => READS,
                // Some way off, so that it does not turn back and forth.
                (true, free) if free > full + full / 4 => WRITES,
                _ => continue,
            };
            if let Err(error) = self.put(now) {
                tracing::warn!(error = error.to_string(), "could not write {}", self.conf.display());
                continue;
            }
            if let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(process, Signal::HUP);
            }
            let (free, all) = (room.free / MIB, room.all / MIB);
            if now == READS {
                told = Some(pid);
                tracing::error!(
                    free_mib = free,
                    all_mib = all,
                    "the disk is full: {free} of {all} MiB are free, no writes are taken"
                );
            } else {
                told = None;
                tracing::info!(
                    free_mib = free,
                    all_mib = all,
                    "the disk has room again: {free} of {all} MiB, writes are taken"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_states_are_of_one_length() {
        assert_eq!(WRITES.len(), READS.len());
    }
}
