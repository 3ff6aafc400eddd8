//! Which TLS versions an address takes, asked on the wire: old ones by hand-written hellos, since no library speaks them.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Miss, site::Way};

const PATIENCE: Duration = Duration::from_secs(5);

/// What is said before TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// PostgreSQL's SSLRequest, which is answered by one byte.
    Postgres,
}

async fn open(way: &Way, before: Before) -> Result<TcpStream, Miss> {
    let mut stream = timed(way.connect()).await??;
    if before == Before::Postgres {
        // Length 8, then the code 80877103: PostgreSQL's protocol, section "Message Formats".
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
        let answer = timed(stream.read_u8()).await??;
        crate::must!(answer == b'S', "{} answers the request for TLS with {:?}", way.address, char::from(answer));
    }
    Ok(stream)
}

async fn timed<T>(act: impl Future<Output = T>) -> Result<T, Miss> {
    let late = |_| Miss::Failed(format!("no answer in {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, act).await.map_err(late)
}

/// Whether a server goes on after a hello of an old version: `0x0300` SSL 3, `0x0301` TLS 1.0, `0x0302` TLS 1.1. What it
/// said is in the answer.
pub async fn takes_old(way: &Way, before: Before, version: u16) -> Result<(bool, String), Miss> {
    let mut stream = open(way, before).await?;
    stream.write_all(&hello(version)).await?;
    let mut head = [0; 5];
    match timed(stream.read_exact(&mut head)).await? {
        Err(error) => Ok((false, format!("closed ({})", error.kind()))),
        // Record type 21 is an alert, 22 a handshake: RFC 5246, section 6.2.1.
        Ok(_) if head[0] == 22 => Ok((true, "went on".into())),
        Ok(_) if head[0] == 21 => {
            let mut alert = [0; 2];
            let _ = timed(stream.read_exact(&mut alert)).await?;
            Ok((false, format!("alert {}", alert[1])))
        }
        Ok(_) => Ok((false, format!("no TLS: {head:?}"))),
    }
}

/// A ClientHello (RFC 2246, section 7.4.1.2) that offers the ciphers of its time.
fn hello(version: u16) -> Vec<u8> {
    let ciphers: [u16; 8] = [0xc014, 0xc013, 0xc00a, 0xc009, 0x0039, 0x0033, 0x0035, 0x002f];
    let mut body = version.to_be_bytes().to_vec();
    body.extend(uuid::Uuid::new_v4().as_bytes());
    body.extend(uuid::Uuid::new_v4().as_bytes());
    body.push(0);
    body.extend(((ciphers.len() * 2) as u16).to_be_bytes());
    body.extend(ciphers.iter().flat_map(|c| c.to_be_bytes()));
    body.extend([1, 0]);
    // supported_groups and ec_point_formats, without which elliptic ciphers may be passed over.
    let extensions = [0, 10, 0, 6, 0, 4, 0, 23, 0, 24, 0, 11, 0, 2, 1, 0];
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22];
    record.extend(version.max(0x0301).to_be_bytes());
    record.extend(((body.len() + 4) as u16).to_be_bytes());
    record.push(1);
    record.extend(&(body.len() as u32).to_be_bytes()[1..]);
    record.extend(body);
    record
}

/// A whole handshake of exactly this version, the certificate checked against `ca_pem`; the cipher that was chosen.
pub async fn shakes(
    way: &Way,
    before: Before,
    version: &'static rustls::SupportedProtocolVersion,
    ca_pem: &[u8],
) -> Result<String, Miss> {
    let stream = shaken(way, before, version, ca_pem).await?;
    let cipher = stream.get_ref().1.negotiated_cipher_suite().map(|c| format!("{:?}", c.suite()));
    Ok(cipher.unwrap_or_default())
}

/// The certificate an address shows, valid now by the CA of `ca_pem`: SHA-256 of its DER, hex.
pub async fn leaf(way: &Way, before: Before, ca_pem: &[u8]) -> Result<String, Miss> {
    let stream = shaken(way, before, &rustls::version::TLS13, ca_pem).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(crate::inside::sha256(chain.first().map(AsRef::as_ref).unwrap_or_default()))
}

/// A connection by TLS 1.3, the certificate checked against `ca_pem`.
pub async fn encrypted(way: &Way, ca_pem: &[u8]) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Miss> {
    shaken(way, Before::Nothing, &rustls::version::TLS13, ca_pem).await
}

async fn shaken(
    way: &Way,
    before: Before,
    version: &'static rustls::SupportedProtocolVersion,
    ca_pem: &[u8],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Miss> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(|e| Miss::Failed(format!("the CA: {e:?}")))?)?;
    }
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])?
            .with_root_certificates(roots)
            .with_no_client_auth();
    if before == Before::Postgres {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    let stream = open(way, before).await?;
    let name = ServerName::try_from(way.name.clone())?;
    Ok(timed(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream)).await??)
}

/// What a server says to `bytes` sent without TLS: the first bytes of its answer, empty if it closed.
pub async fn plain(way: &Way, bytes: &[u8]) -> Result<Vec<u8>, Miss> {
    plain_at(timed(way.connect()).await??, bytes).await
}

/// As [`plain`], on a connection that is there.
pub async fn plain_at(mut stream: TcpStream, bytes: &[u8]) -> Result<Vec<u8>, Miss> {
    stream.write_all(bytes).await?;
    let mut answer = vec![0; 4096];
    // A reset says as much as an end.
    let length = timed(stream.read(&mut answer)).await?.unwrap_or_default();
    answer.truncate(length);
    Ok(answer)
}
