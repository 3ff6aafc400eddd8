//! A device that sends too much, and strangers who try keys.

use http::StatusCode;
use serde_json::{Value, json};

use crate::common::Yard;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_answered_429_with_the_time_to_wait_and_others_go_on() {
    let yard = Yard::start_with(&[("INGEST_EVENTS_PER_SECOND", "20")]).await;
    let tenant = yard.tenant("acme").await;
    let other = yard.tenant("other").await;
    let ((_, key), (_, calm)) = (yard.device(&tenant).await, yard.device(&other).await);
    let batch = Value::Array(vec![json!({ "kind": "log" }); 50]);
    let mut taken = 0;
    let refused = loop {
        let answer = yard.ingest(&key, &batch).await;
        match answer.status {
            StatusCode::NO_CONTENT => taken += 1,
            _ => break answer,
        }
        assert!(taken < 20, "nothing bounds it");
    };
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.text);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(yard.ingest(&calm, &batch).await.status, StatusCode::NO_CONTENT, "another tenant's device");
    let stored = yard.sql("app", &format!("SELECT count(*) FROM ingest_events WHERE tenant_id = '{}'", tenant.id));
    assert_eq!(stored, (taken * 50).to_string(), "what was acknowledged is there, what was refused is not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_no_batch_is_refused_whole() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let (_, key) = yard.device(&tenant).await;
    let large = json!([{ "kind": "log", "body": { "line": "x".repeat(2 * 1024 * 1024) } }]);
    assert_eq!(yard.ingest(&key, &large).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        yard.ingest(&key, &Value::Array(vec![json!({ "kind": "log" }); 501])).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let half = json!([{ "kind": "log" }, { "kind": "security_alert" }]);
    assert_eq!(yard.ingest(&key, &half).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(yard.sql("app", "SELECT count(*) FROM ingest_events"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_keys_are_refused_and_soon_not_even_asked_about() {
    let yard = Yard::start().await;
    let batch = json!([{ "kind": "log" }]);
    let mut statuses = Vec::new();
    for n in 0..80 {
        statuses.push(yard.ingest(&format!("a-key-that-nobody-knows-{n}"), &batch).await.status);
    }
    assert_eq!(statuses[0], StatusCode::UNAUTHORIZED);
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "all of them were asked about");
    assert_eq!(yard.ingest("short", &batch).await.status, StatusCode::UNAUTHORIZED);
}
