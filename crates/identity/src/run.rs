//! Starting the role: check, open, listen, keep house, until the end is asked for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use api::{context::secret, identity::IdentityConfig};
use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use service::{Context, Limits, Spool, serve};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::Settings,
    control,
    error::Error,
    http,
    keys::Keys,
    outside::Ways,
    password::Passwords,
    state::{App, Inner},
    store::{self, Store},
    token,
};

/// How often keys are looked after.
const KEEP_HOUSE: Duration = Duration::from_secs(30);
/// What has expired is deleted once in so many rounds.
const SWEEP_ROUNDS: u32 = 120;

/// Serves the identity role until the end is asked for.
///
/// Listeners: `https` (also `https-...`) for tokens, OIDC and pages, `control` for the supervisor. Secrets: the TLS pair
/// and the root key.
///
/// # Errors
/// What is missing or wrong at the start; afterwards it only ends when asked.
pub async fn run(config: IdentityConfig, mut context: Context) -> Result<(), Error> {
    let settings = Settings::check(config)?;
    let root = context.secrets.get(secret::IDENTITY_ROOT).ok_or(Error::Secret(secret::IDENTITY_ROOT))?.clone();
    let tls = context.server_tls(&[b"h2", b"http/1.1"], false).map_err(Error::Tls)?;
    let https = context.listeners.take_all("https");
    if https.is_empty() {
        return Err(Error::Listener("https"));
    }
    let control = context.listeners.take("control");
    // A signal must not end us before its handler is there.
    let reread =
        signal(SignalKind::hangup()).map_err(|e| Error::Io("the signal to read the configuration again", e))?;

    let tls_outside = trusted(&context.ca_pem).map_err(Error::Trust)?;
    let clock = context.clock.clone();
    let path = context.data.join("identity.db");
    let now = clock.now_s();
    let seal = digest::digest(&digest::SHA256, root.derive("seal:signing-keys").expose().as_bytes());
    // The first key and the dummy hash cost some tenths of a second of one core; side by side they cost the longer.
    let opening = tokio::task::spawn_blocking(move || {
        let store = Store::open(&path)?;
        let keys = Keys::open(store.clone(), seal.as_ref(), now)?;
        Ok::<_, Error>((store, keys))
    });
    let passwords = tokio::task::spawn_blocking(Passwords::new);
    let (store, keys) = opening.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let passwords = passwords.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let spool = Spool::start(&context).map_err(|e| Error::Audit(Box::new(e)))?;

    let app = App::new(Inner {
        settings: ArcSwap::from_pointee(settings),
        store,
        keys,
        passwords,
        accounts: App::account_limiter(),
        addresses: App::address_limiter(),
        refusals: App::refusal_limiter(),
        ways: Ways::new(tls_outside, context.hosts.clone()),
        spool,
        clock,
        form_key: root.derive("forms"),
        root,
        system: context.system.clone(),
        stamp: context.stamp.clone(),
        resource: context.resource.clone(),
    });

    let shutdown = context.shutdown.clone();
    let mut serving = tokio::task::JoinSet::new();
    let limits = Limits { body_bytes: 64 * 1024, ..Limits::default() };
    for listener in https {
        tracing::info!(address = listener.address(), "identity answers");
        serving.spawn(serve(listener, Some(tls.clone()), http::router(app.clone()), limits.clone(), shutdown.clone()));
    }
    if let Some(listener) = control {
        let router = context.renewable(control::router(app.clone()));
        serving.spawn(serve(listener, None, router, limits, shutdown.clone()));
    }
    let house = tokio::spawn(keep_house(app.clone()));
    let rereading = tokio::spawn(read_again(app, reread, context.config_path.clone()));
    while let Some(ended) = serving.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                shutdown.ask();
                return Err(Error::Io("a listener", error));
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    // Waited for, so that the store and the spool are closed when this returns.
    for task in [house, rereading] {
        task.abort();
        let _ = task.await;
    }
    Ok(())
}

/// Whom the role trusts outside of it: the machine's authorities, and the stamp's own.
fn trusted(own: &[u8]) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    use rustls::pki_types::pem::PemObject as _;
    let machine = std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let mut roots = rustls::RootCertStore::empty();
    for pem in [machine.as_slice(), own] {
        // A bundle may hold an old certificate that cannot be used; the others count.
        roots.add_parsable_certificates(rustls::pki_types::CertificateDer::pem_slice_iter(pem).flatten());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
}

/// Rotates keys when they are due, and deletes what has expired.
async fn keep_house(app: App) {
    let mut round: u32 = 0;
    loop {
        let (now, settings) = (app.now(), app.settings.load_full());
        let life = settings.workload_token_seconds.max(token::ID_TOKEN_SECONDS);
        match app.keys.keep(now, settings.key_rotation_seconds, life).await {
            Ok(false) => {}
            Ok(true) => {
                let object = format!("keys/{}", app.keys.current().kid());
                if let Err(error) = app.record("identity", "key.rotate", &object, api::audit::Outcome::Ok, &[]).await {
                    tracing::error!(%error, "a rotation was not recorded");
                }
            }
            Err(error) => tracing::error!(%error, "keys could not be looked after; the next round tries again"),
        }
        if round.is_multiple_of(SWEEP_ROUNDS)
            && let Err(error) = app.store.run(move |db| store::sweep(db, now)).await
        {
            tracing::error!(%error, "what has expired could not be deleted; a later round tries again");
        }
        round = round.wrapping_add(1);
        tokio::time::sleep(KEEP_HOUSE).await;
    }
}

/// Reads the configuration again on SIGHUP. One that is wrong changes nothing.
async fn read_again(app: App, mut signal: tokio::signal::unix::Signal, path: PathBuf) {
    while signal.recv().await.is_some() {
        match reload(&app, path.clone()).await {
            Ok(()) => tracing::info!("read the configuration again"),
            Err(error) => tracing::error!(%error, "the configuration stays as it was"),
        }
    }
}

async fn reload(app: &App, path: PathBuf) -> Result<(), Error> {
    let read = tokio::task::spawn_blocking(move || service::read::<IdentityConfig>(&path));
    let file = read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let file = file.map_err(|e| Error::Config(e.to_string()))?;
    let settings = Settings::check(file.config)?;
    let current = app.settings.load();
    if settings.issuer != current.issuer || settings.tenant != current.tenant {
        return Err(Error::Config("issuer and tenant change with a restart only".into()));
    }
    app.settings.store(Arc::new(settings));
    Ok(())
}
