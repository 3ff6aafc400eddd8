//! Raw bytes that must be refused, and what the upstream sees of them: nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A gateway and the count of requests its upstream saw.
async fn counted() -> (Edge, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let target = upstream(move |_| {
        seen.fetch_add(1, SeqCst);
        async { http::Response::new(Full::new(Bytes::from_static(b"ok"))) }
    })
    .await;
    (edge_to(target).await, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_framing_is_answered_400_and_never_forwarded() {
    let (edge, seen) = counted().await;
    let h = "Host: localhost\r\n";
    let hostile = [
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 3, 3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: +3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 0x3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: -1\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length:\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 99999999999999999999999\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content_Length: 3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length : 3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.0\r\n{h}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nabc\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n0\r\n folded\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X: a\r\n b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n {h}\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X: a\nY: b\r\n\r\n"),
        format!("GET / HTTP/1.1\n{h}\n"),
        format!("GET / HTTP/1.1\r\n{h}X: a\rY: b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}X: a\0b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{h}no colon\r\n\r\n"),
        format!("\r\nGET / HTTP/1.1\r\n{h}\r\n"),
        format!("GET  / HTTP/1.1\r\n{h}\r\n"),
        format!("GET / HTTP/1.1 \r\n{h}\r\n"),
        format!("GET /a b HTTP/1.1\r\n{h}\r\n"),
        format!("GET /#a HTTP/1.1\r\n{h}\r\n"),
        format!("GET / HTTP/1.2\r\n{h}\r\n"),
        format!("GET / HTTP/2.0\r\n{h}\r\n"),
        format!("GET / http/1.1\r\n{h}\r\n"),
        "GET /\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("G(T / HTTP/1.1\r\n{h}\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        "GET https://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        format!("GET http://localhost/ HTTP/1.1\r\n{h}\r\n"),
        format!("OPTIONS * HTTP/1.1\r\n{h}\r\n"),
        format!("GET admin HTTP/1.1\r\n{h}\r\n"),
    ];
    for request in &hostile {
        let answer = edge.raw(request.as_bytes()).await;
        assert_eq!(answer.status, 400, "{request:?}");
    }
    for (request, status) in [
        (format!("CONNECT localhost:443 HTTP/1.1\r\n{h}\r\n"), 405),
        (format!("TRACE / HTTP/1.1\r\n{h}\r\n"), 405),
        (format!("TRACK / HTTP/1.1\r\n{h}\r\n"), 405),
        (format!("get / HTTP/1.1\r\n{h}\r\n"), 405),
        (format!("GET / HTTP/1.1\r\n{h}Expect: the-spanish-inquisition\r\n\r\n"), 417),
        (format!("GET / HTTP/1.1\r\n{h}X: {}\r\n\r\n", "a".repeat(200_000)), 431),
        (format!("GET / HTTP/1.1\r\n{h}{}\r\n", "X: a\r\n".repeat(101)), 431),
    ] {
        let answer = edge.raw(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{:?}", &request[..request.len().min(80)]);
    }
    assert_eq!(seen.load(SeqCst), 0);
    // The same again, byte by byte: where the reads fall makes no difference.
    for request in
        hostile.iter().filter(|r| !r.contains("HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"))
    {
        let mut stream = edge.connect(b"http/1.1").await;
        for byte in request.as_bytes() {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            let _ = stream.flush().await;
        }
        let answer = Answer::read(&mut stream).await;
        assert!(matches!(answer.status, 400 | 0), "{request:?} {answer:?}");
    }
    assert_eq!(seen.load(SeqCst), 0);
    let lines = edge.stop().await;
    assert!(lines.len() >= hostile.len() && lines.iter().all(|l| l["status"].as_u64() >= Some(400)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ambiguous_passes() {
    let (edge, seen) = counted().await;
    let h = "Host: localhost\r\n";
    let good = [
        format!("GET / HTTP/1.1\r\n{h}\r\n"),
        format!("GET https://localhost/ HTTP/1.1\r\n{h}\r\n"),
        format!("GET / HTTP/1.0\r\n{h}\r\n"),
        format!("GET / HTTP/1.1\r\n{h}Content-Length: 2\r\n\r\nab"),
        format!("POST / HTTP/1.1\r\n{h}Content-Length: 00003\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{h}transfer-encoding: CHUNKED \r\n\r\n3;ext=\"q\"\r\nabc\r\n0\r\nX: y\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{h}Expect: 100-continue\r\nContent-Length: 1\r\n\r\na"),
        format!(
            "GET / HTTP/1.1\r\n{h}Empty:\r\nObs: \u{e9}\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
        ),
    ];
    for request in &good {
        let mut stream = edge.connect(b"http/1.1").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(Answer::read(&mut stream).await.status, 200, "{request:?}");
    }
    assert_eq!(seen.load(SeqCst), good.len());
    // Two in one write are two.
    let mut stream = edge.connect(b"http/1.1").await;
    stream
        .write_all(
            format!("POST / HTTP/1.1\r\n{h}Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n{h}Connection: close\r\n\r\n")
                .as_bytes(),
        )
        .await
        .unwrap();
    let mut both = String::new();
    let _ = stream.read_to_string(&mut both).await;
    assert_eq!(both.matches("HTTP/1.1 200").count(), 2);
    assert_eq!(seen.load(SeqCst), good.len() + 2);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_request_before_a_hostile_one_is_answered_and_the_hostile_one_is_not_forwarded() {
    let (edge, seen) = counted().await;
    let mut stream = edge.connect(b"http/1.1").await;
    let two = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /x HTTP/1.1\r\nHost: localhost\r\nA : b\r\n\r\nGET /y HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(two).await.unwrap();
    let mut both = String::new();
    let _ = stream.read_to_string(&mut both).await;
    assert!(both.starts_with("HTTP/1.1 200") && both.matches("HTTP/1.1 400").count() == 1, "{both}");
    assert_eq!((both.matches("HTTP/1.1").count(), seen.load(SeqCst)), (2, 1));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_above_the_limit_is_answered_413() {
    let target = mirror().await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    config.limits.body_bytes = 1000;
    let edge = Edge::start(config);
    let body = "a".repeat(1001);
    let answer = edge.raw(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{body}").as_bytes()).await;
    assert_eq!((answer.status, answer.field("connection")), (413, Some("close")));
    let chunked = "1f4\r\n".to_owned() + &"a".repeat(500) + "\r\n";
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(edge.raw(format!("{head}{chunked}{chunked}1\r\na\r\n0\r\n\r\n").as_bytes()).await.status, 413);
    assert_eq!(edge.raw(format!("{head}{chunked}{chunked}0\r\n\r\n").as_bytes()).await.status, 200);
    let mut h2 = edge.h2().await;
    let request = Request::post("https://a/").body(Full::new(Bytes::from(body))).unwrap();
    assert_eq!(h2.send_request(request).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(h2);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_in_each_part_of_a_request() {
    let target = mirror().await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    config.limits.header_timeout_ms = 200;
    config.limits.body_idle_timeout_ms = 200;
    config.limits.keep_alive_timeout_ms = 400;
    let edge = Edge::start(config);
    let ends = async |begin: &str, drip: &str| {
        let mut stream = edge.connect(b"http/1.1").await;
        let since = std::time::Instant::now();
        stream.write_all(begin.as_bytes()).await.unwrap();
        // Whoever sends a byte now and then is slow as well.
        let mut answer = String::new();
        let mut buffer = [0; 4096];
        loop {
            match tokio::time::timeout(std::time::Duration::from_millis(60), stream.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(n)) => answer.push_str(&String::from_utf8_lossy(&buffer[..n])),
                Err(_) if !drip.is_empty() => drop(stream.write_all(drip.as_bytes()).await),
                Err(_) => {}
            }
            assert!(since.elapsed().as_secs() < 10, "{begin:?} is still open");
        }
        (answer.split(' ').nth(1).unwrap_or_default().to_owned(), since.elapsed().as_millis())
    };
    // No byte at all, half a head, a dripping head.
    for (begin, drip) in [("", ""), ("GET / HTTP/1.1\r\nHost:", ""), ("GET / HTTP/1.1\r\nX-", "a")] {
        let (status, ms) = ends(begin, drip).await;
        assert!(status.is_empty() && (150..3000).contains(&ms), "{begin:?} {status} {ms}");
    }
    let (status, ms) = ends("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", "").await;
    assert!(status == "408" && (150..3000).contains(&ms), "{status} {ms}");
    let (status, ms) = ends("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "").await;
    assert!(status == "200" && (350..4000).contains(&ms), "{status} {ms}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let big = Bytes::from(vec![b'x'; 64 * 1024 * 1024]);
    let target = upstream(move |_| {
        let big = big.clone();
        async move { http::Response::new(Full::new(big)) }
    })
    .await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    config.limits.body_idle_timeout_ms = 200;
    let edge = Edge::start(config);
    let mut stream = edge.connect(b"http/1.1").await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let line = edge.log.line("of the cut answer", |l| l["status"] == 200).await;
    assert_eq!(line["note"], "client left");
    assert!(line["bytes"].as_u64() < Some(64 * 1024 * 1024), "{line}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let target = upstream(move |_| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|w| *w).await;
            http::Response::new(Full::default())
        }
    })
    .await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    config.limits.keep_alive_timeout_ms = 200;
    let edge = Edge::start(config);
    let mut client = edge.h2().await;
    let since = std::time::Instant::now();
    let open = client.send_request(get("https://localhost/"));
    tokio::pin!(open);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(600), &mut open).await.is_err());
    release.send_replace(true);
    assert_eq!(open.await.unwrap().status(), StatusCode::OK);
    wait_until("the end of the connection", async || client.is_closed().then_some(())).await;
    assert!(since.elapsed().as_millis() >= 800);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_wait_for_a_place() {
    let target = mirror().await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    config.limits.connections = 2;
    let edge = Edge::start(config);
    let first = edge.connect(b"http/1.1").await;
    let _second = edge.connect(b"http/1.1").await;
    let third = async { edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status };
    tokio::pin!(third);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), &mut third).await.is_err(), "served a third");
    drop(first);
    assert_eq!(third.await, 200);
    edge.shutdown.ask();
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_streams_and_fields_are_limited() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, top) = (open.clone(), most.clone());
    let target = upstream(move |_| {
        let (mut wait, seen, top) = (wait.clone(), seen.clone(), top.clone());
        async move {
            top.fetch_max(seen.fetch_add(1, SeqCst) + 1, SeqCst);
            let _ = wait.wait_for(|w| *w).await;
            seen.fetch_sub(1, SeqCst);
            http::Response::new(Full::default())
        }
    })
    .await;
    let mut config = config(&[("/", "web")], &[("web", &[target])]);
    config.limits.streams = 3;
    let edge = Edge::start(config);
    let client = edge.h2().await;
    let asked: Vec<_> = (0..9)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.send_request(get("https://localhost/")).await.map(|r| r.status()) })
        })
        .collect();
    wait_until("three open requests", async || (open.load(SeqCst) == 3).then_some(())).await;
    release.send_replace(true);
    for one in asked {
        match one.await.unwrap() {
            Ok(status) => assert_eq!(status, StatusCode::OK),
            // Sent before the client knew the limit: refused, which tells the client that it may send it again.
            Err(error) => assert!(format!("{error:?}").contains("REFUSED_STREAM"), "{error:?}"),
        }
    }
    assert!(most.load(SeqCst) <= 3);
    let mut many = Request::builder().method(Method::GET).uri("https://a/");
    for n in 0..101 {
        many = many.header(format!("x-{n}"), "1");
    }
    let answer = client.clone().send_request(many.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    edge.shutdown.ask();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_and_resets_http2_streams_is_cut() {
    let (edge, seen) = counted().await;
    let stream = edge.connect(b"h2").await;
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(id.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, b""));
    for n in 0..5000 {
        // :method GET, :path /, :scheme https, :authority a; then RST_STREAM with CANCEL.
        bytes.extend(frame(1, 5, 2 * n + 1, b"\x82\x84\x87\x41\x01a"));
        bytes.extend(frame(3, 0, 2 * n + 1, &8u32.to_be_bytes()));
    }
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
    });
    let mut all = Vec::new();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), read.read_to_end(&mut all)).await;
    assert!(ended.is_ok(), "the connection is still open");
    // GOAWAY is frame type 7, ENHANCE_YOUR_CALM is error 11.
    assert!(all.windows(4).any(|w| w == [7, 0, 0, 0]) && all.windows(4).any(|w| w == [0, 0, 0, 11]), "{all:?}");
    let _ = writing.await;
    assert!(seen.load(SeqCst) < 200, "{} requests went upstream", seen.load(SeqCst));
    // Others are served on.
    assert_eq!(edge.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    edge.stop().await;
}
