//! Reading a chain: every line is checked against what we would have written, every link against the one before.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use api::audit::{FORMAT, Head, Record};
use serde::{Deserialize, Serialize};

use super::segments::Error;

/// A segment's first line.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    pub source: String,
    /// The place of the segment's first record.
    pub first: u64,
    /// The hash of the record before that one.
    pub previous: String,
}

/// A segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub first: u64,
    pub file: PathBuf,
    pub bytes: u64,
    /// The time that its last record says, Unix milliseconds; 0 before it is scanned.
    pub newest_ms: i64,
}

/// What [`Segment::scan`] found.
pub struct Scanned {
    pub head: Head,
    /// Where the last whole line ends.
    pub good: u64,
    /// Whether something else than reserved zeros follows it.
    pub torn: bool,
    /// The chain's end before the segment's first record.
    pub anchor: Head,
    pub newest_ms: i64,
}

/// What [`walk`] found.
pub struct Walked {
    pub head: Head,
    /// The chain's end before the oldest record.
    pub anchor: Head,
    pub segments: Vec<Segment>,
    /// How many bytes follow the last whole line of the last segment, if they are an unfinished one.
    pub torn: Option<u64>,
}

#[derive(Deserialize)]
struct When {
    time_ms: i64,
}

/// The time that an event's text says, Unix milliseconds; 0 if it says none.
pub fn time_of(event: &str) -> i64 {
    serde_json::from_str::<When>(event).map_or(0, |when| when.time_ms)
}

/// Reads a whole chain and checks every link, changing nothing.
///
/// `anchor` is the chain's end before the oldest record (None: the first header's word is taken); segments that lie
/// wholly before it are left over from a removal and skipped. `least` must be a point of the chain.
pub fn walk(
    dir: &Path,
    source: &str,
    anchor: Option<&Head>,
    least: Option<&Head>,
    mut each: impl FnMut(Record),
) -> Result<Walked, Error> {
    let mut segments = list(dir)?;
    if let Some(anchor) = anchor {
        segments.retain(|s| s.first > anchor.seq);
    }
    let mut at = anchor.cloned();
    let mut begin = None;
    let mut torn = None;
    let count = segments.len();
    for (index, segment) in segments.iter_mut().enumerate() {
        let mut missed = None;
        let scanned = segment.scan(source, at.as_ref(), |record| {
            if let Some(least) = least.filter(|l| l.seq == record.seq && l.hash != record.hash) {
                missed = Some(least.seq);
            }
            each(record);
        })?;
        let broken =
            |seq, why: &str| Error::Broken { chain: source.into(), seq, file: segment.file.clone(), why: why.into() };
        if let Some(seq) = missed {
            return Err(broken(seq, "its hash is not the one that the head file holds"));
        }
        if scanned.torn {
            if index + 1 < count {
                return Err(broken(scanned.head.seq + 1, "its line is unfinished, but a segment follows"));
            }
            torn = Some(segment.bytes - scanned.good);
        }
        segment.bytes = scanned.good;
        segment.newest_ms = scanned.newest_ms;
        begin.get_or_insert(scanned.anchor);
        at = Some(scanned.head);
    }
    let head = at.unwrap_or_default();
    if let Some(least) = least.filter(|l| l.seq > head.seq) {
        let file = segments.last().map_or_else(|| dir.to_owned(), |s| s.file.clone());
        let why = format!("it is missing; the head file says that the chain reaches {}", least.seq);
        return Err(Error::Broken { chain: source.into(), seq: head.seq + 1, file, why });
    }
    let anchor = anchor.cloned().or(begin).unwrap_or_default();
    Ok(Walked { head, anchor, segments, torn })
}

/// The segments in `dir`, oldest first.
pub fn list(dir: &Path) -> Result<Vec<Segment>, Error> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        let file = entry.path();
        if file.extension().is_some_and(|e| e == "jsonl")
            && let Some(first) = file.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok())
        {
            let bytes = entry.metadata().map_err(|e| Error::io("look at", &file, e))?.len();
            found.push(Segment { first, file, bytes, newest_ms: 0 });
        }
    }
    found.sort_by_key(|s| s.first);
    Ok(found)
}

impl Segment {
    /// Reads the segment through. `before` is the chain's end so far; None takes the header's word for it.
    ///
    /// An unfinished last line is not an error: [`Scanned::good`] lies before it. A line that holds a zero byte is one:
    /// we write none, so it is where a power cut met a flush under way.
    pub fn scan(&self, source: &str, before: Option<&Head>, mut each: impl FnMut(Record)) -> Result<Scanned, Error> {
        let file = File::open(&self.file).map_err(|e| Error::io("open", &self.file, e))?;
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        let broken = |seq: u64, why: String| Error::Broken { chain: source.into(), seq, file: self.file.clone(), why };
        let (mut line, mut good) = (Vec::new(), 0);
        let mut head: Option<Head> = None;
        let mut anchor = before.cloned().unwrap_or_default();
        let mut last = String::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(|e| Error::io("read", &self.file, e))?;
            if line.last() != Some(&b'\n') || line.contains(&0) {
                break;
            }
            line.pop();
            match &mut head {
                None => {
                    let header: Header = exact(&line).map_err(|why| broken(self.first, format!("its header {why}")))?;
                    if header.format > FORMAT {
                        return Err(Error::Newer { file: self.file.clone(), found: header.format });
                    }
                    if header.source != source {
                        return Err(broken(self.first, format!("its header says it is of {}", header.source)));
                    }
                    let named = Head { seq: header.first.saturating_sub(1), hash: header.previous };
                    if header.first != self.first || header.format != FORMAT || before.is_some_and(|b| *b != named) {
                        return Err(broken(self.first, "its header does not follow the segment before".into()));
                    }
                    if named.seq == 0 && named != Head::default() {
                        return Err(broken(self.first, "its header is not that of a chain's beginning".into()));
                    }
                    anchor = named.clone();
                    head = Some(named);
                }
                Some(head) => {
                    let record: Record = exact(&line).map_err(|why| broken(head.seq + 1, format!("the line {why}")))?;
                    if let Some(why) = record.fault_after(head) {
                        return Err(broken(head.seq + 1, why));
                    }
                    *head = record.head();
                    last.clone_from(&record.event);
                    each(record);
                }
            }
            good += read as u64;
        }
        let torn = line.iter().any(|b| *b != 0);
        Ok(Scanned { head: head.unwrap_or_else(|| anchor.clone()), good, torn, anchor, newest_ms: time_of(&last) })
    }
}

/// Reads a line that must be exactly what we write for its value.
pub fn exact<T: serde::de::DeserializeOwned + Serialize>(line: &[u8]) -> Result<T, String> {
    let value: T = serde_json::from_slice(line).map_err(|e| format!("is not what was written ({e})"))?;
    let again = serde_json::to_vec(&value).map_err(|e| e.to_string())?;
    if again == line { Ok(value) } else { Err("is not what was written".into()) }
}
