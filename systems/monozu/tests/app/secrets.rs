//! The list of secrets is true: each program refuses to start without what it names, and reads no other.

use std::collections::BTreeSet;

use monozu::{cloud, manage};
use sdk::Settings;

const LIST: &str = include_str!("../../docs/cloud-management-env.md");
const MANIFEST: &str = include_str!("../../system.toml");

/// The names that the list gives a program: column 2 is Cloud's, 3 Management's.
fn listed(column: usize) -> BTreeSet<String> {
    let rows = LIST.lines().filter(|l| l.starts_with("| `"));
    let cells = rows.map(|l| l.split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(|c| c[column].starts_with("yes")).map(|c| c[1].trim_matches('`').to_owned()).collect()
}

/// The names that a table of the manifest has.
fn declared(table: &str) -> BTreeSet<String> {
    let body = MANIFEST.split(&format!("\n[{table}]\n")).nth(1).unwrap();
    let lines = body.lines().take_while(|l| !l.starts_with('[')).filter_map(|l| l.split_once('='));
    lines.map(|(name, _)| name.trim().to_owned()).collect()
}

fn settings(without: &str, secrets: &BTreeSet<String>) -> Settings {
    let value = |name: &str| match name {
        n if n.ends_with("_URL") => "http://127.0.0.1:1",
        _ => "a value of at least thirty-two characters",
    };
    let mut pairs: Vec<(String, &str)> = secrets.iter().map(|name| (name.clone(), value(name))).collect();
    for (name, value) in [
        ("MZ_LOGIN", "sql"),
        ("DATABASE_URL", "Host=/tmp;Database=x;Username=x"),
        ("PUBLIC_URL", "https://127.0.0.1"),
        ("MS_AUTHORITY", "https://127.0.0.1"),
        ("SNAP_STORE", "/tmp"),
    ] {
        pairs.push((name.to_owned(), value));
    }
    pairs.retain(|(name, _)| name != without);
    Settings::from_pairs(pairs)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

#[test]
fn each_program_reads_the_listed_secrets_and_names_the_one_that_is_missing() {
    let (ours, theirs) = (listed(2), listed(3));
    assert_eq!((ours.len(), theirs.len()), (8, 8));
    assert_eq!(ours, declared("vault.cloud.secrets"));
    assert_eq!(theirs, declared("vault.manage.secrets"));
    assert!(cloud::App::from_settings(&settings("", &ours)).is_ok());
    assert!(manage::App::from_settings(&settings("", &theirs)).is_ok());
    // Telemetry is optional by design: without it, lines go to standard output alone.
    for name in ours.iter().filter(|n| *n != "APPLICATIONINSIGHTS_CONNECTION_STRING") {
        let error = cloud::App::from_settings(&settings(name, &ours)).err().unwrap();
        assert!(chain(&error).contains(name), "{name}: {}", chain(&error));
    }
    for name in theirs.iter().filter(|n| *n != "APPLICATIONINSIGHTS_CONNECTION_STRING") {
        let error = manage::App::from_settings(&settings(name, &theirs)).err().unwrap();
        assert!(chain(&error).contains(name), "{name}: {}", chain(&error));
    }
}

#[test]
fn local_sign_in_to_sql_needs_its_address() {
    let error = cloud::App::from_settings(&settings("DATABASE_URL", &listed(2))).err().unwrap();
    assert!(chain(&error).contains("DATABASE_URL"), "{}", chain(&error));
    let error = cloud::App::from_settings(&settings("MZ_LOGIN", &listed(2))).err().unwrap();
    assert!(chain(&error).contains("MZ_LOGIN"), "{}", chain(&error));
}
