//! `time-tracker serve` and `time-tracker migrate`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use sdk::Settings;
use time_tracker::{migrations, serve};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (verb, more) = (arguments.next(), arguments.next());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match (verb.as_deref(), more, runtime) {
        (Some("serve"), None, Ok(runtime)) => runtime.block_on(work(serve())),
        (Some("migrate"), None, Ok(runtime)) => runtime.block_on(work(migrate())),
        (_, _, Err(error)) => Err(error.into()),
        _ => {
            complain(
                "usage: time-tracker serve | time-tracker migrate (settings are environment variables, see README.md)",
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs one verb with telemetry around it.
async fn work(verb: impl Future<Output = Result<()>>) -> Result<()> {
    let settings = Settings::from_environment();
    let telemetry = sdk::telemetry::start(&settings, "time-tracker", env!("CARGO_PKG_VERSION"))?;
    let result = verb.await;
    telemetry.finish().await;
    result
}

async fn serve() -> Result<()> {
    serve::run(&Settings::from_environment()).await.context("time-tracker serve failed")
}

async fn migrate() -> Result<()> {
    let settings = Settings::from_environment();
    let mut client = sdk::database::connect_alone(&settings, "MIGRATIONS_CONNECTION").await?;
    let done = sdk::migrations::apply(&mut client, &migrations::ALL).await?;
    tracing::info!(applied = done.applied.len(), already = done.already, "the schema is up to date");
    Ok(())
}

fn complain(text: &str) {
    use std::io::Write;
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}
