//! A spool and the role, over TLS on real sockets.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use api::{
    Secret,
    audit::{AuditConfig, Head, Ship, SourceHead, SourceRecord},
    client::{Client, Target},
    context::secret,
};
use axum::{body::Body, http::Request};
use service::{Clock, Context, Listener, Shutdown, Spool, spool::segments::Bounds};
use tower::ServiceExt as _;

use super::{open, records, root};
use crate::{http, verify};

fn certificate() -> (Vec<u8>, Secret, Secret) {
    let (ca_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    (ca_pem.into_bytes(), Secret::new(leaf.pem()), Secret::new(key.serialize_pem()))
}

async fn until<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let started = std::time::Instant::now();
    while !check().await {
        assert!(started.elapsed() < Duration::from_secs(20), "waited 20 s until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Role {
    control: Client,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), crate::Error>>,
}

impl Role {
    /// The role on `listener`, whose certificate is `cert`.
    fn start(dir: &Path, listener: TcpListener, (ca, cert, key): &(Vec<u8>, Secret, Secret)) -> Self {
        let control = dir.join("control");
        let _ = std::fs::remove_file(&control);
        let mut context = Context { resource: "audit.main".into(), ca_pem: ca.clone(), ..Context::for_test(dir) };
        context.listeners.insert("https", Listener::Tcp(listener));
        context.listeners.insert("control", Listener::Unix(std::os::unix::net::UnixListener::bind(&control).unwrap()));
        context.secrets.insert(secret::AUDIT_ROOT, root());
        context.secrets.insert(secret::TLS_CERT, cert.clone());
        context.secrets.insert(secret::TLS_KEY, key.clone());
        let shutdown = context.shutdown.clone();
        let config = AuditConfig { retention_days: 90, sources: vec!["vault.main".into()] };
        let task = tokio::spawn(crate::run(config, context));
        Self { control: Client::unix(control), shutdown, task }
    }

    async fn head(&self) -> u64 {
        let heads = self.control.get::<Vec<SourceHead>>("/heads").await.unwrap_or_default();
        heads.iter().find(|h| h.source == "vault.main").map_or(0, |h| h.head.seq)
    }

    async fn stop(self) {
        self.shutdown.ask();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_ships_in_order_works_on_while_the_role_is_down_and_catches_up() {
    service::tls::install_provider();
    let (at_role, at_source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let certificate = certificate();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let role = Role::start(at_role.path(), listener.try_clone().unwrap(), &certificate);

    let small = Bounds { segment: 2_000, kept: 0, reserve: 8_000 };
    let spool = Spool::open_bounded(at_source.path(), "vault.main", Clock::default(), small).unwrap();
    let event = || spool.event("service.web", "secret.get", "vault.main/secrets/a", api::audit::Outcome::Ok);
    let target = Target::Https {
        base: format!("https://{address}").parse().unwrap(),
        tls: api::client::trust(&certificate.0).unwrap(),
        hosts: Arc::new(BTreeMap::new()),
    };
    let client = Client::new(target).bearer(root().derive("ship:vault.main")).timeout(Duration::from_secs(2));
    let stop_shipping = Shutdown::default();
    let (task, shipper, client_too) = (spool.clone(), stop_shipping.clone(), client.clone());
    let shipping = tokio::spawn(async move { task.ship(client_too, shipper).await });
    for _ in 0..30 {
        spool.append(event()).await.unwrap();
    }
    until("the first records are shipped", || async { role.head().await == 30 }).await;
    let segments = || std::fs::read_dir(at_source.path()).unwrap().count();
    until("shipped segments are removed", || async { segments() <= 4 }).await;

    // The role is down; its listening socket, which it inherits, stays.
    role.stop().await;
    for _ in 0..30 {
        spool.append(event()).await.unwrap();
    }
    assert_eq!(spool.durable(), 60, "work goes on");
    stop_shipping.ask();
    shipping.await.unwrap();

    // Source and role both start again.
    let role = Role::start(at_role.path(), listener.try_clone().unwrap(), &certificate);
    drop(spool);
    let spool = Spool::open_bounded(at_source.path(), "vault.main", Clock::default(), small).unwrap();
    let stop_shipping = Shutdown::default();
    let (task, shipper) = (spool.clone(), stop_shipping.clone());
    let shipping = tokio::spawn(async move { task.ship(client, shipper).await });
    until("the rest is shipped", || async { role.head().await == 60 }).await;
    let shown: Vec<SourceRecord> = role.control.get("/records?source=vault.main&limit=500").await.unwrap();
    assert_eq!(
        shown.iter().map(|r| r.seq).collect::<Vec<_>>(),
        (1..=60).rev().collect::<Vec<_>>(),
        "each exactly once"
    );
    assert_eq!(verify(at_role.path()).unwrap().records, 60, "offline, beside the running role");
    stop_shipping.ask();
    shipping.await.unwrap();
    role.stop().await;
}

#[tokio::test]
async fn nothing_is_taken_without_the_sources_own_ship_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Clock::default());
    let app = http::public(store.clone(), http::Keys::new(&root(), &["vault.main".into(), "edge".into()]));
    let batch = Ship { source: "vault.main".into(), records: records(&Head::default(), 2, Clock::default().now_ms()) };
    let send = |method: &str, path: &str, key: Option<Secret>| {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {}", key.expose()));
        }
        let request = request.body(Body::from(serde_json::to_vec(&batch).unwrap())).unwrap();
        let app = app.clone();
        async move { app.oneshot(request).await.unwrap().status().as_u16() }
    };
    for (method, path) in [("POST", "/ship"), ("GET", "/ship"), ("GET", "/records"), ("GET", "/health"), ("GET", "/")] {
        assert_eq!(send(method, path, None).await, 401, "{method} {path}");
        assert_eq!(send(method, path, Some(Secret::new("wrong"))).await, 401);
        assert_eq!(send(method, path, Some(root())).await, 401, "the root key itself ships nothing");
        assert_eq!(
            send(method, path, Some(root().derive("ship:vault.gone"))).await,
            401,
            "a source that is not configured"
        );
    }
    assert_eq!(send("POST", "/ship", Some(root().derive("ship:edge"))).await, 403, "another source's key");
    assert!(store.heads().iter().all(|h| h.head.seq == 0));
    assert_eq!(send("POST", "/ship", Some(root().derive("ship:vault.main"))).await, 200);
    assert_eq!(
        send("GET", "/records", Some(root().derive("ship:vault.main"))).await,
        404,
        "sources ship, they do not read"
    );
}
