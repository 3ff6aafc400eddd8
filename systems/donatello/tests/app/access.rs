//! Who may see and do what: every route is tried by everybody.

use bytes::Bytes;
use donatello::{access::Right, domain::Role, routes};
use http::{Method, StatusCode};
use serde_json::json;

use crate::common::Studio;

fn path(pattern: &str) -> String {
    pattern.replace("{id}", "00000000-0000-4000-8000-000000000000").replace("{name}", "none.png")
}

#[tokio::test]
async fn every_route_refuses_strangers_and_those_without_its_right() {
    let studio = Studio::start().await;
    let mut nobody = studio.browser();
    let people = [
        ("ann", Role::StandardUser),
        ("pia", Role::PowerUser),
        ("mia", Role::DeptManager),
        ("ola", Role::OrgAdmin),
        ("ada", Role::SuperAdmin),
    ];
    let mut browsers = Vec::new();
    for (person, role) in people {
        browsers.push((studio.signed_in(person).await, role));
    }
    for route in routes::all() {
        let method: Method = route.method.parse().unwrap();
        let at = path(route.path);
        if route.right == Right::Public {
            continue;
        }
        let answer = nobody.send(method.clone(), &at, &[], Bytes::new()).await;
        if at.starts_with("/api/") {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {at}");
        } else {
            assert!(answer.location().starts_with("/sign-in?return="), "{method} {at}: {}", answer.status);
        }
        let least = match route.right {
            Right::SuperAdmin => Role::SuperAdmin,
            Right::OrgAdmin => Role::OrgAdmin,
            Right::Manager => Role::DeptManager,
            Right::User | Right::Public => Role::StandardUser,
        };
        for (browser, role) in &mut browsers {
            if *role >= least {
                continue;
            }
            let answer = browser.api(method.clone(), &at, &json!({})).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {at} by {}", role.word());
        }
    }
    assert_ne!(studio.sql("SELECT count(*) FROM audit_logs WHERE event_type = 'security' AND status = 'failure'"), "0");
}

#[tokio::test]
async fn changes_need_a_form_of_this_session() {
    let studio = Studio::start().await;
    let mut ann = studio.signed_in("ann").await;
    ann.csrf = "of somewhere else".into();
    let answer = ann.post("/generate", &[("prompt", "a bay"), ("idempotency_key", "12345678")]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(studio.sql("SELECT count(*) FROM generations"), "0");
}

#[tokio::test]
async fn who_has_no_role_gets_no_session_and_the_third_session_ends_the_first() {
    let studio = Studio::start().await;
    let mut nobody = studio.browser();
    let answer = nobody.sign_in("nobody").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
    let (mut first, mut second) = (studio.signed_in("ann").await, studio.signed_in("ann").await);
    let mut third = studio.signed_in("ann").await;
    assert_eq!(first.get("/api/v1/me").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(second.get("/api/v1/me").await.status, StatusCode::OK);
    assert_eq!(third.get("/api/v1/me").await.json()["role"], "standard_user");
    assert_eq!(studio.sql("SELECT count(*) FROM audit_logs WHERE action = 'sign-in failed'"), "1");
}

#[tokio::test]
async fn managers_keep_their_department_and_give_no_more_than_they_have() {
    let studio = Studio::start().await;
    let mut ann = studio.signed_in("ann").await;
    let id = ann.get("/api/v1/me").await.json()["id"].as_str().unwrap().to_owned();
    let mut mia = studio.signed_in("mia").await;
    let at = format!("/api/v1/admin/users/{id}");
    let given = mia.api(Method::POST, &format!("{at}/roles"), &json!({ "role": "power_user" })).await;
    assert_eq!(given.status, StatusCode::OK, "{}", given.text);
    assert_eq!(ann.get("/api/v1/me").await.json()["role"], "power_user", "at once");
    for role in ["dept_manager", "org_admin", "super_admin"] {
        let refused = mia.api(Method::POST, &format!("{at}/roles"), &json!({ "role": role })).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{role}");
    }
    // Where prompts may go is not a manager's to decide, and other departments are not theirs to see.
    let own = format!("/api/v1/admin/departments/{}/budget", crate::common::MARKETING);
    assert_eq!(mia.api(Method::PATCH, &own, &json!({ "regions": ["us"] })).await.status, StatusCode::FORBIDDEN);
    let other = "/api/v1/admin/departments/0d000000-0000-4000-8000-000000000002/budget";
    assert_eq!(mia.get(other).await.status, StatusCode::NOT_FOUND);
    let made = mia
        .api(
            Method::POST,
            "/api/v1/admin/users",
            &json!({ "email": "new@harbour.example", "display_name": "New", "role": "standard_user" }),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let csv = "email,display_name,role\nx@harbour.example,X,standard_user\nnonsense,Y,standard_user\nz@harbour.example,Z,super_admin";
    let bulk = mia.api(Method::POST, "/api/v1/admin/users/bulk", &json!({ "csv": csv })).await.json();
    assert_eq!((bulk["created"].as_i64(), bulk["refused"].as_array().unwrap().len()), (Some(1), 2), "{bulk}");
    // Kept out: the session ends at once.
    let out = mia.api(Method::DELETE, &at, &serde_json::Value::Null).await;
    assert_eq!(out.status, StatusCode::OK, "{}", out.text);
    assert_eq!(ann.get("/api/v1/me").await.status, StatusCode::UNAUTHORIZED);
}
