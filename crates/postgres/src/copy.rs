//! A further copy of the repository, under another region's label: asynchronous, goes on where it was cut, and each file counts
//! only once it was read back and is what the original is.

use std::{
    fs,
    io::{self, Read, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use api::backup::CopyStatus;
use aws_lc_rs::digest::{Context as Digest, SHA256};
use service::Clock;

use crate::{
    Error,
    repository::{Repository, beside, names, sync_folder},
};

/// What is copied, in this order: the log before the base backups that need it, what says that one is whole last.
const FOLDERS: [&str; 3] = ["wal", "base", "point"];

pub(crate) struct Copying {
    from: PathBuf,
    to: PathBuf,
    state: Mutex<State>,
    /// Held by whoever copies.
    alone: Mutex<()>,
}

#[derive(Default)]
struct State {
    whole_at_ms: Option<i64>,
    now_ms: i64,
    trouble: Option<String>,
}

impl Copying {
    pub fn new(from: PathBuf, to: PathBuf) -> Self {
        Self { from, to, state: Mutex::default(), alone: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has(&self, place: &str) -> bool {
        self.to.join(place).exists()
    }

    /// Copies what is missing. Blocks, and waits for another that copies.
    pub fn bring_up(&self, clock: &Clock) -> Result<(), Error> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = self.bring_up_all();
        let mut state = self.state();
        state.now_ms = clock.now_ms();
        match &copied {
            Ok(()) => {
                state.whole_at_ms = Some(state.now_ms);
                state.trouble = None;
            }
            Err(error) => {
                let why = error.chain();
                if state.trouble.as_ref() != Some(&why) {
                    tracing::warn!(why, "the further copy is behind; trying again");
                }
                state.trouble = Some(why);
            }
        }
        copied
    }

    fn bring_up_all(&self) -> Result<(), Error> {
        for folder in FOLDERS {
            let into = self.to.join(folder);
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&into).map_err(Error::io("make", &into))?;
        }
        for place in self.missing()? {
            // What was let go meanwhile is not missed.
            match copy(&self.from.join(&place), &self.to.join(&place)) {
                Err(Error::Io { source, path, .. })
                    if source.kind() == io::ErrorKind::NotFound && path.starts_with(&self.from) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The files that the copy does not have. A file of the repository never changes under its name; one that does (a broken
    /// one that was stored anew, the box of keys) has another length or time and is copied again.
    fn missing(&self) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        let mut look = |place: String| {
            let (from, to) = (self.from.join(&place), self.to.join(&place));
            let (Ok(from), to) = (fs::metadata(from), fs::metadata(to)) else { return };
            let same = to.is_ok_and(|to| {
                to.len() == from.len() && to.modified().ok().zip(from.modified().ok()).is_some_and(|(t, f)| t >= f)
            });
            if from.is_file() && !same {
                missing.push(place);
            }
        };
        names(&self.from)?.into_iter().filter(|n| !n.starts_with('.')).for_each(&mut look);
        for folder in FOLDERS {
            let (infos, others): (Vec<String>, Vec<String>) = names(&self.from.join(folder))?
                .into_iter()
                .filter(|n| !n.starts_with('.'))
                .partition(|n| n.ends_with(".info"));
            others.into_iter().chain(infos).map(|n| format!("{folder}/{n}")).for_each(&mut look);
        }
        Ok(missing)
    }

    /// How far it is behind.
    pub fn status(&self) -> CopyStatus {
        let missing = self.missing().unwrap_or_default();
        let bytes = missing.iter().filter_map(|place| fs::metadata(self.from.join(place)).ok()).map(|m| m.len()).sum();
        let state = self.state();
        CopyStatus {
            folder: self.to.clone(),
            files_behind: missing.len() as u64,
            bytes_behind: bytes,
            age_s: state.whole_at_ms.map(|at| (state.now_ms - at) / 1000),
            trouble: state.trouble.clone(),
        }
    }

    /// Lets go in the copy what the retention lets go. By the copy's own files: an original that is lost takes nothing with it.
    pub fn expire(&self, key_of: &Repository, now_ms: i64, retention_ms: i64) -> Result<(), Error> {
        if !self.to.exists() {
            return Ok(());
        }
        key_of.beside(&self.to).expire(now_ms, retention_ms).map(drop)
    }
}

/// Copies a file by way of a name beside it: goes on where a cut copy ended, flushes, and compares both before it is renamed.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let part = beside(to);
    let mut source = fs::File::open(from).map_err(Error::io("open", from))?;
    let mut target = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&part)
        .map_err(Error::io("write", &part))?;
    let have = target.seek(io::SeekFrom::End(0)).map_err(Error::io("look at", &part))?;
    source.seek(io::SeekFrom::Start(have)).map_err(Error::io("read", from))?;
    io::copy(&mut source, &mut target).map_err(Error::io("copy to", &part))?;
    target.flush().and_then(|()| target.sync_all()).map_err(Error::io("flush", &part))?;
    if digest(from)? != digest(&part)? {
        // What a cut copy had was not the beginning of this file, or the disk lies: from the start next time.
        fs::remove_file(&part).map_err(Error::io("remove", &part))?;
        return Err(Error::Config(format!("the copy of {} was not what it was copied from", from.display())));
    }
    fs::rename(&part, to).and_then(|()| sync_folder(to)).map_err(Error::io("name", to))
}

fn digest(path: &Path) -> Result<Vec<u8>, Error> {
    let mut file = fs::File::open(path).map_err(Error::io("open", path))?;
    let mut digest = Digest::new(&SHA256);
    let mut buffer = vec![0u8; 1 << 17];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok(digest.finish().as_ref().to_vec());
        }
        digest.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::PART;

    fn places() -> (tempfile::TempDir, Copying, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for folder in FOLDERS {
            fs::create_dir_all(from.join(folder)).unwrap();
        }
        let copying = Copying::new(from.clone(), to.clone());
        (dir, copying, from, to)
    }

    #[test]
    fn a_cut_copy_goes_on_and_one_of_another_file_is_begun_anew() {
        let (_dir, copying, from, to) = places();
        fs::write(from.join("wal/000000010000000000000001"), "the whole log").unwrap();
        fs::create_dir_all(to.join("wal")).unwrap();
        let part = to.join(format!("wal/{PART}000000010000000000000001"));
        fs::write(&part, "the whole").unwrap();
        copying.bring_up(&Clock::default()).unwrap();
        assert_eq!(fs::read_to_string(to.join("wal/000000010000000000000001")).unwrap(), "the whole log");
        assert_eq!(copying.status().files_behind, 0);

        fs::write(from.join("wal/000000010000000000000002"), "another log").unwrap();
        fs::write(to.join(format!("wal/{PART}000000010000000000000002")), "xxx").unwrap();
        assert!(copying.bring_up(&Clock::default()).is_err());
        assert_eq!(copying.status().files_behind, 1);
        copying.bring_up(&Clock::default()).unwrap();
        assert_eq!(fs::read_to_string(to.join("wal/000000010000000000000002")).unwrap(), "another log");
    }

    #[test]
    fn an_original_that_is_lost_takes_nothing_of_the_copy_with_it() {
        let (_dir, copying, from, to) = places();
        fs::write(from.join("base/a"), "a").unwrap();
        fs::write(from.join("base/a.info"), "i").unwrap();
        copying.bring_up(&Clock::default()).unwrap();
        fs::remove_dir_all(&from).unwrap();
        let _ = copying.bring_up(&Clock::default());
        assert!(to.join("base/a").exists() && to.join("base/a.info").exists());
    }
}
