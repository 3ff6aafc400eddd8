//! Links that are spoilt on purpose, and what the router has counted.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::PoisonError};

use api::supervisor::{LinkRequest, LinkState, NetworkFlow, NetworkStatus};
use drivers::network::Bad;
use model::plan;

use super::{
    Closed,
    flows::{Declaration, flows_of},
};
use crate::{
    Error,
    border::{self, Crossing},
    journal::{Journal, StampRow},
    layout::Layout,
    stamp::Ground,
};

/// A link that loses so many of a hundred packets is cut.
const CUT: u32 = 100;
/// Links that the manifest declares are called so, such as `links.users`.
const DECLARED: &str = "links.";
/// The fact under which the journal keeps the links that are spoilt.
const LINKS: &str = "network-links";

impl Closed {
    /// Makes links as they are written down to be.
    fn spoil(&self, layout: &Layout, links: &[LinkState], crossings: &[Crossing]) -> Result<(), Error> {
        let (mut cut, mut bad) = (Vec::new(), Vec::new());
        for link in links {
            let mut pairs = over_border(crossings, &link.one);
            for one in self.ends(layout, &link.one) {
                pairs.extend(self.ends(layout, &link.other).into_iter().map(|other| (one, other)));
            }
            for (one, other) in pairs {
                match link.loses {
                    CUT.. => cut.push((one, other)),
                    0 => bad.push((one, other, Bad::Slow(link.kib_s))),
                    part => bad.push((one, other, Bad::Loses(part))),
                }
            }
        }
        self.network.spoil(cut, bad).map_err(Error::Network)
    }

    /// Every address of a resource, or of one workload of it.
    fn ends(&self, layout: &Layout, name: &str) -> Vec<Ipv4Addr> {
        let ours = |workload: &str| workload == name || plan::resource_of(workload) == name;
        let named = self.addresses.workloads.iter().filter(|(workload, _)| ours(workload));
        named.flat_map(|(workload, (_, ip))| std::iter::once(*ip).chain(layout.public(workload))).collect()
    }
}

/// The pairs of addresses between which calls of a declared link (`links.users`) pass the border.
fn over_border(crossings: &[Crossing], name: &str) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let Some(name) = name.strip_prefix(DECLARED) else { return Vec::new() };
    crossings.iter().filter(|c| c.link == name).map(|c| (c.flow.from, c.flow.to)).collect()
}

fn links(journal: &Journal, row: &StampRow) -> Result<Vec<LinkState>, Error> {
    let fact = journal.fact(&row.system, &row.stamp, LINKS)?;
    Ok(fact.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Links are whole again: the network they were of is gone.
pub fn forget_links(journal: &Journal, row: &StampRow) -> Result<(), Error> {
    if links(journal, row)?.is_empty() { Ok(()) } else { journal.drop_fact(&row.system, &row.stamp, LINKS) }
}

/// Links that were spoilt stay so, whoever makes the network anew.
pub fn spoil_again(ground: &Ground, row: &StampRow, layout: &Layout) -> Result<(), Error> {
    let (Some(closed), links) = (&layout.closed, links(&ground.journal, row)?) else { return Ok(()) };
    if links.is_empty() {
        return Ok(());
    }
    let system = crate::reconcile::system_of(ground, row)?;
    closed.spoil(layout, &links, &border::crossings(ground, row, &system, layout)?)
}

/// Spoils a link or heals it: written down first.
pub fn link(ground: &Ground, row: &StampRow, ask: &LinkRequest) -> Result<NetworkStatus, Error> {
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let closed = layout.closed.as_ref().ok_or_else(|| open(ground, row))?;
    let manifest = crate::reconcile::system_of(ground, row)?;
    let declared = ask.one.strip_prefix(DECLARED);
    if let Some(name) = declared
        && (!ask.other.is_empty() || !manifest.calls.iter().any(|call| call.link == name))
    {
        let known: Vec<String> = manifest.calls.iter().map(|call| format!("{DECLARED}{}", call.link)).collect();
        return Err(Error::Asked {
            what: format!("`{}` is no call that begins or ends in {}/{}", ask.one, row.system, row.stamp),
            hint: Some(format!("a declared link has no second name; one of: {}", known.join(", "))),
        });
    }
    for name in [&ask.one, &ask.other].into_iter().filter(|_| declared.is_none()) {
        if closed.ends(&layout, name).is_empty() {
            let known: Vec<&str> = closed.addresses.workloads.keys().map(String::as_str).collect();
            return Err(Error::Asked {
                what: format!("there is no `{name}` in the network of {}/{}", row.system, row.stamp),
                hint: Some(format!("one of: {}", known.join(", "))),
            });
        }
    }
    if ask.one == ask.other || ask.loses > CUT {
        return Err(Error::Asked {
            what: format!("a link of {} to {} that loses {} % is none", ask.one, ask.other, ask.loses),
            hint: Some("name two resources, and at most 100 %".into()),
        });
    }
    let _alone = ground.settling.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = links(&ground.journal, row)?;
    let same = |l: &LinkState| (l.one == ask.one && l.other == ask.other) || (l.one == ask.other && l.other == ask.one);
    all.retain(|l| !same(l));
    if ask.loses > 0 || ask.kib_s > 0 {
        let LinkRequest { one, other, loses, kib_s, .. } = ask.clone();
        all.push(LinkState { one, other, loses, kib_s, dropped: 0 });
    }
    let step = format!("link {} {}: {}", ask.one, ask.other, in_words(ask.loses, ask.kib_s));
    let (system, stamp) = (&row.system, &row.stamp);
    ground.journal.step(system, stamp, &step, "begun", ground.clock.now_ms(), "")?;
    let text = serde_json::to_string(&all).map_err(|e| Error::Fault(e.to_string()))?;
    ground.journal.set_fact(system, stamp, LINKS, &text)?;
    closed.spoil(&layout, &all, &border::crossings(ground, row, &manifest, &layout)?)?;
    ground.journal.step(system, stamp, &step, "done", ground.clock.now_ms(), "")?;
    status(ground, row)
}

/// What is done on purpose to a declared link, and the mend.
pub fn spoilt(ground: &Ground, row: &StampRow, name: &str) -> Result<Option<String>, Error> {
    let name = format!("{DECLARED}{name}");
    let link = links(&ground.journal, row)?.into_iter().find(|link| link.one == name);
    let mend = format!("`stamp network {} --stamp {} heal {name}`", row.system, row.stamp);
    Ok(link.map(|link| format!("its link {name} {}; {mend}", in_words(link.loses, link.kib_s))))
}

/// What is done to a link.
fn in_words(loses: u32, kib_s: u32) -> String {
    match (loses, kib_s) {
        (CUT.., _) => "is cut".into(),
        (0, 0) => "is whole".into(),
        (0, rate) => format!("lets {rate} KiB a second pass"),
        (part, _) => format!("loses {part} % of its packets"),
    }
}

/// What of the network stands in a workload's way, and the mend: links that are spoilt, and, of one that is not ready, what
/// it tried and nothing declares.
pub fn trouble(
    ground: &Ground,
    row: &StampRow,
    layout: &Layout,
    workload: &str,
    ready: bool,
) -> Result<Option<String>, Error> {
    let Some(closed) = &layout.closed else { return Ok(None) };
    let links = links(&ground.journal, row)?;
    let own = |name: &str| name == workload || plan::resource_of(workload) == name;
    let of_it: Vec<&LinkState> = links.iter().filter(|link| own(&link.one) || own(&link.other)).collect();
    if of_it.is_empty() && ready {
        return Ok(None);
    }
    let traffic = closed.network.traffic().map_err(Error::Network)?;
    let mut all = Vec::new();
    for link in of_it {
        let (one, other) = if own(&link.one) { (&link.one, &link.other) } else { (&link.other, &link.one) };
        let (ours, theirs) = (closed.ends(layout, one), closed.ends(layout, other));
        let between = |(from, to): &(Ipv4Addr, Ipv4Addr)| {
            (ours.contains(from) && theirs.contains(to)) || (theirs.contains(from) && ours.contains(to))
        };
        let dropped: u64 = traffic.cuts.iter().filter(|(pair, _)| between(pair)).map(|(_, count)| count).sum();
        let mend = format!("`stamp network {} --stamp {} heal {} {}`", row.system, row.stamp, link.one, link.other);
        all.push(match link.loses {
            CUT => format!("its link to {other} is cut ({dropped} packets dropped); {mend}"),
            part => format!("its link to {other} {}; {mend}", in_words(part, link.kib_s)),
        });
    }
    if !ready {
        let ours = closed.ends(layout, workload);
        for (flow, count) in traffic.refused.iter().filter(|(flow, _)| ours.contains(&flow.from)) {
            let known = closed.addresses.workloads.iter();
            let known = known.map(|(name, (_, ip))| (*ip, name)).find(|(ip, _)| *ip == flow.to);
            let to = known.map_or_else(|| flow.to.to_string(), |(_, name)| name.clone());
            all.push(format!(
                "the network refused it {to}, port {} ({count} times): nothing declares that, see `needs` in system.toml",
                flow.port
            ));
        }
    }
    Ok((!all.is_empty()).then(|| all.join("; ")))
}

/// Why a stamp has no closed network.
fn open(ground: &Ground, row: &StampRow) -> Error {
    let hint = match &ground.machine.network {
        Err(refused) => format!("not possible here: {refused}"),
        Ok(()) => "declare `[network]` in system.toml, and `stamp up` again".into(),
    };
    Error::Asked { what: format!("{}/{} has no closed network", row.system, row.stamp), hint: Some(hint) }
}

/// The stamp's network, with what its router has counted.
pub fn status(ground: &Ground, row: &StampRow) -> Result<NetworkStatus, Error> {
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let closed = layout.closed.as_ref().ok_or_else(|| open(ground, row))?;
    let system = crate::reconcile::system_of(ground, row)?;
    let traffic = closed.network.traffic().map_err(Error::Network)?;
    let mut names: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
    for (workload, (_, ip)) in &closed.addresses.workloads {
        names.insert(*ip, workload);
        // Beyond the border it is known by its address in the stamp's block.
        names.extend(layout.outer(workload).map(|outer| (outer, workload.as_str())));
    }
    let crossings = border::crossings(ground, row, &system, &layout)?;
    let name = |ip: Ipv4Addr| names.get(&ip).map_or_else(|| ip.to_string(), |name| (*name).to_owned());
    let state = ground.stamp(&row.system, &row.stamp);
    let migrating = state.migrating.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut flows = Vec::new();
    for declared in flows_of(&system, &layout)? {
        let closed = !declared.is_open(&migrating);
        let flow = declared.flow(&layout)?;
        let count = traffic.passed.iter().find(|(f, _)| *f == flow).map_or(0, |(_, count)| *count);
        let Declaration { from, to, port, why } = declared;
        flows.push(NetworkFlow { from, to, port, why: why.into(), count, closed });
    }
    for crossing in &crossings {
        let count = traffic.passed.iter().find(|(f, _)| *f == crossing.flow).map_or(0, |(_, count)| *count);
        let (from, to, port) = (crossing.from.clone(), crossing.to.clone(), crossing.flow.port);
        flows.push(NetworkFlow { from, to, port, why: format!("links.{}", crossing.link), count, closed: false });
    }
    let refused = traffic.refused.into_iter().map(|(f, count)| NetworkFlow {
        from: name(f.from),
        to: name(f.to),
        port: f.port,
        why: String::new(),
        count,
        closed: true,
    });
    let mut refused: Vec<NetworkFlow> = refused.collect();
    refused.sort_by(|a, b| (&a.from, &a.to, a.port).cmp(&(&b.from, &b.to, b.port)));
    let mut links = links(&ground.journal, row)?;
    for link in &mut links {
        let (mut ones, mut others) = (closed.ends(&layout, &link.one), closed.ends(&layout, &link.other));
        for (one, other) in over_border(&crossings, &link.one) {
            ones.push(one);
            others.push(other);
        }
        let of = |(from, to): &(Ipv4Addr, Ipv4Addr)| {
            (ones.contains(from) && others.contains(to)) || (ones.contains(to) && others.contains(from))
        };
        link.dropped = traffic.cuts.iter().filter(|(pair, _)| of(pair)).map(|(_, count)| count).sum();
    }
    let places = closed.addresses.workloads.keys().filter_map(|w| Some((w.clone(), closed.place(w)?)));
    Ok(NetworkStatus {
        space: closed.space(),
        subnets: closed.addresses.subnets.iter().map(|(name, block)| (name.clone(), block.to_string())).collect(),
        places: places.collect(),
        flows,
        refused,
        links,
    })
}
