//! Tests that act on a whole process: it is killed, or its disk is full.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use api::Secret;
use axum::body::Body;
use service::Clock;

use super::bench::{Bench, Signer, config, open};
use crate::names::Digest;

const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::crash::{test}"), "--ignored", "--nocapture"])
        .env("REGISTRY_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn bench_in(dir: PathBuf) -> Bench {
    let (root, clock, signer) = (Secret::new(ROOT), Clock::default(), Signer::new());
    let registry = Arc::new(open(&dir, &root, &clock, &signer, config()));
    let router = crate::http::public(registry.clone());
    Bench { dir: tempfile::tempdir().unwrap(), root, clock, signer, registry, router }
}

fn layer(number: usize) -> String {
    format!("layer {number} ").repeat(20_000)
}

#[tokio::test]
async fn kill_9_in_the_middle_of_pushes_loses_no_acknowledged_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(usize, String)> = Vec::new();
    for round in 1..=3 {
        let mut child = child("pushes_until_killed", dir.path());
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, told)) = line.rsplit_once("acknowledged ") {
                let (number, digest) = told.trim().split_once(' ').unwrap();
                acknowledged.push((number.parse().unwrap(), digest.to_owned()));
            }
            if acknowledged.len() >= round * 12 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let bench = bench_in(dir.path().into());
    let who = bench.admin();
    for (number, digest) in &acknowledged {
        let manifest = bench.get(&who, &format!("/v2/web/manifests/{digest}")).await;
        assert_eq!(Digest::of(&manifest.body).to_string(), *digest);
        let blob = Digest::of(layer(*number).as_bytes());
        assert_eq!(Digest::of(&bench.get(&who, &format!("/v2/web/blobs/{blob}")).await.body), blob);
    }
    // What is there is whole, and nothing lies about that nobody knows.
    let known = crate::rows::blobs(&bench.registry.db()).unwrap();
    let mut files = 0;
    for folder in std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            assert_eq!(Digest::of(&std::fs::read(file.path()).unwrap()).hex(), name);
            assert!(known.contains(&name));
            files += 1;
        }
    }
    assert_eq!(files, known.len());
}

#[tokio::test]
#[ignore = "started and killed by kill_9_in_the_middle_of_pushes"]
async fn pushes_until_killed() {
    let bench = bench_in(std::env::var_os("REGISTRY_DIR").unwrap().into());
    let who = bench.admin();
    let run = std::process::id() as usize;
    for number in (0..100_000).map(|n| run * 100_000 + n) {
        let digest = bench.push(&who, "web", &format!("t-{number}"), &layer(number)).await;
        let _ = writeln!(std::io::stdout(), "acknowledged {number} {digest}");
    }
}

#[tokio::test]
async fn an_upload_is_gone_on_with_after_a_restart() {
    let bench = Bench::new();
    let who = bench.admin();
    let begun = bench.call(&who, "POST", "/v2/web/blobs/uploads/", &[], Body::empty()).await;
    let at = begun.field("location").to_owned();
    bench.call(&who, "PATCH", &at, &[], "before, ").await;
    let bench = bench.reopen();
    assert_eq!(bench.get(&who, &at).await.field("range"), "0-7");
    let digest = Digest::of(b"before, after");
    let done = bench.call(&who, "PUT", &format!("{at}?digest={digest}"), &[("content-range", "8-12")], "after").await;
    assert_eq!(done.status, 201, "{:?}", done.body);
    assert_eq!(bench.get(&who, &format!("/v2/web/blobs/{digest}")).await.body, "before, after");
}

#[test]
fn a_full_disk_refuses_a_push_clearly_and_keeps_what_is_there() {
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
    let bench = bench_in(std::env::var_os("REGISTRY_DIR").unwrap().into());
    let who = bench.admin();
    let kept = bench.push(&who, "web", "latest", "small").await;
    let old = getrlimit(Resource::Fsize);
    // A file may be no larger than this: a layer meets it, the records of it do not.
    let bound = 24 << 20;
    setrlimit(Resource::Fsize, Rlimit { current: Some(bound), maximum: old.maximum }).unwrap();
    let large = vec![7_u8; bound as usize + 1];
    let digest = Digest::of(&large);
    let path = format!("/v2/web/blobs/uploads/?digest={digest}");
    for _ in 0..2 {
        let refused = bench.call(&who, "POST", &path, &[], large.clone()).await;
        assert_eq!(refused.status, 507, "{:?}", refused.body);
        assert_eq!(bench.get(&who, &format!("/v2/web/blobs/{digest}")).await.status, 404);
    }
    assert_eq!(bench.get(&who, &format!("/v2/web/manifests/{kept}")).await.status, 200);
    let folder = PathBuf::from(std::env::var_os("REGISTRY_DIR").unwrap()).join("uploads");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing of it is left");
    setrlimit(Resource::Fsize, old).unwrap();
    assert_eq!(bench.call(&who, "POST", &path, &[], large).await.status, 201);
    let _ = writeln!(std::io::stdout(), "refused and recovered");
}
