//! Measures what identity costs: a password hash, a signing key, a workload's token over real TLS.
//!
//! `cargo run --release -p identity --example identity_measure -- FOLDER [CONNECTIONS]`, with `identity_alone` serving from FOLDER.

use std::time::{Duration, Instant};

use api::client::{Client, Target};

const EACH: u32 = 500;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(arguments.next().ok_or_else(|| anyhow::anyhow!("give a folder"))?);
    let connections: u32 = arguments.next().map_or(Ok(8), |n| n.parse())?;

    let params = argon2::Params::new(19_456, 2, 1, None).map_err(|e| anyhow::anyhow!("{e}"))?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    report("argon2id (19 MiB, t=2, p=1)", 10, || {
        argon.hash_password_into(b"violet tractor seven", b"0123456789abcdef", &mut [0; 32]).expect("parameters fit");
    });
    report("a new RSA 2048 key", 20, || {
        aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("keys can be made");
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(mint(&folder, connections))
}

fn report(what: &str, times: usize, mut work: impl FnMut()) {
    let mut took: Vec<Duration> = (0..times)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    took.sort();
    eprintln!("{what}: median {:.1?}, longest {:.1?} of {times}", took[times / 2], took[times - 1]);
}

async fn mint(folder: &std::path::Path, connections: u32) -> anyhow::Result<()> {
    let about: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("example.json"))?)?;
    let text = |name: &str| about[name].as_str().unwrap_or_default().to_owned();
    let tls = api::client::trust(text("certificate").as_bytes())?;
    let base: url::Url = text("issuer").parse()?;
    let client = Client::new(Target::Https { base, tls, hosts: std::sync::Arc::default() });
    let client = client.bearer(api::Secret::new(text("workload_key")));
    let request = api::identity::WorkloadTokenRequest {
        workload: "service.web".into(),
        resource: "https://vault.azure.net".into(),
    };
    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (client, request) = (client.clone(), request.clone());
        callers.spawn(async move {
            for _ in 0..EACH {
                client.post::<_, api::identity::WorkloadToken>("/workload/token", &request).await?;
            }
            Ok::<_, api::WireError>(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let each = f64::from(connections * EACH) / start.elapsed().as_secs_f64();
    eprintln!("workload tokens: {each:.0} a second, {connections} callers, a new TLS connection each");
    Ok(())
}
