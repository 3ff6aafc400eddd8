//! The role as it runs: TLS, control socket, SIGHUP, keys fetched from identity's address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, TcpListener},
    sync::Arc,
    time::Duration,
};

use api::{
    Secret,
    client::{Client, Target},
    context::{ContextFile, IdentityRef, RoleFile, secret},
    vault::{VaultConfig, VaultRole, VaultStatus},
};
use bytes_of::body;
use serde_json::{Value, json};
use service::{Context, Limits, Listener, Shutdown};

use super::bench::{AUDIENCE, ISSUER, Signer, config, grant, identity};

const NAME: &str = "main.vault.dev.time-tracker.internal";

mod bytes_of {
    use axum::body::Bytes;

    pub fn body(value: &serde_json::Value) -> Option<(&'static str, Bytes)> {
        Some(("application/json", Bytes::from(value.to_string())))
    }
}

/// A certificate for the vault's name and 127.0.0.1, and its authority.
fn certificate() -> (Vec<u8>, Secret, Secret) {
    let (ca_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let leaf = rcgen::CertificateParams::new(vec![NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    (ca_pem.into_bytes(), Secret::new(leaf.pem()), Secret::new(key.serialize_pem()))
}

fn listener() -> (Listener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (Listener::Tcp(listener), port)
}

fn write_role_file(context: &Context, config: &VaultConfig) {
    let file = RoleFile { version: 1, context: ContextFile::default(), config: config.clone() };
    std::fs::write(&context.config_path, serde_json::to_vec(&file).unwrap()).unwrap();
}

async fn until<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let started = std::time::Instant::now();
    while !check().await {
        assert!(started.elapsed() < Duration::from_secs(20), "waited 20 s until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_serves_over_tls_and_takes_over_assignments_on_sighup() {
    service::tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let (ca, cert, key) = certificate();
    let signer = Signer::new();
    let shutdown = Shutdown::default();

    // Where identity's public keys are: the only thing of identity that the vault asks for.
    let (keys_listener, keys_port) = listener();
    let jwks = serde_json::to_value(&signer.jwks).unwrap();
    let keys = axum::Router::new().route("/jwks", axum::routing::get(move || async move { axum::Json(jwks) }));
    let tls = service::tls::server(&cert, &key, &[b"http/1.1"], false).unwrap();
    let keys = tokio::spawn(service::serve(keys_listener, Some(tls), keys, Limits::default(), shutdown.clone()));

    let (https, port) = listener();
    let control = dir.path().join("control");
    let mut context = Context {
        resource: "vault.main".into(),
        ca_pem: ca.clone(),
        identity: Some(IdentityRef { jwks: format!("https://127.0.0.1:{keys_port}/jwks"), ..identity() }),
        shutdown: shutdown.clone(),
        ..Context::for_test(dir.path())
    };
    context.listeners.insert("https", https);
    context.listeners.insert("control", Listener::Unix(std::os::unix::net::UnixListener::bind(&control).unwrap()));
    context.secrets.insert(secret::VAULT_KEK, Secret::random());
    context.secrets.insert(secret::TLS_CERT, cert);
    context.secrets.insert(secret::TLS_KEY, key);
    let config = config();
    write_role_file(&context, &config);
    let path = context.config_path.clone();
    let role = tokio::spawn(crate::run(config.clone(), context));

    let hosts = BTreeMap::from([(NAME.to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST))]);
    let target = Target::Https {
        base: format!("https://{NAME}:{port}").parse().unwrap(),
        tls: api::client::trust(&ca).unwrap(),
        hosts: Arc::new(hosts),
    };
    let client = Client::new(target);
    let now = service::Clock::default().now_s();
    let by = |subject: &str| client.clone().bearer(Secret::new(signer.token(subject, &[], AUDIENCE, now)));

    let status = Client::unix(&control);
    until("the control socket answers", || async { status.get::<VaultStatus>("/status").await.is_ok() }).await;
    let challenged = client.send("PUT", "/secrets/a?api-version=7.4", None).await.unwrap();
    assert_eq!(challenged.status, 401);
    let expected = format!(
        "Bearer authorization=\"{ISSUER}/{}\", resource=\"https://vault.dev.time-tracker.internal:{port}\"",
        identity().tenant
    );
    assert_eq!(challenged.headers["www-authenticate"], expected, "the challenge keeps the port of the request");
    let set = by("supervisor").send("PUT", "/secrets/a", body(&json!({ "value": "v" }))).await.unwrap();
    assert_eq!(set.status, 200);
    let read = by("service.web").send("GET", "/secrets/a/", None).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&read.body).unwrap()["value"], "v");

    let status_of = |who: Client| async move { who.send("GET", "/secrets/a", None).await.unwrap().status.as_u16() };
    let newcomer = by("service.new");
    assert_eq!(status_of(newcomer.clone()).await, 403);
    let mut granted = config.clone();
    granted.assignments.push(grant("service.new", VaultRole::SecretsUser));
    let file = RoleFile { version: 1, context: ContextFile::default(), config: granted };
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    until("the grant counts", || async { status_of(newcomer.clone()).await == 200 }).await;
    let shown: VaultStatus = status.get("/status").await.unwrap();
    assert_eq!((shown.secrets, shown.assignments), (1, 5));
    assert!(shown.audited >= 5);

    shutdown.ask();
    role.await.unwrap().unwrap();
    keys.await.unwrap().unwrap();
}
