//! Stamps as wholes: alone, side by side, with a part gone.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    Lab, Miss, Seen, Site, checks::vault::folder, claim::Call, harm::kill, load::Load, miss, must, site::until_in,
};

const LONG: Duration = Duration::from_secs(60);
/// How long the one is in trouble.
const STORM: Duration = Duration::from_secs(8);

async fn health(site: &Site) -> Result<u16, Miss> {
    asked(site, "/health").await
}

async fn asked(site: &Site, path: &str) -> Result<u16, Miss> {
    Ok(site.client(&site.url("edge")?)?.send("GET", path, None).await?.status.as_u16())
}

/// `health_follows_database(DATABASE[, PAGE THAT FOLLOWS IT, PAGES THAT STAY...])`.
pub async fn health_follows_database(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (database, page) = (c.argument(0, "postgres.main"), c.argument(1, "/health"));
    must!(asked(&site, page).await? == 200, "it is not healthy before");
    // The keeper starts the server anew when it ends: it is ended as often as it comes back, until the page tells.
    let begun = Instant::now();
    let mut told = None;
    while told.is_none() && begun.elapsed() < LONG {
        let fresh = lab.restore(on).await?;
        for pid in fresh.pids(database).iter().skip(1) {
            let _ = kill(*pid);
        }
        for _ in 0..10 {
            match asked(&site, page).await {
                Ok(200) => {}
                Ok(status) => told = Some(status),
                Err(_) => {}
            }
            for page in c.arguments.iter().skip(2) {
                let status = asked(&site, page).await?;
                must!(status == 200, "with the database ended, {page} answers {status}");
            }
        }
    }
    let Some(status) = told else { miss!("with the database ended again and again, {page} stays 200") };
    let back = Instant::now();
    until_in("it is healthy again", LONG, async || {
        let site = lab.restore(on).await?;
        let status = asked(&site, page).await?;
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

/// `one_without_the_other(OTHER STAMP, DATABASE, LOAD)`: people work in both; the database of the one is ended again and again.
pub async fn one_without_the_other(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (other, database, load) = (c.argument(0, "staging"), c.argument(1, "postgres.main"), c.argument(2, ""));
    lab.site(on).await?;
    // People at work: pages that need a sign-in, reads and writes. Theirs is the load that makes trouble, too.
    let (whole, broken) = (Load::begin(lab, other, load).await?, Load::begin(lab, on, load).await?);
    until_in("work in both", LONG, async || {
        let begun = (whole.tape().acknowledged().len(), broken.tape().acknowledged().len());
        must!(begun.0 > 3 && begun.1 > 3, "{begun:?} writes are acknowledged");
        Ok(())
    })
    .await?;
    let (calm, mut killed) = (whole.tape().percentile(95), 0_u32);
    let fault = Instant::now();
    let victim = lab.site(on).await?;
    let victim = victim.client(&victim.url("edge")?)?;
    while fault.elapsed() < STORM {
        let fresh = lab.restore(on).await?;
        for pid in fresh.pids(database).iter().skip(2) {
            killed += u32::from(kill(*pid).is_ok());
        }
        // Beside the people who press again: as many requests as come through.
        for _ in 0..20 {
            let _ = victim.send("GET", "/sheets", None).await;
        }
    }
    let ((tape, _), (spoilt, _)) = (whole.end().await, broken.end().await);
    lab.restore(on).await?;
    must!(killed > 0, "nothing of {database} was ended");
    must!(spoilt.failures() > 0, "{on} was in no trouble: {} requests, none failed", spoilt.samples.len());
    let failed = tape.failures();
    must!(failed == 0, "{failed} of {} requests to {other} failed: {:?}", tape.samples.len(), tape.troubles());
    let p95 = tape.percentile(95);
    must!(p95 < Duration::from_millis(200), "p95 of {other} went from {} to {} ms", calm.as_millis(), p95.as_millis());
    Ok(format!(
        "{killed} processes of {database} ended in {on}, where {} of {} requests failed; {other} did all of {}, p95 {} ms \
         before and {} ms with the trouble",
        spoilt.failures(),
        spoilt.samples.len(),
        tape.samples.len(),
        calm.as_millis(),
        p95.as_millis()
    ))
}

/// `stamp_for(STORY, STAMP...)`: the story is told in each.
pub async fn stamp_for(lab: &Lab, _: &str, c: &Call) -> Seen {
    let mut seen = Vec::new();
    let mut addresses = BTreeSet::new();
    let story = Call { name: "story".into(), arguments: c.arguments.iter().take(1).cloned().collect() };
    for stamp in c.arguments.iter().skip(1) {
        let site = lab.site(stamp).await?;
        let url = site.url("edge")?;
        let status = health(&site).await?;
        must!(status == 200, "{stamp} at {url} answers {status}");
        must!(addresses.insert(url.clone()), "{stamp} has the address of another: {url}");
        let told = super::story::tell(lab, stamp, &story).await;
        told.map_err(|miss| match miss {
            Miss::Failed(why) => Miss::Failed(format!("in {stamp}: {why}")),
            other => other,
        })?;
        let region = site.system.region.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
        seen.push(format!("{stamp}{region} at {url}"));
    }
    must!(!seen.is_empty(), "no stamp is named");
    Ok(format!("{}; in each somebody signed in, and what they wrote is in its database", seen.join(", ")))
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
