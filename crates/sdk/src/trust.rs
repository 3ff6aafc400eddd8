//! Whom an application trusts.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{Settings, SettingsError};

/// The certificate authorities a connection is verified against. There is no way to verify none.
#[derive(Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("cannot read the certificate authorities in {path}")]
    Read { path: String, source: rustls::pki_types::pem::Error },
    #[error("{path} holds no certificate")]
    Empty { path: String },
    #[error("the system has no certificate authorities; name a PEM file in SSL_CERT_FILE")]
    None,
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Where Linux distributions keep the system's authorities, as one PEM file.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Trust {
    /// The authorities of the first of these variables that is set, else of the system: `names`, then `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// The named file cannot be read or holds no certificate, or nothing is named and the system has none.
    pub fn from_settings(settings: &Settings, names: &[&'static str]) -> Result<Trust, TrustError> {
        for name in names.iter().chain(&["SSL_CERT_FILE"]) {
            if let Some(path) = settings.optional(name)? {
                return Trust::from_file(Path::new(path));
            }
        }
        let system = SYSTEM.iter().map(Path::new).find(|p| p.exists()).ok_or(TrustError::None)?;
        Trust::from_file(system)
    }

    /// The authorities in one PEM file.
    ///
    /// # Errors
    /// The file cannot be read or holds no certificate.
    pub fn from_file(path: &Path) -> Result<Trust, TrustError> {
        let shown = || path.display().to_string();
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(|all| all.collect::<Result<Vec<_>, _>>())
            .map_err(|source| TrustError::Read { path: shown(), source })?;
        let mut roots = RootCertStore::empty();
        // A bundle may hold an old certificate that rustls cannot use; only a bundle without any good one is a fault.
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Err(TrustError::Empty { path: shown() });
        }
        Ok(Trust { roots: Arc::new(roots) })
    }

    /// TLS 1.2 or newer, the server's name verified; `alpn` in order of preference.
    ///
    /// # Errors
    /// The crypto provider offers none of these versions (it does).
    pub fn client(&self, alpn: &[&[u8]]) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }
}
