//! The parts of an application that is several: each a workload of its own, each at its path, each told of.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    network::{self, from_outside, people},
    stamps, telemetry,
};
use crate::{Lab, Miss, Seen, Site, claim::Call, harm::kill, miss, must, site::until, tls};

/// `COMPONENT, PATH, COMPONENT, PATH, ...`
fn pairs(c: &Call) -> Result<Vec<(&str, &str)>, Miss> {
    let all: Vec<(&str, &str)> = c.arguments.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    must!(all.len() > 1, "one component says nothing of the others");
    Ok(all)
}

async fn answers(site: &Site, path: &str) -> Result<u16, Miss> {
    Ok(site.client(&site.url("edge")?)?.send("GET", path, None).await?.status.as_u16())
}

/// `single_entry(COMPONENT, PATH, ...)`: from where people are no component answers, and through the edge each does.
pub async fn single_entry(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    network::of(&site).await?;
    let [a, b, d] = people(&site)?;
    let edge = site.address("edge")?;
    // Where people come to sign in, and builds to be kept, is no component.
    let mut entries = vec![edge.ip()];
    for kind in ["identity", "registry"] {
        entries.extend(site.first(kind).and_then(|name| site.address(&name)).map(|at| at.ip()).ok());
    }
    let mut seen = Vec::new();
    for (component, path) in pairs(c)? {
        let at = site.address(component)?;
        let IpAddr::V4(own) = at.ip() else { miss!("{component} is at {at}") };
        // Its own address, and every address of the block where people find the edge.
        let block = (1..=254).map(|host| Ipv4Addr::new(a, b, d, host)).filter(|ip| !entries.contains(&IpAddr::V4(*ip)));
        let tried: Vec<Ipv4Addr> = std::iter::once(own).chain(block).collect();
        if let Some(open) = from_outside(&tried, at.port()).await? {
            miss!("people reach {component} at {open}, past the edge");
        }
        let status = answers(&site, path).await?;
        must!(status == 200, "{component} answers {path} through the edge with {status}");
        seen.push(format!("{component}: {} addresses at port {} refused, {path} {status}", tried.len(), at.port()));
    }
    Ok(format!("{}; the edge is {edge}", seen.join("; ")))
}

/// User and network of each process of a workload but its shim.
fn places(site: &Site, workload: &str) -> Result<BTreeSet<(u32, u64)>, Miss> {
    let of = |pid: &u32| {
        let user = std::fs::metadata(format!("/proc/{pid}"))?.uid();
        Ok::<_, std::io::Error>((user, std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino()))
    };
    // Work of a database comes and goes.
    let all: BTreeSet<(u32, u64)> = site.pids(workload).iter().skip(1).filter_map(|pid| of(pid).ok()).collect();
    must!(!all.is_empty(), "{workload} has no process");
    Ok(all)
}

/// `contained(...)`: nothing runs outside of a declared workload, and each has a user and a network that no other has.
pub async fn contained(lab: &Lab, on: &str, c: &Call) -> Seen {
    let told = stamps::nothing_undeclared(lab, on, c).await?;
    let site = lab.site(on).await?;
    network::of(&site).await?;
    let own = std::fs::metadata("/proc/self/ns/net")?.ino();
    let (mut users, mut networks) = (BTreeMap::new(), BTreeMap::new());
    for resource in &site.status.resources {
        for (user, network) in places(&site, &resource.name)? {
            must!(user != 0, "{} runs as root", resource.name);
            must!(network != own, "{} runs in the machine's own network", resource.name);
            let first = users.entry(user).or_insert(&resource.name);
            must!(*first == &resource.name, "{first} and {} have the user {user}", resource.name);
            let first = networks.entry(network).or_insert(&resource.name);
            must!(*first == &resource.name, "{first} and {} have one network", resource.name);
        }
    }
    Ok(format!("{told}; {} users and {} networks, one a workload", users.len(), networks.len()))
}

/// `each_alone(COMPONENT, PATH, ...)`: one workload a component, no program, user or network of two; with each killed in turn all
/// others answer.
pub async fn each_alone(lab: &Lab, on: &str, c: &Call) -> Seen {
    let all = pairs(c)?;
    let mut site = lab.site(on).await?;
    let (mut programs, mut seats) = (BTreeMap::new(), BTreeMap::new());
    for (component, _) in &all {
        let of = |name: &str| name.split('+').next() == Some(*component);
        let count = site.status.resources.iter().filter(|r| of(&r.name)).count();
        must!(count == 1, "{component} is {count} workloads");
        let pid = site.pids(component).get(1).copied().unwrap_or_default();
        let program = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        if let Some(other) = programs.insert(program, component) {
            miss!("{component} and {other} are one program");
        }
        for place in places(&site, component)? {
            if let Some(other) = seats.insert(place, *component).filter(|other| other != component) {
                miss!("{component} and {other} share user and network");
            }
        }
    }
    let mut seen = Vec::new();
    for (victim, path) in &all {
        let before: Vec<u32> = site.pids(victim).to_vec();
        for pid in &before {
            let _ = kill(*pid);
        }
        let mut asked = 0;
        for _ in 0..5 {
            for (other, path) in all.iter().filter(|(other, _)| other != victim) {
                let status = answers(&site, path).await?;
                must!(status == 200, "with {victim} killed {other} answers {status}");
                asked += 1;
            }
        }
        site = lab.restore(on).await?;
        must!(!site.pids(victim).iter().any(|pid| before.contains(pid)), "{victim} was not killed");
        until("the killed one answers again", async || {
            let status = answers(&site, path).await?;
            must!(status == 200, "{victim} answers {status}");
            Ok(())
        })
        .await?;
        seen.push(format!("{victim} killed: {asked} requests to the others 200"));
    }
    Ok(format!("{} programs, users and networks; {}", programs.len(), seen.join("; ")))
}

/// Which services have a span of this trace.
async fn passed(site: &Site, trace: &str, wanted: usize) -> Result<BTreeSet<String>, Miss> {
    let sql =
        format!("SELECT DISTINCT source FROM requests WHERE trace_id = '{trace}' AND source LIKE 'service.%' LIMIT 20");
    let rows = site.query_until("the spans of the request", &sql, |rows| rows.len() >= wanted).await?;
    Ok(rows.iter().filter_map(|row| row[0].as_str().map(str::to_owned)).collect())
}

/// `routed(COMPONENT, PATH, ...)`: which component answers a path, by the telemetry of who had the request.
pub async fn routed(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mut seen = Vec::new();
    for (component, path) in pairs(c)? {
        let sent = telemetry::requests(&site, path, 1).await?;
        let had = passed(&site, &sent[0].0, 1).await?;
        must!(had == BTreeSet::from([component.to_owned()]), "{path} was had by {had:?}, not by {component} alone");
        seen.push(format!("{path}: {component}, {}", sent[0].1));
    }
    Ok(seen.join("; "))
}

/// `marked(PATH, GROUP, SOURCE, ...)`: log lines of one request, by a mark that it carried, from every part that it passed.
pub async fn marked(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mut person = site.signed_in(&[c.argument(1, "user")]).await?;
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let headers = BTreeMap::from([("traceparent".to_owned(), format!("00-{mark}-{}-01", &mark[..16]))]);
    let page = person.send_with("GET", c.argument(0, "/"), "", None, &headers).await?;
    must!(page.status == 200, "the marked request is answered {}", page.status);
    let wanted: BTreeSet<&str> = c.arguments.iter().skip(2).map(String::as_str).collect();
    must!(wanted.len() > 1, "no parts are named");
    let sql = format!("SELECT source, count(*), max(body) FROM logs WHERE trace_id = '{mark}' GROUP BY source");
    let rows = site
        .query_until("lines of every part", &sql, |rows| {
            let had: BTreeSet<&str> = rows.iter().filter_map(|row| row[0].as_str()).collect();
            wanted.is_subset(&had)
        })
        .await?;
    let lines: Vec<String> = rows.iter().map(|row| format!("{} {} ({})", row[0], row[1], row[2])).collect();
    Ok(format!("mark {mark}: {}", lines.join(", ")))
}

/// `told_of_each(COMPONENT, GOOD PATH, FAILING PATH, ...)`: rate, duration and failures of each component, and one trace.
pub async fn told_of_each(lab: &Lab, on: &str, c: &Call) -> Seen {
    const GOOD: usize = 18;
    const BAD: usize = 2;
    let site = lab.site(on).await?;
    let mut seen = Vec::new();
    for three in c.arguments.chunks_exact(3) {
        let (component, good, bad) = (&three[0], &three[1], &three[2]);
        let begun = std::time::Instant::now();
        let mut sent = telemetry::requests(&site, good, GOOD).await?;
        sent.extend(telemetry::requests(&site, bad, BAD).await?);
        let took = begun.elapsed().as_secs_f64();
        let failed = sent.iter().filter(|s| s.1 >= 400).count();
        must!(failed == BAD, "{failed} requests to {component} failed at the client");
        let sql = format!(
            "SELECT count(*), sum(status_code >= 400), min(duration_ns), max(duration_ns), max(time_ns) - min(time_ns) \
             FROM requests WHERE source = '{component}' AND trace_id IN ({})",
            telemetry::list(&sent)
        );
        let number = |value: &serde_json::Value| value.as_i64().unwrap_or_default();
        let rows = site.query_until("all requests", &sql, |rows| number(&rows[0][0]) == (GOOD + BAD) as i64).await?;
        let row = &rows[0];
        must!(number(&row[1]) == BAD as i64, "{component}: {} failures are told, not {BAD}", row[1]);
        let longest = sent.iter().map(|s| s.2).max().unwrap_or_default();
        let (least, most) = (number(&row[2]), number(&row[3]));
        must!(least > 0 && most <= longest, "{component}: {least} to {most} ns are told, the client waited {longest}");
        // The last one begins before the client has its answer.
        let span = number(&row[4]) as f64 / 1e9;
        must!(
            span > took / 4.0 && span <= took,
            "{component}: told to be sent in {span:.3} s, they were in {took:.3} s"
        );
        let tree = Call { name: String::new(), arguments: vec![good.clone(), "edge".into(), component.clone()] };
        let trace = telemetry::one_tree(lab, on, &tree).await?;
        seen.push(format!(
            "{component}: {} requests, {:.0} a second, {} failed, {:.2} to {:.2} ms; {trace}",
            row[0],
            (GOOD + BAD) as f64 / span,
            row[1],
            least as f64 / 1e6,
            most as f64 / 1e6
        ));
    }
    must!(seen.len() > 1, "one component says nothing of the others");
    Ok(seen.join("; "))
}

/// Sends bytes to the edge over TLS; the status of the answer, 0 if it closed without one.
async fn said(site: &Site, edge: SocketAddr, bytes: &str) -> Result<u16, Miss> {
    let host: url::Url = site.url("edge")?.parse().map_err(|e| Miss::Failed(format!("{e}")))?;
    let name = host.host_str().unwrap_or_default().to_owned();
    let way = crate::site::Way { address: edge, name, dial: None };
    let mut stream = tls::encrypted(&way, &site.ca_pem).await?;
    stream.write_all(bytes.as_bytes()).await?;
    let mut answer = vec![0; 512];
    let patience = std::time::Duration::from_secs(10);
    let length = tokio::time::timeout(patience, stream.read(&mut answer)).await.map_or(0, |read| read.unwrap_or(0));
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok(text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0))
}

/// `refused_at_edge`: bad methods and requests that can be read in two ways end at the edge; no component has heard of them.
pub async fn refused_at_edge(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let edge = site.address("edge")?;
    let url: url::Url = site.url("edge")?.parse().map_err(|e| Miss::Failed(format!("{e}")))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let mark = format!("mark-{}", uuid::Uuid::new_v4().simple());
    let end = "Connection: close\r\n\r\n";
    let bad = [
        ("a method that is not served", format!("TRACE /{mark}-a HTTP/1.1\r\nHost: {host}\r\n{end}")),
        ("no host", format!("GET /{mark}-b HTTP/1.1\r\n{end}")),
        ("two hosts", format!("GET /{mark}-c HTTP/1.1\r\nHost: {host}\r\nHost: other.example\r\n{end}")),
        ("a host that is none", format!("GET /{mark}-d HTTP/1.1\r\nHost: a b\r\n{end}")),
        (
            "two lengths",
            format!(
                "POST /{mark}-e HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n{end}0\r\n\r\n"
            ),
        ),
        ("a path that climbs", format!("GET /api/%2e%2e/{mark}-f HTTP/1.1\r\nHost: {host}\r\n{end}")),
        ("a name with a space", format!("GET /{mark}-g HTTP/1.1\r\nHost: {host}\r\nX-A : b\r\n{end}")),
    ];
    let mut seen = Vec::new();
    for (what, bytes) in &bad {
        let status = said(&site, edge, bytes).await?;
        must!(status == 0 || (400..500).contains(&status), "{what} is answered {status}");
        seen.push(format!("{what}: {status}"));
    }
    // A good one is heard of, and by then the others would be.
    let status = said(&site, edge, &format!("GET /{mark}-good HTTP/1.1\r\nHost: {host}\r\n{end}")).await?;
    must!(status == 404, "a good request for nothing is answered {status}");
    let sql = format!(
        "SELECT source, attributes ->> '$.\"url.path\"' FROM spans WHERE source LIKE 'service.%' AND attributes LIKE '%{mark}%'"
    );
    site.query_until("the good request", &sql, |rows| !rows.is_empty()).await?;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let rows = site.query(&sql).await?;
    must!(rows.len() == 1, "components heard of {rows:?}");
    Ok(format!("{}; a component heard of the good one alone: {}", seen.join(", "), rows[0][1]))
}
