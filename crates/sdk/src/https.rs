//! A small HTTPS client: one request at a time on a kept connection, bounded in time and size. Plain `http://` is spoken
//! to loopback addresses only.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::Mutex};
use tracing::Instrument;
use url::Url;

use crate::{Trust, TrustError, telemetry};

/// One request, connecting included, takes no longer, unless the client says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer's body, unless the client says otherwise.
const BODY: usize = 1024 * 1024;
/// Kept connections, over all authorities.
const KEPT: usize = 8;

/// Connections that wait for the next request, by authority.
type Kept = HashMap<String, Vec<SendRequest<Full<Bytes>>>>;

#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    kept: Arc<Mutex<Kept>>,
    timeout: Duration,
    body: usize,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    #[error("{0} is not an https:// address (http:// is accepted for loopback addresses only)")]
    Address(String),
    #[error("no answer from {0} in time")]
    Timeout(String),
    #[error("cannot connect to {authority}")]
    Connect { authority: String, source: std::io::Error },
    #[error("the request to {authority} failed")]
    Http { authority: String, source: hyper::Error },
    #[error("the answer of {authority} cannot be read or is longer than its bound")]
    Body { authority: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the request cannot be built")]
    Request(#[from] http::Error),
}

impl Client {
    /// A client that trusts exactly `trust`.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(trust: &Trust) -> Result<Client, TrustError> {
        Client::bounded(trust, TIMEOUT, BODY)
    }

    /// As [`Client::new`], with other bounds: how long one request may take, connecting included, and how many bytes an
    /// answer may have.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn bounded(trust: &Trust, timeout: Duration, body: usize) -> Result<Client, TrustError> {
        Ok(Client { tls: Arc::new(trust.client(&[b"http/1.1"])?), kept: Arc::default(), timeout, body })
    }

    /// Sends one request and reads the whole answer, as a client span of the current trace.
    ///
    /// # Errors
    /// The address is neither https nor loopback, nobody answers in time, or the answer is too long. A status of 400 or
    /// more is an answer, not an error.
    pub async fn send(&self, method: Method, url: &Url, headers: HeaderMap, body: Bytes) -> Result<Answer, HttpsError> {
        let span = tracing::info_span!(
            "http client",
            otel.name = format!("{method} {}", url.path()),
            otel.kind = "client",
            http.request.method = %method,
            server.address = url.host_str().unwrap_or_default(),
            url.path = url.path(),
            http.response.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        let answer = self.send_untraced(method, url, headers, body).instrument(span.clone()).await;
        match &answer {
            Ok(answer) => span.record("http.response.status_code", answer.status.as_u16()),
            Err(error) => span.record("error.type", error.to_string()),
        };
        answer
    }

    /// As [`Client::send`] without a span of its own: the exporter must not report about itself.
    pub(crate) async fn send_untraced(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, HttpsError> {
        let authority = authority(url)?;
        let work = self.exchange(&authority, method, url, headers, body);
        tokio::time::timeout(self.timeout, work).await.map_err(|_| HttpsError::Timeout(authority.clone()))?
    }

    async fn exchange(
        &self,
        authority: &str,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, HttpsError> {
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority);
        if let Some(kept) = request.headers_mut() {
            kept.extend(headers);
            if let Some(parent) = telemetry::traceparent() {
                // A caller that hands on another trace has its reasons.
                kept.entry("traceparent").or_insert(parent);
            }
        }
        let request = request.body(Full::new(body))?;
        let mut sender = loop {
            let kept = self.kept.lock().await.get_mut(&key(url, authority)).and_then(Vec::pop);
            let Some(mut sender) = kept else { break self.connect(url, authority).await? };
            if sender.ready().await.is_ok() {
                break sender;
            }
        };
        let failed = |source| HttpsError::Http { authority: authority.to_owned(), source };
        let answer = sender.send_request(request).await.map_err(failed)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, self.body).collect().await;
        let body = body.map_err(|source| HttpsError::Body { authority: authority.to_owned(), source })?.to_bytes();
        let mut kept = self.kept.lock().await;
        if kept.values().map(Vec::len).sum::<usize>() < KEPT {
            kept.entry(key(url, authority)).or_default().push(sender);
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn connect(&self, url: &Url, authority: &str) -> Result<SendRequest<Full<Bytes>>, HttpsError> {
        let failed = |source| HttpsError::Connect { authority: authority.to_owned(), source };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        if url.scheme() == "http" {
            return start(TokioIo::new(stream), authority).await;
        }
        let name = ServerName::try_from(host).map_err(|e| failed(std::io::Error::other(e)))?;
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(failed)?;
        start(TokioIo::new(stream), authority).await
    }
}

async fn start<S>(stream: TokioIo<S>, authority: &str) -> Result<SendRequest<Full<Bytes>>, HttpsError>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let made = handshake(stream).await;
    let (sender, connection) = made.map_err(|source| HttpsError::Http { authority: authority.to_owned(), source })?;
    // The connection ends when its sender is dropped or the peer closes it; either way the next request opens a new one.
    tokio::spawn(connection);
    Ok(sender)
}

fn key(url: &Url, authority: &str) -> String {
    format!("{}://{authority}", url.scheme())
}

fn authority(url: &Url) -> Result<String, HttpsError> {
    let wrong = || HttpsError::Address(url[..url::Position::BeforePath].to_owned());
    let host = url.host_str().ok_or_else(wrong)?;
    let local = host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
    if url.scheme() != "https" && !(url.scheme() == "http" && local) {
        return Err(wrong());
    }
    Ok(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_spoken_to_loopback_only() {
        assert!(authority(&Url::parse("http://127.0.0.9:8080/x").unwrap()).is_ok());
        assert!(authority(&Url::parse("https://telemetry.example/").unwrap()).is_ok());
        assert!(authority(&Url::parse("http://telemetry.example/").unwrap()).is_err());
        assert!(authority(&Url::parse("ftp://127.0.0.1/").unwrap()).is_err());
    }
}
