//! The workload's log on disk: `current.log` and its rotated parts, one line `UNIX-MS o|e TEXT` each.
//!
//! A full disk loses log lines (counted), never the workload.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::Write as _,
    path::PathBuf,
};

/// Longer lines are cut here.
pub const LINE_BYTES: usize = 32 * 1024;
const TAIL_LINES: usize = 20;

/// Which stream a line came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// The log file, rotated by size.
pub struct Log {
    folder: PathBuf,
    file: Option<File>,
    written: u64,
    limit: u64,
    keep: u32,
    tail: VecDeque<String>,
    lost: u64,
}

impl Log {
    /// Opens or continues the log in `folder`; `keep` files of `limit` bytes.
    pub fn open(folder: PathBuf, limit: u64, keep: u32) -> Self {
        let mut log = Self { folder, file: None, written: 0, limit, keep: keep.max(1), tail: VecDeque::new(), lost: 0 };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        self.file = OpenOptions::new().create(true).append(true).open(self.folder.join("current.log")).ok();
        self.written = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
    }

    /// Adds a line.
    pub fn line(&mut self, at_ms: i64, stream: Stream, text: &str) {
        let text: String =
            if text.len() > LINE_BYTES { text.chars().take(LINE_BYTES / 4).collect() } else { text.into() };
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(text.clone());
        if self.written >= self.limit {
            self.rotate();
        }
        let mark = if stream == Stream::Out { 'o' } else { 'e' };
        let mut line = format!("{at_ms} {mark} {text}\n");
        if self.lost > 0 {
            line.insert_str(0, &format!("{at_ms} e (stamp: {} lines lost, the disk was full)\n", self.lost));
        }
        if self.file.is_none() {
            self.reopen();
        }
        match self.file.as_mut().map(|f| f.write_all(line.as_bytes())) {
            Some(Ok(())) => {
                self.written += line.len() as u64;
                self.lost = 0;
            }
            _ => {
                self.lost += 1;
                self.file = None;
            }
        }
    }

    fn rotate(&mut self) {
        self.file = None;
        let name = |n: u32| if n == 0 { "current.log".to_owned() } else { format!("current.log.{n}") };
        // The oldest is overwritten by the one before it.
        for n in (0..self.keep - 1).rev() {
            let _ = std::fs::rename(self.folder.join(name(n)), self.folder.join(name(n + 1)));
        }
        if self.keep == 1 {
            let _ = std::fs::remove_file(self.folder.join(name(0)));
        }
        self.reopen();
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_rotates_and_keeps_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path().into(), 1000, 3);
        for n in 0..200 {
            log.line(n, Stream::Out, &format!("line number {n:04}"));
        }
        let mut files: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ["current.log", "current.log.1", "current.log.2"]);
        let newest = std::fs::read_to_string(dir.path().join("current.log")).unwrap();
        assert!(newest.ends_with("199 o line number 0199\n"), "{newest}");
        assert_eq!(log.tail().len(), TAIL_LINES);
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        // A folder that is not there stands for a disk that takes nothing.
        let folder = dir.path().join("later");
        let mut log = Log::open(folder.clone(), 1000, 2);
        log.line(1, Stream::Err, "lost");
        log.line(2, Stream::Err, "lost too");
        std::fs::create_dir(&folder).unwrap();
        log.line(3, Stream::Err, "kept");
        let text = std::fs::read_to_string(folder.join("current.log")).unwrap();
        assert_eq!(text, "3 e (stamp: 2 lines lost, the disk was full)\n3 e kept\n");
    }
}
