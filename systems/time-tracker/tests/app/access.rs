//! Nobody sees or does what is not theirs.

use crate::common::Office;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use time_tracker::{access::Right, routes};

/// A route's path with numbers and codes in place of its parameters.
fn concrete(path: &str) -> String {
    path.replace("{id}", "1").replace("{code}", "INTERNAL")
}

#[tokio::test]
async fn every_route_refuses_whoever_lacks_its_right() {
    let office = Office::start().await;
    let mut nobody = office.browser();
    let mut roleless = office.signed_in("nobody").await;
    let mut user = office.signed_in("ann").await;
    let mut manager = office.signed_in("mia").await;
    // CSRF tokens of people without a role cannot be read from /me; take the right one past the application.
    let mut seen = 0;
    for route in routes::all() {
        let path = concrete(route.path);
        let api = path.starts_with("/api/");
        let method: Method = route.method.parse().unwrap();
        if route.right == Right::Public {
            continue;
        }
        seen += 1;
        let answer = nobody.send(method.clone(), &path, &[], "").await;
        if api {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        } else {
            assert_eq!(answer.status, StatusCode::SEE_OTHER, "{method} {path}");
            assert!(answer.location().starts_with("/sign-in?return="), "{path}: {}", answer.location());
        }
        if route.right == Right::SignedIn {
            continue;
        }
        let mut refused = vec![&mut roleless];
        if matches!(route.right, Right::Manager | Right::Admin) {
            refused.push(&mut user);
        }
        if route.right == Right::Admin {
            refused.push(&mut manager);
        }
        for browser in refused {
            let answer = browser.api(method.clone(), &path, &json!({})).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.text);
        }
    }
    assert!(seen > 40, "the sweep met {seen} routes only");
}

#[tokio::test]
async fn another_persons_sheet_and_entry_do_not_exist() {
    let office = Office::start().await;
    let mut ann = office.signed_in("ann").await;
    let mut ben = office.signed_in("ben").await;
    let sheet = ann.sheet("2026-11-17").await;
    let entry = json!({ "projectCode": "INTERNAL", "workTypeCode": "DEV", "entryDate": "2026-11-17", "hours": 4 });
    let made = ann.api(Method::POST, &format!("/api/v1/time-sheets/{sheet}/time-entries"), &entry).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let id = made.json()["id"].as_i64().unwrap();
    let mut change = entry.clone();
    change["version"] = json!(1);
    let attempts: Vec<(Method, String, Value)> = vec![
        (Method::GET, format!("/sheets/{sheet}"), Value::Null),
        (Method::GET, format!("/sheets/{sheet}/csv"), Value::Null),
        (Method::GET, format!("/sheets/{sheet}/bulk"), Value::Null),
        (Method::GET, format!("/entries/{id}"), Value::Null),
        (Method::GET, format!("/api/v1/time-sheets/{sheet}"), Value::Null),
        (Method::GET, format!("/api/v1/time-sheets/{sheet}/time-entries"), Value::Null),
        (Method::POST, format!("/api/v1/time-sheets/{sheet}/time-entries"), entry.clone()),
        (Method::POST, format!("/api/v1/time-sheets/{sheet}/status"), json!({ "action": "submit", "version": 2 })),
        (Method::GET, format!("/api/v1/time-entries/{id}"), Value::Null),
        (Method::PUT, format!("/api/v1/time-entries/{id}"), change.clone()),
        (Method::DELETE, format!("/api/v1/time-entries/{id}?version=1"), Value::Null),
    ];
    for (method, path, body) in attempts {
        let answer = ben.api(method.clone(), &path, &body).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}: {}", answer.text);
    }
    let form = [
        ("np", "INTERNAL"),
        ("nw", "DEV"),
        ("h|||2026-11-18", "1"),
        ("version", "1"),
        ("action", "submit"),
        ("lines", "2026-11-18,INTERNAL,DEV,1"),
    ];
    for path in ["grid", "status", "entries", "bulk", "paste"] {
        let answer = ben.post(&format!("/sheets/{sheet}/{path}"), &form).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text);
    }
    for path in [format!("/entries/{id}"), format!("/entries/{id}/delete")] {
        assert_eq!(ben.post(&path, &form).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    // A manager reads it, but writes nothing in it.
    let mut mia = office.signed_in("mia").await;
    assert_eq!(mia.get(&format!("/sheets/{sheet}")).await.status, StatusCode::OK);
    assert_eq!(
        mia.api(Method::PUT, &format!("/api/v1/time-entries/{id}"), &change).await.status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(office.sql(r#"SELECT count(*) || ' ' || sum("Hours") FROM "TimeEntries""#), "1 4.00");
}

#[tokio::test]
async fn a_change_without_the_sessions_own_token_is_refused() {
    let office = Office::start().await;
    let mut ann = office.signed_in("ann").await;
    let mut ben = office.signed_in("ben").await;
    let sheet = ann.sheet("2026-11-17").await;
    let own = std::mem::replace(&mut ann.csrf, ben.csrf.clone());
    let form = [("np", "INTERNAL"), ("nw", "DEV"), ("h|||2026-11-18", "1")];
    assert_eq!(
        ann.post(&format!("/sheets/{sheet}/grid"), &form).await.status,
        StatusCode::FORBIDDEN,
        "another session's token"
    );
    ann.csrf = String::new();
    assert_eq!(ann.post(&format!("/sheets/{sheet}/grid"), &form).await.status, StatusCode::FORBIDDEN, "no token");
    let foreign =
        [("x-csrf-token", own.as_str()), ("sec-fetch-site", "cross-site"), ("content-type", "application/json")];
    let answer = ann.send(Method::POST, "/api/v1/time-sheets", &foreign, r#"{"date":"2026-01-01"}"#).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "a page of another site");
    ann.csrf = own;
    assert_eq!(ann.post(&format!("/sheets/{sheet}/grid"), &form).await.status, StatusCode::SEE_OTHER);
    // A signed-out session is over at once, also for a copy of its cookie.
    let copy = ben.cookies.clone();
    let out = ben.post("/sign-out", &[]).await;
    assert!(out.location().starts_with(&format!("{}/logout?", office.issuer.url)), "{}", out.location());
    ben.cookies = copy;
    assert_eq!(ben.get("/api/v1/me").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn cookies_and_headers_are_strict_and_a_deactivated_person_is_out_at_once() {
    let office = Office::start().await;
    let mut browser = office.browser();
    let done = browser.sign_in("ann").await;
    let cookies: Vec<&str> = done.headers.get_all("set-cookie").iter().map(|c| c.to_str().unwrap()).collect();
    let session = cookies.iter().find(|c| c.starts_with("__Host-session=")).unwrap();
    assert!(["Secure", "HttpOnly", "SameSite=Lax", "Path=/"].iter().all(|a| session.contains(a)), "{session}");
    let page = browser.get("/sheets").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.headers["cache-control"], "no-store");
    assert!(!page.text.contains("style=") && !page.text.contains("<script>"), "the policy would block inline code");
    let mut ada = office.signed_in("ada").await;
    let id = office.sql(r#"SELECT "Id" FROM "Users" WHERE "Email" = 'ann@example.com'"#);
    let out = ada.api(Method::PUT, &format!("/api/v1/users/{id}"), &json!({ "isActive": false })).await;
    assert_eq!(out.status, StatusCode::OK, "{}", out.text);
    assert_eq!(browser.get("/api/v1/me").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(browser.sign_in("ann").await.status, StatusCode::FORBIDDEN);
    // The table cannot make a cookie: it holds a keyed fingerprint only.
    let mut thief = office.browser();
    let row = office.sql(r#"SELECT "Id" FROM "Sessions" LIMIT 1"#);
    thief.forge("__Host-session", &row);
    assert_eq!(thief.get("/api/v1/me").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_bearer_token_of_the_issuer_opens_the_api_and_a_foreign_one_does_not() {
    let office = Office::start().await;
    let mut program = office.browser();
    let bearer = |token: &str| format!("Bearer {token}");
    let good = bearer(&office.issuer.id_token("mia", "n"));
    let me = program.send(Method::GET, "/api/v1/me", &[("authorization", &good)], "").await;
    assert_eq!(me.json()["roles"], json!(["user", "manager"]), "{}", me.text);
    let body = r#"{"date":"2026-11-17"}"#;
    let headers = [("authorization", good.as_str()), ("content-type", "application/json")];
    assert_eq!(program.send(Method::POST, "/api/v1/time-sheets", &headers, body).await.status, StatusCode::OK);
    for twist in [
        json!({ "aud": "other" }),
        json!({ "exp": 1_000 }),
        json!({ "iss": "https://other.example" }),
        json!({ "sub": null }),
    ] {
        office.issuer.twist(twist.clone());
        let bad = bearer(&office.issuer.id_token("mia", "n"));
        let answer = program.send(Method::GET, "/api/v1/me", &[("authorization", &bad)], "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{twist}");
    }
    let answer = program.send(Method::GET, "/api/v1/me", &[("authorization", "Bearer x")], "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}
