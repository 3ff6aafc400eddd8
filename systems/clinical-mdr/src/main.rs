//! `clinical-mdr web|api|export|scanner NAME`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clinical_mdr::{api, export, scanner, web};
use sdk::{Settings, serve};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let part = match arguments[..] {
        ["web"] => "web",
        ["api"] => "api",
        ["export"] => "export",
        ["scanner", _] => "scanner",
        _ => {
            complain(
                "usage: clinical-mdr web | api | export | scanner NAME (settings are environment variables, see README.md)",
            );
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(work(part)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs one part with telemetry around it.
async fn work(part: &str) -> Result<()> {
    let settings = Settings::from_environment();
    let telemetry = sdk::telemetry::start(&settings, "clinical-mdr", env!("CARGO_PKG_VERSION"))?;
    let result = async {
        let router = match part {
            "web" => web::router(web::Web::from_settings(&settings)?),
            "api" => api::router(api::Api::from_settings(&settings)?),
            "export" => export::router(export::Export::from_settings(&settings)?),
            _ => scanner::router(),
        };
        serve::run(&settings, router).await?;
        anyhow::Ok(())
    };
    let result = result.await.with_context(|| format!("clinical-mdr {part} failed"));
    telemetry.finish().await;
    result
}

fn complain(text: &str) {
    use std::io::Write;
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}
