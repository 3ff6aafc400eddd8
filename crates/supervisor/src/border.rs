//! Links of the kind `call`: a service of one stamp calls one of another. Where the other end is, is looked at again and again,
//! so that stamps come up and go in any order; what the two ends hold of each other is an address, an authority and a key.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use api::shim::LinkKey;
use drivers::network::{Flow, border::Way, namespace};
use model::{Kind, Resource, ResourceId, System, plan, system::Call, system::CallEnd};

use crate::{
    Error, Home,
    authority::Authority,
    files::digest,
    journal::{Journal, StampRow, Wanted},
    layout::{Layout, at},
    network, reconcile,
    stamp::Ground,
};

/// Where the name of a service leads that is not up: nobody listens there, so that a call is refused at once.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
/// The root key from which the keys of links are derived.
const ROOT: &str = "link-root";
/// The fact that a stamp's manifest has links that end in it, and its root the key for them; the digest of its authority.
const TAKES: &str = "links-taken";

/// Makes the root key of the links that end in this stamp, and says so to the others.
pub fn settle(ground: &Ground, row: &StampRow, system: &System, authority: &Authority) -> Result<(), Error> {
    let takes = system.calls.iter().any(|call| call.to.stamp == system.stamp);
    let known = ground.journal.fact(&row.system, &row.stamp, TAKES)?;
    if !takes {
        return if known.is_some() { ground.journal.drop_fact(&row.system, &row.stamp, TAKES) } else { Ok(()) };
    }
    authority.key(ROOT)?;
    let now = digest(authority.ca_pem.as_bytes());
    if known.as_ref() == Some(&now) { Ok(()) } else { ground.journal.set_fact(&row.system, &row.stamp, TAKES, &now) }
}

/// The called or calling end of a link in another stamp, as it is now.
#[derive(Clone, Debug)]
pub struct Far {
    row: StampRow,
    /// The addresses under which its workloads are known beyond their border, each with its workload.
    addresses: BTreeMap<String, Ipv4Addr>,
    /// Digest of its authority, if it takes calls by links; with another authority it has other keys.
    takes: Option<String>,
}

impl Far {
    /// None for a stamp that was never brought up here, or is being removed.
    pub fn read(journal: &Journal, system: &str, end: &CallEnd) -> Result<Option<Self>, Error> {
        let Some(row) = journal.stamp(system, &end.stamp)?.filter(|row| row.wanted != Wanted::Gone) else {
            return Ok(None);
        };
        let name = end.resource.to_string();
        let ours = journal.workloads(system, &end.stamp)?.into_iter();
        let ours = ours.filter(|w| plan::resource_of(&w.workload) == name && !w.workload.ends_with(".migrate"));
        let address = |host: u8| Ipv4Addr::new(127, (row.block >> 8) as u8, (row.block & 0xFF) as u8, host);
        let addresses = ours.map(|w| (w.workload, address(w.host))).collect();
        let takes = journal.fact(system, &end.stamp, TAKES)?;
        Ok(Some(Self { row, addresses, takes }))
    }

    fn is_up(&self) -> bool {
        self.row.wanted == Wanted::Up && !self.addresses.is_empty()
    }

    /// The address of its first workload, which is the one that is called.
    fn called(&self, end: &CallEnd) -> Option<Ipv4Addr> {
        self.addresses.get(&end.resource.to_string()).copied().filter(|_| self.is_up() && self.takes.is_some())
    }
}

/// The certificate of a stamp's authority.
fn ca(home: &Home, system: &str, stamp: &str) -> std::path::PathBuf {
    home.stamp(system, stamp).join("public/ca.pem")
}

/// Calls that begin at a service of this stamp.
pub fn out<'a>(system: &'a System, service: &'a ResourceId) -> impl Iterator<Item = &'a Call> {
    system.calls.iter().filter(move |call| call.from.stamp == system.stamp && call.from.resource == *service)
}

/// Calls that end at a service of this stamp.
pub fn into<'a>(system: &'a System, service: &'a ResourceId) -> impl Iterator<Item = &'a Call> {
    system.calls.iter().filter(move |call| call.to.stamp == system.stamp && call.to.resource == *service)
}

/// The end of a call that is not in this stamp.
fn far<'a>(system: &System, call: &'a Call) -> &'a CallEnd {
    if call.from.stamp == system.stamp { &call.to } else { &call.from }
}

/// The variables of a link: `LINK_USERS_URL`.
fn setting(link: &str, of: &str) -> String {
    format!("LINK_{}_{of}", link.to_ascii_uppercase().replace('-', "_"))
}

/// The variables of a link as the called service has them: `LINK_USERS_FROM_UK_KEY`.
fn setting_from(call: &Call, of: &str) -> String {
    setting(&format!("{}_from_{}", call.link, call.from.stamp), of)
}

/// What a service is told of its links.
#[derive(Default)]
pub struct Told {
    pub env: BTreeMap<String, String>,
    pub keys: BTreeMap<String, LinkKey>,
}

/// What a service's environment holds of the links that begin or end at it.
pub fn told(
    home: &Home,
    journal: &Journal,
    row: &StampRow,
    system: &System,
    layout: &Layout,
    service: &ResourceId,
) -> Result<Told, Error> {
    let mut told = Told::default();
    let key = |call: &Call, authority: &str| LinkKey {
        stamp: call.to.stamp.clone(),
        authority: authority.to_owned(),
        label: format!("link:{}:{}>{}", call.link, call.from, call.to),
    };
    for call in out(system, service) {
        let there = Far::read(journal, &row.system, &call.to)?;
        told.env.insert(setting(&call.link, "URL"), url(row, layout, call, there.as_ref())?);
        told.env.insert(setting(&call.link, "CA"), ca(home, &row.system, &call.to.stamp).display().to_string());
        told.env.insert(setting(&call.link, "CARRIES"), call.carries.join(" "));
        if let Some(authority) = there.and_then(|there| there.takes) {
            told.keys.insert(setting(&call.link, "KEY"), key(call, &authority));
        }
    }
    let callers: Vec<String> = into(system, service).map(|call| format!("{}/{}", call.link, call.from.stamp)).collect();
    if !callers.is_empty() {
        told.env.insert("LINK_CALLERS".into(), callers.join(" "));
    }
    for call in into(system, service) {
        told.env.insert(setting_from(call, "CARRIES"), call.carries.join(" "));
        let authority = std::fs::read(layout.ca()).map(|pem| digest(&pem)).unwrap_or_default();
        told.keys.insert(setting_from(call, "KEY"), key(call, &authority));
    }
    Ok(told)
}

/// Where a call goes: by name in a closed network, else by address, as between services of one stamp.
fn url(row: &StampRow, layout: &Layout, call: &Call, there: Option<&Far>) -> Result<String, Error> {
    if layout.closed.is_some() {
        return Ok(crate::layout::https(&name(row, &call.to), layout.https_port(Kind::Service)));
    }
    let port = port(row, layout, &call.to)?;
    Ok(format!("http://{}", at(there.and_then(|there| there.called(&call.to)).unwrap_or(NOWHERE), port)))
}

/// A service's name in its own stamp; its certificate has it.
fn name(row: &StampRow, end: &CallEnd) -> String {
    format!("{}.{}.{}.{}.internal", end.resource.name, end.resource.kind, end.stamp, row.system)
}

/// The port at which a service of a stamp is called.
fn port(row: &StampRow, layout: &Layout, end: &CallEnd) -> Result<u16, Error> {
    if layout.closed.is_some() {
        return Ok(layout.https_port(Kind::Service));
    }
    let there = reconcile::resolve(&row.manifest, &end.stamp)?;
    Ok(match there.resources.get(&end.resource) {
        Some(Resource::Service(service)) => service.port.map_or(0, |port| layout.port(port)),
        _ => 0,
    })
}

/// The key of a link, from the root keys of the called stamp. None: that stamp is another by now.
pub fn key(home: &Home, system: &str, own: (&str, &Authority), of: &LinkKey) -> Result<Option<api::Secret>, Error> {
    if own.0 == of.stamp {
        return own.1.key(ROOT).map(|root| Some(root.derive(&of.label)));
    }
    let folder = home.stamp(system, &of.stamp);
    if !Authority::is_there(&folder) {
        return Ok(None);
    }
    // Only the stamp itself makes its keys: a second maker would write over what it has.
    Ok(Authority::open(&folder)?.known(ROOT).map(|root| root.derive(&of.label)))
}

/// Names of called services, and where they lead now.
pub fn names(ground: &Ground, layout: &Layout, system: &System) -> Result<BTreeMap<String, IpAddr>, Error> {
    let mut names = BTreeMap::new();
    let Some(row) = ground.journal.stamp(&layout.system, &layout.stamp)?.filter(|_| layout.closed.is_some()) else {
        return Ok(names);
    };
    for call in system.calls.iter().filter(|call| call.from.stamp == system.stamp) {
        let there = Far::read(&ground.journal, &row.system, &call.to)?;
        let address = there.and_then(|there| there.called(&call.to)).unwrap_or(NOWHERE);
        names.insert(name(&row, &call.to), IpAddr::V4(address));
    }
    Ok(names)
}

/// A call between two workloads that may pass the border now.
#[derive(Clone, Debug)]
pub struct Crossing {
    pub link: String,
    pub flow: Flow,
    /// As people read it: the workload here, and the other as `STAMP/RESOURCE`.
    pub from: String,
    pub to: String,
    way: Way,
}

/// Every call that may pass the border now, either way. Without a closed network there is no border.
pub fn crossings(ground: &Ground, row: &StampRow, system: &System, layout: &Layout) -> Result<Vec<Crossing>, Error> {
    let mut all = Vec::new();
    if layout.closed.is_none() {
        return Ok(all);
    }
    for call in &system.calls {
        let far = far(system, call);
        let Some(there) = Far::read(&ground.journal, &row.system, far)?.filter(Far::is_up) else {
            continue;
        };
        let calls = call.from.stamp == system.stamp;
        let own = if calls { &call.from.resource } else { &call.to.resource };
        let Some(resource) = system.resources.get(own) else { continue };
        let mut ours = plan::workloads(own, resource);
        let mut theirs: Vec<(String, Ipv4Addr)> = there.addresses.clone().into_iter().collect();
        // The first of several is the one that is called, as within a stamp.
        if calls {
            theirs.retain(|(workload, _)| *workload == call.to.resource.to_string());
        } else {
            ours.truncate(1);
        }
        let port = layout.https_port(Kind::Service);
        let beyond = network::network(&ground.home, &there.row);
        for workload in &ours {
            let own = layout.outer(workload)?;
            for (other, address) in &theirs {
                let other = format!("{}/{other}", far.stamp);
                let (flow, from, to) = match calls {
                    true => (Flow { from: own, to: *address, port }, workload.clone(), other),
                    false => (Flow { from: *address, to: own, port }, other, workload.clone()),
                };
                let host = layout.row(workload)?.host;
                let way = Way { workload: workload.clone(), host, own, far: *address, beyond: beyond.clone() };
                all.push(Crossing { link: call.link.clone(), flow, from, to, way });
            }
        }
    }
    Ok(all)
}

/// Makes the ways over the border.
pub fn join(layout: &Layout, crossings: &[Crossing]) -> Result<(), Error> {
    let Some(closed) = layout.closed.as_ref().filter(|_| !crossings.is_empty()) else { return Ok(()) };
    let ways: Vec<Way> = crossings.iter().map(|crossing| crossing.way.clone()).collect();
    closed.network.join(&ways).map_err(Error::Network)
}

/// What of its links a person should know who looks at a workload: those that lead to a stamp that is not up.
pub fn trouble(
    ground: &Ground,
    row: &StampRow,
    system: &System,
    layout: &Layout,
    workload: &str,
) -> Result<Option<String>, Error> {
    let Ok(service) = plan::resource_of(workload).parse::<ResourceId>() else { return Ok(None) };
    let mut all = Vec::new();
    for call in out(system, &service).chain(into(system, &service)) {
        all.extend(network::spoilt(ground, row, &call.link)?);
    }
    for call in out(system, &service) {
        let there = Far::read(&ground.journal, &row.system, &call.to)?;
        if there.as_ref().is_none_or(|there| there.called(&call.to).is_none()) {
            all.push(format!("its link {} leads to {}, which is not up", call.link, call.to));
            continue;
        }
        let closed = there.map(|there| network::network(&ground.home, &there.row).exists()).unwrap_or_default();
        if closed != layout.closed.is_some() {
            all.push(format!(
                "its link {} leads nowhere: one of the two stamps has a closed network, the other has none",
                call.link
            ));
        }
    }
    Ok((!all.is_empty()).then(|| all.join("; ")))
}

/// What is remembered of a stamp between two looks.
pub struct Seen {
    manifest: String,
    system: Option<System>,
    /// The other ends as the stamp was last told them.
    told: String,
}

/// Has a stamp settled anew if the other ends of its links are not what they were.
pub fn look(ground: &Arc<Ground>, row: &StampRow, known: &mut BTreeMap<(String, String), Seen>) {
    let key = (row.system.clone(), row.stamp.clone());
    if known.get(&key).is_none_or(|seen| seen.manifest != row.manifest) {
        let system = reconcile::resolve(&row.manifest, &row.stamp).ok().filter(|system| !system.calls.is_empty());
        known.insert(key.clone(), Seen { manifest: row.manifest.clone(), system, told: String::new() });
    }
    let Some(seen) = known.get_mut(&key) else { return };
    let Some(system) = &seen.system else { return };
    let ends = system.calls.iter().map(|call| {
        let there = Far::read(&ground.journal, &row.system, far(system, call))?;
        // A network that was made anew is joined anew.
        let router =
            there.as_ref().and_then(|there| namespace::number(&network::network(&ground.home, &there.row).router()));
        let state = there.map(|there| (there.is_up(), there.addresses, there.takes));
        Ok(format!("{call:?} {state:?} {router:?}"))
    });
    let now = match ends.collect::<Result<Vec<String>, Error>>() {
        Ok(ends) => digest(ends.join("\n").as_bytes()),
        Err(error) => {
            tracing::warn!(stamp = row.stamp, error = crate::error::chain(&error), "could not look at the links");
            return;
        }
    };
    // One that is being worked on is told at the next look.
    if now != seen.told && reconcile::mend(ground, row.clone()).is_some() {
        seen.told = now;
    }
}
