//! Chores of this repository: `cargo xtask tidy` checks what the compiler cannot, `cargo xtask freeze` records claims.

mod claims;
mod docs;
mod licences;
mod source;
mod table;
mod tree;

use std::process::ExitCode;

use anyhow::Context as _;
use tree::{Fault, Tree};

const USAGE: &str = "cargo xtask tidy\ncargo xtask freeze [--because docs/decisions/NNNN-title.md]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["tidy"] => tidy(),
        ["freeze"] => freeze(None),
        ["freeze", "--because", note] => freeze(Some(note)),
        _ => {
            eprintln!("usage:\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn tidy() -> anyhow::Result<ExitCode> {
    let tree = Tree::read()?;
    let packages = table::packages(&tree)?;
    let mut faults: Vec<Fault> = Vec::new();
    faults.extend(table::check(&tree, &packages));
    faults.extend(docs::paths(&tree));
    faults.extend(docs::error_codes(&tree));
    faults.extend(docs::decision_notes(&tree));
    faults.extend(claims::check(&tree)?);
    faults.extend(source::check(&tree));
    faults.extend(licences::check(&tree)?);
    faults.sort();
    for fault in &faults {
        eprintln!("{fault}");
    }
    eprintln!("the ten longest sources (300 lines are aimed at, 1,000 the limit):");
    for (lines, path) in source::longest(&tree).into_iter().take(10) {
        eprintln!("{lines:>6} {path}");
    }
    if faults.is_empty() {
        eprintln!("tidy: {} files, no fault", tree.files.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tidy: {} faults in {} files", faults.len(), tree.files.len());
    Ok(ExitCode::from(1))
}

fn freeze(note: Option<&str>) -> anyhow::Result<ExitCode> {
    let tree = Tree::read()?;
    let (text, faults) = claims::freeze(&tree, note)?;
    if !faults.is_empty() {
        for fault in &faults {
            eprintln!("{fault}");
        }
        eprintln!(
            "hint: a frozen claim changes only with a decision note: cargo xtask freeze --because docs/decisions/NNNN-title.md"
        );
        return Ok(ExitCode::from(1));
    }
    let path = tree.root.join(claims::DIGEST);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}
