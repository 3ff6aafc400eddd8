//! Server-side TLS: 1.2 and 1.3 by rustls with aws-lc-rs, keys from memory only.

use std::sync::Arc;

use api::Secret;

use crate::Certificate;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no secret called {0} was handed to this role")]
    Missing(&'static str),
    #[error("the certificate or key is not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("the certificate and key do not fit")]
    Server(#[source] rustls::Error),
    #[error("the stamp's CA certificate is unusable")]
    Trust(#[source] rustls::Error),
    #[error("{0} is not a URL")]
    Url(String),
}

/// Makes aws-lc-rs the process's crypto provider. The first line of every `main` and of tests that use TLS.
pub fn install_provider() {
    // A second call finds it installed already, which is what we want.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A server configuration from a PEM chain and a PEM key. `min_13` refuses TLS 1.2.
pub fn server(cert: &Secret, key: &Secret, alpn: &[&[u8]], min_13: bool) -> Result<Arc<rustls::ServerConfig>, Error> {
    showing(Certificate::new(cert, key)?, alpn, min_13)
}

/// As [`server`], with a certificate that may be replaced.
///
/// # Errors
/// The versions do not fit the cryptographic provider.
pub fn showing(certificate: Certificate, alpn: &[&[u8]], min_13: bool) -> Result<Arc<rustls::ServerConfig>, Error> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if min_13 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS13, &rustls::version::TLS12] };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(Error::Server)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}
