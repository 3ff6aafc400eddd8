//! From a request to an operation and back. Credentials come first: nothing else is looked at without.

use std::{convert::Infallible, sync::Arc};

use api::audit::Outcome;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use service::{Peer, answer};

use crate::{
    blobs, caller,
    caller::Caller,
    content::Content,
    manifests::{self, MANIFEST_BYTES, OCI_INDEX},
    names::Digest,
    operation::{Operation, Right},
    parse::{self, Part},
    refusal::Refusal,
    registry::Registry,
    rows, token,
};

/// Entries of a list, where the client does not say.
const PAGE: usize = 1000;
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The API of the specification, and the token endpoints.
pub fn public(registry: Arc<Registry>) -> Router {
    Router::new().fallback(handle).with_state(registry)
}

/// What the owner of the control socket meets.
pub fn control(registry: Arc<Registry>) -> Router {
    Router::new().route("/health", get(health)).route("/status", get(status)).with_state(registry)
}

async fn handle(State(registry): State<Arc<Registry>>, request: Request) -> Result<Response, Infallible> {
    let client = request.extensions().get::<Peer>().and_then(|p| p.address).map_or_else(String::new, |a| a.to_string());
    let head_only = request.method() == Method::HEAD;
    // In a task of its own: a client that leaves does not cut it in the middle.
    let task = tokio::spawn(async move {
        if matches!(request.uri().path(), "/oauth2/token" | "/oauth2/exchange") {
            return token::answer(&registry, request, &client).await;
        }
        ask(&registry, request, &client).await
    });
    let mut response = match task.await {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => refusal.into_response(),
        Err(error) => {
            tracing::error!(%error, "a request ended in a panic");
            Refusal::internal().into_response()
        }
    };
    if head_only && response.status().is_client_error() {
        *response.body_mut() = Body::empty();
    }
    let headers = response.headers_mut();
    let version = HeaderName::from_static("docker-distribution-api-version");
    headers.insert(version, HeaderValue::from_static("registry/2.0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000;includeSubDomains"));
    Ok(response)
}

async fn ask(registry: &Arc<Registry>, request: Request, client: &str) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let settings = registry.settings();
    let operation = match path == "/v2" || path.starts_with("/v2/") {
        true => Operation::parse(&head.method, path),
        false => Err(Refusal::no_route()),
    };
    let caller = caller::authenticate(registry, &settings, &head.headers, operation.as_ref().ok(), client).await?;
    let subject = caller.who.subject.clone();
    let operation = match operation {
        Ok(operation) => operation,
        Err(refusal) => {
            registry.record(&subject, "registry.unknown", "", Outcome::Failed, client, Some(&refusal)).await?;
            return Err(refusal);
        }
    };
    let (action, object) = (operation.action(), operation.object());
    let done = match caller::authorize(&settings, &caller, &head.headers, &operation) {
        Ok(()) => {
            let act = Act { registry, settings: &settings, caller, headers: head.headers, client, object: &object };
            let query = head.uri.query().unwrap_or_default();
            let reads = head.method == Method::GET;
            act.answer(&operation, query, body, reads).await
        }
        Err(refusal) => Err(refusal),
    };
    // To ask whether something is there, and hear that it is not, is how every push begins.
    let looked = |refusal: &Refusal| head.method == Method::HEAD && refusal.status == StatusCode::NOT_FOUND;
    if let Some(refusal) = done.as_ref().err().filter(|refusal| !looked(refusal)) {
        let outcome = if refusal.is_denial() { Outcome::Denied } else { Outcome::Failed };
        registry.record(&subject, action, &object, outcome, client, Some(refusal)).await?;
        tracing::info!(subject, action, object, status = refusal.status.as_u16(), code = refusal.code, "refused");
    }
    done
}

/// One request that may be done.
struct Act<'a> {
    registry: &'a Arc<Registry>,
    settings: &'a crate::config::Settings,
    caller: Caller,
    headers: HeaderMap,
    client: &'a str,
    object: &'a str,
}

impl Act<'_> {
    fn text(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The length that the client says its body has.
    fn announced(&self) -> Option<u64> {
        self.text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok())
    }

    async fn answer(&self, operation: &Operation, query: &str, body: Body, reads: bool) -> Result<Response, Refusal> {
        let subject = self.caller.who.subject.clone();
        let (registry, client) = (self.registry, self.client);
        match operation {
            Operation::Base => {
                if self.caller.who.admin {
                    registry.record(&subject, "registry.login", "", Outcome::Ok, client, None).await?;
                }
                Ok(Json(serde_json::json!({})).into_response())
            }
            Operation::Catalog => self.list(query, None).await,
            Operation::Tags { name } => self.list(query, Some(name)).await,
            Operation::Referrers { name, digest } => {
                let kind = parse::value(query, "artifactType").filter(|kind| !kind.is_empty());
                let filtered = kind.is_some();
                let index = manifests::referrers(registry, name, digest, kind).await?;
                self.listed().await?;
                let mut response = ([(header::CONTENT_TYPE, OCI_INDEX)], index.to_string()).into_response();
                if filtered {
                    let name = HeaderName::from_static("oci-filters-applied");
                    response.headers_mut().insert(name, HeaderValue::from_static("artifactType"));
                }
                Ok(response)
            }
            Operation::GetManifest { name, reference } => {
                let manifest = manifests::get(registry, name, reference).await?;
                // To look whether it is there is no pull.
                if reads {
                    let mut event = registry.event(&subject, "image.pull", self.object, Outcome::Ok, client);
                    event.detail.insert("digest".into(), manifest.digest.to_string().into());
                    registry.spool.append(event).await?;
                    tracing::info!(subject, image = self.object, digest = %manifest.digest, "pulled");
                }
                let length = manifest.content.len();
                let body = if reads { Body::from(manifest.content) } else { Body::empty() };
                let mut response = body.into_response();
                let headers = response.headers_mut();
                set(headers, header::CONTENT_TYPE, &manifest.media_type);
                set(headers, header::CONTENT_LENGTH, &length.to_string());
                set(headers, header::ETAG, &format!("\"{}\"", manifest.digest));
                set(headers, CONTENT_DIGEST, &manifest.digest.to_string());
                Ok(response)
            }
            Operation::PutManifest { name, reference } => {
                let kind = self.text(header::CONTENT_TYPE).unwrap_or_default();
                let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
                let bytes = to_bytes(body, MANIFEST_BYTES).await;
                let bytes = bytes.map_err(|_| Refusal::manifest_too_large(MANIFEST_BYTES))?;
                let (digest, about) =
                    manifests::put(registry, name, reference, &kind, bytes.into(), &subject, client).await?;
                tracing::info!(subject, image = self.object, %digest, "pushed");
                let mut response = created(&format!("/v2/{name}/manifests/{digest}"), &digest);
                if let Some(about) = about {
                    set(response.headers_mut(), HeaderName::from_static("oci-subject"), &about);
                }
                Ok(response)
            }
            Operation::DeleteManifest { name, reference } => {
                manifests::delete(registry, name, reference, &subject, client).await?;
                Ok(StatusCode::ACCEPTED.into_response())
            }
            Operation::GetBlob { name, digest } => self.blob(name, digest, reads, &subject).await,
            Operation::DeleteBlob { name, digest } => {
                blobs::delete(registry, name, digest, &subject, client).await?;
                Ok(StatusCode::ACCEPTED.into_response())
            }
            Operation::StartUpload { name } => self.start(name, query, body, &subject).await,
            Operation::LookAtUpload { name, id } => {
                let upload = blobs::find(registry, name, id, &subject).await?;
                Ok(going_on(StatusCode::NO_CONTENT, &upload))
            }
            Operation::Append { name, id } => {
                let mut upload = blobs::find(registry, name, id, &subject).await?;
                self.in_order(&upload)?;
                blobs::append(registry, &mut upload, body, self.announced()).await?;
                Ok(going_on(StatusCode::ACCEPTED, &upload))
            }
            Operation::Finish { name, id } => {
                let digest = digest_of(query)?.ok_or_else(|| Refusal::digest_invalid(""))?;
                let mut upload = blobs::find(registry, name, id, &subject).await?;
                self.in_order(&upload)?;
                blobs::append(registry, &mut upload, body, self.announced()).await?;
                blobs::finish(registry, &mut upload, &digest, &subject, client).await?;
                Ok(created(&format!("/v2/{name}/blobs/{digest}"), &digest))
            }
            Operation::Cancel { name, id } => {
                let mut upload = blobs::find(registry, name, id, &subject).await?;
                blobs::cancel(registry, &mut upload).await?;
                Ok(StatusCode::NO_CONTENT.into_response())
            }
        }
    }

    /// `POST`: a mount, a whole blob at once, or the begin of an upload.
    async fn start(&self, name: &str, query: &str, body: Body, subject: &str) -> Result<Response, Refusal> {
        let (registry, client) = (self.registry, self.client);
        let mount = parse::value(query, "mount").and_then(|text| Digest::parse(&text));
        if let (Some(digest), Some(from)) = (mount, parse::value(query, "from")) {
            // Without the right to read there, it is as if nothing were there.
            if self.caller.may(self.settings, Right::Pull, &from)
                && blobs::mount(registry, name, &from, &digest, subject, client).await?
            {
                return Ok(created(&format!("/v2/{name}/blobs/{digest}"), &digest));
            }
        }
        let whole = digest_of(query)?;
        let mut upload = blobs::start(registry, name, subject).await?;
        if let Some(digest) = whole {
            let sent = blobs::append(registry, &mut upload, body, self.announced()).await;
            if let Err(refusal) = sent {
                // Nobody was told of this upload: nobody goes on with it.
                blobs::cancel(registry, &mut upload).await?;
                return Err(refusal);
            }
            blobs::finish(registry, &mut upload, &digest, subject, client).await?;
            return Ok(created(&format!("/v2/{name}/blobs/{digest}"), &digest));
        }
        Ok(going_on(StatusCode::ACCEPTED, &upload))
    }

    /// A chunk that says where it belongs must belong where the upload ends, and be as long as it says.
    fn in_order(&self, upload: &blobs::Upload) -> Result<(), Refusal> {
        let Some(text) = self.text(header::CONTENT_RANGE) else { return Ok(()) };
        let range = parse::chunk(text);
        let (first, last) = range.ok_or_else(|| Refusal::upload_broken(format!("`{text}` is no range of a chunk")))?;
        if first != upload.at() {
            return Err(Refusal::out_of_order(upload.location(), upload.range()));
        }
        // `last` is u64::MAX at most, and so is no length.
        if self.announced().is_some_and(|length| last - first != length.wrapping_sub(1)) {
            return Err(Refusal::upload_broken("Content-Range and Content-Length differ"));
        }
        Ok(())
    }

    async fn blob(&self, name: &str, digest: &Digest, reads: bool, subject: &str) -> Result<Response, Refusal> {
        let (size, file) = blobs::read(self.registry, name, digest, reads).await?;
        let range = if reads { self.text(header::RANGE) } else { None };
        let (status, first, length) = match parse::part(range, size) {
            Part::Whole => (StatusCode::OK, 0, size),
            Part::Some { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
            Part::Outside => return Err(Refusal::outside(size)),
        };
        let body = match file {
            Some(file) => {
                self.registry.record(subject, "blob.pull", self.object, Outcome::Ok, self.client, None).await?;
                let content = Content::of(file, first, length).await;
                Body::new(content.map_err(crate::Error::disk(self.registry.blob_file(digest)))?)
            }
            None => Body::empty(),
        };
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, "application/octet-stream");
        set(headers, header::CONTENT_LENGTH, &length.to_string());
        set(headers, header::ACCEPT_RANGES, "bytes");
        set(headers, header::ETAG, &format!("\"{digest}\""));
        set(headers, CONTENT_DIGEST, &digest.to_string());
        if status == StatusCode::PARTIAL_CONTENT {
            set(headers, header::CONTENT_RANGE, &format!("bytes {first}-{}/{size}", first + length - 1));
        }
        Ok(response)
    }

    /// Tags of a repository, or repositories; a page at a time.
    async fn list(&self, query: &str, name: Option<&str>) -> Result<Response, Refusal> {
        let most = match parse::value(query, "n") {
            Some(text) => text.parse::<usize>().map_err(|_| Refusal::number_invalid(&text))?.min(PAGE),
            None => PAGE,
        };
        let last = parse::value(query, "last").unwrap_or_default();
        let of = name.map(str::to_owned);
        let found = self.registry.blocking(move |registry| {
            let db = registry.db();
            // One more than asked for says whether there are more.
            let limit = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
            match of {
                Some(name) if !rows::is_repository(&db, &name)? => Err(Refusal::name_unknown(&name)),
                Some(name) => Ok(rows::tags(&db, &name, &last, limit)?),
                None => Ok(rows::repositories(&db, &last, limit)?),
            }
        });
        let mut found = found.await?;
        self.listed().await?;
        let more = found.len() > most;
        found.truncate(most);
        let (path, body) = match name {
            Some(name) => (format!("/v2/{name}/tags/list"), serde_json::json!({ "name": name, "tags": found })),
            None => ("/v2/_catalog".to_owned(), serde_json::json!({ "repositories": found })),
        };
        let mut response = Json(body).into_response();
        if let Some(last) = found.last().filter(|_| more) {
            // Names and tags need no escaping but for the slash, which a query may hold.
            set(response.headers_mut(), header::LINK, &format!("<{path}?n={most}&last={last}>; rel=\"next\""));
        }
        Ok(response)
    }

    async fn listed(&self) -> Result<(), Refusal> {
        let who = &self.caller.who.subject;
        self.registry.record(who, "image.list", self.object, Outcome::Ok, self.client, None).await
    }
}

/// The digest that a query names.
fn digest_of(query: &str) -> Result<Option<Digest>, Refusal> {
    let text = parse::value(query, "digest");
    text.map(|text| Digest::parse(&text).ok_or_else(|| Refusal::digest_invalid(&text))).transpose()
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn created(location: &str, digest: &Digest) -> Response {
    let mut response = StatusCode::CREATED.into_response();
    set(response.headers_mut(), header::LOCATION, location);
    set(response.headers_mut(), CONTENT_DIGEST, &digest.to_string());
    response
}

fn going_on(status: StatusCode, upload: &blobs::Upload) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    set(headers, header::LOCATION, &upload.location());
    set(headers, header::RANGE, &upload.range());
    set(headers, HeaderName::from_static("docker-upload-uuid"), upload.id());
    response
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ready" }))
}

async fn status(State(registry): State<Arc<Registry>>) -> Response {
    match registry.blocking(Registry::status).await {
        Ok(status) => Json(status).into_response(),
        Err(_) => {
            answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the registry's storage does not answer")
        }
    }
}
