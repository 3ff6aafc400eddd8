use std::path::{Path, PathBuf};

use api::audit::{Head, Record};
use proptest::prelude::*;
use service::Clock;

use super::{DAY_MS, open, records, root, try_open};
use crate::{
    store::{Question, Store, Taken},
    verify,
};

fn take(store: &Store, batch: &[Record]) -> Taken {
    store.take("vault.main", batch).unwrap().unwrap()
}

fn up(taken: &Taken) -> Option<u64> {
    match taken {
        Taken::Up(seq) => Some(*seq),
        Taken::Conflict { .. } => None,
    }
}

/// Every file below `dir` that holds something.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::metadata(&path).unwrap().len() > 0 {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("vault.main/00000000000000000001.jsonl")
}

#[test]
fn a_batch_that_is_shipped_twice_or_overlaps_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Clock::default());
    let all = records(&Head::default(), 20, Clock::default().now_ms());
    assert_eq!(up(&take(&store, &all[..10])), Some(10));
    assert_eq!(up(&take(&store, &all[..10])), Some(10));
    assert_eq!(up(&take(&store, &all[3..7])), Some(10));
    assert_eq!(up(&take(&store, &all[5..20])), Some(20));
    let report = verify(dir.path()).unwrap();
    let vault = report.sources.iter().find(|s| s.source == "vault.main").unwrap();
    assert_eq!((report.records, vault.records, vault.first, vault.last), (20, 20, 1, 20));
    assert_eq!(vault.head, all[19].head());
    assert_eq!(store.records(&Question::default()).unwrap().len(), 20);
}

#[test]
fn gaps_forks_and_forged_records_are_refused_with_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Clock::default());
    let now = Clock::default().now_ms();
    let all = records(&Head::default(), 20, now);
    take(&store, &all[..10]);
    let fork = records(&all[8].head(), 5, now + 7);
    let mut forged = all[10..12].to_vec();
    forged[1].event = forged[1].event.replace("service.web", "service.bad");
    let no_event = [Record::after(&all[9].head(), "{}".into())];
    for bad in [&all[12..], &fork[..], &fork[..1], &forged[..], &no_event[..]] {
        let Taken::Conflict { have, .. } = take(&store, bad) else { panic!("taken: {bad:?}") };
        assert_eq!(have, all[9].head());
    }
    let mut old = all[2..4].to_vec();
    old[1].hash = old[0].hash.clone();
    assert_eq!(up(&take(&store, &old)), None, "an old record that differs is a fork");
    assert_eq!(up(&take(&store, &all[10..])), Some(20));
    assert!(store.take("vault.other", &all).is_none());
}

#[test]
fn all_is_there_after_a_restart_and_what_was_not_acknowledged_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let all = records(&Head::default(), 10, Clock::default().now_ms());
    take(&open(dir.path(), &Clock::default()), &all[..5]);
    // Half a record, as a kill in the middle of a write leaves it.
    let mut text = std::fs::read(segment(dir.path())).unwrap();
    text.extend_from_slice(&serde_json::to_vec(&all[5]).unwrap()[..40]);
    std::fs::write(segment(dir.path()), text).unwrap();
    assert_eq!(verify(dir.path()).unwrap().records, 5);
    let store = open(dir.path(), &Clock::default());
    assert_eq!(up(&take(&store, &all[..10])), Some(10));
    assert_eq!(verify(dir.path()).unwrap().records, 10);
}

#[test]
fn removed_reordered_inserted_and_cut_records_are_found_and_named() {
    let all = records(&Head::default(), 10, Clock::default().now_ms());
    let broken = |act: &dyn Fn(&mut Vec<String>)| {
        let dir = tempfile::tempdir().unwrap();
        take(&open(dir.path(), &Clock::default()), &all);
        let text = std::fs::read_to_string(segment(dir.path())).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        act(&mut lines);
        std::fs::write(segment(dir.path()), lines.join("\n") + "\n").unwrap();
        let broken = verify(dir.path()).unwrap_err();
        assert_eq!((broken.source_name.as_str(), &broken.file), ("vault.main", &segment(dir.path())));
        assert!(try_open(dir.path(), &Clock::default()).is_err(), "the role does not start on it either");
        broken.seq
    };
    // Line 0 is the header, line n is record n.
    assert_eq!(broken(&|l| drop(l.remove(4))), 4);
    assert_eq!(broken(&|l| l.swap(6, 7)), 6);
    assert_eq!(broken(&|l| l.insert(3, l[2].clone())), 3);
    assert_eq!(broken(&|l| l.truncate(9)), 9);
    assert_eq!(broken(&|l| l[5] = l[5].replace("service.web", "service.wab")), 5);
    // A whole chain that somebody made anew: the head file knows better.
    assert_eq!(
        broken(&|l| {
            let other = records(&Head::default(), 10, 77);
            l.splice(1.., other.iter().map(|r| serde_json::to_string(r).unwrap()));
        }),
        10
    );
}

#[test]
fn missing_files_are_found() {
    for gone in ["store.json", "vault.main/head.json", "vault.main/00000000000000000001.jsonl"] {
        let dir = tempfile::tempdir().unwrap();
        take(&open(dir.path(), &Clock::default()), &records(&Head::default(), 3, Clock::default().now_ms()));
        std::fs::remove_file(dir.path().join(gone)).unwrap();
        assert!(verify(dir.path()).is_err(), "{gone}");
    }
    let dir = tempfile::tempdir().unwrap();
    take(&open(dir.path(), &Clock::default()), &records(&Head::default(), 3, Clock::default().now_ms()));
    std::fs::remove_dir_all(dir.path().join("vault.main")).unwrap();
    assert_eq!(verify(dir.path()).unwrap_err().source_name, "vault.main");
    assert!(try_open(dir.path(), &Clock::default()).is_err());
}

#[test]
fn a_chain_rewritten_with_its_head_file_is_found_by_the_role_that_holds_the_key() {
    let dir = tempfile::tempdir().unwrap();
    take(&open(dir.path(), &Clock::default()), &records(&Head::default(), 3, Clock::default().now_ms()));
    let other = tempfile::tempdir().unwrap();
    let forger = api::Secret::new("another key");
    let sources = ["vault.main".into(), "edge".into()];
    let store = Store::open(other.path(), "audit.main", &sources, &forger, 90, Clock::default()).unwrap();
    take(&store, &records(&Head::default(), 3, 5));
    drop(store);
    for file in ["head.json", "00000000000000000001.jsonl"] {
        std::fs::copy(other.path().join("vault.main").join(file), dir.path().join("vault.main").join(file)).unwrap();
    }
    assert!(verify(dir.path()).is_ok(), "files alone cannot show it");
    assert!(matches!(try_open(dir.path(), &Clock::default()), Err(crate::Error::Seal { .. })));
    assert!(!root().matches(forger.expose()));
}

#[test]
fn a_record_of_day_89_is_found_and_one_of_day_91_is_not_and_the_rest_still_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    let store = open(dir.path(), &clock);
    let now = clock.now_ms();
    let old = records(&Head::default(), 5, now - 91 * DAY_MS);
    let kept = records(&old[4].head(), 5, now - 89 * DAY_MS);
    take(&store, &old);
    take(&store, &kept);
    let shown = store.records(&Question { source: Some("vault.main".into()), ..Question::default() }).unwrap();
    assert_eq!(shown.iter().map(|r| r.seq).collect::<Vec<_>>(), [10, 9, 8, 7, 6], "even before they are removed");
    store.prune().unwrap();
    assert!(!segment(dir.path()).exists());
    let report = verify(dir.path()).unwrap();
    let vault = report.sources.iter().find(|s| s.source == "vault.main").unwrap();
    assert_eq!((vault.first, vault.last, vault.records), (6, 10, 5));
    let own = store.records(&Question { source: Some("audit.main".into()), ..Question::default() }).unwrap();
    assert_eq!((own[0].event.action.as_str(), &own[0].event.detail["through_seq"]), ("records.prune", &5.into()));

    clock.set_offset_ms(2 * DAY_MS);
    store.prune().unwrap();
    assert!(store.records(&Question { source: Some("vault.main".into()), ..Question::default() }).unwrap().is_empty());
    drop(store);
    let store = open(dir.path(), &clock);
    let next = records(&kept[4].head(), 1, clock.now_ms());
    assert_eq!(up(&take(&store, &next)), Some(11), "an emptied chain goes on");
    assert_eq!(verify(dir.path()).unwrap().sources.iter().map(|s| s.records).sum::<u64>(), 3);
}

#[test]
fn a_removal_that_was_cut_short_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    let store = open(dir.path(), &clock);
    let old = records(&Head::default(), 5, clock.now_ms() - 91 * DAY_MS);
    take(&store, &old);
    take(&store, &records(&old[4].head(), 5, clock.now_ms()));
    let text = std::fs::read(segment(dir.path())).unwrap();
    store.prune().unwrap();
    drop(store);
    std::fs::write(segment(dir.path()), text).unwrap();
    assert!(verify(dir.path()).is_ok());
    drop(open(dir.path(), &clock));
    assert!(!segment(dir.path()).exists());
}

#[test]
fn records_are_found_by_actor_object_time_and_source_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    let store = open(dir.path(), &clock);
    let now = clock.now_ms();
    take(&store, &records(&Head::default(), 10, now - 3_600_000));
    let other = vec![Record::after(&Head::default(), super::event(now, "person-1", 3))];
    store.take("edge", &other).unwrap().unwrap();
    let ask = |question: Question| store.records(&question).unwrap();
    let seqs =
        |found: Vec<api::audit::SourceRecord>| found.iter().map(|r| (r.source.clone(), r.seq)).collect::<Vec<_>>();
    assert_eq!(
        seqs(ask(Question { limit: Some(2), ..Question::default() })),
        [("edge".into(), 1), ("vault.main".into(), 10)]
    );
    assert_eq!(ask(Question { actor: Some("person-1".into()), ..Question::default() }).len(), 1);
    assert_eq!(ask(Question { object: Some("vault.main/secrets/s3".into()), ..Question::default() }).len(), 2);
    assert_eq!(ask(Question { since: now - 3_600_000 + 8000, ..Question::default() }).len(), 3);
    assert_eq!(ask(Question { source: Some("edge".into()), ..Question::default() }).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn any_single_byte_flip_in_any_file_is_found(place in 0usize..1_000_000, flip in 1u8..=255) {
        use std::sync::OnceLock;
        // One store for all cases; each case mends what it broke.
        static STORE: OnceLock<tempfile::TempDir> = OnceLock::new();
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _held = ONE_AT_A_TIME.lock().unwrap();
        let dir = STORE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let clock = Clock::default();
            let store = open(dir.path(), &clock);
            let old = records(&Head::default(), 4, clock.now_ms() - 91 * DAY_MS);
            let kept = records(&old[3].head(), 4, clock.now_ms() - 2 * DAY_MS);
            take(&store, &old);
            take(&store, &kept);
            take(&store, &records(&kept[3].head(), 4, clock.now_ms()));
            store.prune().unwrap();
            dir
        });
        prop_assert!(verify(dir.path()).is_ok());
        let files = files(dir.path());
        let total: usize = files.iter().map(|f| std::fs::metadata(f).unwrap().len() as usize).sum();
        let mut at = place % total;
        for file in files {
            let text = std::fs::read(&file).unwrap();
            if at < text.len() {
                let mut changed = text.clone();
                changed[at] ^= flip;
                std::fs::write(&file, &changed).unwrap();
                let found = verify(dir.path());
                std::fs::write(&file, &text).unwrap();
                prop_assert!(found.is_err(), "byte {at} of {} changed unseen", file.display());
                break;
            }
            at -= text.len();
        }
    }
}
