//! Management's pipeline: takes a snap from whoever holds `SNAP_PUBLISH_TOKEN`, puts it into the store by its own identity,
//! and has Cloud take it into the list.
//!
//! It streams: no snap is ever whole in memory. A version is published once; one that broke off can be sent again.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use sdk::{
    Secret, Settings, SettingsError, Trust, TrustError,
    access::bearer,
    blob::{Account, BlobError, Container, Put},
    https::Client,
};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::{
    cloud::{CONTAINER, object},
    digest::Sha256,
    fault::Fault,
    serve,
};

/// Bytes of a snap.
const MOST: u64 = 4 * 1024 * 1024 * 1024;

/// What every handler has at hand.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    token: Secret,
    store: Container,
    cloud: Url,
    https: Client,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the store of snaps cannot be used")]
    Store(#[from] BlobError),
    #[error("CLOUD_API_URL is not a URL")]
    Cloud,
    #[error("outgoing TLS cannot be set up")]
    Trust(#[from] TrustError),
}

impl App {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<App, AppError> {
        let trust = Trust::from_settings(settings, &[])?;
        let cloud = settings.required("CLOUD_API_URL", "where Cloud answers, http(s)://...")?;
        let inner = Inner {
            token: settings.secret("SNAP_PUBLISH_TOKEN", "what whoever publishes snaps shows")?,
            store: Account::from_settings(settings, &trust, "SNAP_STORE")?.container(CONTAINER),
            cloud: Url::parse(cloud).map_err(|_| AppError::Cloud)?,
            https: Client::bounded(&trust, std::time::Duration::from_secs(300), 1024 * 1024)?,
        };
        Ok(App { inner: Arc::new(inner) })
    }
}

/// All of the pipeline, under `/pipeline`, where the edge leads to.
pub fn router(app: App) -> Router {
    let router = Router::new()
        .route("/health", get(async || Json(json!({ "os": std::env::consts::OS }))))
        .route("/pipeline/snaps/{name}/{version}", put(publish))
        .fallback(async || Fault::NotFound.into_response())
        .layer(DefaultBodyLimit::disable());
    serve::dressed(router.with_state(app))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The feature that a licence needs for it; none if not given.
    #[serde(default)]
    feature: String,
}

async fn publish(
    State(app): State<App>,
    Path((name, version)): Path<(String, String)>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Fault> {
    if !app.inner.token.matches(bearer(&headers).unwrap_or_default()) {
        return Err(Fault::Unauthorized("publishing needs SNAP_PUBLISH_TOKEN as bearer"));
    }
    if !word(&name, b"-") || !word(&version, b".+-") {
        return Err(Fault::Invalid(
            "name: a-z, 0-9, dashes; version: letters, digits, dots, plus and dashes; 64 at most".into(),
        ));
    }
    if published(&app, &name, &version).await? {
        return Err(Fault::Conflict("this version is published already, and stays what it was".into()));
    }
    let (count, body) = counted(request.into_body());
    let put = Put { content_type: Some("application/octet-stream".into()), ..Put::default() };
    app.inner.store.upload(&object(&name, &version), body, &put).await.map_err(|error| match error {
        BlobError::Source(_) => Fault::Invalid("the snap broke off, or has more than 4 GiB".into()),
        error if error.is_outage() => Fault::unavailable(error),
        error => Fault::internal(error),
    })?;
    let Count { digest, length } = std::mem::take(&mut *count.lock().unwrap_or_else(PoisonError::into_inner));
    if length == 0 {
        return Err(Fault::Invalid("the snap is empty".into()));
    }
    let given = json!({ "name": name, "version": version, "sha256": digest.finish(), "size": length, "feature": asked.feature });
    let answer = call(&app, Method::POST, Some(&given)).await?;
    match answer.0 {
        StatusCode::CREATED => Ok((StatusCode::CREATED, Json(given)).into_response()),
        StatusCode::CONFLICT => Err(Fault::Conflict("this version was published meanwhile".into())),
        StatusCode::BAD_REQUEST => {
            Err(Fault::Invalid(answer.1["message"].as_str().unwrap_or("Cloud refused it").to_owned()))
        }
        status => Err(Fault::Unavailable(format!("Cloud answered {status} to a snap").into())),
    }
}

/// Lower-case letters and digits with some marks between; versions may have capitals.
fn word(text: &str, marks: &[u8]) -> bool {
    let good = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || (marks.len() > 1 && b.is_ascii_uppercase());
    let first = text.bytes().next().is_some_and(good);
    first && text.len() <= 64 && text.bytes().all(|b| good(b) || marks.contains(&b)) && !text.contains("..")
}

/// Whether Cloud has the version already: what was published is never written over.
async fn published(app: &App, name: &str, version: &str) -> Result<bool, Fault> {
    let (status, body) = call(app, Method::GET, None).await?;
    if status != StatusCode::OK {
        return Err(Fault::Unavailable(format!("Cloud answered {status} for its snaps").into()));
    }
    let same = |snap: &Value| snap["name"] == name && snap["version"] == version;
    Ok(body["items"].as_array().is_some_and(|all| all.iter().any(same)))
}

async fn call(app: &App, method: Method, body: Option<&Value>) -> Result<(StatusCode, Value), Fault> {
    let url = app.inner.cloud.join("/internal/v1/snaps").map_err(Fault::internal)?;
    let mut headers = HeaderMap::new();
    let token = format!("Bearer {}", app.inner.token.reveal());
    let mut token = HeaderValue::from_str(&token).map_err(Fault::internal)?;
    token.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, token);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = body.map_or_else(Bytes::new, |b| b.to_string().into());
    let answer = app.inner.https.send(method, &url, headers, body).await.map_err(Fault::unavailable)?;
    Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)))
}

#[derive(Default)]
struct Count {
    digest: Sha256,
    length: u64,
}

/// The body, with what passed counted and digested on the way.
fn counted(body: Body) -> (Arc<Mutex<Count>>, Body) {
    let count = Arc::new(Mutex::new(Count::default()));
    let counting = Counting { inner: Box::pin(body.into_data_stream()), count: count.clone() };
    (count, Body::from_stream(counting))
}

struct Counting<S> {
    inner: Pin<Box<S>>,
    count: Arc<Mutex<Count>>,
}

impl<S: Stream<Item = Result<Bytes, axum::Error>>> Stream for Counting<S> {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.inner.poll_next_unpin(context));
        if let Some(Ok(piece)) = &next {
            let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            count.digest.feed(piece);
            count.length += piece.len() as u64;
            if count.length > MOST {
                return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::other("more than 4 GiB")))));
            }
        }
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_lead_nowhere_else() {
        assert!(word("edge-agent", b"-") && word("1.2.0-RC.1+7", b".+-"));
        for wrong in ["", "-x", "Edge", "a/b", "a..b", "a b", "ä", &"a".repeat(65)] {
            assert!(!word(wrong, b"-"), "{wrong}");
        }
        assert!(!word("1..2", b".+-") && !word("../x", b".+-"));
    }
}
