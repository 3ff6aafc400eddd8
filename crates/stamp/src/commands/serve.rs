//! `stamp serve ROLE`: the parts that run as processes of their own.

use std::{future::Future, path::Path, process::ExitCode};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use service::Context;
use tokio::runtime::{Builder, Runtime};

use crate::arguments::Role;

/// Runs a part to its end.
pub fn run(role: Role) -> anyhow::Result<ExitCode> {
    service::tls::install_provider();
    service::log::install();
    let outcome = match role {
        Role::Shim { config } => return shim_of(&config),
        Role::Template { bin, to } => postgres::make_template(&bin, &to).map_err(Into::into),
        Role::Supervisor { home } => {
            let binary = std::env::current_exe().context("could not find this program")?;
            small()?.block_on(supervisor::run(supervisor::Home::at(home), binary)).map_err(Into::into)
        }
        // Two threads where many wait on one another; one where there is little to do, since each costs memory.
        Role::Gateway { config } => role_of(&config, wide()?, gateway::run),
        Role::Vault { config } => role_of(&config, wide()?, vault::run),
        Role::Identity { config } => role_of(&config, small()?, identity::run),
        Role::Telemetry { config } => role_of(&config, small()?, telemetry::run),
        Role::Audit { config } => role_of(&config, small()?, audit::run),
        Role::Blob { config } => role_of(&config, wide()?, blob::run),
        Role::Registry { config } => role_of(&config, wide()?, registry::run),
        Role::Postgres { config } => role_of(&config, small()?, postgres::run),
        Role::Graph { config } => role_of(&config, wide()?, graph::run),
        Role::Archive { socket, name } => small()?.block_on(postgres::archive(&socket, &name)).map_err(Into::into),
        Role::Fetch { socket, name, to } => {
            let (status, said) = small()?.block_on(postgres::fetch(&socket, &name, &to));
            if let Some(said) = said {
                tracing::error!(file = name, said, "the file could not be fetched from the archive");
            }
            return Ok(ExitCode::from(status));
        }
    };
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            // The log is where a role's failure is looked for.
            tracing::error!(error = format!("{error:#}"), "ended");
            Ok(ExitCode::from(1))
        }
    }
}

fn shim_of(config: &Path) -> anyhow::Result<ExitCode> {
    match shim::run(config) {
        Ok(code) => Ok(ExitCode::from(u8::try_from(code.clamp(0, 255)).unwrap_or(255))),
        Err(error) => {
            crate::screen::talk(&format!("stamp: {:#}", anyhow::Error::from(error)));
            Ok(ExitCode::from(1))
        }
    }
}

fn role_of<C, E, F>(config: &Path, runtime: Runtime, run: impl FnOnce(C, Context) -> F) -> anyhow::Result<()>
where
    C: DeserializeOwned,
    E: std::error::Error + Send + Sync + 'static,
    F: Future<Output = Result<(), E>>,
{
    let (config, context) = service::start(config)?;
    runtime.block_on(async {
        context.shutdown.on_signals().context("could not watch for signals")?;
        run(config, context).await.map_err(Into::into)
    })
}

fn small() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(8).build().context("could not start the runtime")
}

fn wide() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("could not start the runtime")
}
