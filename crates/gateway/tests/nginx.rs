//! The same hostile bytes to nginx and to the gateway: what nginx refuses, the gateway refuses; what both forward
//! arrives alike; where the gateway is stricter, the table says why.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// nginx on PATH or among the unpacked engines.
fn nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Some(home) = std::env::var_os("STAMP_HOME") {
        let engines = Path::new(&home).join("engines");
        places.extend(std::fs::read_dir(&engines).into_iter().flatten().flatten().map(|e| e.path()));
        places.extend(std::fs::read_dir(&engines).into_iter().flatten().flatten().map(|e| e.path().join("usr/sbin")));
    }
    places.push("/usr/sbin".into());
    places.into_iter().map(|p| p.join("nginx")).find(|p| p.is_file())
}

struct Nginx(Child, tempfile::TempDir);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Nginx {
    fn start(binary: &Path, upstream: std::net::SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .concat();
        // nginx is given what makes it comparable: HTTP/1.1 upstream, and bodies passed on as they come.
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr crit;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; {temporary}\n server {{ listen unix:{at}/socket;\n location / {{\n\
             proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host $http_host; }} }} }}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new(binary);
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf")).arg("-e").arg("stderr");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap(), dir)
    }

    async fn raw(&self, bytes: &[u8]) -> Vec<u16> {
        let socket = self.1.path().join("socket");
        let mut stream =
            wait_until("nginx to listen", async || tokio::net::UnixStream::connect(&socket).await.ok()).await;
        let _ = stream.write_all(bytes).await;
        statuses(&mut stream).await
    }
}

/// The statuses that come until the connection ends or nothing comes for a while.
async fn statuses(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u16> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(Ok(n)) = tokio::time::timeout(std::time::Duration::from_millis(250), stream.read(&mut buffer)).await {
        if n == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..n]);
    }
    let text = String::from_utf8_lossy(&all).into_owned();
    text.split("HTTP/1.1 ").skip(1).filter_map(|s| s.get(..3)?.parse().ok()).collect()
}

/// The first lines and bodies of requests, chunked bodies decoded, as an upstream of its own reads them.
type Requests = Arc<Mutex<Vec<(String, String)>>>;

async fn recorder() -> (std::net::SocketAddr, Requests) {
    let requests: Requests = Arc::default();
    let seen = requests.clone();
    let address = upstream(move |request| {
        let seen = seen.clone();
        async move {
            let first = format!("{} {}", request.method(), request.uri());
            if let Ok(body) = http_body_util::BodyExt::collect(request.into_body()).await {
                seen.lock().unwrap().push((first, String::from_utf8_lossy(&body.to_bytes()).into_owned()));
            }
            http::Response::new(http_body_util::Full::new(bytes::Bytes::from_static(b"ok")))
        }
    })
    .await;
    (address, requests)
}

/// What is expected of the pair.
enum Both {
    Refuse,
    Forward,
    /// nginx lets it pass (as it is, or mended); the gateway does not, for this reason.
    Stricter(&'static str),
}
use Both::{Forward, Refuse, Stricter};

fn table() -> Vec<(String, Both)> {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}\r\n");
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}");
    let chunked = |body: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"));
    vec![
        (get(""), Forward),
        (get("X:\r\n"), Forward),
        (get("X: \u{e9}\r\n"), Forward),
        (post("Content-Length: 5\r\n\r\nhello"), Forward),
        (post("content-LENGTH:5 \r\n\r\nhello"), Forward),
        (post("Content-Length: 0\r\n\r\n"), Forward),
        (chunked("5\r\nhello\r\n0\r\n\r\n"), Forward),
        (chunked("2\r\nhe\r\n003\r\nllo\r\n0\r\n\r\n"), Forward),
        (chunked("5;name=value\r\nhello\r\n0\r\n\r\n"), Forward),
        (chunked("0\r\n\r\n"), Forward),
        (chunked("A\r\n0123456789\r\n0\r\nX: y\r\n\r\n"), Forward),
        ("GET /a?b=c&d=%20 HTTP/1.1\r\nHost: a\r\n\r\n".into(), Forward),
        (get("") + &get(""), Forward),
        (post("Content-Length: 5\r\n\r\nhello") + &get(""), Forward),
        (post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Refuse),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"), Refuse),
        (post("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), Refuse),
        (post("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), Refuse),
        (post("Content-Length: 3, 3\r\n\r\nabc"), Refuse),
        (post("Content-Length: +3\r\n\r\nabc"), Refuse),
        (post("Content-Length: -3\r\n\r\nabc"), Refuse),
        (post("Content-Length: 3 3\r\n\r\nabc"), Refuse),
        (post("Content-Length: 0x3\r\n\r\nabc"), Refuse),
        (post("Content-Length: 99999999999999999999\r\n\r\nabc"), Refuse),
        (post("Content-Length : 3\r\n\r\nabc"), Refuse),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Refuse),
        (post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), Refuse),
        (post("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), Refuse),
        (post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), Refuse),
        (post("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"), Refuse),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Refuse),
        (chunked("+5\r\nhello\r\n0\r\n\r\n"), Refuse),
        (chunked("0x5\r\nhello\r\n0\r\n\r\n"), Refuse),
        (chunked("5\r\nhelloX\r\n0\r\n\r\n"), Refuse),
        (chunked("fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), Refuse),
        (chunked("\r\n5\r\nhello\r\n0\r\n\r\n"), Refuse),
        (get("X: a\0b\r\n"), Refuse),
        (get(": a\r\n"), Refuse),
        (get("X: a\r\n b\r\n"), Refuse),
        (get("X: a\rY: b\r\n"), Refuse),
        (get("no colon\r\n"), Refuse),
        (chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"), Refuse),
        (get("X y: a\r\n"), Refuse),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), Refuse),
        ("GET / HTTP/1.1\r\n\r\n".into(), Refuse),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), Refuse),
        ("GET / HTTP/3.1\r\nHost: a\r\n\r\n".into(), Refuse),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refuse),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refuse),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".into(), Refuse),
        ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refuse),
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refuse),
        ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refuse),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), Stricter("bare LF ends a line in one server and not in another")),
        (get("X: a\nY: b\r\n"), Stricter("bare LF hides a field from servers that want CRLF")),
        (
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            Stricter("an empty line before a request hides an off-by-two of a body"),
        ),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Stricter("spaces in the request line are split in two ways")),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n".into(), Stricter("spaces in the request line are split in two ways")),
        (
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            Stricter("a fragment is no part of a target; routes would differ"),
        ),
        (
            "GET /x/../y HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            Stricter("dot segments are resolved by some and not by others"),
        ),
        ("GET /x%2f..%2fy HTTP/1.1\r\nHost: a\r\n\r\n".into(), Stricter("encoded slashes are separators to some")),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Stricter("Host and target name two hosts")),
        (
            post("Content_Length: 5\r\n\r\n"),
            Stricter("CGI-like servers take it for Content-Length; nginx drops the field"),
        ),
        (chunked("5 \r\nhello\r\n0\r\n\r\n"), Stricter("space after a chunk size is read as part of it by some")),
        (chunked("5\nhello\r\n0\r\n\r\n"), Stricter("bare LF after a chunk size")),
        (chunked("5\r\nhello\n0\r\n\r\n"), Stricter("bare LF after a chunk")),
        (chunked("0\r\nContent-Length: 5\r\n\r\n"), Stricter("framing in trailers; nginx drops trailers")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_forwards_what_nginx_forwards_or_says_why_not() {
    let Some(binary) = nginx() else {
        println!("SKIP: no nginx on PATH, in /usr/sbin or in STAMP_HOME/engines");
        return;
    };
    let (nginx_target, nginx_saw) = recorder().await;
    let (our_target, we_saw) = recorder().await;
    let nginx = Nginx::start(&binary, nginx_target);
    let edge = edge_to(our_target).await;
    let mut wrong = Vec::new();
    for (request, expected) in table() {
        nginx_saw.lock().unwrap().clear();
        we_saw.lock().unwrap().clear();
        let mut stream = edge.connect(b"http/1.1").await;
        let _ = stream.write_all(request.as_bytes()).await;
        let (theirs, ours) = tokio::join!(nginx.raw(request.as_bytes()), statuses(&mut stream));
        let (they, we) = (nginx_saw.lock().unwrap().clone(), we_saw.lock().unwrap().clone());
        let refused = |statuses: &[u16], saw: &[(String, String)]| saw.is_empty() && statuses.iter().all(|s| *s >= 400);
        let fits = match expected {
            Forward => !we.is_empty() && they == we && ours == theirs,
            Refuse => refused(&ours, &we) && refused(&theirs, &they),
            Stricter(why) => {
                // Another version of nginx may have become as strict.
                let now = if refused(&theirs, &they) { "refuses it too" } else { "lets it pass" };
                println!("stricter: {request:?}: {why}; this nginx {now}");
                refused(&ours, &we)
            }
        };
        if !fits {
            wrong.push(format!("{request:?}\n  nginx {theirs:?} {they:?}\n  ours  {ours:?} {we:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table().len(), wrong.join("\n"));
    println!(
        "{} framings, {} where the gateway is stricter",
        table().len(),
        table().iter().filter(|(_, b)| matches!(b, Stricter(_))).count()
    );
    edge.stop().await;
}
