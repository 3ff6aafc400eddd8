//! Where the bytes lie: each piece is a file that is written once, under a name of its own, and never changed.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::Error;

/// The folder of all pieces.
pub struct Files {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many read a file now.
    reading: HashMap<String, u32>,
    /// To be removed once nobody reads it.
    doomed: HashSet<String>,
}

impl Files {
    /// Opens or makes the folder. Blocks.
    pub fn open(dir: PathBuf) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt as _;
        for n in 0..=255_u8 {
            let folder = dir.join(format!("{n:02x}"));
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(Error::disk(&folder))?;
        }
        sync(&dir)?;
        Ok(Self { dir, state: Mutex::default() })
    }

    /// A name that no file has.
    pub fn name() -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }

    /// Where a piece lies. `name` is one of ours: from the database, never from a request.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(&name[..2]).join(name)
    }

    /// Begins a new piece. Blocks.
    pub fn create(&self, name: &str) -> Result<File, Error> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.path(name);
        std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).map_err(Error::disk(path))
    }

    /// Makes a written piece last through a power cut. Blocks.
    pub fn keep(&self, name: &str, mut file: File) -> Result<(), Error> {
        let path = self.path(name);
        file.flush().and_then(|()| file.sync_all()).map_err(Error::disk(&path))?;
        sync(path.parent().unwrap_or(&self.dir))
    }

    /// Removes pieces that the database no longer knows; those that somebody reads, once they have.
    pub fn remove(&self, names: &[String]) {
        for name in names {
            let read = {
                let mut state = self.lock();
                let read = state.reading.contains_key(name);
                if read {
                    state.doomed.insert(name.clone());
                }
                read
            };
            if !read {
                self.unlink(name);
            }
        }
    }

    fn unlink(&self, name: &str) {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %path.display(), "could not remove a piece; the next start tries again");
            }
            _ => {}
        }
    }

    /// Keeps files there while they are read.
    pub fn reading(self: &Arc<Self>, names: Vec<String>) -> Reading {
        let mut state = self.lock();
        for name in &names {
            *state.reading.entry(name.clone()).or_insert(0) += 1;
        }
        drop(state);
        Reading { files: self.clone(), names }
    }

    /// Removes what the database does not know, after a cut. Blocks.
    pub fn tidy(&self, known: &HashSet<String>) -> Result<(), Error> {
        for folder in std::fs::read_dir(&self.dir).map_err(Error::disk(&self.dir))? {
            let folder = folder.map_err(Error::disk(&self.dir))?.path();
            for entry in std::fs::read_dir(&folder).map_err(Error::disk(&folder))? {
                let entry = entry.map_err(Error::disk(&folder))?;
                if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                    std::fs::remove_file(entry.path()).map_err(Error::disk(entry.path()))?;
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that are being read.
pub struct Reading {
    files: Arc<Files>,
    names: Vec<String>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut gone = Vec::new();
        let mut state = self.files.lock();
        for name in &self.names {
            if let Some(count) = state.reading.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    state.reading.remove(name);
                    if state.doomed.remove(name) {
                        gone.push(name.clone());
                    }
                }
            }
        }
        drop(state);
        for name in gone {
            self.files.unlink(&name);
        }
    }
}

fn sync(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::disk(folder))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_stays_until_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::open(dir.path().join("content")).unwrap());
        let name = Files::name();
        let file = files.create(&name).unwrap();
        files.keep(&name, file).unwrap();
        let (one, two) = (files.reading(vec![name.clone()]), files.reading(vec![name.clone()]));
        files.remove(std::slice::from_ref(&name));
        drop(one);
        assert!(files.path(&name).exists());
        drop(two);
        assert!(!files.path(&name).exists());
    }
}
