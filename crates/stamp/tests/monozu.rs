//! Monozu as a whole stamp: it comes up without a question, and the kept walk goes through it from end to end.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use testkit::{As, Stage};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systems/monozu");

/// Runs the system's own walk against a stamp; it ends with 1 at the first thing that is not as it should be.
fn walk(stage: &Stage, stamp: &str) {
    let walked = std::process::Command::new("python3")
        .arg(format!("{SYSTEM}/walk"))
        .args(["--stamp", stamp, "--stamp-program", STAMP])
        .env("STAMP_HOME", stage.home())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&walked.stdout).into_owned() + &String::from_utf8_lossy(&walked.stderr);
    assert!(walked.status.success(), "{said}");
    assert!(said.contains("its login is refused: tenant_pending") && said.contains("is refused\n"), "{said}");
}

#[test]
fn it_comes_up_without_a_question_and_is_walked_through_with_no_password_anywhere() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    walk(&stage, "dev");
    // Nothing that a service is handed opens the database: its settings name a place and a role.
    for service in ["cloud", "manage", "ingest"] {
        let said = stage.stamp(&["exec", SYSTEM, service, "--", "/usr/bin/env"]).ok().stdout;
        assert!(said.contains("MZ_LOGIN=identity") && said.contains("PGUSER="), "{service}: {said}");
        assert!(
            !said.contains("PGPASSWORD") && !said.contains("DATABASE_URL") && !said.contains("postgresql://"),
            "{service}"
        );
    }
    stage.stamp(&["destroy", SYSTEM, "--yes"]).ok();
}

#[test]
fn a_local_stamp_signs_in_to_sql() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    stage.stamp(&["up", SYSTEM, "--stamp", "local"]).ok();
    walk(&stage, "local");
    stage.stamp(&["destroy", SYSTEM, "--stamp", "local", "--yes"]).ok();
}
