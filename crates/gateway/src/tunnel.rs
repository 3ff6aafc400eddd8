//! A WebSocket: bytes both ways until either side ends it, nothing passes for too long, or a drain has run out.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::{HeaderValue, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    body::Reply,
    conn::{Conn, Record},
    headers,
    pool::Lease,
    table::Table,
    target::now_ms,
};

/// Passes the upstream's 101 on and joins the two connections. The record's line is written when they part.
pub fn open(
    conn: &Arc<Conn>,
    table: &Table,
    mut response: Response<Incoming>,
    lease: Lease,
    client: OnUpgrade,
    mut record: Record,
) -> Response<Reply> {
    let upstream = hyper::upgrade::on(&mut response);
    let idle = Duration::from_millis(table.limits.websocket_idle_ms);
    conn.tunnel.store(true, Relaxed);
    tokio::spawn(async move {
        // The target counts it as open as long as it lasts.
        let _lease = lease;
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(pair) => pair,
            Err(error) => {
                tracing::debug!(%error, "a WebSocket could not be joined");
                record.note = "upgrade failed";
                drop(record);
                return;
            }
        };
        let (down, up) = (AtomicU64::new(0), AtomicU64::new(0));
        let ended = join(TokioIo::new(client), TokioIo::new(upstream), &up, &down, idle).await;
        if let Err(error) = ended {
            record.note = if error.kind() == io::ErrorKind::TimedOut { "idle" } else { "broke off" };
        }
        record.bytes = down.load(Relaxed);
        let received = record.received.get_or_insert_default();
        received.bytes.store(up.load(Relaxed), Relaxed);
    });
    let mut reply = Response::new(Reply::Own { data: None, _record: None });
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = reply.headers_mut();
    *fields = std::mem::take(response.headers_mut());
    headers::for_client(fields, None);
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    reply
}

async fn join(
    client: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    up: &AtomicU64,
    down: &AtomicU64,
    idle: Duration,
) -> io::Result<()> {
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
    let last = AtomicU64::new(now_ms());
    let quiet = async {
        loop {
            let left = (last.load(Relaxed) + idle.as_millis() as u64).saturating_sub(now_ms());
            if left == 0 {
                return io::Error::from(io::ErrorKind::TimedOut);
            }
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
    };
    let both = async {
        tokio::try_join!(
            copy(&mut client_read, &mut upstream_write, up, &last),
            copy(&mut upstream_read, &mut client_write, down, &last),
        )
    };
    tokio::select! {
        ended = both => ended.map(|_| ()),
        error = quiet => Err(error),
    }
}

/// Copies until `from` ends, then ends `to`.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
    last: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        last.store(now_ms(), Relaxed);
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        count.fetch_add(read as u64, Relaxed);
    }
}
