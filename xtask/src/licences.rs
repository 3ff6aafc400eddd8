//! Licences of everything that is linked in, against the list in deny.toml.

use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;
use toml_edit::DocumentMut;

use crate::tree::{Fault, Tree};

const LIST: &str = "deny.toml";

pub fn check(tree: &Tree) -> anyhow::Result<Vec<Fault>> {
    let Some(list) = tree.file(LIST) else { return Ok(vec![Fault::new(LIST, 0, "is missing; it lists the licences")]) };
    let list: DocumentMut = list.text.parse().context("parse deny.toml")?;
    let allow: Vec<String> = list["licenses"]["allow"]
        .as_array()
        .context("deny.toml has no licenses.allow")?
        .iter()
        .filter_map(|l| l.as_str().map(str::to_owned))
        .collect();
    let mut faults = Vec::new();
    for (package, licence) in packages(tree)? {
        match licence {
            None => faults.push(Fault::new("Cargo.lock", 0, format!("{package} says no licence"))),
            Some(text) if !allowed(&text, &allow) => {
                faults.push(Fault::new(
                    "Cargo.lock",
                    0,
                    format!("{package} has licence '{text}', which {LIST} does not allow"),
                ));
            }
            Some(_) => {}
        }
    }
    Ok(faults)
}

/// Name with version, and licence, of every package that is built for this platform. From what cargo has here already.
fn packages(tree: &Tree) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let rustc = Command::new("rustc").arg("-vV").output().context("start rustc")?;
    let about = String::from_utf8(rustc.stdout).context("read what rustc says of itself")?;
    let host = about.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc names no host")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host])
        .current_dir(&tree.root)
        .output()
        .context("start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata failed (build once, so that all packages are here): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = all["packages"].as_array().context("cargo metadata has no packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(packages
        .iter()
        .map(|p| {
            (
                format!("{} {}", p["name"].as_str().unwrap_or("?"), p["version"].as_str().unwrap_or("?")),
                text(&p["license"]),
            )
        })
        .collect())
}

/// Whether an SPDX expression can be satisfied by the list. `/` is the old way to write OR.
fn allowed(expression: &str, allow: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let result = either(&mut rest, allow);
    rest.is_empty() && result == Some(true)
}

fn either(words: &mut &[&str], allow: &[String]) -> Option<bool> {
    let mut result = both(words, allow)?;
    while let Some(("OR", rest)) = words.split_first().map(|(w, r)| (*w, r)) {
        *words = rest;
        result |= both(words, allow)?;
    }
    Some(result)
}

fn both(words: &mut &[&str], allow: &[String]) -> Option<bool> {
    let mut result = one(words, allow)?;
    while let Some(("AND", rest)) = words.split_first().map(|(w, r)| (*w, r)) {
        *words = rest;
        result &= one(words, allow)?;
    }
    Some(result)
}

fn one(words: &mut &[&str], allow: &[String]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    if *first == "(" {
        let result = either(words, allow)?;
        let (close, rest) = words.split_first()?;
        *words = rest;
        return (*close == ")").then_some(result);
    }
    let mut licence = (*first).to_owned();
    if let [with, exception, rest @ ..] = *words
        && *with == "WITH"
    {
        licence = format!("{licence} WITH {exception}");
        *words = rest;
    }
    Some(allow.contains(&licence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_understood() {
        let allow: Vec<String> = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(String::from).to_vec();
        for (text, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("Unlicense/MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("ISC AND (GPL-3.0 OR MIT)", true),
            ("(GPL-3.0 OR MIT) AND GPL-2.0", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("Apache-2.0", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(allowed(text, &allow), expected, "{text}");
        }
    }
}
