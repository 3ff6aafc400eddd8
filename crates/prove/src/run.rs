//! All rows of a ledger, looked at: side by side what only looks, one after the other what acts.

use std::{collections::BTreeMap, pin::Pin, task::Poll, time::Instant};

use crate::{
    Error, Lab, Ledger, Miss, Row,
    checks::{self, Effect},
    claim::{Call, Class},
    outcome::{Finding, Outcome, Report, Seen},
};

/// How many checks look at once. More would measure each other on a small machine.
const LANES: usize = 4;

/// Which rows are looked at.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only this row.
    pub claim: Option<String>,
    /// Only rows of this area.
    pub area: Option<String>,
    /// Only what looks, on the first stamp; what acts or needs other stamps is left unchecked.
    pub fast: bool,
    /// Rows that are looked at in any case.
    pub also: Vec<String>,
}

impl Scope {
    fn holds(&self, row: &Row) -> bool {
        self.claim.as_ref().is_none_or(|id| *id == row.id) && self.area.as_ref().is_none_or(|area| *area == row.area)
    }

    fn runs(&self, row: &Row, check: &checks::Check, first: &str) -> bool {
        !self.fast || self.also.contains(&row.id) || (check.effect == Effect::Looks && row.on == first)
    }
}

type Job<'a> = Pin<Box<dyn Future<Output = (String, Seen, f64)> + 'a>>;

/// Looks at every row of the scope. `told` is called with each finding as it comes.
///
/// # Errors
/// A row names a check that there is not.
pub async fn run(
    lab: &Lab,
    system: &str,
    first: &str,
    ledger: &Ledger,
    scope: &Scope,
    mut told: impl FnMut(&str, &str, Option<&Seen>, f64),
) -> Result<Report, Error> {
    let rows: Vec<&Row> = ledger.rows.iter().filter(|r| scope.holds(r)).collect();
    // Rows that share a check with the same arguments on the same stamp are shown by one look.
    let mut jobs: BTreeMap<(bool, String), (&'static checks::Check, String, Call)> = BTreeMap::new();
    for row in &rows {
        let Some(call) = &row.call else { continue };
        let Some(check) = checks::named(&call.name) else {
            let known: Vec<&str> = checks::all().iter().map(|c| c.name).collect();
            return Err(Error::NoCheck { id: row.id.clone(), name: call.name.clone(), known: known.join(", ") });
        };
        if scope.runs(row, check, first) {
            jobs.insert((check.effect == Effect::Acts, key(row, call)), (check, row.on.clone(), call.clone()));
        }
    }
    let mut seen: BTreeMap<String, (Seen, f64)> = BTreeMap::new();
    let (acting, looking): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|((acts, _), _)| *acts);
    // Stamps come up one after the other, before anything is timed.
    let mut stamps: Vec<&str> = looking.iter().flat_map(|(_, (_, on, _))| each(on)).collect();
    stamps.dedup();
    for stamp in stamps {
        told("", stamp, None, 0.0);
        let _ = lab.site(stamp).await;
    }
    for (lanes, jobs) in [(LANES, looking), (1, acting)] {
        let waiting = jobs.into_iter().map(|((_, key), (check, on, call))| -> Job<'_> {
            Box::pin(async move {
                let begun = Instant::now();
                let seen = look_on_each(check, lab, &on, &call).await;
                (key, seen, begun.elapsed().as_secs_f64())
            })
        });
        side_by_side(waiting.collect(), lanes, |key, result, seconds| {
            told(&key, "", Some(&result), seconds);
            seen.insert(key, (result, seconds));
        })
        .await;
    }
    let claims = rows.iter().map(|row| finding(row, row.call.as_ref().and_then(|c| seen.get(&key(row, c))), scope));
    Ok(Report { system: system.into(), claims: claims.collect() })
}

/// The stamps that a row names: `dev`, or `dev, prod` of a sentence about all.
fn each(on: &str) -> impl Iterator<Item = &str> {
    on.split(',').map(str::trim)
}

/// Looks at every stamp that the row names; the first that is not as the row says decides.
async fn look_on_each(check: &checks::Check, lab: &Lab, on: &str, call: &Call) -> Seen {
    let several = each(on).count() > 1;
    let mut told = Vec::new();
    for stamp in each(on) {
        let seen = check.look(lab, stamp, call).await;
        told.push(match seen {
            Ok(seen) if several => format!("{stamp}: {seen}"),
            Ok(seen) => seen,
            Err(Miss::Failed(why)) if several => return Err(Miss::Failed(format!("{stamp}: {why}"))),
            Err(miss) => return Err(miss),
        });
    }
    Ok(told.join("; "))
}

fn key(row: &Row, call: &Call) -> String {
    format!("{}: {call}", row.on)
}

/// Polls up to `lanes` jobs at once, on this thread: they wait for the network most of the time.
async fn side_by_side(mut waiting: Vec<Job<'_>>, lanes: usize, mut done: impl FnMut(String, Seen, f64)) {
    waiting.reverse();
    let mut running: Vec<Job<'_>> = Vec::new();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < lanes
            && let Some(job) = waiting.pop()
        {
            running.push(job);
        }
        let (key, seen, seconds) = std::future::poll_fn(|cx| {
            for at in 0..running.len() {
                if let Poll::Ready(ended) = running[at].as_mut().poll(cx) {
                    drop(running.remove(at));
                    return Poll::Ready(ended);
                }
            }
            Poll::Pending
        })
        .await;
        done(key, seen, seconds);
    }
}

fn finding(row: &Row, seen: Option<&(Seen, f64)>, scope: &Scope) -> Finding {
    let (outcome, observed) = match (&row.class, seen) {
        (Class::OutOfReach(why), _) => (Outcome::OutOfReach, why.clone()),
        (Class::Future, _) => (Outcome::Future, "the document itself calls it future".into()),
        (Class::None, _) => (Outcome::Unchecked, "no check yet".into()),
        (_, None) if scope.fast => (Outcome::Unchecked, "not with --fast: it acts, or needs another stamp".into()),
        (_, None) => (Outcome::Unchecked, "not looked at".into()),
        (class, Some((Ok(observed), _))) => match class {
            Class::Substituted(part) => (Outcome::Substituted, format!("{part}: {observed}")),
            Class::Partly(part) => (Outcome::Partly, format!("{part}: {observed}")),
            _ => (Outcome::Proven, observed.clone()),
        },
        (_, Some((Err(Miss::Failed(why)), _))) => (Outcome::Failed, why.clone()),
        (_, Some((Err(Miss::Substituted(part)), _))) => (Outcome::Substituted, part.clone()),
        (_, Some((Err(Miss::NotHere { why, command }), _))) => {
            (Outcome::NotProvable, format!("{why}; refused: {command}"))
        }
    };
    Finding {
        id: row.id.clone(),
        area: row.area.clone(),
        outcome,
        check: row.call.as_ref().map(ToString::to_string).unwrap_or_default(),
        observed,
        seconds: seen.map_or(0.0, |(_, seconds)| (seconds * 1000.0).round() / 1000.0),
        text: row.text.clone(),
        source: row.source.clone(),
        proof: row.proof.clone(),
        stamp: row.on.clone(),
    }
}
