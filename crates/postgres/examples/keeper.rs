//! A keeper as a process of its own, for tests that kill it. What it is started with comes by stdin, as one JSON object;
//! the control socket is made here, where a driver would hand it over.

use std::{io::Read as _, path::PathBuf};

use api::{Secret, Secrets, postgres::PostgresConfig};
use service::{Context, Listener, log};

#[derive(serde::Deserialize)]
struct Start {
    config: PostgresConfig,
    data: PathBuf,
    control: PathBuf,
    secrets: Secret,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    log::install();
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let start: Start = serde_json::from_str(&text)?;
    let mut context = Context::for_test(&start.data);
    context.resource = "postgres.main".into();
    context.secrets = Secrets::decode(&start.secrets)?;
    // A killed keeper leaves its socket behind.
    let _ = std::fs::remove_file(&start.control);
    let control = std::os::unix::net::UnixListener::bind(&start.control)?;
    context.listeners.insert("control", Listener::Unix(control));
    context.shutdown.on_signals()?;
    Ok(postgres::run(start.config, context).await?)
}
