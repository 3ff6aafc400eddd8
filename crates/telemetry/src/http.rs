//! Routes. On `https`: OTLP/HTTP, with a source's key and with nothing less. On `control`: reading, for the owner.

use std::{path::PathBuf, sync::Arc};

use api::telemetry::{INGEST_KEY_HEADER, QueryRequest, TelemetryHealth};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use service::{Clock, Peer, Shutdown, answer};
use tokio::sync::Semaphore;

use crate::{
    config::Config,
    day,
    error::chain,
    ingest::{self, Ingest, Source, busy},
    live,
    logs::{self, Filter, Follower},
    otlp::Signal,
    query::{self, QueryError},
    retention,
    traces::{self, Wanted},
    writer::Writer,
};

/// Queries that run at once.
const READERS: usize = 2;

/// The router of the `https` listener. The key is asked for before the path is looked at.
pub(crate) fn ingest(state: Arc<Ingest>) -> Router {
    Router::new()
        .route("/v1/logs", post(|s, e, r| ingest::take(Signal::Logs, s, e, r)))
        .route("/v1/metrics", post(|s, e, r| ingest::take(Signal::Metrics, s, e, r)))
        .route("/v1/traces", post(|s, e, r| ingest::take(Signal::Traces, s, e, r)))
        .fallback(|| async { answer::error(StatusCode::NOT_FOUND, "not_found", "there is no such path") })
        .method_not_allowed_fallback(|| async {
            answer::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes POST")
        })
        .layer(middleware::from_fn_with_state(state.clone(), authenticate))
        .with_state(state)
}

async fn authenticate(State(state): State<Arc<Ingest>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let key = match headers.get(INGEST_KEY_HEADER) {
        Some(key) => key.to_str().ok(),
        None => headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim()),
    };
    match key.and_then(|key| state.config.source_of(key)) {
        Some(source) => {
            let source = Source(source.to_owned());
            request.extensions_mut().insert(source);
            next.run(request).await
        }
        None => {
            let message = format!("the ingestion key in {INGEST_KEY_HEADER} is missing or is no source's");
            let mut refused = answer::error(StatusCode::UNAUTHORIZED, "unauthorized", message);
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            refused
        }
    }
}

/// What reading needs.
pub(crate) struct Reader {
    pub data: PathBuf,
    pub config: Arc<Config>,
    pub clock: Clock,
    pub writer: Writer,
    pub shutdown: Shutdown,
    places: Semaphore,
}

impl Reader {
    pub(crate) fn new(data: PathBuf, config: Arc<Config>, clock: Clock, writer: Writer, shutdown: Shutdown) -> Self {
        Self { data, config, clock, writer, shutdown, places: Semaphore::new(READERS) }
    }

    /// Runs what blocks outside of the runtime's own threads, a few at a time. None: the role is ending.
    pub(crate) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _place = self.places.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }

    fn files(&self, days: u32) -> Result<Vec<PathBuf>, QueryError> {
        let now_ms = self.clock.now_ms();
        let oldest = retention::oldest(now_ms, self.config.retention_days);
        Ok(query::files(&self.data, now_ms, days, oldest)?)
    }
}

/// The router of the `control` socket. Its right is the socket's own: only its owner and root are let in by
/// [`service::serve`]; a listener that is not a unix socket answers nothing.
pub(crate) fn control(reader: Arc<Reader>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/query", post(ask))
        .route("/logs", get(read_logs))
        .route("/traces", get(list_traces))
        .route("/traces/{id}", get(read_trace))
        .route("/live", get(|State(reader): State<Arc<Reader>>| async move { live::rates(reader) }))
        .fallback(|| async { answer::error(StatusCode::NOT_FOUND, "not_found", "there is no such path") })
        .layer(middleware::from_fn(|request: Request, next: Next| async move {
            match request.extensions().get::<Peer>() {
                Some(Peer { uid: Some(_), .. }) => next.run(request).await,
                _ => answer::error(StatusCode::FORBIDDEN, "forbidden", "this is answered on the control socket only"),
            }
        }))
        .with_state(reader)
}

async fn health(State(reader): State<Arc<Reader>>) -> Response {
    let reason = reader.writer.trouble();
    let data = reader.data.clone();
    // Not one of the readers' places: two long queries must not make the role look ill.
    let sizes = tokio::task::spawn_blocking(move || {
        let days = day::list(&data).unwrap_or_default();
        let bytes = days.iter().filter_map(|d| std::fs::metadata(d.file(&data)).ok()).map(|m| m.len()).sum();
        (days.len(), bytes)
    });
    let (days, bytes) = sizes.await.unwrap_or_default();
    let status = if reason.is_none() { "ok" } else { "degraded" };
    Json(TelemetryHealth { status: status.into(), reason, days, bytes }).into_response()
}

async fn ask(State(reader): State<Arc<Reader>>, Json(request): Json<QueryRequest>) -> Response {
    let files = match reader.files(request.days) {
        Ok(files) => files,
        Err(error) => return failed(&error),
    };
    let now_ms = reader.clock.now_ms();
    match reader.blocking(move || query::run(files, &request, now_ms, query::TIME)).await {
        Some(Ok(found)) => Json(found).into_response(),
        Some(Err(error)) => failed(&error),
        None => busy("the role is ending", 1),
    }
}

async fn read_logs(State(reader): State<Arc<Reader>>, Query(filter): Query<Filter>) -> Response {
    if let Err(mistake) = filter.check() {
        return answer::error(StatusCode::BAD_REQUEST, "bad_request", mistake);
    }
    let files = match reader.files(0) {
        Ok(files) => files,
        Err(error) => return failed(&error),
    };
    let data = reader.data.clone();
    let read = reader.blocking(move || {
        // The follower starts first, so that no line falls between it and the newest ones; the marks tell them apart.
        let follower = if filter.follows() { Some(Follower::new(&data, filter.clone())?) } else { None };
        Ok::<_, QueryError>((logs::newest(&files, &filter)?, follower))
    });
    match read.await {
        Some(Ok((lines, Some(follower)))) => live::follow(reader, &lines, follower),
        Some(Ok((lines, None))) => live::answer(Body::from(live::ndjson(&lines))),
        Some(Err(error)) => failed(&error),
        None => busy("the role is ending", 1),
    }
}

async fn list_traces(State(reader): State<Arc<Reader>>, Query(wanted): Query<Wanted>) -> Response {
    let files = match reader.files(0) {
        Ok(files) => files,
        Err(error) => return failed(&error),
    };
    match reader.blocking(move || traces::newest(&files, &wanted)).await {
        Some(Ok(found)) => Json(found).into_response(),
        Some(Err(error)) => failed(&error),
        None => busy("the role is ending", 1),
    }
}

async fn read_trace(State(reader): State<Arc<Reader>>, Path(id): Path<String>) -> Response {
    let files = match reader.files(0) {
        Ok(files) => files,
        Err(error) => return failed(&error),
    };
    match reader.blocking(move || traces::one(&files, &id)).await {
        Some(Ok(Some(trace))) => Json(trace).into_response(),
        Some(Ok(None)) => {
            answer::error(StatusCode::NOT_FOUND, "not_found", "no span and no line of this trace is kept")
        }
        Some(Err(error)) => failed(&error),
        None => busy("the role is ending", 1),
    }
}

fn failed(error: &QueryError) -> Response {
    let (status, code) = match error {
        QueryError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "store"),
        QueryError::Refused(_) | QueryError::NotSelect => (StatusCode::BAD_REQUEST, "bad_query"),
        QueryError::TooLong => (StatusCode::UNPROCESSABLE_ENTITY, "too_long"),
    };
    answer::error(status, code, chain(error))
}
