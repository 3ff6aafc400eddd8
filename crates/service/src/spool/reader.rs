//! Records by their place, for shipping and for questions.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use api::audit::Record;

use super::{chain::list, segments::Error};

/// Reads records by place, remembering where it was.
pub struct Reader {
    dir: PathBuf,
    /// The file, the place of the record that starts at the offset, the offset.
    at: Option<(PathBuf, u64, u64)>,
}

impl Reader {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), at: None }
    }

    /// The records after `after` and up to `until`, at most `records` and about `bytes`. If those right after `after` are
    /// gone, what comes is the oldest there is.
    pub fn read(&mut self, after: u64, until: u64, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        let (mut found, mut size, mut next) = (Vec::new(), 0, after + 1);
        let mut exhausted: Option<PathBuf> = None;
        while next <= until && found.len() < records && size < bytes {
            let (path, mut seq, mut offset) = match self.at.take().filter(|(_, seq, _)| *seq == next) {
                Some(at) => at,
                None => {
                    let all = list(&self.dir)?;
                    let Some(segment) = all.iter().rev().find(|s| s.first <= next).or(all.first()) else { break };
                    next = next.max(segment.first);
                    (segment.file.clone(), segment.first, 0)
                }
            };
            let mut file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
            file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io("seek in", &path, e))?;
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while seq <= until && found.len() < records && size < bytes {
                line.clear();
                let read = reader.read_until(b'\n', &mut line).map_err(|e| Error::io("read", &path, e))?;
                if line.pop_if(|last| *last == b'\n').is_none() {
                    break;
                }
                if offset > 0 {
                    if seq >= next {
                        let record: Record =
                            serde_json::from_slice(&line).map_err(|e| Error::io("read", &path, e.into()))?;
                        size += line.len();
                        next = record.seq + 1;
                        found.push(record);
                    }
                    seq += 1;
                }
                offset += read as u64;
            }
            let ended = seq <= until && found.len() < records && size < bytes;
            if ended {
                if exhausted.as_ref() == Some(&path) {
                    // Neither this segment nor a later one has the record.
                    break;
                }
                exhausted = Some(path);
            } else {
                self.at = Some((path, seq, offset));
            }
        }
        Ok(found)
    }
}
