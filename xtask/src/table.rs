//! The crate table of ARCHITECTURE.md against what the crates really import.

use std::{collections::BTreeMap, process::Command};

use anyhow::Context as _;
use serde_json::Value;

use crate::tree::{Fault, Tree};

const MAP: &str = "ARCHITECTURE.md";

/// One row's crate: its layer (`None` for `dev`) and what it may import.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    line: usize,
    layer: Option<u32>,
    may: May,
}

#[derive(Debug, PartialEq, Eq)]
enum May {
    These(Vec<String>),
    /// Every crate of a lower layer.
    AllAbove,
    /// Every crate; such a crate is only ever a dev-dependency.
    All,
}

/// One of our packages: where it lies, and its dependencies among ours as (name, is it a dev-dependency).
pub struct Package {
    pub name: String,
    pub folder: String,
    pub imports: Vec<(String, bool)>,
}

/// Our packages as cargo sees them; needs neither network nor lock.
pub fn packages(tree: &Tree) -> anyhow::Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&tree.root)
        .output()
        .context("start cargo")?;
    anyhow::ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let root = all["workspace_root"].as_str().context("workspace_root")?.to_owned();
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut packages = Vec::new();
    for package in list(&all, "packages") {
        let manifest = text(&package, "manifest_path")?;
        let folder =
            manifest.strip_prefix(&root).unwrap_or(&manifest).trim_start_matches('/').trim_end_matches("/Cargo.toml");
        let ours = list(&package, "dependencies").into_iter().filter(|d| d["path"].is_string());
        let imports = ours.map(|d| Ok((text(&d, "name")?, d["kind"] == "dev"))).collect::<anyhow::Result<_>>()?;
        packages.push(Package { name: text(&package, "name")?, folder: folder.into(), imports });
    }
    Ok(packages)
}

/// Rows of `| layer | crate | duty | may import |`; a row may name several crates.
fn parse(text: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !line.trim_start().starts_with('|') {
            inside = false;
        } else if cells[..].first() == Some(&"layer") && cells.get(1) == Some(&"crate") {
            inside = true;
        } else if inside && cells.len() == 4 && !cells[0].starts_with("--") {
            for name in cells[1].split('`').skip(1).step_by(2) {
                let may = match cells[3] {
                    "all above" => May::AllAbove,
                    all if all.starts_with("all") => May::All,
                    these => May::These(
                        these
                            .split(',')
                            .map(|t| t.trim().trim_matches('`').to_owned())
                            .filter(|t| t != "-" && !t.is_empty())
                            .collect(),
                    ),
                };
                rows.insert(name.to_owned(), Row { line: index + 1, layer: cells[0].parse().ok(), may });
            }
        }
    }
    rows
}

pub fn check(tree: &Tree, packages: &[Package]) -> Vec<Fault> {
    let Some(map) = tree.file(MAP) else { return vec![Fault::new(MAP, 0, "is missing; it has the crate table")] };
    let rows = parse(&map.text);
    if rows.is_empty() {
        return vec![Fault::new(MAP, 0, "has no table `| layer | crate | duty | may import |`")];
    }
    let mut faults = Vec::new();
    for (name, row) in &rows {
        if !packages.iter().any(|p| p.name == *name) {
            faults.push(Fault::new(MAP, row.line, format!("names crate `{name}`, which does not exist")));
        }
        let May::These(may) = &row.may else { continue };
        for import in may {
            match rows.get(import) {
                None => faults.push(Fault::new(
                    MAP,
                    row.line,
                    format!("lets `{name}` import `{import}`, which is not in the table"),
                )),
                Some(other) if other.layer >= row.layer => {
                    faults.push(Fault::new(
                        MAP,
                        row.line,
                        format!("lets `{name}` import `{import}`, which is not of a lower layer"),
                    ));
                }
                Some(_) => {}
            }
        }
    }
    for package in packages {
        faults.extend(check_package(&rows, package));
    }
    faults
}

fn check_package(rows: &BTreeMap<String, Row>, package: &Package) -> Vec<Fault> {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let fault = |what: String| Fault::new(&manifest, 0, what);
    let mut faults = Vec::new();
    for (import, dev) in &package.imports {
        let only_dev = rows.get(import).is_some_and(|r| r.may == May::All);
        let may = if package.folder.starts_with("systems/") {
            // An application is an honest outside user.
            import == "sdk" || (*dev && only_dev)
        } else if package.folder == "xtask" {
            false
        } else {
            match rows.get(&package.name) {
                None => false,
                Some(_) if only_dev => *dev,
                Some(row) => match &row.may {
                    May::All => true,
                    May::AllAbove => rows.get(import).is_some_and(|r| r.layer.is_some() && r.layer < row.layer),
                    May::These(may) => may.contains(import),
                },
            }
        };
        if !may {
            faults.push(fault(format!("`{}` may not import `{import}` (see the table in {MAP})", package.name)));
        }
    }
    if package.folder.starts_with("crates/") && !rows.contains_key(&package.name) {
        faults.push(fault(format!("crate `{}` is missing in the table in {MAP}", package.name)));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
| word | meaning |
|---|---|
| crate | no row of the table |

| layer | crate | duty | may import |
|---|---|---|---|
| 0 | `model` | plan | - |
| 0 | `api` | wire | - |
| 1 | `service` | listen | api |
| 1 | `sdk` | apps | `api` |
| 2 | `vault` `audit` | one role each | service, api |
| 4 | `stamp` | the binary | all above |
| dev | `testkit` | tests | all, from `tests/` only |
";

    fn package(name: &str, folder: &str, imports: &[(&str, bool)]) -> Package {
        let imports = imports.iter().map(|(n, d)| ((*n).to_owned(), *d)).collect();
        Package { name: name.into(), folder: folder.into(), imports }
    }

    fn all(more: Package) -> Vec<Package> {
        let names = ["model", "api", "service", "sdk", "vault", "audit", "stamp", "testkit"];
        let others = names
            .iter()
            .filter(|n| **n != more.name)
            .map(|n| package(n, &format!("crates/{n}"), &[]))
            .collect::<Vec<_>>();
        others.into_iter().chain([more]).collect()
    }

    fn faults(more: Package) -> Vec<String> {
        check(&Tree::of(&[(MAP, TABLE)]), &all(more)).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn imports_that_the_table_allows_pass() {
        assert_eq!(
            faults(package("vault", "crates/vault", &[("api", false), ("service", false), ("testkit", true)])),
            [""; 0]
        );
        assert_eq!(faults(package("stamp", "crates/stamp", &[("model", false), ("audit", false)])), [""; 0]);
        assert_eq!(faults(package("shop", "systems/shop", &[("sdk", false), ("testkit", true)])), [""; 0]);
        assert_eq!(faults(package("testkit", "crates/testkit", &[("stamp", false)])), [""; 0]);
    }

    #[test]
    fn imports_that_it_does_not_are_named() {
        for (name, folder, import, dev) in [
            ("vault", "crates/vault", "audit", false),
            ("vault", "crates/vault", "model", false),
            ("vault", "crates/vault", "testkit", false),
            ("model", "crates/model", "api", false),
            ("stamp", "crates/stamp", "testkit", false),
            ("shop", "systems/shop", "api", false),
            ("shop", "systems/shop", "service", true),
            ("xtask", "xtask", "model", false),
        ] {
            let found = faults(package(name, folder, &[(import, dev)]));
            assert!(found.iter().any(|f| f.contains(&format!("`{import}`"))), "{name} -> {import} passed: {found:?}");
        }
    }

    #[test]
    fn the_table_itself_is_checked() {
        let found = faults(package("blob", "crates/blob", &[]));
        assert_eq!(found, ["crate `blob` is missing in the table in ARCHITECTURE.md"]);
        let upward =
            TABLE.replace("| 0 | `api` | wire | - |", "| 0 | `api` | wire | service |\n| 2 | `gone` | x | api |");
        let found = check(&Tree::of(&[(MAP, &upward)]), &all(package("vault", "crates/vault", &[])));
        let found: Vec<String> = found.into_iter().map(|f| f.to_string()).collect();
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md:8: lets `api` import `service`, which is not of a lower layer",
                "ARCHITECTURE.md:9: names crate `gone`, which does not exist",
            ]
        );
    }
}
