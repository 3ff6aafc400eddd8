//! What passes the gateway, and as what.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use api::gateway::{Route, TlsMin};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use support::*;
use tokio::net::TcpStream;

fn told(answer: &str) -> (serde_json::Value, impl Fn(&str) -> Vec<String> + use<>) {
    let value: serde_json::Value = serde_json::from_str(answer).unwrap();
    let fields = value["fields"].clone();
    let all = move |name: &str| {
        let pairs = fields.as_array().unwrap().iter();
        pairs.filter(|p| p[0] == name).map(|p| p[1].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    (value, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_with_the_gateway_s_word_for_who_sent_it() {
    let edge = edge_to(mirror().await).await;
    let answer = edge
        .raw(
            b"POST /a/b?c=d HTTP/1.1\r\nHost: a.example:8443\r\nContent-Length: 5\r\nX-Forwarded-For: 6.6.6.6\r\n\
              X_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: evil\r\n\
              X-Real-IP: 6.6.6.6\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
              Proxy-Authorization: x\r\nX-End: stays\r\n\
              traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n\r\nhello",
        )
        .await;
    assert_eq!(answer.status, 200);
    let (request, field) = told(&answer.text());
    assert_eq!(
        (&request["method"], &request["target"], &request["body"]),
        (&"POST".into(), &"/a/b?c=d".into(), &"hello".into())
    );
    assert_eq!(field("host"), ["a.example:8443"]);
    assert_eq!(field("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(field("x-forwarded-proto"), ["https"]);
    assert_eq!(field("x-forwarded-host"), ["a.example:8443"]);
    assert_eq!(field("x-end"), ["stays"]);
    assert_eq!(field("tracestate"), ["a=1"]);
    for gone in
        ["x_forwarded_for", "forwarded", "x-real-ip", "x-hop", "te", "keep-alive", "proxy-authorization", "connection"]
    {
        assert_eq!(field(gone), Vec::<String>::new(), "{gone}");
    }
    let parent = field("traceparent").concat();
    assert!(
        parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && !parent.contains("00f067aa0ba902b7"),
        "{parent}"
    );
    assert!(answer.field("server").is_none());
    assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.field("x-frame-options"), Some("DENY"));
    assert_eq!(answer.field("strict-transport-security"), Some("max-age=31536000"));
    assert!(answer.field("referrer-policy").is_some() && answer.field("permissions-policy").is_some());
    assert!(answer.field("content-security-policy").is_none());

    let line = edge.log.line("of the request", |l| l["status"] == 200).await;
    assert_eq!(line["path"], "/a/b");
    assert_eq!(line["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((&line["method"], &line["received"], &line["client"]), (&"POST".into(), &5.into(), &"127.0.0.1".into()));
    assert_eq!(line["bytes"], answer.body.len());
    assert!(line["upstream"].as_str().unwrap().starts_with("web 127.0.0.1:"));
    assert!(!serde_json::to_string(&line).unwrap().contains("c=d"), "the query is not logged");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_s_own_security_fields_stay_and_its_server_field_goes() {
    let target = upstream(|_| async {
        http::Response::builder()
            .header("x-frame-options", "SAMEORIGIN")
            .header("content-security-policy", "default-src 'self'")
            .header("server", "kestrel")
            .header("connection", "x-internal")
            .header("x-internal", "1")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(Full::new(Bytes::from_static(b"ok")))
            .unwrap()
    })
    .await;
    let edge = edge_to(target).await;
    let answer = edge.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.field("x-frame-options"), Some("SAMEORIGIN"));
    assert_eq!(answer.field("content-security-policy"), Some("default-src 'self'"));
    assert_eq!(answer.fields["set-cookie"], ["a=1", "b=2"]);
    assert!(answer.field("server").is_none() && answer.field("x-internal").is_none());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_served_and_logged_like_http1() {
    let edge = edge_to(mirror().await).await;
    let mut client = edge.h2().await;
    let request = Request::post("https://a.example/x?y=z")
        .header("x-forwarded-for", "6.6.6.6")
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::from_static(b"hello")))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    assert_eq!(response.headers()["x-frame-options"], "DENY");
    let (request, field) = told(&text(response).await);
    assert_eq!((&request["target"], &request["body"]), (&"/x?y=z".into(), &"hello".into()));
    assert_eq!((field("host"), field("x-forwarded-for")), (vec!["a.example".into()], vec!["127.0.0.1".into()]));
    assert!(field("te").is_empty());
    assert_eq!(field("cookie"), ["a=1; b=2"]);

    for refused in [
        Request::post("https://a.example/a/%2e%2e/b").body(Full::default()),
        Request::get("https://a.example/a%2fb").body(Full::default()),
        Request::get("https://a.example/").header("host", "b.example").body(Full::default()),
    ] {
        assert_eq!(client.send_request(refused.unwrap()).await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
    let trace = Request::builder().method(Method::TRACE).uri("https://a.example/").body(Full::default()).unwrap();
    assert_eq!(client.send_request(trace).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    drop(client);
    let lines = edge.stop().await;
    assert_eq!(lines.iter().filter(|l| l["protocol"] == "HTTP/2").count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_go_by_host_and_whole_segments_and_cannot_be_dodged() {
    let named = |name: &'static str| {
        upstream(move |_| async move { http::Response::new(Full::new(Bytes::from_static(name.as_bytes()))) })
    };
    let (root, admin, other) = (named("root").await, named("admin").await, named("other").await);
    let mut config =
        config(&[("/", "root"), ("/admin", "admin")], &[("root", &[root]), ("admin", &[admin]), ("other", &[other])]);
    config.routes.push(Route { hosts: vec!["a.example".into()], path: "/only".into(), to: "other".into() });
    let edge = Edge::start(config.clone());
    let mut client = edge.h1().await;
    let mut asked = async |host: &str, path: &str| {
        let request = Request::get(path).header("host", host).body(Full::default()).unwrap();
        text(ask(&mut client, request).await).await
    };
    for path in ["/admin", "/admin/x", "/%61dmin", "//admin", "/admin;x=1/y"] {
        assert_eq!(asked("localhost", path).await, "admin", "{path}");
    }
    for path in ["/", "/admins", "/x/admin"] {
        assert_eq!(asked("localhost", path).await, "root", "{path}");
    }
    assert_eq!(asked("A.example:8443", "/only/x").await, "other");
    for path in
        ["/x/../admin", "/x/%2e%2e/admin", "/x%2f..%2fadmin", "/x\\admin", "/%5cadmin", "/a%00", "/..;/admin", "/%zz"]
    {
        let answer = edge.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        assert_eq!(answer.status, 400, "{path}");
    }
    edge.stop().await;

    // With named hosts only, another host is nobody's.
    config.routes.retain(|r| !r.hosts.is_empty());
    let edge = Edge::start(config);
    let status = async |host: &str, path: &str| {
        edge.raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.status
    };
    assert_eq!(status("localhost", "/only").await, 421);
    assert_eq!(status("a.example", "/else").await, 404);
    assert_eq!(status("a.example", "/only").await, 200);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_listener_redirects_and_does_nothing_else() {
    let edge = edge_to(mirror().await).await;
    let ask = async |request: &str| {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = TcpStream::connect(edge.http).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    };
    let answer = ask("GET /a?b=c HTTP/1.1\r\nHost: a.example:8080\r\n\r\n").await;
    assert_eq!((answer.status, answer.field("location")), (301, Some("https://a.example:8443/a?b=c")));
    let answer = ask("POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!((answer.status, answer.field("location")), (308, Some("https://a.example:8443/a")));
    assert!(answer.field("strict-transport-security").is_none(), "HSTS is for TLS only");
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").await.status, 400);
    assert_eq!(ask("GET / HTTP/1.1\r\n\r\n").await.status, 400);
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.status, 400);
    let lines = edge.stop().await;
    assert!(lines.iter().all(|l| l["upstream"] == ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_12_is_served_unless_the_configuration_says_13() {
    let target = mirror().await;
    for (min, fits) in [(TlsMin::V1_2, true), (TlsMin::V1_3, false)] {
        let mut config = config(&[("/", "web")], &[("web", &[target])]);
        config.tls_min = min;
        let edge = Edge::start(config);
        for (version, fits) in [(&rustls::version::TLS12, fits), (&rustls::version::TLS13, true)] {
            let connector = tokio_rustls::TlsConnector::from(edge.client_tls(b"http/1.1", &[version]));
            let stream = TcpStream::connect(edge.https).await.unwrap();
            let joined = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await;
            assert_eq!(joined.is_ok(), fits, "{min:?} {version:?}");
        }
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_a_body_keeps_its_length_and_the_connection() {
    let target = raw_upstream(|_, mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        while let Some(head) = read_head(&mut stream).await {
            let answer: &[u8] = if head.starts_with("HEAD") {
                b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"
            } else if head.starts_with("GET /304") {
                b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\nTrailer: X\r\n\r\n2\r\nab\r\n0\r\nX: 1\r\n\r\n"
            };
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let edge = edge_to(target).await;
    let mut client = edge.h1().await;
    for _ in 0..3 {
        let head = Request::head("/").header("host", "localhost").body(Full::default()).unwrap();
        let response = ask(&mut client, head).await;
        assert_eq!(response.headers()["content-length"], "12345");
        assert_eq!(text(response).await, "");
        assert_eq!(ask(&mut client, get("/304")).await.status(), StatusCode::NOT_MODIFIED);
        let response = ask(&mut client, get("/")).await;
        assert!(!response.headers().contains_key("content-length") && !response.headers().contains_key("trailer"));
        assert_eq!(text(response).await, "ab");
    }
    let lines = edge.stop().await;
    assert_eq!(lines.iter().filter(|l| l["note"].is_null()).count(), 9, "{lines:#?}");
}
