//! Snaps: published by the pipeline, kept in the store, downloaded by those whose licence covers them.
//!
//! Cloud only reads the store. What it hands out is checked against the digest that was published: the last piece is held
//! back until the digest of all is known, so nobody ever gets a whole download of something else.

use std::path::PathBuf;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use sdk::{
    Settings, SettingsError, Trust,
    blob::{Account, BlobError, Container, Download},
    database::Queries,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{App, access::Caller};
use crate::{
    digest::Sha256,
    fault::{self, Fault},
};

pub const CONTAINER: &str = "snaps";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the store of snaps cannot be used")]
    Blob(#[from] BlobError),
    #[error("the store of snaps cannot be read")]
    File(#[from] std::io::Error),
}

/// Where snaps lie: the container `snaps` of an account of blobs, or a folder for local development.
#[derive(Clone)]
pub enum Store {
    Blobs(Box<Container>),
    Folder(PathBuf),
}

impl Store {
    /// Reads `SNAP_STORE`: the account's URL, or a folder's absolute path.
    ///
    /// # Errors
    /// It is neither, or the identity to ask with is not there.
    pub fn from_settings(settings: &Settings, trust: &Trust) -> Result<Store, StoreError> {
        let place = settings.required("SNAP_STORE", "the URL of the account of blobs, or a folder")?;
        if place.starts_with('/') {
            return Ok(Store::Folder(place.into()));
        }
        Ok(Store::Blobs(Box::new(Account::from_settings(settings, trust, "SNAP_STORE")?.container(CONTAINER))))
    }

    /// A snap to be read piece by piece. `name` is made of a snap's name and version, which have no slash.
    async fn open(&self, name: &str) -> Result<Reading, StoreError> {
        Ok(match self {
            Store::Blobs(container) => Reading::Blob(Box::new(container.download(name).await?)),
            Store::Folder(folder) => Reading::File(tokio::fs::File::open(folder.join(name)).await?),
        })
    }
}

enum Reading {
    Blob(Box<Download>),
    File(tokio::fs::File),
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self {
            Reading::Blob(download) => Ok(download.next().await?),
            Reading::File(file) => {
                let mut piece = vec![0_u8; 1024 * 1024];
                let read = file.read(&mut piece).await?;
                piece.truncate(read);
                Ok((read > 0).then(|| Bytes::from(piece)))
            }
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        match &error {
            StoreError::Blob(inner) if inner.is_not_found() => Fault::NotFound,
            StoreError::Blob(inner) if inner.is_outage() => Fault::unavailable(error),
            StoreError::File(inner) if inner.kind() == std::io::ErrorKind::NotFound => Fault::NotFound,
            _ => Fault::internal(error),
        }
    }
}

/// The name of a snap in the store.
pub fn object(name: &str, version: &str) -> String {
    format!("{name}_{version}.snap")
}

/// Those that need no feature, or one that the licence has.
const COVERED: &str = "SELECT jsonb_build_object('name', s.name, 'version', s.version, 'size', s.size, 'sha256', s.sha256, 'feature', s.feature, 'published_at', s.published_at) \
    FROM snaps s, licence() l WHERE l.status = 'active' AND (s.feature = '' OR s.feature = ANY (l.features)) ORDER BY s.name, s.published_at DESC LIMIT 500";

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let items: Vec<Value> = entered.query(COVERED, &[]).await?.iter().map(|r| r.get(0)).collect();
    Ok(Json(json!({ "items": items })))
}

pub async fn download(
    State(app): State<App>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let (sha256, size): (String, i64) = {
        let mut connection = app.connection().await?;
        let entered = caller.enter(&mut connection).await?;
        let sql = "SELECT s.sha256, s.size, s.feature = '' OR s.feature = ANY (l.features) FROM snaps s, licence() l \
                   WHERE l.status = 'active' AND s.name = $1 AND s.version = $2";
        let row = entered.one(sql, &[&name, &version]).await?;
        if !row.get::<_, bool>(2) {
            return Err(Fault::Forbidden("not_licensed", "the tenant's licence does not cover this snap"));
        }
        (row.get(0), row.get(1))
    };
    let object = object(&name, &version);
    let reading = app.inner.store.open(&object).await?;
    let tag = HeaderValue::from_str(&format!("\"{sha256}\"")).map_err(Fault::internal)?;
    let checked = Checked { reading, held: None, digest: Some(Sha256::default()), length: 0, sha256, size, object };
    let body = Body::from_stream(stream::unfold(checked, Checked::step));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(header::ETAG, tag);
    Ok(response)
}

/// A download that ends well only if all of it is what was published.
struct Checked {
    reading: Reading,
    held: Option<Bytes>,
    digest: Option<Sha256>,
    length: i64,
    sha256: String,
    size: i64,
    object: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{0} is not what was published")]
struct Altered(String);

type Step = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl Checked {
    async fn step(mut self) -> Option<(Step, Checked)> {
        loop {
            // Without a digest the end was reached, well or not.
            let digest = self.digest.as_mut()?;
            match self.reading.next().await {
                Ok(Some(piece)) => {
                    digest.feed(&piece);
                    self.length = self.length.saturating_add(i64::try_from(piece.len()).unwrap_or(i64::MAX));
                    if self.length > self.size {
                        return self.refuse();
                    }
                    if let Some(before) = self.held.replace(piece) {
                        return Some((Ok(before), self));
                    }
                }
                Ok(None) => {
                    let digest = self.digest.take()?;
                    if self.length != self.size || digest.finish() != self.sha256 {
                        return self.refuse();
                    }
                    let last = self.held.take()?;
                    return Some((Ok(last), self));
                }
                Err(error) => {
                    self.digest = None;
                    tracing::error!(error = %error, object = self.object, "a download broke off");
                    return Some((Err(error.into()), self));
                }
            }
        }
    }

    fn refuse(mut self) -> Option<(Step, Checked)> {
        self.digest = None;
        tracing::error!(
            event.name = "snap-altered",
            object = self.object,
            "a snap in the store is not what was published"
        );
        let error = Altered(self.object.clone());
        Some((Err(error.into()), self))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    name: String,
    version: String,
    sha256: String,
    size: i64,
    #[serde(default)]
    feature: String,
}

/// Takes a snap into the list, once the store really has it. A version is published once.
pub async fn publish(State(app): State<App>, fault::Body(given): fault::Body<Publication>) -> Result<Response, Fault> {
    let slash = |text: &str| text.contains(['/', '\\']) || text.contains("..");
    if slash(&given.name) || slash(&given.version) {
        return Err(Fault::Invalid("name, version: letters, digits, dots and dashes".into()));
    }
    let mut reading =
        app.inner.store.open(&object(&given.name, &given.version)).await.map_err(|error| match Fault::from(error) {
            Fault::NotFound => Fault::Invalid("the store has no such snap; upload it first".into()),
            other => other,
        })?;
    let (mut digest, mut length) = (Sha256::default(), 0_i64);
    while let Some(piece) = reading.next().await? {
        digest.feed(&piece);
        length = length.saturating_add(i64::try_from(piece.len()).unwrap_or(i64::MAX));
    }
    if length != given.size || digest.finish() != given.sha256 {
        return Err(Fault::Invalid("what lies in the store has another size or digest".into()));
    }
    let connection = app.connection().await?;
    let sql = "INSERT INTO snaps (name, version, sha256, size, feature) VALUES ($1, $2, $3, $4, $5)";
    connection.execute(sql, &[&given.name, &given.version, &given.sha256, &given.size, &given.feature]).await?;
    sdk::event!("snap-published", name = given.name, version = given.version, sha256 = given.sha256);
    Ok(StatusCode::CREATED.into_response())
}

pub async fn every(app: &App) -> Result<Vec<Value>, Fault> {
    let connection = app.connection().await?;
    let sql = "SELECT to_jsonb(s) FROM snaps s ORDER BY s.published_at DESC LIMIT 500";
    Ok(connection.query(sql, &[]).await?.iter().map(|r| r.get(0)).collect())
}

pub async fn all(State(app): State<App>) -> Result<Json<Value>, Fault> {
    Ok(Json(json!({ "items": every(&app).await? })))
}
