//! Stamps as wholes: alone, side by side, with a part gone.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{Lab, Miss, Seen, Site, checks::vault::folder, claim::Call, harm::kill, miss, must, site::until_in};

const LONG: Duration = Duration::from_secs(60);

async fn health(site: &Site) -> Result<u16, Miss> {
    Ok(site.client(&site.url("edge")?)?.send("GET", "/health", None).await?.status.as_u16())
}

/// `health_follows_database(DATABASE)`.
pub async fn health_follows_database(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let database = c.argument(0, "postgres.main");
    must!(health(&site).await? == 200, "it is not healthy before");
    // The keeper starts the server anew when it ends: it is ended as often as it comes back, until the page tells.
    let begun = Instant::now();
    let mut told = None;
    while told.is_none() && begun.elapsed() < LONG {
        let fresh = lab.restore(on).await?;
        for pid in fresh.pids(database).iter().skip(1) {
            let _ = kill(*pid);
        }
        for _ in 0..10 {
            match health(&site).await {
                Ok(200) => {}
                Ok(status) => told = Some(status),
                Err(_) => {}
            }
        }
    }
    let Some(status) = told else { miss!("with the database ended again and again, /health stays 200") };
    let back = Instant::now();
    until_in("it is healthy again", LONG, async || {
        let site = lab.restore(on).await?;
        let status = health(&site).await?;
        must!(status == 200, "it answers {status}");
        Ok(())
    })
    .await?;
    Ok(format!("200; with the database ended {status}; 200 again after {:.1} s", back.elapsed().as_secs_f64()))
}

/// `stamps_stand_alone(OTHER STAMP)`.
pub async fn stand_alone(lab: &Lab, on: &str, c: &Call) -> Seen {
    let other = c.argument(0, "staging");
    let (one, two) = (lab.site(on).await?, lab.site(other).await?);
    let pids = |site: &Site| site.status.resources.iter().flat_map(|r| r.pids.clone()).collect::<BTreeSet<_>>();
    // Two closed networks may have the same addresses, and are two all the same.
    let seats = |site: &Site| {
        let stopped = |r: &&api::supervisor::ResourceStatus| !r.address.is_empty();
        site.status.resources.iter().filter(stopped).map(|r| site.seat(&r.name)).collect::<Result<BTreeSet<_>, _>>()
    };
    let shared: Vec<_> = pids(&one).intersection(&pids(&two)).copied().collect();
    must!(shared.is_empty(), "processes {shared:?} belong to both");
    let shared: Vec<_> = seats(&one)?.intersection(&seats(&two)?).copied().collect();
    must!(shared.is_empty(), "addresses {shared:?} belong to both");
    must!(one.ca_pem != two.ca_pem, "both have the same certificate authority");
    must!(folder(&one)? != folder(&two)?, "both lie in {}", folder(&one)?.display());
    let foreign = two.client(&one.url("edge")?)?.send("GET", "/health", None).await;
    must!(foreign.is_err(), "the CA of {other} vouches for {on}");
    let statuses = (health(&one).await?, health(&two).await?);
    must!(statuses == (200, 200), "they answer {statuses:?}");
    for (down, stays) in [(other, &one), (on, &two)] {
        lab.down(down).await?;
        let alone = health(stays).await;
        lab.restore(down).await?;
        must!(alone? == 200, "with {down} taken down, {} does not serve", stays.stamp);
    }
    let network = super::network::of(&one).await;
    let kinds = one.places.len();
    let seen =
        format!("{on} and {other}: {kinds} workloads each of their own, {} and {}", one.url("edge")?, two.url("edge")?);
    match network {
        Ok(network) => Ok(format!("{seen}, each in a closed network {}", network.space)),
        Err(_) => Err(Miss::Substituted(format!("a block of loopback addresses, for a network of its own: {seen}"))),
    }
}

/// `regions_apart(REGION, OTHER STAMP, OTHER REGION, SERVICE)`: application, database and vault of each are its own.
pub async fn regions_apart(lab: &Lab, on: &str, c: &Call) -> Seen {
    let other = c.argument(1, "other");
    let (one, two) = (lab.site(on).await?, lab.site(other).await?);
    let mut seen = Vec::new();
    let mut all: Vec<BTreeSet<u32>> = Vec::new();
    for (site, region) in [(&one, c.argument(0, "")), (&two, c.argument(2, ""))] {
        let service = format!("service.{}", c.argument(3, "web"));
        let parts = [service.clone(), site.first("postgres")?, site.first("vault")?];
        let told = until_in("a process that says its region", LONG, async || {
            let now = super::members::status(site).await?;
            let pids = now.resources.iter().filter(|r| r.name == service).flat_map(|r| r.pids.iter().skip(1));
            let environments = pids.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/environ")).ok());
            let says = |text: String| text.split('\0').find_map(|e| e.strip_prefix("REGION_NAME=").map(str::to_owned));
            let told = environments.into_iter().find_map(says);
            told.ok_or_else(|| Miss::Failed(format!("{service} of {} says none", site.stamp)))
        })
        .await?;
        must!(told == region, "{service} of {} runs in the region {told}", site.stamp);
        let pids: BTreeSet<u32> = parts.iter().flat_map(|part| site.pids(part).iter().copied()).collect();
        must!(parts.iter().all(|part| !site.pids(part).is_empty()), "{} runs {pids:?}", site.stamp);
        must!(health(site).await? == 200, "{} does not serve", site.stamp);
        seen.push(format!("{} ({told}): {}", site.stamp, parts.join(", ")));
        all.push(pids);
    }
    must!(all[0].is_disjoint(&all[1]), "processes belong to both: {all:?}");
    must!(folder(&one)? != folder(&two)?, "both lie in {}", folder(&one)?.display());
    let foreign = two.client(&one.url("edge")?)?.send("GET", "/health", None).await;
    must!(foreign.is_err(), "the CA of {other} vouches for {on}");
    for stamp in [on, other] {
        lab.down(stamp).await?;
    }
    Ok(format!("{}; no process, folder or authority of both", seen.join("; ")))
}

/// `one_without_the_other(OTHER STAMP, DATABASE)`.
pub async fn one_without_the_other(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (broken, database) = (lab.site(on).await?, c.argument(1, "postgres.main"));
    let whole = lab.site(c.argument(0, "staging")).await?;
    let calm = latencies(&whole, Duration::from_secs(3), async || Ok(())).await?;
    let victim = broken.client(&broken.url("edge")?)?;
    let mut killed = 0;
    let storm = latencies(&whole, Duration::from_secs(6), async || {
        let fresh = lab.site(on).await?;
        for pid in fresh.pids(database).iter().skip(2) {
            killed += u32::from(kill(*pid).is_ok());
        }
        // The broken one is loaded meanwhile, whatever it answers.
        for _ in 0..5 {
            let _ = victim.send("GET", "/health", None).await;
        }
        Ok(())
    })
    .await?;
    lab.restore(on).await?;
    must!(killed > 0, "nothing of {database} was ended");
    must!(storm.1 == 0, "{} of {} requests to the other stamp failed", storm.1, storm.0.len());
    let (calm, storm_p95) = (p95(calm.0), p95(storm.0.clone()));
    must!(storm_p95 < Duration::from_millis(200), "the other stamp's p95 went from {calm:?} to {storm_p95:?}");
    Ok(format!(
        "{killed} processes of {database} ended in {on}; the other answered all {} requests, p95 {calm:?} before and {storm_p95:?} meanwhile",
        storm.0.len()
    ))
}

/// Requests one after the other for `time`, `meanwhile` after every tenth: times of the answers, and failures.
async fn latencies(
    site: &Site,
    time: Duration,
    mut meanwhile: impl AsyncFnMut() -> Result<(), Miss>,
) -> Result<(Vec<Duration>, usize), Miss> {
    let client = site.client(&site.url("edge")?)?;
    let (begun, mut times, mut failed) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < time {
        let asked = Instant::now();
        match client.send("GET", "/health", None).await {
            Ok(answer) if answer.status.is_success() => times.push(asked.elapsed()),
            _ => failed += 1,
        }
        if times.len() % 10 == 0 {
            meanwhile().await?;
        }
    }
    Ok((times, failed))
}

fn p95(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * 95 / 100).copied().unwrap_or_default()
}

/// `stamp_for(STAMP...)`.
pub async fn stamp_for(lab: &Lab, _: &str, c: &Call) -> Seen {
    let mut seen = Vec::new();
    let mut addresses = BTreeSet::new();
    for stamp in &c.arguments {
        let site = lab.site(stamp).await?;
        let url = site.url("edge")?;
        let status = health(&site).await?;
        must!(status == 200, "{stamp} at {url} answers {status}");
        must!(addresses.insert(url.clone()), "{stamp} has the address of another: {url}");
        let region = site.system.region.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
        seen.push(format!("{stamp}{region} at {url}"));
    }
    Ok(seen.join(", "))
}

/// Every process that carries the stamp's mark belongs to a declared resource; their listeners are at declared addresses.
pub async fn nothing_undeclared(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let declared: BTreeSet<String> = site.system.resources.keys().map(ToString::to_string).collect();
    for resource in &site.status.resources {
        let base = resource.name.split('+').next().unwrap_or(&resource.name).trim_end_matches(".migrate");
        must!(declared.contains(base), "{} runs and is not declared", resource.name);
    }
    let known: BTreeSet<u32> = site.status.resources.iter().flat_map(|r| r.pids.iter().copied()).collect();
    let mark = format!("/{}/{}/", site.system.name, site.stamp);
    let home = folder(&site)?;
    let mut all = known.clone();
    for pid in drivers::proc::all() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let marked = environment.split(|b| *b == 0).filter_map(|e| e.strip_prefix(b"STAMP_MARK="));
        let ours = marked.map(String::from_utf8_lossy).any(|m| m.contains(&mark) && !m.ends_with("/exec"));
        // Another home may have a stamp of the same name: its processes lie in another folder.
        let here = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&home));
        if ours && here {
            all.insert(pid);
        }
    }
    let strays: Vec<_> = drivers::proc::descendants(&all.iter().copied().collect::<Vec<_>>())
        .into_iter()
        .filter(|pid| !known.contains(pid) && drivers::proc::identify(*pid).is_some())
        .collect();
    let ips: BTreeSet<IpAddr> = site
        .status
        .resources
        .iter()
        .filter_map(|r| r.address.parse::<std::net::SocketAddr>().ok())
        .map(|a| a.ip())
        .collect();
    let mut listeners = 0;
    for pid in &known {
        for address in listening(*pid) {
            must!(
                ips.contains(&address.ip()) || address.ip() == std::net::Ipv4Addr::LOCALHOST,
                "process {pid} listens on {address}"
            );
            listeners += 1;
        }
    }
    // Work of PostgreSQL comes and goes: what is new is looked at once more.
    let again = lab.restore(on).await?;
    let now: BTreeSet<u32> = again.status.resources.iter().flat_map(|r| r.pids.iter().copied()).collect();
    let strays: Vec<_> =
        strays.into_iter().filter(|p| !now.contains(p) && drivers::proc::identify(*p).is_some()).collect();
    must!(strays.is_empty(), "processes {strays:?} belong to no resource");
    Ok(format!(
        "{} processes of {} workloads, {listeners} listeners, all declared",
        known.len(),
        site.status.resources.len()
    ))
}

/// IPv4 addresses on which a process listens, by its sockets' inodes.
pub(crate) fn listening(pid: u32) -> Vec<std::net::SocketAddr> {
    let inodes: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| std::fs::read_link(e.path()).ok())
        .filter_map(|l| l.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    // Of its own network, and of this machine's: a socket belongs where it was opened.
    let tables = [format!("/proc/{pid}/net/tcp"), "/proc/self/net/tcp".into()];
    let table: String = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Columns of proc(5): local address, state (0A is LISTEN), inode.
        if words.len() < 10 || words[3] != "0A" || !inodes.contains(words[9]) {
            return None;
        }
        let (ip, port) = words[1].split_once(':')?;
        let ip = u32::from_str_radix(ip, 16).ok()?.to_le_bytes();
        Some(std::net::SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
    };
    table.lines().filter_map(row).collect::<BTreeSet<_>>().into_iter().collect()
}
