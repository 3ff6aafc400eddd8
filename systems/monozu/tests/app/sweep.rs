//! Every route of every program: refused without its right, and never another tenant's.

use http::StatusCode;
use monozu::{cloud, cloud::Right, manage};
use serde_json::{Value, json};

use crate::common::Yard;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_whoever_lacks_its_right() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let (_, key) = yard.device(&tenant).await;
    let uuid = "00000000-0000-4000-8000-000000000000";
    let concrete = |path: &str| path.replace("{id}", uuid).replace("{name}", "agent").replace("{version}", "1");
    let mut seen = 0;
    for route in cloud::all() {
        let url = format!("{}{}", yard.cloud, concrete(route.path));
        if route.right == Right::Public {
            continue;
        }
        seen += 1;
        let bare = yard.send(route.method, &url, &[], "").await;
        assert_eq!(bare.status, StatusCode::UNAUTHORIZED, "{} {}: {}", route.method, route.path, bare.text);
        let wrong = [
            ("authorization", "Bearer x.y.z"),
            ("x-internal-token", "x"),
            ("x-hmac-signature", "sha256=00"),
            ("x-hmac-timestamp", "1"),
        ];
        assert_eq!(
            yard.send(route.method, &url, &wrong, "").await.status,
            StatusCode::UNAUTHORIZED,
            "{} {}",
            route.method,
            route.path
        );
        // What is good elsewhere is not good here.
        let bearer = format!("Bearer {}", tenant.token);
        if !matches!(route.right, Right::Person | Right::Admin | Right::PersonOrDevice) {
            let status = yard.send(route.method, &url, &[("authorization", &bearer)], "").await.status;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} {} by a person", route.method, route.path);
        }
        if !matches!(route.right, Right::Device | Right::PersonOrDevice) {
            let status = yard.send(route.method, &url, &[("x-device-key", &key)], "").await.status;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} {} by a device", route.method, route.path);
        }
    }
    assert!(seen > 30, "the sweep met {seen} routes only");
    let mut seen = 0;
    for route in manage::all() {
        if route.right == manage::Right::Public {
            continue;
        }
        seen += 1;
        let url = format!("{}{}", yard.manage, concrete(route.path));
        let answer = yard.send(route.method, &url, &[], "").await;
        let page = route.method == "GET" && answer.status == StatusCode::SEE_OTHER;
        let to_sign_in = page && answer.headers["location"].to_str().unwrap().starts_with("/manage/sign-in?return=");
        assert!(
            to_sign_in || answer.status == StatusCode::UNAUTHORIZED,
            "{} {}: {}",
            route.method,
            route.path,
            answer.status
        );
        let bearer = format!("Bearer {}", yard.issuer.id_token("nobody", "n"));
        let other = yard.send(route.method, &url, &[("authorization", &bearer)], "").await.status;
        assert!(
            matches!(other, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED),
            "{} {}: {other}",
            route.method,
            route.path
        );
    }
    assert!(seen > 7, "the sweep met {seen} routes only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_rows_do_not_exist_through_any_route() {
    let yard = Yard::start().await;
    let (ours, theirs) = (yard.tenant("acme").await, yard.tenant("other").await);
    let mut ids: Vec<(&str, String)> = Vec::new();
    for (path, body) in [
        ("/api/v1/sites", json!({ "name": "theirs: site" })),
        ("/api/v1/assets", json!({ "name": "theirs: asset" })),
        ("/api/v1/incidents", json!({ "title": "theirs: incident", "severity": "critical" })),
        (
            "/api/v1/users",
            json!({ "email": "theirs@other.example", "name": "theirs", "role": "member", "password": "green tractor nine" }),
        ),
        ("/api/v1/registration-keys", json!({ "name": "theirs: key" })),
    ] {
        let made = yard.call(&theirs.token, "POST", path, &body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{path}: {}", made.text);
        ids.push((path, made.said("id")));
    }
    let (device, key) = yard.device(&theirs).await;
    yard.ingest(
        &key,
        &json!([{ "kind": "security_alert", "severity": "high", "title": "theirs: alert", "body": { "theirs": 1 } }]),
    )
    .await;
    ids.push(("/api/v1/devices", device.clone()));
    let before = snapshot(&yard);
    let mut asked = 0;
    for route in cloud::all().iter().filter(|r| matches!(r.right, Right::Person | Right::Admin | Right::PersonOrDevice))
    {
        // Signing out would end the sweep; the socket is tried in flow.rs.
        if route.path.ends_with("/logout") || route.path.contains("/ws/") {
            continue;
        }
        let noun = route.path.split("/{").next().unwrap();
        let id = match noun {
            "/api/v1/security-alerts" => "1".to_owned(),
            _ => ids.iter().find(|(path, _)| *path == noun).map_or_else(|| device.clone(), |(_, id)| id.clone()),
        };
        let path = route.path.replace("{id}", &id).replace("{name}", "agent").replace("{version}", "1");
        let bodies = match route.method {
            "PATCH" if noun == "/api/v1/users" => vec![json!({ "role": "admin", "active": false })],
            "PATCH" if noun == "/api/v1/incidents" => vec![json!({ "title": "taken" })],
            "PATCH" => vec![json!({ "name": "taken" })],
            _ => vec![Value::Null],
        };
        for body in bodies {
            asked += 1;
            let answer = yard.call(&ours.token, route.method, &path, &body).await;
            let shown = answer.text.contains("theirs")
                || answer.text.contains(&device)
                || ids.iter().any(|(_, id)| answer.text.contains(id.as_str()));
            assert!(!shown, "{} {path} shows what is another's: {}", route.method, answer.text);
            if route.path.contains('{') {
                assert_eq!(answer.status, StatusCode::NOT_FOUND, "{} {path}: {}", route.method, answer.text);
            }
        }
    }
    assert!(asked > 25, "the sweep asked {asked} times only");
    assert_eq!(snapshot(&yard), before, "something of the other tenant was changed");
    // Nor can a row of ours be tied to theirs, or carry their name.
    let site = &ids[0].1;
    let tied = yard.call(&ours.token, "POST", "/api/v1/assets", &json!({ "name": "spy", "site_id": site })).await;
    assert_eq!(tied.status, StatusCode::BAD_REQUEST, "{}", tied.text);
    let named = yard.call(&ours.token, "POST", "/api/v1/sites", &json!({ "name": "x", "tenant_id": theirs.id })).await;
    assert_eq!(named.status, StatusCode::BAD_REQUEST, "{}", named.text);
}

/// Everything that the other tenant has.
fn snapshot(yard: &Yard) -> String {
    let tables =
        ["users", "sites", "assets", "incidents", "registration_keys", "devices", "ingest_events", "security_alerts"];
    let of = |table: &&str| {
        let account = "(SELECT id FROM guard.tenants WHERE account = 'other')";
        yard.sql(
            "app",
            &format!("SELECT jsonb_agg(to_jsonb(t) ORDER BY t.id) FROM {table} t WHERE tenant_id = {account}"),
        )
    };
    tables.iter().map(of).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incidents_have_the_times_of_their_severity() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let made = yard
        .call(&tenant.token, "POST", "/api/v1/incidents", &json!({ "title": "Leak", "severity": "critical" }))
        .await
        .json();
    let due = "SELECT (sla_response_due - opened_at)::text || ' ' || (sla_resolve_due - opened_at)::text || ' ' || status FROM incidents";
    assert_eq!(yard.sql("app", due), "00:15:00 04:00:00 open");
    let path = format!("/api/v1/incidents/{}", made["id"].as_str().unwrap());
    let changed =
        yard.call(&tenant.token, "PATCH", &path, &json!({ "status": "resolved", "severity": "low" })).await.json();
    assert!(changed["acknowledged_at"].is_string() && changed["resolved_at"].is_string(), "{changed}");
    assert_eq!(yard.sql("app", due), "08:00:00 3 days resolved");
    for wrong in
        [json!({ "severity": "worst" }), json!({ "opened_at": "2020-01-01T00:00:00Z" }), json!({ "title": "" })]
    {
        assert_eq!(yard.call(&tenant.token, "PATCH", &path, &wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(yard.call(&tenant.token, "DELETE", &path, &Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(yard.call(&tenant.token, "GET", &path, &Value::Null).await.status, StatusCode::NOT_FOUND);
}
