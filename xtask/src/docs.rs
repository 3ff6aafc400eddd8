//! What the documents name must be there: paths, pages of errors, one decision note a number.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Fault, Tree};

/// Endings by which a word in backticks is taken for a file of ours.
const ENDINGS: [&str; 6] = [".md", ".rs", ".toml", ".sql", ".sh", ".digest"];
/// What is only there after a build or a run, and what a document may name without it being ours.
const ELSEWHERE: [&str; 3] = ["target/", "Cargo.lock", "postgresql.conf"];

/// Every path in backticks and every relative link of the documents exists.
pub fn paths(tree: &Tree) -> Vec<Fault> {
    let tops: BTreeSet<&str> = tree.files.iter().filter_map(|f| f.path.split_once('/')).map(|(top, _)| top).collect();
    let mut faults = Vec::new();
    // A changelog tells of what was.
    for file in tree.files.iter().filter(|f| f.path.ends_with(".md") && f.path != "CHANGELOG.md") {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut fenced = false;
        for (number, line) in file.lines() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            let quoted = line.split('`').skip(1).step_by(2).filter(|word| looks_like_path(word, &tops));
            let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            let links = links.map(|l| l.split('#').next().unwrap_or(l)).filter(|l| !l.is_empty() && !l.contains(':'));
            for word in quoted.chain(links) {
                let path = without_line(word);
                if !exists(tree, folder, path) {
                    faults.push(Fault::new(&file.path, number, format!("names `{path}`, which does not exist")));
                }
            }
        }
    }
    faults
}

fn looks_like_path(word: &str, tops: &BTreeSet<&str>) -> bool {
    let word = without_line(word);
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/*<>".contains(c));
    if !plain || word.starts_with('/') || word.starts_with("--") || ELSEWHERE.iter().any(|e| word.starts_with(e)) {
        return false;
    }
    let in_tree = word.split_once('/').is_some_and(|(top, _)| tops.contains(top));
    let ending = ENDINGS.iter().any(|e| word.len() > e.len() && word.ends_with(e));
    in_tree || ending
}

/// `file.rs:12` without its line, `./file` without the dot.
fn without_line(word: &str) -> &str {
    let word = word.strip_prefix("./").unwrap_or(word);
    match word.split_once(':') {
        Some((path, line)) if line.bytes().all(|b| b.is_ascii_digit()) => path,
        _ => word,
    }
}

/// From the root, from the document's folder, or as the end of a path. `*` and `<name>` stand for any one part, `NNNN` for
/// any number.
fn exists(tree: &Tree, folder: &str, path: &str) -> bool {
    let from_here = format!("{folder}/{path}");
    if tree.has(path) || tree.has(from_here.trim_start_matches('/')) || path.trim_end_matches('/').is_empty() {
        return true;
    }
    if path.starts_with("..") {
        let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
        for part in path.split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." | "" => {}
                part => parts.push(part),
            }
        }
        return parts.is_empty() || tree.has(&parts.join("/"));
    }
    let wanted: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    tree.files.iter().any(|file| {
        let parts: Vec<&str> = file.path.split('/').collect();
        // Anywhere for a file's end; a folder may end before the file does.
        parts.windows(wanted.len()).any(|window| window.iter().zip(&wanted).all(|(part, wanted)| fits(part, wanted)))
    })
}

fn fits(part: &str, wanted: &str) -> bool {
    if wanted.contains('<') || wanted.contains("NNNN") {
        return true;
    }
    match wanted.split_once('*') {
        Some((before, after)) => part.len() + 1 >= wanted.len() && part.starts_with(before) && part.ends_with(after),
        None => part == wanted,
    }
}

/// Codes `S0nnn` in the product's sources have a page each in docs/errors, and each page a code.
pub fn error_codes(tree: &Tree) -> Vec<Fault> {
    let mut used: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for file in tree.files.iter().filter(|f| f.is_product()) {
        for (number, line) in file.lines() {
            for code in codes(line) {
                used.entry(code).or_insert((&file.path, number));
            }
        }
    }
    let mut faults = Vec::new();
    for (code, (path, line)) in &used {
        let page = format!("docs/errors/{code}.md");
        match tree.file(&page) {
            None => faults.push(Fault::new(path, *line, format!("uses {code}, which has no page {page}"))),
            Some(page) if !page.text.starts_with(&format!("# {code}")) => {
                faults.push(Fault::new(&page.path, 1, format!("must begin with `# {code}`")));
            }
            Some(_) => {}
        }
    }
    for file in &tree.files {
        if let Some(code) = file.path.strip_prefix("docs/errors/").and_then(|p| p.strip_suffix(".md"))
            && codes(code).next() == Some(code)
            && !used.contains_key(code)
        {
            faults.push(Fault::new(&file.path, 0, "explains a code that no source uses"));
        }
    }
    faults
}

fn codes(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("S0").filter_map(|(at, _)| {
        let code = line.get(at..at + 5)?;
        let alone = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
        (code[1..].bytes().all(|b| b.is_ascii_digit())
            && alone(line[..at].chars().next_back())
            && alone(line[at + 5..].chars().next()))
        .then_some(code)
    })
}

/// Decision notes are called NNNN-title.md, and no two have one number.
pub fn decision_notes(tree: &Tree) -> Vec<Fault> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut faults = Vec::new();
    for file in &tree.files {
        let Some(name) = file.path.strip_prefix("docs/decisions/") else { continue };
        let number = name.split('-').next().unwrap_or(name);
        if name == "README.md" {
        } else if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_digit()) || !name.ends_with(".md") {
            faults.push(Fault::new(&file.path, 0, "must be called NNNN-title.md"));
        } else if let Some(other) = seen.insert(number, &file.path) {
            faults.push(Fault::new(&file.path, 0, format!("has the number of {other}")));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("docs/guide.md", text),
            ("docs/decisions/0001-one.md", ""),
            ("crates/model/src/plan.rs", ""),
            ("systems/shop/claims.toml", ""),
            ("stampw", ""),
        ]);
        paths(&tree).into_iter().map(|f| f.what.split('`').nth(1).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn paths_that_exist_pass_in_every_form() {
        let text = "`crates/model/src/plan.rs:12` `crates/model/` `plan.rs` `model/src/plan.rs` `./stampw` `decisions/0001-one.md`\n\
                    `systems/*/claims.toml` `systems/<name>/claims.toml` `docs/decisions/NNNN-*.md` [x](../stampw) [y](guide.md#part)\n\
                    `text/plain` `127.0.0.0/8` `and/or` `/health` `--json` [z](https://example.org/a.md)\n\
                    ```\n`crates/gone.rs`\n```";
        assert_eq!(named(text), [""; 0]);
    }

    #[test]
    fn paths_that_do_not_exist_are_named() {
        let text =
            "`crates/gone/src/lib.rs` `gone.rs` `docs/gone/` [x](gone.md) `systems/*/gone.toml` `model/src/gone.rs:3`";
        let mut found = named(text);
        found.sort();
        let expected =
            ["crates/gone/src/lib.rs", "docs/gone/", "gone.md", "gone.rs", "model/src/gone.rs", "systems/*/gone.toml"];
        assert_eq!(found, expected);
    }

    #[test]
    fn codes_and_pages_meet() {
        let tree = Tree::of(&[
            ("crates/model/src/a.rs", "x(\"S0101\"); S01011; XS0109; y(S0102)"),
            ("crates/model/tests/a.rs", "S0777"),
            ("docs/errors/S0101.md", "# S0101: a fault"),
            ("docs/errors/S0103.md", "# S0103: of yore"),
        ]);
        let found: Vec<String> = error_codes(&tree).iter().map(Fault::to_string).collect();
        assert_eq!(
            found,
            [
                "crates/model/src/a.rs:1: uses S0102, which has no page docs/errors/S0102.md",
                "docs/errors/S0103.md: explains a code that no source uses",
            ]
        );
    }

    #[test]
    fn two_notes_with_one_number_are_refused() {
        let tree = Tree::of(&[
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0001-b.md", ""),
            ("docs/decisions/2-c.md", ""),
        ]);
        assert_eq!(decision_notes(&tree).len(), 2);
    }
}
