//! Streams on the control socket: lines as they are committed, and rates by the second.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Poll, ready},
    time::Duration,
};

use api::telemetry::{Live, LogLine};
use axum::{body::Body, http::header, response::Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{http::Reader, logs::Follower, writer::Counts};

/// A body whose parts come through a channel. It ends when the sender is dropped.
struct Parts(mpsc::Receiver<Bytes>);

impl axum::body::HttpBody for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(ready!(self.0.poll_recv(context)).map(|part| Ok(Frame::data(part))))
    }
}

/// One JSON document a line.
pub(crate) fn ndjson<T: Serialize>(lines: &[T]) -> Bytes {
    let mut text = BytesMut::new().writer();
    for line in lines {
        // Writing into memory cannot fail, and wire types are JSON.
        let _ = serde_json::to_writer(&mut text, line);
        text.get_mut().put_u8(b'\n');
    }
    text.into_inner().freeze()
}

pub(crate) fn answer(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/x-ndjson"));
    response
}

/// The lines that are there, then those that come. A slow reader slows its own stream and nothing else.
pub(crate) fn follow(reader: Arc<Reader>, first: &[LogLine], mut follower: Follower) -> Response {
    let (sender, receiver) = mpsc::channel(4);
    let first = ndjson(first);
    tokio::spawn(async move {
        // An empty part would make some readers think that the answer has ended; a new line is skipped by all.
        let mut part = if first.is_empty() { Bytes::from_static(b"\n") } else { first };
        let mut watched = reader.writer.marks.clone();
        loop {
            tokio::select! {
                sent = sender.send(part) => if sent.is_err() { return },
                () = reader.shutdown.asked() => return,
            }
            part = loop {
                let marks = watched.borrow_and_update().clone();
                let read = reader
                    .blocking(move || {
                        let read = follower.next(&marks);
                        (follower, read)
                    })
                    .await;
                let Some((back, read)) = read else { return };
                follower = back;
                match read {
                    Ok((lines, _)) if !lines.is_empty() => break ndjson(&lines),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(reason = crate::error::chain(&error), "a follower of logs was cut off");
                        return;
                    }
                }
                tokio::select! {
                    changed = watched.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = reader.shutdown.asked() => return,
                }
            };
        }
    });
    answer(Body::new(Parts(receiver)))
}

/// Rates by the second, from now on.
pub(crate) fn rates(reader: Arc<Reader>) -> Response {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut before = read(&reader.writer.counts);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
                () = reader.shutdown.asked() => return,
            }
            let now = read(&reader.writer.counts);
            let step: Vec<u64> = now.iter().zip(&before).map(|(now, before)| now.saturating_sub(*before)).collect();
            before = now;
            let live = Live {
                time_ms: reader.clock.now_ms(),
                requests: step[0],
                failed: step[1],
                mean_ms: if step[0] == 0 { 0.0 } else { step[2] as f64 / step[0] as f64 / 1e6 },
                spans: step[3],
                logs: step[4],
                exceptions: step[5],
                metrics: step[6],
            };
            if sender.send(ndjson(&[live])).await.is_err() {
                return;
            }
        }
    });
    answer(Body::new(Parts(receiver)))
}

fn read(counts: &Counts) -> [u64; 7] {
    [
        &counts.requests,
        &counts.failed,
        &counts.request_ns,
        &counts.spans,
        &counts.logs,
        &counts.exceptions,
        &counts.metrics,
    ]
    .map(|count| count.load(Relaxed))
}
