//! The command line: command, exit code, standard output, standard error. Nothing here starts a supervisor.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{path::Path, process::Command};

fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_stamp"))
        .args(arguments)
        .current_dir(folder)
        .env("STAMP_HOME", folder.join("home"))
        .env("NO_COLOR", "1")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = format!(
        "$ stamp {}\nexit {}\n--- stdout\n{}--- stderr\n{}",
        arguments.join(" "),
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // Where the test happens to run is not what it is about.
    said.replace(&folder.display().to_string(), "[scratch]")
}

fn scratch(manifest: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("shop")).unwrap();
    std::fs::write(dir.path().join("shop/system.toml"), manifest).unwrap();
    dir
}

const SOUND: &str = r#"stamp  = 1
system = "shop"
[stamps.dev]
[edge]
routes = [{ path = "/", to = "service.web" }]
[service.web]
run    = ["shop-web"]
port   = 8080
health = "/health"
"#;

#[test]
fn a_sound_manifest_is_planned() {
    let dir = scratch(SOUND);
    insta::assert_snapshot!(run(dir.path(), &["plan", "shop"]));
    let json: serde_json::Value = serde_json::from_str(
        run(dir.path(), &["plan", "shop", "--json"])
            .split("--- stdout\n")
            .nth(1)
            .unwrap()
            .split("--- stderr")
            .next()
            .unwrap(),
    )
    .unwrap();
    assert_eq!(json["steps"][0]["id"], "prepare");
}

#[test]
fn all_faults_of_a_manifest_are_shown_at_once() {
    let broken = SOUND
        .replace("health =", "helth  =")
        .replace("port   = 8080", "port   = 80800")
        .replace("service.web\" }", "service.wbe\" }");
    let dir = scratch(&broken);
    insta::assert_snapshot!(run(dir.path(), &["up", "shop"]));
    assert!(!dir.path().join("home").exists(), "nothing was started or made");
}

#[test]
fn what_is_asked_wrongly_ends_with_2_and_a_mend() {
    let dir = scratch(SOUND);
    let mut all = String::new();
    for arguments in [
        &["up", "nowhere"][..],
        &["plan", "shop", "--stamp", "prod"],
        &["explain", "S9999"],
        &["destroy", "shop"],
        &["frobnicate"],
    ] {
        all.push_str(&run(dir.path(), arguments));
        all.push('\n');
    }
    // The list of codes grows; its shape is what matters.
    let all = all
        .lines()
        .map(|l| if l.contains("there is: S0") { "hint: there is: [codes]" } else { l })
        .collect::<Vec<_>>()
        .join("\n");
    insta::assert_snapshot!(all);
}

#[test]
fn init_writes_a_manifest_that_plans_and_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), &["init", "new"]);
    assert!(first.contains("exit 0"), "{first}");
    let plan = run(dir.path(), &["plan", "new"]);
    assert!(plan.contains("exit 0"), "{plan}");
    let again = run(dir.path(), &["init", "new"]);
    assert!(again.contains("exit 2") && again.contains("is there already"), "{again}");
}

#[test]
fn every_error_code_in_the_sources_can_be_explained() {
    let dir = tempfile::tempdir().unwrap();
    for code in ["S0101", "S0201", "S0209", "S0301", "s0215"] {
        let said = run(dir.path(), &["explain", code]);
        assert!(said.contains("exit 0") && said.contains(&code.to_uppercase()), "{said}");
    }
}

#[test]
fn the_schema_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(dir.path(), &["schema"]);
    let text = said.split("--- stdout\n").nth(1).unwrap().split("--- stderr").next().unwrap();
    let schema: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(schema["properties"]["service"].is_object());
}
