//! Upstreams that answer without reading the body: the answer arrives, and the client's connection ends in order.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SMALL: usize = 2 * 1024;
const LARGE: usize = 300 * 1024;

/// Reads the head only, answers 401 and closes; the system resets the connection if parts of the body have come. To a
/// POST it may say nothing of the end; a server that did so without a body would break its word.
async fn hasty(announced: bool) -> std::net::SocketAddr {
    raw_upstream(move |_, mut stream| async move {
        if let Some(head) = read_head(&mut stream).await {
            let close = if announced || head.starts_with("GET") { "Connection: close\r\n" } else { "" };
            let answer = format!("HTTP/1.1 401 Unauthorized\r\n{close}Content-Length: 7\r\n\r\nsign in");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

/// Head and body in two writes; the body is sent to its end, whatever is answered meanwhile.
async fn post(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    body: &[u8],
    chunked: bool,
) -> Answer {
    let framing = if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {}", body.len()) };
    let (mut reading, mut writing) = tokio::io::split(stream);
    let send = async {
        writing.write_all(format!("POST /x HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n").as_bytes()).await?;
        writing.flush().await?;
        tokio::task::yield_now().await;
        if chunked {
            writing.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await?;
            writing.write_all(body).await?;
            writing.write_all(b"\r\n0\r\n\r\n").await?;
        } else {
            writing.write_all(body).await?;
        }
        writing.flush().await
    };
    let (sent, answer) = tokio::join!(send, Answer::read(&mut reading));
    sent.expect("the connection takes the body to its end");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_a_small_body_was_read_leaves_the_connection_usable() {
    for announced in [true, false] {
        let edge = edge_to(hasty(announced).await).await;
        let mut stream = edge.connect(b"http/1.1").await;
        for round in 0..150 {
            let answer = post(&mut stream, &[b'x'; SMALL], false).await;
            assert_eq!((answer.status, answer.text().as_str()), (401, "sign in"), "round {round}, {announced}");
            assert_eq!(answer.field("connection"), None);
            stream.write_all(b"GET /y HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            assert_eq!(Answer::read(&mut stream).await.status, 401, "the next of round {round}, {announced}");
        }
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_a_large_body_was_read_arrives_and_the_connection_ends_in_order() {
    let edge = edge_to(hasty(false).await).await;
    for (rounds, size, chunked) in [(75, LARGE, false), (75, LARGE, true), (75, SMALL, true)] {
        let body = vec![b'x'; size];
        for round in 0..rounds {
            let mut stream = edge.connect(b"http/1.1").await;
            let answer = post(&mut stream, &body, chunked).await;
            let told = format!("round {round} of {size}, chunked {chunked}: {answer:?}");
            assert_eq!((answer.status, answer.text().as_str()), (401, "sign in"), "{told}");
            if answer.field("connection") == Some("close") {
                // Without close_notify this is an error, as is a reset.
                let end = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0; 16])).await;
                assert_eq!(end.expect("an end in time").unwrap(), 0, "{told}");
            } else {
                stream.write_all(b"GET /y HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
                assert_eq!(Answer::read(&mut stream).await.status, 401, "{told}");
            }
        }
    }
    let lines = edge.stop().await;
    assert!(lines.iter().all(|line| line["status"] == 401), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_an_early_answer_ends_its_stream_only() {
    let edge = edge_to(hasty(false).await).await;
    let mut client = edge.h2().await;
    for round in 0..150 {
        let size = if round % 2 == 0 { SMALL } else { LARGE };
        let request = Request::post("https://localhost/x").body(Full::new(Bytes::from(vec![b'x'; size]))).unwrap();
        let response = client.send_request(request).await.unwrap_or_else(|e| panic!("round {round}: {e:?}"));
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "round {round}");
        assert_eq!(text(response).await, "sign in");
        let next = client.send_request(get("https://localhost/y")).await.unwrap();
        assert_eq!(next.status(), StatusCode::UNAUTHORIZED, "the next of round {round}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_in_the_midst_of_its_body_gets_the_reason() {
    let mut config = config(&[("/", "web")], &[("web", &[mirror().await])]);
    config.limits.body_bytes = 100 * 1024;
    let edge = Edge::start(config);
    for chunked in [false, true] {
        for round in 0..20 {
            let mut stream = edge.connect(b"http/1.1").await;
            let answer = post(&mut stream, &vec![b'x'; LARGE], chunked).await;
            assert_eq!(answer.status, 413, "round {round}, chunked {chunked}");
            assert_eq!(answer.field("connection"), Some("close"));
            let end = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0; 16])).await;
            assert_eq!(end.expect("an end in time").unwrap(), 0, "round {round}, chunked {chunked}");
        }
    }
    edge.stop().await;
}
