//! Backups restore themselves: once a week each database is brought back beside the one there is, read whole, and removed again,
//! by the stamp's clock. What came of it is told by `stamp backups`; anything else that is asked of the stamp comes first.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    backup::Target,
    supervisor::{Event, RestoreRequest, Verified},
};
use model::Kind;

use crate::{
    Error, backups,
    journal::{Journal, StampRow},
    reconcile::{self, resolve},
    stamp::{Ground, What},
};

const WEEK_MS: i64 = 7 * 86_400_000;
/// One that failed or was cut is tried again.
const AGAIN_MS: i64 = 86_400_000;
const LOOK: Duration = Duration::from_secs(2);

fn fact(resource: &str) -> String {
    format!("verified/{resource}")
}

/// What came of the last one of a database; None before the first.
pub fn last(journal: &Journal, row: &StampRow, resource: &str) -> Result<Option<Verified>, Error> {
    let text = journal.fact(&row.system, &row.stamp, &fact(resource))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

fn write(journal: &Journal, row: &StampRow, resource: &str, verified: &Verified) -> Result<(), Error> {
    let text = serde_json::to_string(verified).map_err(|e| Error::Fault(e.to_string()))?;
    journal.set_fact(&row.system, &row.stamp, &fact(resource), &text)
}

/// Whether it is time, `now_ms` by the stamp's clock. A clock that went back waits a week anew.
fn due(last: &Verified, now_ms: i64) -> bool {
    let pause = if last.ok == Some(false) { AGAIN_MS } else { WEEK_MS };
    now_ms - last.at_ms >= pause
}

/// Begins a verification if one is due and nothing else is under way.
pub async fn look(ground: &Arc<Ground>, row: &StampRow, next: &mut BTreeMap<String, Instant>) {
    let key = format!("{}/{}", row.system, row.stamp);
    if next.get(&key).is_some_and(|at| *at > Instant::now())
        || ground.stamp(&row.system, &row.stamp).current().is_some()
    {
        return;
    }
    next.insert(key, Instant::now() + LOOK);
    if let Err(error) = begin(ground, row).await {
        let why = crate::error::chain(&error);
        tracing::warn!(system = row.system, stamp = row.stamp, why, "could not see to the weekly check of backups");
    }
}

async fn begin(ground: &Arc<Ground>, row: &StampRow) -> Result<(), Error> {
    let now_ms = ground.clock.now_ms() + reconcile::clock_offset(ground, row);
    let system = resolve(&row.manifest, &row.stamp)?;
    for id in system.resources.keys().filter(|id| id.kind == Kind::Postgres) {
        let resource = id.to_string();
        let Some(last) = last(&ground.journal, row, &resource)? else {
            // A new one has nothing worth restoring yet.
            write(&ground.journal, row, &resource, &Verified { at_ms: now_ms, ok: None, words: String::new() })?;
            continue;
        };
        if last.at_ms > now_ms {
            write(&ground.journal, row, &resource, &Verified { at_ms: now_ms, ..last })?;
            continue;
        }
        if !due(&last, now_ms) {
            continue;
        }
        let request = RestoreRequest {
            system: row.system.clone(),
            stamp: row.stamp.clone(),
            resource: Some(resource.clone()),
            target: Target::Latest,
            name: None,
            verify: true,
            database: None,
        };
        let told = move |ok, words: String| Verified { at_ms: now_ms, ok, words };
        let work = match backups::restore_as(ground, row.clone(), request, What::Verify).await {
            Ok(work) => work,
            Err(error) => {
                // One that a person restored beside stands there: tomorrow, then.
                return write(&ground.journal, row, &resource, &told(Some(false), crate::error::chain(&error)));
            }
        };
        let (ground, row) = (ground.clone(), row.clone());
        tokio::spawn(async move {
            let verified = match work.feed.end().await {
                Some(Event::Restored(restored)) => told(Some(true), restored.notes.join("; ")),
                Some(Event::Failed(failure)) => told(
                    Some(false),
                    std::iter::once(failure.message).chain(failure.causes).collect::<Vec<_>>().join(": "),
                ),
                other => told(Some(false), format!("it ended with {other:?}")),
            };
            let state = if verified.ok == Some(true) { "done" } else { "failed" };
            if verified.ok == Some(false) {
                tracing::error!(resource, why = verified.words, "the backups could not be verified");
            }
            let step = format!("verify the backups of {resource}");
            let now = ground.clock.now_ms();
            let written = write(&ground.journal, &row, &resource, &verified)
                .and_then(|()| ground.journal.step(&row.system, &row.stamp, &step, state, now, &verified.words));
            if let Err(error) = written {
                tracing::warn!(error = crate::error::chain(&error), "could not write down what a verification found");
            }
        });
        return Ok(());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_week_and_the_day_after_a_failure() {
        let last = |ok| Verified { at_ms: 0, ok, words: String::new() };
        assert!(!due(&last(None), WEEK_MS - 1));
        assert!(due(&last(None), WEEK_MS));
        assert!(!due(&last(Some(true)), AGAIN_MS));
        assert!(due(&last(Some(false)), AGAIN_MS));
    }
}
