//! Whether parts talk among themselves alone: where connections begin and end, what is open outside, whose names are known.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
};

use drivers::network::Network;

use super::{
    encrypted,
    network::{self, block, from_outside, holds, people, place, tries},
    stamps::listening,
    story,
};
use crate::{
    Lab, Miss, Seen, Site,
    bolt::{Address, Session},
    claim::Call,
    inside::{Ask, Saw},
    miss, must, tls,
};

/// `private_flows(SPACE, STORY, ...)`: the stories are told while the router is watched; every connection has both ends at workloads
/// of the stamp, in its space or where the router leads people.
pub async fn private_flows(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let network = network::of(&site).await?;
    let space = block(c.argument(0, ""))?;
    let folder = site.status.resources.iter().find_map(|r| r.place.as_ref()?.namespace.parent().map(ToOwned::to_owned));
    let folder = folder.ok_or_else(|| Miss::Failed("no workload has a place in a closed network".into()))?;
    let watch = Network::at(folder).watch()?;
    let told = async {
        for name in c.arguments.iter().skip(1) {
            let call = Call { name: "story".into(), arguments: vec![name.clone()] };
            story::tell(lab, on, &call).await?;
        }
        Ok::<(), Miss>(())
    }
    .await;
    let all = tokio::task::spawn_blocking(move || watch.seen()).await.map_err(|e| Miss::Failed(e.to_string()))??;
    told?;
    let mut names: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (workload, place) in &network.places {
        names.insert(place.address.into(), workload.clone());
    }
    for resource in &site.status.resources {
        names.insert(site.address(&resource.name)?.ip(), resource.name.clone());
    }
    let mut pairs: BTreeMap<String, usize> = BTreeMap::new();
    for conversation in &all {
        let mut ends = Vec::new();
        for at in [conversation.from, conversation.to] {
            let Some(name) = names.get(&IpAddr::V4(*at.ip())) else { miss!("a connection has {at} as its end") };
            let private = holds(space, *at.ip()) || at.ip().is_loopback();
            must!(private, "{name} is at {at}, outside {}", c.argument(0, ""));
            ends.push(name.as_str());
        }
        *pairs.entry(ends.join(" to ")).or_default() += 1;
    }
    must!(pairs.len() > 2, "only {pairs:?} were seen");
    let list: Vec<String> = pairs.iter().map(|(pair, count)| format!("{pair} ({count})")).collect();
    let outside =
        outside(&site, &["edge", &site.first("identity")?, &site.first("registry").unwrap_or_default()]).await?;
    Ok(format!("{} connections, all in {}: {}; {outside}", all.len(), c.argument(0, ""), list.join(", ")))
}

/// `closed_outside(ENTRY, ...)`: what answers outside the stamp's network is the entries alone.
pub async fn closed_outside(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    network::of(&site).await?;
    outside(&site, &c.arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Tries every port that a workload listens at, at every address of the stamp outside its network and at its own inside.
async fn outside(site: &Site, entries: &[&str]) -> Seen {
    let [a, b, d] = people(site)?;
    let mut open: BTreeSet<SocketAddr> = BTreeSet::new();
    for entry in entries.iter().filter(|entry| !entry.is_empty()) {
        let at = site.address(entry)?;
        open.insert(at);
        if *entry == "edge" {
            // Its plain port, which only leads to the encrypted one.
            open.insert(SocketAddr::new(at.ip(), if at.port() == 443 { 80 } else { 8080 }));
        }
    }
    let mut ears: BTreeSet<(SocketAddr, &str)> = BTreeSet::new();
    for resource in &site.status.resources {
        let at = resource.pids.iter().flat_map(|pid| listening(*pid));
        ears.extend(at.filter(|at| at.ip() != Ipv4Addr::LOCALHOST).map(|at| (at, resource.name.as_str())));
    }
    let mut looked = 0;
    for (at, owner) in &ears {
        let IpAddr::V4(own) = at.ip() else { miss!("{owner} listens at {at}") };
        let block = (1..=254).map(|host| Ipv4Addr::new(a, b, d, host));
        let tried: Vec<Ipv4Addr> = block
            .chain([own])
            .filter(|ip| !ip.is_unspecified())
            .filter(|ip| !open.contains(&SocketAddr::from((*ip, at.port()))))
            .collect();
        looked += tried.len();
        if let Some(found) = from_outside(&tried, at.port()).await? {
            miss!("{found} answers outside the stamp's network, where {owner} has its port");
        }
    }
    for at in &open {
        let IpAddr::V4(ip) = at.ip() else { continue };
        must!(from_outside(&[ip], at.port()).await?.is_some(), "nothing answers at {at}, where people come in");
    }
    Ok(format!(
        "{} listeners; outside, {looked} addresses and ports are closed, only {} answer: {}",
        ears.len(),
        open.len(),
        entries.join(", ")
    ))
}

/// `secure_links(SERVICE, VARIABLE OF THE GRAPH, SECRET, GROUP, GRAPH)`: every connection of a run is TLS, and who is not who they
/// must be gets none: a wrong password, the name of another with its own password, and the place of a workload without the right.
pub async fn secure_links(lab: &Lab, on: &str, c: &Call) -> Seen {
    let told = encrypted::every_connection(lab, on, c).await?;
    let site = lab.site(on).await?;
    let (service, graph) = (format!("service.{}", c.argument(0, "api")), c.argument(4, "graph.main"));
    let way = site.way(graph)?;
    let mut refused = Vec::new();
    for (what, user) in [("a wrong password", service.as_str()), ("a name that it does not know", "somebody")] {
        let password = uuid::Uuid::new_v4().simple().to_string();
        let address = Address { user: user.into(), password, hosts: Vec::new(), database: String::new() };
        match Session::open(tls::encrypted(&way, &site.ca_pem).await?, &address).await {
            Ok(_) => miss!("{graph} lets in somebody with {what}"),
            Err(Miss::Failed(why)) if why.contains("Unauthorized") => refused.push(format!("{what}: {why}")),
            Err(other) => return Err(other),
        }
    }
    let network = network::of(&site).await?;
    let mut closed = 0;
    for resource in &site.status.resources {
        let own = resource.name.starts_with(graph);
        if own || network.flows.iter().any(|f| f.from == resource.name && f.to == *graph) {
            continue;
        }
        let tried = tries(&place(&site, &resource.name)?, way.address).await?;
        must!(tried.is_err(), "{} reaches {graph}", resource.name);
        closed += 1;
    }
    must!(closed > 0, "every workload may reach {graph}");
    Ok(format!("{told}; {}; from the places of {closed} others no connection", refused.join("; ")))
}

/// `names_inside(SERVICE, SPACE)`: the name of each workload, asked for from the place of a service and from outside.
pub async fn names_inside(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let network = network::of(&site).await?;
    let (service, space) = (c.argument(0, "web"), block(c.argument(1, ""))?);
    let of_part =
        |workload: &str| ["service.", "graph.", "vault.", "telemetry."].iter().any(|k| workload.starts_with(k));
    let (mut asks, mut names) = (Vec::new(), Vec::new());
    for (workload, place) in network.places.iter().filter(|(workload, _)| of_part(workload)) {
        let (kind, own) = workload.split_once('.').unwrap_or((workload, ""));
        let Some(name) = site.hosts.keys().find(|host| host.starts_with(&format!("{own}.{kind}."))) else { continue };
        asks.push(Ask::Resolve { name: name.clone() });
        names.push((workload, name, place.address));
    }
    must!(names.len() > 3, "only {names:?} have names");
    let saw = site.inside(service, &asks).await?;
    let mut seen = Vec::new();
    for ((workload, name, address), saw) in names.iter().zip(&saw) {
        let Saw::Resolve(found) = saw else { miss!("{name}: {saw:?}") };
        must!(*found == [IpAddr::V4(*address)], "{name} of {workload} is {found:?}, not {address}");
        must!(holds(space, *address), "{name} is {address}, outside {}", c.argument(1, ""));
        let outside: Vec<SocketAddr> =
            (name.as_str(), 443).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        must!(outside.is_empty(), "outside, {name} is {outside:?}");
        seen.push(format!("{name} {address}"));
    }
    Ok(format!("from {service}: {}; outside none of them is known", seen.join(", ")))
}
