//! The stamp's network: addresses, who reaches whom, what is refused. Everything is tried by connections; the platform is
//! asked only what it says is declared.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use api::supervisor::{LinkRequest, NetworkStatus, Place, StampRef};
use drivers::network::namespace;
use model::unit::{Cidr, cidr};

use crate::{
    Lab, Miss, Seen, Site,
    checks::stamps::listening,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    site::until,
};

const PATIENCE: Duration = Duration::from_millis(1500);

/// The stamp's network, if it is closed; else why the machine does not close it.
pub async fn of(site: &Site) -> Result<NetworkStatus, Miss> {
    if let Some(refused) = site.missing.iter().find_map(|m| m.strip_prefix("closed network (")) {
        let why = "this machine does not close networks".to_owned();
        return Err(Miss::NotHere { why, command: refused.trim_end_matches(')').to_owned() });
    }
    let StampRef { system, stamp } = site.of();
    Ok(site.supervisor.get(&format!("/network?system={system}&stamp={stamp}")).await?)
}

pub(super) fn block(text: &str) -> Result<Cidr, Miss> {
    cidr(text).map_err(|hint| Miss::Failed(format!("`{text}`: {hint}")))
}

pub(super) fn holds(block: Cidr, ip: Ipv4Addr) -> bool {
    block.holds(Cidr { base: ip, prefix: 32 })
}

pub(super) fn place(site: &Site, workload: &str) -> Result<Place, Miss> {
    let resource = site.status.resources.iter().find(|r| r.name == workload);
    let place = resource.and_then(|r| r.place.clone());
    place.ok_or_else(|| Miss::Failed(format!("{workload} has no place in a closed network")))
}

/// Tries a connection from inside a workload's network, as root: what stops it is the network alone.
pub(super) async fn tries(from: &Place, to: SocketAddr) -> Result<Result<SocketAddr, String>, Miss> {
    let path = from.namespace.clone();
    let act = move || namespace::inside(&path, move || TcpStream::connect_timeout(&to, PATIENCE)?.local_addr());
    let tried = tokio::task::spawn_blocking(act).await.map_err(|e| Miss::Failed(e.to_string()))?;
    Ok(tried.map_err(|e| e.to_string()))
}

/// IPv4 addresses of this machine's own network.
fn own_addresses() -> Vec<Ipv4Addr> {
    let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = table.lines().collect();
    let mut found: BTreeSet<Ipv4Addr> = lines
        .windows(2)
        .filter(|pair| pair[1].contains("/32 host LOCAL"))
        .filter_map(|pair| pair[0].trim_start_matches([' ', '|', '-']).trim().parse().ok())
        .collect();
    found.insert(Ipv4Addr::LOCALHOST);
    found.into_iter().collect()
}

/// In each block of the stamp nobody has this number.
const NOBODY: u8 = 251;

/// Whether this machine, outside the stamp's network, gets a connection at any of its own addresses or at one of the stamp's. A
/// gateway that answers for every address there is says nothing of the stamp: what is not this machine's own counts only where
/// the address beside it, which nobody has, is closed.
pub(super) async fn from_outside(addresses: &[Ipv4Addr], port: u16) -> Result<Option<SocketAddr>, Miss> {
    let addresses = addresses.to_vec();
    let act = move || {
        let open = |ip: &Ipv4Addr| TcpStream::connect_timeout(&(*ip, port).into(), PATIENCE).is_ok();
        let own = |ip: &Ipv4Addr| std::net::TcpListener::bind((*ip, 0)).is_ok();
        let beside = |ip: &Ipv4Addr| {
            let [a, b, c, _] = ip.octets();
            Ipv4Addr::new(a, b, c, NOBODY)
        };
        let found = addresses.into_iter().find(|ip| open(ip) && (own(ip) || !open(&beside(ip))));
        found.map(|ip| SocketAddr::from((ip, port)))
    };
    tokio::task::spawn_blocking(act).await.map_err(|e| Miss::Failed(e.to_string()))
}

/// The loopback block of the stamp that people use: its edge is there.
pub(super) fn people(site: &Site) -> Result<[u8; 3], Miss> {
    match site.address("edge")?.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Ok([ip.octets()[0], ip.octets()[1], ip.octets()[2]]),
        other => Err(Miss::Failed(format!("people reach the edge at {other}"))),
    }
}

/// `own_space(OTHER STAMP, SPACE, SERVICE, DATABASE)`.
pub async fn own_space(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (one, two) = (lab.site(on).await?, lab.site(c.argument(0, "staging")).await?);
    let (space, service, database) = (c.argument(1, ""), c.argument(2, ""), c.argument(3, ""));
    for site in [&one, &two] {
        let network = of(site).await?;
        must!(network.space == space, "the space of {} is {}", site.stamp, network.space);
        for (workload, place) in &network.places {
            must!(holds(block(space)?, place.address), "{workload} of {} is at {}", site.stamp, place.address);
        }
    }
    // A listener in the other stamp, at an address and port that this one's service may call: it hears nothing from here.
    let (from, theirs) = (place(&one, service)?, place(&two, database)?);
    let port = one.address(database)?.port();
    let opened = async |site: &Site| {
        let flows = of(site).await?.flows;
        let flow = flows.iter().find(|f| f.from == service && f.to == database);
        Ok::<u64, Miss>(flow.map_or(0, |f| f.count))
    };
    must!(one.seat(database)? != two.seat(database)?, "{database} of both stamps is one place");
    let mut told = Vec::new();
    for to in BTreeSet::from([theirs.address, place(&one, database)?.address]) {
        let before = opened(&two).await?;
        let tried = tries(&from, (to, port).into()).await?;
        let after = opened(&two).await?;
        must!(after == before, "a connection from {on} to {to}:{port} came by the other stamp's router");
        told.push(format!("{to}:{port} from {on}: {}", if tried.is_ok() { "its own" } else { "refused" }));
    }
    // Where only the other listens.
    let ear = namespace::listen(&theirs.namespace, (theirs.address, 0).into())?;
    let lone = ear.local_addr()?;
    let Err(refused) = tries(&from, lone).await? else {
        miss!("{service} of {on} reaches {lone}, where only {} listens", two.stamp)
    };
    Ok(format!("both have {space}; {}; {lone} of {}: {}", told.join(", "), two.stamp, refused))
}

/// `address_in(WORKLOAD, BLOCK)`: where its processes listen, by the kernel's tables.
pub async fn address_in(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let network = of(&site).await?;
    let (workload, wanted) = (c.argument(0, ""), block(c.argument(1, ""))?);
    // An address alone says nothing of its subnet: half of the block, or twice of it, holds it as well.
    let mut subnets = Vec::new();
    for (name, range) in &network.subnets {
        subnets.push((name, block(range)?));
    }
    let of_block = subnets.iter().find(|(_, range)| *range == wanted);
    let Some((subnet, _)) = of_block else { miss!("no subnet is {wanted}: {:?}", network.subnets) };
    let found: BTreeSet<SocketAddr> = site.pids(workload).iter().flat_map(|pid| listening(*pid)).collect();
    let outer: Vec<&SocketAddr> = found.iter().filter(|at| !at.ip().is_loopback()).collect();
    must!(!outer.is_empty(), "{workload} listens nowhere but on loopback: {found:?}");
    for at in &outer {
        let inside = matches!(at.ip(), IpAddr::V4(ip) if holds(wanted, ip));
        must!(inside, "{workload} listens at {at}, outside {wanted}");
    }
    Ok(format!("{workload} listens at {outer:?}, in the subnet `{subnet}`, {wanted}"))
}

/// `subnet_is(NAME, BLOCK)`.
pub async fn subnet_is(lab: &Lab, on: &str, c: &Call) -> Seen {
    let network = of(&*lab.site(on).await?).await?;
    let (name, wanted) = (c.argument(0, ""), block(c.argument(1, ""))?);
    let Some(found) = network.subnets.get(name) else {
        miss!("there is no subnet `{name}`, only {:?}", network.subnets)
    };
    must!(block(found)? == wanted, "`{name}` is {found}");
    for (other, theirs) in network.subnets.iter().filter(|(other, _)| *other != name) {
        must!(!block(theirs)?.overlaps(wanted), "`{name}` ({wanted}) and `{other}` ({theirs}) overlap");
    }
    must!(block(&network.space)?.holds(wanted), "`{name}` lies outside {}", network.space);
    for (workload, place) in &network.places {
        let there = holds(wanted, place.address);
        must!(there == (place.subnet == name), "{workload} at {} is said to be in `{}`", place.address, place.subnet);
    }
    Ok(format!("`{name}` is {wanted} in {}, apart from {:?}", network.space, network.subnets))
}

/// `subnet_takes(SUBNET, BLOCK, WORKLOAD THAT IS THERE, RESOURCE THAT MUST NOT)`.
pub async fn subnet_takes(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (subnet, fits, other) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, ""));
    of(&site).await?;
    must!(place(&site, fits)?.subnet == subnet, "{fits} is not in `{subnet}`");
    match lab.changed(on, &format!("[{other}]\nsubnet = \"{subnet}\"\n")).await {
        Ok(_) => {
            lab.restore(on).await?;
            miss!("{other} was let into `{subnet}`")
        }
        Err(Miss::Failed(why)) => {
            must!(why.contains("S0114") && why.contains(other), "{other} was refused, but with: {why}");
            Ok(format!(
                "{fits} is in `{subnet}`; {other} is refused: {}",
                why.lines().find(|l| l.contains("S0114")).unwrap_or_default().trim()
            ))
        }
        Err(other) => Err(other),
    }
}

/// `leads_to_subnet(SERVICE, DATABASE, VAULT, SUBNET, BLOCK)`: the vault is given an endpoint in the subnet.
pub async fn leads_to_subnet(lab: &Lab, on: &str, c: &Call) -> Seen {
    of(&*lab.site(on).await?).await?;
    let (service, database, vault) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, ""));
    let wanted = block(c.argument(4, ""))?;
    let changed = lab.changed(on, &format!("[{vault}]\nsubnet = \"{}\"\n", c.argument(3, ""))).await;
    let seen = async {
        let site = changed?;
        let endpoint = site.address(vault)?;
        must!(matches!(endpoint.ip(), IpAddr::V4(ip) if holds(wanted, ip)), "the endpoint is at {endpoint}");
        let from_service = tries(&place(&site, service)?, endpoint).await?;
        let Ok(local) = from_service else { miss!("from {service} to {endpoint}: {from_service:?}") };
        // Not only the database: whatever else lies in its subnet.
        let network = of(&site).await?;
        let own = site.address(database)?.ip();
        let mut ranges = Vec::new();
        for range in network.subnets.values() {
            ranges.push(block(range)?);
        }
        let lies = |ip: IpAddr, range: Cidr| matches!(ip, IpAddr::V4(ip) if holds(range, ip));
        let Some(range) = ranges.into_iter().find(|range| lies(own, *range)) else {
            miss!("{database} is in no subnet")
        };
        let (mut tried, mut said) = (Vec::new(), String::new());
        for resource in &site.status.resources {
            let Some(at) = resource.place.as_ref().filter(|at| lies(at.address.into(), range)) else { continue };
            let Err(refused) = tries(at, endpoint).await? else {
                miss!("{} in {range} reaches {endpoint}", resource.name)
            };
            tried.push(resource.name.as_str());
            said = refused;
        }
        must!(tried.contains(&database), "{database} was not among {tried:?}");
        Ok(format!(
            "{vault} at {endpoint}: from {service} ({}) it answers, from {} ({range}): {said}",
            local.ip(),
            tried.join(", ")
        ))
    }
    .await;
    lab.restore(on).await?;
    seen
}

/// Every pair of workloads is tried at every port that anybody listens on; from outside, every inner port.
pub async fn only_declared_pairs(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let network = of(&site).await?;
    let mut ears: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for resource in &site.status.resources {
        let at = resource.pids.iter().flat_map(|pid| listening(*pid));
        ears.extend(at.filter(|at| *at.ip().to_string() != *"127.0.0.1").map(|at| (at, resource.name.as_str())));
    }
    let declared =
        |from: &str, to: &str, port: u16| network.flows.iter().any(|f| f.from == from && f.to == to && f.port == port);
    let (mut open, mut closed) = (0, 0);
    for resource in &site.status.resources {
        let from = place(&site, &resource.name)?;
        for (at, to) in ears.iter().filter(|(_, to)| **to != resource.name) {
            // The edge's plain port is for people; inside, nobody listens there.
            let passes = tries(&from, *at).await?;
            let meant = declared(&resource.name, to, at.port());
            must!(passes.is_ok() == meant, "from {} to {to} at {at}: {passes:?}, and declared: {meant}", resource.name);
            if meant { open += 1 } else { closed += 1 }
        }
    }
    must!(open > 0 && closed > 0, "{open} pairs are open and {closed} closed");
    // The manifest's own word for the most guarded of them.
    for (database, _) in site.system.databases() {
        for (service, _) in site.system.services() {
            let (from, to) = (service.to_string(), database.to_string());
            let meant = site.system.needs(service).contains(database);
            let port = site.address(&to)?.port();
            must!(declared(&from, &to, port) == meant, "the router lets {from} to {to}: {}", !meant);
        }
    }
    let [a, b, c] = people(&site)?;
    let mut looked = 0;
    // What people are let in by: the edge, encrypted and plain, the directory, and the registry.
    let edge = site.address("edge")?;
    let plain = SocketAddr::new(edge.ip(), if edge.port() == 443 { 80 } else { 8080 });
    let mut entries = vec![edge, plain, site.address(&site.first("identity")?)?];
    if let Ok(registry) = site.first("registry") {
        entries.push(site.address(&registry)?);
    }
    for port in ears.keys().map(SocketAddr::port).collect::<BTreeSet<u16>>() {
        let all: Vec<Ipv4Addr> = (1..=254).map(|host| Ipv4Addr::new(a, b, c, host)).collect();
        let inner: Vec<Ipv4Addr> =
            all.into_iter().filter(|ip| !entries.contains(&SocketAddr::from((*ip, port)))).collect();
        looked += inner.len();
        if let Some(at) = from_outside(&inner, port).await? {
            miss!("{at} answers outside the stamp's network");
        }
    }
    Ok(format!(
        "{} workloads, {} listeners: {open} declared pairs connect, {closed} others are refused; outside, {looked} addresses and ports are closed",
        site.status.resources.len(),
        ears.len()
    ))
}

/// `deny_is_felt(SERVICE, DATABASE, STRANGER)`.
pub async fn deny_is_felt(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    of(&site).await?;
    let (service, database, stranger) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, ""));
    let (from, to) = (place(&site, service)?, site.address(database)?);
    must!(tries(&from, to).await?.is_ok(), "{service} does not reach {database} before");
    let link = async |loses: u32| {
        let StampRef { system, stamp } = site.of();
        let ask = LinkRequest { system, stamp, one: service.into(), other: database.into(), loses, kib_s: 0 };
        Ok::<NetworkStatus, Miss>(site.supervisor.post("/network", &ask).await?)
    };
    link(100).await?;
    let denied = tries(&from, to).await;
    let logged = of(&site).await.map(|n| n.links.iter().map(|l| l.dropped).sum::<u64>());
    link(0).await?;
    let Err(denied) = denied? else { miss!("with the link denied {service} reaches {database}") };
    let logged = logged?;
    must!(logged > 0, "what was denied was not counted");
    until("the link is whole again", async || {
        let tried = tries(&from, to).await?;
        must!(tried.is_ok(), "{tried:?}");
        Ok(())
    })
    .await?;
    // What was open over the link waits for its next packet: the service is well again only after that.
    lab.restore(on).await?;
    let count = async || {
        let refused = of(&site).await?.refused;
        Ok::<u64, Miss>(refused.iter().filter(|f| f.from == stranger && f.to == database).map(|f| f.count).sum())
    };
    let before = count().await?;
    let undeclared = tries(&place(&site, stranger)?, to).await?;
    let Err(refused) = undeclared else { miss!("{stranger} reaches {database}, which nothing declares") };
    let after = count().await?;
    must!(after > before, "the refusal of {stranger} was not recorded");
    Ok(format!(
        "denied: {}, {logged} packets counted; allowed again: it connects; {stranger}, undeclared: {refused}, recorded",
        denied
    ))
}

/// `no_public_access(DATABASE, SERVICE, VARIABLE)`: every address of this machine is tried at the database's port.
pub async fn no_public_access(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    of(&site).await?;
    let (database, service) = (c.argument(0, ""), c.argument(1, "web"));
    let port = site.address(database)?.port();
    let [a, b, d] = people(&site)?;
    let mut addresses = own_addresses();
    addresses.extend((1..=254).map(|host| Ipv4Addr::new(a, b, d, host)));
    for ip in &addresses {
        let Some(at) = from_outside(&[*ip], port).await? else { continue };
        // Somebody else of this machine may have a PostgreSQL at this port; ours is known by its certificate.
        let way = crate::site::Way { address: at, name: site.way(database)?.name, dial: None };
        let known = crate::tls::shakes(&way, crate::tls::Before::Postgres, &rustls::version::TLS13, &site.ca_pem).await;
        must!(known.is_err(), "{database} answers at {at}");
    }
    let ask = Ask::Sql { variable: c.argument(2, "").into(), statements: vec!["SELECT inet_server_addr()".into()] };
    let saw = site.inside(service, &[ask]).await?;
    let Some(Saw::Sql(rows)) = saw.first() else { miss!("from {service}: {saw:?}") };
    Ok(format!(
        "{} addresses of this machine: none answers as {database} at port {port}; from {service} {} answers",
        addresses.len(),
        rows[0][0][0]
    ))
}

/// `comes_from(SERVICE, VARIABLE, BLOCK)`: the database says whom it sees.
pub async fn comes_from(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    of(&site).await?;
    let wanted = block(c.argument(2, ""))?;
    let service = c.argument(0, "web");
    let seen_now = "SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE usename = current_user AND client_addr IS NOT NULL";
    let ask = Ask::Sql { variable: c.argument(1, "").into(), statements: vec![seen_now.into()] };
    let saw = site.inside(service, &[ask]).await?;
    let Some(Saw::Sql(rows)) = saw.first() else { miss!("{saw:?}") };
    let all: Vec<&str> = rows[0].iter().filter_map(|row| row.first()).map(String::as_str).collect();
    must!(!all.is_empty(), "the database sees no connection of {service}");
    for ip in &all {
        let inside = ip.parse().is_ok_and(|ip| holds(wanted, ip));
        must!(inside, "the database sees {service} come from {ip}");
    }
    Ok(format!("the database sees {service} come from {}", all.join(", ")))
}
