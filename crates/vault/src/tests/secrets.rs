use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use super::bench::{Bench, HOST};

#[tokio::test]
async fn a_secret_is_set_read_by_version_and_listed_as_key_vault_does() {
    let bench = Bench::new();
    let body = json!({ "value": "v1", "contentType": "text/plain", "tags": { "a": "b" }, "attributes": { "nbf": 5, "exp": 9 } });
    let set = bench.by("supervisor", "PUT", "/secrets/Db-Pass?api-version=2026-04-01", body).await;
    assert_eq!((set.status.as_u16(), &set.json["value"]), (200, &json!("v1")));
    let id = set.json["id"].as_str().unwrap().to_owned();
    let version = id.rsplit('/').next().unwrap().to_owned();
    assert_eq!(id, format!("https://{HOST}/secrets/Db-Pass/{version}"));
    assert_eq!(version.len(), 32);
    let now = bench.clock.now_s();
    let attributes = &set.json["attributes"];
    assert!((now - attributes["created"].as_i64().unwrap()).abs() < 5);
    assert_eq!(attributes["recoveryLevel"], "CustomizedRecoverable+Purgeable");
    assert_eq!(
        (&attributes["recoverableDays"], &attributes["nbf"], &attributes["exp"]),
        (&json!(7), &json!(5), &json!(9))
    );

    bench.set("db-pass", "v2").await;
    let latest = bench.get("DB-PASS/").await;
    assert_eq!(latest.json["value"], "v2", "names do not regard case, a trailing slash changes nothing");
    assert!(latest.json["id"].as_str().unwrap().contains("/secrets/Db-Pass/"), "the first spelling stays");
    let old =
        bench.by("service.web", "GET", &format!("/secrets/db-pass/{version}?api%2Dversion=7.4"), Value::Null).await;
    assert_eq!(
        (&old.json["value"], &old.json["contentType"], &old.json["tags"]["a"]),
        (&json!("v1"), &json!("text/plain"), &json!("b"))
    );

    let listed = bench.by("auditor", "GET", "/secrets?api-version=7.4", Value::Null).await;
    assert_eq!(listed.json["value"].as_array().unwrap().len(), 1);
    assert_eq!(listed.json["value"][0]["id"], format!("https://{HOST}/secrets/Db-Pass"));
    assert!(listed.json["value"][0].get("value").is_none() && listed.json["nextLink"].is_null());
    let versions = bench.by("auditor", "GET", "/secrets/db-pass/versions", Value::Null).await;
    assert_eq!(versions.json["value"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_never_answers_the_value() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let body = json!({ "contentType": "x", "tags": { "k": "w" } });
    let updated = bench.by("supervisor", "PATCH", "/secrets/a/", body).await;
    assert_eq!((updated.status.as_u16(), updated.json.get("value")), (200, None));
    assert_eq!((&updated.json["contentType"], &updated.json["tags"]["k"]), (&json!("x"), &json!("w")));
    let version = updated.json["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let body = json!({ "attributes": { "enabled": false } });
    let disabled = bench.by("supervisor", "PATCH", &format!("/secrets/a/{version}"), body).await;
    assert_eq!((&disabled.json["attributes"]["enabled"], &disabled.json["contentType"]), (&json!(false), &json!("x")));
    let read = bench.get("a").await;
    assert_eq!((read.status.as_u16(), read.code(), read.inner()), (403, "Forbidden", "SecretDisabled"));
}

#[tokio::test]
async fn lists_have_pages_of_25_that_lead_on() {
    let bench = Bench::new();
    for number in 0..60 {
        bench.set(&format!("s{number:02}"), "x").await;
    }
    for (path, sizes) in [("/secrets?api-version=7.4", vec![25, 25, 10]), ("/secrets?maxresults=20", vec![20, 20, 20])]
    {
        let (mut next, mut seen, mut found) = (Some(path.to_owned()), Vec::new(), Vec::new());
        while let Some(link) = next {
            let path = link.strip_prefix(&format!("https://{HOST}")).unwrap_or(&link).to_owned();
            let page = bench.by("service.web", "GET", &path.replace('$', "%24"), Value::Null).await;
            seen.push(page.json["value"].as_array().unwrap().len());
            found.extend(page.json["value"].as_array().unwrap().iter().map(|v| v["id"].as_str().unwrap().to_owned()));
            next = page.json["nextLink"].as_str().map(str::to_owned);
        }
        assert_eq!(seen, sizes);
        found.dedup();
        assert_eq!(found.len(), 60);
    }
    for _ in 0..30 {
        bench.set("s00", "y").await;
    }
    let first = bench.by("service.web", "GET", "/secrets/s00/versions?maxresults=25", Value::Null).await;
    let link = first.json["nextLink"].as_str().unwrap().strip_prefix(&format!("https://{HOST}")).unwrap().to_owned();
    let second = bench.by("service.web", "GET", &link, Value::Null).await;
    assert_eq!(second.json["value"].as_array().unwrap().len(), 6);
    assert_eq!(bench.by("service.web", "GET", "/secrets?maxresults=0", Value::Null).await.status, 400);
    assert_eq!(bench.by("service.web", "GET", "/secrets?$skiptoken=%00", Value::Null).await.status, 400);
}

#[tokio::test]
async fn names_values_and_bodies_outside_the_format_are_refused() {
    let bench = Bench::new();
    let long = "x".repeat(25 * 1024);
    assert_eq!(bench.by("supervisor", "PUT", "/secrets/max", json!({ "value": long })).await.status, 200);
    let names = ["a+b", "a.b", "%00", "%2e%2e", &"n".repeat(128), "a%20b", "\u{e9}"];
    for name in names {
        let path = format!("/secrets/{}", name.replace('\u{e9}', "%C3%A9"));
        let refused = bench.by("supervisor", "PUT", &path, json!({ "value": "v" })).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (400, "BadParameter"), "{name}");
    }
    for body in [
        json!({}),
        json!({ "value": 1 }),
        json!({ "value": format!("{long}x") }),
        json!([]),
        json!({ "value": "v", "tags": { "a": 1 } }),
    ] {
        assert_eq!(bench.by("supervisor", "PUT", "/secrets/a", body).await.status, 400);
    }
    let huge = bench.by("supervisor", "PUT", "/secrets/a", json!({ "value": "x".repeat(300_000) })).await;
    assert_eq!(huge.status, 413);
    let missing = bench.get("nothing-here").await;
    assert_eq!((missing.status.as_u16(), missing.code()), (404, "SecretNotFound"));
    assert_eq!(bench.by("service.web", "GET", "/secrets/max/abc", Value::Null).await.status, 400);
}

#[tokio::test]
async fn the_vault_answers_by_azures_own_name_too() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let token = bench.signer.token("service.web", &[], "https://vault.azure.net", bench.clock.now_s());
    let request = Request::builder().uri("/secrets/a/").header("host", "main.vault.azure.net");
    let request = request.header("authorization", format!("Bearer {token}")).header("x-ms-client-request-id", "r-1");
    let read = bench.send(request.body(Body::empty()).unwrap()).await;
    assert!(read.json["id"].as_str().unwrap().starts_with("https://main.vault.azure.net/secrets/a/"));
    assert_eq!(read.headers["x-ms-client-request-id"], "r-1");
    assert_eq!(read.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn the_sku_is_standard_and_refuses_hardware_keys_as_such() {
    let bench = Bench::new();
    let hardware = bench.by("supervisor", "POST", "/keys/k/create", json!({ "kty": "RSA-HSM" })).await;
    assert_eq!(hardware.status, 403);
    assert!(hardware.json["error"]["message"].as_str().unwrap().contains("not allowed on standard vault"));
    let software = bench.by("supervisor", "POST", "/keys/k/create", json!({ "kty": "RSA" })).await;
    assert_eq!((software.status.as_u16(), software.code()), (501, "NotImplemented"));
    assert_eq!(bench.vault.status().unwrap().sku, "standard");
}
