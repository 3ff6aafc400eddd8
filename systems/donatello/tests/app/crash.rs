//! A worker dies between each pair of steps: another goes on, and nobody is charged twice.

use donatello::worker::WorkError;
use http::Method;
use serde_json::json;

use crate::common::{MARKETING, Studio};

#[tokio::test]
async fn wherever_a_worker_dies_the_image_is_made_and_charged_once() {
    let studio = Studio::start().await;
    let worker = studio.worker_of_all().await;
    let mut ola = studio.signed_in("ola").await;
    let path = format!("/api/v1/admin/departments/{MARKETING}/budget");
    assert_eq!(
        ola.api(Method::PATCH, &path, &json!({ "regions": ["australiaeast", "us"] })).await.status.as_u16(),
        200
    );
    let mut pia = studio.signed_in("pia").await;
    let points = ["claimed", "chosen", "calling", "begun", "drawn", "stored", "kept", "settling", "settled"];
    for (n, point) in points.into_iter().enumerate() {
        let before = studio.replicate.calls();
        let id = pia.ask(&format!("a bay for {point} {n}"), json!({ "model_provider": "replicate" })).await;
        let died = studio.dying(&worker, point).once().await;
        assert!(matches!(died, Err(WorkError::Stopped(at)) if at == point), "{point}: {died:?}");
        // The lease runs out, and another worker takes it up.
        studio.work(&worker).await;
        let it = pia.generation(&id).await;
        assert_eq!(it["status"], "completed", "{point}: {it}");
        assert_eq!(
            studio.sql(&format!("SELECT count(*) FROM cost_events WHERE generation_id = '{id}'")),
            "1",
            "{point}"
        );
        let acts = studio
            .sql(&format!("SELECT count(*) FROM audit_logs WHERE resource_id = '{id}' AND action = 'image generated'"));
        assert_eq!(acts, "1", "{point}");
        // From `stored` on, the provider's work was kept; a prediction under way is waited for, not made again.
        let calls = studio.replicate.calls() - before;
        assert_eq!(calls, 1, "{point}: calls of the provider");
        studio.books_balance();
    }
}

#[tokio::test]
async fn a_worker_that_dies_while_giving_back_gives_back_once() {
    let studio = Studio::start().await;
    let worker = studio.worker_of_all().await;
    studio.openai.set(donatello::standin::Manner { mode: "refuse".into(), ..Default::default() });
    let mut pia = studio.signed_in("pia").await;
    let id = pia.ask("a bay", json!({ "model_provider": "azure-openai" })).await;
    let died = studio.dying(&worker, "giving-up").once().await;
    assert!(matches!(died, Err(WorkError::Stopped("giving-up"))), "{died:?}");
    assert_eq!(
        studio.sql("SELECT status, reserved_aud FROM generations"),
        "processing|0.06",
        "nothing of it was written"
    );
    studio.work(&worker).await;
    assert_eq!(pia.generation(&id).await["status"], "failed");
    studio.books_balance();
}

#[tokio::test]
async fn what_kills_every_worker_is_given_up_and_given_back() {
    let studio = Studio::start().await;
    let worker = studio.worker().await;
    let mut pia = studio.signed_in("pia").await;
    let id = pia.ask("a bay that kills", json!({})).await;
    let dying = studio.dying(&worker, "calling");
    while studio.sql("SELECT deaths FROM jobs") != "4" {
        let _ = dying.once().await;
    }
    studio.work(&worker).await;
    let it = pia.generation(&id).await;
    assert_eq!(it["status"], "failed", "{it}");
    assert!(it["error_message"].as_str().unwrap().contains("several workers"), "{it}");
    studio.books_balance();
}

#[tokio::test]
async fn many_workers_charge_each_job_once() {
    let studio = Studio::start().await;
    let worker = studio.worker_of_all().await;
    let mut pia = studio.signed_in("pia").await;
    for n in 0..12 {
        pia.ask(&format!("bay number {n}"), json!({ "model_provider": "azure-openai" })).await;
    }
    let mut hands = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let worker = worker.clone();
        hands.spawn(async move { while worker.once().await.unwrap() {} });
    }
    while let Some(done) = hands.join_next().await {
        done.unwrap();
    }
    assert_eq!(studio.sql("SELECT count(*), sum(cost_aud) FROM cost_events"), "12|0.7200");
    assert_eq!(studio.openai.calls(), 12);
    studio.books_balance();
}
