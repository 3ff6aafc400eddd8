//! A running role, and senders and readers of it.

#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its own part; a failed step fails the test")]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use api::{
    Secret,
    client::Client,
    context::secret,
    telemetry::{QueryAnswer, QueryRequest, TelemetryConfig},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use serde_json::Value;
use service::{Clock, Context, Listener, Shutdown};

pub const ROOT: &str = "the-root-key-of-tests";
pub const PROTOBUF: &str = "application/x-protobuf";
pub const JSON: &str = "application/json";

pub fn key(source: &str) -> String {
    Secret::new(ROOT).derive(&format!("ingest:{source}")).expose().to_owned()
}

pub fn config() -> TelemetryConfig {
    TelemetryConfig { sources: vec!["service.web".into(), "gateway".into()], ..TelemetryConfig::default() }
}

/// A certificate for 127.0.0.1 that is its own authority, and its key.
pub fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Where a role is, and how to speak with it.
#[derive(Clone)]
pub struct Role {
    pub address: SocketAddr,
    pub control: Client,
    tls: Arc<rustls::ClientConfig>,
}

/// A role within this process; it is asked to end and waited for by [`Running::stop`].
pub struct Running {
    pub role: Role,
    pub clock: Clock,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), telemetry::Error>>,
}

impl std::ops::Deref for Running {
    type Target = Role;
    fn deref(&self) -> &Role {
        &self.role
    }
}

impl Role {
    pub fn new(address: SocketAddr, control: &Path, ca: &str) -> Self {
        service::tls::install_provider();
        let control = Client::unix(control).timeout(Duration::from_secs(30));
        Self { address, control, tls: api::client::trust(ca.as_bytes()).unwrap() }
    }
}

pub async fn start(dir: &Path) -> Running {
    start_with(dir, config(), Clock::default()).await
}

pub async fn start_with(dir: &Path, config: TelemetryConfig, clock: Clock) -> Running {
    service::tls::install_provider();
    let (cert, key) = certificate();
    let mut context = Context::for_test(&dir.join("data"));
    context.clock = clock.clone();
    context.secrets.insert(secret::TLS_CERT, Secret::new(cert.clone()));
    context.secrets.insert(secret::TLS_KEY, Secret::new(key));
    context.secrets.insert(secret::TELEMETRY_ROOT, Secret::new(ROOT));
    let https = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = https.local_addr().unwrap();
    let control = dir.join("control");
    let _ = std::fs::remove_file(&control);
    context.listeners.insert("https", Listener::Tcp(https));
    context.listeners.insert("control", Listener::Unix(std::os::unix::net::UnixListener::bind(&control).unwrap()));
    let shutdown = context.shutdown.clone();
    let task = tokio::spawn(telemetry::run(config, context));
    Running { role: Role::new(address, &control, &cert), clock, shutdown, task }
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.ask();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("the role ends").unwrap().unwrap();
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Role {
    /// One request of any kind on the ingestion listener.
    pub async fn request(
        &self,
        request: http::Request<BoxBody<Bytes, std::convert::Infallible>>,
    ) -> anyhow::Result<Answer> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        drop(sender);
        let _ = connection.await;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// A POST with these headers; `host` is added.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.try_post(path, headers, body).await.unwrap()
    }

    pub async fn try_post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = http::Request::post(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.request(request.body(http_body_util::Full::new(body.into()).boxed())?).await
    }

    /// A POST by `service.web` with its own key.
    pub async fn send(&self, path: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
        self.post(path, &[("x-ingest-key", &key("service.web")), ("content-type", kind)], body).await
    }

    pub async fn query(&self, sql: &str) -> Result<QueryAnswer, api::WireError> {
        self.query_days(sql, 0).await
    }

    pub async fn query_days(&self, sql: &str, days: u32) -> Result<QueryAnswer, api::WireError> {
        self.control.post("/query", &QueryRequest { sql: sql.into(), days, limit: 0 }).await
    }

    /// The one value of a query of one row and column.
    pub async fn value(&self, sql: &str) -> Value {
        let answer = self.query(sql).await.unwrap();
        assert_eq!((answer.rows.len(), answer.columns.len()), (1, 1), "{sql}: {answer:?}");
        answer.rows[0][0].clone()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Log records with these bodies, as JSON.
pub fn log_json(bodies: &[&str]) -> String {
    let records: Vec<Value> =
        bodies.iter().map(|b| serde_json::json!({"severityNumber": 9, "body": {"stringValue": b}})).collect();
    serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string()
}
