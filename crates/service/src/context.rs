//! What a role is given when it starts.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::IpAddr,
    os::fd::{FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use api::{
    Secret, Secrets,
    client::{Client, Target},
    context::{IdentityRef, RoleFile, SECRETS_FD, secret},
};
use serde::de::DeserializeOwned;

use crate::{Certificate, Clock, Listeners, Shutdown, tls};

/// The version of [`RoleFile`] that this binary reads.
pub const ROLE_FILE_VERSION: u32 = 1;

/// Where a role lives, what it listens on, whom it trusts.
pub struct Context {
    pub system: String,
    pub stamp: String,
    /// The resource this role serves, such as `vault.main`.
    pub resource: String,
    /// The role's own directory.
    pub data: PathBuf,
    /// The stamp's CA certificate, PEM.
    pub ca_pem: Vec<u8>,
    pub hosts: Arc<BTreeMap<String, IpAddr>>,
    pub identity: Option<IdentityRef>,
    /// Base URL of the audit role, if this stamp has one.
    pub audit: Option<String>,
    pub clock: Clock,
    pub shutdown: Shutdown,
    pub listeners: Listeners,
    pub secrets: Secrets,
    /// The file this was read from; roles that can, read it again on SIGHUP.
    pub config_path: PathBuf,
    /// The certificate that is shown, from its first use on.
    #[doc(hidden)]
    pub shown: OnceLock<Certificate>,
}

/// Why a role could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("could not read the role's configuration {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the role's configuration {path} is not what this binary understands")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the role's configuration {path} has version {found}; this binary reads up to {ROLE_FILE_VERSION}")]
    Version { path: PathBuf, found: u32 },
    #[error("could not take over the inherited listeners")]
    Listeners(#[source] std::io::Error),
    #[error("could not read the secrets from the inherited pipe")]
    Secrets(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads a role's file alone, for a role that reads its configuration again.
pub fn read<C: DeserializeOwned>(path: &Path) -> Result<RoleFile<C>, StartError> {
    let text = std::fs::read(path).map_err(|source| StartError::Read { path: path.into(), source })?;
    let file: RoleFile<C> =
        serde_json::from_slice(&text).map_err(|source| StartError::Parse { path: path.into(), source })?;
    if file.version > ROLE_FILE_VERSION {
        return Err(StartError::Version { path: path.into(), found: file.version });
    }
    Ok(file)
}

/// Reads everything a role is started with. Call it first in the process, before threads.
pub fn start<C: DeserializeOwned>(path: &Path) -> Result<(C, Context), StartError> {
    let file: RoleFile<C> = read(path)?;
    let place = file.context;
    let ca_pem = std::fs::read(&place.ca).map_err(|source| StartError::Read { path: place.ca.clone(), source })?;
    let secrets = inherited_secrets()?;
    // SAFETY: nothing has run in this process yet that could own these descriptors, and the secrets pipe, which lies
    // behind them, was taken above.
    let listeners = unsafe { Listeners::inherited() }.map_err(StartError::Listeners)?;
    let context = Context {
        system: place.system,
        stamp: place.stamp,
        resource: place.resource,
        data: place.data,
        ca_pem,
        hosts: Arc::new(place.hosts),
        identity: place.identity,
        audit: place.audit,
        clock: Clock::moved_by(place.clock_offset_ms),
        shutdown: Shutdown::default(),
        listeners,
        secrets,
        config_path: path.into(),
        shown: OnceLock::new(),
    };
    Ok((file.config, context))
}

/// Reads the secrets pipe to its end; none if there is no pipe. The descriptor is closed after.
pub fn inherited_secrets() -> Result<Secrets, StartError> {
    let Some(fd) = std::env::var(SECRETS_FD).ok().and_then(|n| n.parse::<i32>().ok()) else {
        return Ok(Secrets::default());
    };
    // SAFETY: the parent passes this descriptor for us alone and names it in the environment.
    let mut pipe = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut text = String::new();
    pipe.read_to_string(&mut text).map_err(|e| StartError::Secrets(e.into()))?;
    Secrets::decode(&Secret::new(text)).map_err(|e| StartError::Secrets(e.into()))
}

impl Context {
    /// An HTTPS client of `base` that trusts the stamp's CA and knows the stamp's names.
    pub fn client(&self, base: &str) -> Result<Client, tls::Error> {
        let base = base.parse().map_err(|_| tls::Error::Url(base.to_owned()))?;
        let tls = api::client::trust(&self.ca_pem).map_err(tls::Error::Trust)?;
        Ok(Client::new(Target::Https { base, tls, hosts: self.hosts.clone() }))
    }

    /// The TLS server configuration from the certificate and key this role was handed.
    pub fn server_tls(&self, alpn: &[&[u8]], min_13: bool) -> Result<Arc<rustls::ServerConfig>, tls::Error> {
        tls::showing(self.certificate()?, alpn, min_13)
    }

    /// The TLS client configuration for parts of this stamp that ask who calls: it shows the certificate of this role.
    pub fn client_tls(&self) -> Result<Arc<rustls::ClientConfig>, tls::Error> {
        tls::client(self.certificate()?, &self.ca_pem)
    }

    /// The certificate this role shows, the same at each call.
    fn certificate(&self) -> Result<Certificate, tls::Error> {
        if let Some(certificate) = self.shown.get() {
            return Ok(certificate.clone());
        }
        let cert = self.secrets.get(secret::TLS_CERT).ok_or(tls::Error::Missing(secret::TLS_CERT))?;
        let key = self.secrets.get(secret::TLS_KEY).ok_or(tls::Error::Missing(secret::TLS_KEY))?;
        let certificate = Certificate::new(cert, key)?;
        Ok(self.shown.get_or_init(|| certificate).clone())
    }

    /// The control socket's router, and with it the route by which the certificate is renewed if this role has one.
    pub fn renewable(&self, control: axum::Router) -> axum::Router {
        match self.certificate() {
            Ok(certificate) => control.merge(crate::certificate::routes(certificate)),
            Err(_) => control,
        }
    }

    /// A context without listeners and secrets, living in `data`.
    #[doc(hidden)]
    pub fn for_test(data: &Path) -> Self {
        Self {
            system: "system".into(),
            stamp: "test".into(),
            resource: "role.main".into(),
            data: data.into(),
            ca_pem: Vec::new(),
            hosts: Arc::default(),
            identity: None,
            audit: None,
            clock: Clock::default(),
            shutdown: Shutdown::default(),
            listeners: Listeners::default(),
            secrets: Secrets::default(),
            config_path: data.join("config.json"),
            shown: OnceLock::new(),
        }
    }
}
