//! A whole stamp whose data is damaged, restored and swapped; and one that is lost and comes back from a copy of its backups.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{path::PathBuf, time::Duration};

use testkit::{As, Stage, wait_until};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systems/time-tracker");

/// Rows of a statement on the application's own connection, as the application.
fn sql(stage: &Stage, system: &str, stamp: &str, statement: &str) -> Vec<String> {
    let asks = serde_json::json!([
        { "sql": { "variable": "ConnectionStrings__DefaultConnection", "statements": [statement] } }
    ]);
    // The copy that every user of the home may run.
    let mut kept = std::fs::read_dir(stage.home().join("bin")).unwrap().flatten().map(|e| e.path().join("stamp"));
    let program = kept.find(|p| p.exists()).unwrap().display().to_string();
    let said =
        stage.stamp(&["exec", system, "web", "--stamp", stamp, "--", &program, "probe", &asks.to_string()]).ok().stdout;
    let line = said.lines().find_map(|l| l.strip_prefix("inside: ")).unwrap_or_else(|| panic!("it said {said}"));
    let saw: serde_json::Value = serde_json::from_str(line).unwrap();
    let rows = saw[0]["sql"][0].as_array().unwrap_or_else(|| panic!("{statement}: {saw}"));
    rows.iter().map(|row| row[0].as_str().unwrap_or_default().to_owned()).collect()
}

/// A stage whose engine has PostgreSQL's client tools; None (and SKIP) where it has not.
fn stage() -> Option<Stage> {
    let stage = Stage::new(STAMP, As::Caller)?;
    let engines = std::fs::read_dir(stage.home().join("engines")).into_iter().flatten().flatten();
    let there = engines.into_iter().any(|engine| {
        ["bin", "tools/bin"].iter().any(|folder| engine.path().join(folder).join("pg_basebackup").exists())
    });
    testkit::require("tools", there, "no pg_basebackup; `engines/bring postgresql` brings it").then_some(stage)
}

const COUNT: &str = r#"SELECT count(*)::text FROM "Projects" WHERE "Code" LIKE 'B-%'"#;

fn write(stage: &Stage, system: &str, stamp: &str, from: u32, to: u32) {
    let statement = format!(
        r#"INSERT INTO "Projects" ("Code", "Name") SELECT 'B-' || n, 'Written before' FROM generate_series({from}, {to}) n"#
    );
    sql(stage, system, stamp, &statement);
}

fn backups(stage: &Stage, system: &str, stamp: &str) -> serde_json::Value {
    stage.stamp(&["backups", system, "--stamp", stamp, "--json"]).ok().json()[0].clone()
}

#[test]
fn a_mistake_is_undone_by_a_restore_to_the_second_before_and_a_swap() {
    let Some(stage) = stage() else { return };
    let up = stage.stamp(&["up", SYSTEM, "--json"]).ok().json();
    let key = up["recovery_key"].as_str().unwrap().to_owned();
    assert_eq!(key.split('-').map(str::len).collect::<Vec<_>>(), [4; 9]);
    assert!(stage.stamp(&["up", SYSTEM, "--json"]).ok().json()["recovery_key"].is_null(), "it is shown once");

    stage.stamp(&["backup", SYSTEM]).ok();
    write(&stage, SYSTEM, "dev", 1, 40);
    let moment = sql(
        &stage,
        SYSTEM,
        "dev",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
    );
    wait_until("the clock goes on", Duration::from_secs(5), || {
        let later = sql(
            &stage,
            SYSTEM,
            "dev",
            &format!("SELECT (clock_timestamp() > '{}'::timestamptz + interval '5 ms')::text", moment[0]),
        );
        if later == ["true"] { Ok(()) } else { Err(format!("{later:?}")) }
    });
    sql(&stage, SYSTEM, "dev", r#"DELETE FROM "Projects" WHERE "Code" LIKE 'B-%'"#);
    assert_eq!(sql(&stage, SYSTEM, "dev", COUNT), ["0"]);

    let before = stage.status(SYSTEM, "dev").unwrap();
    let restored = stage.stamp(&["restore", SYSTEM, "--to", &moment[0], "--json"]).ok().json();
    println!("restored within {} ms: {}", restored["milliseconds"], restored["restore"]["stopped"]);
    assert_eq!(restored["name"], "postgres.main-restored");
    let beside = stage.status(SYSTEM, "dev").unwrap();
    assert!(beside.resources.iter().any(|r| r.name == "postgres.main-restored" && r.state == "ready"));
    assert_eq!(sql(&stage, SYSTEM, "dev", COUNT), ["0"], "the original is as it was until it is swapped");
    // What stands beside it is no reason to start anything anew, but for the telemetry: its logs go there.
    stage.stamp(&["up", SYSTEM]).ok();
    let after = stage.status(SYSTEM, "dev").unwrap();
    for was in before.resources.iter().filter(|r| r.state == "ready" && r.name != "telemetry.main") {
        let is = after.resources.iter().find(|r| r.name == was.name).unwrap();
        // Its shim, and what that started.
        assert_eq!(is.pids.iter().take(2).collect::<Vec<_>>(), was.pids.iter().take(2).collect::<Vec<_>>(), "{is:?}");
    }

    let swapped = stage.stamp(&["restore", SYSTEM, "--swap", "--yes", "--json"]).ok().json();
    let kept = PathBuf::from(swapped["kept"].as_str().unwrap());
    let there = match kept.is_file() {
        true => drivers::volume::holds(&kept, std::path::Path::new("pgdata/PG_VERSION")).unwrap(),
        false => kept.join("PG_VERSION").exists(),
    };
    assert!(there, "{}", kept.display());
    assert_eq!(sql(&stage, SYSTEM, "dev", COUNT), ["40"]);
    assert!(!stage.status(SYSTEM, "dev").unwrap().resources.iter().any(|r| r.name.ends_with("-restored")));
    stage.stamp(&["restore", SYSTEM, "--forget-replaced", "--yes"]).ok();
    assert!(!kept.exists());

    // On its new timeline it is backed up by itself, and what is written from here on can be gone back to.
    write(&stage, SYSTEM, "dev", 41, 50);
    wait_until("a base backup of the new timeline", Duration::from_secs(60), || {
        let all = backups(&stage, SYSTEM, "dev");
        let there = all["bases"].as_array().is_some_and(|b| b.iter().any(|b| b["timeline"] == 2));
        if there { Ok(()) } else { Err(all.to_string()) }
    });
    let verified = stage.stamp(&["backups", SYSTEM, "--verify", "--json"]).ok().json();
    assert_eq!(verified["state"], "verified");
    let refused = stage.stamp(&["restore", SYSTEM, "--to", "2020-01-01T00:00:00Z"]);
    assert!(refused.stderr.contains("S0230") && refused.stderr.contains("what can is"), "{}", refused.stderr);
}

#[test]
fn a_stamp_that_is_lost_comes_back_from_the_copy_and_the_recovery_key_alone() {
    let Some(stage) = stage() else { return };
    let system = stage.scratch().join("system");
    let copied = std::process::Command::new("cp").arg("-a").arg(SYSTEM).arg(&system).status().unwrap();
    assert!(copied.success());
    let manifest = system.join("system.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace("every = \"1d\", point_in_time = true", "every = \"1d\", point_in_time = true, geo = true");
    assert!(text.contains("point_in_time = true, geo = true"));
    std::fs::write(&manifest, text.replace("[stamps.dev]", "[stamps.dev]\n\n[stamps.west]\nregion = \"elsewhere\"\n"))
        .unwrap();
    let system = system.display().to_string();

    let up = stage.stamp(&["up", &system, "--json"]).ok().json();
    let key = up["recovery_key"].as_str().unwrap().to_owned();
    stage.stamp(&["user", "add", &system, "ada@example.com"]).ok();
    stage.stamp(&["backup", &system]).ok();
    write(&stage, &system, "dev", 1, 25);
    stage.stamp(&["backup", &system, "--point", "last"]).ok();
    let mut copy = PathBuf::new();
    wait_until("the copy is whole", Duration::from_secs(120), || {
        let all = backups(&stage, &system, "dev");
        copy = PathBuf::from(all["copy"]["folder"].as_str().unwrap_or_default());
        let roles = std::fs::read_dir(&copy).into_iter().flatten().flatten();
        let roles = roles.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("roles-"));
        let whole = all["copy"]["files_behind"] == 0 && roles && copy.join("keys.box").exists();
        if whole { Ok(()) } else { Err(all["copy"].to_string()) }
    });
    // All that carries the first region's label is lost; the copy is somewhere else by then.
    let away = stage.scratch().join("copy");
    let from = copy.parent().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(&away).status().unwrap();
    assert!(copied.success());
    stage.stamp(&["destroy", &system, "--yes"]).ok();

    let wrong = stage.scratch().join("wrong");
    std::fs::write(&wrong, "0000-0000-0000-0000-0000-0000-0000-0000-0000").unwrap();
    let restore = |key: &std::path::Path| {
        let (from, key) = (away.display().to_string(), key.display().to_string());
        stage.stamp(&["restore", &system, "--from", &from, "--key-file", &key, "--stamp", "west", "--json"])
    };
    let refused = restore(&wrong);
    assert!(refused.stderr.contains("recovery key"), "{}", refused.stderr);
    let right = stage.scratch().join("right");
    std::fs::write(&right, key.to_lowercase()).unwrap();
    let back = restore(&right).ok().json();
    println!("up from the copy within {} s", back["seconds"]);
    assert_eq!(sql(&stage, &system, "west", COUNT), ["25"]);
    let status = stage.status(&system, "west").unwrap();
    assert!(status.resources.iter().all(|r| r.state == "ready"), "{status:?}");
    // People and the audit record came along; the record's chain is whole.
    let shown = stage.stamp(&["audit", "show", &system, "--stamp", "west", "--json", "-n", "500"]).ok().stdout;
    assert!(shown.contains("vault.main"), "no record of before: {shown}");
    stage.stamp(&["audit", "verify", &system, "--stamp", "west"]).ok();
}
