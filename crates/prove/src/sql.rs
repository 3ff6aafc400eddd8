//! A PostgreSQL client as an application has it: its connection string, TLS checked against the CA named there.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config, SimpleQueryMessage, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Miss, site::Way};

/// Connects by an Npgsql connection string (`Host=..;Database=..;Root Certificate=..`). TLS is required.
pub async fn connect(text: &str) -> Result<Client, Miss> {
    let (config, tls) = read(text)?;
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// As [`connect`], to the server at the end of `way`, whatever host the string names.
pub async fn connect_by(text: &str, way: &Way) -> Result<Client, Miss> {
    let (config, mut tls) = read(text)?;
    let tls =
        MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &way.name).map_err(|e| Miss::Failed(e.to_string()))?;
    let (client, connection) = config.connect_raw(way.connect().await?, tls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn read(text: &str) -> Result<(Config, MakeRustlsConnect), Miss> {
    let mut config = Config::new();
    config.ssl_mode(tokio_postgres::config::SslMode::Require).connect_timeout(std::time::Duration::from_secs(10));
    let mut authority = None;
    for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "host" | "server" => drop(config.host(value)),
            "port" => drop(config.port(value.parse()?)),
            "database" => drop(config.dbname(value)),
            "username" | "user id" => drop(config.user(value)),
            "password" => drop(config.password(value)),
            "root certificate" => authority = Some(value.to_owned()),
            _ => {}
        }
    }
    let authority = authority.ok_or_else(|| Miss::Failed("the connection string names no root certificate".into()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&std::fs::read(&authority)?) {
        roots.add(certificate.map_err(|e| Miss::Failed(format!("{authority}: {e:?}")))?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((config, MakeRustlsConnect::new(tls)))
}

/// The rows of a statement, each value as text; NULL is `NULL`.
pub async fn rows(client: &Client, statement: &str) -> Result<Vec<Vec<String>>, Miss> {
    let messages = client.simple_query(statement).await?;
    let text = |row: &tokio_postgres::SimpleQueryRow| {
        (0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_owned()).collect::<Vec<_>>()
    };
    Ok(messages
        .iter()
        .filter_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(text(row)) } else { None })
        .collect())
}
