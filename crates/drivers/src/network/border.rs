//! A way between the networks of two stamps: one link between their routers, over which declared flows pass and no others.
//!
//! ```text
//!  service.cms          router of uk        router of eu          service.cms
//!  eth0 ─────────── w100        x4a07 ═══ x51c2        w100 ─────────── eth0
//!  127.81.194.100                                                127.74.7.100
//! ```
//!
//! Two stamps may have the same address space, so neither sees the other's. A workload is known beyond the border by its
//! address in its stamp's block of loopback addresses, which no other stamp of the machine has; nothing is translated. Both
//! routers hold the flow, so either end can cut it.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
};

use super::{
    GATEWAY, INNER, Network,
    link::{Links, Table},
    namespace,
};
use crate::Error;

/// Two that make the same link at once would take each other's for an old one.
static MAKING: Mutex<()> = Mutex::new(());

/// A way from a workload of this network to an address beyond its border, or from there to the workload.
#[derive(Clone, Debug)]
pub struct Way {
    pub workload: String,
    /// The workload's number within the stamp.
    pub host: u8,
    /// The address by which it is known beyond the border.
    pub own: Ipv4Addr,
    pub far: Ipv4Addr,
    /// The network in which `far` lies.
    pub beyond: Network,
}

impl Network {
    /// Makes what is missing of the ways over the border. What lies beyond a network that is not there is left out. The other
    /// end does the same for its half.
    pub fn join(&self, ways: &[Way]) -> Result<(), Error> {
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_ways(ways).map_err(|source| self.failed("lead over the border of", source))
    }

    fn make_ways(&self, ways: &[Way]) -> io::Result<()> {
        let mut beyond: BTreeMap<(Ipv4Addr, Ipv4Addr), (Network, Vec<Way>)> = BTreeMap::new();
        for way in ways.iter().filter(|way| namespace::is_kept(&way.beyond.router())) {
            let key = (end(way.own), end(way.far));
            beyond.entry(key).or_insert_with(|| (way.beyond.clone(), Vec::new())).1.push(way.clone());
        }
        for ((own, far), (network, ways)) in beyond {
            let here = namespace::open(&self.router())?;
            let there = namespace::open(&network.router())?;
            let mut places = Vec::new();
            for way in ways {
                let place = namespace::open(&self.namespace(&way.workload))?;
                places.push((way, place));
            }
            namespace::on_a_thread(move || connect(&here, &there, own, far, &places))?;
        }
        Ok(())
    }
}

/// The address of a router on the links that lead out of its stamp: link-local, and of its stamp's block alone.
fn end(of: Ipv4Addr) -> Ipv4Addr {
    let [_, high, low, _] = of.octets();
    Ipv4Addr::new(169, 254, high, low)
}

/// A router's end of the link that leads to the stamp whose router has this address.
fn name(to: Ipv4Addr) -> String {
    let [_, _, high, low] = to.octets();
    format!("x{high:02x}{low:02x}")
}

fn connect(here: &OwnedFd, there: &OwnedFd, own: Ipv4Addr, far: Ipv4Addr, places: &[(Way, OwnedFd)]) -> io::Result<()> {
    let (near, distant) = (name(far), name(own));
    namespace::enter(there)?;
    let half = Links::index(&distant);
    namespace::enter(here)?;
    if Links::index(&near).is_none() || half.is_none() {
        // Half a link: the other half went with a router that is gone.
        if let Some(index) = Links::index(&near) {
            Links::open()?.remove(index)?;
        }
        namespace::enter(there)?;
        if let Some(index) = Links::index(&distant) {
            Links::open()?.remove(index)?;
        }
        namespace::enter(here)?;
        Links::open()?.pair(&near, &distant, there.as_fd())?;
    }
    let mut fars: Vec<Ipv4Addr> = places.iter().map(|(way, _)| way.far).collect();
    let mut owns: Vec<Ipv4Addr> = places.iter().map(|(way, _)| way.own).collect();
    for all in [&mut fars, &mut owns] {
        all.sort_unstable();
        all.dedup();
    }
    // The far end first: a link is up when both ends are, and routes over one that is not up are refused.
    namespace::enter(there)?;
    let index = lift(&distant, far)?;
    namespace::enter(here)?;
    let here_index = lift(&near, own)?;
    lead(here_index, far, &fars)?;
    namespace::enter(there)?;
    lead(index, own, &owns)?;
    for (way, place) in places {
        namespace::enter(here)?;
        let outer = format!("w{}", way.host);
        let index = Links::index(&outer).ok_or_else(|| missing(&outer))?;
        Links::open()?.route(Some(way.own), index, None, Table::Main)?;
        namespace::enter(place)?;
        let index = Links::index(INNER).ok_or_else(|| missing(INNER))?;
        Links::open()?.route_from(way.far, index, GATEWAY, way.own)?;
    }
    namespace::enter(here)
}

/// Brings the end of a link up, with its address; its number.
fn lift(name: &str, address: Ipv4Addr) -> io::Result<u32> {
    let mut links = Links::open()?;
    let index = Links::index(name).ok_or_else(|| missing(name))?;
    links.up(index)?;
    links.address(index, address)?;
    Ok(index)
}

/// Leads addresses over the link, to the router at its other end.
fn lead(index: u32, router: Ipv4Addr, to: &[Ipv4Addr]) -> io::Result<()> {
    let mut links = Links::open()?;
    links.route(Some(router), index, None, Table::Main)?;
    for to in to {
        links.route(Some(*to), index, Some(router), Table::Main)?;
    }
    Ok(())
}

fn missing(name: &str) -> io::Error {
    io::Error::other(format!("{name} is not there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_link_and_tell_stamps_apart() {
        let (one, other) = (end(Ipv4Addr::new(127, 81, 194, 100)), end(Ipv4Addr::new(127, 81, 195, 100)));
        assert_eq!((name(one), name(other)), ("x51c2".into(), "x51c3".into()));
        assert_ne!(one, GATEWAY);
    }
}
