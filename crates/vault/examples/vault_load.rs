//! What durable auditing costs a secret read: the same vault twice, audited and not, read over TLS on kept connections in
//! interleaved rounds. Started by `bench/vault/run.sh`; arguments: pairs, seconds a round, connections.
//!
//! With `serve` as argument it only serves, for clients in other languages: a JSON line says where and with which token, and
//! it ends when its standard input does.
//!
//! Servers and clients share the process and its two threads, so the figures are of a whole machine that is busy.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use api::{
    Secret,
    client::{Client, Target},
    context::{IdentityRef, secret},
    vault::{Assignment, VaultConfig, VaultRole},
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde_json::json;
use service::{Clock, Context, Limits, Listener, Shutdown};

const ISSUER: &str = "https://127.0.0.1";
const AUDIENCE: &str = "https://vault.azure.net";
const HOST: &str = "main.vault.load.internal";
const SECRETS: usize = 50;

struct Round {
    reads_a_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Processor time of servers and clients together, per read, in microseconds: user and system.
    cpu_us: (f64, f64),
}

struct Server {
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

fn main() -> Result<()> {
    service::tls::install_provider();
    let serve = std::env::args().nth(1).is_some_and(|a| a == "serve");
    let mut arguments = std::env::args().skip(if serve { 2 } else { 1 }).map(|a| a.parse::<u64>());
    let mut next = |default: u64| arguments.next().unwrap_or(Ok(default));
    let (pairs, seconds, connections) = (next(5)?, next(5)?, next(64)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(serve, pairs, Duration::from_secs(seconds), connections))
}

async fn run(serve: bool, pairs: u64, length: Duration, connections: u64) -> Result<()> {
    let mut out = std::io::stdout();
    let shutdown = Shutdown::default();
    // The spool must lie on a real disk: a file system in memory would flush for nothing.
    let dir = tempfile::tempdir_in(std::env::current_dir()?)?;
    let (ca, cert, key) = certificate()?;
    let signing = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
    let signing = EncodingKey::from_rsa_pem(signing.serialize_pem().as_bytes())?;
    let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::RS256)?;
    jwk.common.key_id = Some("k1".into());
    let jwks = serde_json::to_value(JwkSet { keys: vec![jwk] })?;
    let keys = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let jwks_url = format!("https://{}/jwks", keys.local_addr()?);
    let app = axum::Router::new().route("/jwks", axum::routing::get(move || async move { axum::Json(jwks) }));
    let tls = service::tls::server(&cert, &key, &[b"http/1.1"], false)?;
    let serving_keys =
        tokio::spawn(service::serve(Listener::Tcp(keys), Some(tls), app, Limits::default(), shutdown.clone()));

    let now = Clock::default().now_s();
    let token = |subject: &str| -> Result<Secret> {
        let claims = json!({ "iss": ISSUER, "sub": subject, "aud": AUDIENCE, "nbf": now, "exp": now + 7200 });
        let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::RS256) };
        Ok(Secret::new(jsonwebtoken::encode(&header, &claims, &signing)?))
    };
    let mut servers = Vec::new();
    let mut roles = Vec::new();
    for audit_off in [true, false] {
        let data = dir.path().join(if audit_off { "off" } else { "on" });
        std::fs::create_dir(&data)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let mut context = context(&data, &ca, &cert, &key, &jwks_url, &shutdown);
        context.listeners.insert("https", Listener::Tcp(listener));
        roles.push(tokio::spawn(vault::run(config(port, audit_off), context)));
        let server = Server { port, tls: api::client::trust(&ca)? };
        server.fill(&token("supervisor")?).await?;
        servers.push(server);
    }

    if serve {
        let (port, admin) = (servers[1].port, token("supervisor")?);
        let said = json!({ "host": HOST, "port": port, "token": admin.expose(), "ca": String::from_utf8(ca)? });
        writeln!(out, "{said}")?;
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
        shutdown.ask();
        return Ok(());
    }
    let reader = token("service.web")?;
    writeln!(out, "pairs {pairs}, {} s a round, {connections} connections, {SECRETS} secrets", length.as_secs())?;
    writeln!(
        out,
        "{:>5} {:>9} {:>12} {:>9} {:>9} {:>14}",
        "round", "audit", "reads/s", "p50 ms", "p99 ms", "us user+system"
    )?;
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    for server in &servers {
        server.round(&reader, Duration::from_secs(1), connections).await?;
    }
    for pair in 0..pairs {
        // Who goes first changes, so that a machine that gets slower or faster favours neither.
        for index in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
            let round = servers[index].round(&reader, length, connections).await?;
            let name = ["off", "durable"][index];
            let Round { reads_a_second, p50_ms, p99_ms, cpu_us: (user, system) } = &round;
            writeln!(
                out,
                "{:>5} {name:>9} {reads_a_second:>12.0} {p50_ms:>9.2} {p99_ms:>9.2} {user:>7.1}+{system:.1}",
                pair + 1
            )?;
            rounds[index].push(round);
        }
    }
    let [off, on] = rounds;
    let rate = |all: &[Round]| median(all.iter().map(|r| r.reads_a_second).collect());
    let p99 = |all: &[Round]| median(all.iter().map(|r| r.p99_ms).collect());
    let ratios: Vec<f64> = on.iter().zip(&off).map(|(a, b)| a.reads_a_second / b.reads_a_second).collect();
    writeln!(out, "median   off {:.0} reads/s, p99 {:.2} ms", rate(&off), p99(&off))?;
    writeln!(out, "median   durable {:.0} reads/s, p99 {:.2} ms", rate(&on), p99(&on))?;
    writeln!(out, "median of the pairs' ratios  {:.2} (at least 0.5 is promised)", median(ratios))?;
    shutdown.ask();
    for role in roles {
        role.await??;
    }
    serving_keys.await??;
    Ok(())
}

/// Seconds of user and system time that this process has used.
fn processor_time() -> (f64, f64) {
    // SAFETY: `getrusage` fills the structure it is given.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime), seconds(usage.ru_stime))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn certificate() -> Result<(Vec<u8>, Secret, Secret)> {
    let (ca_key, key) = (rcgen::KeyPair::generate()?, rcgen::KeyPair::generate()?);
    let mut ca = rcgen::CertificateParams::new(Vec::new())?;
    // Another name than the leaf's, or some clients take the leaf for self-signed.
    ca.distinguished_name.push(rcgen::DnType::CommonName, "the load program's authority");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let leaf = rcgen::CertificateParams::new(vec![HOST.to_owned(), "127.0.0.1".to_owned()])?;
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key))?;
    Ok((ca_pem.into_bytes(), Secret::new(leaf.pem()), Secret::new(key.serialize_pem())))
}

fn context(data: &Path, ca: &[u8], cert: &Secret, key: &Secret, jwks: &str, shutdown: &Shutdown) -> Context {
    let mut context = Context {
        resource: "vault.main".into(),
        ca_pem: ca.to_vec(),
        identity: Some(IdentityRef { issuer: ISSUER.into(), jwks: jwks.into(), tenant: "load".into() }),
        shutdown: shutdown.clone(),
        ..Context::for_test(data)
    };
    context.secrets.insert(secret::VAULT_KEK, Secret::random());
    context.secrets.insert(secret::TLS_CERT, cert.clone());
    context.secrets.insert(secret::TLS_KEY, key.clone());
    context
}

fn config(port: u16, audit_off: bool) -> VaultConfig {
    let grant = |principal: &str, role| Assignment { principal: principal.into(), role, secrets: Vec::new() };
    VaultConfig {
        name: "main".into(),
        url: format!("https://{HOST}:{port}"),
        soft_delete_days: 7,
        assignments: vec![grant("supervisor", VaultRole::Administrator), grant("service.web", VaultRole::SecretsUser)],
        audit_off,
        ..VaultConfig::default()
    }
}

impl Server {
    async fn fill(&self, token: &Secret) -> Result<()> {
        let base = format!("https://{HOST}:{}", self.port).parse()?;
        let hosts = Arc::new(BTreeMap::from([(HOST.to_owned(), Ipv4Addr::LOCALHOST.into())]));
        let client = Client::new(Target::Https { base, tls: self.tls.clone(), hosts }).bearer(token.clone());
        for number in 0..SECRETS {
            let body = json!({ "value": format!("Host=db;Username=app;Password=p{number:0>60}") });
            client.put::<_, serde_json::Value>(&format!("/secrets/s{number}?api-version=7.4"), &body).await?;
        }
        Ok(())
    }

    /// Reads on all connections for `length`.
    async fn round(&self, token: &Secret, length: Duration, connections: u64) -> Result<Round> {
        let until = Instant::now() + length;
        let (started, before) = (Instant::now(), processor_time());
        let mut tasks = Vec::new();
        for index in 0..connections {
            tasks.push(tokio::spawn(reads(self.port, self.tls.clone(), token.clone(), index as usize, until)));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.append(&mut task.await??);
        }
        let (took, after) = (started.elapsed().as_secs_f64(), processor_time());
        times.sort_unstable();
        let at =
            |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default() as f64 / 1000.0;
        let each = |seconds: f64| seconds * 1e6 / times.len().max(1) as f64;
        let cpu_us = (each(after.0 - before.0), each(after.1 - before.1));
        Ok(Round { cpu_us, reads_a_second: times.len() as f64 / took, p50_ms: at(0.5), p99_ms: at(0.99) })
    }
}

/// One kept connection; how long each read took, in microseconds.
async fn reads(
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    token: Secret,
    mut number: usize,
    until: Instant,
) -> Result<Vec<u64>> {
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let name = rustls::pki_types::ServerName::try_from(HOST)?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let bearer = format!("Bearer {}", token.expose());
    let mut times = Vec::new();
    while Instant::now() < until {
        number += 1;
        let path = format!("/secrets/s{}?api-version=7.4", number % SECRETS);
        let request = Request::get(path).header("host", format!("{HOST}:{port}")).header("authorization", &bearer);
        let started = Instant::now();
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        ensure!(response.status() == 200, "the vault answered {}", response.status());
        let body = response.into_body().collect().await.context("the answer's body")?.to_bytes();
        times.push(started.elapsed().as_micros() as u64);
        ensure!(body.starts_with(b"{\"value\":"), "the answer holds no value");
    }
    drop(sender);
    let _ = connection.await;
    Ok(times)
}
