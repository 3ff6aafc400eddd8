//! TLS in front of a workload that speaks plainly: ended at the workload's address, handed on to where it listens, on the
//! loopback of the same network. So nothing crosses a network in the clear, and the program knows nothing of it.
//!
//! Bytes are passed on as they are, so that whatever is spoken over the connection works (WebSockets too). While the workload
//! does not listen, a connection is reset before the handshake: who connects meets what a closed port would be.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{Secrets, context::secret, shim};
use service::{Certificate, Listener, Listeners, Shutdown};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use crate::Error;

/// Connections at once; more wait in the backlog.
const PLACES: usize = 4096;
/// Time to reach the workload, and for the handshake.
const OPENING: Duration = Duration::from_secs(10);
/// How long a client may stay once the workload has closed.
const AFTER: Duration = Duration::from_secs(10);
/// How long the last words of a workload that has ended may take to their clients.
const LAST: Duration = Duration::from_secs(2);

/// What stands in front of a workload.
pub struct Front {
    /// Answers that are on their way.
    open: Arc<AtomicUsize>,
    shutdown: Shutdown,
    /// Asked: no further connection is taken. The second says that none is any more.
    closing: Shutdown,
    closed: Shutdown,
}

impl Front {
    /// Takes the front's listener and certificate and serves on a thread of its own: the shim's waits for processes.
    pub fn start(
        config: &shim::Front,
        ca_pem: &[u8],
        secrets: &mut Secrets,
        listeners: &mut Listeners,
    ) -> Result<Self, Error> {
        let missing = |what: &'static str| Error::Front(io::Error::other(format!("{what} was not passed")).into());
        let Some(Listener::Tcp(listener)) = listeners.take(shim::FRONT) else { return Err(missing("its listener")) };
        let cert = secrets.take(secret::TLS_CERT).ok_or_else(|| missing("its certificate"))?;
        let key = secrets.take(secret::TLS_KEY).ok_or_else(|| missing("its key"))?;
        let failed = |e: service::tls::Error| Error::Front(e.into());
        let certificate = Certificate::new(&cert, &key).map_err(failed)?;
        let tls = if config.clients.is_empty() {
            service::tls::showing(certificate.clone(), &[], false)
        } else {
            service::tls::showing_to(certificate.clone(), ca_pem, &config.clients)
        };
        let tls = tls.map_err(failed)?;
        // Those who call over the border have certificates of another authority, if any; a key says who they are.
        let border = match listeners.take(shim::BORDER) {
            Some(Listener::Tcp(listener)) => {
                let open = service::tls::showing(certificate.clone(), &[], false).map_err(failed)?;
                Some((listener, TlsAcceptor::from(open)))
            }
            _ => None,
        };
        let front = Self {
            open: Arc::default(),
            shutdown: Shutdown::default(),
            closing: Shutdown::default(),
            closed: Shutdown::default(),
        };
        // Renewed while it serves, as a role's certificate is.
        if let Some(control) = listeners.take("control") {
            let routes = service::certificate::routes(certificate);
            let limits = service::Limits { connections: 8, ..service::Limits::default() };
            tokio::spawn(service::serve(control, None, routes, limits, front.shutdown.clone()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::Front(e.into()))?;
        let (to, open, closing, closed) = (config.to, front.open.clone(), front.closing.clone(), front.closed.clone());
        let serve = async move {
            let callers = async {
                match border {
                    Some((listener, tls)) => accept(listener, to, tls, open.clone()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = accept(listener, to, TlsAcceptor::from(tls), open.clone()) => {}
                () = callers => {}
                () = closing.asked() => {}
            }
            // The listener went with `accept`; connections that were taken live as long as this thread.
            closed.ask();
            std::future::pending::<()>().await;
        };
        std::thread::Builder::new()
            .name("front".into())
            .spawn(move || runtime.block_on(serve))
            .map_err(|e| Error::Front(e.into()))?;
        Ok(front)
    }

    /// Takes no connection from here on. Before the workload is told to end: what it would still take and no longer answer
    /// meets a closed port instead, and is held by the edge.
    pub async fn close(&self) {
        self.closing.ask();
        let _ = tokio::time::timeout(LAST, self.closed.asked()).await;
    }

    /// Waits until what an ended workload said last has been passed on.
    pub async fn drain(&self) {
        let quiet = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(LAST, quiet).await;
    }
}

async fn accept(listener: std::net::TcpListener, to: SocketAddr, tls: TlsAcceptor, open: Arc<AtomicUsize>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the front cannot listen"),
    };
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a client that left: neither may end the front, nor spin the loop.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, open) = (tls.clone(), open.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection(stream, to, tls, open).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
}

async fn connection(client: TcpStream, to: SocketAddr, tls: TlsAcceptor, open: Arc<AtomicUsize>) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    // The workload first: where it does not listen, nobody shakes hands.
    let workload = match tokio::time::timeout(OPENING, TcpStream::connect(to)).await {
        Ok(Ok(workload)) => workload,
        refused => {
            // Closed with a reset instead of an end: this is no answer.
            let _ = rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO));
            return match refused {
                Ok(Err(error)) => Err(error),
                _ => Err(io::ErrorKind::TimedOut.into()),
            };
        }
    };
    let _ = workload.set_nodelay(true);
    let client = tokio::time::timeout(OPENING, tls.accept(client)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    relay(client, workload, open).await
}

/// Passes bytes on both ways until the workload or the client has ended.
async fn relay(
    client: impl AsyncRead + AsyncWrite,
    workload: impl AsyncRead + AsyncWrite,
    open: Arc<AtomicUsize>,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_workload, mut to_workload) = tokio::io::split(workload);
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        let mut deaf = false;
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 {
                return if deaf { Ok(()) } else { to_workload.shutdown().await };
            }
            // A workload may answer without reading the body and close: its answer still comes, the rest of the body is nobody's.
            deaf = deaf || to_workload.write_all(&buffer[..length]).await.is_err();
        }
    };
    let counted = Counted::new(open);
    let down = async {
        let _counted = counted;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = from_workload.read(&mut buffer).await?;
            if length == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&buffer[..length]).await?;
            to_client.flush().await?;
        }
    };
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        ended = &mut down => {
            ended?;
            tokio::time::timeout(AFTER, up).await.unwrap_or(Ok(()))
        }
        ended = &mut up => {
            ended?;
            down.await
        }
    }
}

/// Something that is open as long as it is there.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn an_answer_passes_though_the_workload_does_not_read_on() {
        let (client, front_client) = duplex(1024);
        let (workload, front_workload) = duplex(1024);
        let open = Arc::new(AtomicUsize::new(0));
        let relayed = tokio::spawn(relay(front_client, front_workload, open.clone()));
        let (mut read, mut write) = tokio::io::split(client);
        let (mut heard, mut says) = tokio::io::split(workload);
        write.write_all(b"POST").await.unwrap();
        let mut first = [0; 4];
        heard.read_exact(&mut first).await.unwrap();
        says.write_all(b"413").await.unwrap();
        says.shutdown().await.unwrap();
        drop((heard, says));
        let mut answer = Vec::new();
        let sending = tokio::spawn(async move {
            // More than any buffer on the way holds.
            let sent = write.write_all(&[0; 64 * 1024]).await;
            (write, sent)
        });
        read.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"413");
        let (mut write, sent) = sending.await.unwrap();
        sent.unwrap();
        write.shutdown().await.unwrap();
        relayed.await.unwrap().unwrap();
        assert_eq!(open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_still_hears() {
        let (mut client, front_client) = duplex(1024);
        let (mut workload, front_workload) = duplex(1024);
        let relayed = tokio::spawn(relay(front_client, front_workload, Arc::default()));
        client.write_all(b"all").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        workload.read_to_string(&mut text).await.unwrap();
        workload.write_all(b"heard").await.unwrap();
        drop(workload);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((text.as_str(), answer.as_str()), ("all", "heard"));
        relayed.await.unwrap().unwrap();
    }
}
