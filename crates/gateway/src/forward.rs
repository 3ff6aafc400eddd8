//! Sends one request to a target of its upstream, and decides when it may be sent again.
//!
//! A request is sent again only when the target cannot have acted on it: no connection was made, hyper hands the request
//! back unsent, or the connection died without one byte of answer, and the request is idempotent and has no body. Everything else is the client's to repeat. While no target takes connections it waits ([`hold`]).

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use ::http::{Method, Request, Response, header};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    body::Upload,
    conn::Record,
    health::is_away,
    hold,
    page::{self, Refusal},
    pool::Lease,
    table::Table,
    target::{Group, now_ms},
    worker::Worker,
};

/// Connections that one request may use up. More would only add to the load of an upstream in trouble.
const ATTEMPTS: u32 = 4;

/// The upstream's answer and the connection it comes on. `record` gets the target.
pub async fn forward(
    worker: &Arc<Worker>,
    table: &Table,
    group: &Arc<Group>,
    mut request: Request<Upload>,
    record: &mut Record,
) -> Result<(Response<Incoming>, Lease), Refusal> {
    let repeatable = request.body().is_empty() && is_idempotent(request.method());
    let has_body = !request.body().is_empty();
    let mut tried = 0;
    let mut fresh = false;
    let mut failure = page::nobody("no healthy target");
    let mut again = None;
    let mut attempts = 0;
    let mut until = None;
    let mut made = false;
    let mut refused = false;
    while attempts < ATTEMPTS {
        let target = match again.take() {
            Some(target) => target,
            None => match group.pick(tried) {
                Some((index, target)) => {
                    tried |= 1 << index;
                    target.clone()
                }
                // Nothing was sent to those that are away: it may be sent once one is back.
                None if (refused || group.is_away()) && table.limits.hold_ms > 0 => {
                    let until =
                        *until.get_or_insert_with(|| Instant::now() + Duration::from_millis(table.limits.hold_ms));
                    if !hold::wait(&worker.gateway, group, table.limits.hold_requests, until).await {
                        break;
                    }
                    (tried, attempts, refused) = (0, 0, false);
                    continue;
                }
                None => break,
            },
        };
        attempts += 1;
        record.target = Some(target.clone());
        let mut lease = match Lease::take(worker, &target, fresh, !repeatable, table.connect_timeout).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::warn!(target = %target.label, %error, "could not connect to a target");
                if is_away(&error) {
                    target.away.store(true, Relaxed);
                    // It may be back before we look again.
                    refused = true;
                    // What is left of its connections will be closed, and it may wait for that.
                    worker.pool.forget(&target.address);
                }
                // After `away`: whoever finds it left out must find why.
                target.refused();
                failure = page::broken("connection refused");
                continue;
            }
        };
        if !lease.reused {
            target.answered();
        }
        // One that was just made may have lain in the backlog of a target that ended. Once, lest a request that ends its
        // target ends them all.
        let may_repeat = repeatable && (lease.reused || !std::mem::replace(&mut made, true));
        let copy = may_repeat.then(|| copy(&request));
        if request.body().is_stream() || request.headers().contains_key(header::UPGRADE) {
            lease.detach();
        }
        let sent = in_time(table.upstream_timeout, record, lease.send(request)).await;
        let mut error = match sent {
            Some(Ok(response)) => {
                if has_body && (response.status().is_client_error() || response.status().is_server_error()) {
                    lease.doubt();
                }
                return Ok((response, lease));
            }
            Some(Err(error)) => error,
            None => return Err(page::late("upstream timeout")),
        };
        let unsent = error.take_message();
        let unheard = !lease.heard();
        match unsent.or(copy.filter(|_| unheard)) {
            Some(back) => {
                // The pool's other connections may have died with this one.
                request = back;
                fresh = true;
                again = Some(target);
                failure = page::broken("upstream closed before it answered");
            }
            None => {
                tracing::debug!(target = %target.label, error = %error.error(), "a target did not answer");
                return Err(page::broken("upstream broke off"));
            }
        }
    }
    Err(failure)
}

/// Waits for the answer's head: `limit` from the request's last byte, which a slow client may send late. None: it is over.
async fn in_time<T>(limit: Duration, record: &Record, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    let mut left = limit;
    loop {
        if let Ok(answer) = tokio::time::timeout(left, &mut answer).await {
            return Some(answer);
        }
        let last = record.received.as_ref().map_or(0, |received| received.last_ms.load(Relaxed));
        left = Duration::from_millis((last + limit.as_millis() as u64).saturating_sub(now_ms()));
        if left.is_zero() {
            return None;
        }
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
