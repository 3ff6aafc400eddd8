//! Starts the role and keeps it until the end is asked for.

use std::{sync::Arc, time::Duration};

use api::{blob::BlobConfig, context::secret};
use service::{Context, Limits, Spool, Verifier};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Error, config::Settings, http, store::Store, sweep};

const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Opens the account a role is started with. The root key is taken out of the context's secrets.
pub(crate) fn open(
    config: BlobConfig,
    context: &mut Context,
    identity: &api::context::IdentityRef,
    spool: Spool,
    verifier: Verifier,
) -> Result<Store, Error> {
    let settings = Settings::new(config)?;
    let root = context.secrets.take(secret::BLOB_ROOT).ok_or(Error::Missing("root key (blob-root)"))?;
    Store::open(settings, &context.data, root, identity, verifier, spool, context.clock.clone())
}

/// Serves until the end is asked for. Needs `blob-root`, a certificate, listeners `https*` and `control`, and identity.
///
/// SIGHUP reads the role's file again: role assignments, containers and retention change without a restart.
pub async fn run(config: BlobConfig, mut context: Context) -> Result<(), Error> {
    let identity = context.identity.clone().ok_or(Error::Missing("identity, without which nobody can be let in"))?;
    let client = context.client(&identity.jwks)?;
    let verifier = Verifier::new(identity.clone(), client, context.clock.clone());
    let spool = Spool::start(&context)?;
    let store = Arc::new(open(config, &mut context, &identity, spool, verifier)?);

    let mut tasks = tokio::task::JoinSet::new();
    let listeners = context.listeners.take_all("https");
    if !listeners.is_empty() {
        let tls = context.server_tls(&[b"http/1.1"], false)?;
        for listener in listeners {
            let app = http::public(store.clone());
            tasks.spawn(service::serve(listener, Some(tls.clone()), app, Limits::default(), context.shutdown.clone()));
        }
    }
    if let Some(listener) = context.listeners.take("control") {
        let app = context.renewable(http::control(store.clone()));
        tasks.spawn(service::serve(listener, None, app, Limits::default(), context.shutdown.clone()));
    }
    let (sweeping, shutdown) = (store.clone(), context.shutdown.clone());
    let mut again = signal(SignalKind::hangup()).map_err(Error::Serve)?;
    let path = context.config_path.clone();
    tasks.spawn(async move {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                // What failed was logged; the next round tries again.
                _ = every.tick() => drop(sweep::sweep(&sweeping).await),
                _ = again.recv() => reread(&sweeping, &path).await,
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
async fn reread(store: &Arc<Store>, path: &std::path::Path) {
    let read = service::read::<BlobConfig>(path).map_err(|e| e.to_string());
    let done = match read {
        Ok(file) => store.reconfigure(file.config).await.map_err(|e| e.to_string()),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => tracing::info!("the configuration was read again"),
        Err(error) => {
            tracing::error!(error, file = %path.display(), "kept the old configuration; the new one is not usable");
        }
    }
}
