//! A person at a terminal: a client without a secret, and tokens for another service.

use api::identity::{AtTerminal, Client, IdentityConfig, TERMINAL};
use serde_json::json;

use crate::world::*;

const VAULT: &str = "https://vault.azure.net";

fn config(place: &Place) -> IdentityConfig {
    let mut config = place.config();
    config.clients.push(Client {
        id: TERMINAL.into(),
        title: "a terminal".into(),
        redirect_uris: vec!["http://127.0.0.1/".into()],
        native: true,
        resources: vec![VAULT.into()],
        ..Client::default()
    });
    config
}

async fn world() -> World {
    let place = Place::new();
    let config = config(&place);
    World::start_with(place, config).await
}

#[tokio::test]
async fn somebody_at_a_terminal_gets_a_token_that_names_them_and_their_groups() {
    let world = world().await;
    let (id, mut browser) = world.person("ada@example.org", "Ada", &["staff"]).await;
    let asking = AtTerminal::new(40_123);
    let url = asking.url(&world.place.issuer());
    let back = browser.get(url.strip_prefix(&world.place.issuer()).unwrap()).await;
    assert_eq!(back.status, 303, "{}", back.body);
    assert!(back.location().unwrap().starts_with("http://127.0.0.1:40123/?code="), "{:?}", back.location());
    assert_eq!(back.led_with("state"), Some(asking.state.clone()));
    let code = back.led_with("code").unwrap();
    let token = asking.redeem(&world.client(), &code, VAULT).await.unwrap();
    let claims = world.verify(token.expose(), VAULT).await.unwrap();
    assert_eq!((&claims["sub"], &claims["groups"], &claims["idtyp"]), (&json!(id), &json!(["staff"]), &json!("user")));
    // It is for the vault alone.
    assert_eq!(world.userinfo(token.expose()).await.status, 401);
    assert!(asking.redeem(&world.client(), &code, VAULT).await.is_err(), "a code is good once");
    world.stop().await;
}

#[tokio::test]
async fn no_other_resource_and_no_application_gets_such_a_token() {
    let world = world().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &["staff"]).await;
    let asking = AtTerminal::new(40_123);
    let url = asking.url(&world.place.issuer());
    let path = url.strip_prefix(&world.place.issuer()).unwrap().to_owned();
    let code = browser.get(&path).await.led_with("code").unwrap();
    let refused = asking.redeem(&world.client(), &code, "https://storage.azure.com").await.err().unwrap();
    assert!(format!("{refused:?}").contains("invalid_target"), "{refused:?}");
    // A code stays its client's: one with a secret cannot redeem it, and gets no such token for its own either.
    let answer = world.token(&[("grant_type", "authorization_code"), ("code", &code), ("resource", VAULT)]).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_target")));
    // And nobody is sent to another machine.
    let away = path.replace("127.0.0.1", "example.org");
    assert_eq!(browser.get(&away).await.status, 400);
    world.stop().await;
}
