//! TLS, redirects, headers: what anybody meets first.

use api::client::{Client, Target};

use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    miss, must,
    site::until,
    tls::{self, Before},
};

const OLD: [(u16, &str); 3] = [(0x0300, "SSL 3"), (0x0301, "TLS 1.0"), (0x0302, "TLS 1.1")];

/// `tls_min(RESOURCE, LEAST)`: 1.2, or 1.3.
pub async fn tls_min(lab: &Lab, on: &str, call: &Call) -> Seen {
    let site = lab.site(on).await?;
    let resource = call.argument(0, "edge");
    let way = site.way(resource)?;
    let address = way.address;
    let before = if resource.starts_with("postgres") { Before::Postgres } else { Before::Nothing };
    let mut refused = Vec::new();
    for (version, name) in OLD {
        let (taken, said) = tls::takes_old(&way, before, version).await?;
        must!(!taken, "{resource} at {address} takes {name}");
        refused.push(format!("{name}: {said}"));
    }
    let mut taken = Vec::new();
    let mut versions = vec![&rustls::version::TLS12, &rustls::version::TLS13];
    if call.argument(1, "1.2") == "1.3" {
        match tls::shakes(&way, before, versions.remove(0), &site.ca_pem).await {
            Ok(cipher) => miss!("{resource} at {address} takes TLS 1.2 with {cipher}"),
            Err(Miss::Failed(why)) => refused.push(format!("TLS 1.2: {why}")),
            Err(other) => return Err(other),
        }
    }
    for version in versions {
        let cipher = tls::shakes(&way, before, version, &site.ca_pem).await?;
        taken.push(format!("{:?} with {cipher}", version.version));
    }
    if before == Before::Postgres {
        // A start-up message without TLS: protocol 3.0, user and database `postgres`.
        let mut hello = vec![0, 0, 0, 0, 0, 3, 0, 0];
        hello.extend(b"user\0postgres\0database\0postgres\0\0");
        let length = hello.len() as u32;
        hello[..4].copy_from_slice(&length.to_be_bytes());
        let answer = tls::plain(&way, &hello).await?;
        // R asks for a password (or lets in); E is an error.
        must!(answer.first() != Some(&b'R'), "{resource} speaks with a client that uses no TLS");
        refused.push(format!("no TLS: {}", String::from_utf8_lossy(&answer).split('\0').nth(4).unwrap_or("closed")));
    }
    Ok(format!("{address} refused {}; took {}", refused.join(", "), taken.join(", ")))
}

/// Sockets of this machine's own network that listen at `ip`, by the kernel's table (proc(5), `/proc/net/tcp`).
fn listeners(ip: std::net::IpAddr) -> Result<Vec<u16>, Miss> {
    let std::net::IpAddr::V4(ip) = ip else { return Ok(Vec::new()) };
    let own = format!("{:08X}", u32::from_ne_bytes(ip.octets()));
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // State 0A is LISTEN.
    let listening = rows.filter(|words| words.get(3) == Some(&"0A")).filter_map(|words| words.get(1)?.split_once(':'));
    let of_ip = listening.filter(|(at, _)| *at == own || *at == "00000000");
    Ok(of_ip.filter_map(|(_, port)| u16::from_str_radix(port, 16).ok()).collect())
}

/// Whether something that is asked in plain HTTP answers it, other than by leading to HTTPS.
async fn speaks_plainly(at: std::net::SocketAddr) -> Result<Option<String>, Miss> {
    let base = format!("http://{at}").parse().map_err(|e| Miss::Failed(format!("http://{at}: {e}")))?;
    let client = Client::new(Target::Http { base }).timeout(std::time::Duration::from_secs(5));
    let Ok(answer) = client.send("GET", "/sign-in", None).await else { return Ok(None) };
    let to = answer.headers.get(http::header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    let leads = matches!(answer.status.as_u16(), 301 | 308) && to.starts_with("https://");
    // What TLS servers say to those who forgot it: a client error, and nothing of the application.
    let refuses = answer.status.is_client_error() && answer.body.len() < 1024;
    Ok((!leads && !refuses).then(|| format!("{} from {at}", answer.status)))
}

/// `https_only(PATH...)`: pages, answers of the API, files.
pub async fn https_only(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let address = site.address("edge")?;
    // Where the plain port lies is the platform's to say: the one that goes with the encrypted one.
    let port = if address.port() == 443 { 80 } else { 8080 };
    let plain = format!("http://{}:{port}", address.ip());
    let base = plain.parse().map_err(|e| Miss::Failed(format!("{plain}: {e}")))?;
    let answer = Client::new(Target::Http { base }).send("GET", "/projects?x=1", None).await?;
    let status = answer.status.as_u16();
    let to = answer.headers.get(http::header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    must!(matches!(status, 301 | 308), "{plain} answers {status}");
    must!(to.starts_with("https://") && to.ends_with("/projects?x=1"), "{plain} leads to `{to}`");
    let mut ports = listeners(address.ip())?;
    ports.sort_unstable();
    ports.dedup();
    must!(ports.contains(&address.port()), "nothing listens at {address}, only {ports:?}");
    for port in &ports {
        if let Some(said) = speaks_plainly((address.ip(), *port).into()).await? {
            miss!("plain HTTP is answered: {said}");
        }
    }
    let client = site.client(&site.url("edge")?)?;
    let mut seen = Vec::new();
    let paths: Vec<&str> = c.arguments.iter().map(String::as_str).collect();
    for path in if paths.is_empty() { vec!["/health"] } else { paths } {
        let answer = client.send("GET", path, None).await?;
        let hsts = answer.headers.get(http::header::STRICT_TRANSPORT_SECURITY).and_then(|v| v.to_str().ok());
        let age = hsts.and_then(|v| v.split("max-age=").nth(1)).and_then(|v| v.split(';').next()?.parse::<u64>().ok());
        let Some(age) = age else { miss!("{path} ({}) has no strict transport security: {hsts:?}", answer.status) };
        must!(age >= 15_552_000, "{path}: strict transport security lasts {age} s, less than half a year");
        seen.push(format!("{path} ({})", answer.status));
    }
    Ok(format!(
        "{plain} answers {status} to {to}; ports {ports:?} of {} answer nobody in the clear; strict transport security on {}",
        address.ip(),
        seen.join(", ")
    ))
}

/// `security_headers(PAGE, API PATH)`: both as somebody who is signed in.
pub async fn security_headers(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mut person = site.signed_in(&["user"]).await?;
    let mut seen = Vec::new();
    for path in &c.arguments {
        let answer = person.get(path).await?;
        must!(answer.status == 200, "{path} answers {}", answer.status);
        let of = |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_lowercase();
        let policy = of("content-security-policy");
        must!(of("x-content-type-options") == "nosniff", "{path} has no content type options");
        let framed =
            matches!(of("x-frame-options").as_str(), "deny" | "sameorigin") || policy.contains("frame-ancestors");
        must!(framed, "{path} says nothing of frames");
        must!(policy.contains("default-src"), "{path} has no content security policy: `{policy}`");
        must!(!policy.contains("unsafe-inline") && !policy.contains("unsafe-eval"), "{path} allows `{policy}`");
        must!(!of("referrer-policy").is_empty(), "{path} has no referrer policy");
        must!(of("strict-transport-security").contains("max-age"), "{path} has no transport security");
        seen.push(format!("{path} ({}): {policy}", answer.status));
    }
    Ok(seen.join("; "))
}

/// `environment_says(SERVICE, VARIABLE, VALUE, FAILING PATH)`.
pub async fn environment_says(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (variable, value) = (c.argument(1, ""), c.argument(2, ""));
    let pid = site.pids(&format!("service.{}", c.argument(0, "web"))).get(1).copied().unwrap_or_default();
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ"))?;
    let found = environment.split('\0').find_map(|e| e.strip_prefix(&format!("{variable}="))).unwrap_or("not set");
    must!(found == value, "in process {pid} {variable} is {found}");
    let page = site.client(&site.url("edge")?)?.send("GET", c.argument(3, "/nowhere"), None).await?;
    let text = String::from_utf8_lossy(&page.body).to_lowercase();
    must!(page.status.is_client_error() || page.status.is_server_error(), "the page does not fail: {}", page.status);
    for word in ["panicked", "backtrace", ".rs:", "stack trace", "at src/"] {
        must!(!text.contains(word), "the error page says `{word}`");
    }
    Ok(format!("{variable}={found} in process {pid}; the error page ({}) shows nothing of the program", page.status))
}

/// Where the program of a service listens, by the kernel's tables.
fn listens(site: &Site, service: &str) -> Result<std::net::SocketAddr, Miss> {
    let workload = format!("service.{service}");
    // The shim comes first.
    let found = site.pids(&workload).iter().skip(1).flat_map(|pid| super::stamps::listening(*pid)).next();
    found.ok_or_else(|| Miss::Failed(format!("{workload} listens nowhere")))
}

/// `port_follows(SERVICE, VARIABLE)`.
pub async fn port_follows(lab: &Lab, on: &str, call: &Call) -> Seen {
    let service = call.argument(0, "web");
    let variable = call.argument(1, "PORT");
    let site = lab.site(on).await?;
    let before = listens(&site, service)?;
    let port = if before.port() == 9090 { 9191 } else { 9090 };
    let changes = format!("[service.{service}]\nport = {port}\n[service.{service}.env]\n{variable} = \"{port}\"");
    let changed = lab.changed(on, &changes).await;
    let seen = async {
        let site = changed?;
        let now = listens(&site, service)?;
        must!(now.port() == port, "with {variable}={port} it listens at {now}");
        let client = site.client(&site.url("edge")?)?;
        let status = client.send("GET", "/health", None).await?.status.as_u16();
        must!(status == 200, "through the edge it answers {status}");
        Ok(format!("at {before} and, changed, at {now} it answers through the edge"))
    }
    .await;
    let site = lab.restore(on).await?;
    let client = site.client(&site.url("edge")?)?;
    until("the edge answers again", async || {
        let status = client.send("GET", "/health", None).await?.status.as_u16();
        must!(status == 200, "it answers {status}");
        Ok(())
    })
    .await?;
    seen
}
