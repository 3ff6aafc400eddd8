//! `stamp build`: an image of a service, in the stamp's registry.

use std::process::ExitCode;

use api::supervisor::{BuildRequest, Built};

use crate::{arguments::Of, connect, screen, target};

pub async fn run(of: &Of, service: String, release: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?.timeout(std::time::Duration::from_secs(300));
    let request = BuildRequest { system, stamp: of.stamp.clone(), service, release };
    let body = Some(("application/json", serde_json::to_vec(&request)?.into()));
    let built: Built = connect::answer(&client, client.send("POST", "/build", body).await?)?;
    if json {
        screen::data(&serde_json::to_string(&built)?);
    } else {
        screen::data(&built.digest);
        screen::talk(&format!(
            "{} {}/{}: {}, {:.1} MiB",
            screen::green("✓"),
            built.registry,
            built.repository,
            built.tags.join(", "),
            built.bytes as f64 / 1_048_576.0
        ));
    }
    Ok(ExitCode::SUCCESS)
}
