//! The stream between TLS and hyper: checks HTTP/1 framing as it passes, and ends connections that are too slow.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use api::gateway::Limits;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{conn::Conn, framing::Framing, run::Phase, target::now_ms};

/// A deadline that mostly moves away: the timer behind it is set anew only when it fires too early.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    at: u64,
}

impl Timer {
    /// Ready once [`now_ms`] has reached `deadline`.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: u64) -> Poll<()> {
        loop {
            let left = |now: u64| Duration::from_millis(deadline.saturating_sub(now));
            match &mut self.sleep {
                None => {
                    self.sleep = Some(Box::pin(tokio::time::sleep(left(now_ms()))));
                    self.at = deadline;
                }
                Some(sleep) if self.at > deadline => {
                    sleep.as_mut().reset(Instant::now() + left(now_ms()));
                    self.at = deadline;
                }
                Some(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    let now = now_ms();
                    if now >= deadline {
                        return Poll::Ready(());
                    }
                    sleep.as_mut().reset(Instant::now() + left(now));
                    self.at = deadline;
                }
            }
        }
    }
}

/// How long, in milliseconds, and how much is read of what a client sends after its last answer. A socket that is closed
/// with bytes unread resets the connection, and the client may lose the answer.
const LINGER_MS: u64 = 1_000;
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// A client's stream.
pub struct Screen<S> {
    io: S,
    /// None: HTTP/2, whose framing h2 checks.
    framing: Option<Framing>,
    conn: Arc<Conn>,
    header_ms: u64,
    keep_alive_ms: u64,
    stall_ms: u64,
    /// When the head that is being read began; before the first byte: when the connection was made.
    head_since: u64,
    anything: bool,
    ended: bool,
    /// What came was refused by its framing.
    faulty: bool,
    reading: Timer,
    stalled_since: Option<u64>,
    writing: Timer,
    /// Since when our half is closed, and how many bytes may still be dropped.
    lingering: Option<(u64, usize)>,
}

impl<S> Screen<S> {
    /// `http1` has the framing checked.
    pub fn new(io: S, conn: Arc<Conn>, limits: &Limits, http1: bool) -> Self {
        Self {
            io,
            // hyper answers 431 long before this bound on a line is met.
            framing: http1.then(|| Framing::new(limits.header_bytes * 2 + 64 * 1024)),
            conn,
            header_ms: limits.header_timeout_ms,
            keep_alive_ms: limits.keep_alive_timeout_ms,
            stall_ms: limits.body_idle_timeout_ms,
            head_since: now_ms(),
            anything: false,
            ended: false,
            faulty: false,
            reading: Timer::default(),
            stalled_since: None,
            writing: Timer::default(),
            lingering: None,
        }
    }

    /// Until when the next byte must have come. While a request is open it is not the client's turn, but for a body,
    /// whose time is kept where it is read.
    fn deadline(&self) -> Option<u64> {
        if self.conn.tunnel.load(Relaxed) || self.conn.is_busy() {
            return None;
        }
        match &self.framing {
            Some(framing) if framing.in_head() || !self.anything => Some(self.head_since + self.header_ms),
            Some(framing) if framing.in_body() => None,
            _ => Some(self.conn.idle_since() + self.keep_alive_ms),
        }
    }

    fn write_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.stalled_since.get_or_insert_with(now_ms);
        self.writing.poll(cx, since + self.stall_ms).map(|()| io::ErrorKind::TimedOut.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screen<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                if let Some(deadline) = this.deadline()
                    && this.reading.poll(cx, deadline).is_ready()
                {
                    this.ended = true;
                    if this.framing.as_ref().is_some_and(Framing::in_head) {
                        this.conn.log_fault("head too slow");
                    }
                    // Reads as the client's own end.
                    return Poll::Ready(Ok(()));
                }
                return Poll::Pending;
            }
        }
        let fresh = &buf.filled()[before..];
        let Some(framing) = &mut this.framing else { return Poll::Ready(Ok(())) };
        if fresh.is_empty() || this.conn.tunnel.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        if !framing.in_head() {
            this.head_since = now_ms();
        }
        if let Err((good, fault)) = framing.feed(fresh) {
            this.ended = true;
            this.faulty = true;
            this.conn.log_fault(fault);
            if framing.in_body() && good == 0 && this.anything {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
            }
            // The begin of a head that can never become a request: hyper answers 400 at this byte and closes.
            buf.set_filled(before + good);
            buf.put_slice(b"\0");
        }
        this.anything = true;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Screen<S> {
    /// Drops what the client still sends, until it closes or has had its time.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((since, left)) = &mut self.lingering else { return Poll::Ready(()) };
        let mut space = [const { std::mem::MaybeUninit::uninit() }; 16 * 1024];
        loop {
            let mut buf = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    *left = left.saturating_sub(buf.filled().len());
                    if *left == 0 || now_ms() >= *since + LINGER_MS {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.reading.poll(cx, *since + LINGER_MS),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Screen<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write(cx, buf) {
            Poll::Pending => self.write_stalled(cx).map(Err),
            done => {
                self.stalled_since = None;
                done
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write_vectored(cx, bufs) {
            Poll::Pending => self.write_stalled(cx).map(Err),
            done => {
                self.stalled_since = None;
                done
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Pending => self.write_stalled(cx).map(Err),
            done => {
                self.stalled_since = None;
                done
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            match Pin::new(&mut self.io).poll_shutdown(cx) {
                Poll::Pending => return self.write_stalled(cx).map(Err),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            // Only a client that may be sending is waited for; a fault was found in the midst of what it sends. One of
            // HTTP/2 may be sending at any time, and one of HTTP/1 while we drain, when its connection ends unasked.
            let draining = self.conn.worker.gateway.phase() != Phase::Serving;
            let may_send = self.framing.as_ref().is_none_or(|framing| framing.in_body() || draining);
            if !self.faulty && (self.ended || !may_send) {
                return Poll::Ready(Ok(()));
            }
            self.lingering = Some((now_ms(), LINGER_BYTES));
        }
        self.linger(cx).map(Ok)
    }
}
