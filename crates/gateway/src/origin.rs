//! Targets that are the entries of other stamps: TLS, verified with the CA of the very stamp and no other.

use std::sync::Arc;

use api::gateway::Origin;
use rustls::pki_types::ServerName;

use crate::{dial::Tls, error::Error};

/// How an origin is spoken to.
///
/// # Errors
/// Its CA is no certificate, or its name is none.
pub fn tls(origin: &Origin) -> Result<Tls, Error> {
    let fault = |why: String| Error::Config(vec![format!("origin {}: {why}", origin.stamp)]);
    let trust = api::client::trust(origin.ca_pem.as_bytes()).map_err(|e| fault(e.to_string()))?;
    let mut client = Arc::unwrap_or_clone(trust);
    // Its entry would speak HTTP/2 otherwise, and a pool of connections that carry one request each would not.
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(origin.server_name.clone())
        .map_err(|_| fault(format!("`{}` is no name", origin.server_name)))?;
    Ok(Tls { client: Arc::new(client), name })
}
