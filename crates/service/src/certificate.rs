//! The certificate a role shows: replaced while it serves, so that no connection is dropped when it is renewed.

use std::sync::Arc;

use api::Secret;
use arc_swap::ArcSwap;
use axum::{
    Extension, Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::put,
};
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{Peer, answer, tls::Error};

/// A chain with its key. Clones show the same one.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<ArcSwap<CertifiedKey>>);

impl Certificate {
    /// From a PEM chain and a PEM key.
    ///
    /// # Errors
    /// They are not PEM, or do not belong together.
    pub fn new(cert: &Secret, key: &Secret) -> Result<Self, Error> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(certified(cert, key)?))))
    }

    /// Shows another from the next handshake on; connections stay.
    ///
    /// # Errors
    /// As [`Certificate::new`]; the old one is kept then.
    pub fn replace(&self, cert: &Secret, key: &Secret) -> Result<(), Error> {
        self.0.store(Arc::new(certified(cert, key)?));
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Certificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(cert: &Secret, key: &Secret) -> Result<CertifiedKey, Error> {
    let chain =
        CertificateDer::pem_slice_iter(cert.expose().as_bytes()).collect::<Result<Vec<_>, _>>().map_err(Error::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(Error::Pem)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(Error::Server)
}

/// What else is done with a renewed pair, once it is known to fit.
pub type Keep = Arc<dyn Fn(&Secret, &Secret) -> std::io::Result<()> + Send + Sync>;

/// `PUT /certificate` with [`api::context::Renewal`]; for a control socket, and refused on anything else.
pub fn routes(certificate: Certificate) -> Router {
    routes_kept(certificate, Arc::new(|_, _| Ok(())))
}

/// As [`routes`], for who shows it not itself: `keep` puts it where it is read.
pub fn routes_kept(certificate: Certificate, keep: Keep) -> Router {
    Router::new().route("/certificate", put(take)).with_state((certificate, keep))
}

async fn take(
    State((certificate, keep)): State<(Certificate, Keep)>,
    peer: Option<Extension<Peer>>,
    Json(renewal): Json<api::context::Renewal>,
) -> Response {
    if !matches!(peer, Some(Extension(Peer { uid: Some(_), .. }))) {
        return answer::error(StatusCode::FORBIDDEN, "forbidden", "this is answered on the control socket only");
    }
    let kept = certificate.replace(&renewal.cert, &renewal.key).map(|()| keep(&renewal.cert, &renewal.key));
    match kept {
        Ok(Err(error)) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, "not-kept", error.to_string()),
        Ok(Ok(())) => {
            tracing::info!("the certificate was renewed");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => answer::error(StatusCode::BAD_REQUEST, "invalid", error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn made(name: &str) -> (Secret, Secret) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (Secret::new(made.cert.pem()), Secret::new(made.signing_key.serialize_pem()))
    }

    #[test]
    fn a_pair_that_does_not_fit_changes_nothing() {
        crate::tls::install_provider();
        let (cert, key) = made("one.internal");
        let certificate = Certificate::new(&cert, &key).unwrap();
        let shown = || certificate.0.load().cert[0].clone();
        let first = shown();
        let (other, other_key) = made("two.internal");
        assert!(certificate.replace(&other, &key).is_err(), "the key is of another certificate");
        assert!(certificate.replace(&Secret::new("no PEM"), &other_key).is_err());
        assert_eq!(shown(), first);
        certificate.clone().replace(&other, &other_key).unwrap();
        assert_ne!(shown(), first);
    }
}
