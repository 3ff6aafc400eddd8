//! The Ingestor: takes what devices send, a batch at a time, and stores it in the device's tenant.
//!
//! A flood costs little: each key has a bucket that is asked before anything is read, keys that were unknown a moment ago are
//! not asked about again, work under way is bounded, and so is a batch. What is too much is answered 429 with the time to wait.

mod batch;
pub mod limit;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::IntoResponse,
    routing::{get, post},
};
use http::{HeaderMap, StatusCode};
use sdk::{
    Secret, Settings, SettingsError,
    database::{Database, OpenError},
    telemetry::metrics,
};
use tokio::sync::Semaphore;

use crate::{
    digest,
    fault::Fault,
    login, serve,
    store::{self, Kind},
};
use limit::Limits;

/// Bytes of a batch.
const BODY: usize = 1024 * 1024;
/// Batches under way at once; their bodies are the memory that is used.
const UNDER_WAY: usize = 32;
/// The time in which a batch must have come.
const READ: Duration = Duration::from_secs(10);

/// What every handler has at hand.
#[derive(Clone)]
pub struct App {
    database: Database,
    inner: Arc<Inner>,
}

struct Inner {
    under_way: Semaphore,
    /// Requests, by key.
    requests: Limits,
    /// Events, by device and by tenant.
    events: Limits,
    /// Requests with keys that nobody knows, all together: these cost a look into the database.
    strangers: Limits,
    unknown: limit::Unknown,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the database cannot be used")]
    Database(#[from] OpenError),
}

impl App {
    /// `INGEST_EVENTS_PER_SECOND` bounds a device; its tenant may send ten times as much.
    ///
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<App, AppError> {
        let rate: u32 = settings.parsed("INGEST_EVENTS_PER_SECOND", "a number", 200)?;
        let rate = rate.clamp(1, 1_000_000);
        let inner = Inner {
            under_way: Semaphore::new(UNDER_WAY),
            requests: Limits::of(100, 20.0),
            events: Limits::of(u64::from(rate) * 5, f64::from(rate)),
            strangers: Limits::of(50, 20.0),
            unknown: limit::Unknown::default(),
        };
        Ok(App { database: login::open(settings)?, inner: Arc::new(inner) })
    }
}

/// All of the Ingestor. It answers at its own paths, and at the same under `/ingest`, where the edge leads to.
pub fn router(app: App) -> Router {
    let paths = Router::new()
        .route("/v1/ingest", post(ingest))
        .route("/health", get(async |State(app): State<App>| serve::health(&app.database).await))
        .route("/openapi.json", get(async || Json(document())));
    let router = Router::new().nest("/ingest", paths.clone()).merge(paths);
    serve::dressed(router.fallback(async || Fault::NotFound.into_response()).with_state(app))
}

async fn ingest(State(app): State<App>, headers: HeaderMap, request: Request) -> Result<StatusCode, Fault> {
    let result = take(&app, &headers, request).await;
    let outcome = match &result {
        Ok(_) => "taken",
        Err(Fault::TooMany(_)) => "too_many",
        Err(Fault::Unauthorized(_) | Fault::Forbidden(..)) => "refused",
        Err(Fault::Unavailable(_) | Fault::Internal(_)) => "failed",
        Err(_) => "wrong",
    };
    metrics().add("ingest.batches", 1, &[("result", outcome)]);
    result
}

async fn take(app: &App, headers: &HeaderMap, request: Request) -> Result<StatusCode, Fault> {
    const UNKNOWN: Fault = Fault::Unauthorized("X-Device-Key is missing, not known or revoked");
    let key = headers.get("x-device-key").and_then(|v| v.to_str().ok()).filter(|k| crate::cloud::plausible(k));
    let key = Secret::new(key.ok_or(UNKNOWN)?);
    // Nothing below keeps the key itself.
    let mark = digest::sha256_hex(key.reveal().as_bytes());
    app.inner.requests.take(&mark, 1)?;
    if app.inner.unknown.has(&mark) {
        return Err(UNKNOWN);
    }
    let _turn = app.inner.under_way.try_acquire().map_err(|_| Fault::TooMany(1))?;
    let body = read(request.into_body()).await?;
    let events = batch::read(&body)?;
    drop(body);
    let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
    app.inner.events.take(&mark, count)?;
    let mut connection = app.database.get().await?;
    let entered = match store::enter(&mut connection, &key, &[Kind::Device]).await {
        Err(Fault::Unauthorized(_)) => {
            app.inner.unknown.add(mark.clone());
            app.inner.strangers.take("all", 1)?;
            // Of a key only the beginning of its digest is told; the strangers' limit bounds these lines too.
            tracing::warn!(event.name = "unknown-device-key", digest = &mark[..16], "a device's key is not known");
            return Err(UNKNOWN);
        }
        other => other?,
    };
    let tenant = entered.who.tenant.to_string();
    app.inner.events.take_of(&tenant, count, 10)?;
    batch::store(&entered, &events).await?;
    entered.commit().await?;
    metrics().add("ingest.events", count, &[]);
    Ok(StatusCode::NO_CONTENT)
}

async fn read(body: Body) -> Result<axum::body::Bytes, Fault> {
    match tokio::time::timeout(READ, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Fault::TooLarge),
        Err(_) => Err(Fault::Invalid("the batch did not come within ten seconds".into())),
    }
}

fn document() -> serde_json::Value {
    serde_json::json!({
        "openapi": "3.1.0",
        "info": { "title": "Monozu Ingestor", "version": env!("CARGO_PKG_VERSION") },
        "paths": { "/v1/ingest": { "post": {
            "summary": "Store a batch of what a device saw",
            "security": [{ "device": [] }],
            "requestBody": { "required": true, "content": { "application/json": { "schema": batch::schema() } } },
            "responses": {
                "204": { "description": "All of it is stored" },
                "400": { "description": "Something in it cannot be read; nothing is stored" },
                "401": { "description": "The key is not known or was revoked" },
                "403": { "description": "The tenant has no licence" },
                "413": { "description": "More than 1 MiB or 500 events" },
                "429": { "description": "Too much at once; Retry-After says when to come back" },
            },
        } } },
        "components": { "securitySchemes": { "device": { "type": "apiKey", "in": "header", "name": "X-Device-Key" } } },
    })
}
