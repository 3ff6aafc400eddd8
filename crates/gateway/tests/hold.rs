//! Upstreams that go and come back: requests wait for them, in bounds, and none is lost or carried out twice.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use api::gateway::HealthCheck;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use support::*;
use tokio::io::AsyncWriteExt as _;

/// An address of this process's own, so that nobody else takes its port while it is free.
fn own_address() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    std::net::TcpListener::bind((std::net::Ipv4Addr::new(127, 100 | a, b, c.max(1)), 0)).unwrap().local_addr().unwrap()
}

/// An application that can be ended and started again at the same address, and counts what it carried out.
#[derive(Clone)]
struct Application {
    address: SocketAddr,
    done: Arc<Mutex<BTreeMap<String, usize>>>,
    /// What it answers when it is asked whether it is well.
    well: Arc<AtomicBool>,
}

/// One running copy.
struct Copy {
    accepting: tokio::task::JoinHandle<()>,
    ending: tokio::sync::watch::Sender<bool>,
    connections: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
}

impl Application {
    fn new() -> Self {
        Self { address: own_address(), done: Arc::default(), well: Arc::new(AtomicBool::new(true)) }
    }

    fn start(&self) -> Copy {
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let ending = tokio::sync::watch::Sender::new(false);
        let connections: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>> = Arc::default();
        let accepting = tokio::spawn({
            let (this, connections, mut end) = (self.clone(), connections.clone(), ending.subscribe());
            async move {
                let serve =
                    |stream| connections.lock().unwrap().push(tokio::spawn(this.clone().serve(stream, end.clone())));
                let mut asked = end.clone();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => serve(accepted.unwrap().0),
                        _ = asked.wait_for(|end| *end) => break,
                    }
                }
                // What waits to be accepted has been promised an answer.
                let listener = listener.into_std().unwrap();
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    serve(tokio::net::TcpStream::from_std(stream).unwrap());
                }
                end.mark_unchanged();
            }
        });
        Copy { accepting, ending, connections }
    }

    async fn serve(self, stream: tokio::net::TcpStream, ending: tokio::sync::watch::Receiver<bool>) {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (this, ending) = (self.clone(), ending.clone());
            async move {
                let path = request.uri().path().to_owned();
                let mut status = StatusCode::OK;
                let body = request.into_body().collect().await?.to_bytes();
                if path == "/health" {
                    if !this.well.load(SeqCst) {
                        status = StatusCode::SERVICE_UNAVAILABLE;
                    }
                } else {
                    *this.done.lock().unwrap().entry(path).or_insert(0) += 1;
                }
                let mut response = Response::builder().status(status);
                if *ending.borrow() {
                    response = response.header(header::CONNECTION, "close");
                }
                Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(body.len().to_string()))).unwrap())
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

impl Copy {
    /// Ends as a well-mannered server does: what came is answered, each answer is its connection's last, and idle
    /// connections are left to the client.
    async fn end(self) {
        self.ending.send_replace(true);
        self.accepting.await.unwrap();
    }

    /// Ends as by a kill: connections break off.
    async fn kill(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

/// What clients have seen of their requests.
#[derive(Default)]
struct Seen {
    answered: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// Clients that ask without a pause: GETs, POSTs with a small body, and POSTs whose body is sent on as it comes.
struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(edge: &Edge, clients: usize, only_get: bool) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let mut tasks = Vec::new();
        for number in 0..clients {
            let (stop, seen) = (stop.clone(), seen.clone());
            let mut client = edge.h1().await;
            tasks.push(tokio::spawn(async move {
                let large = Bytes::from(vec![b'x'; 100_000]);
                for turn in 0.. {
                    if stop.load(SeqCst) {
                        return;
                    }
                    let body = match turn % 3 {
                        _ if only_get => Bytes::new(),
                        0 => Bytes::new(),
                        1 => Bytes::from_static(b"some"),
                        _ => large.clone(),
                    };
                    let (path, length) = (format!("/{number}/{turn}"), body.len());
                    let method = if length == 0 { "GET" } else { "POST" };
                    let request = Request::builder().method(method).uri(&path).header("host", "a");
                    let response = ask(&mut client, request.body(Full::new(body)).unwrap()).await;
                    let status = response.status();
                    let told = text(response).await;
                    if status == 200 && told == length.to_string() {
                        seen.answered.fetch_add(1, SeqCst);
                    } else {
                        seen.failed.lock().unwrap().push(format!("{method} {path}: {status} {told}"));
                    }
                }
            }));
        }
        Self { stop, seen, clients: tasks }
    }

    async fn more(&self, than: usize) {
        let before = self.seen.answered.load(SeqCst);
        wait_until("more answers", async || (self.seen.answered.load(SeqCst) >= before + than).then_some(())).await;
    }

    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        (self.seen.answered.load(SeqCst), std::mem::take(&mut self.seen.failed.lock().unwrap()))
    }
}

async fn held(edge: &Edge, count: u64) {
    wait_until(&format!("{count} to be held"), async || {
        (edge.control("/targets").await["held"].as_u64()? >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_only_target_is_replaced_under_load_no_request_is_lost_or_carried_out_twice() {
    let application = Application::new();
    let mut copy = application.start();
    let mut config = config(&[("/", "web")], &[("web", &[application.address])]);
    config.workers = 2;
    config.limits.hold_ms = 20_000;
    let edge = Edge::start(config);
    let load = Load::start(&edge, 6, false).await;
    for _ in 0..5 {
        load.more(60).await;
        copy.end().await;
        // All of them, so that each kind of request has waited.
        held(&edge, 6).await;
        copy = application.start();
    }
    load.more(60).await;
    let (answered, failed) = load.end().await;
    assert!(failed.is_empty(), "of {answered}: {failed:#?}");
    let done = application.done.lock().unwrap().clone();
    assert_eq!((done.len(), done.values().sum::<usize>()), (answered, answered), "each once");
    assert_eq!(edge.control("/targets").await["held"], 0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_killed_and_comes_back_costs_no_get() {
    let application = Application::new();
    let mut copy = application.start();
    let mut config = config(&[("/", "web")], &[("web", &[application.address])]);
    config.limits.hold_ms = 20_000;
    let edge = Edge::start(config);
    let load = Load::start(&edge, 6, true).await;
    for _ in 0..5 {
        load.more(60).await;
        copy.kill().await;
        held(&edge, 1).await;
        copy = application.start();
    }
    load.more(60).await;
    let (answered, failed) = load.end().await;
    assert!(failed.is_empty(), "of {answered}: {failed:#?}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_back_gets_what_was_held_once_it_is_well() {
    let application = Application::new();
    let mut config = config(&[("/", "web")], &[("web", &[application.address])]);
    let health = HealthCheck { path: "/health".into(), interval_ms: 20, timeout_ms: 2000, fall: 1000, rise: 2 };
    config.upstreams.get_mut("web").unwrap().health = Some(health);
    config.limits.hold_ms = 20_000;
    let edge = Edge::start(config);
    wait_until("the first check", async || {
        (edge.control("/targets").await["targets"][0]["healthy"] == false).then_some(())
    })
    .await;
    let mut client = edge.h1().await;
    let open = tokio::spawn(async move { text(ask(&mut client, get("/early")).await).await });
    held(&edge, 1).await;
    application.well.store(false, SeqCst);
    let _copy = application.start();
    // It takes connections and says that it is not well: nothing is sent to it.
    let asked = Instant::now();
    wait_until("some checks", async || (asked.elapsed() > Duration::from_millis(300)).then_some(())).await;
    assert!(!open.is_finished() && application.done.lock().unwrap().is_empty());
    application.well.store(true, SeqCst);
    assert_eq!(open.await.unwrap(), "0");
    assert_eq!(application.done.lock().unwrap().get("/early"), Some(&1));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_is_bounded_in_time_and_number_and_ends_with_the_client() {
    let mut config = config(&[("/", "web"), ("/none", "none")], &[("web", &[nobody()]), ("none", &[])]);
    config.limits.hold_ms = 300;
    let edge = Edge::start(config.clone());
    let begin = Instant::now();
    // Nobody has ever been there: there is nothing to wait for.
    assert_eq!(edge.raw(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 503);
    assert!(begin.elapsed() < Duration::from_millis(300));
    let begin = Instant::now();
    assert_eq!(edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 502);
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    edge.stop().await;

    config.limits.hold_ms = 60_000;
    config.limits.hold_requests = 1;
    // What still waits when the drain runs out is cut.
    config.limits.drain_ms = 200;
    let edge = Edge::start(config);
    let mut first = edge.connect(b"http/1.1").await;
    first.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nsome").await.unwrap();
    held(&edge, 1).await;
    assert_eq!(edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 503, "one too many");
    drop(first);
    wait_until("the client's request to go with it", async || {
        (edge.control("/targets").await["held"] == 0).then_some(())
    })
    .await;
    let mut next = edge.connect(b"http/1.1").await;
    next.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    held(&edge, 1).await;
    let lines = edge.stop().await;
    let left: Vec<_> = lines.iter().filter(|line| line["status"] == 499).collect();
    assert_eq!(left.len(), 2, "{lines:#?}");
}
