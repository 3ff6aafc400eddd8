//! Starts the role and keeps it until the end is asked for.

use std::{sync::Arc, time::Duration};

use api::{
    context::{RoleFile, secret},
    vault::VaultConfig,
};
use service::{Context, Limits, Spool, Verifier};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Error, callers::Callers, config::Settings, http, store::Store, vault::Vault};

const PURGE_EVERY: Duration = Duration::from_secs(30);

/// Opens the vault a role is started with. The key-encryption key is taken out of the context's secrets.
pub(crate) fn open(
    config: VaultConfig,
    context: &mut Context,
    spool: Spool,
    verifier: Verifier,
    identity: &api::context::IdentityRef,
) -> Result<Vault, Error> {
    let settings = Settings::new(config)?;
    let kek = context.secrets.take(secret::VAULT_KEK).ok_or(Error::Missing("key-encryption key (vault-kek)"))?;
    let store = Store::open(&context.data, &kek, context.clock.now_s())?;
    let callers = Callers::new(verifier, identity, context.clock.clone());
    Vault::new(settings, callers, store, &kek, spool, context.clock.clone())
}

/// Serves until the end is asked for. Needs `vault-kek`, a certificate, listeners `https*` and `control`, and identity.
///
/// SIGHUP reads the role's file again: role assignments and retention change without a restart.
pub async fn run(config: VaultConfig, mut context: Context) -> Result<(), Error> {
    let identity = context.identity.clone().ok_or(Error::Missing("identity, without which nobody can be let in"))?;
    let client = context.client(&identity.jwks)?;
    let verifier = Verifier::new(identity.clone(), client, context.clock.clone());
    let spool = Spool::start(&context)?;
    let vault = Arc::new(open(config, &mut context, spool, verifier, &identity)?);

    let mut tasks = tokio::task::JoinSet::new();
    let listeners = context.listeners.take_all("https");
    if !listeners.is_empty() {
        let tls = context.server_tls(&[b"http/1.1"], false)?;
        for listener in listeners {
            let app = http::public(vault.clone());
            tasks.spawn(service::serve(listener, Some(tls.clone()), app, Limits::default(), context.shutdown.clone()));
        }
    }
    if let Some(listener) = context.listeners.take("control") {
        let app = context.renewable(http::control(vault.clone()));
        tasks.spawn(service::serve(listener, None, app, Limits::default(), context.shutdown.clone()));
    }
    let (purging, shutdown) = (vault.clone(), context.shutdown.clone());
    let mut again = signal(SignalKind::hangup()).map_err(Error::Serve)?;
    let path = context.config_path.clone();
    tasks.spawn(async move {
        let mut every = tokio::time::interval(PURGE_EVERY);
        loop {
            tokio::select! {
                _ = every.tick() => {
                    let vault = purging.clone();
                    // What failed was logged; the next round tries again.
                    let _ = tokio::task::spawn_blocking(move || vault.purge_due()).await;
                }
                _ = again.recv() => reread(&purging, &path).await,
                () = shutdown.asked() => return Ok(()),
            }
        }
    });
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(result) => result.map_err(Error::Serve)?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(())
}

/// Reads the configuration again; one that cannot be used changes nothing.
async fn reread(vault: &Vault, path: &std::path::Path) {
    let read = std::fs::read(path)
        .map_err(|e| e.to_string())
        .and_then(|text| serde_json::from_slice::<RoleFile<VaultConfig>>(&text).map_err(|e| e.to_string()));
    let done = match read {
        Ok(file) => vault.reconfigure(file.config).await.map_err(|e| e.to_string()),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => tracing::info!("the configuration was read again"),
        Err(error) => {
            tracing::error!(error, file = %path.display(), "kept the old configuration; the new one is not usable")
        }
    }
}
