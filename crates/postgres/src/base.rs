//! Base backups: taken by `pg_basebackup`, compressed and sealed as they come, then read back whole and compared with the
//! server's own manifest before they count.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::digest::{Context as Digest, SHA256};

use crate::{
    Error,
    ahead::{self, Ahead},
    repository::{Repository, broken},
    seal::Head,
    tar::{Archive, Entry},
    tools,
    wal::Segment,
};

const MANIFEST: &str = "backup_manifest";
const LABEL: &str = "backup_label";
/// A manifest has about 150 bytes a file.
const MANIFEST_BYTES: u64 = 1 << 30;

/// What a base backup turned out to hold.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub bytes: u64,
    pub files: u64,
    pub timeline: u32,
    pub start_lsn: String,
    pub stop_lsn: String,
    pub start_segment: String,
}

/// Takes a base backup into `base/NAME` and reads it back. Blocks; `bytes` counts what the server has sent. The log that it
/// needs is archived when this returns.
pub(crate) fn take(
    repository: &Repository,
    asked: &tools::BaseBackup<'_>,
    head: &Head,
    bytes: &AtomicU64,
) -> Result<(u64, Contents), Error> {
    let mut running = tools::base_backup(asked)?;
    let stored = repository.put(head, |into| {
        let mut buffer = vec![0u8; 1 << 18];
        loop {
            let read = running.read(&mut buffer).map_err(Error::io("read the base backup from", asked.bin))?;
            if read == 0 {
                break;
            }
            into.write_all(&buffer[..read]).map_err(Error::io("write", repository.root().join(&head.place)))?;
            bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        // Only what pg_basebackup calls whole gets a name.
        running.ended()
    })?;
    Ok((stored, read_back(repository, &head.place, |_, _| Ok(None))?))
}

/// Unpacks a base backup into `to`, which must not be there, and compares every file with the manifest.
pub(crate) fn unpack(repository: &Repository, place: &str, to: &Path, bytes: &AtomicU64) -> Result<Contents, Error> {
    make(to)?;
    read_back(repository, place, |entry, read| {
        bytes.fetch_add(read, Ordering::Relaxed);
        match entry {
            None => Ok(None),
            Some(Entry::Folder(path)) => make(&to.join(path)).map(|()| None),
            Some(Entry::File(path, _)) => {
                let path = to.join(path);
                let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                Ok(Some(file.map_err(Error::io("make", path))?))
            }
        }
    })
}

fn make(folder: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("make", folder)(e)),
        _ => Ok(()),
    }
}

/// Reads a base backup to its end; `file` is told of every entry and gives where its content goes, and is told of bytes as
/// they pass. Every file that the manifest names must be there with its checksum.
fn read_back(
    repository: &Repository,
    place: &str,
    mut file: impl FnMut(Option<&Entry>, u64) -> Result<Option<fs::File>, Error>,
) -> Result<Contents, Error> {
    let path = repository.root().join(place);
    let wrong = || broken(&path);
    let ahead = Ahead::new(repository.get(place)?, ahead::PAUSES).map_err(Error::io("start to read", &path))?;
    let mut tar = Archive::new(ahead);
    let mut contents = Contents::default();
    let mut digests: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let (mut label, mut manifest) = (String::new(), Vec::new());
    let mut buffer = vec![0u8; 1 << 17];
    while let Some(entry) = tar.next().map_err(wrong())? {
        let mut into = file(Some(&entry), 0)?;
        let Entry::File(name, length) = entry else { continue };
        let mut digest = Digest::new(&SHA256);
        loop {
            let read = tar.read(&mut buffer).map_err(wrong())?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            if name == Path::new(LABEL) {
                label.push_str(&String::from_utf8_lossy(&buffer[..read]));
            } else if name == Path::new(MANIFEST) && (manifest.len() as u64) < MANIFEST_BYTES {
                manifest.extend_from_slice(&buffer[..read]);
            }
            if let Some(into) = &mut into {
                into.write_all(&buffer[..read]).map_err(Error::io("unpack", &name))?;
            }
            file(None, read as u64)?;
        }
        contents.bytes += length;
        contents.files += 1;
        digests.insert(name.to_string_lossy().into_owned(), (length, hex(digest.finish().as_ref())));
    }
    compare(&manifest, &digests, &path, &mut contents)?;
    let field = |key: &str| label.lines().find_map(|l| l.strip_prefix(key)).map(str::trim).unwrap_or_default();
    let start = field("START WAL LOCATION:");
    let named = start.split_once("(file ").and_then(|(_, name)| name.strip_suffix(')'));
    let segment = named.and_then(Segment::parse).ok_or_else(|| corrupt(&path, "its label names no file of the log"))?;
    contents.start_segment = segment.name();
    contents.timeline = segment.timeline;
    Ok(contents)
}

fn corrupt(path: &Path, why: &str) -> Error {
    broken(path)(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()))
}

/// Compares what was read with the manifest, which the server made as it sent the files.
fn compare(
    manifest: &[u8],
    found: &BTreeMap<String, (u64, String)>,
    path: &Path,
    contents: &mut Contents,
) -> Result<(), Error> {
    let manifest: serde_json::Value =
        serde_json::from_slice(manifest).map_err(|_| corrupt(path, "it has no readable manifest"))?;
    for file in manifest["Files"].as_array().into_iter().flatten() {
        let name = file["Path"].as_str().ok_or_else(|| corrupt(path, "its manifest names a file that is no text"))?;
        let (length, digest) = found.get(name).ok_or_else(|| corrupt(path, &format!("{name} is missing in it")))?;
        if file["Size"].as_u64() != Some(*length) || file["Checksum"].as_str() != Some(digest) {
            return Err(corrupt(path, &format!("{name} is not what the server sent")));
        }
    }
    let range = &manifest["WAL-Ranges"][0];
    let place = |key: &str| range[key].as_str().map(str::to_owned);
    let (Some(start), Some(stop)) = (place("Start-LSN"), place("End-LSN")) else {
        return Err(corrupt(path, "its manifest does not say which log it needs"));
    };
    (contents.start_lsn, contents.stop_lsn) = (start, stop);
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where a restored server keeps what it was restored from, beside its data.
pub(crate) fn note(pgdata: &Path) -> PathBuf {
    pgdata.with_file_name("restore.json")
}
