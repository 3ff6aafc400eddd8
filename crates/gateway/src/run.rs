//! Starts the gateway, swaps its configuration on SIGHUP, drains it at the end.

use std::{
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use api::gateway::{GatewayConfig, TlsMin};
use arc_swap::ArcSwap;
use service::{Context, Listener};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};

use crate::{access::AccessLog, config, error::Error, health, http, spans, spans::Spans, table::Table, worker};

/// How long an idle HTTP/1 connection may still send a request once the end was asked for. It is answered, with
/// `Connection: close`. Closing at once would drop requests that are on their way.
const LINGER: Duration = Duration::from_secs(1);
/// How long workers get to notice that time is up.
const CUT: Duration = Duration::from_secs(2);

/// How far the gateway's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Nothing new is accepted; each answer closes its connection.
    Draining,
    /// Idle connections are closed; open requests go on.
    Closing,
    /// Time is up: everything is closed.
    Cut,
}

/// What all workers share.
pub struct Gateway {
    pub table: ArcSwap<Table>,
    pub log: Arc<AccessLog>,
    /// None: no spans are sent.
    pub spans: Option<Arc<Spans>>,
    /// How we speak TLS with targets; None: we were handed no certificate.
    client: Option<Arc<rustls::ClientConfig>>,
    pub places: Arc<Semaphore>,
    /// Requests that wait for an upstream to come back.
    pub held: AtomicUsize,
    phase: watch::Sender<Phase>,
    /// The same again, for a look without a lock.
    quick: AtomicU8,
}

impl Gateway {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.quick.load(Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            2 => Phase::Closing,
            _ => Phase::Cut,
        }
    }

    /// Tells of each change of phase.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    fn enter(&self, phase: Phase) {
        self.quick.store(phase as u8, Relaxed);
        self.phase.send_replace(phase);
    }
}

/// Serves until the context's shutdown is asked for, then drains within `limits.drain_ms`. The access log goes to stdout.
///
/// # Errors
/// An unusable configuration, certificate or listener at the start; a worker that died. A bad file at SIGHUP is logged
/// and the old configuration stays.
pub async fn run(config: GatewayConfig, context: Context) -> Result<(), Error> {
    run_with_log(config, context, Box::new(std::io::stdout())).await
}

/// As [`run`], with the access log going elsewhere.
#[doc(hidden)]
pub async fn run_with_log(
    config: GatewayConfig,
    mut context: Context,
    out: Box<dyn Write + Send>,
) -> Result<(), Error> {
    config::check(&config)?;
    let mut ports = Vec::new();
    // `https` first: the names of both begin with `http`.
    let https = context.listeners.take_all("https");
    let tls = if https.is_empty() { None } else { Some(tls(&config, &context)?) };
    for listener in https {
        ports.push(worker::Port { listener: tcp(listener)?, tls: tls.clone() });
    }
    for listener in context.listeners.take_all("http") {
        ports.push(worker::Port { listener: tcp(listener)?, tls: None });
    }
    if ports.is_empty() {
        return Err(Error::NoListener);
    }
    let mut hangups = signal(SignalKind::hangup()).map_err(Error::io("listen for SIGHUP"))?;
    let (log, writer) =
        AccessLog::start(config.access_log, context.clock.clone(), out).map_err(Error::io("start the access log"))?;
    let shipping = spans::start(&config, &mut context)?;
    let client = context.client_tls().ok();
    config::check_tls(&config, client.is_some())?;
    let gateway = Arc::new(Gateway {
        spans: shipping.as_ref().map(|(spans, _)| spans.clone()),
        places: Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS))),
        log,
        held: AtomicUsize::new(0),
        table: ArcSwap::from_pointee(Table::new(config, None, client.as_ref())),
        client,
        phase: watch::Sender::new(Phase::Serving),
        quick: AtomicU8::new(0),
    });
    let mut checks = health::start(&gateway.table.load());
    if let Some(control) = context.listeners.take("control") {
        let limits = service::Limits { connections: 32, drain: Duration::ZERO, ..service::Limits::default() };
        let routes = context.renewable(http::routes(gateway.clone()));
        tokio::spawn(service::serve(control, None, routes, limits, context.shutdown.clone()));
    }
    let mut workers = start_workers(&gateway, &ports)?;
    drop(ports);
    let outcome = loop {
        tokio::select! {
            () = context.shutdown.asked() => break drain(&gateway, &mut workers).await,
            ended = workers.recv() => {
                if let Some(Err(error)) = ended {
                    break Err(Error::Io { what: "serve on a worker", source: error });
                }
                break Err(Error::Worker);
            }
            Some(()) = hangups.recv() => {
                match reload(&gateway, &context.config_path) {
                    Ok(()) => {
                        checks = health::start(&gateway.table.load());
                        tracing::info!(path = %context.config_path.display(), "took over the changed configuration");
                    }
                    Err(error) => {
                        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                        tracing::error!(%error, cause, "kept the old configuration: the changed one is not usable");
                    }
                }
            }
        }
    };
    drop(checks);
    gateway.enter(Phase::Cut);
    gateway.log.end();
    if let Some((spans, task)) = shipping {
        spans.end();
        let _ = tokio::time::timeout(CUT, task).await;
    }
    // Whoever reads stdout may have stalled for good; the end does not wait for them for ever.
    let _ = tokio::time::timeout(CUT, tokio::task::spawn_blocking(move || writer.join())).await;
    outcome
}

/// Asks connections to end, then makes them.
async fn drain(gateway: &Gateway, workers: &mut mpsc::Receiver<std::io::Result<()>>) -> Result<(), Error> {
    let all = Duration::from_millis(gateway.table.load().limits.drain_ms);
    let begin = Instant::now();
    for (phase, until) in
        [(Phase::Draining, begin + LINGER.min(all / 2)), (Phase::Closing, begin + all), (Phase::Cut, begin + all + CUT)]
    {
        gateway.enter(phase);
        let ended = tokio::time::timeout_at(until, async { while workers.recv().await.is_some() {} }).await;
        if ended.is_ok() {
            return Ok(());
        }
    }
    tracing::warn!("a worker did not end in time");
    Ok(())
}

/// Reads the file again and swaps the snapshot. Connections stay; requests under way keep what they began with.
fn reload(gateway: &Gateway, path: &Path) -> Result<(), Error> {
    let file = service::read::<GatewayConfig>(path).map_err(Error::Read)?;
    config::check(&file.config)?;
    config::check_tls(&file.config, gateway.client.is_some())?;
    let table = Table::new(file.config, Some(&gateway.table.load()), gateway.client.as_ref());
    gateway.table.store(Arc::new(table));
    Ok(())
}

fn start_workers(gateway: &Arc<Gateway>, ports: &[worker::Port]) -> Result<mpsc::Receiver<std::io::Result<()>>, Error> {
    let count = match gateway.table.load().config.workers {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
        count => count,
    };
    let (ended, workers) = mpsc::channel(count);
    for number in 0..count {
        let ports = ports
            .iter()
            .map(|p| Ok(worker::Port { listener: p.listener.try_clone()?, tls: p.tls.clone() }))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(Error::io("share a listener between workers"))?;
        let (gateway, ended) = (gateway.clone(), Ended(ended.clone(), None));
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let mut ended = ended;
                let outcome = worker::run(gateway, ports);
                ended.1.replace(outcome);
            })
            .map_err(Error::io("start a worker"))?;
    }
    Ok(workers)
}

/// Tells how a worker ended, also when it panicked.
struct Ended(mpsc::Sender<std::io::Result<()>>, Option<std::io::Result<()>>);

impl Drop for Ended {
    fn drop(&mut self) {
        // The channel has a place for each worker.
        let _ = self.0.try_send(self.1.take().unwrap_or_else(|| Err(std::io::Error::other("it panicked"))));
    }
}

fn tcp(listener: Listener) -> Result<std::net::TcpListener, Error> {
    let address = listener.address();
    match listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true).map_err(Error::io("make a listener non-blocking"))?;
            Ok(listener)
        }
        Listener::Unix(_) => Err(Error::NotTcp(address)),
    }
}

fn tls(config: &GatewayConfig, context: &Context) -> Result<Arc<rustls::ServerConfig>, Error> {
    let min_13 = config.tls_min == TlsMin::V1_3;
    let shared = context.server_tls(&[b"h2", b"http/1.1"], min_13).map_err(Error::Tls)?;
    let mut tls = Arc::unwrap_or_clone(shared);
    // Sessions are resumed by sealed tickets, so that no worker keeps state for clients that left.
    tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::Ticketer)?;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(tls))
}
