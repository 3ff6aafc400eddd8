//! What is let go: images whose time without a tag is over, layers that nothing names, uploads that nobody finished, and what
//! a cut left.

use std::{path::Path, sync::Arc};

use api::audit::Outcome;
use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, names::Digest, refusal::Refusal, registry::Registry, rows};

/// Between the push of a layer and that of the manifest that names it.
const LOOSE_SECONDS: i64 = 24 * 3600;
/// How long an upload may be resumed.
const UPLOAD_SECONDS: i64 = 24 * 3600;

/// Before the registry serves: files that the database does not know are removed, and uploads whose file is gone are forgotten.
/// Answers the bytes of the uploads that stay.
pub fn tidy(db: &Connection, dir: &Path) -> Result<u64, Error> {
    let known = rows::uploads(db, i64::MAX)?;
    let mut coming = 0;
    let uploads = dir.join("uploads");
    for entry in std::fs::read_dir(&uploads).map_err(Error::disk(&uploads))? {
        let entry = entry.map_err(Error::disk(&uploads))?;
        if known.iter().any(|id| entry.file_name() == id.as_str()) {
            coming += entry.metadata().map_or(0, |m| m.len());
        } else {
            std::fs::remove_file(entry.path()).map_err(Error::disk(entry.path()))?;
        }
    }
    for id in known.iter().filter(|id| !uploads.join(id).exists()) {
        rows::remove_upload(db, id)?;
    }
    let blobs = rows::blobs(db)?;
    let all = dir.join("blobs/sha256");
    for folder in std::fs::read_dir(&all).map_err(Error::disk(&all))? {
        let folder = folder.map_err(Error::disk(&all))?.path();
        for entry in std::fs::read_dir(&folder).map_err(Error::disk(&folder))? {
            let entry = entry.map_err(Error::disk(&folder))?;
            if !entry.file_name().to_str().is_some_and(|name| blobs.contains(name)) {
                std::fs::remove_file(entry.path()).map_err(Error::disk(entry.path()))?;
            }
        }
    }
    Ok(coming)
}

/// Lets go of everything whose time is over.
pub async fn sweep(registry: &Arc<Registry>) -> Result<(), Refusal> {
    let now = registry.clock.now_s();
    let due = registry.blocking(move |registry| {
        let db = registry.db();
        let manifests = match until(registry, now) {
            Some(until) => !rows::due(&db, until)?.is_empty(),
            None => false,
        };
        Ok(manifests
            || rows::has_loose_blobs(&db, now - LOOSE_SECONDS)?
            || !rows::uploads(&db, now - UPLOAD_SECONDS)?.is_empty())
    });
    if !due.await? {
        return Ok(());
    }
    // Nothing is put in place meanwhile: what is named from now on is there.
    let _alone = registry.keeping.write().await;
    registry.blocking(move |registry| remove(registry, now)).await
}

/// The second before which a manifest lost its last tag to be let go at `now_s`.
fn until(registry: &Registry, now_s: i64) -> Option<i64> {
    let keep = registry.settings().config.keep_untagged_seconds?;
    Some(now_s.saturating_sub_unsigned(keep))
}

fn remove(registry: &Registry, now: i64) -> Result<(), Refusal> {
    let mut db = registry.db();
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(until) = until(registry, now) {
        for (name, digest) in rows::due(&transaction, until)? {
            let object = format!("{}/{name}@{digest}", registry.resource);
            let mut event = registry.spool.event(&registry.resource, "image.expire", &object, Outcome::Ok);
            event.detail.insert("why".into(), "its time without a tag is over".into());
            registry.spool.append_blocking(event)?;
            rows::remove_manifest(&transaction, &name, &digest, now)?;
            tracing::info!(repository = name, digest, "let go of an image without a tag");
        }
    }
    let blobs = rows::sweep_blobs(&transaction, now - LOOSE_SECONDS)?;
    let uploads = rows::uploads(&transaction, now - UPLOAD_SECONDS)?;
    for id in &uploads {
        rows::remove_upload(&transaction, id)?;
    }
    transaction.commit()?;
    // Cut here, the files are removed at the next start.
    for id in uploads {
        let file = registry.upload_file(&id);
        let bytes = std::fs::metadata(&file).map_or(0, |m| m.len());
        let _ = std::fs::remove_file(&file);
        registry.give_back(bytes);
    }
    remove_files(registry, &blobs);
    registry.recount(&db)
}

/// Removes the files of blobs that the database has forgotten.
pub fn remove_files(registry: &Registry, blobs: &[Digest]) {
    for digest in blobs {
        let file = registry.blob_file(digest);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %file.display(), "could not remove a blob; the next start tries again");
            }
            _ => {}
        }
    }
}
