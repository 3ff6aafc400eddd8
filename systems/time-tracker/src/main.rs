//! `time-tracker serve` and `time-tracker migrate`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use sdk::{Settings, program};
use time_tracker::{migrations, serve};

const USAGE: &str =
    "usage: time-tracker serve | time-tracker migrate (settings are environment variables, see README.md)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let settings = &Settings::from_environment();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => work(settings, async { serve::run(settings).await.context("time-tracker serve failed") }),
        ["migrate"] => work(settings, async {
            Ok(sdk::migrations::run(settings, "MIGRATIONS_CONNECTION", &migrations::ALL).await?)
        }),
        _ => program::misused(USAGE),
    }
}

fn work(settings: &Settings, verb: impl Future<Output = Result<()>>) -> ExitCode {
    program::run("time-tracker", env!("CARGO_PKG_VERSION"), settings, verb)
}
