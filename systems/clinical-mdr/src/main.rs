//! `clinical-mdr web|api|export|scanner NAME`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clinical_mdr::{api, export, scanner, web};
use sdk::{Settings, program, serve};

const USAGE: &str =
    "usage: clinical-mdr web | api | export | scanner NAME (settings are environment variables, see README.md)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let part = match arguments[..] {
        ["web"] => "web",
        ["api"] => "api",
        ["export"] => "export",
        ["scanner", _] => "scanner",
        _ => return program::misused(USAGE),
    };
    let settings = &Settings::from_environment();
    program::run("clinical-mdr", env!("CARGO_PKG_VERSION"), settings, async {
        carry_out(part, settings).await.with_context(|| format!("clinical-mdr {part} failed"))
    })
}

async fn carry_out(part: &str, settings: &Settings) -> Result<()> {
    let router = match part {
        "web" => web::router(web::Web::from_settings(settings)?),
        "api" => api::router(api::Api::from_settings(settings)?),
        "export" => export::router(export::Export::from_settings(settings)?),
        _ => scanner::router(),
    };
    Ok(serve::run(settings, router).await?)
}
