//! Random request streams, built from the pieces that smuggling is made of. Whatever arrives upstream must be one
//! well-formed request, and the gateway must have logged it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What the upstream read, by a parser that knows nothing of the gateway's.
#[derive(Default)]
struct Seen {
    /// Trace id and path of whole requests.
    whole: Vec<(String, String)>,
    /// Bytes that are no request.
    malformed: Vec<String>,
}

enum Parsed {
    /// A request of so many bytes.
    Whole(usize, String, String),
    Part,
    Malformed(&'static str),
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Parsed::Part };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else { return Parsed::Malformed("head is not text") };
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let parts: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Parsed::Malformed("request line") };
    if !method.bytes().all(|b| b.is_ascii_uppercase()) || !target.starts_with('/') {
        return Parsed::Malformed("method or target");
    }
    let mut fields: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in lines {
        if line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t']) {
            return Parsed::Malformed("field line");
        }
        let Some((name, value)) = line.split_once(": ") else { return Parsed::Malformed("field without a colon") };
        // Any token but `_`, which CGI-like servers cannot tell from `-`.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&b)) {
            return Parsed::Malformed("field name");
        }
        fields.entry(name.to_ascii_lowercase()).or_default().push(value);
    }
    for one in ["host", "traceparent", "x-forwarded-for"] {
        if fields.get(one).map(Vec::len) != Some(1) {
            return Parsed::Malformed("not exactly one Host, traceparent, X-Forwarded-For");
        }
    }
    if fields["x-forwarded-for"] != ["127.0.0.1"] {
        return Parsed::Malformed("forged X-Forwarded-For");
    }
    let trace = fields["traceparent"][0].split('-').nth(1).unwrap_or_default().to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let body = end + 4;
    match (fields.get("content-length").map(Vec::as_slice), fields.get("transfer-encoding").map(Vec::as_slice)) {
        (None, None) => Parsed::Whole(body, trace, path),
        (Some([length]), None) => match length.parse::<usize>() {
            Ok(length) if bytes.len() >= body + length => Parsed::Whole(body + length, trace, path),
            Ok(_) => Parsed::Part,
            Err(_) => Parsed::Malformed("Content-Length"),
        },
        (None, Some(["chunked"])) => {
            let mut at = body;
            loop {
                let Some(line) = bytes[at..].windows(2).position(|w| w == b"\r\n") else { return Parsed::Part };
                let size =
                    std::str::from_utf8(&bytes[at..at + line]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
                let Some(size) = size else { return Parsed::Malformed("chunk size") };
                at += line + 2 + size + 2;
                if bytes.len() < at {
                    return Parsed::Part;
                }
                if &bytes[at - 2..at] != b"\r\n" {
                    return Parsed::Malformed("chunk end");
                }
                if size == 0 {
                    return Parsed::Whole(at, trace, path);
                }
            }
        }
        _ => Parsed::Malformed("two framings"),
    }
}

async fn recorder(seen: Arc<Mutex<Seen>>) -> std::net::SocketAddr {
    raw_upstream(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                match parse(&bytes) {
                    Parsed::Whole(length, trace, path) => {
                        bytes.drain(..length);
                        seen.lock().unwrap().whole.push((trace, path));
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                            return;
                        }
                    }
                    Parsed::Malformed(why) => {
                        seen.lock().unwrap().malformed.push(format!("{why}: {}", String::from_utf8_lossy(&bytes)));
                        return;
                    }
                    // A request that was cut off is none: nobody may act on it.
                    Parsed::Part => match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                    },
                }
            }
        }
    })
    .await
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let fixed = |all: &'static [&'static str]| proptest::sample::select(all).prop_map(|s| s.as_bytes().to_vec());
    prop_oneof![
        6 => fixed(&["GET / HTTP/1.1\r\nHost: a\r\n", "POST /p?q HTTP/1.1\r\nHost: a\r\n", "PUT /%2e/x HTTP/1.1\r\nHost: a\r\n", "GET /smuggled HTTP/1.1\r\nHost: a\r\n"]),
        6 => fixed(&["\r\n"]),
        8 => fixed(&[
            "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "POST /d HTTP/1.1\r\nHost: a\r\nContent-Length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nX: yyyyy\r\n\r\n",
            "PUT /e HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        ]),
        5 => fixed(&[
            "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Content-Length: 44\r\n", "content-length : 3\r\n", "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n", "Content_Length: 5\r\n",
        ]),
        5 => fixed(&[
            "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n", "Transfer-Encoding:\tchunked\r\n",
            "Transfer-Encoding: x\r\n chunked\r\n", "transfer-encoding: chunked, chunked\r\n", "Transfer_Encoding: chunked\r\n",
        ]),
        4 => fixed(&[
            "Connection: content-length\r\n", "Connection: transfer-encoding, host\r\n", "Connection: close\r\n", "Upgrade: websocket\r\n",
            "Connection: Upgrade, traceparent\r\n", "Expect: 100-continue\r\n", "X-Forwarded-For: 6.6.6.6\r\n", "TE: trailers\r\n",
            "X: a\rb\r\n", "X: a\n", "Host: b\r\n", " folded: 1\r\n", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
        ]),
        5 => fixed(&["hello", "0\r\n\r\n", "5\r\nhello\r\n", "5;x=y\r\nhello\r\n", "2 \r\nhi\r\n", "0\r\nX: y\r\n\r\n", "fffffffffffffffff\r\n", "\n", "\r", "\0"]),
        2 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

/// Streams of pieces; in half of them one byte is changed, doubled or left out.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let change = proptest::option::of((any::<proptest::sample::Index>(), any::<u8>(), 0..3u8));
    (proptest::collection::vec(pieces(), 1..14), change).prop_map(|(pieces, change)| {
        let mut bytes = pieces.concat();
        if let Some((index, byte, kind)) = change
            && !bytes.is_empty()
        {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, bytes[at]),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

#[test]
fn whatever_a_client_sends_the_upstream_gets_whole_requests_that_were_logged() {
    // A task that panics ends its connection only; here it ends the test.
    static PANICS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        hook(info);
    }));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let edge = runtime.block_on(async { edge_to(recorder(seen.clone()).await).await });
    let cases = std::env::var("STAMP_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        // Streams that once failed are tried first.
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/fuzz.seeds"))),
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&(stream(), proptest::collection::vec(1usize..40, 0..4)), |(bytes, cuts)| {
        runtime.block_on(async {
            let mut client = edge.connect(b"http/1.1").await;
            let mut rest = &bytes[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                let _ = client.write_all(now).await;
                let _ = client.flush().await;
                rest = later;
            }
            let _ = client.write_all(rest).await;
            let _ = client.shutdown().await;
            let mut answers = Vec::new();
            let read = tokio::time::timeout(std::time::Duration::from_secs(20), client.read_to_end(&mut answers)).await;
            prop_assert!(read.is_ok(), "the connection stays open after the client's end");
            Ok(())
        })?;
        let malformed = std::mem::take(&mut seen.lock().unwrap().malformed);
        prop_assert!(malformed.is_empty(), "{malformed:?}");
        prop_assert_eq!(PANICS.load(std::sync::atomic::Ordering::SeqCst), 0, "the gateway panicked");
        Ok(())
    });
    let lines = runtime.block_on(edge.stop());
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let mut logged: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in &lines {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        *logged.entry((text("trace"), text("path"))).or_default() += usize::from(!text("upstream").is_empty());
    }
    let seen = seen.lock().unwrap();
    for request in &seen.whole {
        let count = logged.get_mut(request).unwrap_or_else(|| panic!("{request:?} was not logged"));
        assert!(*count > 0, "{request:?} arrived more often than it was logged");
        *count -= 1;
    }
    let refused = lines.iter().filter(|l| l["status"] == 400).count();
    println!("{cases} streams: {} requests upstream, {refused} refused, {} lines", seen.whole.len(), lines.len());
    assert!(seen.whole.len() > 20 && refused > 20, "the streams are neither all good nor all bad");
}
