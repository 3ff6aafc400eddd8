//! Sign-in against a real issuer with real keys, and what an issuer or a thief could try.

use crate::support::issuer::{CLIENT, Issuer, SECRET};
use bytes::Bytes;
use http::{HeaderMap, Method};
use sdk::{
    Secret, Settings, Trust,
    https::Client,
    oidc::{Callback, OidcError, RelyingParty, SignedIn, Start},
    seal::Sealer,
};
use serde_json::json;
use url::Url;

struct Party {
    issuer: Issuer,
    party: RelyingParty,
    sealer: Sealer,
    client: Client,
}

impl Party {
    async fn new() -> Party {
        let issuer = Issuer::start(&[("Ann Archer", &["user"])]).await;
        let party = Party::of(&issuer.url, SECRET);
        let client = Client::new(&Trust::from_settings(&Settings::from_pairs::<&str, &str>([]), &[]).unwrap()).unwrap();
        Party {
            issuer,
            party,
            client,
            sealer: Sealer::new(&Secret::new("a key for the cookie of the sign-in")).unwrap(),
        }
    }

    fn of(issuer: &str, secret: &str) -> RelyingParty {
        let settings = Settings::from_pairs([
            ("OIDC_ISSUER", issuer),
            ("OIDC_CLIENT_ID", CLIENT),
            ("OIDC_CLIENT_SECRET", secret),
            ("PUBLIC_URL", "https://app.example"),
        ]);
        RelyingParty::from_settings(&settings, "/signin-oidc").unwrap()
    }

    /// Begins a sign-in, goes to the issuer and comes back with its answer.
    async fn visit(&self) -> (Start, Callback) {
        let start = self.party.start(&self.sealer, "/sheets/4").await.unwrap();
        let there = Url::parse(&format!("{}&person=ann", start.location)).unwrap();
        let answer = self.client.send(Method::GET, &there, HeaderMap::new(), Bytes::new()).await.unwrap();
        let back = Url::parse(answer.headers["location"].to_str().unwrap()).unwrap();
        assert!(back.as_str().starts_with("https://app.example/signin-oidc?"));
        let value = |name: &str| back.query_pairs().find(|(k, _)| k == name).map(|(_, v)| v.into_owned());
        let callback = Callback { code: value("code"), state: value("state"), error: None, iss: value("iss") };
        (start, callback)
    }

    async fn sign_in(&self) -> Result<SignedIn, OidcError> {
        let (start, callback) = self.visit().await;
        self.party.finish(&self.sealer, &callback, &start.cookie).await
    }
}

#[tokio::test]
async fn a_person_signs_in_and_comes_back_to_where_they_wanted_to_go() {
    let party = Party::new().await;
    let done = party.sign_in().await.unwrap();
    assert_eq!((done.claims.sub.as_str(), done.claims.email.as_deref()), ("id-ann", Some("ann@example.com")));
    assert_eq!((done.claims.groups, done.return_to.as_str()), (vec!["user".to_owned()], "/sheets/4"));
    let out = party.party.end_session(Some(&done.id_token), "/signed-out").await.unwrap();
    assert!(out.query().unwrap().contains("post_logout_redirect_uri=https%3A%2F%2Fapp.example%2Fsigned-out"), "{out}");
}

#[tokio::test]
async fn a_callback_without_its_own_cookie_or_a_second_time_is_refused() {
    let party = Party::new().await;
    let (mine, callback) = party.visit().await;
    let (other, _) = party.visit().await;
    let state = |result: Result<SignedIn, OidcError>| assert!(matches!(result, Err(OidcError::State)));
    state(party.party.finish(&party.sealer, &callback, &other.cookie).await);
    state(party.party.finish(&party.sealer, &callback, "").await);
    let stranger = Callback { iss: Some("https://other.example".into()), ..callback.clone() };
    assert!(matches!(party.party.finish(&party.sealer, &stranger, &mine.cookie).await, Err(OidcError::OtherIssuer)));
    party.party.finish(&party.sealer, &callback, &mine.cookie).await.unwrap();
    state(party.party.finish(&party.sealer, &callback, &mine.cookie).await);
}

#[tokio::test]
async fn a_token_for_somebody_or_something_else_is_refused() {
    let party = Party::new().await;
    let past = crate::support::issuer::now() - 600;
    for twist in [
        json!({ "aud": "another-client" }),
        json!({ "aud": [CLIENT, "another"] }),
        json!({ "azp": "another" }),
        json!({ "iss": "https://other.example" }),
        json!({ "nonce": "of another sign-in" }),
        json!({ "nonce": null }),
        json!({ "exp": past }),
        json!({ "nbf": crate::support::issuer::now() + 600 }),
        json!({ "sub": null }),
    ] {
        party.issuer.twist(twist.clone());
        assert!(party.sign_in().await.is_err(), "{twist}");
    }
    party.issuer.twist(json!({}));
    party.sign_in().await.unwrap();
}

#[tokio::test]
async fn a_token_with_another_algorithm_or_a_changed_part_is_refused() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let party = Party::new().await;
    let good = party.issuer.id_token("ann", "n");
    party.party.verify(&good).await.unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let header = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let none = format!("{}.{}.", header(r#"{"alg":"none","kid":"first"}"#), parts[1]);
    let hmac = format!("{}.{}.{}", header(r#"{"alg":"HS256","kid":"first"}"#), parts[1], parts[2]);
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap().replace("\"user\"", "\"admin\"");
    let changed = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims), parts[2]);
    for bad in [none, hmac, changed, String::new(), "a.b.c".to_owned()] {
        assert!(party.party.verify(&bad).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_once_and_unknown_ones_do_not_flood_the_issuer() {
    let party = Party::new().await;
    party.sign_in().await.unwrap();
    assert_eq!(party.issuer.key_requests(), 1);
    party.sign_in().await.unwrap();
    assert_eq!(party.issuer.key_requests(), 1, "known keys are kept");
    party.issuer.rotate("second");
    for _ in 0..5 {
        // Within ten seconds of the last request nobody is asked again.
        assert!(party.party.verify(&party.issuer.id_token("ann", "n")).await.is_err());
    }
    assert_eq!(party.issuer.key_requests(), 1);
    // A party that has not asked yet meets the new key at once.
    let fresh = Party::of(&party.issuer.url, SECRET);
    fresh.verify(&party.issuer.id_token("ann", "n")).await.unwrap();
}

#[tokio::test]
async fn a_wrong_client_secret_or_an_absent_issuer_is_an_error_and_never_a_sign_in() {
    let mut party = Party::new().await;
    party.party = Party::of(&party.issuer.url, "wrong");
    assert!(matches!(party.sign_in().await, Err(OidcError::Status { status: 401, .. })));
    let nobody = Party::of("http://127.0.0.1:1", SECRET);
    let error = nobody.start(&party.sealer, "/").await.err().unwrap();
    assert!(error.is_outage(), "{error}");
}
