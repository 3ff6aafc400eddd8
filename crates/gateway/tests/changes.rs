//! Routes change, the gateway drains and starts again, WebSockets come and go: no request is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn named(name: &'static str) -> std::net::SocketAddr {
    upstream(move |_| async move {
        // Long enough that requests are under way whenever something changes.
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        ticks.tick().await;
        ticks.tick().await;
        http::Response::new(Full::new(Bytes::from_static(name.as_bytes())))
    })
    .await
}

fn hang_up() {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
}

/// Clients that ask without a pause, each on kept connections, until told to stop. A connection that the gateway closed
/// after an answer is made anew; anything else that fails is counted. HTTP/2 is spoken by h2 itself: above it, hyper's client
/// has a queue that loses a request, without a word, if GOAWAY comes as it is put there.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(edge: &Edge, http1: usize, http2: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut clients = Vec::new();
        for number in 0..http1 + http2 {
            let (stop, answered) = (stop.clone(), answered.clone());
            let alpn: &[u8] = if number < http1 { b"http/1.1" } else { b"h2" };
            let tls = tokio_rustls::TlsConnector::from(edge.client_tls(alpn, rustls::ALL_VERSIONS));
            let address = edge.https;
            let is_h1 = number < http1;
            clients.push(tokio::spawn(async move {
                let connect = async || {
                    let stream = in_time("a connection", tokio::net::TcpStream::connect(address)).await.unwrap();
                    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
                    in_time("a TLS handshake", tls.connect(name, stream)).await.unwrap()
                };
                let mut lost = Vec::new();
                while !stop.load(SeqCst) {
                    let mut stream = connect().await;
                    // Of this connection.
                    let mut asked = 0;
                    if is_h1 {
                        loop {
                            let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
                            if let Err(error) = in_time("a request to be taken", stream.write_all(request)).await {
                                lost.push(format!("HTTP/1 client {number}, request {asked}: not taken: {error}"));
                                break;
                            }
                            let answer = Answer::read(&mut stream).await;
                            if answer.status != 200 || !answer.whole {
                                lost.push(format!("HTTP/1 client {number}, request {asked}: {answer:?}"));
                                break;
                            }
                            asked += 1;
                            answered.fetch_add(1, SeqCst);
                            if answer.field("connection") == Some("close") || stop.load(SeqCst) {
                                break;
                            }
                        }
                    } else {
                        let handshake = h2::client::handshake(stream);
                        let (mut client, connection) = in_time("an HTTP/2 handshake", handshake).await.unwrap();
                        tokio::spawn(connection);
                        while let Ok(ready) = in_time("a ready connection", client.ready()).await
                            && !stop.load(SeqCst)
                        {
                            client = ready;
                            let request = http::Request::get("https://localhost/").body(()).unwrap();
                            // Not sent: GOAWAY has come.
                            let Ok((answer, _)) = client.send_request(request, true) else { break };
                            match in_time("an HTTP/2 answer", whole(answer)).await {
                                Ok(http::StatusCode::OK) => _ = answered.fetch_add(1, SeqCst),
                                Err(error) if is_refused(&error) => break,
                                other => {
                                    lost.push(format!("HTTP/2 client {number}, request {asked}: {other:?}"));
                                    break;
                                }
                            }
                            asked += 1;
                        }
                    }
                }
                lost
            }));
        }
        Self { stop, answered, clients }
    }

    async fn more(&self, than: usize) {
        let before = self.answered.load(SeqCst);
        wait_until("more answers", async || (self.answered.load(SeqCst) >= before + than).then_some(())).await;
    }

    /// How many were answered, and what became of those that were not.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, SeqCst);
        let mut lost = Vec::new();
        for client in self.clients {
            lost.extend(client.await.unwrap());
        }
        (self.answered.load(SeqCst), lost)
    }
}

/// What a client waits for, by name: a lost request must not look like a test that hangs.
async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("waited 20 s for {what}"))
}

/// Reads an HTTP/2 answer to its end.
async fn whole(answer: h2::client::ResponseFuture) -> Result<http::StatusCode, h2::Error> {
    let answer = answer.await?;
    let (status, mut body) = (answer.status(), answer.into_body());
    while let Some(part) = body.data().await {
        let length = part?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(status)
}

/// Whether the gateway has said that it did not take this request: its stream has a number above the last that GOAWAY
/// says is served. HTTP/2 clients send such a one again by themselves; streams below get their answer, or another error.
fn is_refused(error: &h2::Error) -> bool {
    error.is_remote() && error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_routes_under_load_drops_no_request_and_no_connection() {
    let (one, two) = (named("one").await, named("two").await);
    let first = config(&[("/", "web")], &[("web", &[one])]);
    let second = config(&[("/", "other")], &[("other", &[two])]);
    let edge = Edge::start(first.clone());
    let mut kept = edge.h1().await;
    assert_eq!(text(ask(&mut kept, get("/")).await).await, "one");
    let load = Load::start(&edge, 6, 2);
    load.more(50).await;
    for (config, name) in [(&second, "two"), (&first, "one"), (&second, "two")] {
        edge.write_config(config);
        hang_up();
        wait_until(name, async || (text(ask(&mut kept, get("/")).await).await == name).then_some(())).await;
        load.more(100).await;
    }
    // A bad file changes nothing.
    for bad in [
        &b"{"[..],
        br#"{"version":1,"context":{},"config":{"routes":[],"upstreams":{},"https_port":0}}"#,
        br#"{"version":9}"#,
    ] {
        std::fs::write(&edge.config_path, bad).unwrap();
        hang_up();
        load.more(50).await;
        assert_eq!(text(ask(&mut kept, get("/")).await).await, "two");
    }
    let (answered, lost) = load.end().await;
    assert!(lost.is_empty(), "of {answered}: {lost:#?}");
    println!("route change under load: {answered} answered, none lost");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_and_starting_again_under_load_drops_no_request() {
    let config = config(&[("/", "web")], &[("web", &[named("web").await])]);
    let mut edge = Edge::start(config.clone());
    let load = Load::start(&edge, 6, 2);
    let mut lines = Vec::new();
    for _ in 0..3 {
        load.more(100).await;
        // New connections wait in the backlog of the kept sockets meanwhile.
        let (kept, pem) = (edge.kept.iter().map(|l| l.try_clone().unwrap()).collect(), edge.pem.clone());
        lines.extend(edge.stop().await);
        edge = Edge::start_on(config.clone(), kept, pem, Log::default());
    }
    load.more(100).await;
    let (answered, lost) = load.end().await;
    assert!(lost.is_empty(), "of {answered}: {lost:#?}");
    lines.extend(edge.stop().await);
    // What the gateways say of it: each request that one of them took was answered, and its answer has arrived.
    lines.retain(|line| line["status"] != 200 || line.get("note").is_some());
    assert!(lines.is_empty(), "not answered in full: {lines:#?}");
    println!("three restarts under load: {answered} answered, none lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_open_requests_and_then_cuts() {
    for (drain_ms, whole) in [(10_000, true), (300, false)] {
        let (release, wait) = tokio::sync::watch::channel(false);
        let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
        let target = upstream(move |_| {
            let (mut wait, asked) = (wait.clone(), asked.clone());
            async move {
                asked.send(()).unwrap();
                let _ = wait.wait_for(|w| *w).await;
                http::Response::new(Full::new(Bytes::from_static(b"late")))
            }
        })
        .await;
        let mut config = config(&[("/", "web")], &[("web", &[target])]);
        config.limits.drain_ms = drain_ms;
        let edge = Edge::start(config);
        let mut stream = edge.connect(b"http/1.1").await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        was_asked.recv().await.unwrap();
        edge.shutdown.ask();
        wait_until("draining", async || (!edge.running.is_finished()).then_some(())).await;
        if whole {
            release.send_replace(true);
        }
        let answer = Answer::read(&mut stream).await;
        assert_eq!((answer.whole, answer.status), (whole, if whole { 200 } else { 0 }));
        if whole && answer.field("connection") != Some("close") {
            // The answer was on its way before the drain: then the connection itself ends.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
        let lines = edge.stop().await;
        assert_eq!(lines.len(), 1, "a cut request has its line: {lines:#?}");
    }
}

/// Takes any WebSocket and sends back what it gets.
async fn echo() -> std::net::SocketAddr {
    raw_upstream(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
        assert!(head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        assert!(head.contains("\r\nsec-websocket-key: x\r\n") && head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

const UPGRADE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_carries_any_bytes_both_ways_and_outlives_a_route_change() {
    let config = config(&[("/", "web")], &[("web", &[echo().await])]);
    let edge = Edge::start(config.clone());
    let mut stream = edge.connect(b"http/1.1").await;
    stream.write_all(UPGRADE).await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("sec-websocket-accept: y"), "{head}");
    let mut back = vec![0; 300_000];
    let sent: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let (wrote, got) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
    wrote.unwrap();
    got.unwrap();
    assert_eq!(back, sent);
    edge.write_config(&config);
    hang_up();
    write.write_all(b"still").await.unwrap();
    read.read_exact(&mut back[..5]).await.unwrap();
    assert_eq!(&back[..5], b"still");
    write.shutdown().await.unwrap();
    assert_eq!(read.read(&mut back).await.unwrap_or(0), 0);
    let line = edge.log.line("of the WebSocket", |l| l["status"] == 101).await;
    assert_eq!((&line["bytes"], &line["received"]), (&300_005.into(), &300_005.into()));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_ends_when_it_is_idle_or_a_drain_runs_out() {
    let mut config = config(&[("/", "web")], &[("web", &[echo().await])]);
    config.limits.websocket_idle_ms = 200;
    let edge = Edge::start(config.clone());
    let mut stream = edge.connect(b"http/1.1").await;
    stream.write_all(UPGRADE).await.unwrap();
    read_head(&mut stream).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0, "closed after its idle time");
    edge.log.line("idle", |l| l["note"] == "idle").await;
    edge.stop().await;

    config.limits.websocket_idle_ms = 60_000;
    config.limits.drain_ms = 300;
    let edge = Edge::start(config);
    let mut stream = edge.connect(b"http/1.1").await;
    stream.write_all(UPGRADE).await.unwrap();
    read_head(&mut stream).await.unwrap();
    edge.shutdown.ask();
    stream.write_all(b"draining").await.unwrap();
    let mut back = [0; 8];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0, "cut when the drain ran out");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_the_application_declines_is_a_plain_answer() {
    let edge = edge_to(mirror().await).await;
    let answer = edge.raw(UPGRADE).await;
    assert_eq!(answer.status, 200);
    edge.stop().await;
}
