//! Checks a directory of records with nothing but its files: `stamp audit verify DIR`.
//!
//! Every changed, removed, moved or added byte of what the head files cover is found. What files alone cannot show is a
//! chain that somebody rewrote from some point on together with its head file; compare the printed heads with ones noted
//! elsewhere, or start the role, which checks the seals with its key.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use api::audit::Head;
use service::spool::segments::{self, Walked};

use crate::heads::{HeadFile, StoreFile};

/// What a sound directory holds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    pub sources: Vec<SourceReport>,
    /// All sources together.
    pub records: u64,
}

/// One sound chain.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SourceReport {
    pub source: String,
    pub records: u64,
    /// The oldest record; greater than 1 once the retention has removed some. 0 when there is none.
    pub first: u64,
    pub last: u64,
    pub head: Head,
}

/// Where and how a directory is not what the role wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Broken {
    pub source_name: String,
    /// The first record that is not right; 0 if it is no record (a head file, a directory).
    pub seq: u64,
    pub file: PathBuf,
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seq {
            0 => write!(f, "{}: {}: {}", self.source_name, self.file.display(), self.why),
            seq => write!(f, "{}: record {seq} in {}: {}", self.source_name, self.file.display(), self.why),
        }
    }
}

/// Checks the store in `dir`, or in `dir/records` if that is where it is. Reads only; the role may run meanwhile.
pub fn verify(dir: &Path) -> Result<Report, Broken> {
    let inner = dir.join("records");
    let dir = if !dir.join("store.json").exists() && inner.join("store.json").exists() { &inner } else { dir };
    let store = StoreFile::read(dir).map_err(|e| broken("all sources", dir, &e))?.ok_or_else(|| Broken {
        source_name: "all sources".into(),
        seq: 0,
        file: dir.join("store.json"),
        why: "there is no such file; this is not a store of audit records, or the file was removed".into(),
    })?;
    let mut sources = Vec::new();
    for source in &store.sources {
        sources.push(source_report(&dir.join(source), source)?);
    }
    Ok(Report { records: sources.iter().map(|s| s.records).sum(), sources })
}

fn source_report(dir: &Path, source: &str) -> Result<SourceReport, Broken> {
    let mut tries = 0;
    loop {
        let ends = HeadFile::read(dir, source).map_err(|e| broken(source, dir, &e))?.ok_or_else(|| Broken {
            source_name: source.into(),
            seq: 0,
            file: dir.join("head.json"),
            why: "there is no such file; it was removed".into(),
        })?;
        match segments::walk(dir, source, Some(&ends.anchor), Some(&ends.head), |_| ()) {
            Ok(Walked { head, anchor, .. }) => {
                let records = head.seq - anchor.seq;
                let first = if records == 0 { 0 } else { anchor.seq + 1 };
                return Ok(SourceReport { source: source.into(), records, first, last: head.seq, head });
            }
            Err(error) => {
                // The running role may just have removed a segment; then its head file has changed as well.
                let moved = !matches!(HeadFile::read(dir, source), Ok(Some(now)) if now.anchor == ends.anchor);
                tries += 1;
                if !moved || tries > 5 {
                    return Err(broken(source, dir, &error));
                }
            }
        }
    }
}

fn broken(source: &str, dir: &Path, error: &segments::Error) -> Broken {
    match error {
        segments::Error::Broken { chain, seq, file, why } => {
            Broken { source_name: chain.clone(), seq: *seq, file: file.clone(), why: why.clone() }
        }
        segments::Error::Io { file, source: cause, .. } => {
            Broken { source_name: source.into(), seq: 0, file: file.clone(), why: format!("{error}: {cause}") }
        }
        other => Broken { source_name: source.into(), seq: 0, file: dir.into(), why: other.to_string() },
    }
}
