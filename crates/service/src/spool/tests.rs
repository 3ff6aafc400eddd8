use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use super::{segments::list, *};

/// Small segments, so that a test sees several; nothing reserved, so that a file is what was written.
const SMALL: Bounds = Bounds { segment: 2_000, kept: 0, reserve: 0 };

fn event(number: u64) -> Event {
    Event {
        time_ms: 1_000 + number as i64,
        actor: "service.web".into(),
        action: "secret.get".into(),
        object: format!("vault.main/secrets/\u{e9}\"{number}"),
        outcome: Outcome::Ok,
        detail: Map::new(),
    }
}

fn open(dir: &Path) -> Result<Spool, Error> {
    Spool::open_bounded(dir, "vault.main", Clock::default(), SMALL)
}

fn filled(dir: &Path, records: u64) {
    let spool = open(dir).unwrap();
    for number in 1..=records {
        assert_eq!(spool.append_blocking(event(number)).unwrap(), number);
    }
}

fn all(spool: &Spool) -> Vec<Record> {
    spool.read(0, usize::MAX, usize::MAX).unwrap()
}

#[tokio::test]
async fn concurrent_events_are_numbered_without_gaps_and_survive_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), "vault.main", Clock::moved_by(86_400_000)).unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.append(Event { time_ms: 0, ..event(n) }).await.unwrap() })
        })
        .collect();
    let mut places = Vec::new();
    for task in tasks {
        places.push(task.await.unwrap());
    }
    places.sort_unstable();
    assert_eq!(places, (1..=200).collect::<Vec<_>>());
    drop(spool);
    let records = all(&Spool::open(dir.path(), "vault.main", Clock::default()).unwrap());
    assert_eq!(records.len(), 200);
    let said: Event = serde_json::from_str(&records[7].event).unwrap();
    assert!(said.time_ms > Clock::default().now_ms() + 80_000_000, "the event has the moved clock's time");
}

#[test]
fn segments_rotate_with_the_chain_going_on_and_are_read_from_any_place() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 50);
    assert!(list(dir.path()).unwrap().len() > 3);
    let spool = open(dir.path()).unwrap();
    assert_eq!(spool.durable(), 50);
    let mut reader = segments::Reader::new(dir.path());
    for after in [0, 3, 6, 9, 12, 49, 20] {
        let read = reader.read(after, 50, 3, usize::MAX).unwrap();
        let places: Vec<u64> = read.iter().map(|r| r.seq).collect();
        assert_eq!(places, (after + 1..=(after + 3).min(50)).collect::<Vec<_>>());
    }
    assert!(reader.read(50, 60, 3, usize::MAX).unwrap().is_empty());
}

#[test]
fn a_second_process_cannot_open_the_same_spool() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Locked { .. })));
}

#[test]
fn a_spool_cut_at_any_byte_of_its_last_segment_opens_with_every_whole_record() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 12);
    let last = list(dir.path()).unwrap().pop().unwrap();
    let text = std::fs::read(&last.file).unwrap();
    for length in (0..text.len()).step_by(7).chain([text.len() - 1, text.len()]) {
        std::fs::write(&last.file, &text[..length]).unwrap();
        let whole = text[..length].iter().filter(|b| **b == b'\n').count().saturating_sub(1) as u64;
        let spool = open(dir.path()).unwrap();
        assert_eq!(spool.durable(), last.first - 1 + whole, "cut at {length}");
        assert_eq!(spool.append_blocking(event(99)).unwrap(), last.first + whole);
        drop(spool);
        assert_eq!(open(dir.path()).unwrap().durable(), last.first + whole);
    }
}

#[test]
fn reserved_zeros_are_no_records_and_a_flush_that_a_power_cut_met_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let reserving = || Spool::open(dir.path(), "vault.main", Clock::default());
    let spool = reserving().unwrap();
    (1..=5).for_each(|n| assert_eq!(spool.append_blocking(event(n)).unwrap(), n));
    drop(spool);
    let file = list(dir.path()).unwrap().remove(0).file;
    let text = std::fs::read(&file).unwrap();
    let end = text.iter().position(|b| *b == 0).unwrap();
    assert!(text.len() > 100_000 && text[end..].iter().all(|b| *b == 0));
    assert_eq!(reserving().unwrap().append_blocking(event(6)).unwrap(), 6);
    // The last line whole, the one before it only in part, as sectors reach a disk in any order.
    let mut torn = std::fs::read(&file).unwrap();
    torn[end - 40..end - 20].fill(0);
    std::fs::write(&file, &torn).unwrap();
    assert_eq!(reserving().unwrap().durable(), 4);
    let spool = reserving().unwrap();
    assert_eq!(spool.append_blocking(event(5)).unwrap(), 5);
    assert_eq!(all(&spool).len(), 5);
}

#[test]
fn a_changed_byte_before_the_last_line_is_an_error_that_names_file_and_record() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 12);
    let first = list(dir.path()).unwrap().remove(0);
    let text = std::fs::read(&first.file).unwrap();
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(&first.file, &changed).unwrap();
        let Err(error) = open(dir.path()) else { panic!("byte {at} changed unseen") };
        match error {
            Error::Broken { chain, seq, file, .. } => {
                assert_eq!((chain.as_str(), &file), ("vault.main", &first.file));
                let line = text[..at].iter().filter(|b| **b == b'\n').count() as u64;
                assert!(seq == line.max(1) || seq == line + 1, "byte {at} of line {line} reported as record {seq}");
            }
            other => assert!(matches!(other, Error::Newer { .. }), "{other}"),
        }
    }
}

#[test]
fn a_removed_segment_in_the_middle_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 30);
    let segments = list(dir.path()).unwrap();
    std::fs::remove_file(&segments[1].file).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Broken { .. })));
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1);
    let segment = list(dir.path()).unwrap().remove(0);
    let text = std::fs::read_to_string(&segment.file).unwrap().replacen("{\"format\":1", "{\"format\":9", 1);
    std::fs::write(&segment.file, text).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Newer { found: 9, .. })));
}

#[test]
fn only_acknowledged_whole_segments_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 30);
    let before = list(dir.path()).unwrap();
    let mut segments = Segments::open(dir.path(), "vault.main", SMALL).unwrap();
    segments.prune_shipped(before[2].first - 2).unwrap();
    assert_eq!(list(dir.path()).unwrap(), before[1..], "one record of the second segment is not acknowledged");
    segments.prune_shipped(30).unwrap();
    assert_eq!(list(dir.path()).unwrap(), before[before.len() - 1..], "the last segment stays");
    drop(segments);
    let spool = open(dir.path()).unwrap();
    assert_eq!(spool.append_blocking(event(31)).unwrap(), 31);
}

#[test]
fn an_event_that_is_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path()).unwrap();
    let long = Event { object: "x".repeat(EVENT_BYTES), ..event(1) };
    assert!(matches!(spool.append_blocking(long), Err(Error::TooLong)));
    assert_eq!(spool.append_blocking(event(1)).unwrap(), 1);
}

/// Starts this test binary again, to run one of the tests below that act on their whole process.
fn child(test: &str, dir: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("spool::tests::{test}"), "--ignored", "--nocapture"])
        .env("SPOOL_DIR", dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn kill_9_loses_no_acknowledged_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=3 {
        let mut child = child("appends_until_killed", dir.path());
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(seq) = line.rsplit("acknowledged ").next().and_then(|n| n.trim().parse().ok()) {
                acknowledged = std::cmp::max(acknowledged, seq);
            }
            if acknowledged >= round * 40 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let spool = open(dir.path()).unwrap();
        assert!(spool.durable() >= acknowledged, "{} records of {acknowledged} acknowledged", spool.durable());
    }
}

#[test]
#[ignore = "started and killed by kill_9_loses_no_acknowledged_record"]
fn appends_until_killed() {
    let spool = open(Path::new(&std::env::var("SPOOL_DIR").unwrap())).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let spool = spool.clone();
            std::thread::spawn(move || {
                for number in 0..100_000 {
                    let seq = spool.append_blocking(event(number)).unwrap();
                    let _ = writeln!(std::io::stdout(), "acknowledged {seq}");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn a_full_disk_refuses_records_and_takes_them_again_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 5);
    let mut child = child("meets_a_file_size_limit", dir.path());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("refused and recovered"), "the child ran: {said}");
    assert_eq!(open(dir.path()).unwrap().durable(), 8);
}

#[test]
#[ignore = "sets a limit on its whole process; started by a_full_disk_refuses_records"]
fn meets_a_file_size_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // SAFETY: ignoring a signal has no handler that could race.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let dir = std::env::var("SPOOL_DIR").unwrap();
    let bounds = Bounds { reserve: 0, ..Bounds::default() };
    let spool = Spool::open_bounded(Path::new(&dir), "vault.main", Clock::default(), bounds).unwrap();
    assert_eq!(spool.append_blocking(event(6)).unwrap(), 6);
    let bytes = list(Path::new(&dir)).unwrap().pop().unwrap().bytes;
    let old = getrlimit(Resource::Fsize);
    // Half of the next record fits.
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes + 100), maximum: old.maximum }).unwrap();
    for _ in 0..3 {
        assert!(matches!(spool.append_blocking(event(7)), Err(Error::Io { .. })));
    }
    assert_eq!(list(Path::new(&dir)).unwrap().pop().unwrap().bytes, bytes, "nothing half written stays");
    setrlimit(Resource::Fsize, old).unwrap();
    assert_eq!(spool.append_blocking(event(7)).unwrap(), 7);
    assert_eq!(spool.append_blocking(event(8)).unwrap(), 8);
    let _ = writeln!(std::io::stdout(), "refused and recovered");
}
