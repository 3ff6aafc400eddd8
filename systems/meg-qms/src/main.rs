//! `meg-qms`: one program, a verb for each of its processes.

use std::process::ExitCode;

use anyhow::{Context, Result};
use meg_qms::{app::Part, backup, maintain, media_server, migrations, scheduler, serve, stand_in, statics, worker};
use sdk::Settings;

const USAGE: &str =
    "usage: meg-qms cms | worker | scheduler | static | media | migrate | maintain | back-up | restore FOLDER
       meg-qms stand-in directory [FILE] | rhapsody [FILE] | mail
settings are environment variables, see README.md";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match (&words[..], runtime) {
        (_, Err(error)) => Err(error.into()),
        (
            ["cms" | "worker" | "scheduler" | "static" | "media" | "migrate" | "maintain" | "back-up"]
            | ["restore", _]
            | ["stand-in", "directory" | "rhapsody" | "mail"]
            | ["stand-in", "directory" | "rhapsody", _],
            Ok(runtime),
        ) => runtime.block_on(work(&words)),
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
async fn work(words: &[&str]) -> Result<()> {
    let settings = Settings::from_environment();
    let telemetry = sdk::telemetry::start(&settings, "meg-qms", env!("CARGO_PKG_VERSION"))?;
    let result = verb(words, &settings).await;
    telemetry.finish().await;
    result.with_context(|| format!("meg-qms {} failed", words.join(" ")))
}

async fn verb(words: &[&str], settings: &Settings) -> Result<()> {
    match words {
        ["cms"] => Ok(serve::run(settings).await?),
        ["worker"] => worker::run(settings).await,
        ["scheduler"] => scheduler::run(settings).await,
        ["static"] => Ok(statics::run(settings).await?),
        ["media"] => Ok(media_server::run(settings).await?),
        ["migrate"] => migrate(settings).await,
        ["maintain"] => maintain::run(settings).await.map(|_| ()),
        ["back-up"] => backup::run(settings).await,
        ["restore", folder] => backup::restore::run(settings, std::path::Path::new(folder)).await,
        ["stand-in", which] => stand_in::run(which, None, settings).await,
        ["stand-in", which, file] => stand_in::run(which, Some(file), settings).await,
        _ => Ok(()),
    }
}

async fn migrate(settings: &Settings) -> Result<()> {
    let part = Part::from_settings(settings)?;
    let mut client = sdk::database::connect_alone(settings, "MIGRATIONS_CONNECTION").await?;
    let done = sdk::migrations::apply(&mut client, migrations::of(part)).await?;
    tracing::info!(applied = done.applied.len(), already = done.already, "the schema is up to date");
    Ok(())
}

fn complain(text: &str) {
    use std::io::Write;
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}
