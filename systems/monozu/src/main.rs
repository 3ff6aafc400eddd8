//! `monozu cloud`, `monozu manage`, `monozu ingest`, `monozu pipeline`, `monozu migrate cloud|manage`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use monozu::{cloud, ingest, login, manage, migrations, pipeline};
use sdk::{Settings, program, serve};

const USAGE: &str = "usage: monozu cloud | manage | ingest | pipeline | migrate cloud | migrate manage (settings are environment variables, see README.md)";

#[derive(Clone, Copy)]
enum Verb {
    Cloud,
    Manage,
    Ingest,
    Pipeline,
    Migrate(&'static [sdk::migrations::Migration]),
}

impl Verb {
    fn parse(arguments: &[&str]) -> Option<(Verb, &'static str)> {
        Some(match arguments {
            ["cloud"] => (Verb::Cloud, "monozu-cloud"),
            ["manage"] => (Verb::Manage, "monozu-manage"),
            ["ingest"] => (Verb::Ingest, "monozu-ingest"),
            ["pipeline"] => (Verb::Pipeline, "monozu-pipeline"),
            ["migrate", "cloud"] => (Verb::Migrate(&migrations::CLOUD), "monozu-cloud-migrate"),
            ["migrate", "manage"] => (Verb::Migrate(&migrations::MANAGE), "monozu-manage-migrate"),
            _ => return None,
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some((verb, name)) = Verb::parse(&arguments) else { return program::misused(USAGE) };
    let settings = &Settings::from_environment();
    program::run(name, env!("CARGO_PKG_VERSION"), settings, async {
        carry_out(verb, settings).await.with_context(|| format!("{name} failed"))
    })
}

async fn carry_out(verb: Verb, settings: &Settings) -> Result<()> {
    match verb {
        Verb::Cloud => {
            let app = cloud::App::from_settings(settings)?;
            let beside = tokio::spawn(cloud::beside(app.clone()));
            let result = serve::run(settings, cloud::router(app)).await;
            beside.abort();
            Ok(result?)
        }
        Verb::Manage => {
            let app = manage::App::from_settings(settings)?;
            let beside = tokio::spawn(manage::beside(app.clone()));
            let result = serve::run(settings, manage::router(app)).await;
            beside.abort();
            Ok(result?)
        }
        Verb::Ingest => Ok(serve::run(settings, ingest::router(ingest::App::from_settings(settings)?)).await?),
        Verb::Pipeline => Ok(serve::run(settings, pipeline::router(pipeline::App::from_settings(settings)?)).await?),
        Verb::Migrate(files) => {
            let mut client = login::connect_alone(settings).await?;
            Ok(sdk::migrations::bring(&mut client, files).await?)
        }
    }
}
