//! Whether connections are encrypted: seen on the wire, at the router of the stamp's network, and tried at every port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use api::supervisor::NetworkStatus;
use drivers::network::{Network, namespace, watch::Conversation};

use super::{network, stamps::listening};
use crate::{Lab, Miss, Seen, Site, claim::Call, harm::kill, inside::Ask, miss, must, site::until, tls::plain_at};

const PATIENCE: Duration = Duration::from_secs(2);
/// PostgreSQL's SSLRequest: length 8, then the code 80877103 (its protocol, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// `every_connection(SERVICE, VARIABLE OF ITS DATABASE, SECRET[, GROUP OF PEOPLE])`: the parts that call others are ended and start anew under a
/// watch, people sign in and work, and what passed the router is told apart by its first bytes; then every port is tried
/// without TLS.
pub async fn every_connection(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let network = network::of(&site).await?;
    let (service, variable, secret) = (c.argument(0, "web"), c.argument(1, ""), c.argument(2, ""));
    let workload = format!("service.{service}");
    let folder = site.status.resources.iter().find_map(|r| r.place.as_ref()?.namespace.parent().map(ToOwned::to_owned));
    let folder = folder.ok_or_else(|| Miss::Failed("no workload has a place in a closed network".into()))?;
    let watch = Network::at(folder).watch()?;
    // What calls others does so anew, so that the beginning of each connection is seen.
    for name in [workload.as_str(), "edge"].into_iter().map(str::to_owned).chain(site.first("vault")) {
        let pid = site.pids(&name).get(1).copied();
        kill(pid.ok_or_else(|| Miss::Failed(format!("{name} has no process")))?)?;
    }
    let site = until("the stamp serves again", async || {
        let site = lab.restore(on).await?;
        let status = site.client(&site.url("edge")?)?.send("GET", "/health", None).await?.status;
        must!(status.is_success(), "{status}");
        Ok(site)
    })
    .await?;
    let mut person = site.signed_in(&[c.argument(3, "user")]).await?;
    let me = person.get("/api/v1/me").await?.status;
    must!(me == 200, "a person who signed in is answered {me}");
    let url = site.url(&site.first("vault")?)?;
    let asks = [
        Ask::Sql { variable: variable.into(), statements: vec!["SELECT 1".into()] },
        Ask::Http {
            method: "GET".into(),
            url: format!("{url}/secrets/{secret}?api-version=7.4"),
            resource: Some("https://vault.azure.net".into()),
            body: None,
            headers: Default::default(),
            told: false,
        },
    ];
    site.inside(service, &asks).await?;
    // Telemetry and audit go out in their own time.
    until("the parts have told what they did", async || {
        let now = network::of(&site).await?;
        for kind in ["telemetry", "audit"] {
            let to = site.first(kind)?;
            let told = now.flows.iter().filter(|f| f.to == to).map(|f| f.count).sum::<u64>();
            let before = network.flows.iter().filter(|f| f.to == to).map(|f| f.count).sum::<u64>();
            // What was connected before the watch may still be in use.
            must!(told > before || told > 0, "nobody has called {to}");
        }
        Ok(())
    })
    .await?;
    let all = tokio::task::spawn_blocking(move || watch.seen()).await.map_err(|e| Miss::Failed(e.to_string()))??;
    let told = judge(&site, &network, &all, &workload)?;
    let tried = tries(&site, &network).await?;
    Ok(format!("{told}; {tried}"))
}

/// What a side says first, in words; None: it is TLS.
fn fault(conversation: &Conversation) -> Option<String> {
    let (says, answers) = (conversation.says.as_slice(), conversation.answers.as_slice());
    // Record types 20 to 23, then version 3.x: RFC 8446, section 5.1. A handshake begins with type 22.
    let record = |bytes: &[u8]| bytes.len() >= 3 && (20..=23).contains(&bytes[0]) && bytes[1] == 3 && bytes[2] <= 4;
    let hello = |bytes: &[u8]| record(bytes) && bytes[0] == 22;
    let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).escape_debug().to_string();
    if says.is_empty() && answers.is_empty() {
        return None;
    }
    if !conversation.begun {
        let both = [says, answers].into_iter().filter(|b| !b.is_empty()).all(record);
        return (!both).then(|| format!("goes on with `{}` and `{}`", shown(says), shown(answers)));
    }
    let after = match says.strip_prefix(&SSL_REQUEST) {
        Some(_) if answers.first() != Some(&b'S') => return Some("is refused TLS".into()),
        Some([]) => return None,
        Some(rest) => rest,
        None => says,
    };
    (!hello(after)).then(|| format!("begins with `{}`", shown(after)))
}

/// Looks through what passed: each is encrypted, and each pair that was in use was seen.
fn judge(site: &Site, network: &NetworkStatus, all: &[Conversation], service: &str) -> Seen {
    let mut names: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (workload, place) in &network.places {
        names.insert(IpAddr::V4(place.address), workload.clone());
    }
    for resource in &site.status.resources {
        names.insert(site.address(&resource.name)?.ip(), resource.name.clone());
    }
    let name = |at: SocketAddrV4| {
        let ip = IpAddr::V4(*at.ip());
        names.get(&ip).cloned().unwrap_or_else(|| ip.to_string())
    };
    let mut pairs: BTreeMap<String, usize> = BTreeMap::new();
    let (mut begun, mut before, mut silent) = (0, 0, 0);
    for conversation in all {
        let pair = format!("{} to {}:{}", name(conversation.from), name(conversation.to), conversation.to.port());
        if let Some(fault) = fault(conversation) {
            miss!("a connection from {pair} {fault}");
        }
        if conversation.says.is_empty() && conversation.answers.is_empty() {
            silent += 1;
            continue;
        }
        if conversation.begun {
            begun += 1
        } else {
            before += 1
        }
        *pairs.entry(pair).or_default() += 1;
    }
    // What the edge and the service were ended for.
    for flow in network.flows.iter().filter(|f| matches!(f.why.as_str(), "route" | "needs") && !f.closed) {
        let from_ended = flow.from == "edge" || flow.from == service;
        let seen = pairs.keys().any(|pair| *pair == format!("{} to {}:{}", flow.from, flow.to, flow.port));
        must!(seen || !from_ended, "no connection from {} to {} was seen", flow.from, flow.to);
    }
    let list: Vec<String> = pairs.iter().map(|(pair, count)| format!("{pair} ({count})")).collect();
    Ok(format!(
        "{} connections between workloads, all of them TLS: {begun} from their first byte, {before} in the middle, {silent} said nothing: {}",
        begun + before,
        list.join(", ")
    ))
}

/// Speaks without TLS to every port that a workload has open to others.
async fn tries(site: &Site, network: &NetworkStatus) -> Seen {
    let mut ears: BTreeSet<(SocketAddr, String)> = BTreeSet::new();
    for resource in &site.status.resources {
        let at = resource.pids.iter().flat_map(|pid| listening(*pid));
        ears.extend(at.filter(|at| at.ip() != std::net::Ipv4Addr::LOCALHOST).map(|at| (at, resource.name.clone())));
    }
    let mut said = Vec::new();
    for (at, owner) in &ears {
        // From the place of somebody who may connect; who nobody may call is refused by the network already.
        let at = SocketAddr::new(if at.ip().is_unspecified() { place_of(network, owner)? } else { at.ip() }, at.port());
        let caller = network.flows.iter().find(|f| f.to == *owner && f.port == at.port() && !f.closed);
        let from = caller.and_then(|f| network.places.get(&f.from)).map(|place| place.namespace.clone());
        let dial = match from {
            Some(from) => namespace::dial(from),
            // People reach these from the machine's own network.
            None if at.ip().is_loopback() => std::sync::Arc::new(|to| {
                Box::pin(async move { tokio::net::TcpStream::connect(to).await }) as namespace::Dialling
            }),
            None => continue,
        };
        let hello: Vec<u8> = if owner.starts_with("postgres.") { start_up() } else { request(&at) };
        let stream =
            tokio::time::timeout(PATIENCE, dial(at)).await.map_err(|_| Miss::Failed(format!("{at}: no answer")))?;
        let answer = plain_at(stream?, &hello).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let refused = match answer.first() {
            None => "closed".to_owned(),
            // An alert, in the clear.
            Some(21) => format!("alert {}", answer.get(6).copied().unwrap_or_default()),
            // PostgreSQL's error; R would ask for a password, or let in.
            Some(b'E') if owner.starts_with("postgres.") => {
                text.split('\0').find_map(|f| f.strip_prefix('M')).unwrap_or("an error").to_owned()
            }
            // The edge's plain port leads to the encrypted one and serves nothing.
            Some(_) if owner == "edge" && leads_away(&text) => "only leads to https".to_owned(),
            Some(_) => miss!("{owner} at {at} answers without TLS: {}", text.chars().take(60).collect::<String>()),
        };
        said.push(format!("{owner} at {at}: {refused}"));
    }
    must!(said.len() >= network.places.len().min(5), "only {said:?} could be tried");
    Ok(format!("without TLS: {}", said.join(", ")))
}

/// Whether an answer is a redirect to the encrypted port.
fn leads_away(answer: &str) -> bool {
    let moved = ["HTTP/1.1 301 ", "HTTP/1.1 308 "].iter().any(|status| answer.starts_with(status));
    moved && answer.to_ascii_lowercase().contains("\r\nlocation: https://")
}

fn place_of(network: &NetworkStatus, workload: &str) -> Result<IpAddr, Miss> {
    let place = network.places.get(workload);
    place.map(|p| IpAddr::V4(p.address)).ok_or_else(|| Miss::Failed(format!("{workload} has no place")))
}

fn request(at: &SocketAddr) -> Vec<u8> {
    format!("GET /health HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// A start-up message without TLS: protocol 3.0, user and database `postgres`.
fn start_up() -> Vec<u8> {
    let mut hello = vec![0, 0, 0, 0, 0, 3, 0, 0];
    hello.extend(b"user\0postgres\0database\0postgres\0\0");
    let length = hello.len() as u32;
    hello[..4].copy_from_slice(&length.to_be_bytes());
    hello
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn said(begun: bool, says: &[u8], answers: &[u8]) -> Option<String> {
        let at = "10.0.0.1:1".parse().unwrap();
        fault(&Conversation { from: at, to: at, begun, says: says.into(), answers: answers.into() })
    }

    #[test]
    fn first_bytes_tell_what_is_encrypted() {
        let hello = [22, 3, 1, 2, 0, 1];
        let data = [23, 3, 3, 0, 9];
        assert_eq!(said(true, &hello, &[22, 3, 3, 0]), None);
        assert_eq!(said(true, b"", b""), None);
        assert_eq!(said(true, &[&SSL_REQUEST[..], &hello].concat(), b"S\x16\x03\x03"), None);
        assert_eq!(said(false, &data, &data), None);
        assert!(said(true, b"GET / HTTP/1.1", b"").unwrap().contains("GET"));
        assert!(said(true, &SSL_REQUEST, b"N").unwrap().contains("refused"));
        assert!(said(true, &[&SSL_REQUEST[..], b"\0\0\0\x29\0\x03\0\0user"].concat(), b"S").is_some());
        assert!(said(true, &data, b"").is_some(), "data before any handshake");
        assert!(said(false, b"SELECT 1", &data).is_some());
    }
}
