//! Drills on real stamps: what is broken on purpose is measured, brought back, and never somebody else's.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use testkit::{As, Stage};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systems/time-tracker");

/// The Time Tracker with lines of its manifest replaced, in the stage's own folder.
fn variant(stage: &Stage, changes: &[(&str, &str)]) -> String {
    let folder = stage.scratch().join("time-tracker");
    std::fs::create_dir_all(folder.join("load")).unwrap();
    std::fs::copy(Path::new(SYSTEM).join("load/signed-in-mix.toml"), folder.join("load/signed-in-mix.toml")).unwrap();
    let mut text = std::fs::read_to_string(Path::new(SYSTEM).join("system.toml")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "the manifest has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    std::fs::write(folder.join("system.toml"), text).unwrap();
    folder.display().to_string()
}

#[test]
fn a_scratch_stamp_is_broken_measured_and_gone() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let said = stage.stamp(&["drill", SYSTEM, "bad-release", "--json"]).ok().json();
    assert_eq!((&said["met"], &said["lost"]), (&true.into(), &0.into()), "{said:#}");
    assert_eq!(said["objective"]["rto_ms"], 3_600_000, "the manifest's recovery time names this drill: {said:#}");
    assert!(said["acknowledged"].as_u64().unwrap() > 20, "{said:#}");
    let timeline = said["timeline"].as_array().unwrap();
    assert!(timeline.iter().any(|m| m["what"].as_str().unwrap().starts_with("fault: ")), "{said:#}");
    let left = std::fs::read_dir(stage.home().join("scratch-homes")).unwrap().count();
    let kept = std::fs::read_dir(stage.home().join("evidence/time-tracker/drills")).unwrap().count();
    assert_eq!((left, kept), (0, 1));
}

#[test]
fn a_recovery_time_that_is_not_kept_fails_the_drill() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let hasty = variant(&stage, &[("within = \"1h\"", "within = \"1ms\"")]);
    let said = stage.stamp(&["drill", &hasty, "bad-release", "--json"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let said = said.json();
    assert_eq!(said["met"], false);
    assert!(said["failed"][0].as_str().unwrap().contains("1 ms are declared"), "{said:#}");
}

#[test]
fn a_persons_stamp_is_broken_only_if_asked_twice_and_not_protected() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let system = variant(&stage, &[]);
    let down = stage.stamp(&["drill", &system, "supervisor-loss", "--on", "dev", "--yes"]);
    assert!(down.code != Some(0) && down.stderr.contains("hint:"), "{down:?}");
    stage.stamp(&["up", &system]).ok();
    let before = stage.ready("time-tracker", "dev");
    let unasked = stage.stamp(&["drill", &system, "supervisor-loss", "--on", "dev"]);
    assert!(unasked.code == Some(2) && unasked.stderr.contains("not confirmed"), "{unasked:?}");
    let moved = stage.stamp(&["drill", &system, "clock-jump", "--on", "dev", "--yes"]);
    assert!(moved.code == Some(2) && moved.stderr.contains("never run on a stamp of yours"), "{moved:?}");
    let said = stage.stamp(&["drill", &system, "supervisor-loss", "--on", "dev", "--yes", "--json"]).ok().json();
    assert_eq!((&said["met"], &said["lost"], &said["rto_ms"]), (&true.into(), &0.into(), &0.into()), "{said:#}");
    let after = stage.ready("time-tracker", "dev");
    let pids = |status: &api::supervisor::Status| -> Vec<(String, Option<u32>)> {
        status.resources.iter().map(|r| (r.name.clone(), r.pids.first().copied())).collect()
    };
    assert_eq!(pids(&before), pids(&after), "nothing but the supervisor was touched");
    assert_ne!(before.supervisor_pid, after.supervisor_pid);
    let system = variant(&stage, &[("[stamps.dev]", "[stamps.dev]\nprotected = true\n#")]);
    stage.stamp(&["up", &system]).ok();
    let refused = stage.stamp(&["drill", &system, "supervisor-loss", "--on", "dev", "--yes"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("is protected"), "{refused:?}");
}

/// With STAMP_LONG: every drill there is, one after the other.
#[test]
fn every_drill_is_kept() {
    if std::env::var_os("STAMP_LONG").is_none() {
        return;
    }
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let all = stage.stamp(&["drill", SYSTEM, "--json"]).ok().json();
    for drill in all.as_array().unwrap() {
        let name = drill["drill"].as_str().unwrap();
        // What these break only production declares: a second copy, a standby in another zone.
        let stamp = if ["region-loss", "zone-loss"].contains(&name) { "prod" } else { "dev" };
        let said = stage.stamp(&["drill", SYSTEM, name, "--stamp", stamp, "--json"]);
        // A machine that gives no disk of its own says so, with the refused command.
        if said.code == Some(1) && said.stderr.contains("refused: mount") {
            testkit::skip("mount", &said.stderr);
            continue;
        }
        assert_eq!(said.ok().json()["met"], true, "{name}");
    }
}
