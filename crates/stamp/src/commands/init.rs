//! `stamp init`: a commented manifest to start from.

use std::{io::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;

use crate::{failure::Failed, screen};

pub fn run(folder: &Path, json: bool) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let path = folder.join("system.toml");
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Failed::asked(
                format!("{} is there already", path.display()),
                "nothing was changed; choose another folder",
            ));
        }
        Err(e) => return Err(e).with_context(|| format!("could not write {}", path.display())),
    };
    file.write_all(model::EXAMPLE.as_bytes()).with_context(|| format!("could not write {}", path.display()))?;
    if json {
        screen::data(&serde_json::json!({ "file": path }).to_string());
    } else {
        screen::talk(&format!(
            "{} wrote {}; see what it does: stamp plan {}",
            screen::green("✓"),
            path.display(),
            folder.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
