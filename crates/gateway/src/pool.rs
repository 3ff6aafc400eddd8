//! Connections to targets: kept per worker, so that no request crosses threads.
//!
//! hyper's connection is a future that somebody has to drive. A task of its own for each would wake and be woken several
//! times a request; so as long as a request's body is at hand whole, the task that serves the client drives it, and while it is idle
//! nobody does. While a body still comes, both ways may have to go on though the client does not read: it gets a task.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use ::http::{Request, Response};
use bytes::Bytes;
use hyper::{
    body::{Body as _, Frame, Incoming},
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    body::Upload,
    dial::{Stream, dial},
    target::{Target, now_ms},
    worker::Worker,
};

/// An unused connection is closed after this time.
const IDLE_MS: u64 = 60_000;

struct Link {
    sender: SendRequest<Upload>,
    /// None: it has a task of its own, or has ended.
    driver: Option<Driver>,
    /// Bytes that the target has sent on this connection, ever.
    seen: Arc<AtomicU64>,
    since: u64,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

impl Link {
    /// Lets the connection go on. What waits for it in this task need not be woken: it is asked after.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Whether it can carry a request. Nobody is woken later for what is found now.
    fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.sender.is_closed() && (self.driver.is_none() || self.sender.is_ready())
    }
}

/// The idle connections of one worker.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<SocketAddr, Vec<Link>>>);

/// A connection in use. Dropped without [`Lease::release`], it is closed: its state is not known.
pub struct Lease {
    link: Option<Link>,
    pub target: Arc<Target>,
    worker: Arc<Worker>,
    /// Whether it has carried a request before.
    pub reused: bool,
    before: u64,
    /// The target may close it without a word: not for another request.
    doubtful: bool,
}

impl Pool {
    /// Takes the connection that was used last: the others may grow old and be closed.
    fn take(&self, address: &SocketAddr) -> Option<Link> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let links = idle.get_mut(address)?;
        std::iter::from_fn(|| links.pop()).find_map(|mut link| link.is_ready().then_some(link))
    }

    /// Closes the idle connections to a target.
    pub fn forget(&self, address: &SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }

    /// Closes connections that nobody used for long.
    pub fn sweep(&self) {
        let oldest = now_ms().saturating_sub(IDLE_MS);
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, links| {
            links.retain_mut(|link| link.since >= oldest && link.is_ready());
            !links.is_empty()
        });
    }
}

impl Lease {
    /// An idle connection to `target`, or a new one. An error means that nothing was sent. `once` is for a request that
    /// cannot be sent again: whether the target has closed is asked of the system first.
    pub async fn take(
        worker: &Arc<Worker>,
        target: &Arc<Target>,
        fresh: bool,
        once: bool,
        timeout: Duration,
    ) -> io::Result<Self> {
        target.open.fetch_add(1, Relaxed);
        let mut lease = Self {
            link: None,
            target: target.clone(),
            worker: worker.clone(),
            reused: !fresh,
            before: 0,
            doubtful: false,
        };
        while !fresh && let Some(mut link) = worker.pool.take(&target.address) {
            // One with its own task may need a turn to see that its last answer has ended.
            if once {
                // Yielding lets the runtime look at its sockets.
                tokio::task::yield_now().await;
                if !link.is_ready() {
                    continue;
                }
            }
            if link.driver.is_some() || link.sender.ready().await.is_ok() {
                lease.before = link.seen.load(Relaxed);
                lease.link = Some(link);
                return Ok(lease);
            }
        }
        lease.reused = false;
        match tokio::time::timeout(timeout, connect(target)).await {
            Ok(Ok(mut link)) => {
                link.is_ready();
                lease.link = Some(link);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        Ok(lease)
    }

    /// Gives the connection a task of its own, for requests whose body still comes and for WebSockets.
    pub fn detach(&mut self) {
        if let Some(driver) = self.link.as_mut().and_then(|link| link.driver.take()) {
            tokio::spawn(driver);
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        let link = self.link.as_mut().expect("a lease has its link until it is released");
        let mut answer = pin!(link.sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            if link.driver.is_none() {
                return answer.as_mut().poll(cx);
            }
            link.drive(cx);
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// The next part of the answer's body.
    pub fn poll_body(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(link) = self.link.as_mut().filter(|link| link.driver.is_some()) {
            // Asking says that a part is wanted; driving brings it.
            let mut unwoken = Context::from_waker(Waker::noop());
            if let Poll::Ready(part) = Pin::new(&mut *incoming).poll_frame(&mut unwoken) {
                return Poll::Ready(part);
            }
            link.drive(cx);
            if link.driver.is_some() {
                return Pin::new(incoming).poll_frame(&mut unwoken);
            }
        }
        Pin::new(incoming).poll_frame(cx)
    }

    /// Whether the target has sent anything since the lease began.
    pub fn heard(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.seen.load(Relaxed) > self.before)
    }

    /// Says that the target may have answered without reading the body. Servers then close the connection after the
    /// answer's head has promised to keep it, and the next request would meet its end.
    pub fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Gives the connection back: the response has been read to its end.
    pub fn release(mut self) {
        let Some(mut link) = self.link.take() else { return };
        if self.doubtful || !link.is_ready() {
            return;
        }
        link.since = now_ms();
        let most = self.worker.gateway.table.load().limits.idle_upstream;
        let mut idle = self.worker.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        let links = idle.entry(self.target.address).or_default();
        if links.len() < most {
            links.push(link);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.target.open.fetch_sub(1, Relaxed);
    }
}

async fn connect(target: &Target) -> io::Result<Link> {
    let stream = dial(target).await?;
    let seen = Arc::new(AtomicU64::new(0));
    let io = TokioIo::new(Seen { stream, bytes: seen.clone(), deaf: false });
    let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
    Ok(Link { sender, driver: Some(Box::pin(connection.with_upgrades())), seen, since: 0 })
}

/// A target's stream. It counts what the target sends: a request may be sent again only if its answer has not begun.
///
/// A target may answer without reading the body and close, and then writing fails while its answer waits to be read.
/// hyper would give the answer up with the first error, so what the target no longer takes is dropped instead: reading
/// comes to the answer, and then to the end or the same error.
struct Seen {
    stream: Stream,
    bytes: Arc<AtomicU64>,
    /// The target has closed: nothing reaches it.
    deaf: bool,
}

impl Seen {
    fn written(&mut self, written: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.deaf = true;
                Poll::Ready(Ok(all))
            }
            written => written,
        }
    }
}

impl AsyncRead for Seen {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.bytes.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Seen {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(written, all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.written(flushed, 0).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
