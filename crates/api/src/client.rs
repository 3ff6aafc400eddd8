//! The HTTP client of our own processes: over TLS with the stamp's CA and names, or over a unix socket.
//!
//! One request, one connection: our own calls are few (tokens, secrets, health), and a client without a pool has no stale
//! connection to retry on. Hot paths (gateway, spools, telemetry) keep connections of their own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::{TcpStream, UnixStream};

use crate::{ErrorBody, Secret, WireError};

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The TLS client configuration, by a name that spares our crates the library's.
pub type TlsConfig = rustls::ClientConfig;

/// Where calls go.
#[derive(Clone)]
pub enum Target {
    /// `https://HOST[:PORT]`, the CA of the stamp, and names that are looked up here before anywhere else.
    Https { base: url::Url, tls: Arc<rustls::ClientConfig>, hosts: Arc<BTreeMap<String, IpAddr>> },
    /// `http://HOST:PORT` on loopback (the shim's identity endpoint).
    Http { base: url::Url },
    /// A unix socket.
    Unix(PathBuf),
}

/// Opens the connections of a client from elsewhere than where it runs, such as from inside a closed network.
pub type Dial =
    Arc<dyn Fn(SocketAddr) -> Pin<Box<dyn Future<Output = std::io::Result<TcpStream>> + Send>> + Send + Sync>;

/// A typed client of one target.
#[derive(Clone)]
pub struct Client {
    target: Target,
    dial: Option<Dial>,
    bearer: Option<Secret>,
    headers: http::HeaderMap,
    timeout: Duration,
}

/// An answer, its body read whole.
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

/// A TLS client configuration that trusts the CA certificates in `pem` and nothing else.
pub fn trust(pem: &[u8]) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    for cert in rustls::pki_types::CertificateDer::pem_slice_iter(pem) {
        roots.add(cert.map_err(|e| rustls::Error::General(format!("a CA certificate is not PEM: {e}")))?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(Arc::new(
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    ))
}

impl Client {
    pub fn new(target: Target) -> Self {
        Self { target, dial: None, bearer: None, headers: http::HeaderMap::new(), timeout: TIMEOUT }
    }

    /// The client of a unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::new(Target::Unix(path.into()))
    }

    /// Sends `Authorization: Bearer` with every call.
    #[must_use]
    pub fn bearer(mut self, token: Secret) -> Self {
        self.bearer = Some(token);
        self
    }

    /// Lets `dial` open the connections, if it is there.
    #[must_use]
    pub fn dialled(mut self, dial: Option<Dial>) -> Self {
        self.dial = dial;
        self
    }

    /// Sends this field with every call; a value that no field may have is left out.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: &str) -> Self {
        if let Ok(value) = header::HeaderValue::try_from(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// How long a call may take, connection and answer together.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The target in words, for errors.
    pub fn target(&self) -> String {
        match &self.target {
            Target::Https { base, .. } | Target::Http { base } => base.as_str().trim_end_matches('/').to_owned(),
            Target::Unix(path) => path.display().to_string(),
        }
    }

    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, WireError> {
        self.json::<(), A>("GET", path, None).await
    }

    pub async fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, body: &Q) -> Result<A, WireError> {
        self.json("POST", path, Some(body)).await
    }

    pub async fn put<Q: Serialize, A: DeserializeOwned>(&self, path: &str, body: &Q) -> Result<A, WireError> {
        self.json("PUT", path, Some(body)).await
    }

    pub async fn delete<A: DeserializeOwned>(&self, path: &str) -> Result<A, WireError> {
        self.json::<(), A>("DELETE", path, None).await
    }

    /// A call with a JSON body that is a secret as a whole (it holds a password), so that it needs no `Serialize`.
    pub async fn send_secret<A: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &Secret,
    ) -> Result<A, WireError> {
        let answer = self
            .send(method, path, Some(("application/json", Bytes::copy_from_slice(body.expose().as_bytes()))))
            .await?;
        self.read(answer)
    }

    async fn json<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&Q>,
    ) -> Result<A, WireError> {
        let body = body.map(|b| ("application/json", Bytes::from(serde_json::to_vec(b).expect("wire types are JSON"))));
        let answer = self.send(method, path, body).await?;
        self.read(answer)
    }

    /// Turns an answer into its type, or into the error it stands for.
    pub fn read<A: DeserializeOwned>(&self, answer: Answer) -> Result<A, WireError> {
        if !answer.status.is_success() {
            let body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| ErrorBody {
                code: "unknown".into(),
                message: String::from_utf8_lossy(&answer.body).chars().take(300).collect(),
                request_id: String::new(),
                hint: None,
            });
            return Err(WireError::Refused { target: self.target(), status: answer.status.as_u16(), body });
        }
        let text: &[u8] = if answer.body.is_empty() { b"null" } else { &answer.body };
        serde_json::from_slice(text).map_err(|e| WireError::Answer { target: self.target(), detail: e.to_string() })
    }

    /// One call, any body; an answer of any status is `Ok`.
    pub async fn send(&self, method: &str, path: &str, body: Option<(&str, Bytes)>) -> Result<Answer, WireError> {
        tokio::time::timeout(self.timeout, self.send_untimed(method, path, body))
            .await
            .unwrap_or_else(|_| Err(WireError::Timeout { target: self.target(), seconds: self.timeout.as_secs() }))
    }

    async fn send_untimed(&self, method: &str, path: &str, body: Option<(&str, Bytes)>) -> Result<Answer, WireError> {
        let lost = |e: Box<dyn std::error::Error + Send + Sync>| WireError::Lost { target: self.target(), source: e };
        let mut response = self.open(method, path, body).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut whole = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            if let Ok(data) = frame.map_err(|e| lost(e.into()))?.into_data() {
                if whole.len() + data.len() > ANSWER_BYTES {
                    return Err(WireError::Answer {
                        target: self.target(),
                        detail: format!("more than {ANSWER_BYTES} bytes"),
                    });
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(Answer { status, headers, body: whole.into() })
    }

    /// One call whose answer is read as it comes; not timed.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<http::Response<hyper::body::Incoming>, WireError> {
        let unreachable =
            |e: Box<dyn std::error::Error + Send + Sync>| WireError::Connect { target: self.target(), source: e };
        let lost = |e: Box<dyn std::error::Error + Send + Sync>| WireError::Lost { target: self.target(), source: e };
        let host = match &self.target {
            Target::Https { base, .. } | Target::Http { base } => authority(base),
            Target::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if let Some(token) = &self.bearer {
            let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .map_err(|e| unreachable(e.into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let bytes = match body {
            Some((kind, bytes)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                bytes
            }
            None => Bytes::new(),
        };
        let mut request = request.body(Full::new(bytes)).map_err(|e| unreachable(e.into()))?;
        request.headers_mut().extend(self.headers.clone());
        macro_rules! exchange {
            ($stream:expr) => {{
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new($stream))
                    .await
                    .map_err(|e| unreachable(e.into()))?;
                tokio::spawn(connection);
                sender.send_request(request).await.map_err(|e| lost(e.into()))
            }};
        }
        match &self.target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|e| unreachable(e.into()))?;
                exchange!(stream)
            }
            Target::Http { base } => {
                let port = base.port_or_known_default().unwrap_or(80);
                let stream = self
                    .connect(base.host_str().unwrap_or_default(), None, port)
                    .await
                    .map_err(|e| unreachable(e.into()))?;
                exchange!(stream)
            }
            Target::Https { base, tls, hosts } => {
                let name = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
                let port = base.port_or_known_default().unwrap_or(443);
                let known = hosts.get(name).copied();
                let stream = self.connect(name, known, port).await.map_err(|e| unreachable(e.into()))?;
                let _ = stream.set_nodelay(true);
                let server =
                    rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(|e| unreachable(e.into()))?;
                let stream = tokio_rustls::TlsConnector::from(tls.clone())
                    .connect(server, stream)
                    .await
                    .map_err(|e| unreachable(e.into()))?;
                exchange!(stream)
            }
        }
    }
}

impl Client {
    /// A connection to a host whose address may be known.
    async fn connect(&self, host: &str, known: Option<IpAddr>, port: u16) -> std::io::Result<TcpStream> {
        match (&self.dial, known.or_else(|| host.parse().ok())) {
            (Some(dial), Some(ip)) => dial(SocketAddr::from((ip, port))).await,
            (_, Some(ip)) => TcpStream::connect((ip, port)).await,
            (_, None) => TcpStream::connect((host, port)).await,
        }
    }
}

fn authority(base: &url::Url) -> String {
    match base.port() {
        Some(port) => format!("{}:{port}", base.host_str().unwrap_or_default()),
        None => base.host_str().unwrap_or_default().to_owned(),
    }
}
