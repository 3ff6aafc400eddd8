//! Starts the role and keeps it until the end is asked for.

use std::time::Duration;

use api::{audit::AuditConfig, context::secret};
use service::{Context, Limits};

use crate::{Error, config, http, store::Store};

/// How often the retention looks; what is over is not shown even before.
const PRUNE_EVERY: Duration = Duration::from_secs(30);

/// Serves until the end is asked for. Needs `audit-root`, a certificate, listeners `https*` and `control`.
pub async fn run(config: AuditConfig, mut context: Context) -> Result<(), Error> {
    config::check(&config)?;
    let root = context.secrets.get(secret::AUDIT_ROOT).ok_or(Error::Missing("root key (audit-root)"))?.clone();
    let dir = context.data.join("records");
    let store =
        Store::open(&dir, &context.resource, &config.sources, &root, config.retention_days, context.clock.clone())?;
    let keys = http::Keys::new(&root, &config.sources);

    let mut tasks = tokio::task::JoinSet::new();
    let listeners = context.listeners.take_all("https");
    if !listeners.is_empty() {
        let tls = context.server_tls(&[b"http/1.1"], false)?;
        for listener in listeners {
            let app = http::public(store.clone(), keys.clone());
            tasks.spawn(service::serve(listener, Some(tls.clone()), app, Limits::default(), context.shutdown.clone()));
        }
    }
    if let Some(listener) = context.listeners.take("control") {
        let app = context.renewable(http::control(store.clone()));
        tasks.spawn(service::serve(listener, None, app, Limits::default(), context.shutdown.clone()));
    }
    let (retained, shutdown) = (store.clone(), context.shutdown.clone());
    tasks.spawn(async move {
        let mut every = tokio::time::interval(PRUNE_EVERY);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = shutdown.asked() => return Ok(()),
            }
            let store = retained.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.prune()).await {
                tracing::error!(error = &error as &dyn std::error::Error, "could not remove old audit records");
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
