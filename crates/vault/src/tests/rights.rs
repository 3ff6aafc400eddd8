use api::{
    audit::Outcome,
    vault::{Assignment, VaultConfig, VaultRole},
};
use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use super::bench::{AUDIENCE, Bench, HOST, ISSUER, config, grant, identity};
use crate::operation::ROUTES;

#[tokio::test]
async fn every_route_without_a_token_is_challenged_before_anything_else_is_looked_at() {
    let bench = Bench::new();
    let elsewhere = [("GET", "/"), ("GET", "/health"), ("POST", "/secrets/%00"), ("BREW", "/secrets")];
    for (method, path) in ROUTES.iter().chain(&elsewhere) {
        let request = Request::builder().method(*method).uri(*path).header("host", HOST);
        let answered = bench.send(request.body(Body::from("not json")).unwrap()).await;
        assert_eq!((answered.status.as_u16(), answered.code()), (401, "Unauthorized"), "{method} {path}");
        let expected = format!("Bearer authorization=\"{ISSUER}/{}\", resource=\"{AUDIENCE}\"", identity().tenant);
        assert_eq!(answered.headers["www-authenticate"], expected);
    }
    assert!(bench.events().is_empty(), "asking for the challenge is no access");
}

#[tokio::test]
async fn every_route_with_a_token_but_no_role_is_refused_and_the_denial_is_recorded() {
    let bench = Bench::new();
    for (method, path) in ROUTES {
        let before = bench.events().len();
        let answered = bench.by("service.stranger", method, path, Value::Null).await;
        assert_eq!((answered.status.as_u16(), answered.inner()), (403, "ForbiddenByRbac"), "{method} {path}");
        let events = bench.events();
        assert_eq!(events.len(), before + 1);
        let last = events.last().unwrap();
        assert_eq!((last.actor.as_str(), last.outcome), ("service.stranger", Outcome::Denied));
        assert_eq!(last.detail["code"], "ForbiddenByRbac");
    }
}

#[tokio::test]
async fn a_read_a_refused_read_and_a_write_each_say_who_what_and_how_it_ended() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let of = |actor: &str, action: &str, outcome| {
        (actor.to_owned(), action.to_owned(), "vault.main/secrets/a".to_owned(), outcome)
    };
    assert_eq!(bench.last_event(), of("supervisor", "secret.set", Outcome::Ok));
    bench.get("a").await;
    assert_eq!(bench.last_event(), of("service.web", "secret.get", Outcome::Ok));
    bench.by("service.stranger", "GET", "/secrets/a", Value::Null).await;
    assert_eq!(bench.last_event(), of("service.stranger", "secret.get", Outcome::Denied));
    bench.by("supervisor", "PUT", "/secrets/a", json!({ "value": 3 })).await;
    assert_eq!(bench.last_event(), of("supervisor", "secret.set", Outcome::Failed));
    bench.get("b").await;
    assert_eq!(bench.last_event().3, Outcome::Failed);
    bench.by("service.web", "GET", "/elsewhere", Value::Null).await;
    assert_eq!(bench.last_event().1, "secret.unknown");
    let read = &bench.events()[1];
    assert_eq!(read.detail["key"], 1);
    assert_eq!(read.detail["version"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn each_role_may_do_what_azure_says_and_no_more() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let developer = bench.signer.token("person-1", &["developers"], AUDIENCE, bench.clock.now_s());
    let other = bench.signer.token("person-2", &["readers", "group:developers"], AUDIENCE, bench.clock.now_s());
    let web = bench.token("service.web");
    let auditor = bench.token("auditor");
    let value = json!({ "value": "w" });
    for (who, token, get, list, put, delete) in [
        ("user", &web, 200, 200, 403, 403),
        ("reader", &auditor, 403, 200, 403, 403),
        ("nobody", &other, 403, 403, 403, 403),
        ("officer", &developer, 200, 200, 200, 200),
    ] {
        assert_eq!(bench.call(token, "GET", "/secrets/a", Value::Null).await.status, get, "{who}");
        assert_eq!(bench.call(token, "GET", "/secrets", Value::Null).await.status, list, "{who}");
        assert_eq!(bench.call(token, "PUT", "/secrets/a", value.clone()).await.status, put, "{who}");
        assert_eq!(bench.call(token, "DELETE", "/secrets/a", Value::Null).await.status, delete, "{who}");
    }
}

#[tokio::test]
async fn an_assignment_may_be_limited_to_named_secrets() {
    let assignment = Assignment { secrets: vec!["One".into()], ..grant("service.job", VaultRole::SecretsUser) };
    let mut config = config();
    config.assignments.push(assignment);
    let bench = Bench::with(config);
    bench.set("one", "1").await;
    bench.set("two", "2").await;
    assert_eq!(bench.by("service.job", "GET", "/secrets/one", Value::Null).await.status, 200);
    assert_eq!(bench.by("service.job", "GET", "/secrets/one/versions", Value::Null).await.status, 200);
    assert_eq!(bench.by("service.job", "GET", "/secrets/two", Value::Null).await.status, 403);
    assert_eq!(bench.by("service.job", "GET", "/secrets", Value::Null).await.status, 403);
}

#[tokio::test]
async fn a_role_granted_or_removed_counts_at_once_and_is_recorded() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let token = bench.token("service.new");
    assert_eq!(bench.call(&token, "GET", "/secrets/a", Value::Null).await.status, 403);
    let mut granted = config();
    granted.assignments.push(grant("service.new", VaultRole::SecretsUser));
    bench.vault.reconfigure(granted).await.unwrap();
    assert_eq!(bench.last_event().1, "vault.reconfigure");
    assert_eq!(bench.call(&token, "GET", "/secrets/a", Value::Null).await.status, 200);
    bench.vault.reconfigure(config()).await.unwrap();
    assert_eq!(bench.call(&token, "GET", "/secrets/a", Value::Null).await.status, 403);
    assert!(bench.vault.reconfigure(VaultConfig::default()).await.is_err());
    assert_eq!(bench.get("a").await.status, 200, "a configuration that is not usable changes nothing");
}

#[tokio::test]
async fn a_token_for_another_service_opens_nothing_even_with_a_made_up_host() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let audience = "https://telemetry.dev.time-tracker.internal";
    let stolen = bench.signer.token("service.web", &[], audience, bench.clock.now_s());
    for host in [HOST, "x.telemetry.dev.time-tracker.internal"] {
        let request = Request::builder().uri("/secrets/a").header("host", host);
        let request = request.header("authorization", format!("Bearer {stolen}")).body(Body::empty()).unwrap();
        assert_eq!(bench.send(request).await.status, 401, "{host}");
    }
    let last = bench.events().pop().unwrap();
    assert_eq!(
        (last.actor.as_str(), last.outcome, &last.detail["why"]),
        ("anonymous", Outcome::Denied, &json!("audience"))
    );
}

#[tokio::test]
async fn expired_foreign_and_garbled_tokens_are_refused_and_cannot_fill_the_disk() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let good = bench.token("service.web");
    assert_eq!(bench.call(&good, "GET", "/secrets/a", Value::Null).await.status, 200);
    bench.clock.set_offset_ms(3_601_000);
    assert_eq!(
        bench.call(&good, "GET", "/secrets/a", Value::Null).await.status,
        401,
        "a remembered token ends with its exp"
    );
    let foreign = super::bench::Signer::new().token("service.web", &[], AUDIENCE, bench.clock.now_s());
    assert_eq!(bench.call(&foreign, "GET", "/secrets/a", Value::Null).await.status, 401);
    let before = bench.events().len();
    for _ in 0..200 {
        assert_eq!(bench.call("garbage", "GET", "/secrets/a", Value::Null).await.status, 401);
    }
    assert!(bench.events().len() - before <= 60, "garbage is recorded at most 20 times a second");
}
