//! A small OpenID Connect issuer: real keys, real tokens, people chosen by name instead of by password.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use axum::{
    Form, Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const CLIENT: &str = "time-tracker";
pub const SECRET: &str = "a client's secret: with :/%+ in it";

#[derive(Clone)]
pub struct Issuer {
    pub url: String,
    state: Arc<Mutex<Inside>>,
}

struct Inside {
    key: Key,
    people: BTreeMap<String, Value>,
    codes: HashMap<String, Granted>,
    /// How often the keys were asked for.
    key_requests: usize,
    /// Changes claims of the next tokens.
    twist: Value,
}

struct Granted {
    person: String,
    nonce: String,
    challenge: String,
    redirect_uri: String,
}

struct Key {
    kid: String,
    sign: EncodingKey,
    n: String,
    e: String,
}

impl Key {
    fn new(kid: &str) -> Key {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(private.as_ref()));
        let (n, e) = numbers(pair.public_key().as_ref());
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Key { kid: kid.to_owned(), sign: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(), n: text(&n), e: text(&e) }
    }
}

/// Modulus and exponent of a DER `RSAPublicKey` (a sequence of two integers).
fn numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn element(bytes: &[u8]) -> (&[u8], &[u8]) {
        let (length, start) = match bytes[1] {
            short @ 0..=127 => (usize::from(short), 2),
            0x81 => (usize::from(bytes[2]), 3),
            _ => (usize::from(bytes[2]) * 256 + usize::from(bytes[3]), 4),
        };
        (&bytes[start..start + length], &bytes[start + length..])
    }
    let (sequence, _) = element(der);
    let (n, rest) = element(sequence);
    let (e, _) = element(rest);
    let plain = |number: &[u8]| number.iter().copied().skip_while(|b| *b == 0).collect();
    (plain(n), plain(e))
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Issuer {
    /// Starts an issuer; `people` are name and groups.
    pub async fn start(people: &[(&str, &[&str])]) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let known = people.iter().map(|(name, groups)| {
            let (first, last) = name.split_once(' ').unwrap_or((name, ""));
            let id = first.to_lowercase();
            let claims = json!({ "sub": format!("id-{id}"), "email": format!("{id}@example.com"), "email_verified": true, "name": name,
                "given_name": first, "family_name": last, "groups": groups });
            (id, claims)
        });
        let inside = Inside {
            key: Key::new("first"),
            people: known.collect(),
            codes: HashMap::new(),
            key_requests: 0,
            twist: json!({}),
        };
        let issuer = Issuer { url, state: Arc::new(Mutex::new(inside)) };
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/logout", get(logout))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        issuer
    }

    /// From now on tokens are signed by a new key.
    pub fn rotate(&self, kid: &str) {
        self.state.lock().unwrap().key = Key::new(kid);
    }

    /// From now on these claims replace the true ones; null removes one.
    pub fn twist(&self, claims: Value) {
        self.state.lock().unwrap().twist = claims;
    }

    pub fn key_requests(&self) -> usize {
        self.state.lock().unwrap().key_requests
    }

    /// Puts a person in other groups.
    pub fn set_groups(&self, person: &str, groups: &[&str]) {
        self.state.lock().unwrap().people.get_mut(person).unwrap()["groups"] = json!(groups);
    }

    /// An ID token as the issuer would give it.
    pub fn id_token(&self, person: &str, nonce: &str) -> String {
        let inside = self.state.lock().unwrap();
        let mut claims = inside.people[person].clone();
        let times =
            json!({ "iss": self.url, "aud": CLIENT, "nonce": nonce, "iat": now(), "nbf": now(), "exp": now() + 600 });
        for (name, value) in times.as_object().unwrap().iter().chain(inside.twist.as_object().unwrap()) {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        let header = Header { kid: Some(inside.key.kid.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &inside.key.sign).unwrap()
    }
}

async fn discovery(State(issuer): State<Issuer>) -> Json<Value> {
    let url = &issuer.url;
    Json(json!({
        "issuer": url, "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/keys"), "end_session_endpoint": format!("{url}/logout"),
    }))
}

async fn keys(State(issuer): State<Issuer>) -> Json<Value> {
    let mut inside = issuer.state.lock().unwrap();
    inside.key_requests += 1;
    let Key { kid, n, e, .. } = &inside.key;
    Json(json!({ "keys": [{ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": e }] }))
}

type Params = Query<HashMap<String, String>>;

async fn authorize(State(issuer): State<Issuer>, Query(q): Params, headers: HeaderMap) -> Response {
    let mut inside = issuer.state.lock().unwrap();
    let Some(person) = q.get("person").filter(|p| inside.people.contains_key(*p)) else {
        let here = headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default();
        let query: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&q).finish();
        let link = |id: &String| format!("<p><a href=\"http://{here}/authorize?{query}&person={id}\">{id}</a></p>");
        return Html(inside.people.keys().map(link).collect::<String>()).into_response();
    };
    assert_eq!(
        (q["response_type"].as_str(), q["code_challenge_method"].as_str(), q["client_id"].as_str()),
        ("code", "S256", CLIENT)
    );
    let code = format!("code-{}", inside.codes.len() + 1);
    let granted = Granted {
        person: person.clone(),
        nonce: q["nonce"].clone(),
        challenge: q["code_challenge"].clone(),
        redirect_uri: q["redirect_uri"].clone(),
    };
    inside.codes.insert(code.clone(), granted);
    let mut back = url::Url::parse(&q["redirect_uri"]).unwrap();
    back.query_pairs_mut().append_pair("code", &code).append_pair("state", &q["state"]).append_pair("iss", &issuer.url);
    Redirect::to(back.as_str()).into_response()
}

async fn token(
    State(issuer): State<Issuer>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let basic = headers["authorization"].to_str().unwrap().strip_prefix("Basic ").unwrap();
    let basic = String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap();
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let (id, secret) = basic.split_once(':').unwrap();
    if plain(id) != CLIENT || plain(secret) != SECRET {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let granted = issuer.state.lock().unwrap().codes.remove(&form["code"]);
    let fits = |g: &Granted| {
        let verifier = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
        g.challenge == URL_SAFE_NO_PAD.encode(verifier) && g.redirect_uri == form["redirect_uri"]
    };
    match granted.filter(fits) {
        Some(g) => Json(
            json!({ "token_type": "Bearer", "access_token": "x", "id_token": issuer.id_token(&g.person, &g.nonce) }),
        )
        .into_response(),
        None => (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" }))).into_response(),
    }
}

async fn logout(Query(q): Params) -> Redirect {
    assert!(q.get("id_token_hint").is_some_and(|t| t.split('.').count() == 3));
    Redirect::to(&q["post_logout_redirect_uri"])
}
