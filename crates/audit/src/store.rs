//! The records of all sources: a directory each, with segments and a head file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::{
    Secret,
    audit::{Event, Head, Outcome, Record, SourceHead, SourceRecord},
};
use service::{
    Clock,
    spool::segments::{Bounds, Reader, Segments, time_of},
};

use crate::{
    Error,
    heads::{HeadFile, StoreFile},
};

const DAY_MS: i64 = 86_400_000;
/// Small, because a question reads a segment at a time and the retention removes whole ones.
const SEGMENT_BYTES: u64 = 1024 * 1024;

/// All chains. Clones share them.
#[derive(Clone)]
pub struct Store {
    chains: Arc<BTreeMap<String, Mutex<Chain>>>,
    /// The role itself, whose chain says what the retention removed.
    own: String,
    retention_days: u32,
    clock: Clock,
}

struct Chain {
    source: String,
    dir: PathBuf,
    root: Secret,
    segments: Segments,
    /// What the head file says; records past it are not acknowledged yet.
    saved: HeadFile,
    received_ms: i64,
}

/// What became of a batch.
pub enum Taken {
    /// All up to here is durable.
    Up(u64),
    /// It does not follow what is held.
    Conflict { have: Head, why: String },
}

/// What is asked of the records.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Question {
    pub source: Option<String>,
    /// Unix milliseconds; older ones are left out.
    #[serde(default)]
    pub since: i64,
    pub limit: Option<usize>,
    pub actor: Option<String>,
    /// The object itself, or what it begins with.
    pub object: Option<String>,
}

impl Store {
    /// Opens or makes the chains of `sources` and of the role itself (`own`) in `dir`. Checks all of them.
    pub fn open(
        dir: &Path,
        own: &str,
        sources: &[String],
        root: &Secret,
        retention_days: u32,
        clock: Clock,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|e| service::spool::Error::io("make", dir, e))?;
        let mut names = StoreFile::read(dir)?.map(|file| file.sources).unwrap_or_default();
        let known = names.clone();
        names.extend(sources.iter().cloned().chain([own.to_owned()]));
        names.sort();
        names.dedup();
        let mut chains = BTreeMap::new();
        for source in &names {
            let chain = Chain::open(&dir.join(source), source, root, known.contains(source))?;
            chains.insert(source.clone(), Mutex::new(chain));
        }
        if names != known {
            StoreFile::new(names).write(dir)?;
        }
        Ok(Self { chains: Arc::new(chains), own: own.into(), retention_days, clock })
    }

    fn chain(&self, source: &str) -> Option<MutexGuard<'_, Chain>> {
        // A panic while it was held leaves files that the next step checks again.
        self.chains.get(source).map(|c| c.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a batch; durable when it returns. None: no such source. Blocks on the disk.
    pub fn take(&self, source: &str, records: &[Record]) -> Option<Result<Taken, Error>> {
        let now = self.clock.now_ms();
        self.chain(source).map(|mut chain| chain.take(records, now))
    }

    /// The ends of all chains.
    pub fn heads(&self) -> Vec<SourceHead> {
        let names = self.chains.keys();
        names.filter_map(|name| self.chain(name)).map(|c| c.source_head()).collect()
    }

    /// The newest records first. Blocks on the disk.
    pub fn records(&self, question: &Question) -> Result<Vec<SourceRecord>, Error> {
        let limit = question.limit.unwrap_or(100).min(10_000);
        let since = question.since.max(self.oldest_ms());
        let mut found = Vec::new();
        for name in self.chains.keys().filter(|n| question.source.as_ref().is_none_or(|s| s == *n)) {
            let Some(chain) = self.chain(name) else { continue };
            let (segments, until) = (chain.segments.all().to_vec(), chain.saved.head.seq);
            let mut reader = Reader::new(&chain.dir);
            drop(chain);
            let mut mine = Vec::new();
            for (index, segment) in segments.iter().enumerate().rev() {
                if mine.len() >= limit || segment.newest_ms < since {
                    break;
                }
                let last = segments.get(index + 1).map_or(until, |next| next.first - 1).min(until);
                let read = match reader.read(segment.first - 1, last, usize::MAX, usize::MAX) {
                    Ok(read) => read,
                    // The retention was faster; what it removed is not asked for any more.
                    Err(_) if !segment.file.exists() => break,
                    Err(error) => return Err(error.into()),
                };
                mine.extend(read.into_iter().rev().filter_map(|record| {
                    let event: Event = serde_json::from_str(&record.event).ok()?;
                    let wanted = event.time_ms >= since
                        && question.actor.as_ref().is_none_or(|a| *a == event.actor)
                        && question.object.as_ref().is_none_or(|o| event.object.starts_with(o.as_str()));
                    wanted.then(|| SourceRecord { source: name.clone(), seq: record.seq, hash: record.hash, event })
                }));
            }
            mine.truncate(limit);
            found.append(&mut mine);
        }
        found.sort_by_key(|r| std::cmp::Reverse((r.event.time_ms, r.seq)));
        found.truncate(limit);
        Ok(found)
    }

    /// Records older than this are not shown, and removed with their segment.
    fn oldest_ms(&self) -> i64 {
        self.clock.now_ms() - i64::from(self.retention_days) * DAY_MS
    }

    /// Removes the segments whose time is over, and records that it did. Blocks on the disk.
    pub fn prune(&self) -> Result<(), Error> {
        let oldest = self.oldest_ms();
        for name in self.chains.keys() {
            let pruned = self.chain(name).map(|mut c| c.prune(oldest)).transpose()?.flatten();
            if let Some(anchor) = pruned {
                tracing::info!(source = %name, through = anchor.seq, "removed audit records whose time is over");
                let mut detail = serde_json::Map::new();
                detail.insert("through_seq".into(), anchor.seq.into());
                detail.insert("through_hash".into(), anchor.hash.into());
                self.note(&Event {
                    time_ms: self.clock.now_ms(),
                    actor: self.own.clone(),
                    action: "records.prune".into(),
                    object: format!("{}/{name}", self.own),
                    outcome: Outcome::Ok,
                    detail,
                })?;
            }
        }
        Ok(())
    }

    /// Appends to the role's own chain.
    fn note(&self, event: &Event) -> Result<(), Error> {
        let Some(mut chain) = self.chain(&self.own) else { return Ok(()) };
        let text = serde_json::to_string(event).expect("an event is JSON");
        let record = Record::after(chain.segments.head(), text);
        chain.take(&[record], event.time_ms).map(|_| ())
    }
}

impl Chain {
    fn open(dir: &Path, source: &str, root: &Secret, known: bool) -> Result<Self, Error> {
        let bounds = Bounds { segment: SEGMENT_BYTES, kept: u64::MAX, reserve: 0 };
        let ends = match HeadFile::read(dir, source) {
            Ok(Some(ends)) => ends,
            // First seen now, or a crash came before its head file was there: then nothing was acknowledged.
            Ok(None) if !known => HeadFile::new(source, Head::default(), Head::default(), root),
            Ok(None) => {
                let why = "there is no such file; it was removed".into();
                return Err(service::spool::Error::Broken {
                    chain: source.into(),
                    seq: 0,
                    file: dir.join("head.json"),
                    why,
                }
                .into());
            }
            Err(error) => return Err(error.into()),
        };
        if !ends.is_sealed_by(root) {
            return Err(Error::Seal { source_name: source.into() });
        }
        let segments = Segments::open_between(dir, source, bounds, Some(&ends.anchor), Some(&ends.head))?;
        for left in service::spool::segments::list(dir)?.iter().filter(|s| s.first <= ends.anchor.seq) {
            std::fs::remove_file(&left.file).map_err(|e| service::spool::Error::io("remove", &left.file, e))?;
        }
        let mut chain =
            Self { source: source.into(), dir: dir.into(), root: root.clone(), segments, saved: ends, received_ms: 0 };
        chain.save(chain.saved.anchor.clone())?;
        Ok(chain)
    }

    /// Makes the head file say what the segments hold.
    fn save(&mut self, anchor: Head) -> Result<(), Error> {
        let file = HeadFile::new(&self.source, anchor, self.segments.head().clone(), &self.root);
        file.write(&self.dir)?;
        self.saved = file;
        Ok(())
    }

    fn take(&mut self, records: &[Record], now_ms: i64) -> Result<Taken, Error> {
        let have = self.segments.head().clone();
        let conflict = |why: String| Ok(Taken::Conflict { have: have.clone(), why });
        let known = records.iter().take_while(|r| r.seq <= have.seq).count();
        let (old, fresh) = records.split_at(known);
        // Records that were shipped before: the chain up to the last of them is ours if that one is.
        if let Some(last) = old.last() {
            let same = if last.seq == have.seq { last.hash == have.hash } else { self.holds(last)? };
            if !same {
                return conflict(format!("record {} is not the one that is held", last.seq));
            }
        }
        let mut head = have.clone();
        for record in fresh {
            if let Some(why) = record.fault_after(&head) {
                return conflict(why);
            }
            if serde_json::from_str::<Event>(&record.event).is_err() {
                return conflict(format!("record {} holds no event", record.seq));
            }
            head = record.head();
        }
        if let (Some(first), Some(last)) = (fresh.first(), fresh.last()) {
            let newest_ms = self.segments.all().last().map_or(0, |s| s.newest_ms);
            if newest_ms.div_euclid(DAY_MS) != time_of(&first.event).div_euclid(DAY_MS) {
                self.segments.rotate();
            }
            self.segments.append(fresh)?;
            self.segments.set_newest_ms(time_of(&last.event));
        }
        if self.saved.head != *self.segments.head() {
            self.save(self.saved.anchor.clone())?;
        }
        self.received_ms = now_ms;
        Ok(Taken::Up(self.segments.head().seq))
    }

    /// Whether exactly this record is held. One that the retention removed counts as held: its hash is gone with it.
    fn holds(&self, record: &Record) -> Result<bool, Error> {
        if record.seq <= self.saved.anchor.seq {
            return Ok(true);
        }
        let read = Reader::new(&self.dir).read(record.seq - 1, record.seq, 1, usize::MAX)?;
        Ok(read.first().is_some_and(|held| held == record))
    }

    /// Removes segments that end before `oldest_ms`; where the chain begins now, if any was removed.
    fn prune(&mut self, oldest_ms: i64) -> Result<Option<Head>, Error> {
        let over = self.segments.all().iter().take_while(|s| s.newest_ms < oldest_ms).count();
        if over == 0 {
            return Ok(None);
        }
        let anchor = match self.segments.all().get(over) {
            Some(next) => {
                let first = Reader::new(&self.dir).read(next.first - 1, next.first, 1, usize::MAX)?;
                let Some(first) = first.into_iter().next().filter(|r| r.seq == next.first) else { return Ok(None) };
                Head { seq: first.seq - 1, hash: first.previous }
            }
            None => self.segments.head().clone(),
        };
        // The head file first: what lies before its anchor is removed again at the next start, if this is cut here.
        self.save(anchor.clone())?;
        for _ in 0..over {
            self.segments.remove_oldest()?;
        }
        Ok(Some(anchor))
    }

    fn source_head(&self) -> SourceHead {
        let (anchor, head) = (self.saved.anchor.seq, self.saved.head.clone());
        let first = if head.seq == anchor { 0 } else { anchor + 1 };
        SourceHead { source: self.source.clone(), first, head, received_ms: self.received_ms }
    }
}
