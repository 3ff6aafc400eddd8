//! `donatello api`, `worker`, `migrate` and `provider`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use donatello::{migrations, serve, standin, worker};
use sdk::Settings;

const USAGE: &str = "usage: donatello api | worker | migrate | provider openai|replicate [MODE] [LEAST-MOST] (settings are environment variables, see README.md)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match (&words[..], runtime) {
        (["api"], Ok(runtime)) => runtime.block_on(work("donatello-api", api())),
        (["worker"], Ok(runtime)) => runtime.block_on(work("donatello-worker", worker())),
        (["migrate"], Ok(runtime)) => runtime.block_on(work("donatello-migrate", migrate())),
        (["provider", kind @ ("openai" | "replicate"), manner @ ..], Ok(runtime)) => {
            runtime.block_on(work("donatello-provider", provider(kind, manner)))
        }
        (_, Err(error)) => Err(error.into()),
        _ => {
            complain(USAGE);
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
async fn work(name: &str, verb: impl Future<Output = Result<()>>) -> Result<()> {
    let telemetry = sdk::telemetry::start(&Settings::from_environment(), name, env!("CARGO_PKG_VERSION"))?;
    let result = verb.await;
    telemetry.finish().await;
    result
}

async fn api() -> Result<()> {
    serve::run(&Settings::from_environment()).await.context("donatello api failed")
}

async fn worker() -> Result<()> {
    worker::run(&Settings::from_environment(), sdk::serve::asked()).await.context("donatello worker failed")
}

async fn provider(kind: &str, words: &[&str]) -> Result<()> {
    let manner = standin::manner(words).map_err(anyhow::Error::msg)?;
    standin::run(&Settings::from_environment(), kind, manner).await.context("donatello provider failed")
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
