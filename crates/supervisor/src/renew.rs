//! Certificates of roles: issued when a role is placed, renewed while it serves. What was issued stands in the journal, so that
//! any supervisor of the home knows when it ends.

use std::{collections::BTreeMap, time::Duration};

use api::{Secret, client::Client};
use model::{Kind, ResourceId};
use serde::{Deserialize, Serialize};

use crate::{Error, authority::Authority, journal::StampRow, layout::Layout, stamp::Ground};

/// How long a certificate lives (Let's Encrypt's life, for the same reason: what is renewed often is known to be renewable).
const LIFE: Duration = Duration::from_secs(90 * 86_400);
/// The fact with another life, in seconds; scratch homes only.
pub const LIFE_FACT: &str = "certificate-seconds";
/// A role that did not take its certificate is asked again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// What was issued to a workload.
#[derive(Debug, Serialize, Deserialize)]
struct Issued {
    /// Its last moment, milliseconds since 1970.
    until_ms: i64,
    names: Vec<String>,
}

fn fact(workload: &str) -> String {
    format!("certificate/{workload}")
}

fn life(ground: &Ground, row: &StampRow) -> Duration {
    let fact = ground.journal.fact(&row.system, &row.stamp, LIFE_FACT).ok().flatten();
    fact.and_then(|text| text.parse().ok()).filter(|s| *s > 0).map_or(LIFE, Duration::from_secs)
}

/// Whether one that ends at `until_ms` is to be renewed at `now_ms`: in the last third of its life, and when it would live
/// longer than it may.
fn is_due(until_ms: i64, now_ms: i64, life: Duration) -> bool {
    let (left, life) = (until_ms - now_ms, life.as_millis() as i64);
    left < life / 3 || left > life + life / 3
}

/// A certificate and key (PEM) for a workload, noted in the journal.
pub fn issue(
    ground: &Ground,
    layout: &Layout,
    authority: &Authority,
    workload: &str,
    names: &[String],
) -> Result<(Secret, Secret), Error> {
    let life = match ground.journal.stamp(&layout.system, &layout.stamp)? {
        Some(row) => life(ground, &row),
        None => LIFE,
    };
    // Services ask the edge who it is.
    // Members of a graph store ask one another.
    let kind = model::plan::resource_of(workload).parse::<ResourceId>().map(|id| id.kind);
    let calls = matches!(kind, Ok(Kind::Edge | Kind::Graph));
    let pair = authority.issue(names, layout.front(workload)?.into(), life, calls)?;
    let until_ms = ground.clock.now_ms() + life.as_millis() as i64;
    let issued = Issued { until_ms, names: names.to_vec() };
    let text = serde_json::to_string(&issued).map_err(|e| Error::Fault(e.to_string()))?;
    ground.journal.set_fact(&layout.system, &layout.stamp, &fact(workload), &text)?;
    Ok(pair)
}

/// Renews what is due of one stamp. What could not be renewed is logged and tried again.
pub async fn look(ground: &Ground, row: &StampRow, tried: &mut BTreeMap<String, std::time::Instant>) {
    if let Err(error) = try_look(ground, row, tried).await {
        tracing::warn!(
            system = row.system,
            stamp = row.stamp,
            error = crate::error::chain(&error),
            "could not look after certificates"
        );
    }
}

async fn try_look(
    ground: &Ground,
    row: &StampRow,
    tried: &mut BTreeMap<String, std::time::Instant>,
) -> Result<(), Error> {
    let life = life(ground, row);
    let mut due = Vec::new();
    for workload in ground.journal.workloads(&row.system, &row.stamp)? {
        let Some(text) = ground.journal.fact(&row.system, &row.stamp, &fact(&workload.workload))? else { continue };
        let Ok(issued) = serde_json::from_str::<Issued>(&text) else { continue };
        let runs = workload.shim.is_some_and(|id| ground.driver.runs(id));
        let key = format!("{}/{}/{}", row.system, row.stamp, workload.workload);
        let waits = tried.get(&key).is_some_and(|at| at.elapsed() < AGAIN);
        if runs && !waits && is_due(issued.until_ms, ground.clock.now_ms(), life) {
            due.push((key, workload.workload, issued));
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let authority = Authority::open(&layout.folder)?;
    for (key, workload, issued) in due {
        let before = serde_json::to_string(&issued).unwrap_or_default();
        let (cert, chain_key) = issue(ground, &layout, &authority, &workload, &issued.names)?;
        // Over the role's own socket, to nobody but its user; a secret has no `Serialize`, so that none is written by accident.
        let body = serde_json::json!({ "cert": cert.expose(), "key": chain_key.expose() });
        let client = Client::unix(layout.control(&workload)).timeout(Duration::from_secs(5));
        match client.send("PUT", "/certificate", Some(("application/json", body.to_string().into()))).await {
            Ok(answer) if answer.status.is_success() => {
                if workload.starts_with("redis.") {
                    // Its shim has laid it; the server reads it when told.
                    let (layout, name) = (layout.clone(), workload.clone());
                    let told = crate::reconcile::blocking(move || crate::redis::take_certificate(&layout, &name)).await;
                    if let Err(error) = told {
                        tried.insert(key, std::time::Instant::now());
                        ground.journal.set_fact(&row.system, &row.stamp, &fact(&workload), &before)?;
                        return Err(error);
                    }
                }
                tried.remove(&key);
                tracing::info!(workload, "renewed its certificate");
            }
            other => {
                let why = other.map_or_else(|e| e.to_string(), |answer| format!("it answered {}", answer.status));
                tracing::warn!(workload, why, "could not hand over a renewed certificate");
                tried.insert(key, std::time::Instant::now());
                ground.journal.set_fact(&row.system, &row.stamp, &fact(&workload), &before)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_third_of_a_life_is_the_time_to_renew() {
        let life = Duration::from_secs(90);
        let due = |left_s: i64| is_due(left_s * 1000, 0, life);
        assert!(!due(90) && !due(31));
        assert!(due(29) && due(0) && due(-5));
        assert!(due(86_400 * 90), "one of a longer life than is wanted now");
    }
}
