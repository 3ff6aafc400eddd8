//! A registry with signed tokens, a clock that can be moved, and its spool to read.

use std::{path::Path, sync::Arc};

use api::{
    Secret,
    audit::Event,
    context::{IdentityRef, secret},
    registry::{ADMIN_KEY, AUDIENCE, Grant, RegistryConfig, RegistryRole, TOKEN_USER},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde_json::{Value, json};
use service::{Clock, Context, Spool, Verifier};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::{http, names::Digest, registry::Registry};

pub const HOST: &str = "main.registry.dev.shop.internal";
pub const ISSUER: &str = "https://127.0.0.1:9443";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
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

pub fn grant(principal: &str, role: RegistryRole, repositories: &[&str]) -> Grant {
    let repositories = repositories.iter().map(|r| (*r).to_owned()).collect();
    Grant { principal: principal.into(), role, repositories }
}

pub fn config() -> RegistryConfig {
    RegistryConfig {
        name: "main".into(),
        url: format!("https://{HOST}"),
        admin_user: true,
        grants: vec![
            grant("supervisor", RegistryRole::Push, &[]),
            grant("supervisor", RegistryRole::Delete, &[]),
            grant("service.web", RegistryRole::Pull, &["web"]),
            grant("group:developers", RegistryRole::Push, &["web"]),
        ],
        keep_untagged_seconds: Some(7 * 86_400),
        ..RegistryConfig::default()
    }
}

pub struct Bench {
    pub dir: TempDir,
    pub root: Secret,
    pub clock: Clock,
    pub signer: Signer,
    pub registry: Arc<Registry>,
    pub router: Router,
}

pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The specification's error code.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

pub fn open(dir: &Path, root: &Secret, clock: &Clock, signer: &Signer, config: RegistryConfig) -> Registry {
    let mut context = Context { clock: clock.clone(), resource: "registry.main".into(), ..Context::for_test(dir) };
    context.secrets.insert(secret::REGISTRY_ROOT, root.clone());
    let spool = Spool::open(&dir.join("spool"), "registry.main", clock.clone()).unwrap();
    let identity = IdentityRef {
        issuer: ISSUER.into(),
        jwks: format!("{ISSUER}/jwks"),
        tenant: "7f0c1c5e-0000-4000-8000-000000000001".into(),
    };
    let verifier = Verifier::with_keys(identity, &signer.jwks, clock.clone());
    crate::run::open(config, &mut context, spool, verifier).unwrap()
}

impl Bench {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: RegistryConfig) -> Self {
        Self::made(tempfile::tempdir().unwrap(), Secret::random(), Clock::default(), Signer::new(), config)
    }

    fn made(dir: TempDir, root: Secret, clock: Clock, signer: Signer, config: RegistryConfig) -> Self {
        let registry = Arc::new(open(dir.path(), &root, &clock, &signer, config));
        let router = http::public(registry.clone());
        Self { dir, root, clock, signer, registry, router }
    }

    /// Opens the same directory again, as after a restart.
    pub fn reopen(self) -> Self {
        let Self { dir, root, clock, signer, registry, router } = self;
        drop((registry, router));
        Self::made(dir, root, clock, signer, config())
    }

    pub fn admin(&self) -> String {
        basic("main", self.root.derive(ADMIN_KEY).expose())
    }

    /// The `Authorization` of somebody who exchanged a token of identity.
    pub async fn by(&self, subject: &str, groups: &[&str]) -> String {
        let token = self.signer.token(subject, groups, AUDIENCE, self.clock.now_s());
        let answered = self.exchange(&token).await;
        assert_eq!(answered.status, 200, "{:?}", answered.body);
        basic(TOKEN_USER, answered.json()["refresh_token"].as_str().unwrap())
    }

    pub async fn exchange(&self, token: &str) -> Answered {
        let form = format!("grant_type=access_token&service={HOST}&access_token={token}");
        self.call("", "POST", "/oauth2/exchange", &[("content-type", "application/x-www-form-urlencoded")], form).await
    }

    pub async fn call(
        &self,
        authorization: &str,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answered {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, HOST);
        if !authorization.is_empty() {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answered { status: head.status, headers: head.headers, body }
    }

    pub async fn get(&self, who: &str, path: &str) -> Answered {
        self.call(who, "GET", path, &[], Body::empty()).await
    }

    /// Pushes a blob at once.
    pub async fn blob(&self, who: &str, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let answered = self.call(who, "POST", &path, &[], content.to_vec()).await;
        assert_eq!(answered.status, 201, "{:?}", answered.body);
        digest
    }

    /// An image of one layer, not pushed yet; its parts are.
    pub async fn image(&self, who: &str, name: &str, layer: &str) -> Vec<u8> {
        let config = b"{}";
        let (config_digest, layer_digest) =
            (self.blob(who, name, config).await, self.blob(who, name, layer.as_bytes()).await);
        let image = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest.to_string(), "size": 2 },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest.to_string(), "size": layer.len() }],
        });
        image.to_string().into_bytes()
    }

    pub async fn put(&self, who: &str, name: &str, reference: &str, kind: &str, manifest: &[u8]) -> Answered {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.call(who, "PUT", &path, &[("content-type", kind)], manifest.to_vec()).await
    }

    /// Pushes an image of one layer.
    pub async fn push(&self, who: &str, name: &str, tag: &str, layer: &str) -> Digest {
        let image = self.image(who, name, layer).await;
        let answered = self.put(who, name, tag, MANIFEST, &image).await;
        assert_eq!(answered.status, 201, "{:?}", answered.body);
        Digest::of(&image)
    }

    /// All events of the spool.
    pub fn events(&self) -> Vec<Event> {
        let records = self.registry.spool.read(0, usize::MAX, usize::MAX).unwrap();
        records.iter().map(|r| serde_json::from_str(&r.event).unwrap()).collect()
    }
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
