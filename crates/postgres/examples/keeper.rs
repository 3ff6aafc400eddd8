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
    offset_ms: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    log::install();
    // PostgreSQL calls this program as it would call `stamp`.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", "archive", "--socket", socket, name] => return Ok(postgres::archive(socket.as_ref(), name).await?),
        ["serve", "fetch", "--socket", socket, name, to] => {
            let (status, said) = postgres::fetch(socket.as_ref(), name, to).await;
            said.into_iter().for_each(|said| eprintln!("{said}"));
            std::process::exit(status.into());
        }
        _ => {}
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let start: Start = serde_json::from_str(&text)?;
    let mut context = Context::for_test(&start.data);
    context.resource = "postgres.main".into();
    context.clock.set_offset_ms(start.offset_ms);
    context.secrets = Secrets::decode(&start.secrets)?;
    // A killed keeper leaves its socket behind.
    let _ = std::fs::remove_file(&start.control);
    let control = std::os::unix::net::UnixListener::bind(&start.control)?;
    context.listeners.insert("control", Listener::Unix(control));
    context.shutdown.on_signals()?;
    Ok(postgres::run(start.config, context).await?)
}
