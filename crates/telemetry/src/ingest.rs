//! One OTLP request: read within bounds, decoded, stored, answered in its own encoding.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body_util::BodyExt as _;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
};
use prost::Message as _;
use serde_json::json;
use service::{Clock, answer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    body::{UnpackError, unpack},
    config::Config,
    error::chain,
    otlp::{self, Encoding, Signal},
    row::{Arrival, Rows},
    writer::Writer,
};

/// KiB of request bodies, packed and unpacked together, that wait for the writer; beyond it senders are told to wait.
const BUDGET_KIB: usize = 32 * 1024;
/// Time for a request's body to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// What ingestion needs.
pub(crate) struct Ingest {
    pub config: Arc<Config>,
    pub writer: Writer,
    pub clock: Clock,
    budget: Arc<Semaphore>,
}

impl Ingest {
    pub(crate) fn new(config: Arc<Config>, writer: Writer, clock: Clock) -> Self {
        Self { config, writer, clock, budget: Arc::new(Semaphore::new(BUDGET_KIB)) }
    }
}

/// The source whose key a request carried.
#[derive(Clone)]
pub(crate) struct Source(pub String);

pub(crate) async fn take(
    signal: Signal,
    State(state): State<Arc<Ingest>>,
    Extension(Source(source)): Extension<Source>,
    request: Request,
) -> Response {
    let Some(encoding) = encoding(request.headers()) else {
        let message = "Content-Type must be application/x-protobuf or application/json";
        return answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_type", message);
    };
    let gzip = match request.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => false,
        Some(b"gzip" | b"x-gzip") => true,
        Some(_) => {
            let message = "this Content-Encoding is not taken; there are gzip and identity";
            return answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message);
        }
    };
    let Ok(budget) = state.budget.clone().try_acquire_many_owned(0) else { return busy("the role is ending", 1) };
    let read = tokio::time::timeout(BODY_TIME, read(request.into_body(), &state, budget)).await;
    let (body, mut budget) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(refused)) => return refused,
        Err(_) => return answer::error(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long to arrive"),
    };
    let body = if gzip {
        let limit = state.config.body_bytes;
        if let Err(refused) = hold(&state, &mut budget, limit) {
            return *refused;
        }
        match unpack(&body, limit) {
            Ok(whole) => whole,
            Err(error @ UnpackError::TooLarge(_)) => return too_large(&chain(&error)),
            Err(error) => return answer::error(StatusCode::BAD_REQUEST, "bad_request", chain(&error)),
        }
    } else {
        body
    };
    let arrival = Arrival { source, now_ms: state.clock.now_ms() };
    let rows = match otlp::decode(signal, encoding, &body, &arrival) {
        Ok(rows) => rows,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, "bad_request", chain(&error)),
    };
    drop(body);
    let (rejected, reason) = (rows.rejected, rows.reason.clone());
    if !rows.is_empty()
        && let Err(error) = store(&state, arrival, rows, budget).await
    {
        return busy(&error, 5);
    }
    accepted(signal, encoding, rejected, reason)
}

/// The chain of causes stays in the log; a sender learns that it should try again.
async fn store(state: &Ingest, arrival: Arrival, rows: Rows, budget: OwnedSemaphorePermit) -> Result<(), String> {
    state.writer.store(arrival, rows, budget).await.map_err(|error| error.to_string())
}

/// Reads a body piece by piece, taking its size out of the budget.
async fn read(
    mut body: Body,
    state: &Ingest,
    mut budget: OwnedSemaphorePermit,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Response> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(answer::error(StatusCode::BAD_REQUEST, "bad_request", "the body ended early"));
        };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > state.config.body_bytes {
            return Err(too_large(&format!("the body is larger than {} bytes", state.config.body_bytes)));
        }
        hold(state, &mut budget, data.len()).map_err(|refused| *refused)?;
        whole.extend_from_slice(&data);
    }
    Ok((whole, budget))
}

fn hold(state: &Ingest, budget: &mut OwnedSemaphorePermit, bytes: usize) -> Result<(), Box<Response>> {
    match state.budget.clone().try_acquire_many_owned(bytes.div_ceil(1024) as u32) {
        Ok(more) => {
            budget.merge(more);
            Ok(())
        }
        Err(_) => Err(Box::new(busy("more is coming in than can be written", 1))),
    }
}

fn too_large(message: &str) -> Response {
    answer::error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

/// 503 with `Retry-After`: exporters keep the batch and send it again.
pub(crate) fn busy(message: &str, seconds: u32) -> Response {
    let mut response = answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-protobuf" | "application/protobuf" => Some(Encoding::Protobuf),
        "application/json" => Some(Encoding::Json),
        _ => None,
    }
}

/// 200 in the request's own encoding; what was not understood is counted in it.
fn accepted(signal: Signal, encoding: Encoding, rejected: u64, reason: Option<String>) -> Response {
    let count = i64::try_from(rejected).unwrap_or(i64::MAX);
    let error_message = reason.unwrap_or_default();
    let partial = rejected > 0;
    let (kind, body) = match encoding {
        Encoding::Json => {
            let field = match signal {
                Signal::Logs => "rejectedLogRecords",
                Signal::Metrics => "rejectedDataPoints",
                Signal::Traces => "rejectedSpans",
            };
            let body = match partial {
                true => json!({"partialSuccess": {field: count.to_string(), "errorMessage": error_message}}),
                false => json!({}),
            };
            ("application/json", body.to_string().into_bytes())
        }
        Encoding::Protobuf => {
            let body = match signal {
                Signal::Logs => ExportLogsServiceResponse {
                    partial_success: partial
                        .then_some(ExportLogsPartialSuccess { rejected_log_records: count, error_message }),
                }
                .encode_to_vec(),
                Signal::Metrics => ExportMetricsServiceResponse {
                    partial_success: partial
                        .then_some(ExportMetricsPartialSuccess { rejected_data_points: count, error_message }),
                }
                .encode_to_vec(),
                Signal::Traces => ExportTraceServiceResponse {
                    partial_success: partial
                        .then_some(ExportTracePartialSuccess { rejected_spans: count, error_message }),
                }
                .encode_to_vec(),
            };
            ("application/x-protobuf", body)
        }
    };
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
