//! House rules for sources that can be read off the text.

use crate::tree::{Fault, File, Tree};

const LONGEST: usize = 1000;
/// What is written by hand and read by people; data and lock files may be long.
const WRITTEN: [&str; 6] = [".rs", ".js", ".css", ".html", ".sh", ".py"];

pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in &tree.files {
        faults.extend(length(file));
        faults.extend(foreign(file));
        if file.is_rust() {
            faults.extend(rust(file));
        }
        if file.path == "Cargo.toml" {
            faults.extend(dependencies(file));
        }
    }
    faults
}

/// Rust sources by length, the longest first.
pub fn longest(tree: &Tree) -> Vec<(usize, &str)> {
    let mut lengths: Vec<_> =
        tree.files.iter().filter(|f| f.is_rust()).map(|f| (f.text.lines().count(), f.path.as_str())).collect();
    lengths.sort_by(|a, b| b.cmp(a));
    lengths
}

fn length(file: &File) -> Option<Fault> {
    let lines = file.text.lines().count();
    (lines > LONGEST && WRITTEN.iter().any(|e| file.path.ends_with(e)))
        .then(|| Fault::new(&file.path, 0, format!("has {lines} lines; {LONGEST} is the limit, 300 the aim")))
}

/// Folders of one machine, and hosts of package registries, have no place here.
fn foreign(file: &File) -> Vec<Fault> {
    if file.path == "Cargo.lock" {
        return Vec::new();
    }
    let lines = file.lines().filter(|(_, line)| !line.contains("github") && !line.contains("docs.rs"));
    lines
        .filter_map(|(number, line)| {
            let what = if has_machine_path(line) {
                "names a path of one machine"
            } else if has_registry_host(line) {
                "names a host of a package registry"
            } else {
                return None;
            };
            Some(Fault::new(&file.path, number, what))
        })
        .collect()
}

fn has_machine_path(line: &str) -> bool {
    ["work", "farm"].iter().any(|folder| {
        let path = format!("/{folder}/");
        line.match_indices(&path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
        })
    })
}

fn has_registry_host(line: &str) -> bool {
    let hosts = line.split("://").skip(1).map(|rest| rest.split(['/', ':', '"', ' ', ')']).next().unwrap_or(rest));
    hosts.into_iter().any(|host| {
        // The words are the beginnings of the registries' names, in any label but the last.
        let labels: Vec<&str> = host.split('.').collect();
        let named = labels.split_last().map_or(&[][..], |(_, others)| others);
        named.iter().any(|label| ["npm", "pyp", "pyth", "crates", "debian"].iter().any(|word| label.contains(word)))
    })
}

fn rust(file: &File) -> Vec<Fault> {
    let mut faults = Vec::new();
    let fault = |line, what: &str| Fault::new(&file.path, line, what);
    if file.is_product() && !file.text.starts_with("//! ") {
        faults.push(fault(1, "does not begin with `//!` and a sentence that says what it is for"));
    }
    let in_tests =
        matches!(file.path.split('/').collect::<Vec<_>>()[..], ["tests", ..] | ["crates" | "systems", _, "tests", ..]);
    let own = file.path == "xtask/src/source.rs";
    // A unit test stands at the end of its file.
    let product_lines = file.lines().take_while(|(_, l)| !l.trim_start().starts_with("#[cfg(test)]"));
    for (number, line) in product_lines.filter(|(_, l)| !l.trim_start().starts_with("//")) {
        if file.is_product() && line.contains("process::Command") && !may_start_processes(&file.path) {
            faults.push(fault(
                number,
                "starts processes; only drivers, shim and the `tools.rs` of postgres and graph may",
            ));
        }
        if file.is_product() && line.contains("SystemTime::now") && !may_read_the_clock(&file.path) {
            faults.push(fault(number, "reads the wall clock; roles read `service::Clock`"));
        }
    }
    for (number, line) in file.lines().filter(|_| !own) {
        if in_tests && (line.contains("thread::sleep(") || line.contains("time::sleep(")) {
            faults.push(fault(number, "sleeps in a test; await a condition"));
        }
        if line.trim_start().starts_with("#[ignore") && !is_part_of_another(line, file) {
            faults.push(fault(number, "ignores a test, and does not say `started ... by NAME` of a test in this file"));
        }
    }
    faults
}

/// A part of a test that needs a process of its own is a test that the other starts; the reason names it, or its beginning.
fn is_part_of_another(line: &str, file: &File) -> bool {
    let starter = line.split_once("started").and_then(|(_, rest)| rest.split_once(" by ")).map(|(_, rest)| rest);
    let name: String = starter.unwrap_or_default().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    !name.is_empty() && file.text.contains(&format!("fn {name}"))
}

fn may_start_processes(path: &str) -> bool {
    ["crates/drivers/", "crates/shim/", "crates/testkit/"].iter().any(|p| path.starts_with(p))
        || ["crates/postgres/src/tools.rs", "crates/graph/src/tools.rs"].contains(&path)
}

fn may_read_the_clock(path: &str) -> bool {
    // Drivers, the command line and applications are no roles: their times are this machine's.
    ["crates/drivers/", "crates/stamp/", "crates/testkit/", "crates/sdk/", "systems/"]
        .iter()
        .any(|p| path.starts_with(p))
        || path == "crates/service/src/clock.rs"
}

/// Every outside dependency says in its line what it is for.
fn dependencies(file: &File) -> Vec<Fault> {
    let lines = file.lines().skip_while(|(_, l)| *l != "[workspace.dependencies]").skip(1);
    lines
        .take_while(|(_, line)| !line.starts_with('['))
        .filter(|(_, line)| line.contains(" = ") && !line.starts_with('#') && !line.contains("path = "))
        .filter(|(_, line)| line.rsplit_once('#').is_none_or(|(_, why)| why.trim().len() < 4))
        .map(|(number, line)| {
            let name = line.split(' ').next().unwrap_or(line);
            Fault::new(&file.path, number, format!("dependency {name} does not say what it is for"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)])).iter().map(Fault::to_string).collect()
    }

    #[test]
    fn a_long_source_is_refused_and_a_long_table_is_not() {
        let long = "x\n".repeat(1001);
        assert_eq!(faults("xtask/src/a.rs", &long).len(), 1);
        assert_eq!(faults("systems/shop/claims.toml", &long), [""; 0]);
    }

    #[test]
    fn a_machine_s_paths_and_registry_hosts_are_refused() {
        let folder = ["", "work", "main"].join("/");
        let host = ["https:", "", "index.crates.io", "x"].join("/");
        for text in [&folder, &format!("see {folder}"), &host, &host.replace("index.crates.io", "registry.npmjs.org")] {
            assert_eq!(faults("README.md", text).len(), 1, "{text}");
        }
        for text in [&format!("homes{folder}"), &format!("https://github.com/a/b {host}"), "https://example.org/crates"]
        {
            assert_eq!(faults("README.md", text), [""; 0], "{text}");
        }
        assert_eq!(faults("Cargo.lock", &host), [""; 0]);
    }

    #[test]
    fn processes_clocks_and_first_lines_are_seen() {
        let start = "//! A role.\nuse std::process::Command;\n";
        assert_eq!(faults("crates/vault/src/a.rs", start).len(), 1);
        assert_eq!(faults("crates/postgres/src/tools.rs", start), [""; 0]);
        assert_eq!(faults("crates/vault/src/a.rs", "//! A role.\nlet t = SystemTime::now();\n").len(), 1);
        assert_eq!(
            faults("crates/vault/src/a.rs", "//! A role.\n#[cfg(test)]\nmod tests { std::process::Command }\n"),
            [""; 0]
        );
        assert_eq!(faults("crates/vault/src/a.rs", "use std::fs;\n").len(), 1);
    }

    #[test]
    fn sleeping_and_ignored_tests_are_refused() {
        assert_eq!(faults("crates/vault/tests/a.rs", "tokio::time::sleep(x).await;\n#[ignore = \"slow\"]\n").len(), 2);
        let part = "#[ignore = \"started and killed by kill_9, twice\"]\nfn part() {}\nfn kill_9() {}\n";
        assert_eq!(faults("crates/vault/tests/a.rs", part), [""; 0]);
        assert_eq!(faults("crates/vault/tests/a.rs", &part.replace("fn kill_9", "fn other")).len(), 1);
    }

    #[test]
    fn a_dependency_says_what_it_is_for() {
        let text = "[workspace.dependencies]\n# Ours.\napi = { path = \"crates/api\" }\nhttp = \"1\" # shared HTTP types\nurl = \"2\"\n[profile.dev]\na = 1\n";
        assert_eq!(faults("Cargo.toml", text), ["Cargo.toml:5: dependency url does not say what it is for"]);
    }
}
