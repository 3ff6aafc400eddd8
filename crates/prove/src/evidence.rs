//! What is kept of a run: JSON, and one page that needs nothing beside it.

use askama::Template;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    inside::sha256,
    outcome::{Finding, Outcome, Report},
};

/// A run as it is kept.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// Version of this format.
    pub evidence: u32,
    pub system: String,
    pub title: String,
    /// RFC 3339, UTC.
    pub time: String,
    /// Of `stamp`.
    pub version: String,
    /// SHA-256 of the binary, of the manifest, of the claims, hex.
    pub binary: String,
    pub manifest: String,
    pub claims: String,
    /// What the machine is, in words.
    pub machine: String,
    pub seconds: f64,
    #[serde(flatten)]
    pub report: Flat,
    /// Rows whose outcome differs from the run before: id, before, now.
    pub changed: Vec<(String, String, String)>,
}

/// The findings alone: the system's name stands above.
#[derive(Clone, Debug, Serialize)]
pub struct Flat {
    #[serde(rename = "rows")]
    pub claims: Vec<Finding>,
}

/// What of an older run is compared.
#[derive(Deserialize)]
struct Older {
    rows: Vec<OlderRow>,
}

#[derive(Deserialize)]
struct OlderRow {
    id: String,
    outcome: String,
}

impl Evidence {
    /// The text of the file.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// SHA-256 of the file's text, hex: what goes into the audit record.
    pub fn digest(&self) -> String {
        sha256(self.json().as_bytes())
    }

    /// Rows of `report` whose outcome differs from that of an older file; none if that is not understood.
    pub fn changes(report: &Report, older: &str) -> Vec<(String, String, String)> {
        let Ok(older) = serde_json::from_str::<Older>(older) else { return Vec::new() };
        let mut changed = Vec::new();
        for finding in &report.claims {
            let now = finding.outcome.word();
            if let Some(was) = older.rows.iter().find(|r| r.id == finding.id)
                && was.outcome != now
            {
                changed.push((finding.id.clone(), was.outcome.clone(), now.to_owned()));
            }
        }
        changed
    }
}

struct Count {
    word: &'static str,
    label: String,
    number: usize,
}

struct Area<'a> {
    name: &'a str,
    counts: Vec<Count>,
    rows: Vec<&'a Finding>,
    unchecked: Vec<&'a Finding>,
}

#[derive(Template)]
#[template(path = "evidence.html")]
struct Page<'a> {
    evidence: &'a Evidence,
    digest: &'a str,
    counts: Vec<Count>,
    areas: Vec<Area<'a>>,
}

fn counts(numbers: impl Fn(Outcome) -> usize, all: bool) -> Vec<Count> {
    let of = |o: Outcome| Count { word: o.word(), label: o.word().replace('_', " "), number: numbers(o) };
    Outcome::ALL.into_iter().map(of).filter(|c| all || c.number > 0).collect()
}

/// The page: self-contained, without scripts.
///
/// # Errors
/// The template could not be filled.
pub fn page(evidence: &Evidence, report: &Report) -> Result<String, Error> {
    let digest = evidence.digest();
    let areas = report.areas();
    let areas = areas.iter().map(|(name, numbers)| Area {
        name,
        counts: counts(|o| numbers[o as usize], false),
        rows: report.claims.iter().filter(|f| f.area == *name && f.outcome != Outcome::Unchecked).collect(),
        unchecked: report.claims.iter().filter(|f| f.area == *name && f.outcome == Outcome::Unchecked).collect(),
    });
    let page = Page { evidence, digest: &digest, counts: counts(|o| report.count(o), true), areas: areas.collect() };
    Ok(page.render()?)
}
