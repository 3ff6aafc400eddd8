//! Claims on real stamps: the Time Tracker's rows come out as they should, and a spoilt system makes them fail.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use testkit::{As, Stage};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
/// The system's folder, reachable for every user.
const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systems/time-tracker");

fn left(stage: &Stage) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(stage.home().join("scratch-homes")).unwrap().flatten().map(|e| e.path()).collect()
}

#[test]
fn the_rows_that_one_stamp_can_show_are_shown_and_nothing_is_left() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let report = stage.stamp(&["prove", SYSTEM, "--fast", "--json"]).ok().json();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(report["proven"].as_u64().unwrap() >= 30, "{report:#}");
    let rows = report["claims"].as_array().unwrap();
    assert_eq!(rows.len(), 183);
    let row = |id: &str| rows.iter().find(|r| r["id"] == id).unwrap();
    assert_eq!(row("TT-047")["outcome"], "proven");
    assert_eq!(row("TT-101")["outcome"], "substituted");
    assert_eq!(row("TT-168")["outcome"], "future");
    assert_eq!(row("TT-006")["outcome"], "unchecked");
    assert_eq!(left(&stage), Vec::<std::path::PathBuf>::new());
    // Evidence is kept, and the second run tells what has changed since the first.
    let kept = || {
        let folder = stage.home().join("evidence/time-tracker");
        let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
        all.sort();
        all
    };
    assert_eq!(kept().len(), 1);
    let page = std::fs::read_to_string(kept()[0].join("index.html")).unwrap();
    assert!(page.contains("TT-047") && !page.contains("<script") && !page.contains("http-equiv"));
    assert!(!page.contains("src=") && !page.contains("href="), "the page needs nothing beside it");
    stage.stamp(&["prove", SYSTEM, "--claim", "TT-107", "--json"]).ok();
    let chain = stage.home().join("evidence/chain");
    let text: String = walk(&chain).iter().map(|p| std::fs::read_to_string(p).unwrap_or_default()).collect();
    assert_eq!(text.matches("prove.run").count(), 2, "each run is noted: {text}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

#[test]
fn a_spoilt_system_makes_its_rows_fail_and_no_other() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    // With STAMP_LONG every sabotage is tried; each takes about as long as a fast run.
    let some = [
        "no strict transport security",
        "the service is an officer of the vault",
        "projects are stored under another name",
    ];
    let chosen: &[&str] = if std::env::var_os("STAMP_LONG").is_some() { &["all"] } else { &some };
    for which in chosen {
        let output = stage.stamp(&["prove", SYSTEM, "--fast", "--sabotage", which]);
        assert_eq!(output.code, Some(0), "{which}\n{}\n{}", output.stdout, output.stderr);
        println!("{}", output.stdout);
    }
    assert_eq!(left(&stage), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_run_that_is_killed_is_cleared_away_by_the_next() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let mut run =
        stage.command(&["prove", SYSTEM, "--area", "edge"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(run.stderr.take().unwrap()));
    // A stamp runs in the scratch home by then.
    lines.map_while(Result::ok).find(|l| l.contains("TT-107") || l.contains("TT-108")).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(left(&stage).len(), 1);
    let report = stage.stamp(&["prove", SYSTEM, "--claim", "TT-107", "--json"]).ok().json();
    assert_eq!(report["proven"], 1, "{report:#}");
    assert_eq!(left(&stage), Vec::<std::path::PathBuf>::new());
    let leftover = stage.processes();
    assert_eq!(leftover, Vec::<u32>::new());
}

#[test]
fn what_is_asked_wrongly_is_told_before_anything_starts() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    for (arguments, said) in [
        (&["prove", SYSTEM, "--claim", "TT-999"][..], "no claim TT-999"),
        (&["prove", SYSTEM, "--area", "weather"], "no area weather"),
        (&["prove", SYSTEM, "--sabotage", "weather", "--claim", "TT-107"], "no sabotage `weather`"),
    ] {
        let output = stage.stamp(arguments);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(said), "{output:?}");
    }
}
