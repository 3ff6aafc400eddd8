//! What a site has already, for where there is no site: a directory, an integration engine, a mail server. Small programs that
//! speak the real protocols to the application, so that nothing in it knows the difference.

pub mod directory;
pub mod mail;
pub mod rhapsody;

use std::sync::Arc;

use anyhow::{Result, bail};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use sdk::{
    Settings,
    serve::{asked, bind},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A connection, with TLS or without.
pub trait Line: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// Serves one of the stand-ins until the process is asked to end; `file` has its people or medicines, instead of a variable.
///
/// # Errors
/// A setting is unusable, or the address cannot be listened on.
pub async fn run(which: &str, file: Option<&str>, settings: &Settings) -> Result<()> {
    let tls = acceptor(settings)?;
    let listener = bind(settings).await?;
    tracing::info!(which, address = %listener.local_addr()?, tls = tls.is_some(), "standing in");
    let serving = async {
        match which {
            "directory" => {
                directory::serve(listener, tls, Arc::new(directory::Tree::from_settings(file, settings)?)).await
            }
            "rhapsody" => {
                rhapsody::serve(listener, tls, Arc::new(rhapsody::Engine::from_settings(file, settings)?)).await
            }
            "mail" => mail::serve(listener, tls, Arc::new(mail::Box_::from_settings(settings)?)).await,
            other => bail!("there is no stand-in for {other}"),
        }
    };
    tokio::select! {
        result = serving => result,
        () = asked() => Ok(()),
    }
}

/// TLS of the program's own, where the platform hands it a certificate (`TLS_CERT_FILE`, `TLS_KEY_FILE`).
fn acceptor(settings: &Settings) -> Result<Option<TlsAcceptor>> {
    let (Some(chain), Some(key)) = (settings.optional("TLS_CERT_FILE")?, settings.optional("TLS_KEY_FILE")?) else {
        return Ok(None);
    };
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Some(TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key)?))))
}

/// Accepts connections and gives each to `work`, in a task of its own.
async fn accept<F, W>(listener: TcpListener, tls: Option<TlsAcceptor>, work: W) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
    W: Fn(Box<dyn Line>) -> F + Clone + Send + Sync + 'static,
{
    loop {
        let (stream, from) = listener.accept().await?;
        let (tls, work) = (tls.clone(), work.clone());
        tokio::spawn(async move {
            let line: Box<dyn Line> = match tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(error) => return tracing::debug!(%error, "no TLS"),
                },
            };
            if let Err(error) = work(line).await {
                tracing::debug!(%error, %from, "a connection ended early");
            }
        });
    }
}
