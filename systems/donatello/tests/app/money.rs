//! What is refused before it costs anything, and what the three modes of a budget do.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{MARKETING, Studio};

async fn refused(browser: &mut crate::common::Browser, body: &Value) -> (StatusCode, Value) {
    let page = browser.api(Method::POST, "/api/v1/generate", body).await;
    (page.status, page.json())
}

#[tokio::test]
async fn refusals_cost_nothing_and_are_on_record_sealed() {
    let studio = Studio::start().await;
    let _ = studio.worker_of_all().await;
    let mut ann = studio.signed_in("ann").await;
    let (status, body) = refused(&mut ann, &json!({ "prompt": "a card for ann.archer@harbour.example" })).await;
    assert_eq!((status, body["error"].as_str()), (StatusCode::FORBIDDEN, Some("pii_detected")));
    assert_eq!(body["details"][0]["kind"], "EMAIL");
    let (status, body) = refused(&mut ann, &json!({ "prompt": "  \n" })).await;
    assert_eq!((status, body["details"][0]["field"].as_str()), (StatusCode::BAD_REQUEST, Some("prompt")));
    // Sovereignty: Replicate is in the US, and the department's prompts are not to leave Australia.
    let (status, body) = refused(&mut ann, &json!({ "prompt": "a red kite", "model_provider": "replicate" })).await;
    assert_eq!((status, body["error"].as_str()), (StatusCode::FORBIDDEN, Some("region_not_allowed")));
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("region us") && message.contains("australiaeast") && message.contains("Nothing was sent"),
        "{message}"
    );
    let (status, body) = refused(&mut ann, &json!({ "prompt": "a red kite", "max_cost_aud": "0.00" })).await;
    assert_eq!((status, body["error"].as_str()), (StatusCode::CONFLICT, Some("no_model")));
    studio.sql("UPDATE department_budgets SET monthly_budget_aud = 0");
    let (status, body) = refused(&mut ann, &json!({ "prompt": "a red kite" })).await;
    assert_eq!((status, body["error"].as_str()), (StatusCode::PAYMENT_REQUIRED, Some("budget_exceeded")));

    assert_eq!(studio.sql("SELECT count(*) FROM generations"), "0");
    assert_eq!(studio.sql("SELECT count(*) FROM jobs"), "0");
    assert_eq!((studio.openai.calls(), studio.replicate.calls()), (0, 0));
    let reasons =
        studio.sql("SELECT metadata->>'reason' FROM audit_logs WHERE event_type = 'refusal' ORDER BY sequence");
    assert_eq!(reasons, "pii_detected\ninvalid_request\nregion_not_allowed\nno_model\nbudget_exceeded");
    assert_eq!(studio.sql("SELECT count(*) FROM audit_logs t WHERE t::text ILIKE '%ann.archer@harbour%' AND event_type = 'refusal' AND metadata::text ILIKE '%ann.archer%'"), "0");
    studio.books_balance();
}

#[tokio::test]
async fn the_three_modes_refuse_log_and_alert() {
    let studio = Studio::start().await;
    let worker = studio.worker().await;
    let mut mia = studio.signed_in("mia").await;
    let path = format!("/api/v1/admin/departments/{MARKETING}/budget");
    let set = async |mia: &mut crate::common::Browser, mode: &str| {
        let changed =
            mia.api(Method::PATCH, &path, &json!({ "monthly_budget_aud": "0.02", "enforcement_mode": mode })).await;
        assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    };
    set(&mut mia, "hard").await;
    mia.ask("the first kite", json!({})).await;
    mia.ask("the second kite", json!({})).await;
    // Both are only reserved yet, and the third must not fit all the same.
    let (status, _) = refused(&mut mia, &json!({ "prompt": "the third kite" })).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
    studio.work(&worker).await;
    assert_eq!(
        studio.sql("SELECT current_spend_aud, reserved_aud FROM department_budgets WHERE monthly_budget_aud = 0.02"),
        "0.02|0.00"
    );
    assert_eq!(studio.sql("SELECT threshold FROM budget_alerts ORDER BY 1"), "80\n90\n100");
    set(&mut mia, "soft").await;
    mia.ask("the fourth kite", json!({})).await;
    assert_eq!(studio.sql("SELECT metadata->>'mode' FROM audit_logs WHERE action = 'over budget'"), "soft");
    assert_eq!(studio.sql("SELECT count(*) FROM budget_alerts WHERE threshold = 101"), "0");
    set(&mut mia, "warn").await;
    mia.ask("the fifth kite", json!({})).await;
    assert_eq!(studio.sql("SELECT count(*) FROM budget_alerts WHERE threshold = 101"), "1");
    studio.work(&worker).await;
    studio.books_balance();
    assert!(mia.get("/spend").await.text.contains("over budget"));
}

#[tokio::test]
async fn a_cancelled_prompt_is_given_back() {
    let studio = Studio::start().await;
    let worker = studio.worker().await;
    let mut ann = studio.signed_in("ann").await;
    let id = ann.ask("a kite nobody wants", json!({})).await;
    let gone = ann.api(Method::DELETE, &format!("/api/v1/generations/{id}"), &Value::Null).await;
    assert_eq!((gone.status, gone.json()["status"].as_str()), (StatusCode::OK, Some("cancelled")));
    assert!(!worker.once().await.unwrap(), "no worker takes it any more");
    studio.books_balance();
}

#[tokio::test]
async fn a_standard_user_is_limited_and_a_power_user_is_not() {
    let studio = Studio::start().await;
    let _ = studio.worker().await;
    let (mut ann, mut pia) = (studio.signed_in("ann").await, studio.signed_in("pia").await);
    for n in 0..10 {
        ann.ask(&format!("kite number {n}"), json!({})).await;
        pia.ask(&format!("kite number {n}"), json!({})).await;
    }
    let page = ann.api(Method::POST, "/api/v1/generate", &json!({ "prompt": "one more kite" })).await;
    assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(page.headers.contains_key("retry-after"));
    pia.ask("one more kite", json!({})).await;
}
