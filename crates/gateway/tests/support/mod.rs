//! A whole gateway on 127.0.0.1:0 in the test's own process, real upstreams, and clients down to raw bytes.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part; a test fails by unwrap")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use api::{
    Secret,
    context::{ContextFile, RoleFile, secret},
    gateway::{GatewayConfig, Route, Upstream},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use service::{Context, Listener, Shutdown};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Waits until `look` gives something; the text of the time-out is the last `state`.
pub async fn wait_until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "waited 20 s for {what}");
        ticks.tick().await;
    }
}

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap();
        bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
    }

    pub async fn line(&self, what: &str, fits: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        wait_until(&format!("a log line: {what}"), async || self.lines().into_iter().find(|l| fits(l))).await
    }
}

pub struct Edge {
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub control: PathBuf,
    pub config_path: PathBuf,
    pub shutdown: Shutdown,
    pub log: Log,
    pub trust: Arc<rustls::RootCertStore>,
    /// Both listening sockets stay open here, as the shim keeps them.
    pub kept: Vec<std::net::TcpListener>,
    pub pem: (String, String),
    pub running: JoinHandle<Result<(), gateway::Error>>,
    _dir: tempfile::TempDir,
}

pub fn config(routes: &[(&str, &str)], upstreams: &[(&str, &[SocketAddr])]) -> GatewayConfig {
    let upstream = |targets: &[SocketAddr]| Upstream { targets: targets.to_vec(), ..Upstream::default() };
    GatewayConfig {
        https_port: 8443,
        hsts_seconds: 31_536_000,
        access_log: true,
        workers: 1,
        upstreams: upstreams.iter().map(|(name, targets)| ((*name).into(), upstream(targets))).collect(),
        routes: routes.iter().map(|(p, to)| Route { hosts: vec![], path: (*p).into(), to: (*to).into() }).collect(),
        ..GatewayConfig::default()
    }
}

/// A gateway with everything under `/` going to one upstream.
pub async fn edge_to(target: SocketAddr) -> Edge {
    Edge::start(config(&[("/", "web")], &[("web", &[target])]))
}

impl Edge {
    pub fn start(config: GatewayConfig) -> Self {
        let listeners = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let cert = rcgen::generate_simple_self_signed(vec!["localhost".into(), "a.example".into()]).unwrap();
        Self::start_on(
            config,
            vec![listeners(), listeners()],
            (cert.cert.pem(), cert.signing_key.serialize_pem()),
            Log::default(),
        )
    }

    /// As a supervisor restarts a role: on sockets that were there before.
    pub fn start_on(config: GatewayConfig, kept: Vec<std::net::TcpListener>, pem: (String, String), log: Log) -> Self {
        service::tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(dir.path());
        context.secrets.insert(secret::TLS_CERT, Secret::new(pem.0.clone()));
        context.secrets.insert(secret::TLS_KEY, Secret::new(pem.1.clone()));
        context.secrets.insert(secret::INGEST_KEY, Secret::new("the edge's key"));
        // Whatever else this test serves has the same certificate.
        context.ca_pem = pem.0.clone().into_bytes();
        let control = dir.path().join("control");
        context.listeners.insert("https", Listener::Tcp(kept[0].try_clone().unwrap()));
        context.listeners.insert("http", Listener::Tcp(kept[1].try_clone().unwrap()));
        let unix = std::os::unix::net::UnixListener::bind(&control).unwrap();
        context.listeners.insert("control", Listener::Unix(unix));
        let mut trust = rustls::RootCertStore::empty();
        trust.add(CertificateDer::from_pem_slice(pem.0.as_bytes()).unwrap()).unwrap();
        let (shutdown, config_path) = (context.shutdown.clone(), context.config_path.clone());
        let running = tokio::spawn(gateway::run_with_log(config, context, Box::new(log.clone())));
        Self {
            https: kept[0].local_addr().unwrap(),
            http: kept[1].local_addr().unwrap(),
            control,
            config_path,
            shutdown,
            log,
            trust: Arc::new(trust),
            kept,
            pem,
            running,
            _dir: dir,
        }
    }

    pub fn write_config(&self, config: &GatewayConfig) {
        let file = RoleFile { version: 1, context: ContextFile::default(), config: config.clone() };
        std::fs::write(&self.config_path, serde_json::to_vec(&file).unwrap()).unwrap();
    }

    /// Ends it and gives its log.
    pub async fn stop(self) -> Vec<serde_json::Value> {
        self.shutdown.ask();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running);
        ended.await.expect("waited 20 s for the gateway's end").unwrap().unwrap();
        self.log.lines()
    }

    pub fn client_tls(
        &self,
        alpn: &[u8],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<rustls::ClientConfig> {
        let mut tls = rustls::ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(self.trust.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(tls)
    }

    pub async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.https).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let tls = TlsConnector::from(self.client_tls(alpn, rustls::ALL_VERSIONS));
        tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    /// Sends bytes on a new connection and reads until the gateway closes it or one whole answer is there.
    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect(b"http/1.1").await;
        // A refusal may come before the last byte was taken.
        let _ = stream.write_all(bytes).await;
        Answer::read(&mut stream).await
    }

    pub async fn h1(&self) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.connect(b"http/1.1").await);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub async fn h2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.connect(b"h2").await);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub async fn control(&self, path: &str) -> serde_json::Value {
        let mut stream = tokio::net::UnixStream::connect(&self.control).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        serde_json::from_slice(&Answer::read(&mut stream).await.body).unwrap()
    }
}

/// One HTTP/1 answer, read without any library of ours.
#[derive(Debug, Default)]
pub struct Answer {
    /// 0: the connection was closed without one.
    pub status: u16,
    pub fields: BTreeMap<String, Vec<String>>,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Answer {
    pub async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Self {
        let mut bytes = Vec::new();
        let read = async {
            let mut buffer = [0; 16384];
            loop {
                let answer = Self::parse(&bytes);
                if answer.whole {
                    return answer;
                }
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return answer,
                    Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer or an end within 20 s")
    }

    fn parse(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(bytes);
        let mut answer = Self::default();
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return answer };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        answer.status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            answer.fields.entry(name.to_ascii_lowercase()).or_default().push(value.trim().into());
        }
        answer.body = bytes[end + 4..].to_vec();
        answer.whole = match (answer.field("content-length"), answer.field("transfer-encoding")) {
            (Some(length), _) => answer.body.len() >= length.parse::<usize>().unwrap(),
            (None, Some(_)) => answer.body.ends_with(b"0\r\n\r\n"),
            (None, None) => matches!(answer.status, 101 | 204 | 304),
        };
        answer
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(|v| v.first()).map(String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A hyper upstream; ends with the test's runtime.
pub async fn upstream<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |r| {
                    let answer = answer(r);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    address
}

/// Tells as JSON what it was asked.
pub async fn mirror() -> SocketAddr {
    upstream(|request| async move {
        let fields: Vec<(String, String)> = request
            .headers()
            .iter()
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        let (method, target) = (request.method().to_string(), request.uri().to_string());
        let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let told = serde_json::json!({
            "method": method, "target": target, "fields": fields, "body": String::from_utf8_lossy(&body),
        });
        Response::new(Full::new(Bytes::from(told.to_string())))
    })
    .await
}

/// An upstream of raw bytes: `each` gets every connection with its number.
pub async fn raw_upstream<F, R>(each: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(each(number, stream));
        }
    });
    address
}

/// Reads one request's head.
pub async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Sends once the connection is ready for the next request.
pub async fn ask(
    client: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Response<Incoming> {
    client.ready().await.unwrap();
    client.send_request(request).await.unwrap()
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "localhost").body(Full::default()).unwrap()
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned()
}
