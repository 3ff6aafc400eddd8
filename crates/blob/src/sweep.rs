//! What time does by itself: what was deleted goes for good, and blobs cool, are archived and deleted as declared.

use std::sync::Arc;

use api::{audit::Outcome, blob::ContainerConfig};

use crate::{
    blobs,
    refusal::Refusal,
    rows::{self, Blob, Kind},
    store::{Change, Store},
};

/// Blocks that wait for a list are let go after this, as on Azure.
const BLOCK_SECONDS: u64 = 7 * 86_400;
/// Rows of one transaction, so that nobody waits long.
const AT_ONCE: usize = 500;

/// Lets go of everything whose time is over, and moves what is due to its tier.
pub async fn sweep(store: &Arc<Store>) -> Result<(), Refusal> {
    store.blocking(sweep_blocking).await
}

fn sweep_blocking(store: &Store) -> Result<(), Refusal> {
    let settings = store.settings();
    let (now_us, kept) = (store.clock.now_us(), settings.config.soft_delete_seconds);
    // A shorter time than before counts for what was deleted before, too; none at all lets everything go.
    while purge(store, before(now_us, kept))? {}
    while forget_blocks(store, before(now_us, BLOCK_SECONDS))? {}
    for (name, declared) in &settings.config.containers {
        age(store, name, declared, now_us)?;
    }
    Ok(())
}

fn before(now_us: i64, seconds: u64) -> i64 {
    now_us.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000))
}

fn purge(store: &Store, until_us: i64) -> Result<bool, Refusal> {
    let due = rows::deleted_before(&store.db(), until_us, AT_ONCE)?;
    if due.is_empty() {
        return Ok(false);
    }
    let more = due.len() == AT_ONCE;
    store.change(None, |change| {
        for blob in &due {
            // Somebody may have brought it back meanwhile.
            let still = rows::marked(change.db, &blob.container, &blob.name, &blob.mark)?;
            if still.is_some_and(|still| still.deleted_us.is_some_and(|deleted| deleted <= until_us)) {
                record(change, "blob.purge", blob, "its time to be brought back is over")?;
                change.gone(rows::remove(change.db, blob.id)?);
            }
        }
        Ok(())
    })?;
    Ok(more)
}

fn forget_blocks(store: &Store, until_us: i64) -> Result<bool, Refusal> {
    let due = rows::stale_blocks(&store.db(), until_us, AT_ONCE)?;
    if due.is_empty() {
        return Ok(false);
    }
    store.change(None, |change| {
        for (container, name) in &due {
            change.gone(rows::forget_blocks(change.db, container, name)?);
        }
        Ok(())
    })?;
    Ok(due.len() == AT_ONCE)
}

/// What a container declares of the age of its blobs.
fn age(store: &Store, name: &str, declared: &ContainerConfig, now_us: i64) -> Result<(), Refusal> {
    if let Some(after) = declared.delete_after_seconds {
        each(store, name, before(now_us, after), ["", ""], |change, blob| {
            let held = blob.facts.lease.state(change.now_us).holds();
            let protected = blobs::protected_until(change.settings, &blob).is_some_and(|until| until > change.now_us);
            if held || protected {
                return Ok(());
            }
            record(change, "blob.expire", &blob, "it is as old as its container is declared to keep")?;
            let mut blob = blob;
            if blob.kind == Kind::Current && change.settings.config.versioning {
                blob.kind = Kind::Version;
            }
            blobs::discard(change, blob)
        })?;
    }
    let tiers = [
        (declared.archive_after_seconds, "Archive", ["Archive", "Archive"]),
        (declared.cool_after_seconds, "Cool", ["Cool", "Archive"]),
    ];
    for (after, tier, but) in tiers {
        let Some(after) = after else { continue };
        each(store, name, before(now_us, after), but, |change, mut blob| {
            // What somebody moved since stays where they moved it.
            let moved = !blob.facts.tier_inferred && !blob.facts.tier_by_age;
            if moved && blob.facts.tier_us > before(change.now_us, after) {
                return Ok(());
            }
            record(change, "blob.tier", &blob, tier)?;
            blob.facts.tier = tier.to_owned();
            (blob.facts.tier_inferred, blob.facts.tier_by_age) = (false, true);
            blob.facts.tier_us = change.now_us;
            Ok(rows::update(change.db, &blob)?)
        })?;
    }
    Ok(())
}

/// Does something with each row of a container that was last changed before `until_us`, some in a transaction.
fn each(
    store: &Store,
    container: &str,
    until_us: i64,
    but: [&str; 2],
    work: impl Fn(&Change<'_>, Blob) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut after = 0;
    loop {
        let due = rows::changed_before(&store.db(), container, until_us, but, after, AT_ONCE)?;
        let Some(last) = due.last().map(|blob| blob.id) else { return Ok(()) };
        after = last;
        store.change(None, |change| {
            for blob in due {
                // Somebody may have changed it meanwhile.
                let still = rows::marked(change.db, &blob.container, &blob.name, &blob.mark)?;
                if let Some(still) = still.filter(|still| *still == blob) {
                    work(change, still)?;
                }
            }
            Ok(())
        })?;
    }
}

fn record(change: &Change<'_>, action: &str, blob: &Blob, why: &str) -> Result<(), Refusal> {
    let store = change.store;
    let object = format!("{}/{}", blob.container, blob.name);
    let mut event = store.event(&store.resource, action, &object, Outcome::Ok, "");
    event.detail.insert("why".into(), why.into());
    event.detail.insert("version".into(), blob.mark.as_str().into());
    store.spool.append_blocking(event)?;
    Ok(())
}
