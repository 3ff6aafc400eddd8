//! The code flow, as a relying party runs it.

use base64::Engine as _;
use serde_json::Value;

use crate::world::{AFTER_LOGOUT, Answer, Browser, CALLBACK, FORM, PASSWORD, World, form};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const SCOPE: &str = "openid profile email groups offline_access";

fn asking() -> Vec<(&'static str, &'static str)> {
    vec![
        ("client_id", "web"),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", SCOPE),
        ("state", "s&t=ä"),
        ("nonce", "n-1"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]
}

fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = asking().into_iter().filter(|(n, _)| *n != name).collect();
    all.push((name, value));
    all
}

fn authorize(fields: &[(&str, &str)]) -> String {
    format!("/authorize?{}", form(fields))
}

/// A code for a browser that is signed in.
async fn code(browser: &mut Browser<'_>) -> String {
    let answer = browser.get(&authorize(&asking())).await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    answer.led_with("code").unwrap()
}

async fn redeem(world: &World, code: &str) -> Answer {
    redeem_with(world, code, VERIFIER, CALLBACK).await
}

async fn redeem_with(world: &World, code: &str, verifier: &str, uri: &str) -> Answer {
    let fields =
        [("grant_type", "authorization_code"), ("code", code), ("code_verifier", verifier), ("redirect_uri", uri)];
    world.token(&fields).await
}

async fn refresh(world: &World, token: &str) -> Answer {
    world.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
}

fn text(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", answer.body)).to_owned()
}

#[tokio::test]
async fn a_person_signs_in_and_the_id_token_says_who_they_are() {
    let world = World::start().await;
    let (id, _) = world.person("ada@example.org", "Ada Lovelace", &["staff"]).await;
    let discovery = world.send("GET", "/.well-known/openid-configuration", &[], "").await.json();
    assert_eq!(discovery["issuer"], world.place.issuer());
    let at = |name: &str| discovery[name].as_str().unwrap().strip_prefix(&world.place.issuer()).unwrap().to_owned();
    let (token_path, userinfo_path) = (at("token_endpoint"), at("userinfo_endpoint"));

    // Not signed in: to the sign-in page, which knows the application, and from there back to the request.
    let mut browser = world.browser();
    let sent = browser.get(&format!("{}?{}", at("authorization_endpoint"), form(&asking()))).await;
    assert_eq!(sent.status, 303);
    let page = browser.get(sent.location().unwrap()).await;
    assert!(page.body.contains("to go on to <strong>Time Tracker</strong>"), "{}", page.body);
    assert!(
        page.headers["content-security-policy"].to_str().unwrap().contains("form-action 'self' https://127.0.0.1:9;"),
        "or browsers stop the redirect back to the application"
    );
    let waiting = page.hidden("authorize");
    let fields = [("authorize", &*waiting), ("email", "ADA@example.org"), ("password", PASSWORD)];
    let done = browser.submit(&page, "/sign-in", &fields).await;
    assert_eq!(done.status, 303, "{}", done.body);
    let back = browser.get(done.location().unwrap()).await;
    assert!(back.location().unwrap().starts_with(&format!("{CALLBACK}?code=")), "{:?}", back.location());
    assert_eq!(back.led_with("state").as_deref(), Some("s&t=ä"));
    assert_eq!(back.led_with("iss"), Some(world.place.issuer()));

    // The client authenticates by Basic this time.
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("web:{}", world.client_secret("web")));
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", &*back.led_with("code").unwrap()),
        ("code_verifier", VERIFIER),
        ("redirect_uri", CALLBACK),
    ];
    let answer =
        world.send("POST", &token_path, &[FORM, ("authorization", &format!("Basic {basic}"))], &form(&fields)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let now = world.place.clock.now_s();
    let claims = world.verify(&text(&answer, "id_token"), "web").await.unwrap();
    assert_eq!(claims["sub"], *id);
    assert_eq!(claims["nonce"], "n-1");
    assert_eq!(claims["email"], "ada@example.org");
    assert_eq!(claims["name"], "Ada Lovelace");
    assert_eq!(claims["groups"], serde_json::json!(["staff"]));
    assert!((now - claims["auth_time"].as_i64().unwrap()).abs() < 30);
    assert!(claims["exp"].as_i64().unwrap() > now && claims["sid"].is_string());

    let path = userinfo_path;
    let bearer = format!("Bearer {}", text(&answer, "access_token"));
    let info = world.send("GET", &path, &[("authorization", &bearer)], "").await.json();
    assert_eq!((&info["sub"], &info["name"]), (&Value::from(id), &"Ada Lovelace".into()));
    // An ID token is not an access token.
    assert_eq!(world.userinfo(&text(&answer, "id_token")).await.status, 401);
    world.stop().await;
}

#[tokio::test]
async fn only_the_scopes_asked_for_tell_something() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &["staff"]).await;
    let answer = browser.get(&authorize(&with("scope", "openid nonsense"))).await;
    let answer = redeem(&world, &answer.led_with("code").unwrap()).await;
    let claims = world.verify(&text(&answer, "id_token"), "web").await.unwrap();
    for absent in ["email", "name", "groups"] {
        assert!(claims.get(absent).is_none());
    }
    assert_eq!(answer.json()["scope"], "openid");
    assert!(answer.json().get("refresh_token").is_none());
    world.stop().await;
}

#[tokio::test]
async fn without_pkce_or_with_the_wrong_verifier_there_is_no_token() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    for wrong in [
        with("code_challenge", ""),
        with("code_challenge_method", "plain"),
        with("code_challenge_method", ""),
        with("code_challenge", "short"),
    ] {
        let answer = browser.get(&authorize(&wrong)).await;
        assert_eq!(answer.led_with("error").as_deref(), Some("invalid_request"));
        assert_eq!(answer.led_with("code"), None);
        assert_eq!(answer.led_with("state").as_deref(), Some("s&t=ä"));
    }
    for verifier in ["", CHALLENGE, &"a".repeat(129)] {
        let code = code(&mut browser).await;
        let answer = redeem_with(&world, &code, verifier, CALLBACK).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &"invalid_grant".into()), "{verifier}");
        // And the code is used up: guessing verifiers is not possible.
        assert_eq!(redeem(&world, &code).await.status, 400);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_code_that_comes_twice_revokes_what_it_gave() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let code = code(&mut browser).await;
    let first = redeem(&world, &code).await;
    assert_eq!(world.userinfo(&text(&first, "access_token")).await.status, 200);
    let second = redeem(&world, &code).await;
    assert_eq!((second.status, &second.json()["error"]), (400, &"invalid_grant".into()));
    assert_eq!(world.userinfo(&text(&first, "access_token")).await.status, 401);
    assert_eq!(refresh(&world, &text(&first, "refresh_token")).await.status, 400);
    world.stop().await;
}

#[tokio::test]
async fn a_code_dies_after_a_minute_and_is_its_clients_own() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let stolen = code(&mut browser).await;
    let secret = world.client_secret("other");
    let fields = [
        ("client_id", "other"),
        ("client_secret", &secret),
        ("grant_type", "authorization_code"),
        ("code", &stolen),
        ("code_verifier", VERIFIER),
        ("redirect_uri", CALLBACK),
    ];
    assert_eq!(world.send("POST", "/token", &[FORM], &form(&fields)).await.status, 400);
    assert_eq!(redeem_with(&world, &stolen, VERIFIER, "https://127.0.0.1:9/other?x=1").await.status, 400);

    let good = code(&mut browser).await;
    assert_eq!(redeem(&world, &good).await.status, 200);
    let late = code(&mut browser).await;
    world.place.clock.set_offset_ms(61_000);
    assert_eq!(redeem(&world, &late).await.status, 400);
    world.stop().await;
}

#[tokio::test]
async fn an_address_that_is_not_registered_is_never_redirected_to() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    for uri in [
        "https://evil.example/",
        "https://127.0.0.1:9/signin-oidc/",
        "https://127.0.0.1:9/signin-oidc?x",
        "",
        "/account",
    ] {
        let mut fields: Vec<(&str, &str)> = asking().into_iter().filter(|(n, _)| *n != "redirect_uri").collect();
        fields.push(("redirect_uri", uri));
        let answer = browser.get(&authorize(&fields)).await;
        assert_eq!((answer.status, answer.location()), (400, None), "{uri}");
        // Nor after signing in.
        let page = browser.get(&format!("/sign-in?{}", form(&[("authorize", &*form(&fields))]))).await;
        assert_eq!(page.hidden("authorize"), "");
        let sent = [("authorize", &*form(&fields)), ("email", "ada@example.org"), ("password", PASSWORD)];
        let answer = browser.submit(&page, "/sign-in", &sent).await;
        assert_eq!((answer.status, answer.location()), (303, Some("/account")), "{uri}");
    }
    assert_eq!(browser.get(&authorize(&with("client_id", "nobody"))).await.status, 400);
    let twice = format!("{}&client_id=web", authorize(&asking()));
    assert_eq!((browser.get(&twice).await.status, browser.get(&twice).await.location()), (400, None));
    // A registered address with a query keeps it.
    let answer = browser.get(&authorize(&with("redirect_uri", "https://127.0.0.1:9/other?x=1"))).await;
    assert!(answer.location().unwrap().starts_with("https://127.0.0.1:9/other?x=1&code="));
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_supported_is_said_by_its_name() {
    let world = World::start().await;
    let mut browser = world.browser();
    for (name, value, error) in [
        ("response_type", "token", "unsupported_response_type"),
        ("response_mode", "fragment", "invalid_request"),
        ("scope", "email", "invalid_scope"),
        ("request", "x", "request_not_supported"),
        ("request_uri", "x", "request_uri_not_supported"),
        ("max_age", "soon", "invalid_request"),
        ("prompt", "none login", "invalid_request"),
        ("prompt", "none", "login_required"),
    ] {
        let answer = browser.get(&authorize(&with(name, value))).await;
        assert_eq!(answer.led_with("error").as_deref(), Some(error), "{name}={value}");
    }
    let unknown = world.token(&[("grant_type", "password")]).await;
    assert_eq!(unknown.json()["error"], "unsupported_grant_type");
    let bad = world.send("POST", "/token", &[FORM], "grant_type=refresh_token&client_id=web&client_secret=no").await;
    assert_eq!((bad.status, &bad.json()["error"]), (401, &"invalid_client".into()));
    assert!(bad.headers.contains_key("www-authenticate"));
    world.stop().await;
}

#[tokio::test]
async fn prompt_login_and_max_age_ask_again_and_then_are_content() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    assert!(browser.get(&authorize(&with("prompt", "none"))).await.led_with("code").is_some());
    assert!(browser.get(&authorize(&with("max_age", "100"))).await.led_with("code").is_some());
    world.place.clock.set_offset_ms(101_000);
    let stale = browser.get(&authorize(&[with("max_age", "100"), vec![("prompt", "none")]].concat())).await;
    assert_eq!(stale.led_with("error").as_deref(), Some("login_required"));
    for again in [with("max_age", "100"), with("max_age", "0"), with("prompt", "login")] {
        let sent = browser.get(&authorize(&again)).await;
        assert!(sent.location().unwrap().starts_with("/sign-in?authorize="), "{:?}", sent.location());
        let page = browser.get(sent.location().unwrap()).await;
        let waiting = page.hidden("authorize");
        let fields = [("authorize", &*waiting), ("email", "ada@example.org"), ("password", PASSWORD)];
        let done = browser.submit(&page, "/sign-in", &fields).await;
        let back = browser.get(done.location().unwrap()).await;
        assert!(back.led_with("code").is_some(), "{:?}", back.location());
        world.place.clock.set_offset_ms(world_offset(&world) + 101_000);
    }
    world.stop().await;
}

fn world_offset(world: &World) -> i64 {
    world.place.clock.now_ms() - service::Clock::default().now_ms()
}

#[tokio::test]
async fn refresh_tokens_rotate_and_reuse_ends_the_family() {
    let world = World::start().await;
    let (id, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let code = code(&mut browser).await;
    let first = redeem(&world, &code).await;
    let old = text(&first, "refresh_token");
    let second = refresh(&world, &old).await;
    assert_eq!(second.status, 200, "{}", second.body);
    let claims = world.verify(&text(&second, "id_token"), "web").await.unwrap();
    assert_eq!(claims["sub"], *id);
    let new = text(&second, "refresh_token");
    assert_ne!(old, new);
    assert_eq!(refresh(&world, &old).await.json()["error"], "invalid_grant");
    assert_eq!(refresh(&world, &new).await.status, 400, "the family is revoked");
    assert_eq!(world.userinfo(&text(&second, "access_token")).await.status, 401);
    world.stop().await;
}

#[tokio::test]
async fn refresh_tokens_outlive_the_cookie_but_not_their_own_life() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let code = code(&mut browser).await;
    let first = redeem(&world, &code).await;
    world.place.clock.set_offset_ms(13 * 3600 * 1000);
    assert_eq!(browser.get("/account").await.location(), Some("/sign-in"), "the session has expired");
    assert_eq!(world.userinfo(&text(&first, "access_token")).await.status, 401, "so has the access token");
    let second = refresh(&world, &text(&first, "refresh_token")).await;
    assert_eq!(second.status, 200, "{}", second.body);
    world.place.clock.set_offset_ms(32 * 24 * 3600 * 1000);
    assert_eq!(refresh(&world, &text(&second, "refresh_token")).await.status, 400);
    world.stop().await;
}

#[tokio::test]
async fn ending_a_session_takes_everything_at_once() {
    let world = World::start().await;
    let (ada, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let (_, mut admin) = world.person("root@example.org", "Root", &["administrators"]).await;
    let code = code(&mut browser).await;
    let tokens = redeem(&world, &code).await;
    assert_eq!(world.userinfo(&text(&tokens, "access_token")).await.status, 200);
    let sid = world.verify(&text(&tokens, "id_token"), "web").await.unwrap()["sid"].as_str().unwrap().to_owned();

    let page = admin.get(&format!("/people/{ada}")).await;
    assert!(page.body.contains(&sid), "{}", page.body);
    let done = admin.submit(&page, &format!("/people/{ada}/sessions/{sid}/end"), &[]).await;
    assert_eq!(done.status, 303, "{}", done.body);

    assert_eq!(world.userinfo(&text(&tokens, "access_token")).await.status, 401);
    assert_eq!(refresh(&world, &text(&tokens, "refresh_token")).await.status, 400);
    assert_eq!(browser.get("/account").await.location(), Some("/sign-in"));
    let silent = browser.get(&authorize(&with("prompt", "none"))).await;
    assert_eq!(silent.led_with("error").as_deref(), Some("login_required"));
    world.stop().await;
}

#[tokio::test]
async fn an_application_signs_its_person_out_and_a_stranger_does_not() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let code = code(&mut browser).await;
    let tokens = redeem(&world, &code).await;
    let hint = text(&tokens, "id_token");

    let asked = browser.get(&format!("/logout?{}", form(&[("post_logout_redirect_uri", AFTER_LOGOUT)]))).await;
    assert_eq!(asked.status, 200, "without proof it asks");
    assert!(asked.body.contains("Sign out?"));
    assert_eq!(browser.get("/account").await.status, 200, "and nothing has happened yet");
    let evil = [("id_token_hint", &*hint), ("post_logout_redirect_uri", "https://evil.example/")];
    let refused = browser.get(&format!("/logout?{}", form(&evil))).await;
    assert_eq!((refused.status, refused.location()), (400, None));
    let access = [("id_token_hint", &*text(&tokens, "access_token")), ("post_logout_redirect_uri", AFTER_LOGOUT)];
    assert_eq!(browser.get(&format!("/logout?{}", form(&access))).await.status, 200, "an access token is no hint");

    let good = [("id_token_hint", &*hint), ("post_logout_redirect_uri", AFTER_LOGOUT), ("state", "a b")];
    let done = browser.get(&format!("/logout?{}", form(&good))).await;
    assert_eq!((done.status, done.location()), (303, Some("https://127.0.0.1:9/bye?state=a+b")));
    assert_eq!(browser.get("/account").await.location(), Some("/sign-in"));
    assert_eq!(refresh(&world, &text(&tokens, "refresh_token")).await.status, 400);
    world.stop().await;
}

#[tokio::test]
async fn of_many_who_redeem_one_code_at_once_one_gets_tokens() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let code = code(&mut browser).await;
    let one = || redeem(&world, &code);
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    let granted = [a, b, c, d].iter().filter(|answer| answer.status == 200).count();
    assert_eq!(granted, 1);
    world.stop().await;
}

#[tokio::test]
async fn signing_in_again_keeps_the_session_and_what_was_granted_through_it() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let code = code(&mut browser).await;
    let tokens = redeem(&world, &code).await;
    let before = world.verify(&text(&tokens, "id_token"), "web").await.unwrap();
    let old = browser.cookies.clone();
    world.place.clock.set_offset_ms(5_000);
    assert_eq!(browser.sign_in("ada@example.org", PASSWORD).await.status, 303);
    let again = refresh(&world, &text(&tokens, "refresh_token")).await;
    assert_eq!(again.status, 200, "{}", again.body);
    let after = world.verify(&text(&again, "id_token"), "web").await.unwrap();
    assert_eq!((&before["sid"], &before["auth_time"]), (&after["sid"], &after["auth_time"]));
    browser.cookies = old;
    assert_eq!(browser.get("/account").await.location(), Some("/sign-in"), "the cookie before is dead");
    world.stop().await;
}
