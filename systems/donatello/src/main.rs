//! `donatello api`, `worker`, `migrate` and `provider`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use donatello::{migrations, serve, standin, worker};
use sdk::{Settings, program, serve::asked};

const USAGE: &str = "usage: donatello api | worker | migrate | provider openai|replicate [MODE] [LEAST-MOST] [https] (settings are environment variables, see README.md)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let settings = &Settings::from_environment();
    let work =
        |name: &str, verb: &[&str]| program::run(name, env!("CARGO_PKG_VERSION"), settings, carry_out(verb, settings));
    match &words[..] {
        ["api"] => work("donatello-api", &words),
        ["worker"] => work("donatello-worker", &words),
        ["migrate"] => work("donatello-migrate", &words),
        ["provider", "openai" | "replicate", ..] => work("donatello-provider", &words),
        _ => program::misused(USAGE),
    }
}

async fn carry_out(words: &[&str], settings: &Settings) -> Result<()> {
    match words {
        ["api"] => serve::run(settings).await.context("donatello api failed"),
        ["worker"] => worker::run(settings, asked()).await.context("donatello worker failed"),
        ["provider", kind, manner @ ..] => {
            let (manner, behind_tls) = match manner {
                [manner @ .., "https"] => (manner, true),
                manner => (manner, false),
            };
            let manner = standin::manner(manner).map_err(anyhow::Error::msg)?;
            standin::run(settings, kind, manner, behind_tls).await.context("donatello provider failed")
        }
        _ => Ok(sdk::migrations::run(settings, "MIGRATIONS_CONNECTION", &migrations::ALL).await?),
    }
}
