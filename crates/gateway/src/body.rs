//! Bodies on their way: a request's to the upstream, a response's to the client.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::{
    conn::{Received, Record},
    pool::Lease,
    screen::Timer,
    target::now_ms,
};

/// A request's body. Trailers are dropped: nothing behind the gateway may take them for fields.
pub enum Upload {
    Empty,
    /// Read from the client before any of it is sent on.
    Whole(Bytes),
    Stream(Box<Uploading>),
}

/// Bodies of a known length up to this many bytes are read whole before they are sent on: an upstream that answers
/// without reading them then costs the client neither its answer nor its connection.
const WHOLE: u64 = 64 * 1024;

pub struct Uploading {
    incoming: Incoming,
    left: u64,
    idle_ms: u64,
    waiting_since: Option<u64>,
    timer: Timer,
    received: Arc<Received>,
}

impl Upload {
    /// `limit` in bytes; `idle` is the longest time without one.
    pub fn new(incoming: Incoming, limit: u64, idle: Duration, received: &Arc<Received>) -> Self {
        Self::Stream(Box::new(Uploading {
            incoming,
            left: limit,
            idle_ms: idle.as_millis() as u64,
            waiting_since: None,
            timer: Timer::default(),
            received: received.clone(),
        }))
    }

    /// Reads a small body whole; others stay as they are. What goes wrong is noted in [`Received`].
    pub async fn gathered(mut self) -> io::Result<Self> {
        let Some(length) = self.size_hint().exact().filter(|length| *length <= WHOLE) else { return Ok(self) };
        let mut whole = Bytes::new();
        let mut parts = Vec::new();
        while !self.is_end_stream()
            && let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await
        {
            let Ok(data) = frame?.into_data() else { continue };
            if whole.is_empty() && parts.is_empty() {
                // Mostly it has come in one part, which is not copied.
                whole = data;
            } else {
                if parts.is_empty() {
                    parts.reserve(length as usize);
                    parts.extend_from_slice(&std::mem::take(&mut whole));
                }
                parts.extend_from_slice(&data);
            }
        }
        Ok(Self::Whole(if parts.is_empty() { whole } else { parts.into() }))
    }

    /// Whether it can be sent again: there is nothing to send.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whether it still comes from the client while it is sent.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Whole(data) if data.is_empty() => return Poll::Ready(None),
            Self::Whole(data) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Stream(this) => this,
        };
        loop {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(None) => {
                    this.received.ended.store(true, Relaxed);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    this.received.broken.store(true, Relaxed);
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    this.waiting_since = None;
                    let Ok(data) = frame.into_data() else { continue };
                    let Some(left) = this.left.checked_sub(data.len() as u64) else {
                        this.received.too_large.store(true, Relaxed);
                        return Poll::Ready(Some(Err(io::ErrorKind::FileTooLarge.into())));
                    };
                    this.left = left;
                    this.received.bytes.fetch_add(data.len() as u64, Relaxed);
                    this.received.last_ms.store(now_ms(), Relaxed);
                    this.received.ended.store(this.incoming.is_end_stream(), Relaxed);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Pending => {
                    let since = *this.waiting_since.get_or_insert_with(now_ms);
                    return this.timer.poll(cx, since + this.idle_ms).map(|()| {
                        this.received.timed_out.store(true, Relaxed);
                        Some(Err(io::ErrorKind::TimedOut.into()))
                    });
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(data) => data.is_empty(),
            Self::Stream(this) => this.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(data) => SizeHint::with_exact(data.len() as u64),
            Self::Stream(this) => this.incoming.size_hint(),
        }
    }
}

/// A response's body, with the request's record, whose line is written at its end.
pub enum Reply {
    /// The gateway's own answer.
    Own {
        data: Option<Bytes>,
        _record: Option<Box<Record>>,
    },
    Through(Box<Download>),
}

/// A response that passes through.
pub struct Download {
    incoming: Incoming,
    lease: Option<Lease>,
    record: Record,
    idle_ms: u64,
    waiting_since: Option<u64>,
    timer: Timer,
    ended: bool,
}

impl Download {
    /// `idle` is the longest time that the upstream may send nothing.
    pub fn new(incoming: Incoming, lease: Lease, record: Record, idle: Duration) -> Self {
        Self {
            incoming,
            lease: Some(lease),
            record,
            idle_ms: idle.as_millis() as u64,
            waiting_since: None,
            timer: Timer::default(),
            ended: false,
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            let part = match &mut self.lease {
                Some(lease) => lease.poll_body(&mut self.incoming, cx),
                None => Poll::Ready(None),
            };
            match part {
                Poll::Ready(None) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    self.record.note = "upstream broke off";
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.waiting_since = None;
                    let Ok(data) = frame.into_data() else { continue };
                    self.record.bytes += data.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Pending => {
                    let since = *self.waiting_since.get_or_insert_with(now_ms);
                    if self.timer.poll(cx, since + self.idle_ms).is_pending() {
                        return Poll::Pending;
                    }
                    self.ended = true;
                    self.record.note = "upstream stalled";
                    return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
                }
            }
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // hyper does not ask a body for its end when the last frame has told it.
        if !self.ended && self.incoming.is_end_stream() {
            self.end();
        } else if !self.ended {
            self.record.note = "client left";
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Own { data, .. } => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Self::Through(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { data, .. } => data.is_none(),
            Self::Through(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, |d| d.len() as u64)),
            Self::Through(download) => download.incoming.size_hint(),
        }
    }
}
