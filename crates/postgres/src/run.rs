//! From the role's configuration to a kept server.

use std::sync::Arc;

use api::{context::secret, database_token::Verifier, postgres::PostgresConfig};
use service::{Context, Limits, Shutdown};

use crate::{Error, backups::Backups, config, http, identities::Identities, keeper::Keeper, member::Membership};

/// Keeps one PostgreSQL until `context.shutdown` is asked for, then ends it and returns.
///
/// Dropping the future, or killing the process, leaves the server running; the next keeper on the same data adopts it.
///
/// # Errors
/// What no further try would mend: a configuration that is refused, a missing secret or control socket, root. A server
/// that does not start is tried again for ever, and its reason is in `/health`.
pub async fn run(config: PostgresConfig, mut context: Context) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return Err(Error::Root);
    }
    let checked = config::check(config, context.data.clone())?;
    let mut take = |name| context.secrets.take(name).ok_or(Error::Missing(name));
    let (cert, key, password) = (take(secret::TLS_CERT)?, take(secret::TLS_KEY)?, take(secret::POSTGRES_ADMIN)?);
    let control = context.listeners.take("control").ok_or(Error::Missing("the listener `control`"))?;
    let member = match checked.config.member.clone() {
        Some(member) => {
            let password = take(secret::POSTGRES_REPLICATION)?;
            Some(Membership::new(member, context.hosts.clone(), password, context.data.clone()))
        }
        None => None,
    };
    let backups = match &checked.config.backup {
        Some(_) => Backups::open(&checked, &take(secret::BACKUP_KEY)?, context.clock.clone())?,
        None => None,
    };
    let copied = backups.clone();
    let identities = match &checked.config.tenant {
        Some(tenant) => {
            let verifier = Verifier::new(take(secret::DATABASE_TOKENS)?.expose(), tenant);
            let verifier = verifier.ok_or_else(|| Error::Config("the key of identity's tokens is none".into()))?;
            Some(Identities::new(verifier, context.clock.clone(), checked.config.address))
        }
        None => None,
    };
    let keeper = Arc::new(Keeper::new(checked, cert, key, password, member, backups, identities));
    let limits = Limits { connections: 32, body_bytes: 64 * 1024, ..Limits::default() };
    let shutdown = context.shutdown.clone();
    // It answers to the last: while the server ends, it still hands over its log.
    let answering = service::serve(control, None, http::routes(keeper.clone()), limits, Shutdown::default());
    let copying = async {
        match &copied {
            Some(backups) => backups.keep_copy(&shutdown).await,
            None => shutdown.asked().await,
        }
        // The end of the server is what is waited for.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = copying => Ok(()),
        () = keeper.watch_space() => Ok(()),
        judged = keeper.judge_identities() => judged,
        // The drain of the control socket is not waited for: what it could still say, the end of this process says.
        () = keep_and_copy(&keeper, copied.as_ref(), &shutdown) => Ok(()),
        error = until_broken(answering, &shutdown) => Err(Error::Control(error)),
    }
}

async fn keep_and_copy(keeper: &Arc<Keeper>, copied: Option<&Arc<Backups>>, shutdown: &Shutdown) {
    keeper.keep(shutdown).await;
    if let Some(backups) = copied {
        backups.copy_the_last().await;
    }
}

/// Drives the control socket. Its orderly end is part of the keeper's; only a failure ends the keeper, and leaves the
/// server to the next one.
async fn until_broken(answering: impl Future<Output = std::io::Result<()>>, shutdown: &Shutdown) -> std::io::Error {
    match answering.await {
        Err(error) => error,
        Ok(()) if shutdown.is_asked() => std::future::pending().await,
        Ok(()) => std::io::Error::other("it stopped answering"),
    }
}
