//! Where backups lie: a folder of sealed files, each there whole or not at all.
//!
//! `wal/NAME` is a file of the log, `base/NAME` a base backup and `base/NAME.info` what is known of it (written last: without
//! it there is no backup), `point/NAME` a named moment. Others may read the folder: what is in it is sealed.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use api::{
    Secret,
    backup::{Base, Point, Window},
};
use flate2::bufread::GzDecoder;
use zstd::stream::{read::Decoder, write::Encoder};

use crate::{
    Error,
    seal::{self, Head, Key, Opener, Sealer},
    wal::{self, Reach, Segment},
};

pub(crate) const PART: &str = ".part-";
const FOLDERS: [&str; 3] = ["wal", "base", "point"];
const VERSION: u32 = 1;
/// Of zstd: the fastest that still halves what is text.
const LEVEL: i32 = 1;
/// How a file begins that was stored before zstd was used (RFC 1952).
const GZIP: &[u8] = &[0x1f, 0x8b];
/// Names and points are a few hundred bytes; more is no such file.
const SMALL: u64 = 64 * 1024;

pub(crate) struct Repository {
    root: PathBuf,
    key: Key,
}

impl Repository {
    /// A repository that is only read.
    pub fn at(root: &Path, key: &Secret) -> Result<Self, Error> {
        Ok(Self { root: root.into(), key: Key::new(key)? })
    }

    /// Our own: makes its folders, and removes what a cut write left.
    pub fn open(root: &Path, key: &Secret) -> Result<Self, Error> {
        let repository = Self::at(root, key)?;
        if let Err(error) = repository.prepare() {
            // The server must not wait for its backups; each try to store something tells what is wrong.
            tracing::error!(error = error.chain(), "the folder of backups cannot be used");
        }
        Ok(repository)
    }

    fn prepare(&self) -> Result<(), Error> {
        for folder in FOLDERS {
            let folder = self.root.join(folder);
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder).map_err(Error::io("make", &folder))?;
            for name in names(&folder)?.into_iter().filter(|n| n.starts_with(PART)) {
                let path = folder.join(name);
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// The repository in another folder, under the same key.
    pub fn beside(&self, root: &Path) -> Self {
        Self { root: root.into(), key: self.key.clone() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file of the repository: compressed, sealed, flushed, and only then under its name. Returns the bytes it takes.
    pub fn put(&self, head: &Head, write: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<u64, Error> {
        let path = self.root.join(&head.place);
        let part = beside(&path);
        let io = || Error::io("write", &path);
        let written = (|| {
            let file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&part).map_err(io())?;
            let sealer = Sealer::new(BufWriter::with_capacity(1 << 18, file), &self.key, head).map_err(io())?;
            // The log compresses well even so: an idle minute's 16 MiB are mostly zeros.
            let mut compressed = Encoder::new(sealer, LEVEL).map_err(io())?;
            write(&mut compressed)?;
            let buffered = compressed.finish().and_then(Sealer::finish).map_err(io())?;
            let file = buffered.into_inner().map_err(|e| io()(e.into_error()))?;
            file.sync_all().map_err(io())?;
            fs::rename(&part, &path).map_err(io())?;
            sync_folder(&path).map_err(io())?;
            file.metadata().map(|m| m.len()).map_err(io())
        })();
        if written.is_err() {
            // What a full disk or a cut left has no name that anybody looks for.
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Opens a file of the repository for reading its plain text.
    pub fn get(&self, place: &str) -> Result<Box<dyn Read + Send>, Error> {
        let path = self.root.join(place);
        let file = fs::File::open(&path).map_err(Error::io("open", &path))?;
        let opener = Opener::new(BufReader::with_capacity(1 << 18, file), &self.key, place).map_err(broken(&path))?;
        let mut opened = BufReader::with_capacity(1 << 18, opener);
        let gzip = opened.fill_buf().map_err(broken(&path))?.starts_with(GZIP);
        Ok(if gzip {
            Box::new(GzDecoder::new(opened))
        } else {
            Box::new(Decoder::with_buffer(opened).map_err(broken(&path))?)
        })
    }

    pub fn has(&self, place: &str) -> bool {
        self.root.join(place).exists()
    }

    fn put_small<T: serde::Serialize>(&self, head: &Head, value: &T) -> Result<(), Error> {
        let text = serde_json::to_vec(value).map_err(|e| Error::Config(e.to_string()))?;
        let path = self.root.join(&head.place);
        self.put(head, |into| into.write_all(&text).map_err(Error::io("write", path))).map(drop)
    }

    fn get_small<T: serde::de::DeserializeOwned>(&self, place: &str) -> Result<T, Error> {
        let path = self.root.join(place);
        let mut text = Vec::new();
        self.get(place)?.take(SMALL).read_to_end(&mut text).map_err(broken(&path))?;
        serde_json::from_slice(&text).map_err(|e| broken(&path)(io::Error::new(io::ErrorKind::InvalidData, e)))
    }

    /// Says that a base backup is whole.
    pub fn put_base(&self, base: &Base, stored_ms: i64) -> Result<(), Error> {
        let place = format!("base/{}.info", base.name);
        self.put_small(&Head { place, stored_ms, written_ms: base.earliest_ms }, base)
    }

    /// All whole base backups, the oldest first, and what is wrong with those that do not open: they must not hinder the others.
    pub fn all_bases(&self) -> Result<(Vec<Base>, Vec<Error>), Error> {
        let (mut bases, mut broken) = (Vec::new(), Vec::new());
        for name in names(&self.root.join("base"))? {
            if !name.ends_with(".info") || name.starts_with('.') {
                continue;
            }
            match self.get_small::<Base>(&format!("base/{name}")) {
                Ok(base) if base.version > VERSION => broken.push(Error::Config(format!(
                    "backup {} is of version {}; this binary reads {VERSION}",
                    base.name, base.version
                ))),
                Ok(base) => bases.push(base),
                Err(error) => broken.push(error),
            }
        }
        // By the log, not by the clock: one that jumps must not make an older base backup pass for the newer.
        bases.sort_by_key(|base| (Segment::parse(&base.start_segment).map(|s| s.number), base.begun_ms));
        Ok((bases, broken))
    }

    /// The base backups that open.
    pub fn bases(&self) -> Result<Vec<Base>, Error> {
        Ok(self.all_bases()?.0)
    }

    pub fn put_point(&self, point: &Point, stored_ms: i64) -> Result<(), Error> {
        let place = format!("point/{}", point.name);
        self.put_small(&Head { place, stored_ms, written_ms: point.at_ms }, point)
    }

    pub fn points(&self) -> Result<Vec<Point>, Error> {
        let mut points = Vec::new();
        for name in names(&self.root.join("point"))?.into_iter().filter(|n| !n.starts_with('.')) {
            points.push(self.get_small(&format!("point/{name}"))?);
        }
        points.sort_by_key(|p: &Point| p.at_ms);
        Ok(points)
    }

    /// The archived segments, and when each was last written. Reads only heads.
    pub fn segments(&self) -> Result<BTreeMap<Segment, i64>, Error> {
        let folder = self.root.join("wal");
        let mut segments = BTreeMap::new();
        for name in names(&folder)? {
            let Some(segment) = Segment::parse(&name) else { continue };
            match self.head(&format!("wal/{name}")) {
                Ok(head) => drop(segments.insert(segment, head.written_ms)),
                // As good as missing: the hole is told by its name.
                Err(error) => tracing::warn!(error = error.chain(), "a file of the archive cannot be read"),
            }
        }
        Ok(segments)
    }

    pub fn head(&self, place: &str) -> Result<Head, Error> {
        let path = self.root.join(place);
        let file = fs::File::open(&path).map_err(Error::io("open", &path))?;
        seal::head(&mut BufReader::new(file)).map_err(broken(&path))
    }

    /// The way to the newest timeline that the archive knows.
    pub fn path(&self) -> Result<wal::Path, Error> {
        let newest = names(&self.root.join("wal"))?
            .into_iter()
            .filter_map(|name| u32::from_str_radix(name.strip_suffix(".history")?, 16).ok())
            .max();
        let Some(timeline) = newest else { return wal::Path::of(1, "") };
        let place = format!("wal/{timeline:08X}.history");
        let mut text = String::new();
        self.get(&place)?.take(SMALL).read_to_string(&mut text).map_err(broken(&self.root.join(&place)))?;
        wal::Path::of(timeline, &text)
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        let sizes = FOLDERS.iter().flat_map(|folder| fs::read_dir(self.root.join(folder)).into_iter().flatten());
        sizes.flatten().filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum()
    }

    /// Removes what no moment within `retention_ms` of `now_ms` needs, and says what: base backups older than the one that the
    /// oldest kept moment begins from, and the log before it. The newest base backup always stays.
    pub fn expire(&self, now_ms: i64, retention_ms: i64) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        let bases = self.bases()?;
        let keep = oldest_kept(&bases, now_ms, retention_ms);
        let Some(first) = bases.get(keep).and_then(|base| Segment::parse(&base.start_segment)) else {
            return Ok(removed);
        };
        for base in &bases[..keep] {
            // What says that it is whole goes first.
            self.remove(&format!("base/{}.info", base.name))?;
            self.remove(&format!("base/{}", base.name))?;
            removed.push(format!("base backup {}", base.name));
        }
        let known: Vec<&str> = bases[keep..].iter().map(|b| b.name.as_str()).collect();
        for name in names(&self.root.join("base"))? {
            // A base backup that was cut has a body and no more; the one under way has no name yet.
            let told = self.has(&format!("base/{name}.info"));
            if !name.starts_with('.') && !name.ends_with(".info") && !told && !known.contains(&name.as_str()) {
                self.remove(&format!("base/{name}"))?;
            }
        }
        let mut old = 0;
        for name in names(&self.root.join("wal"))? {
            let segment = name.get(..24).and_then(Segment::parse);
            if segment.is_some_and(|s| s.number < first.number) {
                self.remove(&format!("wal/{name}"))?;
                old += 1;
            }
        }
        if old > 0 {
            removed.push(format!("{old} files of the log before {}", first.name()));
        }
        for point in self.points()?.into_iter().filter(|p| p.at_ms < bases[keep].earliest_ms) {
            self.remove(&format!("point/{}", point.name))?;
        }
        Ok(removed)
    }

    fn remove(&self, place: &str) -> Result<(), Error> {
        let path = self.root.join(place);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
            _ => Ok(()),
        }
    }
}

/// The index of the oldest base backup that is still needed: the newest that is complete at the oldest moment to be kept. One
/// that is older than the retention stays until a newer one covers all of it.
fn oldest_kept(bases: &[Base], now_ms: i64, retention_ms: i64) -> usize {
    let oldest_moment = now_ms.saturating_sub(retention_ms);
    bases.iter().rposition(|base| base.ended_ms <= oldest_moment).unwrap_or(0)
}

/// What a base backup leads to.
pub(crate) fn reach_of(base: &Base, path: &wal::Path, segments: &BTreeMap<Segment, i64>) -> Option<Reach> {
    let first = Segment::parse(&base.start_segment)?;
    path.passes(base.timeline, wal::lsn(&base.start_lsn)?).then(|| wal::reach(path, first.number, segments))
}

/// From the oldest moment to the newest that can be gone back to without a hole between.
pub(crate) fn window(bases: &[Base], path: &wal::Path, segments: &BTreeMap<Segment, i64>) -> Option<Window> {
    let end = |base: &Base| reach_of(base, path, segments)?.last;
    let newest = bases.iter().rev().find(|base| end(base).is_some())?;
    let (last, written) = end(newest)?;
    // An older one counts while its chain goes on into the newer's.
    let from = bases.iter().find(|base| end(base).is_some_and(|(segment, _)| segment == last)).unwrap_or(newest);
    Some(Window { from_ms: from.earliest_ms, to_ms: written.max(newest.earliest_ms) })
}

/// A sealed file that does not open is told by its name.
pub(crate) fn broken(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Error::Broken { path, source }
        }
        _ => Error::Io { what: "read", path, source },
    }
}

/// The names in a folder, in order; one that is not there has none.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(e) => return Err(Error::io("list", folder)(e)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(Error::io("list", folder))?;
                names.extend(entry.file_name().into_string());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// A name beside a file for unfinished work.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{PART}{name}"))
}

pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400_000;

    fn base(name: &str, day: i64, segment: u64) -> Base {
        Base {
            version: 1,
            name: name.into(),
            begun_ms: day * DAY,
            ended_ms: day * DAY + 1000,
            earliest_ms: day * DAY + 1000,
            timeline: 1,
            start_lsn: format!("0/{:X}", segment * wal::SEGMENT_BYTES + 0x28),
            stop_lsn: String::new(),
            start_segment: Segment { timeline: 1, number: segment }.name(),
            bytes: 0,
            stored_bytes: 0,
            files: 0,
            server: String::new(),
            scheduled: true,
            copied: false,
        }
    }

    fn head(place: &str) -> Head {
        Head { place: place.into(), stored_ms: 0, written_ms: 0 }
    }

    fn with(bases: &[Base], segments: std::ops::Range<u64>) -> (tempfile::TempDir, Repository) {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::open(dir.path(), &Secret::random()).unwrap();
        for base in bases {
            repository.put(&head(&format!("base/{}", base.name)), |_| Ok(())).unwrap();
            repository.put_base(base, 0).unwrap();
        }
        for number in segments {
            let name = Segment { timeline: 1, number }.name();
            repository.put(&head(&format!("wal/{name}")), |_| Ok(())).unwrap();
        }
        (dir, repository)
    }

    #[test]
    fn a_backup_goes_once_a_newer_one_covers_the_retention_and_its_log_with_it() {
        let (_dir, repository) = with(&[base("a", 0, 2), base("b", 1, 4), base("c", 8, 9)], 2..12);
        // Six days on, the first is still what the oldest moments begin from.
        assert!(repository.expire(6 * DAY, 7 * DAY).unwrap().is_empty());
        let removed = repository.expire(8 * DAY + 2000, 7 * DAY).unwrap();
        assert_eq!(removed, ["base backup a", "2 files of the log before 000000010000000000000004"]);
        assert_eq!(repository.bases().unwrap().len(), 2);
        assert!(!repository.has("base/a") && !repository.has("wal/000000010000000000000003"));
        // However old, the newest stays.
        repository.expire(900 * DAY, 7 * DAY).unwrap();
        assert_eq!(repository.bases().unwrap().iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_clock_that_went_back_takes_no_log_from_a_base_backup_that_stays() {
        // The second was taken later, by a clock that showed an earlier day.
        let (_dir, repository) = with(&[base("ahead", 9, 2), base("back", 1, 6)], 2..9);
        assert_eq!(repository.bases().unwrap()[0].name, "ahead");
        repository.expire(DAY + 5000, 7 * DAY).unwrap();
        assert!(repository.has("wal/000000010000000000000002") && repository.has("base/ahead"));
    }

    #[test]
    fn a_cut_write_leaves_no_file_under_a_name_that_counts() {
        let (dir, repository) = with(&[], 0..0);
        let failed = repository.put(&head("wal/000000010000000000000001"), |into| {
            into.write_all(&[1; 100_000]).unwrap();
            Err(Error::NoUser)
        });
        assert!(failed.is_err() && repository.segments().unwrap().is_empty());
        fs::write(dir.path().join("wal/.part-000000010000000000000001"), "cut").unwrap();
        assert!(repository.segments().unwrap().is_empty());
        Repository::open(dir.path(), &Secret::random()).unwrap();
        assert!(names(&dir.path().join("wal")).unwrap().is_empty(), "what was cut is cleared away");
    }

    #[test]
    fn a_changed_file_is_named() {
        let (dir, repository) = with(&[base("a", 0, 2)], 2..3);
        let path = dir.path().join("base/a.info");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (bases, broken) = repository.all_bases().unwrap();
        assert!(bases.is_empty(), "{bases:?}");
        assert!(matches!(&broken[0], Error::Broken { path, .. } if path.ends_with("base/a.info")), "{broken:?}");
    }

    #[test]
    fn the_window_begins_after_a_hole() {
        let bases = [base("a", 0, 2), base("b", 1, 5)];
        let path = wal::Path::of(1, "").unwrap();
        let at = |numbers: &[u64]| -> BTreeMap<Segment, i64> {
            numbers.iter().map(|n| (Segment { timeline: 1, number: *n }, DAY + 2000 + *n as i64)).collect()
        };
        let whole = window(&bases, &path, &at(&[2, 3, 4, 5, 6])).unwrap();
        assert_eq!((whole.from_ms, whole.to_ms), (1000, DAY + 2006));
        let holed = window(&bases, &path, &at(&[2, 4, 5, 6])).unwrap();
        assert_eq!((holed.from_ms, holed.to_ms), (DAY + 1000, DAY + 2006));
        assert_eq!(window(&bases, &path, &at(&[])), None);
    }

    proptest! {
        #[test]
        fn every_moment_within_the_retention_keeps_a_base_to_begin_from(
            days in proptest::collection::btree_set(0i64..100, 1..20),
            now in 0i64..120,
            retention in 1i64..40,
        ) {
            let bases: Vec<Base> = days.iter().map(|d| base(&d.to_string(), *d, *d as u64)).collect();
            let keep = oldest_kept(&bases, now * DAY, retention * DAY);
            let kept = &bases[keep..];
            prop_assert!(!kept.is_empty());
            for moment in (now - retention).max(0)..=now {
                let before = |b: &&Base| b.ended_ms <= moment * DAY;
                prop_assert_eq!(bases.iter().any(|b| before(&b)), kept.iter().any(|b| before(&b)));
            }
            // And no more than that: the second kept one alone would not do, or the first is young.
            if kept.len() > 1 {
                prop_assert!(kept[1].ended_ms > (now - retention) * DAY);
            }
        }
    }
}
