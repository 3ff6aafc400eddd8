//! Claims are frozen: the digest of each row's text and proof, and its class, stand in docs/claims.digest.
//!
//! A line is `ID DIGEST CLASS [NOTE]`. A row without a class yet (`-`) may get one freely; everything else changes only with
//! a decision note, whose path is then the line's last word.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aws_lc_rs::digest;
use toml_edit::{DocumentMut, Table};

use crate::tree::{Fault, Tree};

pub const DIGEST: &str = "docs/claims.digest";
const HEAD: &str =
    "# Written by `cargo xtask freeze`, checked by `cargo xtask tidy`: id, digest of text and proof, class, note.\n";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frozen {
    digest: String,
    class: String,
    note: Option<String>,
}

/// Rows by id, each with the file it stands in.
type Rows = BTreeMap<String, (String, Frozen)>;

/// Each row of all claims files, and what is wrong with the files.
fn rows(tree: &Tree) -> anyhow::Result<(Rows, Vec<Fault>)> {
    let (mut rows, mut faults) = (BTreeMap::new(), Vec::new());
    for file in tree.files.iter().filter(|f| f.path.starts_with("systems/") && f.path.ends_with("/claims.toml")) {
        let document: DocumentMut = file.text.parse().with_context(|| format!("parse {}", file.path))?;
        let Some(claims) = document.get("claim").and_then(|c| c.as_array_of_tables()) else {
            faults.push(Fault::new(&file.path, 0, "has no [[claim]]"));
            continue;
        };
        for claim in claims {
            let text = |key: &str| claim.get(key).and_then(|v| v.as_str()).unwrap_or_default();
            let id = text("id");
            if id.is_empty() || id.contains(char::is_whitespace) || text("text").is_empty() || text("proof").is_empty()
            {
                faults.push(Fault::new(&file.path, 0, format!("claim '{id}' needs id, text and proof")));
                continue;
            }
            let class = match class(claim) {
                Ok(class) => class.to_owned(),
                Err(what) => {
                    faults.push(Fault::new(&file.path, 0, format!("claim {id} {what}")));
                    continue;
                }
            };
            // Lengths keep one field's end from passing for the next one's beginning.
            let (said, proof) = (text("text"), text("proof"));
            let whole = format!("{}:{id}{}:{said}{}:{proof}", id.len(), said.len(), proof.len());
            let sum = digest::digest(&digest::SHA256, whole.as_bytes());
            let digest = sum.as_ref().iter().map(|b| format!("{b:02x}")).collect();
            if rows.insert(id.to_owned(), (file.path.clone(), Frozen { digest, class, note: None })).is_some() {
                faults.push(Fault::new(&file.path, 0, format!("claim {id} is there twice")));
            }
        }
    }
    Ok((rows, faults))
}

/// Which of the five classes a row has; `-` for none yet.
fn class(claim: &Table) -> Result<&'static str, &'static str> {
    let has = |key| claim.contains_key(key);
    let named: Vec<&'static str> =
        ["substituted", "partly", "out_of_reach", "future"].into_iter().filter(|k| has(k)).collect();
    match (named.first().copied(), named.len(), has("check")) {
        (_, 2.., _) => Err("has two classes"),
        (Some(class @ ("substituted" | "partly")), _, true) => Ok(class),
        (Some("substituted" | "partly"), _, false) => Err("is substituted or partly shown, but has no check"),
        (Some(_), _, true) => Err("has a check, but cannot be checked by its class"),
        (Some(class), _, false) => Ok(class),
        (None, _, true) => Ok("check"),
        (None, _, false) => Ok("-"),
    }
}

fn frozen(tree: &Tree) -> Result<BTreeMap<String, Frozen>, Vec<Fault>> {
    let (mut lines, mut faults) = (BTreeMap::new(), Vec::new());
    let Some(file) = tree.file(DIGEST) else { return Ok(lines) };
    for (number, line) in file.lines().filter(|(_, l)| !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [id, digest, class, ..] if words.len() <= 4 => {
                let note = words.get(3).map(|n| (*n).to_owned());
                lines.insert(id.to_owned(), Frozen { digest: digest.into(), class: class.into(), note });
            }
            _ => faults.push(Fault::new(DIGEST, number, "is no line `ID DIGEST CLASS [NOTE]`")),
        }
    }
    if faults.is_empty() { Ok(lines) } else { Err(faults) }
}

/// The rows are as they were frozen, and every note that let one change is there.
pub fn check(tree: &Tree) -> anyhow::Result<Vec<Fault>> {
    let (rows, mut faults) = rows(tree)?;
    let frozen = match frozen(tree) {
        Ok(frozen) => frozen,
        Err(more) => {
            faults.extend(more);
            return Ok(faults);
        }
    };
    for (id, (path, row)) in &rows {
        match frozen.get(id) {
            None => faults.push(Fault::new(path, 0, format!("claim {id} is not frozen; run `cargo xtask freeze`"))),
            Some(old) if old.digest != row.digest => {
                faults.push(Fault::new(path, 0, format!("claim {id} has another text or proof than was frozen")));
            }
            Some(old) if old.class != row.class => {
                let what =
                    format!("claim {id} is '{}', frozen as '{}'; run `cargo xtask freeze`", row.class, old.class);
                faults.push(Fault::new(path, 0, what));
            }
            Some(_) => {}
        }
    }
    for (id, old) in &frozen {
        if !rows.contains_key(id) {
            faults.push(Fault::new(DIGEST, 0, format!("claim {id} was frozen and is gone")));
        }
        if let Some(note) = &old.note
            && tree.file(note).is_none()
        {
            faults.push(Fault::new(DIGEST, 0, format!("claim {id} was changed by {note}, which does not exist")));
        }
    }
    Ok(faults)
}

/// The new text of the digest file, or why a row may not be frozen as it is.
pub fn freeze(tree: &Tree, note: Option<&str>) -> anyhow::Result<(String, Vec<Fault>)> {
    let (rows, mut faults) = rows(tree)?;
    let old = match frozen(tree) {
        Ok(old) => old,
        Err(more) => return Ok((String::new(), faults.into_iter().chain(more).collect())),
    };
    if let Some(note) = note
        && tree.file(note).is_none()
    {
        faults.push(Fault::new(note, 0, "is no file of this repository"));
    }
    let mut text = HEAD.to_owned();
    for (id, (path, row)) in &rows {
        let mut why = old.get(id).and_then(|o| o.note.clone());
        if let Some(old) = old.get(id) {
            let free = old.digest == row.digest && (old.class == row.class || old.class == "-");
            match note {
                Some(note) if !free => why = Some(note.to_owned()),
                None if !free => faults.push(Fault::new(path, 0, format!("claim {id} was frozen otherwise"))),
                _ => {}
            }
        }
        let why = why.map(|n| format!(" {n}")).unwrap_or_default();
        text.push_str(&format!("{id} {} {}{why}\n", row.digest, row.class));
    }
    for id in old.keys().filter(|id| !rows.contains_key(*id) && note.is_none()) {
        faults.push(Fault::new(DIGEST, 0, format!("claim {id} was frozen and is gone")));
    }
    Ok((text, faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: &str = "systems/shop/claims.toml";

    fn row(proof: &str, more: &str) -> String {
        format!("[[claim]]\nid = \"S-1\"\ntext = \"It sells.\"\nproof = \"{proof}\"\n{more}\n")
    }

    fn faults(claims: &str, digest: &str) -> Vec<String> {
        let tree = Tree::of(&[(CLAIMS, claims), (DIGEST, digest), ("docs/decisions/0001-a.md", "")]);
        check(&tree).unwrap().into_iter().map(|f| f.what).collect()
    }

    fn frozen_as(claims: &str, digest: &str, note: Option<&str>) -> Result<String, Vec<Fault>> {
        let tree = Tree::of(&[(CLAIMS, claims), (DIGEST, digest), ("docs/decisions/0001-a.md", "")]);
        let (text, faults) = freeze(&tree, note).unwrap();
        if faults.is_empty() { Ok(text) } else { Err(faults) }
    }

    #[test]
    fn a_row_may_be_classified_once_and_then_only_with_a_note() {
        let open = row("Buy.", "");
        let first = frozen_as(&open, "", None).unwrap();
        assert_eq!(faults(&open, &first), [""; 0]);
        let checked = row("Buy.", "check = \"buy()\"");
        assert_eq!(faults(&checked, &first).len(), 1);
        let second = frozen_as(&checked, &first, None).unwrap();
        assert_eq!(faults(&checked, &second), [""; 0]);
        let given_up = row("Buy.", "out_of_reach = \"no money\"");
        assert_eq!(faults(&given_up, &second).len(), 1);
        frozen_as(&given_up, &second, None).unwrap_err();
        frozen_as(&given_up, &second, Some("docs/decisions/0009-gone.md")).unwrap_err();
        let third = frozen_as(&given_up, &second, Some("docs/decisions/0001-a.md")).unwrap();
        assert_eq!(faults(&given_up, &third), [""; 0]);
        assert!(third.ends_with("out_of_reach docs/decisions/0001-a.md\n"));
    }

    #[test]
    fn a_changed_proof_and_a_lost_row_are_seen() {
        let first = frozen_as(&row("Buy ten.", ""), "", None).unwrap();
        assert_eq!(faults(&row("Buy one.", ""), &first).len(), 1);
        frozen_as(&row("Buy one.", ""), &first, None).unwrap_err();
        assert_eq!(faults("", &first).len(), 2, "no rows, and one that is gone");
    }

    #[test]
    fn classes_that_contradict_themselves_are_refused() {
        for more in ["partly = \"x\"", "future = true\ncheck = \"a()\"", "future = true\nout_of_reach = \"x\""] {
            assert_eq!(faults(&row("Buy.", more), "").len(), 1, "{more}");
        }
    }
}
