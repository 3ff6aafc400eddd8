//! Which system is meant: a folder, a file, or a name.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::failure::Failed;

/// A system's manifest on disk.
pub struct Source {
    pub folder: PathBuf,
    pub file: PathBuf,
    pub text: String,
}

/// Reads the manifest that `system` leads to.
pub fn read(system: &str) -> anyhow::Result<Source> {
    let path = Path::new(system);
    let file = if path.is_dir() { path.join("system.toml") } else { path.to_owned() };
    if !file.is_file() {
        let mut known: Vec<String> = std::fs::read_dir("systems")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().join("system.toml").is_file())
            .map(|e| e.path().display().to_string())
            .collect();
        known.sort();
        let hint = if known.is_empty() {
            "`stamp init` writes one".to_owned()
        } else {
            format!("there is: {}", known.join(", "))
        };
        return Err(Failed::asked(format!("there is no system.toml at {}", file.display()), hint));
    }
    let file = file.canonicalize().with_context(|| format!("could not find {}", file.display()))?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
    Ok(Source { folder, file, text })
}

/// The system's name: from its manifest where `system` leads to one, else the word itself.
pub fn name(system: &str) -> anyhow::Result<String> {
    let path = Path::new(system);
    if path.is_dir() || path.is_file() {
        let source = read(system)?;
        return Ok(name_in(&source.text).unwrap_or_else(|| system.to_owned()));
    }
    if system.contains('/') {
        read(system)?;
    }
    Ok(system.to_owned())
}

/// The value of `system = "..."`; a manifest with faults elsewhere still says which system it is.
fn name_in(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "system").then(|| value.split('#').next().unwrap_or(value).trim().trim_matches('"').to_owned())
    })
}
