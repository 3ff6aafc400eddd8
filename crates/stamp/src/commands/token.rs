//! `stamp token`: a person signs in with a browser, and a token of theirs is printed.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use api::{
    client::{Client, Target},
    identity::AtTerminal,
    supervisor::Status,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{arguments::Of, connect, failure::Failed, screen, target};

/// How long somebody may take to sign in.
const PATIENCE: Duration = Duration::from_secs(300);
/// A browser's request is shorter.
const HEAD: usize = 16 * 1024;
const PAGE: &str = "<!doctype html><title>Signed in</title><p>You are signed in. Go back to the terminal.</p>";

pub async fn run(of: &Of, resource: &str, json: bool) -> anyhow::Result<ExitCode> {
    let name = target::name(&of.system)?;
    let supervisor = connect::supervisor(&connect::home()?).await?;
    let answer = supervisor.send("GET", &format!("/status?system={name}&stamp={}", of.stamp), None).await?;
    let status: Status = connect::answer(&supervisor, answer)?;
    let issuer = status.urls.iter().find(|(resource, _)| resource.starts_with("identity.")).map(|(_, url)| url.clone());
    let issuer = issuer.ok_or_else(|| {
        Failed::asked(
            format!("{name}/{} has no directory of its own", of.stamp),
            "its outside issuer gives tokens to people",
        )
    })?;
    let listener = TcpListener::bind("127.0.0.1:0").await.context("could not listen on 127.0.0.1")?;
    let asking = AtTerminal::new(listener.local_addr()?.port());
    screen::talk("Sign in here:");
    screen::talk(&asking.url(&issuer));
    let code = tokio::time::timeout(PATIENCE, code(&listener, &asking.state)).await;
    let code = code.map_err(|_| {
        Failed::asked(
            format!("nobody signed in within {} minutes", PATIENCE.as_secs() / 60),
            format!("`stamp token {}` again", of.system),
        )
    })??;
    let pem = std::fs::read(&status.ca).with_context(|| format!("could not read {}", status.ca.display()))?;
    let tls = api::client::trust(&pem)?;
    let client = Client::new(Target::Https { base: issuer.parse()?, tls, hosts: Arc::default() });
    let token = asking.redeem(&client, &code, resource).await?;
    if json {
        screen::data(&serde_json::json!({ "resource": resource, "access_token": token.expose() }).to_string());
    } else {
        screen::data(token.expose());
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for the browser that comes back.
async fn code(listener: &TcpListener, state: &str) -> anyhow::Result<String> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Browsers open connections that they never use, and ask for pictures.
        let Ok(Ok(Some(query))) = tokio::time::timeout(Duration::from_secs(5), query(stream)).await else { continue };
        let field = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        if field("state").as_deref() != Some(state) {
            continue;
        }
        if let Some(error) = field("error") {
            let why = field("error_description").unwrap_or_default();
            return Err(Failed::asked(format!("the directory refused: {error}"), why));
        }
        if let Some(code) = field("code") {
            return Ok(code);
        }
    }
}

/// The query of one request, answered with a page.
async fn query(mut stream: TcpStream) -> anyhow::Result<Option<Vec<(String, String)>>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&head);
    let target = text.lines().next().and_then(|line| line.strip_prefix("GET /?")?.split(' ').next());
    let found = target.map(|query| url::form_urlencoded::parse(query.as_bytes()).into_owned().collect());
    let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(found)
}
