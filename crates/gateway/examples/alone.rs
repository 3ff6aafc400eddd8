//! The gateway by itself, for measuring: `alone CONFIG CERT KEY ADDRESS`. CONFIG is a role file, ADDRESS is `IP:PORT`.
//!
//! The real binary inherits its listener and gets its key through a pipe; nothing but that differs here.

use anyhow::Context as _;
use api::{Secret, context::secret, gateway::GatewayConfig};

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    service::tls::install_provider();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, config, cert, key, address] = &arguments[..] else { anyhow::bail!("usage: alone CONFIG CERT KEY ADDRESS") };
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("could not read {path}"));
    let file = service::read::<GatewayConfig>(config.as_ref())?;
    let mut context = service::Context::for_test(".".as_ref());
    context.config_path = config.into();
    context.secrets.insert(secret::TLS_CERT, Secret::new(read(cert)?));
    context.secrets.insert(secret::TLS_KEY, Secret::new(read(key)?));
    if file.config.telemetry.is_some() {
        context.secrets.insert(secret::INGEST_KEY, Secret::new("bench"));
        context.ca_pem = read(&file.context.ca.display().to_string())?.into_bytes();
    }
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("could not listen on {address}"))?;
    context.listeners.insert("https", service::Listener::Tcp(listener));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        context.shutdown.on_signals()?;
        Ok(gateway::run(file.config, context).await?)
    })
}
