//! The certificate of a workload that ends TLS itself: laid where it reads it, and renewed there.

use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc};

use api::{Secret, Secrets, context::secret, shim::CertificateFiles};
use service::{Certificate, Listeners, Shutdown};

use crate::Error;

/// Lays the pair that came with the secrets, before the workload starts, and takes renewed ones on the control socket. Who renews
/// tells the workload to read them.
pub fn start(files: &CertificateFiles, secrets: &mut Secrets, listeners: &mut Listeners) -> Result<(), Error> {
    let missing = |what: &str| Error::Certificate(format!("{what} was not passed").into());
    let cert = secrets.take(secret::TLS_CERT).ok_or_else(|| missing("it"))?;
    let key = secrets.take(secret::TLS_KEY).ok_or_else(|| missing("its key"))?;
    // Only a pair that fits is laid.
    let certificate = Certificate::new(&cert, &key).map_err(|e| Error::Certificate(e.into()))?;
    lay(files, &cert, &key).map_err(|e| Error::Certificate(e.into()))?;
    let Some(control) = listeners.take("control") else { return Ok(()) };
    let files = files.clone();
    let keep = Arc::new(move |cert: &Secret, key: &Secret| lay(&files, cert, key));
    let routes = service::certificate::routes_kept(certificate, keep);
    let limits = service::Limits { connections: 8, ..service::Limits::default() };
    tokio::spawn(service::serve(control, None, routes, limits, Shutdown::default()));
    Ok(())
}

fn lay(files: &CertificateFiles, cert: &Secret, key: &Secret) -> std::io::Result<()> {
    write(&files.key, key)?;
    write(&files.cert, cert)
}

/// Under another name first, so that nobody reads half of it.
fn write(path: &Path, text: &Secret) -> std::io::Result<()> {
    let half = path.with_extension("new");
    match std::fs::remove_file(&half) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
    file.write_all(text.expose().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&half, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pair_is_laid_for_its_user_alone_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles { cert: dir.path().join("tls.pem"), key: dir.path().join("tls.key") };
        for (cert, key) in [("one", "first"), ("two", "second")] {
            lay(&files, &Secret::new(cert), &Secret::new(key)).unwrap();
            assert_eq!(std::fs::read_to_string(&files.cert).unwrap(), cert);
            assert_eq!(std::fs::read_to_string(&files.key).unwrap(), key);
        }
        assert_eq!(std::fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    }
}
