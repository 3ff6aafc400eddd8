//! Tests that act on a whole process: it is killed, or its disk is full.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use api::{Secret, audit::Outcome};
use serde_json::{Value, json};
use service::Clock;

use super::bench::{Bench, Signer, config, open};

const KEK: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::crash::{test}"), "--ignored", "--nocapture"])
        .env("VAULT_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn bench_in(dir: PathBuf) -> Bench {
    let (kek, clock, signer) = (Secret::new(KEK), Clock::default(), Signer::new());
    let vault = std::sync::Arc::new(open(&dir, &kek, &clock, &signer, config()).unwrap());
    let router = crate::http::public(vault.clone());
    Bench { dir: tempfile::tempdir().unwrap(), kek, clock, signer, vault, router }
}

#[tokio::test]
async fn kill_9_loses_no_acknowledged_secret_and_no_record_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 1..=2 {
        let mut child = child("sets_until_killed", dir.path());
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(name) = line.unwrap().rsplit_once("acknowledged ").map(|(_, n)| n.trim().to_owned()) {
                acknowledged.push(name);
            }
            if acknowledged.len() >= round * 25 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let bench = bench_in(dir.path().into());
    let events = bench.events();
    for name in &acknowledged {
        assert_eq!(bench.get(name).await.json["value"], format!("value of {name}"));
        let object = format!("vault.main/secrets/{name}");
        assert!(events.iter().any(|e| e.object == object && e.outcome == Outcome::Ok), "{name} is not in the spool");
    }
}

#[tokio::test]
#[ignore = "started and killed by kill_9_loses_no_acknowledged_secret"]
async fn sets_until_killed() {
    let bench = bench_in(std::env::var_os("VAULT_DIR").unwrap().into());
    let run = std::process::id();
    for number in 0..100_000 {
        let name = format!("s-{run}-{number}");
        bench.set(&name, &format!("value of {name}")).await;
        let _ = writeln!(std::io::stdout(), "acknowledged {name}");
    }
}

#[test]
fn a_full_spool_refuses_reads_and_writes_and_both_work_again_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child("meets_a_full_spool", dir.path());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success() && said.contains("refused and recovered"), "{said}");
}

#[tokio::test]
#[ignore = "sets a limit on its whole process; started by a_full_spool_refuses"]
async fn meets_a_full_spool() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // SAFETY: ignoring a signal has no handler that could race.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let dir = PathBuf::from(std::env::var_os("VAULT_DIR").unwrap());
    let bench = bench_in(dir.clone());
    bench.set("a", "v1").await;
    // The spool's file must be the largest, so that the limit meets it alone.
    for _ in 0..40 {
        let mut event = bench.vault.spool.event("test", "fill", "vault.main", Outcome::Ok);
        event.detail.insert("text".into(), "x".repeat(60_000).into());
        bench.vault.spool.append(event).await.unwrap();
    }
    let spool = dir.join("spool/00000000000000000001.jsonl");
    let old = getrlimit(Resource::Fsize);
    let bytes = std::fs::metadata(&spool).unwrap().len();
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes + 10), maximum: old.maximum }).unwrap();
    // What the spool reserved is used up first.
    while bench.get("a").await.status == 200 {}
    for _ in 0..2 {
        let read = bench.get("a").await;
        assert_eq!((read.status.as_u16(), read.json.get("value")), (503, None));
        let write = bench.by("supervisor", "PUT", "/secrets/a", json!({ "value": "v2" })).await;
        assert_eq!(write.status, 503);
        assert_eq!(bench.by("stranger", "GET", "/secrets/a", Value::Null).await.status, 503);
    }
    setrlimit(Resource::Fsize, old).unwrap();
    assert_eq!(bench.get("a").await.json["value"], "v1", "the refused write left nothing");
    bench.set("a", "v3").await;
    assert_eq!(bench.get("a").await.json["value"], "v3");
    let _ = writeln!(std::io::stdout(), "refused and recovered");
}
