//! Targets that are the entries of other stamps: TLS, verified with the CA of the very stamp and no other.

use std::{io, sync::Arc};

use api::gateway::Origin;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::error::Error;

/// How an origin is spoken to.
pub struct Secured {
    /// What the configuration says of it.
    pub said: Origin,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.said.stamp)
    }
}

impl Secured {
    /// # Errors
    /// The CA is no certificate, or the name is none.
    pub fn new(said: &Origin) -> Result<Self, Error> {
        let fault = |why: String| Error::Config(vec![format!("origin {}: {why}", said.stamp)]);
        let trust = api::client::trust(said.ca_pem.as_bytes()).map_err(|e| fault(e.to_string()))?;
        let mut tls = Arc::unwrap_or_clone(trust);
        // Its entry would speak HTTP/2 otherwise, and a pool of connections that carry one request each would not.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(said.server_name.clone())
            .map_err(|_| fault(format!("`{}` is no name", said.server_name)))?;
        Ok(Self { said: said.clone(), connector: TlsConnector::from(Arc::new(tls)), name })
    }

    /// The handshake on a new connection.
    pub async fn secure(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}
