//! A vault with signed tokens, a clock that can be moved, and its spool to read.

use std::{path::Path, sync::Arc};

use api::{
    Secret,
    audit::{Event, Outcome},
    context::{IdentityRef, secret},
    vault::{Assignment, VaultConfig, VaultRole},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde_json::{Value, json};
use service::{Clock, Context, Spool, Verifier};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::{http, vault::Vault};

pub const HOST: &str = "main.vault.dev.time-tracker.internal:8443";
pub const AUDIENCE: &str = "https://vault.dev.time-tracker.internal:8443";
pub const ISSUER: &str = "https://127.0.0.1:9443";
pub const DAY_MS: i64 = 86_400_000;

/// Signs tokens as identity does.
pub struct Signer {
    key: EncodingKey,
    pub jwks: JwkSet,
}

impl Signer {
    pub fn new() -> Self {
        let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
        jwk.common.key_id = Some("k1".into());
        Self { key, jwks: JwkSet { keys: vec![jwk] } }
    }

    pub fn token(&self, subject: &str, groups: &[&str], audience: &str, now_s: i64) -> String {
        let claims = json!({
            "iss": ISSUER, "sub": subject, "aud": audience, "groups": groups, "iat": now_s, "nbf": now_s, "exp": now_s + 3600,
        });
        let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

pub fn identity() -> IdentityRef {
    IdentityRef {
        issuer: ISSUER.into(),
        jwks: format!("{ISSUER}/jwks"),
        tenant: "7f0c1c5e-0000-4000-8000-000000000001".into(),
    }
}

pub fn grant(principal: &str, role: VaultRole) -> Assignment {
    Assignment { principal: principal.into(), role, secrets: Vec::new() }
}

pub fn config() -> VaultConfig {
    VaultConfig {
        name: "main".into(),
        url: format!("https://{HOST}"),
        soft_delete_days: 7,
        assignments: vec![
            grant("supervisor", VaultRole::Administrator),
            grant("service.web", VaultRole::SecretsUser),
            grant("group:developers", VaultRole::SecretsOfficer),
            grant("auditor", VaultRole::Reader),
        ],
        ..VaultConfig::default()
    }
}

pub struct Bench {
    pub dir: TempDir,
    pub kek: Secret,
    pub clock: Clock,
    pub signer: Signer,
    pub vault: Arc<Vault>,
    pub router: Router,
}

pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Answered {
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn inner(&self) -> &str {
        self.json["error"]["innererror"]["code"].as_str().unwrap_or_default()
    }
}

pub fn open(
    dir: &Path,
    kek: &Secret,
    clock: &Clock,
    signer: &Signer,
    config: VaultConfig,
) -> Result<Vault, crate::Error> {
    let mut context = Context { clock: clock.clone(), resource: "vault.main".into(), ..Context::for_test(dir) };
    context.secrets.insert(secret::VAULT_KEK, kek.clone());
    let spool = Spool::open(&dir.join("spool"), "vault.main", clock.clone())?;
    let verifier = Verifier::with_keys(identity(), &signer.jwks, clock.clone());
    crate::run::open(config, &mut context, spool, verifier, &identity())
}

impl Bench {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: VaultConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (kek, clock, signer) = (Secret::random(), Clock::default(), Signer::new());
        let vault = Arc::new(open(dir.path(), &kek, &clock, &signer, config).unwrap());
        let router = http::public(vault.clone());
        Self { dir, kek, clock, signer, vault, router }
    }

    /// Opens the same directory again, as after a restart.
    pub fn reopen(self) -> Self {
        let Self { dir, kek, clock, signer, vault, router } = self;
        drop((vault, router));
        let vault = Arc::new(open(dir.path(), &kek, &clock, &signer, config()).unwrap());
        let router = http::public(vault.clone());
        Self { dir, kek, clock, signer, vault, router }
    }

    pub fn token(&self, subject: &str) -> String {
        self.signer.token(subject, &[], AUDIENCE, self.clock.now_s())
    }

    pub async fn send(&self, request: Request<Body>) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answered { status: head.status, headers: head.headers, json }
    }

    /// A call with a token; `path` may hold a query.
    pub async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answered {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("host", HOST);
        self.send(request.header("authorization", format!("Bearer {token}")).body(body).unwrap()).await
    }

    /// A call by somebody without groups.
    pub async fn by(&self, subject: &str, method: &str, path: &str, body: Value) -> Answered {
        self.call(&self.token(subject), method, path, body).await
    }

    pub async fn set(&self, name: &str, value: &str) -> Answered {
        let answered =
            self.by("supervisor", "PUT", &format!("/secrets/{name}?api-version=7.4"), json!({ "value": value })).await;
        assert_eq!(answered.status, 200, "{}", answered.json);
        answered
    }

    pub async fn get(&self, name: &str) -> Answered {
        self.by("service.web", "GET", &format!("/secrets/{name}?api-version=7.4"), Value::Null).await
    }

    /// A fresh data key.
    pub async fn renew(&self) -> u64 {
        let vault = self.vault.clone();
        tokio::task::spawn_blocking(move || vault.renew_data_key()).await.unwrap().unwrap()
    }

    /// All events of the spool.
    pub fn events(&self) -> Vec<Event> {
        let records = self.vault.spool.read(0, usize::MAX, usize::MAX).unwrap();
        records.iter().map(|r| serde_json::from_str(&r.event).unwrap()).collect()
    }

    pub fn last_event(&self) -> (String, String, String, Outcome) {
        let event = self.events().pop().unwrap();
        (event.actor, event.action, event.object, event.outcome)
    }
}
