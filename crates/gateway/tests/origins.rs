//! A front door: an edge before the edges of other stamps, each verified with its own CA.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::collections::BTreeMap;

use api::gateway::{GatewayConfig, HealthCheck, Origin};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use support::*;

/// A stamp: its edge, and a service that says the stamp's name.
async fn stamp(name: &'static str) -> Edge {
    let service =
        upstream(move |_| async move { http::Response::new(Full::new(Bytes::from_static(name.as_bytes()))) }).await;
    edge_to(service).await
}

/// A door before these stamps, with the CA that each is verified with and its priority.
fn before(stamps: &[(&Edge, &str, u32)]) -> GatewayConfig {
    let targets: Vec<_> = stamps.iter().map(|(edge, ..)| edge.https).collect();
    let mut config = config(&[("/", "origins")], &[("origins", &targets)]);
    config.limits.hold_ms = 200;
    let upstream = config.upstreams.get_mut("origins").unwrap();
    for (edge, ca, priority) in stamps {
        let origin = Origin {
            stamp: format!("stamp-{}", edge.https.port()),
            ca_pem: (*ca).to_owned(),
            server_name: "localhost".into(),
            priority: *priority,
            weight: 1,
        };
        upstream.origins.insert(edge.https, origin);
    }
    upstream.health = Some(HealthCheck { path: "/".into(), interval_ms: 20, timeout_ms: 1000, fall: 1, rise: 1 });
    config
}

async fn healthy(door: &Edge, count: usize) {
    wait_until("so many healthy origins", async || {
        let seen = door.control("/targets").await;
        (seen["targets"].as_array()?.iter().filter(|t| t["healthy"] == true).count() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stamps_of_one_priority_share_and_one_that_is_down_is_out() {
    let (a, b) = (stamp("a").await, stamp("b").await);
    let (pem_a, pem_b) = (a.pem.0.clone(), b.pem.0.clone());
    let door = Edge::start(before(&[(&a, &pem_a, 1), (&b, &pem_b, 1)]));
    healthy(&door, 2).await;
    let mut client = door.h1().await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..10 {
        *counts.entry(text(ask(&mut client, get("/")).await).await).or_insert(0) += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("a".into(), 5), ("b".into(), 5)]);
    drop(a.kept);
    a.shutdown.ask();
    healthy(&door, 1).await;
    for _ in 0..6 {
        assert_eq!(text(ask(&mut client, get("/")).await).await, "b");
    }
    b.stop().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standby_gets_requests_only_while_the_preferred_is_down() {
    let (a, b) = (stamp("a").await, stamp("b").await);
    let (pem_a, pem_b) = (a.pem.0.clone(), b.pem.0.clone());
    let door = Edge::start(before(&[(&b, &pem_b, 2), (&a, &pem_a, 1)]));
    healthy(&door, 2).await;
    let mut client = door.h1().await;
    for _ in 0..6 {
        assert_eq!(text(ask(&mut client, get("/")).await).await, "a");
    }
    drop(a.kept);
    a.shutdown.ask();
    healthy(&door, 1).await;
    assert_eq!(text(ask(&mut client, get("/")).await).await, "b");
    b.stop().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stamp_that_another_ca_vouches_for_gets_nothing() {
    let (a, b) = (stamp("a").await, stamp("b").await);
    let pem_b = b.pem.0.clone();
    // Where `a` should be, somebody answers whom the CA of `b` vouches for.
    let door = Edge::start(before(&[(&a, &pem_b, 1)]));
    healthy(&door, 0).await;
    let mut client = door.h1().await;
    let answer = ask(&mut client, get("/")).await;
    assert!(
        matches!(answer.status(), StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE),
        "{}",
        answer.status()
    );
    assert!(a.log.lines().is_empty(), "{:?}", a.log.lines());
    a.stop().await;
    b.stop().await;
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_that_cannot_be_verified_are_refused_with_the_configuration() {
    let a = stamp("a").await;
    let config = before(&[(&a, "no certificate", 0)]);
    let Err(gateway::Error::Config(faults)) = gateway::check(&config) else { panic!("accepted") };
    assert!(faults.iter().any(|f| f.contains("priority and weight")), "{faults:?}");
    a.stop().await;
}
