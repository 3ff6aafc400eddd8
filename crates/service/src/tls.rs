//! Server-side TLS: 1.2 and 1.3 by rustls with aws-lc-rs, keys from memory only.

use std::sync::Arc;

use api::Secret;
use rustls::{
    client::{danger::HandshakeSignatureValid, verify_server_name},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

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
    let mut config = versions(min_13)?.with_no_client_auth().with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// As [`showing`], for those alone whose own certificate is by the CA of `ca_pem` and has one of the names in `clients`.
///
/// # Errors
/// The CA or a name is unusable.
pub fn showing_to(
    certificate: Certificate,
    ca_pem: &[u8],
    clients: &[String],
) -> Result<Arc<rustls::ServerConfig>, Error> {
    let only = Only::new(ca_pem, clients)?;
    let config = versions(false)?.with_client_cert_verifier(Arc::new(only)).with_cert_resolver(Arc::new(certificate));
    Ok(Arc::new(config))
}

/// A client that trusts the CA of `ca_pem` and shows `certificate` to servers that ask for one. TLS 1.3 only: for what our own
/// parts listen on.
///
/// # Errors
/// The CA is unusable.
pub fn client(certificate: Certificate, ca_pem: &[u8]) -> Result<Arc<rustls::ClientConfig>, Error> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Trust)?
        .with_root_certificates(roots(ca_pem)?)
        .with_client_cert_resolver(Arc::new(certificate));
    Ok(Arc::new(config))
}

fn versions(min_13: bool) -> Result<rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier>, Error> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if min_13 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS13, &rustls::version::TLS12] };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(Error::Server)
}

fn roots(ca_pem: &[u8]) -> Result<rustls::RootCertStore, Error> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(Error::Pem)?).map_err(Error::Trust)?;
    }
    Ok(roots)
}

/// Takes clients by CA and name.
#[derive(Debug)]
struct Only {
    by_ca: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl Only {
    fn new(ca_pem: &[u8], clients: &[String]) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let by_ca = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider)
            .build()
            .map_err(|e| Error::Trust(rustls::Error::General(e.to_string())))?;
        let name = |name: &String| ServerName::try_from(name.clone()).map_err(|_| Error::Url(name.clone()));
        Ok(Self { by_ca, names: clients.iter().map(name).collect::<Result<_, _>>()? })
    }
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        self.by_ca.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.by_ca.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if self.names.iter().any(|name| verify_server_name(&certificate, name).is_ok()) {
            return Ok(verified);
        }
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_ca.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_ca.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.by_ca.supported_verify_schemes()
    }
}
