//! The backup vault: a container in which a set stays as it is until its time has come, whatever becomes of the share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use axum::body::Body;
use sdk::{
    Settings, Trust,
    blob::{Account, Put},
};

use super::Manifest;

const CONTAINER: &str = "sets";

/// Puts a set into the vault, its manifest last; how many parts. None without a vault.
///
/// # Errors
/// The vault is away or takes nothing: then the set there has no manifest, and is not counted.
pub async fn put(settings: &Settings, set: &Path, backups: &Path, manifest: &Manifest) -> Result<usize> {
    if settings.optional("BACKUPS_URL")?.is_none() {
        return Ok(0);
    }
    let trust = Trust::from_settings(settings, &[])?;
    let container = Account::from_settings(settings, &trust, "BACKUPS_URL")?.container(CONTAINER);
    let name = set.file_name().context("a set has no name")?.to_string_lossy().into_owned();
    let parts = parts(&name, set, backups, manifest);
    for (blob, path) in &parts {
        let bytes = tokio::fs::read(path).await.with_context(|| format!("{} cannot be read", path.display()))?;
        container.upload(blob, Body::from(bytes), &Put { only_new: true, ..Put::default() }).await?;
    }
    Ok(parts.len())
}

/// Each part's name in the vault, and its file. A set has its own copy of each file, so that all of it ends on one day.
fn parts(name: &str, set: &Path, backups: &Path, manifest: &Manifest) -> Vec<(String, PathBuf)> {
    let tables = manifest.tables.keys().map(|table| format!("tables/{table}.copy"));
    let mut parts: Vec<_> = tables.map(|part| (format!("{name}/{part}"), set.join(&part))).collect();
    parts.extend(manifest.media.keys().map(|a| (format!("{name}/media/{a}"), backups.join("media").join(a))));
    parts.push((format!("{name}/manifest.json"), set.join("manifest.json")));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_goes_there_whole_and_its_manifest_last() {
        let table = super::super::Table { columns: Vec::new(), rows: 0, sha256: String::new() };
        let manifest = Manifest {
            version: 1,
            made_at: String::new(),
            tables: [("Qips".to_owned(), table)].into(),
            media: [("documents/a.pdf".to_owned(), String::new())].into(),
        };
        let parts = parts("night", Path::new("/b/night"), Path::new("/b"), &manifest);
        let names: Vec<(&str, &str)> = parts.iter().map(|(n, p)| (n.as_str(), p.to_str().unwrap())).collect();
        assert_eq!(
            names,
            [
                ("night/tables/Qips.copy", "/b/night/tables/Qips.copy"),
                ("night/media/documents/a.pdf", "/b/media/documents/a.pdf"),
                ("night/manifest.json", "/b/night/manifest.json"),
            ]
        );
    }
}
