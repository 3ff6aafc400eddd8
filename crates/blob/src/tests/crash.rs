//! Tests that act on a whole process: it is killed, or its disk is full.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use api::Secret;
use service::Clock;

use super::bench::{Bench, Signer, config};

const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::crash::{test}"), "--ignored", "--nocapture"])
        .env("BLOB_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn bench_in(dir: PathBuf) -> Bench {
    Bench::at(&dir, Secret::new(ROOT), Clock::default(), Signer::new(), config())
}

fn content(number: usize) -> String {
    format!("blob {number} ").repeat(60_000)
}

#[tokio::test]
async fn kill_9_in_the_middle_of_puts_loses_no_acknowledged_blob() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<usize> = Vec::new();
    for round in 1..=3 {
        let mut child = child("puts_until_killed", dir.path());
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some((_, number)) = line.unwrap().rsplit_once("acknowledged ") {
                acknowledged.push(number.trim().parse().unwrap());
            }
            if acknowledged.len() >= round * 12 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let bench = bench_in(dir.path().into());
    for number in &acknowledged {
        let got = bench.get(&format!("/photos/{number}")).await;
        assert!(got.status == 200 && got.body == content(*number).as_bytes(), "{number}: {}", got.status);
    }
    // Nothing lies about that nobody knows, and nothing that is known is missing.
    let known = crate::rows::files(&bench.store.db()).unwrap();
    let mut files = 0;
    for folder in std::fs::read_dir(dir.path().join("content")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            assert!(known.contains(file.unwrap().file_name().to_str().unwrap()));
            files += 1;
        }
    }
    assert_eq!(files, known.len());
}

#[tokio::test]
#[ignore = "started and killed by kill_9_in_the_middle_of_puts"]
async fn puts_until_killed() {
    let bench = bench_in(std::env::var_os("BLOB_DIR").unwrap().into());
    let run = std::process::id() as usize;
    for number in (0..100_000).map(|n| run * 100_000 + n) {
        let put = bench.put(&format!("/photos/{number}"), content(number)).await;
        assert_eq!(put.status, 201);
        let _ = writeln!(std::io::stdout(), "acknowledged {number}");
    }
}

#[test]
fn a_full_disk_refuses_a_put_clearly_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child("meets_a_full_disk", dir.path());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success() && said.contains("refused and recovered"), "{said}");
}

#[tokio::test]
#[ignore = "sets a limit on its whole process; started by a_full_disk_refuses"]
async fn meets_a_full_disk() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // SAFETY: ignoring a signal has no handler that could race.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let dir = PathBuf::from(std::env::var_os("BLOB_DIR").unwrap());
    let bench = bench_in(dir.clone());
    bench.put("/photos/kept", "small").await;
    let old = getrlimit(Resource::Fsize);
    // A file may be no larger than this: a blob meets it, the records of it do not.
    let bound = 24 << 20;
    setrlimit(Resource::Fsize, Rlimit { current: Some(bound), maximum: old.maximum }).unwrap();
    let large = vec![7_u8; bound as usize + 1];
    for _ in 0..2 {
        let refused = bench.put("/photos/large", large.clone()).await;
        assert_eq!(refused.said(), (507, "InsufficientAccountCapacity"));
        assert_eq!(bench.get("/photos/large").await.status, 404);
    }
    assert_eq!(bench.get("/photos/kept").await.body, "small");
    let known = crate::rows::files(&bench.store.db()).unwrap();
    let there: usize = std::fs::read_dir(dir.join("content"))
        .unwrap()
        .map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum();
    assert_eq!(there, known.len(), "nothing of it is left");
    setrlimit(Resource::Fsize, old).unwrap();
    assert_eq!(bench.put("/photos/large", large).await.status, 201);
    let _ = writeln!(std::io::stdout(), "refused and recovered");
}
