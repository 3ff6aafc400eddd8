//! Tokens of workloads.

use serde_json::Value;

use crate::world::{TENANT, World, until};

#[tokio::test]
async fn a_workload_gets_exactly_what_app_service_answers() {
    let world = World::start().await;
    let key = world.workload_key("service.web");
    let answer = world.workload_token("service.web", &key, "https://vault.azure.net").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let body = answer.json();
    let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["access_token", "client_id", "expires_on", "resource", "token_type"]);
    assert_eq!((&body["token_type"], &body["resource"]), (&"Bearer".into(), &"https://vault.azure.net".into()));
    // Our own shim reads it as this type.
    let read: api::identity::WorkloadToken = serde_json::from_str(&answer.body).unwrap();

    let claims = world.verify(read.access_token.expose(), "https://vault.azure.net").await.unwrap();
    assert_eq!(claims["sub"], "service.web");
    assert_eq!(claims["tid"], TENANT);
    assert_eq!(claims["ver"], "1.0");
    assert_eq!(claims["oid"], claims["appid"]);
    assert_eq!(claims["oid"].as_str(), Some(read.client_id.as_str()));
    assert!(claims["xms_mirid"].as_str().unwrap().ends_with("/service/web"));
    assert_eq!(read.expires_on, claims["exp"].to_string());
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    assert_eq!(claims["nbf"], claims["iat"]);

    // The verifier of the other roles takes it.
    let jwks = serde_json::from_value(world.send("GET", "/jwks", &[], "").await.json()).unwrap();
    let identity = api::context::IdentityRef { issuer: world.place.issuer(), ..Default::default() };
    let verifier = service::Verifier::with_keys(identity, &jwks, world.place.clock.clone());
    let bearer = format!("Bearer {}", read.access_token.expose());
    let caller = verifier.verify(Some(&bearer), |aud| aud == "https://vault.azure.net").await.unwrap();
    assert_eq!(caller.subject, "service.web");
    assert!(verifier.verify(Some(&bearer), |aud| aud == "https://storage.azure.com").await.is_err());
    world.stop().await;
}

#[tokio::test]
async fn a_token_for_a_database_is_short_lives_short_and_says_whose_it_is() {
    use api::database_token::{AUDIENCE, LENGTH, LIFE_SECONDS, Refused, Signer, Verifier};
    let world = World::start().await;
    let key = world.workload_key("service.web");
    // Azure's own clients ask with and without the slash.
    for resource in [AUDIENCE.to_owned(), format!("{AUDIENCE}/")] {
        let answer = world.workload_token("service.web", &key, &resource).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let read: api::identity::WorkloadToken = serde_json::from_str(&answer.body).unwrap();
        let token = read.access_token.expose();
        assert_eq!(token.len(), LENGTH);
        // What a keeper is handed is all it needs.
        let verifier = Verifier::new(&Signer::new(&world.place.root).public_key(), TENANT).unwrap();
        let now = world.place.clock.now_s();
        assert_eq!(verifier.verify(token, "service.web", now), Ok(()));
        assert_eq!(verifier.verify(token, "service.api", now), Err(Refused::Another));
        let until: i64 = read.expires_on.parse().unwrap();
        assert!((now..=now + LIFE_SECONDS).contains(&until), "{until}");
        assert_eq!(verifier.verify(token, "service.web", until), Err(Refused::Expired));
        assert!(world.verify(token, AUDIENCE).await.is_err(), "it is a token for nothing else");
    }
    world.stop().await;
}

#[tokio::test]
async fn the_key_of_another_workload_and_no_key_are_refused() {
    let world = World::start().await;
    let api_key = world.workload_key("service.api");
    let stranger = world.workload_key("service.stranger");
    let resource = "https://vault.azure.net";
    for (workload, key) in
        [("service.web", &*api_key), ("service.web", "x"), ("service.stranger", &*stranger), ("", &*api_key)]
    {
        let answer = world.workload_token(workload, key, resource).await;
        assert_eq!(answer.status, 401, "{workload} {}", answer.body);
        assert_eq!(answer.json()["code"], "unauthorized");
    }
    let naked = world.send("POST", "/workload/token", &[], r#"{"workload":"service.web","resource":"a"}"#).await;
    assert_eq!(naked.status, 401);
    let key = world.workload_key("service.web");
    for resource in ["", "with space", "új", &world.place.issuer(), &"x".repeat(600)] {
        assert_eq!(world.workload_token("service.web", &key, resource).await.status, 400, "{resource}");
    }
    world.stop().await;
}

#[tokio::test]
async fn rotation_keeps_old_tokens_valid_and_an_unknown_kid_is_refused() {
    let world = World::start().await;
    let key = world.workload_key("service.web");
    let mint = async || -> String {
        let body = world.workload_token("service.web", &key, "https://a").await.json();
        body["access_token"].as_str().unwrap().to_owned()
    };
    let before = mint().await;
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let keys: Vec<api::identity::SigningKey> = world.control.post("/admin/rotate", &()).await.unwrap();
    assert_eq!(keys.iter().map(|k| k.state.as_str()).collect::<Vec<_>>(), ["current", "next", "old"]);
    let after = mint().await;
    assert_ne!(kid(&before), kid(&after));
    assert_eq!(kid(&after), keys[0].kid);
    for token in [&before, &after] {
        world.verify(token, "https://a").await.unwrap();
    }

    // A key of ours that is no longer published is an unknown kid.
    let foreign = World::start().await;
    assert_eq!(foreign.verify(&before, "https://a").await.unwrap_err(), "unknown kid");
    foreign.stop().await;
    let place = world.stop().await;
    let again = World::start_at(place).await;
    again.verify(&before, "https://a").await.unwrap();
    again.stop().await;
}

#[tokio::test]
async fn keys_rotate_when_it_is_their_time() {
    let place = crate::world::Place::new();
    let world = World::start_at(place).await;
    let list = async || -> Vec<api::identity::SigningKey> { world.control.get("/admin/keys").await.unwrap() };
    until("the next key is published", || async { list().await.len() == 2 }).await;
    let next = list().await[1].kid.clone();
    let place = world.stop().await;
    place.clock.set_offset_ms(31 * 24 * 3600 * 1000);
    let world = World::start_at(place).await;
    let list = async || -> Vec<api::identity::SigningKey> { world.control.get("/admin/keys").await.unwrap() };
    until("the published key signs", || async {
        let keys = list().await;
        keys[0].kid == next && keys.len() == 3
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn workloads_change_with_sighup_and_a_wrong_configuration_changes_nothing() {
    let world = World::start().await;
    let key = world.workload_key("service.new");
    assert_eq!(world.workload_token("service.new", &key, "https://a").await.status, 401);
    let mut config = world.place.config();
    config.workloads = vec!["service.new".into()];
    world.place.write_config(&config);
    hang_up();
    until("the new workload is known", || async {
        world.workload_token("service.new", &key, "https://a").await.status == 200
    })
    .await;
    let old = world.workload_key("service.web");
    assert_eq!(world.workload_token("service.web", &old, "https://a").await.status, 401);

    config.workloads = vec!["service.web".into()];
    config.issuer = "https://127.0.0.1:1".into();
    world.place.write_config(&config);
    hang_up();
    // The signal is handled in order: a good configuration after it shows that the wrong one was passed over.
    config.issuer = world.place.issuer();
    config.title = "Changed".into();
    config.workloads = vec!["service.new".into()];
    world.place.write_config(&config);
    hang_up();
    until("the last configuration counts", || async {
        world.send("GET", "/sign-in", &[], "").await.body.contains("Changed")
    })
    .await;
    assert_eq!(world.workload_token("service.web", &old, "https://a").await.status, 401);
    world.stop().await;
}

fn hang_up() {
    // SAFETY: raises a signal for which the role has a handler.
    assert_eq!(unsafe { libc::raise(libc::SIGHUP) }, 0);
}

#[tokio::test]
async fn every_mint_and_every_refusal_is_in_the_spool_before_it_is_answered() {
    let world = World::start().await;
    let key = world.workload_key("service.web");
    world.workload_token("service.web", &key, "https://vault.azure.net").await;
    world.workload_token("service.web", "wrong", "https://vault.azure.net").await;
    let _ = world.person("ada@example.org", "Ada", &["administrators"]).await;
    let refused = world.browser().sign_in("ada@example.org", "not the password").await;
    assert_eq!(refused.status, 401);
    let place = world.stop().await;

    // The last connection's task may hold the spool a moment longer.
    let open = || service::Spool::open(&place.folder.path().join("spool"), "identity.main", place.clock.clone());
    until("the spool is closed", async || open().is_ok()).await;
    let spool = open().unwrap();
    let events: Vec<Value> =
        spool.read(0, 100, 1 << 20).unwrap().iter().map(|r| serde_json::from_str(&r.event).unwrap()).collect();
    let seen: Vec<(&str, &str, &str)> = events
        .iter()
        .map(|e| (e["actor"].as_str().unwrap(), e["action"].as_str().unwrap(), e["outcome"].as_str().unwrap()))
        .collect();
    let ada = events[2]["object"].as_str().unwrap().strip_prefix("identity.main/people/").unwrap();
    assert_eq!(
        seen,
        [
            ("service.web", "token.mint", "ok"),
            ("anonymous", "token.mint", "denied"),
            ("supervisor", "person.add", "ok"),
            (ada, "password.set", "ok"),
            (ada, "session.start", "ok"),
            ("anonymous", "session.start", "denied"),
        ]
    );
    let text = serde_json::to_string(&events).unwrap();
    for secret in [crate::world::PASSWORD, "not the password", &*key] {
        assert!(!text.contains(secret));
    }
}
