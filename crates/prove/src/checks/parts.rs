//! Parts of a system and the ways between them: a part is stopped and what it served is gone, connections are counted by the
//! router of the stamp's network, and what nothing declares is tried.

use std::{net::Ipv4Addr, time::Duration};

use api::supervisor::NetworkStatus;
use rustix::process::Signal;

use super::{
    network::{self, place, tries},
    stamps::listening,
    story,
    telemetry::requests,
};
use crate::{Lab, Miss, Seen, Site, claim::Call, harm, miss, must, site::until};

/// As long as a person waits for a page that does not come.
const PATIENCE: Duration = Duration::from_secs(4);

/// The status of a path through the edge; None: no answer in time.
async fn status(site: &Site, path: &str) -> Result<Option<u16>, Miss> {
    let client = site.client(&site.url("edge")?)?.timeout(PATIENCE);
    Ok(client.send("GET", path, None).await.ok().map(|answer| answer.status.as_u16()))
}

fn serves(status: Option<u16>) -> bool {
    status.is_some_and(|status| status < 500)
}

/// `part_stopped(SERVICE, PATH IT SERVES, PATH OF OTHERS...)`: with every process of the service stopped, its path is not
/// answered through the edge and all others are.
pub async fn stopped(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.restore(on).await?;
    let (service, own) = (c.argument(0, ""), c.argument(1, "/"));
    let others = c.arguments.get(2..).unwrap_or_default();
    must!(!others.is_empty(), "no path of another part is named");
    for path in others.iter().map(String::as_str).chain([own]) {
        let status = status(&site, path).await?;
        must!(serves(status), "{path} is answered {status:?} with all parts running");
    }
    harm::all_of(&site, service, Signal::STOP)?;
    let seen = async {
        let mut told = Vec::new();
        let mine = status(&site, own).await?;
        must!(!serves(mine), "with {service} stopped {own} is answered {mine:?}");
        for path in others {
            let theirs = status(&site, path).await?;
            must!(theirs.is_some_and(|s| s < 400), "with {service} stopped {path} is answered {theirs:?}");
            told.push(format!("{path} {}", theirs.unwrap_or_default()));
        }
        let mine = mine.map_or_else(|| "no answer".to_owned(), |s| s.to_string());
        Ok(format!("with {service} stopped {own}: {mine}; {}", told.join(", ")))
    }
    .await;
    harm::all_of(&site, service, Signal::CONT)?;
    until("it serves again", async || {
        let site = lab.restore(on).await?;
        let status = status(&site, own).await?;
        must!(serves(status), "{own} is answered {status:?}");
        Ok(())
    })
    .await?;
    seen
}

/// Connections that the router has counted from a workload to another.
fn counted(network: &NetworkStatus, from: &str, to: &str) -> u64 {
    let own = |name: &str, of: &str| name == of || name.strip_prefix(of).is_some_and(|rest| rest.starts_with('+'));
    network.flows.iter().filter(|f| own(&f.from, from) && own(&f.to, to)).map(|f| f.count).sum()
}

/// Tries the port of `to` from the places of those who have nothing to do there.
async fn refused(site: &Site, to: &str, strangers: &[String]) -> Result<String, Miss> {
    let at = site.address(to)?;
    let mut told = Vec::new();
    for stranger in strangers {
        match tries(&place(site, stranger)?, at).await? {
            Ok(_) => miss!("{stranger} reaches {to} at {at}"),
            Err(why) => told.push(format!("from {stranger}: {why}")),
        }
    }
    Ok(told.join(", "))
}

/// `connects(FROM, TO, PATH, STRANGER...)`: FROM is ended and starts anew, PATH is asked for (`/health` by anybody, others by somebody who
/// signs in), and the router has counted connections from FROM to TO since; from each STRANGER's place TO refuses.
pub async fn connects(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.restore(on).await?;
    let (from, to, path) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, "/health"));
    let before = counted(&network::of(&site).await?, from, to);
    // What was open already would not be counted again.
    let pid = site.pids(from).get(1).copied();
    harm::kill(pid.ok_or_else(|| Miss::Failed(format!("{from} does not run")))?)?;
    let (site, after) = until("connections since it began anew", async || {
        let site = lab.restore(on).await?;
        let status = match path {
            "/health" => status(&site, path).await?,
            _ => Some(site.signed_in(&["staff"]).await?.get(path).await?.status),
        };
        must!(serves(status), "{path} is answered {status:?}");
        let after = counted(&network::of(&site).await?, from, to);
        must!(after > before, "{after} connections from {from} to {to}, {before} before");
        Ok((site, after))
    })
    .await?;
    let told = refused(&site, to, c.arguments.get(3..).unwrap_or_default()).await?;
    Ok(format!("{} connections from {from} to {to} during a start and {path}; {told}", after - before))
}

/// `job_connects(JOB, TO, OTHER...)`: a run of the job connects to TO and to no OTHER.
pub async fn job_connects(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (job, to) = (c.argument(0, ""), c.argument(1, ""));
    let before = network::of(&site).await?;
    let run = story::run_job(&site, job).await?;
    let after = network::of(&site).await?;
    let (was, is) = (counted(&before, job, to), counted(&after, job, to));
    must!(is > was, "run {} of {job} made no connection to {to}", run.number);
    for other in c.arguments.get(2..).unwrap_or_default() {
        must!(counted(&after, job, other) == 0, "{job} has connected to {other}");
        let may = after.flows.iter().any(|f| f.from == job && f.to == *other && !f.closed);
        must!(!may, "{job} may connect to {other}");
    }
    let others = c.arguments.get(2..).unwrap_or_default().join(", ");
    Ok(format!("run {} of {job}: {} connection(s) to {to}, none to {others}", run.number, is - was))
}

/// `one_way(SERVICE, PATH)`: it gives, takes nothing, and calls no other part of the application.
pub async fn one_way(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, path) = (c.argument(0, ""), c.argument(1, "/"));
    let client = site.client(&site.url("edge")?)?;
    let mut statuses = Vec::new();
    for method in ["GET", "PUT", "POST", "DELETE"] {
        let body = matches!(method, "PUT" | "POST").then(|| ("text/plain", "x".into()));
        statuses.push(client.send(method, path, body).await?.status.as_u16());
    }
    let refused = statuses[1..].iter().all(|status| matches!(status, 403 | 405));
    must!(statuses[0] == 200 && refused, "GET, PUT, POST and DELETE of {path} are answered {statuses:?}");
    let network = network::of(&site).await?;
    // Logs and its identity are the platform's, by its shim.
    let platform = |to: &str| matches!(to.split('.').next(), Some("telemetry" | "identity"));
    if let Some(flow) = network.flows.iter().find(|f| f.from == service && !platform(&f.to)) {
        miss!("{service} may call {} ({}), and did {} times", flow.to, flow.why, flow.count);
    }
    let tried = network.refused.iter().filter(|f| f.from == service).map(|f| f.count).sum::<u64>();
    must!(tried == 0, "{service} has tried {tried} connections that nothing declares");
    Ok(format!("GET, PUT, POST, DELETE of {path}: {statuses:?}; {service} may open no connection and has tried none"))
}

/// `only_behind_edge(SERVICE, PATH)`: an answer comes through the edge, and at no address of this machine does the service's
/// own port, or any other but the ways in, answer.
pub async fn only_behind_edge(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    network::of(&site).await?;
    let (service, path) = (c.argument(0, ""), c.argument(1, "/health"));
    let sent = requests(&site, path, 1).await?;
    let sql = format!("SELECT DISTINCT source FROM spans WHERE trace_id = '{}'", sent[0].0);
    let both = |rows: &[Vec<serde_json::Value>]| ["edge", service].iter().all(|s| rows.iter().any(|r| r[0] == *s));
    site.query_until("spans of the edge and the service", &sql, both).await?;
    let [a, b, d] = network::people(&site)?;
    let (at, edge) = (site.address(service)?, site.address("edge")?);
    let mut ports: Vec<u16> =
        site.pids(service).iter().flat_map(|pid| listening(*pid)).map(|ear| ear.port()).chain([at.port()]).collect();
    ports.sort_unstable();
    ports.dedup();
    // The directory and the registry are for people too, and may listen at the same port.
    let ways_in: Vec<_> = [site.first("identity"), site.first("registry")].into_iter().flatten().collect();
    let mut known: Vec<_> = ways_in.iter().filter_map(|name| site.address(name).ok()).collect();
    known.push(edge);
    let all: Vec<Ipv4Addr> = (1..=254).map(|host| Ipv4Addr::new(a, b, d, host)).collect();
    for port in &ports {
        let inner: Vec<Ipv4Addr> = all.iter().filter(|ip| !known.contains(&(**ip, *port).into())).copied().collect();
        if let Some(at) = network::from_outside(&inner, *port).await? {
            miss!("{at} answers outside the stamp's network");
        }
    }
    let count = all.len();
    Ok(format!(
        "{path} came by the edge to {service}; its ports {ports:?} answer at none of {count} addresses of the stamp outside"
    ))
}

/// `edge_reaches(TO, PATH, PART...)`: PATH is answered by TO, which is stopped to see it; the edge reaches no PART.
pub async fn edge_reaches(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.restore(on).await?;
    let (to, path) = (c.argument(0, ""), c.argument(1, "/health"));
    let before = status(&site, path).await?;
    must!(serves(before), "{path} is answered {before:?}");
    let count = counted(&network::of(&site).await?, "edge", to);
    must!(count > 0, "the edge has made no connection to {to}");
    harm::all_of(&site, to, Signal::STOP)?;
    let without = status(&site, path).await;
    harm::all_of(&site, to, Signal::CONT)?;
    let without = without?;
    must!(!serves(without), "with {to} stopped {path} is answered {without:?}");
    until("it serves again", async || {
        let again = status(&site, path).await?;
        must!(again == before, "{path} is answered {again:?}");
        Ok(())
    })
    .await?;
    let mut told = Vec::new();
    for part in c.arguments.get(2..).unwrap_or_default() {
        told.push(format!("{part} {}", refused(&site, part, &["edge".to_owned()]).await?));
    }
    Ok(format!(
        "{path} is answered {before:?} over {count} connection(s) from the edge to {to}, {without:?} with that stopped; {}",
        told.join(", ")
    ))
}
