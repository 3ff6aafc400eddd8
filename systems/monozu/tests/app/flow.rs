//! The walk of a tenant: asks, waits, is let in, signs in, has devices that report, downloads.

use futures_util::StreamExt;
use http::StatusCode;
use monozu::{digest::sha256_hex, webhook::Signer};
use sdk::Secret;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest};

use crate::common::{HMAC, PASSWORD, PUBLISH, Yard};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_pending_until_management_says_so() {
    let yard = Yard::start().await;
    let asked = yard.register("acme").await;
    assert_eq!((asked.status, asked.said("status").as_str()), (StatusCode::ACCEPTED, "pending"), "{}", asked.text);
    let early = yard.login("acme").await;
    assert_eq!(
        (early.status, early.said("error").as_str()),
        (StatusCode::FORBIDDEN, "tenant_pending"),
        "{}",
        early.text
    );
    // A wrong password is not told that the tenant is pending.
    assert_eq!(yard.login_as("acme", "ann@acme.example", "wrong password").await.status, StatusCode::UNAUTHORIZED);
    let id = asked.said("tenant_id");
    let decided = yard.decide(&id, &json!({ "status": "active", "plan": "standard", "days": 30 })).await;
    assert_eq!(decided.status, StatusCode::OK, "{}", decided.text);
    let signed_in = yard.login("acme").await;
    assert_eq!(signed_in.status, StatusCode::OK, "{}", signed_in.text);
    let token = signed_in.said("access_token");
    let features = yard.call(&token, "GET", "/api/v1/me/features", &Value::Null).await.json();
    assert_eq!((features["plan"].as_str(), features["status"].as_str()), (Some("standard"), Some("active")));
    // Suspended, a sign-in that is under way ends at once.
    yard.decide(&id, &json!({ "status": "suspended", "plan": "standard", "days": 30 })).await;
    let after = yard.call(&token, "GET", "/api/v1/me", &Value::Null).await;
    assert_eq!((after.status, after.said("error").as_str()), (StatusCode::FORBIDDEN, "tenant_suspended"));
    assert_eq!(yard.login("acme").await.said("error"), "tenant_suspended");
    let acts = yard.sql(
        "manage",
        "SELECT string_agg(operator || ' ' || act || ' ' || (detail->>'status'), ', ' ORDER BY id) FROM acts",
    );
    assert_eq!(acts, "Olga Operator licence active, Olga Operator licence suspended");
    assert_eq!(yard.register("acme").await.status, StatusCode::CONFLICT);
    assert_eq!(yard.register("Not an account").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_licence_that_has_ended_closes_the_door() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    yard.sql("app", "UPDATE guard.tenants SET expires_at = now() - interval '1 s'");
    assert_eq!(yard.call(&tenant.token, "GET", "/api/v1/sites", &Value::Null).await.said("error"), "licence_expired");
    assert_eq!(yard.login("acme").await.said("error"), "licence_expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_taken_signed_once_and_in_time() {
    let yard = Yard::start().await;
    let id = yard.register("acme").await.said("tenant_id");
    yard.decide(&id, &json!({ "status": "active", "plan": "standard", "days": 30 })).await;
    let url = format!("{}/internal/license/refresh", yard.cloud);
    let body = json!({ "tenant_id": id }).to_string();
    let headers = |secret: &str| {
        let signed = Signer::new(&Secret::new(secret)).sign(body.as_bytes());
        let text = |name| signed[name].to_str().unwrap().to_owned();
        [("x-hmac-signature", text("x-hmac-signature")), ("x-hmac-timestamp", text("x-hmac-timestamp"))]
    };
    let send = async |headers: &[(&str, String)], body: &str| {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        yard.send("POST", &url, &headers, body.to_owned()).await.status
    };
    let good = headers(HMAC);
    assert_eq!(send(&good, &format!("{body} ")).await, StatusCode::UNAUTHORIZED, "another body");
    assert_eq!(send(&headers("another secret"), &body).await, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&[], &body).await, StatusCode::UNAUTHORIZED);
    let before = yard.sql("app", "SELECT count(*) FROM webhook_receipts");
    assert_eq!(send(&good, &body).await, StatusCode::NO_CONTENT);
    assert_eq!(send(&good, &body).await, StatusCode::UNAUTHORIZED, "the same one again");
    let after = yard.sql("app", "SELECT count(*) FROM webhook_receipts");
    assert_eq!(after.parse::<u32>().unwrap(), before.parse::<u32>().unwrap() + 1);
    // The other direction asks for the internal token.
    let licence = format!("{}/internal/v1/tenants/{id}/license", yard.manage);
    assert_eq!(yard.send("GET", &licence, &[], "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(yard.send("GET", &licence, &[("x-internal-token", "wrong")], "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_good_once_and_a_copy_ends_the_sign_in() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let refresh = async |cookie: &str| {
        yard.send("POST", &format!("{}/api/v1/auth/refresh", yard.cloud), &[("cookie", cookie)], "").await
    };
    let first = refresh(&tenant.refresh).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let cookie = first.headers["set-cookie"].to_str().unwrap();
    assert!(["Secure", "HttpOnly", "SameSite=Strict", "Max-Age=604800"].iter().all(|a| cookie.contains(a)), "{cookie}");
    let token = first.said("access_token");
    assert_eq!(yard.call(&token, "GET", "/api/v1/me", &Value::Null).await.status, StatusCode::OK);
    assert_eq!(
        yard.call(&tenant.token, "GET", "/api/v1/me", &Value::Null).await.status,
        StatusCode::UNAUTHORIZED,
        "the ticket before"
    );
    assert_eq!(refresh(&tenant.refresh).await.status, StatusCode::UNAUTHORIZED, "a second time");
    assert_eq!(
        yard.call(&token, "GET", "/api/v1/me", &Value::Null).await.status,
        StatusCode::UNAUTHORIZED,
        "all of it ended"
    );
    assert_eq!(refresh(cookie.split(';').next().unwrap()).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_wrong_passwords_rest_a_login_and_people_are_added_and_kept_out() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let ben =
        json!({ "email": "ben@acme.example", "name": "Ben", "role": "member", "password": "grey tractor eleven" });
    let made = yard.call(&tenant.token, "POST", "/api/v1/users", &ben).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let ben_in = yard.login_as("acme", "ben@acme.example", "grey tractor eleven").await;
    let ben_token = ben_in.said("access_token");
    assert_eq!(yard.call(&ben_token, "GET", "/api/v1/me", &Value::Null).await.json()["role"], "member");
    assert_eq!(yard.call(&ben_token, "POST", "/api/v1/users", &ben).await.status, StatusCode::FORBIDDEN);
    let path = format!("/api/v1/users/{}", made.said("id"));
    let out = yard.call(&tenant.token, "PATCH", &path, &json!({ "role": "member", "active": false })).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT, "{}", out.text);
    assert_eq!(yard.call(&ben_token, "GET", "/api/v1/me", &Value::Null).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(yard.login_as("acme", "ben@acme.example", "grey tractor eleven").await.status, StatusCode::UNAUTHORIZED);
    for _ in 0..10 {
        assert_eq!(
            yard.login_as("acme", "ann@acme.example", "not her password").await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    assert_eq!(yard.login_as("acme", "ann@acme.example", PASSWORD).await.status, StatusCode::UNAUTHORIZED, "it rests");
    yard.sql("app", "UPDATE guard.logins SET locked_until = now() - interval '1 s'");
    assert_eq!(yard.login("acme").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_reports_an_alert_comes_live_and_a_stolen_key_is_ended() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let other = yard.tenant("other").await;
    let (id, key) = yard.device(&tenant).await;
    let listen = async |token: &str| {
        let address = yard.cloud.strip_prefix("http://").unwrap().to_owned();
        let mut request = format!("ws://{address}/api/ws/security").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", format!("bearer, {token}").parse().unwrap());
        client_async(request, TcpStream::connect(address).await.unwrap()).await
    };
    let (mut socket, _) = listen(&tenant.token).await.unwrap();
    let (mut others, _) = listen(&other.token).await.unwrap();
    assert!(listen("no token").await.is_err());
    let batch = json!([
        { "kind": "telemetry", "body": { "temperature": 21.5 } },
        { "kind": "log", "at": "2026-11-01T12:00:00Z", "body": { "line": "started" } },
        { "kind": "security_alert", "severity": "critical", "title": "door forced", "body": { "door": 3 } },
    ]);
    let taken = yard.ingest(&key, &batch).await;
    assert_eq!((taken.status, taken.text.as_str()), (StatusCode::NO_CONTENT, ""));
    let message =
        tokio::time::timeout(std::time::Duration::from_secs(10), socket.next()).await.unwrap().unwrap().unwrap();
    let alert: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    assert_eq!((alert["title"].as_str(), alert["device_id"].as_str()), (Some("door forced"), Some(id.as_str())));
    // The other tenant's stream has heard of its own alert only.
    let (_, other_key) = yard.device(&other).await;
    yard.ingest(&other_key, &json!([{ "kind": "security_alert", "severity": "low", "title": "its own" }])).await;
    let message =
        tokio::time::timeout(std::time::Duration::from_secs(10), others.next()).await.unwrap().unwrap().unwrap();
    assert!(message.to_text().unwrap().contains("its own"), "{message}");
    let events = yard.call(&tenant.token, "GET", "/api/v1/events", &Value::Null).await.json();
    assert_eq!(events["items"].as_array().unwrap().len(), 3);
    let alerts = yard.call(&tenant.token, "GET", "/api/v1/security-alerts", &Value::Null).await.json();
    let path = format!("/api/v1/security-alerts/{}/acknowledge", alerts["items"][0]["id"]);
    assert!(yard.call(&tenant.token, "POST", &path, &Value::Null).await.json()["acknowledged_at"].is_string());
    assert_eq!(yard.call(&other.token, "POST", &path, &Value::Null).await.status, StatusCode::NOT_FOUND);
    // The key is stolen: ended, it opens nothing, here and at Cloud.
    let itself =
        async || yard.send("GET", &format!("{}/api/v1/device", yard.cloud), &[("x-device-key", &key)], "").await;
    assert_eq!(itself().await.json()["id"], id.as_str());
    let revoked = yard.call(&tenant.token, "POST", &format!("/api/v1/devices/{id}/revoke"), &Value::Null).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT, "{}", revoked.text);
    assert_eq!(yard.ingest(&key, &batch).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(itself().await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(yard.sql("app", "SELECT count(*) FROM ingest_events"), "4");
    assert_eq!(
        yard.sql("app", &format!("SELECT count(*) FROM guard.tickets WHERE hash::text LIKE '%{key}%'")),
        "0",
        "keys are kept hashed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_key_is_used_up() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let made = yard.call(&tenant.token, "POST", "/api/v1/registration-keys", &json!({ "name": "one" })).await;
    let register = async |account: &str, key: &str| {
        let body = json!({ "account_name": account, "registration_key": key, "name": "d", "cloud_server": "eu" });
        yard.call("", "POST", "/api/v1/devices/register", &body).await.status
    };
    let key = made.said("registration_key");
    assert_eq!(register("another", &key).await, StatusCode::UNAUTHORIZED, "of another account");
    assert_eq!(register("acme", &key).await, StatusCode::CREATED);
    assert_eq!(register("acme", &key).await, StatusCode::UNAUTHORIZED, "used up");
    assert_eq!(register("acme", "nobody-knows-this-key-at-all").await, StatusCode::UNAUTHORIZED);
    let keys = yard.call(&tenant.token, "GET", "/api/v1/registration-keys", &Value::Null).await.json();
    assert_eq!(keys["items"][0]["uses_left"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snap_goes_to_those_whose_licence_covers_it_and_only_as_published() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let (_, key) = yard.device(&tenant).await;
    let snap = "a snap, ".repeat(400_000);
    std::fs::write(yard.snap_file("agent", "1.0.0"), &snap).unwrap();
    let publish = async |token: &str, body: &Value| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        yard.send("POST", &format!("{}/internal/v1/snaps", yard.cloud), &headers, body.to_string()).await.status
    };
    let given = json!({ "name": "agent", "version": "1.0.0", "sha256": sha256_hex(snap.as_bytes()), "size": snap.len(), "feature": "edge" });
    assert_eq!(publish("wrong", &given).await, StatusCode::UNAUTHORIZED);
    let mut wrong = given.clone();
    wrong["sha256"] = json!("0".repeat(64));
    assert_eq!(publish(PUBLISH, &wrong).await, StatusCode::BAD_REQUEST);
    wrong["version"] = json!("../../etc/passwd");
    assert_eq!(publish(PUBLISH, &wrong).await, StatusCode::BAD_REQUEST);
    assert_eq!(publish(PUBLISH, &given).await, StatusCode::CREATED);
    assert_eq!(publish(PUBLISH, &given).await, StatusCode::CONFLICT, "a version is published once");
    std::fs::write(yard.snap_file("tool", "1.0.0"), "x").unwrap();
    let tool = json!({ "name": "tool", "version": "1.0.0", "sha256": sha256_hex(b"x"), "size": 1, "feature": "gold" });
    assert_eq!(publish(PUBLISH, &tool).await, StatusCode::CREATED);
    let small =
        yard.send("GET", &format!("{}/api/v1/snaps/tool/1.0.0", yard.cloud), &[("x-device-key", &key)], "").await;
    assert_eq!(small.said("error"), "not_licensed");
    let url = format!("{}/api/v1/snaps/agent/1.0.0", yard.cloud);
    let list = yard.call(&tenant.token, "GET", "/api/v1/snaps", &Value::Null).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(download(&url, &key).await.map(|d| sha256_hex(&d)), Some(sha256_hex(snap.as_bytes())));
    // Somebody changes a byte in the store: nobody gets a whole download of it.
    std::fs::write(yard.snap_file("agent", "1.0.0"), snap.replacen("a snap", "A snap", 1)).unwrap();
    assert_eq!(download(&url, &key).await, None);
}

/// The body of a download; None when it broke off.
async fn download(url: &str, key: &str) -> Option<Vec<u8>> {
    use http_body_util::{BodyExt, Empty};
    let url = url::Url::parse(url).unwrap();
    let stream = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(url.path()).header("host", "cloud").header("x-device-key", key);
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.ok().map(|b| b.to_bytes().to_vec())
}
