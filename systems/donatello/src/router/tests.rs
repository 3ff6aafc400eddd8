//! What the router must choose, and what it must never choose.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;

fn model(id: &str, region: &str, cost: i64, quality: i32, ms: i32) -> Model {
    Model {
        id: id.into(),
        provider_name: id.into(),
        model_name: id.into(),
        title: id.into(),
        region: region.into(),
        is_active: true,
        is_ai: true,
        commercial_use: true,
        cost_cents: cost,
        sla: 9990,
        quality,
        typical_ms: ms,
        timeout_seconds: 60,
        available: true,
        note: String::new(),
        open: false,
        state: "CLOSED".into(),
        calls: 0,
        successes: 0,
        spent_ms: 0,
    }
}

fn shelf() -> Vec<Model> {
    vec![
        model("fine", "australiaeast", 6, 95, 12_000),
        model("cheap", "australiaeast", 1, 55, 900),
        model("abroad", "us", 2, 80, 5_000),
    ]
}

fn asked<'a>(wish: &'a Wish, regions: &'a [String], profile: &'a str) -> Asked<'a> {
    Asked { wish, prompt_complexity: 0.3, regions, profile, room_cents: None }
}

fn australia() -> Vec<String> {
    vec!["australiaeast".into(), "australiasoutheast".into()]
}

#[test]
fn each_profile_weighs_as_the_document_says() {
    assert_eq!(weights("cost"), Weights { quality: 30, cost: 50, reliability: 0, speed: 20 });
    assert_eq!(weights("quality"), Weights { quality: 60, cost: 20, reliability: 0, speed: 20 });
    assert_eq!(weights("balanced"), Weights { quality: 25, cost: 25, reliability: 25, speed: 25 });
    let (wish, regions) = (Wish { required_quality: "low".into(), ..Wish::default() }, australia());
    assert_eq!(choose(&asked(&wish, &regions, "cost"), &shelf()).ranked[0].id, "cheap");
    assert_eq!(choose(&asked(&wish, &regions, "quality"), &shelf()).ranked[0].id, "fine");
}

#[test]
fn a_total_is_the_weighed_sum_of_its_four_scores() {
    let (wish, regions) = (Wish::default(), australia());
    for profile in ["balanced", "cost", "quality"] {
        for ranked in choose(&asked(&wish, &regions, profile), &shelf()).ranked {
            let w = weights(profile);
            let sum = ranked.quality * f64::from(w.quality)
                + ranked.cost * f64::from(w.cost)
                + ranked.reliability * f64::from(w.reliability)
                + ranked.speed * f64::from(w.speed);
            assert!((sum / 100.0 - ranked.total).abs() < 0.11, "{ranked:?}");
        }
    }
}

#[test]
fn nothing_outside_the_departments_regions_is_ever_ranked() {
    let (wish, regions) = (Wish { model: "abroad".into(), ..Wish::default() }, australia());
    let choice = choose(&asked(&wish, &regions, "cost"), &shelf());
    assert!(choice.ranked.is_empty());
    let why = choice.dropped.iter().find(|d| d.id == "abroad").unwrap();
    assert_eq!(why.rule, "region");
    assert!(why.why.contains("region us") && why.why.contains("australiaeast"), "{}", why.why);
}

#[test]
fn each_hard_limit_drops_and_says_why() {
    let regions = australia();
    let with = |wish: &Wish, change: fn(&mut Model), room: Option<i64>| {
        let mut models = vec![model("one", "australiaeast", 6, 90, 1000)];
        change(&mut models[0]);
        let asked = Asked { room_cents: room, ..asked(wish, &regions, "balanced") };
        choose(&asked, &models).dropped.first().map(|d| d.rule.clone()).unwrap_or_default()
    };
    let plain = Wish::default();
    assert_eq!(with(&plain, |_| {}, None), "");
    assert_eq!(with(&plain, |m| m.is_active = false, None), "inactive");
    assert_eq!(with(&plain, |m| m.available = false, None), "unavailable");
    assert_eq!(with(&plain, |m| m.open = true, None), "circuit");
    assert_eq!(with(&plain, |m| m.commercial_use = false, None), "licence");
    assert_eq!(with(&Wish { required_sla: Some(9995), ..plain.clone() }, |_| {}, None), "sla");
    assert_eq!(with(&Wish { max_cost_cents: Some(5), ..plain.clone() }, |_| {}, None), "cost");
    assert_eq!(with(&plain, |_| {}, Some(5)), "budget");
}

#[test]
fn between_equals_the_more_reliable_wins() {
    let (wish, regions) = (Wish::default(), australia());
    let mut models = vec![model("a", "australiaeast", 6, 90, 1000), model("b", "australiaeast", 6, 90, 1000)];
    (models[0].calls, models[0].successes) = (100, 60);
    (models[1].calls, models[1].successes) = (100, 99);
    // Same measured speed for both.
    (models[0].spent_ms, models[1].spent_ms) = (60_000, 99_000);
    let choice = choose(&asked(&wish, &regions, "cost"), &models);
    assert!((choice.ranked[0].total - choice.ranked[1].total).abs() < 0.01);
    assert_eq!(choice.ranked[0].id, "b");
}

proptest::proptest! {
    #[test]
    fn complexity_and_scores_stay_in_their_bounds(prompt in ".{0,400}", cost in 0_i64..100, quality in 0..100_i32, calls in 0_i64..1000) {
        let score = complexity(&prompt);
        proptest::prop_assert!((0.0..=1.0).contains(&score));
        let (wish, regions) = (Wish::default(), australia());
        let mut one = model("one", "australiaeast", cost, quality, 5000);
        (one.calls, one.successes) = (calls, calls / 2);
        let choice = choose(&Asked { prompt_complexity: score, ..asked(&wish, &regions, "balanced") }, &[one, model("two", "australiaeast", 9, 50, 70_000)]);
        for r in choice.ranked {
            for s in [r.quality, r.cost, r.reliability, r.speed, r.total] {
                proptest::prop_assert!((0.0..=100.0).contains(&s), "{s}");
            }
        }
    }
}
