//! Who gets in, and who does not.

use api::{audit::Outcome, registry::AUDIENCE};
use axum::body::Body;

use super::bench::{Bench, HOST, basic, config};
use crate::{names::Digest, parse::scopes, token::Use};

#[tokio::test]
async fn every_route_needs_credentials() {
    let bench = Bench::new();
    let digest = bench.push(&bench.admin(), "web", "latest", "layer").await;
    let refresh = bench.by("stranger", &[]).await;
    let access = bench.registry.tokens.sign(
        &crate::config::Who { subject: "stranger".into(), groups: vec![], admin: false },
        Use::AccessToken,
        scopes(["repository:web:pull,push,delete", "registry:catalog:*"]),
        bench.clock.now_s(),
    );
    let forged = crate::token::Tokens::new(&api::Secret::random(), "registry.main").sign(
        &crate::config::Who::admin("main"),
        Use::AccessToken,
        scopes(["repository:web:pull"]),
        bench.clock.now_s(),
    );
    let paths = [
        ("GET", "/v2/_catalog".to_owned()),
        ("GET", "/v2/web/tags/list".into()),
        ("GET", "/v2/web/manifests/latest".into()),
        ("HEAD", format!("/v2/web/manifests/{digest}")),
        ("PUT", "/v2/web/manifests/latest".into()),
        ("DELETE", "/v2/web/manifests/latest".into()),
        ("GET", format!("/v2/web/blobs/{digest}")),
        ("DELETE", format!("/v2/web/blobs/{digest}")),
        ("POST", "/v2/web/blobs/uploads/".into()),
        ("PATCH", "/v2/web/blobs/uploads/x".into()),
        ("PUT", format!("/v2/web/blobs/uploads/x?digest={digest}")),
        ("DELETE", "/v2/web/blobs/uploads/x".into()),
        ("GET", format!("/v2/web/referrers/{digest}")),
    ];
    for (method, path) in paths {
        for bad in [String::new(), basic("main", "wrong"), format!("Bearer {}", forged.expose()), "Bearer x".into()] {
            let answered = bench.call(&bad, method, &path, &[], Body::empty()).await;
            assert_eq!(answered.status, 401, "{method} {path} with `{bad}`");
            let challenge = answered.field("www-authenticate");
            let realm = format!("Bearer realm=\"https://{HOST}/oauth2/token\",service=\"{HOST}\"");
            assert!(challenge.starts_with(&realm), "{challenge}");
        }
        for known in [refresh.clone(), format!("Bearer {}", access.expose())] {
            let answered = bench.call(&known, method, &path, &[], Body::empty()).await;
            assert_eq!(answered.status, 403, "{method} {path} by a stranger");
        }
    }
    for path in ["/v2/", "/", "/v3/", "/v2/web/other/x", "/oauth2/other"] {
        assert_eq!(bench.get("", path).await.status, 401, "{path}");
    }
    assert_eq!(bench.get("", "/oauth2/token?service=x&scope=repository:web:pull").await.status, 401);
}

#[tokio::test]
async fn a_workload_pulls_what_its_role_names_and_pushes_nothing() {
    let bench = Bench::new();
    for name in ["web", "api"] {
        bench.push(&bench.admin(), name, "latest", name).await;
    }
    let web = bench.by("service.web", &[]).await;
    assert_eq!(bench.get(&web, "/v2/web/manifests/latest").await.status, 200);
    assert_eq!(bench.get(&web, "/v2/api/manifests/latest").await.status, 403);
    let push = bench.call(&web, "POST", "/v2/web/blobs/uploads/", &[], Body::empty()).await;
    assert_eq!((push.status.as_u16(), push.code().as_str()), (403, "DENIED"));
    // Reading by a mount is reading: what the caller may not read is as if it were not there.
    let api_layer = Digest::of(b"api");
    let developer = bench.by("p-1", &["developers"]).await;
    let mount = format!("/v2/web/blobs/uploads/?mount={api_layer}&from=api");
    assert_eq!(bench.call(&developer, "POST", &mount, &[], Body::empty()).await.status, 202);
    assert_eq!(bench.get(&developer, &format!("/v2/web/blobs/{api_layer}")).await.status, 404);
    let events = bench.events();
    let has = |actor: &str, action: &str, object: &str, outcome| {
        let object = format!("registry.main/{object}");
        events.iter().any(|e| e.actor == actor && e.action == action && e.object == object && e.outcome == outcome)
    };
    assert!(has("service.web", "image.pull", "web:latest", Outcome::Ok));
    assert!(has("service.web", "image.pull", "api:latest", Outcome::Denied));
    assert!(has("service.web", "blob.push", "web", Outcome::Denied));
}

#[tokio::test]
async fn an_access_token_does_what_it_was_asked_for() {
    let bench = Bench::new();
    bench.push(&bench.admin(), "web", "latest", "layer").await;
    let path = format!("/oauth2/token?service={HOST}&scope=repository:web:pull");
    let answered = bench.get(&bench.admin(), &path).await;
    let token = format!("Bearer {}", answered.json()["access_token"].as_str().unwrap());
    assert_eq!(bench.get(&token, "/v2/web/manifests/latest").await.status, 200);
    let more = bench.call(&token, "POST", "/v2/web/blobs/uploads/", &[], Body::empty()).await;
    assert_eq!(more.status, 401, "a role would allow it; the token was not asked for it");
    assert!(
        more.field("www-authenticate").ends_with("scope=\"repository:web:pull,push\",error=\"insufficient_scope\"")
    );
    bench.clock.set_offset_ms(700_000);
    assert_eq!(bench.get(&token, "/v2/web/manifests/latest").await.status, 401, "its time is over");
}

#[tokio::test]
async fn what_is_taken_away_counts_at_once() {
    let bench = Bench::new();
    bench.push(&bench.admin(), "web", "latest", "layer").await;
    let (admin, web) = (bench.admin(), bench.by("service.web", &[]).await);
    let mut less = config();
    less.admin_user = false;
    less.grants.retain(|g| g.principal != "service.web");
    bench.registry.reconfigure(less).await.unwrap();
    assert_eq!(bench.get(&admin, "/v2/web/manifests/latest").await.status, 401);
    assert_eq!(bench.get(&web, "/v2/web/manifests/latest").await.status, 403);
    let token = bench.get(&admin, &format!("/oauth2/token?service={HOST}")).await;
    assert_eq!(token.status, 401);
}

#[tokio::test]
async fn only_identitys_tokens_for_the_registry_are_exchanged() {
    let bench = Bench::new();
    let now = bench.clock.now_s();
    let other = Signer::new();
    for token in [
        bench.signer.token("supervisor", &[], "https://vault.azure.net", now),
        bench.signer.token("supervisor", &[], AUDIENCE, now - 7200),
        other.token("supervisor", &[], AUDIENCE, now),
        "garbage".into(),
    ] {
        assert_eq!(bench.exchange(&token).await.status, 401);
    }
    let denied =
        bench.events().iter().filter(|e| e.action == "registry.exchange" && e.outcome == Outcome::Denied).count();
    assert_eq!(denied, 4, "each is recorded");
    // A refresh token is no access token, and the other way round.
    let refresh = bench.by("supervisor", &[]).await;
    let path = format!("/oauth2/token?service={HOST}&scope=repository:web:pull");
    let access = bench.get(&refresh, &path).await.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(bench.get(&basic(api::registry::TOKEN_USER, &access), "/v2/").await.status, 401);
    assert_eq!(bench.get(&format!("Bearer {access}"), "/v2/").await.status, 200);
}

use super::bench::Signer;
