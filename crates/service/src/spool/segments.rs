//! A hash chain in files: segments that are only ever appended to, then removed whole from the oldest end.
//!
//! `NNNNNNNNNNNNNNNNNNNN.jsonl` is named by its first record's place. Its first line is a [`Header`], which names the
//! format's version, the source and the chain's end before it; every other line is one [`Record`] as `serde_json` writes
//! it and nothing else, so that no byte can change unseen. The audit role stores what it is shipped in the same files.

use std::{
    fs::{File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use api::audit::{FORMAT, Head, Record};
use serde::Serialize;

pub use super::{
    chain::{Header, Scanned, Segment, Walked, exact, list, time_of, walk},
    reader::Reader,
};

/// Why a chain could not be read or written. An append that failed may be tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {act} {file}")]
    Io {
        act: &'static str,
        file: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("the audit chain of {chain} is broken at record {seq} in {file}: {why}")]
    Broken { chain: String, seq: u64, file: PathBuf, why: String },
    #[error("{file} has format {found}; this binary reads up to {FORMAT}")]
    Newer { file: PathBuf, found: u32 },
    #[error("another process writes to {dir}")]
    Locked { dir: PathBuf },
    #[error("the event is longer than {} bytes", super::EVENT_BYTES)]
    TooLong,
    #[error("could not make a client of the audit role at {url}")]
    Client {
        url: String,
        #[source]
        source: Arc<crate::tls::Error>,
    },
    #[error("the writer of the audit spool has ended")]
    Closed,
}

impl Error {
    /// An error of the file system.
    pub fn io(act: &'static str, file: &Path, source: std::io::Error) -> Self {
        Self::Io { act, file: file.into(), source: Arc::new(source) }
    }
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A segment that has grown past this is followed by a new one.
    pub segment: u64,
    /// Whole segments that were shipped are kept up to this much.
    pub kept: u64,
    /// Zeros written ahead of the records: a flush that only overwrites them needs no commit of the file system's journal,
    /// which would wait for everything else that is being written. 0: none.
    pub reserve: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { segment: 4 * 1024 * 1024, kept: 16 * 1024 * 1024, reserve: 256 * 1024 }
    }
}

/// The only writer of a directory of segments.
pub struct Segments {
    dir: PathBuf,
    source: String,
    bounds: Bounds,
    head: Head,
    all: Vec<Segment>,
    /// The last segment, open; None until the first append and after one that failed.
    file: Option<File>,
    /// How far the open file holds reserved zeros.
    reserved: u64,
    rotate: bool,
    lock: File,
}

impl Drop for Segments {
    fn drop(&mut self) {
        // Said aloud, because a child that is being started holds a copy of the descriptor until it runs its program.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}

impl Segments {
    /// Opens or makes the directory, reads the whole chain, and cuts an unfinished last line.
    pub fn open(dir: &Path, source: &str, bounds: Bounds) -> Result<Self, Error> {
        Self::open_between(dir, source, bounds, None, None)
    }

    /// [`Segments::open`] of a chain whose ends are kept elsewhere too; see [`walk`]. Nothing is cut if that fails.
    pub fn open_between(
        dir: &Path,
        source: &str,
        bounds: Bounds,
        anchor: Option<&Head>,
        least: Option<&Head>,
    ) -> Result<Self, Error> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))?;
        let name = dir.join("lock");
        let lock = private().open(&name).map_err(|e| Error::io("open", &name, e))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::Locked { dir: dir.into() })?;
        let Walked { head, segments: mut all, torn, .. } = walk(dir, source, anchor, least, |_| ())?;
        if let (Some(bytes), Some(last)) = (torn, all.last()) {
            tracing::warn!(file = %last.file.display(), bytes, "cut an unfinished audit record");
            cut(&last.file, last.bytes)?;
        }
        if let Some(empty) = all.pop_if(|last| last.bytes == 0) {
            // Its header was the unfinished line; the next append makes it again.
            std::fs::remove_file(&empty.file).map_err(|e| Error::io("remove", &empty.file, e))?;
        }
        Ok(Self {
            dir: dir.into(),
            source: source.into(),
            bounds,
            head,
            all,
            file: None,
            reserved: 0,
            rotate: false,
            lock,
        })
    }

    /// The chain's end.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The segments, oldest first.
    pub fn all(&self) -> &[Segment] {
        &self.all
    }

    /// Writes records that follow the head, durably. On an error the files are as before, and it may be tried again.
    pub fn append(&mut self, records: &[Record]) -> Result<(), Error> {
        let Some(last) = records.last() else { return Ok(()) };
        let mut text = Vec::with_capacity(records.iter().map(|r| r.event.len() + 256).sum());
        let fresh = self.all.last().is_none_or(|s| self.rotate || s.bytes >= self.bounds.segment);
        if fresh {
            let first = self.head.seq + 1;
            let header =
                Header { format: FORMAT, source: self.source.clone(), first, previous: self.head.hash.clone() };
            line(&mut text, &header);
            if let (Some(file), Some(full)) = (self.file.take(), self.all.last()) {
                // What was reserved and not needed; if this fails, the zeros stay and are no harm.
                let _ = file.set_len(full.bytes);
            }
            self.all.push(Segment { first, file: self.dir.join(format!("{first:020}.jsonl")), bytes: 0, newest_ms: 0 });
        }
        records.iter().for_each(|r| line(&mut text, r));
        match self.write(&text, fresh) {
            Ok(()) => {
                self.head = last.head();
                self.rotate = false;
                Ok(())
            }
            Err(error) => {
                // The next append opens the file again and cuts what this one may have left.
                self.file = None;
                if fresh && let Some(segment) = self.all.pop() {
                    let _ = std::fs::remove_file(segment.file);
                }
                Err(error)
            }
        }
    }

    fn write(&mut self, text: &[u8], fresh: bool) -> Result<(), Error> {
        let segment = self.all.last_mut().expect("append has made one");
        let fail = |act| {
            let file = segment.file.clone();
            move |e| Error::io(act, &file, e)
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut file = private().open(&segment.file).map_err(fail("open"))?;
                if file.metadata().map_err(fail("look at"))?.len() != segment.bytes {
                    file.set_len(segment.bytes).map_err(fail("cut"))?;
                }
                file.seek(SeekFrom::Start(segment.bytes)).map_err(fail("seek in"))?;
                self.reserved = segment.bytes;
                file
            }
        };
        let end = segment.bytes + text.len() as u64;
        if self.bounds.reserve > 0 && end > self.reserved {
            // On a disk that is too full for it, the records themselves may still fit.
            if reserve(&file, self.reserved, end + self.bounds.reserve).is_ok() {
                self.reserved = end + self.bounds.reserve;
            } else {
                file.set_len(self.reserved).map_err(fail("cut"))?;
            }
        }
        let written = file.write_all(text).and_then(|()| file.sync_data()).map_err(fail("write to"));
        if let Err(error) = written {
            // Frees what was half written: on a full disk this is what lets others go on.
            let _ = file.set_len(segment.bytes);
            return Err(error);
        }
        if fresh {
            sync_dir(&self.dir)?;
        }
        segment.bytes += text.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Removes whole segments up to record `seq`, oldest first, as long as more than the kept bytes of them are there.
    pub fn prune_shipped(&mut self, seq: u64) -> Result<(), Error> {
        let done = |all: &[Segment]| all.windows(2).take_while(|pair| pair[1].first <= seq + 1).count();
        loop {
            let shipped = done(&self.all);
            let bytes: u64 = self.all[..shipped].iter().map(|s| s.bytes).sum();
            if shipped == 0 || bytes <= self.bounds.kept {
                return Ok(());
            }
            self.remove_oldest()?;
        }
    }

    /// Makes the next append begin a segment.
    pub fn rotate(&mut self) {
        self.rotate = true;
    }

    /// Notes the time that the last record says; nobody but the audit role asks for it.
    pub fn set_newest_ms(&mut self, newest_ms: i64) {
        if let Some(last) = self.all.last_mut() {
            last.newest_ms = newest_ms;
        }
    }

    /// Removes the oldest segment.
    pub fn remove_oldest(&mut self) -> Result<(), Error> {
        if let Some(oldest) = self.all.first() {
            std::fs::remove_file(&oldest.file).map_err(|e| Error::io("remove", &oldest.file, e))?;
            self.all.remove(0);
            if self.all.is_empty() {
                self.file = None;
            }
            sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

fn line(text: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *text, value).expect("records and headers are JSON, and a Vec takes them");
    text.push(b'\n');
}

/// Writes zeros from one place to another, durably.
fn reserve(file: &File, from: u64, to: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
    let mut at = from;
    while at < to {
        let some = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..some as usize], at)?;
        at += some;
    }
    file.sync_data()
}

fn cut(file: &Path, length: u64) -> Result<(), Error> {
    let open = OpenOptions::new().write(true).open(file).map_err(|e| Error::io("open", file, e))?;
    open.set_len(length).and_then(|()| open.sync_all()).map_err(|e| Error::io("cut", file, e))
}

/// Makes new and removed names in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("flush", dir, e))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options
}

/// Replaces a small file with `text` so that after a crash it is the old or the new one, whole.
pub fn replace(file: &Path, text: &[u8]) -> Result<(), Error> {
    let fresh = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut out = private().open(&fresh)?;
        out.set_len(0)?;
        out.write_all(text)?;
        out.sync_all()?;
        std::fs::rename(&fresh, file)
    };
    write().map_err(|e| Error::io("write", file, e))?;
    sync_dir(file.parent().unwrap_or(Path::new(".")))
}
