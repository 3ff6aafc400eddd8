//! Replicas: whose turn it is, who is left out, what is sent again and what never.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use api::gateway::{Balance, HealthCheck};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn named(name: &'static str) -> std::net::SocketAddr {
    upstream(move |_| async move { http::Response::new(Full::new(Bytes::from_static(name.as_bytes()))) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_take_turns() {
    let targets = [named("a").await, named("b").await, named("c").await];
    let edge = Edge::start(config(&[("/", "web")], &[("web", &targets)]));
    let mut client = edge.h1().await;
    let mut counts = BTreeMap::new();
    for _ in 0..9 {
        *counts.entry(text(ask(&mut client, get("/")).await).await).or_insert(0) += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("a".into(), 3), ("b".into(), 3), ("c".into(), 3)]);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_loaded_replica_gets_what_comes_while_another_is_busy() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let busy = upstream(move |_| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|w| *w).await;
            http::Response::new(Full::new(Bytes::from_static(b"busy")))
        }
    })
    .await;
    let mut config = config(&[("/", "web")], &[("web", &[busy, named("free").await])]);
    config.upstreams.get_mut("web").unwrap().balance = Balance::LeastLoaded;
    let edge = Edge::start(config);
    let (mut one, mut two) = (edge.h1().await, edge.h1().await);
    let first = tokio::spawn(async move { text(ask(&mut one, get("/")).await).await });
    wait_until("the first to be open", async || {
        edge.control("/targets").await["targets"].as_array()?.iter().any(|t| t["open"] == 1).then_some(())
    })
    .await;
    for _ in 0..6 {
        assert_eq!(text(ask(&mut two, get("/")).await).await, "free");
    }
    release.send_replace(true);
    assert_eq!(first.await.unwrap(), "busy");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_is_passed_over_and_nobody_notices() {
    let edge = Edge::start(config(&[("/", "web")], &[("web", &[nobody(), named("up").await])]));
    let mut client = edge.h1().await;
    for _ in 0..10 {
        // A body was not sent anywhere yet when a connection is refused: it may go to the next target.
        let request = Request::post("/").header("host", "a").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        assert_eq!(text(ask(&mut client, request).await).await, "up");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_target_the_answer_is_a_page_and_not_silence() {
    let mut config = config(&[("/", "web"), ("/none", "none")], &[("web", &[nobody()]), ("none", &[])]);
    config.limits.hold_ms = 0;
    let edge = Edge::start(config);
    let first = edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n").await;
    assert_eq!(first.status, 502);
    assert!(first.text().contains("<h1>Bad Gateway</h1>") && !first.text().contains("127.0.0.1"), "{}", first.text());
    // The refusal has taken the only target out.
    let second = edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n").await;
    assert_eq!((second.status, second.field("retry-after")), (503, Some("1")));
    let none = edge.raw(b"GET /none HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n").await;
    assert_eq!((none.status, none.field("content-type")), (503, Some("application/json")));
    let body: api::ErrorBody = serde_json::from_slice(&none.body).unwrap();
    assert_eq!((body.code.as_str(), body.request_id.len()), ("unavailable", 32));
    let line = edge.log.line("of the 503", |l| l["path"] == "/none").await;
    assert_eq!((&line["note"], &line["trace"]), (&"no healthy target".into(), &body.request_id.into()));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn active_checks_take_a_target_out_and_bring_it_back() {
    let well = Arc::new(AtomicBool::new(true));
    let state = well.clone();
    let target = upstream(move |request| {
        let ill = !state.load(SeqCst) && request.uri().path() == "/health";
        async move {
            let status = if ill { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
            http::Response::builder().status(status).body(Full::default()).unwrap()
        }
    })
    .await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    let health = HealthCheck { path: "/health".into(), interval_ms: 20, timeout_ms: 2000, fall: 2, rise: 2 };
    config.upstreams.get_mut("web").unwrap().health = Some(health);
    let edge = Edge::start(config);
    assert_eq!(edge.control("/health").await["status"], "serving");
    for (now, status) in [(true, 200), (false, 503), (true, 200)] {
        well.store(now, SeqCst);
        wait_until(&format!("status {status}"), async || {
            (edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status == status).then_some(())
        })
        .await;
        assert_eq!(edge.control("/targets").await["targets"][0]["healthy"], now);
    }
    edge.stop().await;
}

/// An upstream that answers one request a connection, and does `then` with the second; counts both.
async fn dies_on_the_second(then: &'static [u8]) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let address = raw_upstream(move |number, mut stream| {
        let seen = seen.clone();
        async move {
            let head = read_head(&mut stream).await.unwrap_or_default();
            seen.lock().unwrap().push(format!("{number} {}", head.lines().next().unwrap_or_default()));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            if let Some(head) = read_head(&mut stream).await {
                seen.lock().unwrap().push(format!("{number} {}", head.lines().next().unwrap_or_default()));
                let _ = stream.write_all(then).await;
            }
        }
    })
    .await;
    (address, heads)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_request_is_sent_again_when_a_kept_connection_dies_without_a_byte() {
    let (target, heads) = dies_on_the_second(b"").await;
    let edge = edge_to(target).await;
    let mut client = edge.h1().await;
    assert_eq!(ask(&mut client, get("/1")).await.status(), 200);
    assert_eq!(ask(&mut client, get("/2")).await.status(), 200);
    assert_eq!(*heads.lock().unwrap(), ["0 GET /1 HTTP/1.1", "0 GET /2 HTTP/1.1", "1 GET /2 HTTP/1.1"]);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_carried_out_is_never_sent_again() {
    let post = |body: &'static str| Request::post("/2").header("host", "a").body(Full::new(Bytes::from(body))).unwrap();
    let put = Request::put("/2").header("host", "a").body(Full::new(Bytes::from("x"))).unwrap();
    for (then, second) in [(&b""[..], post("")), (b"", post("x")), (b"", put), (b"HTTP/1.1 2", get("/2"))] {
        let (target, heads) = dies_on_the_second(then).await;
        let edge = edge_to(target).await;
        let mut client = edge.h1().await;
        assert_eq!(ask(&mut client, get("/1")).await.status(), 200);
        let method = second.method().clone();
        assert_eq!(ask(&mut client, second).await.status(), 502, "{method}");
        assert_eq!(heads.lock().unwrap().len(), 2, "{method}");
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_late_is_answered_for_with_504() {
    let target = raw_upstream(|_, mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    config.limits.upstream_timeout_ms = 150;
    let edge = Edge::start(config);
    assert_eq!(edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 504);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_s_time_begins_when_the_body_has_ended() {
    let mut config = config(&[("/", "web")], &[("web", &[mirror().await])]);
    config.limits.upstream_timeout_ms = 300;
    let edge = Edge::start(config);
    let mut stream = edge.connect(b"http/1.1").await;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n").await.unwrap();
    // A client that is slow on purpose: its time must not count as the upstream's.
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..8 {
        ticks.tick().await;
        stream.write_all(b"x").await.unwrap();
    }
    assert_eq!(Answer::read(&mut stream).await.status, 200);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upstream_answer_never_looks_whole() {
    let answers: [(&[u8], u16); 6] = [
        (b"nonsense\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n: c\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz", 200),
    ];
    for (bytes, status) in answers {
        let target = raw_upstream(move |_, mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(bytes).await;
        })
        .await;
        let edge = edge_to(target).await;
        let answer = edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let shown = String::from_utf8_lossy(bytes);
        // An answer that breaks off may be cut before its head was sent on.
        assert!(answer.status == status || (status == 200 && answer.status == 0), "{shown:?} {answer:?}");
        assert_eq!(answer.whole, status == 502, "{shown:?} {answer:?}");
        edge.log.line(&shown, |l| l["note"].as_str().is_some_and(|n| n.starts_with("upstream"))).await;
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_upstream_request_along() {
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let (left, mut has_left) = tokio::sync::mpsc::unbounded_channel();
    let target = raw_upstream(move |_, mut stream| {
        let (asked, left) = (asked.clone(), left.clone());
        async move {
            read_head(&mut stream).await;
            asked.send(()).unwrap();
            let end = stream.read(&mut [0; 16]).await;
            left.send(matches!(end, Ok(0) | Err(_))).unwrap();
        }
    })
    .await;
    let edge = edge_to(target).await;
    for h2 in [false, true] {
        if h2 {
            let mut client = edge.h2().await;
            let open = tokio::spawn(async move { client.send_request(get("https://localhost/")).await });
            was_asked.recv().await.unwrap();
            open.abort();
        } else {
            let mut client = edge.connect(b"http/1.1").await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            was_asked.recv().await.unwrap();
            drop(client);
        }
        let gone = tokio::time::timeout(Duration::from_secs(20), has_left.recv()).await;
        assert_eq!(gone.expect("the upstream request ends with the client"), Some(true));
    }
    wait_until("two lines of 499", async || {
        (edge.log.lines().iter().filter(|l| l["status"] == 499).count() == 2).then_some(())
    })
    .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_an_answer_is_passed_on_when_it_comes() {
    let (next, _) = tokio::sync::broadcast::channel::<()>(8);
    let signals = next.clone();
    let target = raw_upstream(move |_, mut stream| {
        let signals = signals.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                let mut signal = signals.subscribe();
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
                for part in [&b"3\r\none\r\n"[..], b"3\r\ntwo\r\n", b"0\r\n\r\n"] {
                    signal.recv().await.unwrap();
                    stream.write_all(part).await.unwrap();
                }
            }
        }
    })
    .await;
    let edge = edge_to(target).await;
    let (mut h1, mut h2) = (edge.h1().await, edge.h2().await);
    for turn in 0..4 {
        let response = if turn % 2 == 0 {
            ask(&mut h1, get("/")).await
        } else {
            h2.send_request(get("https://localhost/")).await.unwrap()
        };
        let mut body = response.into_body();
        for part in ["one", "two"] {
            next.send(()).unwrap();
            let frame = tokio::time::timeout(Duration::from_secs(20), http_body_util::BodyExt::frame(&mut body)).await;
            assert_eq!(frame.expect("a part in time").unwrap().unwrap().into_data().unwrap(), part);
        }
        next.send(()).unwrap();
        let end = tokio::time::timeout(Duration::from_secs(20), http_body_util::BodyExt::collect(body)).await;
        assert_eq!(end.expect("the end in time").unwrap().to_bytes(), "");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_whole_both_ways_at_once() {
    let target = upstream(|request| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        http::Response::new(Full::new(body))
    })
    .await;
    let edge = edge_to(target).await;
    let sent: Bytes = (0..3_000_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let (mut h1, mut h2) = (edge.h1().await, edge.h2().await);
    for _ in 0..2 {
        let post = |uri: &str| Request::post(uri).header("host", "localhost").body(Full::new(sent.clone())).unwrap();
        for response in [ask(&mut h1, post("/")).await, h2.send_request(post("https://localhost/")).await.unwrap()] {
            let back = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
            assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
        }
        assert_eq!(ask(&mut h1, get("/")).await.status(), 200);
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_target_are_kept_and_shared() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let target = raw_upstream(move |_, mut stream| {
        count.fetch_add(1, SeqCst);
        async move {
            while read_head(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let edge = edge_to(target).await;
    for _ in 0..20 {
        assert_eq!(edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    }
    assert_eq!(connections.load(SeqCst), 1);
    edge.stop().await;
}
