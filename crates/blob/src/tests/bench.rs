//! An account in a folder that is thrown away, and callers of it.

use std::{path::Path, sync::Arc};

use api::{
    Secret,
    audit::Event,
    blob::{AUDIENCE, BlobConfig, BlobRole, ContainerConfig, Grant, PublicRead},
    context::{IdentityRef, secret},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use bytes::Bytes;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde_json::json;
use service::{Clock, Context, Spool, Verifier};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::{fields::Query, http, shared_key, store::Store, time};

pub const HOST: &str = "files.blob.dev.shop.internal";
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

fn grant(principal: &str, role: BlobRole, container: Option<&str>) -> Grant {
    Grant { principal: principal.into(), role, container: container.map(str::to_owned) }
}

pub fn config() -> BlobConfig {
    let public = ContainerConfig { public: PublicRead::Blob, ..ContainerConfig::default() };
    let open = ContainerConfig { public: PublicRead::Container, ..ContainerConfig::default() };
    BlobConfig {
        account: "files".into(),
        url: format!("https://{HOST}"),
        containers: [("photos", ContainerConfig::default()), ("public", public), ("open", open)]
            .into_iter()
            .map(|(name, container)| (name.to_owned(), container))
            .collect(),
        grants: vec![
            grant("service.owner", BlobRole::Owner, None),
            grant("service.web", BlobRole::Contributor, Some("photos")),
            grant("service.reader", BlobRole::Reader, Some("photos")),
            grant("group:pipeline", BlobRole::Contributor, None),
        ],
        shared_key: true,
        ..BlobConfig::default()
    }
}

/// One account with one container, `photos`, declared as given.
pub fn with_photos(photos: ContainerConfig) -> BlobConfig {
    let mut config = config();
    config.containers.insert("photos".into(), photos);
    config
}

pub struct Bench {
    pub dir: TempDir,
    pub root: Secret,
    pub clock: Clock,
    pub signer: Signer,
    pub store: Arc<Store>,
    pub router: Router,
    pub owner: String,
}

pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answered {
    pub fn code(&self) -> &str {
        self.field("x-ms-error-code")
    }

    pub fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and code, for comparison.
    pub fn said(&self) -> (u16, &str) {
        (self.status.as_u16(), self.code())
    }
}

pub fn open(dir: &Path, root: &Secret, clock: &Clock, signer: &Signer, config: BlobConfig) -> Store {
    let mut context = Context { clock: clock.clone(), resource: "blob.files".into(), ..Context::for_test(dir) };
    context.secrets.insert(secret::BLOB_ROOT, root.clone());
    let spool = Spool::open(&dir.join("spool"), "blob.files", clock.clone()).unwrap();
    let identity = IdentityRef {
        issuer: ISSUER.into(),
        jwks: format!("{ISSUER}/jwks"),
        tenant: "7f0c1c5e-0000-4000-8000-000000000001".into(),
    };
    let verifier = Verifier::with_keys(identity.clone(), &signer.jwks, clock.clone());
    crate::run::open(config, &mut context, &identity, spool, verifier).unwrap()
}

impl Bench {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: BlobConfig) -> Self {
        Self::made(tempfile::tempdir().unwrap(), Secret::random(), Clock::default(), Signer::new(), config)
    }

    fn made(dir: TempDir, root: Secret, clock: Clock, signer: Signer, config: BlobConfig) -> Self {
        let place = dir.path().to_owned();
        Self { dir, ..Self::at(&place, root, clock, signer, config) }
    }

    /// In a folder that stays.
    pub fn at(place: &Path, root: Secret, clock: Clock, signer: Signer, config: BlobConfig) -> Self {
        let store = Arc::new(open(place, &root, &clock, &signer, config));
        let router = http::public(store.clone());
        let owner = format!("Bearer {}", signer.token("service.owner", &[], AUDIENCE, clock.now_s()));
        Self { dir: tempfile::tempdir().unwrap(), root, clock, signer, store, router, owner }
    }

    /// Opens the same directory again, as after a restart.
    pub fn reopen(self, config: BlobConfig) -> Self {
        let Self { dir, root, clock, signer, store, router, .. } = self;
        drop((store, router));
        Self::made(dir, root, clock, signer, config)
    }

    /// The `Authorization` of somebody.
    pub fn by(&self, subject: &str, groups: &[&str]) -> String {
        format!("Bearer {}", self.signer.token(subject, groups, AUDIENCE, self.clock.now_s()))
    }

    pub async fn call(
        &self,
        authorization: &str,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answered {
        let body: Bytes = body.into();
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, HOST);
        if !authorization.is_empty() {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if method == "PUT" || !body.is_empty() {
            request = request.header(header::CONTENT_LENGTH, body.len());
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    pub async fn send(&self, request: Request<Body>) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answered { status: head.status, headers: head.headers, body }
    }

    /// As the owner.
    pub async fn get(&self, path: &str) -> Answered {
        self.call(&self.owner, "GET", path, &[], "").await
    }

    pub async fn head(&self, path: &str) -> Answered {
        self.call(&self.owner, "HEAD", path, &[], "").await
    }

    pub async fn delete(&self, path: &str) -> Answered {
        self.call(&self.owner, "DELETE", path, &[], "").await
    }

    /// Puts a block blob, as the owner.
    pub async fn put(&self, path: &str, content: impl Into<Bytes>) -> Answered {
        self.put_with(path, content, &[]).await
    }

    pub async fn put_with(&self, path: &str, content: impl Into<Bytes>, fields: &[(&str, &str)]) -> Answered {
        let mut all = vec![("x-ms-blob-type", "BlockBlob")];
        all.extend(fields);
        self.call(&self.owner, "PUT", path, &all, content).await
    }

    /// Something without a body, as the owner.
    pub async fn act(&self, path: &str, fields: &[(&str, &str)]) -> Answered {
        self.call(&self.owner, "PUT", path, fields, "").await
    }

    /// A request signed with a key, such as the account's.
    pub async fn signed(
        &self,
        key: &Secret,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Answered {
        let mut headers = HeaderMap::new();
        let date = time::http_date(self.clock.now_us());
        headers.insert("x-ms-date", date.parse().unwrap());
        headers.insert("x-ms-version", "2021-12-02".parse().unwrap());
        if method == "PUT" {
            headers.insert("content-length", body.len().into());
        }
        for (name, value) in fields {
            headers.insert(header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let (bare, query) = path.split_once('?').unwrap_or((path, ""));
        let key = shared_key::key(key).unwrap();
        let method: Method = method.parse().unwrap();
        let texts = shared_key::texts("files", &method, bare, &Query::read(query).unwrap(), &headers).unwrap();
        let signature = shared_key::sign(&key, &texts[0]);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, HOST);
        request.headers_mut().unwrap().extend(headers);
        request = request.header(header::AUTHORIZATION, format!("SharedKey files:{signature}"));
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub fn account_key(&self) -> Secret {
        api::blob::account_key(&self.root)
    }

    /// All events of the spool.
    pub fn events(&self) -> Vec<Event> {
        let records = self.store.spool.read(0, usize::MAX, usize::MAX).unwrap();
        records.iter().map(|r| serde_json::from_str(&r.event).unwrap()).collect()
    }

    /// Files that lie on the disk.
    pub fn files(&self) -> usize {
        let folders = std::fs::read_dir(self.dir.path().join("content")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }
}
