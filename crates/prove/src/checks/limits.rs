//! Bounds: of a request, of the time an answer takes, of who reads a secret.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{Lab, Miss, Seen, claim::Call, must, tls};

/// `largest_request(METHOD PATH, MIB)`: JSON of exactly so many bytes, as somebody who is signed in. What it holds is nothing
/// that the application knows: it reads all of it, and refuses it for that.
pub async fn largest(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (method, path) = c.argument(0, "POST /").split_once(' ').unwrap_or(("POST", "/"));
    let most = c.argument(1, "10").parse::<usize>()? << 20;
    let mut person = site.signed_in(&["user"]).await?;
    let frame = r#"{"filler": ""}"#;
    let body = frame.replace("\"\"", &format!("\"{}\"", "x".repeat(most - frame.len())));
    must!(body.len() == most, "the body has {} bytes", body.len());
    let taken = person.send(method, path, "application/json", Some(body)).await?.status;
    // 400: read to its end, and not understood.
    must!(taken == 400, "{most} bytes are answered {taken}");
    // Who says beforehand that it is more is answered before anything of it is sent.
    let mut stream = tls::encrypted(&site.way("edge")?, &site.ca_pem).await?;
    let host = site.url("edge")?.trim_start_matches("https://").to_owned();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        most + 1
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await??;
    let refused = String::from_utf8_lossy(&answer).into_owned();
    must!(refused == "HTTP/1.1 413", "one byte more is answered `{refused}`");
    Ok(format!("{most} bytes are read ({taken}), one byte more is answered `{refused}`"))
}

/// Takes a connection and says nothing, for good. Braces are doubled, since one would begin a template of the manifest.
const MUTE: &str = "my $s = IO::Socket::INET->new(LocalAddr => $ENV{{LISTEN_ADDRESS}}, LocalPort => $ENV{{PORT}}, \
                    Listen => 64, ReuseAddr => 1) or die $!; my @c; while (my $c = $s->accept) {{ push @c, $c }}";

/// `times_out(SECONDS)`.
pub async fn times_out(lab: &Lab, on: &str, c: &Call) -> Seen {
    let seconds: f64 = c.argument(0, "60").parse()?;
    lab.site(on).await?;
    let document: toml_edit::DocumentMut = lab.manifest().parse()?;
    let routes = document.get("edge").and_then(|e| e.get("routes")?.as_array());
    let mut routes = routes.cloned().ok_or_else(|| Miss::Failed("the edge has no routes".into()))?;
    let mut mute = toml_edit::InlineTable::new();
    mute.insert("path", "/mute".into());
    mute.insert("to", "service.mute".into());
    routes.insert(0, mute);
    let run = toml_edit::Value::Array(["/usr/bin/perl", "-MIO::Socket::INET", "-e", MUTE].into_iter().collect());
    let changes = format!("[edge]\nroutes = {routes}\n[service.mute]\nport = 8099\nrun = {run}\n");
    let changed = lab.changed(on, &changes).await;
    let seen = async {
        let site = changed?;
        let client = site.client(&site.url("edge")?)?.timeout(Duration::from_secs_f64(seconds * 1.5 + 10.0));
        let begun = Instant::now();
        let status = client.send("GET", "/mute", None).await?.status.as_u16();
        let took = begun.elapsed().as_secs_f64();
        must!(status == 504, "a back-end that says nothing is answered {status} after {took:.1} s");
        must!((took - seconds).abs() < 1.0 + seconds * 0.05, "the answer came after {took:.1} s, not {seconds}");
        Ok(format!("a back-end that says nothing: {status} after {took:.2} s"))
    }
    .await;
    lab.restore(on).await?;
    seen
}

/// `only_reader(SERVICE, SECRET...)`.
pub async fn only_reader(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let reader = format!("service.{}", c.argument(0, "web"));
    must!(c.arguments.len() > 1, "no secret was named");
    let operator = site.vault("supervisor").await?;
    let listed = operator.send("GET", "/secrets?api-version=7.4", None).await?;
    let listed = String::from_utf8_lossy(&listed.body).into_owned();
    let mut refused = Vec::new();
    for secret in c.arguments.iter().skip(1) {
        must!(listed.contains(&format!("/secrets/{secret}\"")), "the vault's list has no {secret}");
        let path = format!("/secrets/{secret}?api-version=7.4");
        let status = site.vault(&reader).await?.send("GET", &path, None).await?.status.as_u16();
        must!(status == 200, "{reader} reads {secret}: {status}");
        for (id, service) in site.system.services() {
            let migrates = service.migrate.is_some().then(|| format!("{id}.migrate"));
            for other in [Some(id.to_string()), migrates].into_iter().flatten().filter(|other| *other != reader) {
                let status = site.vault(&other).await?.send("GET", &path, None).await?.status.as_u16();
                must!(status == 403, "{other} reads {secret}: {status}");
                refused.push(other);
            }
        }
    }
    must!(!refused.is_empty(), "nobody else is there");
    refused.sort_unstable();
    refused.dedup();
    let names = c.arguments[1..].join(", ");
    Ok(format!("{names}: in the vault's list, read by {reader}, refused with 403 to {}", refused.join(", ")))
}
