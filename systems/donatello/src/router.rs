//! Which model draws an image: hard limits first, then four scores from 0 to 100 under the department's weights.
//!
//! Pure: it is given what is known and gives a ranked list with its reasons, which are kept with the generation.

use serde::{Deserialize, Serialize};

use crate::domain::{Wish, aud};

/// How a department weighs the scores, in per cent: quality, cost, reliability, speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    pub quality: u32,
    pub cost: u32,
    pub reliability: u32,
    pub speed: u32,
}

/// The weights of a department's profile. Reliability has no weight in the first two and decides between equals.
pub fn weights(profile: &str) -> Weights {
    match profile {
        "cost" => Weights { quality: 30, cost: 50, reliability: 0, speed: 20 },
        "quality" => Weights { quality: 60, cost: 20, reliability: 0, speed: 20 },
        _ => Weights { quality: 25, cost: 25, reliability: 25, speed: 25 },
    }
}

/// What is known of a model.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    pub id: String,
    pub provider_name: String,
    pub model_name: String,
    pub title: String,
    pub region: String,
    pub is_active: bool,
    pub is_ai: bool,
    pub commercial_use: bool,
    pub cost_cents: i64,
    /// Per cent times a hundred.
    pub sla: i64,
    pub quality: i32,
    pub typical_ms: i32,
    pub timeout_seconds: i32,
    /// A worker said it can call it; the note says why not.
    pub available: bool,
    pub note: String,
    /// The circuit breaker takes no calls now.
    pub open: bool,
    pub state: String,
    pub calls: i64,
    pub successes: i64,
    pub spent_ms: i64,
}

impl Model {
    /// The share of calls that succeeded, 0 to 1; the service level stands in for a past that is too short.
    pub fn success_rate(&self) -> f64 {
        const SHORT: f64 = 20.0;
        let (calls, sla) = (self.calls as f64, self.sla as f64 / 10_000.0);
        (self.successes as f64 + sla * SHORT) / (calls + SHORT)
    }

    /// What a call takes: measured once there were enough.
    pub fn usual_ms(&self) -> f64 {
        if self.successes >= 5 { self.spent_ms as f64 / self.successes as f64 } else { f64::from(self.typical_ms) }
    }
}

/// What the choice is made for.
pub struct Asked<'a> {
    pub wish: &'a Wish,
    pub prompt_complexity: f64,
    /// Where this department's prompts may go.
    pub regions: &'a [String],
    pub profile: &'a str,
    /// What the budget or the reservation leaves, in cents; None when it sets no limit.
    pub room_cents: Option<i64>,
}

/// A model that may be used, with its scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    pub id: String,
    pub title: String,
    pub quality: f64,
    pub cost: f64,
    pub reliability: f64,
    pub speed: f64,
    pub total: f64,
    pub cost_cents: i64,
}

/// A model that may not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub id: String,
    pub title: String,
    pub why: String,
    /// By which rule: `region`, `budget`, `cost`, `sla`, `licence`, `inactive`, `unavailable`, `circuit`, `choice`.
    pub rule: String,
}

/// The choice and its reasons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub profile: String,
    pub prompt_complexity: f64,
    /// Best first.
    pub ranked: Vec<Ranked>,
    pub dropped: Vec<Dropped>,
}

/// How much a prompt asks for, 0 to 1: its length, how varied its words are, and how many relations it names.
pub fn complexity(prompt: &str) -> f64 {
    let lower = prompt.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    if words.is_empty() {
        return 0.0;
    }
    let mut distinct = words.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let relations = [
        "behind",
        "beside",
        "between",
        "above",
        "under",
        "holding",
        "wearing",
        "reflecting",
        "inside",
        "with",
        "against",
        "through",
    ];
    let related = words.iter().filter(|w| relations.contains(w)).count() as f64;
    let commas = prompt.matches([',', ';']).count() as f64;
    let length = (words.len() as f64 / 60.0).min(1.0);
    let variety = (distinct.len() as f64 / 40.0).min(1.0);
    let structure = ((related + commas) / 8.0).min(1.0);
    let score = 0.4 * length + 0.3 * variety + 0.3 * structure;
    (score * 1000.0).round() / 1000.0
}

/// The quality that a wish needs, 0 to 100.
fn floor(required: &str) -> i32 {
    match required {
        "high" => 75,
        "medium" => 50,
        _ => 0,
    }
}

/// Ranks `models`. An empty list means that none may be used; the reasons say why.
pub fn choose(asked: &Asked<'_>, models: &[Model]) -> Choice {
    let (mut fit, mut dropped) = (Vec::new(), Vec::new());
    for model in models {
        match refuse(asked, model) {
            Some((rule, why)) => {
                dropped.push(Dropped { id: model.id.clone(), title: model.title.clone(), why, rule: rule.into() });
            }
            None => fit.push(model),
        }
    }
    let dearest = fit.iter().map(|m| m.cost_cents).max().unwrap_or(0).max(1) as f64;
    let weights = weights(asked.profile);
    let mut ranked: Vec<Ranked> = fit.iter().map(|m| score(asked, m, dearest, weights)).collect();
    ranked.sort_by(|a, b| {
        b.total.total_cmp(&a.total).then(b.reliability.total_cmp(&a.reliability)).then_with(|| a.id.cmp(&b.id))
    });
    Choice { profile: asked.profile.to_owned(), prompt_complexity: asked.prompt_complexity, ranked, dropped }
}

/// The hard limits. Sovereignty comes first: what may not leave the country is told so, whatever else is wrong.
fn refuse(asked: &Asked<'_>, model: &Model) -> Option<(&'static str, String)> {
    let wish = asked.wish;
    if wish.model != "auto" && wish.model != model.id {
        return Some(("choice", "another model was asked for".into()));
    }
    if !asked.regions.contains(&model.region) {
        let allowed = asked.regions.join(", ");
        return Some((
            "region",
            format!("it is in region {}; this department's prompts may go to {allowed} only", model.region),
        ));
    }
    if !model.is_active {
        return Some(("inactive", "an administrator has switched it off".into()));
    }
    if !model.available {
        return Some(("unavailable", model.note.clone()));
    }
    if wish.commercial_use && !model.commercial_use {
        return Some(("licence", "its licence does not cover commercial use".into()));
    }
    if let Some(needed) = wish.required_sla.filter(|n| model.sla < *n) {
        return Some((
            "sla",
            format!("its service level is {} per cent, {} is needed", hundredths(model.sla), hundredths(needed)),
        ));
    }
    if let Some(most) = wish.max_cost_cents.filter(|m| model.cost_cents > *m) {
        return Some(("cost", format!("it costs {} AUD, at most {} was allowed", aud(model.cost_cents), aud(most))));
    }
    if model.open {
        return Some(("circuit", "its circuit breaker is open after failures".into()));
    }
    if let Some(room) = asked.room_cents.filter(|r| model.cost_cents > *r) {
        return Some((
            "budget",
            format!("it costs {} AUD, the budget has {} left", aud(model.cost_cents), aud(room.max(0))),
        ));
    }
    None
}

fn hundredths(value: i64) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}

fn score(asked: &Asked<'_>, model: &Model, dearest: f64, weights: Weights) -> Ranked {
    // What a model lacks below the wished quality counts double, and more so for a prompt that asks for much.
    let lacking = f64::from((floor(&asked.wish.required_quality) - model.quality).max(0));
    let quality = (f64::from(model.quality) - lacking * (1.0 + asked.prompt_complexity)).clamp(0.0, 100.0);
    let cost = 100.0 * (1.0 - model.cost_cents as f64 / dearest);
    let reliability = 100.0 * model.success_rate();
    let speed = 100.0 * (1.0 - model.usual_ms() / 60_000.0).clamp(0.0, 1.0);
    let weighed = quality * f64::from(weights.quality)
        + cost * f64::from(weights.cost)
        + reliability * f64::from(weights.reliability)
        + speed * f64::from(weights.speed);
    let round = |v: f64| (v * 10.0).round() / 10.0;
    Ranked {
        id: model.id.clone(),
        title: model.title.clone(),
        quality: round(quality),
        cost: round(cost),
        reliability: round(reliability),
        speed: round(speed),
        total: round(weighed / 100.0),
        cost_cents: model.cost_cents,
    }
}

#[cfg(test)]
mod tests;
