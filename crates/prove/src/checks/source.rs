//! The application's sources: static analysis and dependencies, as its build looks at them.

use std::path::{Path, PathBuf};

use crate::{Lab, Miss, Seen, claim::Call, miss, must};

/// Patterns that no build may let through, and the lint that has to see each (Clippy's list; rustc's `unsafe_code`).
const PLANTED: &[(&str, &str)] = &[
    ("\npub fn planted(bytes: &[u8]) -> u8 {\n    unsafe { *bytes.as_ptr() }\n}\n", "unsafe"),
    ("\npub fn planted(text: &str) -> u8 {\n    text.parse().unwrap()\n}\n", "unwrap"),
];

/// `secure_sources(FILE)`: a copy of the sources is analysed as the build does it and is clean; with each unsafe pattern planted
/// in FILE it is not. Every dependency is one of `Cargo.lock`, with its checksum, under a licence that is allowed.
pub async fn secure(lab: &Lab, _: &str, c: &Call) -> Seen {
    let file = c.argument(0, "src/lib.rs").to_owned();
    let system = lab.folder().canonicalize()?;
    let root = system.ancestors().find(|at| at.join("Cargo.lock").is_file()).map(Path::to_owned);
    let Some(root) = root.filter(|_| system.join("Cargo.toml").is_file()) else {
        return Err(not_here("the application's sources are not here".into(), &system, "cargo metadata"));
    };
    let copy = Copy { at: root.join("target/analysed"), root: root.clone(), system };
    let spoilt = lab.spoilt_source();
    copy.refresh(spoilt.as_ref())?;
    let planted = copy.system_file(&file)?;
    let said = copy.analyse().await?;
    must!(said.is_empty(), "static analysis is not clean: {said}");
    let clean = std::fs::read_to_string(&planted)?;
    let mut seen = Vec::new();
    for (pattern, word) in PLANTED {
        std::fs::write(&planted, format!("{clean}{pattern}"))?;
        let said = copy.analyse().await;
        std::fs::write(&planted, &clean)?;
        let said = said?;
        must!(
            said.contains(word),
            "a planted `{word}` passed the analysis{}{said}",
            if said.is_empty() { "" } else { ": " }
        );
        seen.push(*word);
    }
    let locked = locked(&root)?;
    Ok(format!("clippy is clean with warnings denied; planted in {file}, {} failed it; {locked}", seen.join(" and ")))
}

/// A copy of the workspace, in a place of its own that is kept, so that the next analysis is quick.
struct Copy {
    root: PathBuf,
    at: PathBuf,
    system: PathBuf,
}

impl Copy {
    /// Makes the copy equal to the sources; what is equal already keeps its time, by which cargo goes.
    fn refresh(&self, spoilt: Option<&(String, String)>) -> Result<(), Miss> {
        std::fs::create_dir_all(&self.at)?;
        mirror(&self.root, &self.at, true)?;
        if let Some((file, text)) = spoilt {
            let path = self.system_file(file)?;
            let clean = std::fs::read_to_string(&path)?;
            std::fs::write(&path, format!("{clean}{text}"))?;
        }
        Ok(())
    }

    /// A file of the system in the copy.
    fn system_file(&self, file: &str) -> Result<PathBuf, Miss> {
        let within = self.system.strip_prefix(&self.root)?;
        let path = self.at.join(within).join(file);
        must!(path.is_file(), "there is no {file} among the sources");
        Ok(path)
    }

    /// What the analysis complains of; nothing if it is clean.
    async fn analyse(&self) -> Result<String, Miss> {
        let folder = self.at.join(self.system.strip_prefix(&self.root)?);
        let target = self.root.join("target");
        let ran = tokio::task::spawn_blocking(move || {
            let analysis = ["clippy", "--quiet", "--locked", "--offline", "--all-targets", "--message-format", "short"];
            let arguments: Vec<&str> = analysis.into_iter().chain(["--", "-D", "warnings"]).collect();
            drivers::tool::run("cargo", &arguments, &folder, &[("CARGO_TARGET_DIR", &target)])
        });
        let output = match ran.await? {
            Ok(output) => output,
            Err(error) => return Err(not_here(error.to_string(), &self.at, "cargo clippy")),
        };
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() {
            return Ok(String::new());
        }
        // Where there is no toolchain for it, nothing has been analysed.
        if said.contains("no such command") || said.contains("is not installed") {
            return Err(not_here(said, &self.at, "cargo clippy"));
        }
        must!(!said.is_empty(), "cargo clippy ended with {} and said nothing", output.status);
        Ok(said.lines().take(3).collect::<Vec<_>>().join("; "))
    }
}

fn not_here(why: String, at: &Path, command: &str) -> Miss {
    Miss::NotHere { why, command: format!("{command} (in {})", at.display()) }
}

/// Copies files that differ and removes those that are gone. At the top, what builds leave and hidden folders are passed over.
fn mirror(from: &Path, to: &Path, top: bool) -> Result<(), Miss> {
    let mut kept = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if top && (name == "target" || (kind.is_dir() && name.to_string_lossy().starts_with('.'))) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if kind.is_dir() {
            std::fs::create_dir_all(&target)?;
            mirror(&source, &target, false)?;
        } else if kind.is_file() {
            let text = std::fs::read(&source)?;
            if std::fs::read(&target).ok().as_ref() != Some(&text) {
                std::fs::write(&target, text)?;
            }
        } else {
            continue;
        }
        kept.insert(name);
    }
    for entry in std::fs::read_dir(to)? {
        let entry = entry?;
        if !kept.contains(&entry.file_name()) {
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Each package from elsewhere is pinned with a checksum; how many there are.
fn locked(root: &Path) -> Result<String, Miss> {
    let text = std::fs::read_to_string(root.join("Cargo.lock"))?;
    let lock: toml_edit::DocumentMut = text.parse()?;
    let packages = lock.get("package").and_then(|p| p.as_array_of_tables());
    let Some(packages) = packages else { miss!("Cargo.lock names no package") };
    let (mut pinned, mut loose) = (0, Vec::new());
    for package in packages {
        match (package.contains_key("source"), package.contains_key("checksum")) {
            (true, true) => pinned += 1,
            (true, false) => loose.push(package.get("name").map(ToString::to_string).unwrap_or_default()),
            (false, _) => {}
        }
    }
    must!(loose.is_empty(), "these dependencies have no checksum: {}", loose.join(", "));
    Ok(format!("{pinned} dependencies are pinned with their checksums"))
}
