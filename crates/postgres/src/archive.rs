//! The continuous archive of the log: PostgreSQL hands over each file by a verb of our program, which only asks the keeper; the
//! keeper, which has the key, seals it. With the keeper dead, PostgreSQL keeps the file and asks again.

use std::{
    fs,
    io::Read,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::{WireError, backup::BackupConfig, client::Client};

use crate::{
    Error,
    ahead::Ahead,
    repository::Repository,
    seal::Head,
    wal::{self, Segment},
};

/// Time for one file of 16 MiB; on a slow disk PostgreSQL asks again.
const PATIENCE: Duration = Duration::from_secs(120);
/// PostgreSQL takes any failure to fetch a file for the end of the archive and opens the database there; only an exit status
/// above 125 makes it stop. A file that is broken must not end a restore early and unseen.
const BROKEN: u8 = 200;

/// `stamp serve archive`: asks the keeper on `socket` to archive a file of its server's log. The process's exit status.
pub async fn archive(socket: &Path, name: &str) -> Result<(), WireError> {
    Client::unix(socket).timeout(PATIENCE).post(&format!("/archive/{name}"), &serde_json::json!({})).await
}

/// `stamp serve fetch`: asks the keeper on `socket` to put a file of the archive at `to`, relative to the data directory. Gives
/// the exit status that PostgreSQL understands, with what to say.
pub async fn fetch(socket: &Path, name: &str, to: &str) -> (u8, Option<String>) {
    let asked = Client::unix(socket).timeout(PATIENCE);
    match asked.post::<_, serde_json::Value>(&format!("/fetch/{name}"), &serde_json::json!({ "to": to })).await {
        Ok(_) => (0, None),
        Err(WireError::Refused { status: 404, .. }) => (1, None),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
            (BROKEN, Some(format!("{error}{cause}")))
        }
    }
}

/// The settings under which a server archives, or is restored.
pub(crate) fn settings(backup: Option<&BackupConfig>, tools: bool) -> Vec<(&'static str, String)> {
    let Some(backup) = backup else { return vec![("archive_mode", "off".into())] };
    let verb = |verb: &str, rest: &str| {
        let (program, control) = (quoted(&backup.program), quoted(&backup.control));
        format!("{program} serve {verb} --socket {control} {rest}")
    };
    let aside = backup.restore.as_ref().is_some_and(|order| order.aside);
    let command = match (aside, tools) {
        // PostgreSQL keeps its log until there is a command: once the server has taken its origin's place, nothing is missing.
        (true, _) => String::new(),
        (false, true) => verb("archive", "%f"),
        // No base backup can be taken, so that a log would lead nowhere and only fill the disk; the status says so.
        (false, false) => "true".into(),
    };
    let mut settings = vec![
        ("archive_mode", "on".into()),
        ("archive_command", command),
        ("archive_timeout", format!("{}s", backup.archive_timeout_s)),
    ];
    if backup.restore.is_some() {
        settings.push(("restore_command", verb("fetch", "%f %p")));
    }
    settings
}

/// A word of a shell line in which PostgreSQL puts names in place of `%`.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''").replace('%', "%%"))
}

/// Archives a file of the log. The same file twice is no fault, another under its name is. Blocks.
pub(crate) fn store(repository: &Repository, pgdata: &Path, name: &str, now_ms: i64) -> Result<(), Error> {
    if !wal::is_archived(name) {
        return Err(Error::NotArchived(name.chars().take(64).collect()));
    }
    let path = pgdata.join("pg_wal").join(name);
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    let meta = fs::metadata(&path).map_err(Error::io("look at", &path))?;
    if Segment::parse(name).is_some() && bytes.len() as u64 != wal::SEGMENT_BYTES {
        let why = format!("{} has {} bytes", path.display(), bytes.len());
        return Err(Error::Config(why));
    }
    let place = format!("wal/{name}");
    if repository.has(&place) {
        match same(repository, &place, &bytes) {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(Error::Differs { name: name.into() }),
            // What is stored is broken and what it was made from is still here: it is stored anew.
            Err(Error::Broken { path, .. }) => {
                tracing::warn!(path = %path.display(), "a stored file was broken; storing it anew");
            }
            Err(other) => return Err(other),
        }
    }
    let written_ms = meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000;
    let head = Head { place, stored_ms: now_ms, written_ms };
    repository.put(&head, |into| into.write_all(&bytes).map_err(Error::io("store", path))).map(drop)
}

fn same(repository: &Repository, place: &str, bytes: &[u8]) -> Result<bool, Error> {
    let mut stored = Vec::with_capacity(bytes.len());
    let path = repository.root().join(place);
    repository
        .get(place)?
        .take(bytes.len() as u64 + 1)
        .read_to_end(&mut stored)
        .map_err(crate::repository::broken(&path))?;
    Ok(stored == bytes)
}

/// The file that a server which replays the log will ask for next: it is unsealed while that server is busy with the one before,
/// so that a restore uses two cores. One file in memory, 16 MiB.
#[derive(Default)]
pub(crate) struct Next(Mutex<Option<(Segment, Ahead)>>);

impl Next {
    fn take(&self, segment: Option<Segment>) -> Option<Ahead> {
        let opened = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        opened.filter(|(next, _)| Some(*next) == segment).map(|(_, ahead)| ahead)
    }

    /// Opens what follows; what is not there, or does not open, is told of when it is asked for.
    fn open_after(&self, segment: Segment, repository: &Repository) {
        let next = Segment { number: segment.number + 1, ..segment };
        let place = format!("wal/{}", next.name());
        if !repository.has(&place) {
            return;
        }
        let opened = repository.get(&place).ok().and_then(|file| Ahead::new(file, wal::SEGMENT_BYTES as usize).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = opened.map(|ahead| (next, ahead));
    }

    /// Nothing more is asked for.
    pub fn forget(&self) {
        self.take(None);
    }
}

/// Puts a file of the archive where a server that is being restored wants it. Blocks.
pub(crate) fn give(repository: &Repository, next: &Next, pgdata: &Path, name: &str, to: &str) -> Result<(), Error> {
    if !wal::is_archived(name) {
        return Err(Error::NotArchived(name.chars().take(64).collect()));
    }
    let file = to.strip_prefix("pg_wal/").filter(|f| !f.is_empty() && !f.contains('/') && *f != "..");
    let Some(file) = file else { return Err(Error::Config(format!("{to} is not in the folder of the log"))) };
    let (place, segment) = (format!("wal/{name}"), Segment::parse(name));
    let mut content: Box<dyn Read> = match next.take(segment) {
        Some(opened) => Box::new(opened),
        None if repository.has(&place) => Box::new(repository.get(&place)?),
        None => return Err(Error::NoSegment(name.into())),
    };
    let target: PathBuf = pgdata.join("pg_wal").join(file);
    let mut into = fs::File::create(&target).map_err(Error::io("make", &target))?;
    let copied = std::io::copy(&mut content, &mut into);
    let copied = copied.map_err(crate::repository::broken(&repository.root().join(&place)));
    if copied.is_err() {
        let _ = fs::remove_file(&target);
    } else if let Some(segment) = segment {
        next.open_after(segment, repository);
    }
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use api::Secret;

    use super::*;

    const NAME: &str = "000000010000000000000001";

    fn place() -> (tempfile::TempDir, Repository, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::open(&dir.path().join("backups"), &Secret::random()).unwrap();
        let pgdata = dir.path().join("pgdata");
        fs::create_dir_all(pgdata.join("pg_wal")).unwrap();
        (dir, repository, pgdata)
    }

    fn segment(pgdata: &Path, fill: u8) {
        fs::write(pgdata.join("pg_wal").join(NAME), vec![fill; wal::SEGMENT_BYTES as usize]).unwrap();
    }

    #[test]
    fn the_same_file_twice_is_stored_once_and_another_under_its_name_is_refused() {
        let (_dir, repository, pgdata) = place();
        segment(&pgdata, 1);
        store(&repository, &pgdata, NAME, 5).unwrap();
        store(&repository, &pgdata, NAME, 6).unwrap();
        assert_eq!(repository.head(&format!("wal/{NAME}")).unwrap().stored_ms, 5);
        segment(&pgdata, 2);
        assert!(matches!(store(&repository, &pgdata, NAME, 7), Err(Error::Differs { .. })));
        give(&repository, &Next::default(), &pgdata, NAME, "pg_wal/RECOVERYXLOG").unwrap();
        let back = fs::read(pgdata.join("pg_wal/RECOVERYXLOG")).unwrap();
        assert!(back.len() as u64 == wal::SEGMENT_BYTES && back.iter().all(|b| *b == 1));
    }

    #[test]
    fn the_file_after_is_opened_before_it_is_asked_for_and_is_given_only_under_its_name() {
        let (_dir, repository, pgdata) = place();
        let files = [NAME, "000000010000000000000002", "000000010000000000000003"];
        for (fill, name) in (1..).zip(files) {
            fs::write(pgdata.join("pg_wal").join(name), vec![fill; wal::SEGMENT_BYTES as usize]).unwrap();
            store(&repository, &pgdata, name, 5).unwrap();
        }
        let next = Next::default();
        let given = |name: &str| {
            give(&repository, &next, &pgdata, name, "pg_wal/RECOVERYXLOG").unwrap();
            let bytes = fs::read(pgdata.join("pg_wal/RECOVERYXLOG")).unwrap();
            assert_eq!(bytes.len() as u64, wal::SEGMENT_BYTES);
            bytes[0]
        };
        let opened = || next.0.lock().unwrap().as_ref().map(|(segment, _)| segment.name());
        assert_eq!((given(files[0]), opened().as_deref()), (1, Some(files[1])));
        assert_eq!((given(files[2]), opened()), (3, None), "another one is not given in its place");
        assert_eq!((given(files[0]), opened().as_deref()), (1, Some(files[1])));
        fs::remove_file(repository.root().join("wal").join(files[1])).unwrap();
        assert_eq!((given(files[1]), opened().as_deref()), (2, Some(files[2])), "it was open, though its name is gone");
        next.forget();
        assert_eq!(opened(), None);
    }

    #[test]
    fn half_a_segment_and_what_is_no_file_of_the_log_are_not_stored() {
        let (_dir, repository, pgdata) = place();
        fs::write(pgdata.join("pg_wal").join(NAME), "short").unwrap();
        assert!(store(&repository, &pgdata, NAME, 0).is_err());
        assert!(matches!(store(&repository, &pgdata, "../PG_VERSION", 0), Err(Error::NotArchived(_))));
        for to in ["pg_wal/../x", "../x", "pg_wal/", "base/1", "pg_wal/.."] {
            assert!(give(&repository, &Next::default(), &pgdata, NAME, to).is_err(), "{to}");
        }
        assert!(matches!(give(&repository, &Next::default(), &pgdata, NAME, "pg_wal/x"), Err(Error::NoSegment(_))));
    }

    #[test]
    fn a_broken_stored_file_is_told_by_name_and_leaves_nothing_to_replay() {
        let (_dir, repository, pgdata) = place();
        segment(&pgdata, 1);
        store(&repository, &pgdata, NAME, 0).unwrap();
        let path = repository.root().join("wal").join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = give(&repository, &Next::default(), &pgdata, NAME, "pg_wal/RECOVERYXLOG").unwrap_err();
        assert!(matches!(&error, Error::Broken { path, .. } if path.ends_with(NAME)), "{error:?}");
        assert!(!pgdata.join("pg_wal/RECOVERYXLOG").exists());
        // While the server still has the file, the next try mends the archive.
        store(&repository, &pgdata, NAME, 1).unwrap();
        give(&repository, &Next::default(), &pgdata, NAME, "pg_wal/RECOVERYXLOG").unwrap();
    }

    #[test]
    fn a_path_stays_one_word_of_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's/100%")), r"'/a b/it'\''s/100%%'");
    }
}
