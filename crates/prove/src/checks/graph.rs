//! A graph store of several members: how it stands, and what goes on when a member is lost.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use api::supervisor::MemberStatus;
use serde_json::json;

use crate::{
    Lab, Miss, Seen, Site,
    browser::Browser,
    checks::members::{members, status},
    claim::Call,
    harm::kill,
    miss, must,
    site::until_in,
};

const LONG: Duration = Duration::from_secs(90);

/// What the monitor says of the cluster.
pub(super) async fn monitor(site: &Site, graph: &str) -> Result<String, Miss> {
    let name = format!("{graph}.monitor");
    let now = status(site).await?;
    let seen = now.resources.iter().find(|r| r.name == name).and_then(|r| r.member.clone());
    seen.map(|m| m.doing).ok_or_else(|| Miss::Failed(format!("{name} says nothing")))
}

/// Waits until one member leads, all others follow it, and the monitor says so.
pub(super) async fn healthy(site: &Site, graph: &str) -> Result<Vec<(String, MemberStatus)>, Miss> {
    until_in("one member leads, all others follow, and the monitor calls that healthy", LONG, async || {
        let all = members(&status(site).await?, graph);
        let leads = all.iter().filter(|(_, m)| m.part == "leader" && m.synchronous).count();
        let follow = all.iter().filter(|(_, m)| m.part == "follower" && m.synchronous).count();
        must!(leads == 1 && follow + 1 == all.len() && all.len() > 1, "{all:?}");
        let says = monitor(site, graph).await?;
        must!(says.starts_with("the cluster is healthy"), "the monitor says: {says}");
        Ok(all)
    })
    .await
}

/// `graph_cluster(GRAPH, MEMBERS)`.
pub async fn cluster(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (graph, wanted) = (c.argument(0, "graph.main"), c.argument(1, "3").parse::<usize>()?);
    let site = lab.site(on).await?;
    let all = healthy(&site, graph).await?;
    must!(all.len() == wanted, "{} members: {:?}", all.len(), all.iter().map(|(n, _)| n).collect::<Vec<_>>());
    let zones: BTreeSet<&str> = all.iter().map(|(_, m)| m.zone.as_str()).collect();
    must!(zones.len() == wanted, "{wanted} members are in the zones {zones:?}");
    let addresses: BTreeSet<std::net::IpAddr> =
        all.iter().map(|(name, _)| Ok(site.way(name)?.address.ip())).collect::<Result<_, Miss>>()?;
    must!(addresses.len() == wanted, "{wanted} members have the addresses {addresses:?}");
    let monitor = site.pids(&format!("{graph}.monitor"));
    must!(!monitor.is_empty(), "no process watches");
    let leader = all.iter().find(|(_, m)| m.part == "leader").map(|(n, _)| n.as_str()).unwrap_or_default();
    Ok(format!(
        "{wanted} members at {addresses:?} in zones {zones:?}, {leader} leads, one process more watches and calls it healthy"
    ))
}

async fn define(person: &mut Browser, name: &str) -> Result<u16, Miss> {
    let body = json!({ "kind": "term", "name": name, "why": "a check" });
    Ok(person.api("POST", "/api/v1/library", &body).await?.status)
}

/// `graph_member_lost(GRAPH)`.
pub async fn member_lost(lab: &Lab, on: &str, c: &Call) -> Seen {
    let graph = c.argument(0, "graph.main");
    let site = lab.site(on).await?;
    let all = healthy(&site, graph).await?;
    let Some((old, _)) = all.iter().find(|(_, m)| m.part == "leader") else { miss!("nobody leads") };
    let mut person = site.signed_in(&["editor"]).await?;
    let unique = uuid::Uuid::new_v4().simple().to_string()[..10].to_uppercase();
    let before = format!("Before {unique}");
    let status_of = define(&mut person, &before).await?;
    must!(status_of == 201, "a write is answered {status_of}");
    // All its processes, shim and keeper and engine; nobody does anything by hand after this.
    let victims: Vec<u32> =
        status(&site).await?.resources.iter().filter(|r| r.name == *old).flat_map(|r| r.pids.clone()).collect();
    must!(victims.len() > 2, "{old} has only the processes {victims:?}");
    let begun = Instant::now();
    for pid in victims {
        let _ = kill(pid);
    }
    // Reads go on: the first one after the loss must come, and have what was written.
    let mut reads = 0;
    let mut told = String::new();
    for _ in 0..20 {
        let page = person.get(&format!("/api/v1/library?q={unique}")).await?;
        must!(
            page.status == 200 && page.text.contains(&before),
            "with {old} lost a read is answered {}: {}",
            page.status,
            page.text
        );
        reads += 1;
        let says = monitor(&site, graph).await?;
        if says.contains(&format!("{old} does not function")) {
            told = says;
        }
    }
    let after = format!("After {unique}");
    until_in("a write is taken again", LONG, async || {
        let answer = define(&mut person, &after).await?;
        // 504 says that it may have been done: then the second try finds the name taken.
        must!(answer == 201 || answer == 400, "a write is answered {answer}");
        Ok(())
    })
    .await?;
    let writes = begun.elapsed();
    let now = healthy(&site, graph).await?;
    let Some((new, _)) = now.iter().find(|(_, m)| m.part == "leader") else { miss!("nobody leads") };
    let page = person.get(&format!("/api/v1/library?q={unique}")).await?;
    must!(page.text.contains(&before) && page.text.contains(&after), "a write is lost: {}", page.text);
    lab.restore(on).await?;
    let told = if told.is_empty() { "was not asked in time".to_owned() } else { format!("said: {told}") };
    Ok(format!(
        "{old} killed with all its processes; {reads} reads in a row answered; a write was taken after {} ms, {new} leads, nothing is lost, \
         all members are back; the monitor {told}",
        writes.as_millis()
    ))
}

/// `graph_monitor_names(GRAPH)`.
pub async fn monitor_names(lab: &Lab, on: &str, c: &Call) -> Seen {
    let graph = c.argument(0, "graph.main");
    let site = lab.site(on).await?;
    let all = healthy(&site, graph).await?;
    let Some((victim, _)) = all.iter().find(|(_, m)| m.part == "follower") else { miss!("nobody follows") };
    // Paused, not ended: nobody starts it again before it has been seen.
    let pids: Vec<u32> =
        status(&site).await?.resources.iter().filter(|r| r.name == *victim).flat_map(|r| r.pids.clone()).collect();
    let send = |signal| pids.iter().for_each(|pid| drop(crate::harm::signal(*pid, signal)));
    send(rustix::process::Signal::STOP);
    let named = until_in("the monitor names the member", LONG, async || {
        let says = monitor(&site, graph).await?;
        must!(
            says.starts_with("the cluster is degraded") && says.contains(&format!("{victim} does not function")),
            "it says: {says}"
        );
        Ok(says)
    })
    .await;
    send(rustix::process::Signal::CONT);
    let named = named?;
    healthy(&site, graph).await?;
    lab.restore(on).await?;
    Ok(format!("{victim} paused: `{named}`; going on, the cluster is healthy again"))
}
