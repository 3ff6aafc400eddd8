//! The providers over their wire formats, each behaving well, slowly and badly.

use std::time::Duration;

use donatello::{standin::Manner, worker::Worker};
use http::Method;
use serde_json::{Value, json};

use crate::common::{Browser, MARKETING, Studio};

async fn studio() -> (Studio, Worker, Browser) {
    let studio = Studio::start().await;
    let worker = studio.worker_of_all().await;
    let mut ola = studio.signed_in("ola").await;
    // This department may use Replicate as well.
    let path = format!("/api/v1/admin/departments/{MARKETING}/budget");
    let body = json!({ "regions": ["australiaeast", "us"], "profile": "quality" });
    assert_eq!(ola.api(Method::PATCH, &path, &body).await.status.as_u16(), 200);
    let ann = studio.signed_in("pia").await;
    (studio, worker, ann)
}

fn manner(mode: &str) -> Manner {
    Manner { mode: mode.into(), retry_after: 0, ..Manner::default() }
}

fn kinds(it: &Value) -> Vec<String> {
    let names = it["events"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap());
    names.map(|n| n.trim_start_matches("generation.").to_owned()).collect()
}

#[tokio::test]
async fn each_provider_draws_and_says_that_a_stand_in_did() {
    let (studio, worker, mut pia) = studio().await;
    for (model, cost) in [("azure-openai", "0.06"), ("replicate", "0.02"), ("renderer", "0.01")] {
        let id = pia.ask("a quiet bay", json!({ "model_provider": model })).await;
        studio.work(&worker).await;
        let it = pia.generation(&id).await;
        assert_eq!((it["status"].as_str(), it["cost_aud"].as_str()), (Some("completed"), Some(cost)), "{it}");
        assert_eq!(it["metadata"]["is_ai"], false);
        assert_eq!(it["metadata"]["stand_in"], model != "renderer");
    }
    assert_eq!((studio.openai.calls(), studio.replicate.calls()), (1, 1));
    let models = pia.get("/api/v1/models").await.json();
    let finest = &models["items"][0];
    assert_eq!((&finest["quality"], &finest["commercial_use"]), (&json!(98), &json!(true)), "{models}");
    studio.books_balance();
}

#[tokio::test]
async fn three_attempts_then_the_next_model_and_the_cost_is_that_of_who_drew() {
    for mode in ["limited", "broken", "garbage", "wrong", "html"] {
        let (studio, worker, mut pia) = studio().await;
        studio.openai.set(manner(mode));
        let id = pia.ask("a quiet bay", json!({})).await;
        studio.work(&worker).await;
        let it = pia.generation(&id).await;
        assert_eq!(studio.openai.calls(), 3, "{mode}: three attempts");
        assert_eq!(
            (it["status"].as_str(), it["model_name"].as_str()),
            (Some("completed"), Some("sdxl")),
            "{mode}: {it}"
        );
        assert_eq!((it["fallback_model"].as_str(), it["retry_count"].as_i64()), (Some("replicate"), Some(3)), "{mode}");
        let kinds = kinds(&it);
        assert_eq!(kinds.iter().filter(|k| *k == "failed-attempt").count(), 2, "{mode}: two waits");
        assert_eq!(kinds.iter().filter(|k| *k == "fallback").count(), 1, "{mode}");
        studio.books_balance();
    }
}

#[tokio::test]
async fn one_failure_is_tried_again_and_a_hanging_provider_is_cut() {
    let (studio, worker, mut pia) = studio().await;
    studio.openai.set(Manner { times: 1, ..manner("broken") });
    let id = pia.ask("a quiet bay", json!({ "model_provider": "azure-openai" })).await;
    studio.work(&worker).await;
    assert_eq!(pia.generation(&id).await["retry_count"], 1);
    studio.openai.set(Manner { times: 1, ..manner("hang") });
    let worker = Worker { longest: Duration::from_millis(300), ..worker };
    let id = pia.ask("a quiet bay in fog", json!({ "model_provider": "azure-openai" })).await;
    worker.once().await.unwrap();
    let it = pia.generation(&id).await;
    let why = it["events"].as_array().unwrap().iter().find(|e| e["event"] == "generation.failed-attempt").unwrap();
    assert!(why["detail"]["why"].as_str().unwrap().contains("no image within"), "{why}");
}

#[tokio::test]
async fn all_fail_and_the_money_comes_back() {
    let (studio, worker, mut pia) = studio().await;
    studio.openai.set(manner("broken"));
    let id = pia.ask("a quiet bay", json!({ "model_provider": "azure-openai" })).await;
    studio.work(&worker).await;
    let it = pia.generation(&id).await;
    assert_eq!((it["status"].as_str(), it["cost_aud"].is_null()), (Some("failed"), true), "{it}");
    assert!(it["error_message"].as_str().unwrap().contains("every model"), "{it}");
    // A prompt that the provider will not draw is not tried again, anywhere.
    let before = studio.openai.calls();
    studio.openai.set(manner("refuse"));
    let id = pia.ask("a quieter bay", json!({ "model_provider": "azure-openai" })).await;
    studio.work(&worker).await;
    assert_eq!(pia.generation(&id).await["status"], "failed");
    assert_eq!(studio.openai.calls(), before + 1);
    studio.books_balance();
}

#[tokio::test]
async fn after_five_failures_nobody_calls_for_a_minute() {
    let (studio, worker, mut pia) = studio().await;
    studio.openai.set(manner("broken"));
    for n in 0..3 {
        pia.ask(&format!("bay number {n}"), json!({})).await;
        studio.work(&worker).await;
    }
    assert_eq!(studio.sql("SELECT state FROM provider_health WHERE model_id = 'azure-openai'"), "OPEN");
    assert_eq!(studio.openai.calls(), 5, "the third prompt never reached it");
    let last = pia.ask("the last bay", json!({})).await;
    studio.work(&worker).await;
    let it = pia.generation(&last).await;
    let dropped = it["reasons"]["dropped"].as_array().unwrap();
    assert!(dropped.iter().any(|d| d["id"] == "azure-openai" && d["rule"] == "circuit"), "{it}");
    assert_eq!(studio.openai.calls(), 5);
    // A minute later it is tried again, and three successes close it.
    studio.openai.set(Manner::default());
    studio.sql("UPDATE provider_health SET opened_at = now() - interval '61 seconds' WHERE model_id = 'azure-openai'");
    for n in 0..3 {
        pia.ask(&format!("new bay {n}"), json!({})).await;
        studio.work(&worker).await;
    }
    assert_eq!(studio.sql("SELECT state FROM provider_health WHERE model_id = 'azure-openai'"), "CLOSED");
    studio.books_balance();
}
