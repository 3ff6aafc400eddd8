//! What is told of each request: one server span, one duration, and a panic caught and answered.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use tracing::{Instrument, field::Empty};

use super::{
    context::{TraceContext, hex},
    metrics,
};

/// An axum middleware (`axum::middleware::from_fn(track)`, as the outermost layer of the router): continues the caller's
/// trace, measures the request, and turns a panic into an empty 500.
pub async fn track(request: Request, next: Next) -> Response {
    let header = request.headers().get("traceparent").and_then(|h| h.to_str().ok());
    let context = header.and_then(TraceContext::parse);
    let trace = context.unwrap_or_else(TraceContext::fresh).trace;
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.parent = context.map(|c| c.header()),
        trace_id = hex(&trace),
        http.request.method = %method,
        http.route = route,
        url.path = request.uri().path(),
        http.response.status_code = Empty,
        enduser.id = Empty,
        error.type = Empty,
    );
    let started = Instant::now();
    let response = caught(next.run(request)).instrument(span.clone()).await;
    let response = response.unwrap_or_else(|()| {
        metrics().add("exceptions", 1, &[("exception.type", "panic")]);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    });
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("error.type", status.as_str());
    }
    let labels = [
        ("http.request.method", method.as_str()),
        ("http.route", route.as_str()),
        ("http.response.status_code", status.as_str()),
    ];
    metrics().record("http.server.request.duration", started.elapsed().as_secs_f64(), &labels);
    response
}

/// Runs `work`; an error when it panicked.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, ()> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(_) => Poll::Ready(Err(())),
    })
    .await
}
