//! `meg-qms`: one program, a verb for each of its processes.

use std::process::ExitCode;

use anyhow::{Context, Result};
use meg_qms::{app::Part, backup, maintain, media_server, migrations, scheduler, serve, stand_in, statics, worker};
use sdk::{Settings, program};

const USAGE: &str =
    "usage: meg-qms cms | worker | scheduler | static | media | migrate | maintain | back-up | restore FOLDER
       meg-qms stand-in directory [FILE] | rhapsody [FILE] | mail
settings are environment variables, see README.md";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match &words[..] {
        ["cms" | "worker" | "scheduler" | "static" | "media" | "migrate" | "maintain" | "back-up"]
        | ["restore", _]
        | ["stand-in", "directory" | "rhapsody" | "mail"]
        | ["stand-in", "directory" | "rhapsody", _] => {
            let settings = &Settings::from_environment();
            program::run("meg-qms", env!("CARGO_PKG_VERSION"), settings, async {
                verb(&words, settings).await.with_context(|| format!("meg-qms {} failed", words.join(" ")))
            })
        }
        _ => program::misused(USAGE),
    }
}

async fn verb(words: &[&str], settings: &Settings) -> Result<()> {
    match words {
        ["cms"] => Ok(serve::run(settings).await?),
        ["worker"] => worker::run(settings).await,
        ["scheduler"] => scheduler::run(settings).await,
        ["static"] => Ok(statics::run(settings).await?),
        ["media"] => Ok(media_server::run(settings).await?),
        ["migrate"] => {
            let all = migrations::of(Part::from_settings(settings)?);
            Ok(sdk::migrations::run(settings, "MIGRATIONS_CONNECTION", all).await?)
        }
        ["maintain"] => maintain::run(settings).await.map(|_| ()),
        ["back-up"] => backup::run(settings).await,
        ["restore", folder] => backup::restore::run(settings, std::path::Path::new(folder)).await,
        ["stand-in", which] => stand_in::run(which, None, settings).await,
        ["stand-in", which, file] => stand_in::run(which, Some(file), settings).await,
        _ => Ok(()),
    }
}
