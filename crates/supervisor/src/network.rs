//! The closed network of a stamp whose system declares `[network]`: which addresses its workloads have, and who may talk to
//! whom. What is decided is written to the journal before anything is made of it.

mod flows;
mod links;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, PoisonError},
};

use drivers::network::{Flow, Network, Seat};
use model::{ResourceId, System, plan, system::Network as Declared, unit::Cidr};
use serde::{Deserialize, Serialize};

use flows::flows_of;
pub use links::{forget_links, link, spoil_again, spoilt, status, trouble};

use crate::{
    Error, Home,
    apply::Scene,
    border::{self, Crossing},
    compose::Composed,
    journal::{Journal, StampRow},
    layout::{self, Layout},
    stamp::Ground,
};

/// The fact under which the journal keeps it.
const FACT: &str = "network";
/// The subnet of what the manifest gives none.
pub const PLATFORM: &str = "platform";
/// Azure keeps the first four addresses of a subnet and the last; so do we, and documents' numbers stay true.
const KEPT: u32 = 5;

/// A stamp's closed network, as the journal has it.
#[derive(Clone)]
pub struct Closed {
    pub network: Network,
    addresses: Addresses,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Addresses {
    space: Option<Cidr>,
    /// The declared ones, and the platform's.
    subnets: BTreeMap<String, Cidr>,
    /// By workload: its subnet and its address.
    workloads: BTreeMap<String, (String, Ipv4Addr)>,
}

impl Closed {
    /// The network that the journal says the stamp has.
    pub fn read(home: &Home, journal: &Journal, row: &StampRow) -> Result<Option<Self>, Error> {
        let Some(text) = journal.fact(&row.system, &row.stamp, FACT)? else { return Ok(None) };
        let addresses = serde_json::from_str(&text).map_err(|e| Error::Fault(format!("the network's fact: {e}")))?;
        Ok(Some(Self { network: network(home, row), addresses }))
    }

    /// Decides whether the stamp has a closed network, and its addresses; written down if it is another than before.
    pub fn settle(ground: &Ground, row: &StampRow, system: &System, layout: &mut Layout) -> Result<(), Error> {
        // Inside, names are needed: certificates carry no private addresses.
        if !system.wants_network() || ground.machine.network.is_err() || !layout.names {
            if layout.closed.take().is_some() {
                ground.journal.drop_fact(&row.system, &row.stamp, FACT)?;
            }
            return Ok(());
        }
        let before = layout.closed.as_ref().map(|closed| &closed.addresses);
        let hosts: BTreeMap<String, u8> = layout
            .workloads()
            // A share is a folder: nothing of it is in the network.
            .filter(|w| !w.workload.starts_with("share."))
            .map(|w| (w.workload.clone(), w.host))
            .collect();
        let addresses = addresses(system, &hosts, before)?;
        if before != Some(&addresses) {
            let text = serde_json::to_string(&addresses).map_err(|e| Error::Fault(e.to_string()))?;
            ground.journal.set_fact(&row.system, &row.stamp, FACT, &text)?;
        }
        layout.closed = Some(Self { network: network(&ground.home, row), addresses });
        Ok(())
    }

    pub fn ip(&self, workload: &str) -> Result<Ipv4Addr, Error> {
        let known = self.addresses.workloads.get(workload);
        known.map(|(_, ip)| *ip).ok_or_else(|| Error::Fault(format!("{workload} has no address in the network")))
    }

    pub fn place(&self, workload: &str) -> Option<api::supervisor::Place> {
        let (subnet, address) = self.addresses.workloads.get(workload)?;
        let namespace = self.network.namespace(workload);
        Some(api::supervisor::Place { subnet: subnet.clone(), address: *address, namespace })
    }

    /// The address space, for people: as declared, else its subnets.
    pub fn space(&self) -> String {
        let subnets = || self.addresses.subnets.values().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.addresses.space.map_or_else(subnets, |space| space.to_string())
    }

    /// Makes the network, or what is missing of it, and lets the declared flows pass.
    pub fn ensure(
        &self,
        layout: &Layout,
        system: &System,
        composed: &[&Composed],
        migrating: &BTreeSet<ResourceId>,
        crossings: &[Crossing],
    ) -> Result<(), Error> {
        let mut seats = Vec::new();
        for one in composed {
            seats.push(Seat {
                workload: one.workload.clone(),
                host: layout.row(&one.workload)?.host,
                ip: self.ip(&one.workload)?,
                public: layout.public(&one.workload),
            });
        }
        let flows = open_flows(layout, system, migrating, crossings)?;
        self.network.ensure(&seats, &flows).map_err(Error::Network)?;
        border::join(layout, crossings)
    }
}

/// The flows that pass now.
fn open_flows(
    layout: &Layout,
    system: &System,
    migrating: &BTreeSet<ResourceId>,
    crossings: &[Crossing],
) -> Result<Vec<Flow>, Error> {
    let mut flows: Vec<Flow> = crossings.iter().map(|crossing| crossing.flow).collect();
    for declared in flows_of(system, layout)?.iter().filter(|declared| declared.is_open(migrating)) {
        flows.push(declared.flow(layout)?);
    }
    flows.sort_unstable();
    flows.dedup();
    Ok(flows)
}

/// The way of a migration to its databases, open as long as this lives.
pub struct Gate {
    ground: Arc<Ground>,
    scene: Arc<Scene>,
    service: ResourceId,
    /// Closed in order already.
    closed: bool,
}

impl Gate {
    /// Opens it.
    pub fn open(ground: Arc<Ground>, scene: Arc<Scene>, service: ResourceId) -> Result<Self, Error> {
        // From here on it is closed again, whatever happens.
        let gate = Self { ground, scene, service, closed: false };
        gate.turn(true)?;
        Ok(gate)
    }

    /// Closes it; an end that comes unasked closes it as well, and cannot say that it failed.
    pub fn close(mut self) -> Result<(), Error> {
        self.closed = true;
        self.turn(false)
    }

    fn turn(&self, open: bool) -> Result<(), Error> {
        let stamp = self.ground.stamp(&self.scene.row.system, &self.scene.row.stamp);
        // Held while the router is told: two that turn at once would undo each other.
        let mut migrating = stamp.migrating.lock().unwrap_or_else(PoisonError::into_inner);
        if open {
            migrating.insert(self.service.clone());
        } else {
            migrating.remove(&self.service);
        }
        let Some(closed) = &self.scene.layout.closed else { return Ok(()) };
        let scene = &self.scene;
        let crossings = border::crossings(&self.ground, &scene.row, &scene.system, &scene.layout)?;
        let flows = open_flows(&scene.layout, &scene.system, &migrating, &crossings)?;
        closed.network.allow(&flows).map_err(Error::Network)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if !self.closed
            && let Err(error) = self.turn(false)
        {
            tracing::warn!(error = crate::error::chain(&error), "the way of a migration is closed at the next `up`");
        }
    }
}

/// What became of the network that the manifest declares.
pub fn in_words(ground: &Ground, system: &System, layout: &Layout) -> String {
    match (&layout.closed, system.wants_network(), &ground.machine.network) {
        (Some(closed), ..) => format!("{}, closed", closed.space()),
        (None, false, _) => String::new(),
        (None, true, Err(refused)) => format!("closed network: not possible here ({refused})"),
        (None, true, Ok(())) => "not closed: `stamp up` again".into(),
    }
}

/// Where the stamp's network is kept, whether it has one or not.
pub fn network(home: &Home, row: &StampRow) -> Network {
    Network::at(layout::sockets(home, row).join("net"))
}

/// Gives every workload its address: the number it has in the stamp, counted from the beginning of its subnet. One that the
/// manifest no longer has keeps what it had.
fn addresses(system: &System, hosts: &BTreeMap<String, u8>, before: Option<&Addresses>) -> Result<Addresses, Error> {
    let mut subnets = system.network.subnets.clone();
    let name = (0..).map(|n| if n == 0 { PLATFORM.to_owned() } else { format!("{PLATFORM}-{n}") });
    let name = name.into_iter().find(|name| !subnets.contains_key(name)).unwrap_or_else(|| PLATFORM.to_owned());
    subnets.insert(name.clone(), platform(&system.network)?);
    let mut workloads: BTreeMap<String, (String, Ipv4Addr)> = BTreeMap::new();
    let mut taken: BTreeSet<Ipv4Addr> = BTreeSet::new();
    for (workload, host) in hosts {
        let resource = resource_of(workload).and_then(|id| system.resources.get(&id));
        let old = before.and_then(|before| before.workloads.get(workload));
        let subnet = match resource {
            Some(resource) => resource.subnet().unwrap_or(&name).to_owned(),
            None => old.map_or_else(|| name.clone(), |(subnet, _)| subnet.clone()),
        };
        let Some(block) = subnets.get(&subnet).copied() else { continue };
        let kept = old.filter(|(of, ip)| *of == subnet && block.holds(Cidr { base: *ip, prefix: 32 }));
        let ip = match kept {
            Some((_, ip)) if !taken.contains(ip) => *ip,
            _ => free(block, *host, &taken, before).ok_or_else(|| Error::Asked {
                what: format!("the subnet `{subnet}` ({block}) has no address left for {workload}"),
                hint: Some("give it a larger block: `[network]`, `subnets`".into()),
            })?,
        };
        taken.insert(ip);
        workloads.insert(workload.clone(), (subnet, ip));
    }
    Ok(Addresses { space: system.network.space, subnets, workloads })
}

/// A workload's address in its subnet: its own number where the subnet is large enough, else the next free one.
fn free(block: Cidr, host: u8, taken: &BTreeSet<Ipv4Addr>, before: Option<&Addresses>) -> Option<Ipv4Addr> {
    let size = 1_u64 << (32 - u32::from(block.prefix));
    let usable = u32::try_from(size.saturating_sub(u64::from(KEPT)).min(65_536)).ok()?;
    let others: BTreeSet<Ipv4Addr> =
        before.into_iter().flat_map(|b| b.workloads.values().map(|(_, ip)| *ip)).chain(taken.iter().copied()).collect();
    let first = u32::from(host).saturating_sub(KEPT - 1);
    (0..usable)
        .map(|n| Ipv4Addr::from(u32::from(block.base) + (KEPT - 1) + (first + n) % usable))
        .find(|ip| !others.contains(ip))
}

/// The subnet of what has none declared: the highest free block of 256 addresses in the space, or the largest smaller one.
fn platform(network: &Declared) -> Result<Cidr, Error> {
    // Without a space, subnets are declared alone: the platform's lies beyond them.
    let space = network.space.unwrap_or(Cidr { base: Ipv4Addr::new(10, 0, 0, 0), prefix: 8 });
    let end = u64::from(u32::from(space.base)) + (1_u64 << (32 - u32::from(space.prefix)));
    for prefix in space.prefix.max(24)..=28 {
        let size = 1_u64 << (32 - u32::from(prefix));
        let mut at = end;
        while at >= u64::from(u32::from(space.base)) + size {
            at -= size;
            let block = Cidr { base: Ipv4Addr::from(u32::try_from(at).unwrap_or(0)), prefix };
            match network.subnets.values().find(|theirs| theirs.overlaps(block)) {
                None => return Ok(block),
                // On below it: a large subnet is passed in one step.
                Some(theirs) => at = at.min(u64::from(u32::from(theirs.base)).next_multiple_of(size)),
            }
        }
    }
    Err(Error::Asked {
        what: format!("the network's space {space} is full of subnets, and the platform's own parts need one"),
        hint: Some("leave a block such as a /24 free, or give the network a larger `space`".into()),
    })
}

/// The resource that a workload belongs to; its migration lives beside it.
pub fn resource_of(workload: &str) -> Option<ResourceId> {
    plan::resource_of(workload).trim_end_matches(".migrate").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Cidr {
        model::unit::cidr(text).unwrap()
    }

    fn declared(space: Option<&str>, subnets: &[(&str, &str)]) -> Declared {
        Declared {
            space: space.map(block),
            subnets: subnets.iter().map(|(name, text)| ((*name).to_owned(), block(text))).collect(),
            ..Declared::default()
        }
    }

    #[test]
    fn the_platform_takes_the_highest_free_block() {
        let of = |space, subnets: &[(&str, &str)]| platform(&declared(space, subnets)).map(|b| b.to_string());
        assert_eq!(of(Some("10.0.0.0/16"), &[("app", "10.0.1.0/24")]).unwrap(), "10.0.255.0/24");
        assert_eq!(of(Some("10.0.0.0/16"), &[("app", "10.0.128.0/17")]).unwrap(), "10.0.127.0/24");
        assert_eq!(of(Some("10.0.0.0/24"), &[("app", "10.0.0.0/25")]).unwrap(), "10.0.0.128/25");
        assert_eq!(of(Some("10.0.0.0/23"), &[("a", "10.0.0.0/24"), ("b", "10.0.1.16/28")]).unwrap(), "10.0.1.128/25");
        assert_eq!(of(None, &[("app", "10.255.255.0/24")]).unwrap(), "10.255.254.0/24");
        assert!(of(Some("10.0.0.0/24"), &[("app", "10.0.0.0/24")]).is_err());
    }

    #[test]
    fn addresses_are_the_workloads_numbers_and_stay() {
        let taken = BTreeSet::new();
        assert_eq!(free(block("10.0.1.0/24"), 100, &taken, None).unwrap().to_string(), "10.0.1.100");
        // 16 addresses, of which eleven may be used.
        let small = block("10.0.1.16/28");
        let mut taken = BTreeSet::new();
        for host in 100..111 {
            let ip = free(small, host, &taken, None).unwrap();
            assert!(small.holds(Cidr { base: ip, prefix: 32 }));
            assert!(taken.insert(ip));
        }
        assert_eq!(taken.first().unwrap().to_string(), "10.0.1.20");
        assert_eq!(taken.last().unwrap().to_string(), "10.0.1.30");
        assert_eq!(free(small, 111, &taken, None), None);
    }
}
