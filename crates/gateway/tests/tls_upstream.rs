//! Targets that speak TLS: known by their name, shown our certificate, and away when they close before the handshake.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use api::{
    Secret,
    gateway::{GatewayConfig, Upstream},
};
use support::*;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "a.example".into()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Answers `tls` to whoever is let in by `clients`; the first `closes` connections are reset before any handshake.
async fn target(pem: &(String, String), clients: &[String], closes: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    service::tls::install_provider();
    let certificate = service::Certificate::new(&Secret::new(&*pem.0), &Secret::new(&*pem.1)).unwrap();
    let tls = match clients {
        [] => service::tls::showing(certificate, &[], false),
        names => service::tls::showing_to(certificate, pem.0.as_bytes(), names),
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if count.fetch_add(1, SeqCst) < closes {
                rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
                continue;
            }
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while read_head(&mut stream).await.is_some() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntls").await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    (address, seen)
}

fn config_by(target: SocketAddr, name: &str) -> GatewayConfig {
    let mut config = config(&[("/", "web")], &[]);
    let upstream = Upstream { targets: vec![target], tls: Some(name.into()), ..Upstream::default() };
    config.upstreams.insert("web".into(), upstream);
    config
}

fn edge(config: GatewayConfig, pem: (String, String)) -> Edge {
    let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Edge::start_on(config, vec![listener(), listener()], pem, Log::default())
}

#[tokio::test]
async fn a_target_is_known_by_its_name_and_one_of_another_name_gets_nothing() {
    let pem = certificate();
    let (address, _) = target(&pem, &[], 0).await;
    for (name, status) in [("localhost", 200), ("elsewhere.example", 502)] {
        let edge = edge(config_by(address, name), pem.clone());
        let mut client = edge.h1().await;
        assert_eq!(ask(&mut client, get("/")).await.status(), status, "{name}");
        drop(client);
        edge.stop().await;
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let pem = certificate();
    let (address, seen) = target(&pem, &[], 0).await;
    let edge = edge(config_by(address, "localhost"), pem);
    let mut client = edge.h1().await;
    for _ in 0..3 {
        assert_eq!(text(ask(&mut client, get("/")).await).await, "tls");
    }
    assert_eq!(seen.load(SeqCst), 1);
    drop(client);
    edge.stop().await;
}

#[tokio::test]
async fn one_that_closes_before_the_handshake_is_away_and_requests_wait_for_it() {
    let pem = certificate();
    let (address, seen) = target(&pem, &[], 3).await;
    let edge = edge(config_by(address, "localhost"), pem);
    let mut client = edge.h1().await;
    let post =
        http::Request::post("/").header("host", "localhost").body(http_body_util::Full::new("once".into())).unwrap();
    assert_eq!(ask(&mut client, post).await.status(), 200);
    assert!(seen.load(SeqCst) > 3);
    drop(client);
    edge.stop().await;
}

#[tokio::test]
async fn whoever_asks_for_a_name_that_our_certificate_has_not_refuses_us() {
    let pem = certificate();
    let (address, _) = target(&pem, &["somebody.example".into()], 0).await;
    let edge = edge(config_by(address, "localhost"), pem);
    let mut client = edge.h1().await;
    assert_eq!(ask(&mut client, get("/")).await.status(), 502);
    drop(client);
    edge.stop().await;
}
