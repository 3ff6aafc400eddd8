//! Identity alone, with a certificate of its own making: to look at the pages, and to measure.
//!
//! `cargo run -p identity --example identity_alone -- FOLDER [PORT]` prints its address and the link of the first administrator on
//! stderr, and writes `FOLDER/example.json` with the key of the workload `service.web`. It ends with SIGTERM or Ctrl-C.

use std::path::PathBuf;

use api::{
    Secret,
    client::Client as Control,
    context::secret,
    identity::{Client, IdentityConfig, UserAnswer, UserRequest},
};
use service::{Context, Listener};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or_else(|| anyhow::anyhow!("give a folder"))?);
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(folder, port))
}

async fn run(folder: PathBuf, port: u16) -> anyhow::Result<()> {
    service::tls::install_provider();
    let started = std::time::Instant::now();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let issuer = format!("https://{}", listener.local_addr()?);
    let root = Secret::new("the root key of an example");
    let client = |id: &str, title: &str| Client {
        id: id.into(),
        title: title.into(),
        redirect_uris: vec!["https://127.0.0.1:9/signin-oidc".into()],
        post_logout_redirect_uris: vec![],
        ..Client::default()
    };
    let config = IdentityConfig {
        issuer: issuer.clone(),
        tenant: "7f3c2a90-1111-4222-8333-444455556666".into(),
        title: "Time Tracker".into(),
        clients: vec![client("web", "Time Tracker"), client("reports", "Reports")],
        groups: vec!["staff".into(), "approvers".into()],
        admin_group: "administrators".into(),
        workloads: vec!["service.web".into()],
        ..IdentityConfig::default()
    };
    let mut context = Context::for_test(&folder);
    context.resource = "identity.main".into();
    context.secrets.insert(secret::TLS_CERT, Secret::new(cert.pem()));
    context.secrets.insert(secret::TLS_KEY, Secret::new(signing_key.serialize_pem()));
    context.secrets.insert(secret::IDENTITY_ROOT, root.clone());
    context.listeners.insert("https", Listener::Tcp(listener));
    let socket = folder.join("control.sock");
    let _ = std::fs::remove_file(&socket);
    context.listeners.insert("control", Listener::Unix(std::os::unix::net::UnixListener::bind(&socket)?));
    context.shutdown.on_signals()?;
    let role = tokio::spawn(identity::run(config, context));

    let request = UserRequest {
        email: "ada@example.org".into(),
        name: "Ada Lovelace".into(),
        groups: vec!["administrators".into(), "staff".into()],
    };
    let added: UserAnswer = Control::unix(&socket).post("/admin/users", &request).await?;
    eprintln!("ready after {} ms at {issuer}", started.elapsed().as_millis());
    eprintln!("first sign-in: {}", added.link.unwrap_or_default());
    let key = root.derive("workload:service.web");
    let about = serde_json::json!({ "issuer": issuer, "certificate": cert.pem(), "workload_key": key.expose() });
    std::fs::write(folder.join("example.json"), about.to_string())?;
    role.await??;
    Ok(())
}
