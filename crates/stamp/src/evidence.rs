//! What runs of `prove` and `drill` leave: files that are on the disk when we say so, and a hash chain of their digests.

use std::{io::Write as _, path::Path};

use anyhow::Context as _;
use serde_json::{Map, Value};
use supervisor::Home;

/// Writes a file and waits until it is on the disk.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| format!("could not write {}", path.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("could not write {}", path.display()))
}

/// Notes a run in the home's chain of evidence; `detail` holds the digest.
pub async fn note(home: &Home, action: &str, system: &str, detail: Map<String, Value>) -> anyhow::Result<()> {
    let chain = home.root().join("evidence/chain");
    std::fs::create_dir_all(&chain).with_context(|| format!("could not make {}", chain.display()))?;
    let spool = service::Spool::open(&chain, "evidence", service::Clock::default())?;
    let mut event = spool.event("operator", action, system, api::audit::Outcome::Ok);
    event.detail = detail;
    spool.append(event).await?;
    Ok(())
}
