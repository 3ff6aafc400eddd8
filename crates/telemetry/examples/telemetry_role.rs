//! The telemetry role as a process of its own, for tests that kill it: `telemetry_role DIR`.
//!
//! DIR holds `config.json` (the role's configuration), `cert.pem`, `key.pem` and `root` (the role's root key); data goes
//! to `DIR/data`, the control socket is `DIR/control`, and `DIR/address` says where it listens once it does.

use std::path::PathBuf;

use anyhow::Context as _;
use api::{Secret, context::secret};
use service::{Context, Listener};

fn main() -> anyhow::Result<()> {
    service::tls::install_provider();
    service::log::install();
    let dir = PathBuf::from(std::env::args_os().nth(1).context("usage: telemetry_role DIR")?);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).with_context(|| format!("could not read {name}"));

    let mut context = Context::for_test(&dir.join("data"));
    context.secrets.insert(secret::TLS_CERT, Secret::new(read("cert.pem")?));
    context.secrets.insert(secret::TLS_KEY, Secret::new(read("key.pem")?));
    context.secrets.insert(secret::TELEMETRY_ROOT, Secret::new(read("root")?));
    let https = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = https.local_addr()?;
    context.listeners.insert("https", Listener::Tcp(https));
    let _ = std::fs::remove_file(dir.join("control"));
    context.listeners.insert("control", Listener::Unix(std::os::unix::net::UnixListener::bind(dir.join("control"))?));
    std::fs::write(dir.join("address.new"), address.to_string())?;
    std::fs::rename(dir.join("address.new"), dir.join("address"))?;

    let config = serde_json::from_str(&read("config.json")?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        context.shutdown.on_signals()?;
        telemetry::run(config, context).await?;
        anyhow::Ok(())
    })
}
