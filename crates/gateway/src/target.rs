//! One replica: what is known of its health, and how many requests it has open.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use api::gateway::{Balance, HealthCheck, Origin};
use rustls::pki_types::ServerName;

use crate::{dial::Tls, hold::Held, origin};

/// How long a target that refused a connection is left out: doubled at each refusal, within these bounds.
const EJECT_FIRST_MS: u64 = 250;
const EJECT_MOST_MS: u64 = 10_000;

/// Monotonic milliseconds since the process first asked; never 0.
pub fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// Shared by all workers, and kept over a route change as long as upstream and address stay.
#[derive(Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// None: it speaks plainly.
    pub tls: Option<Tls>,
    /// The entry of another stamp; None: a service of this one.
    pub origin: Option<Origin>,
    /// As the access log writes it.
    pub label: String,
    pub open: AtomicUsize,
    /// What the active check found last; true until the first check has ended.
    pub healthy: AtomicBool,
    /// Nobody listens there, by the last that is known: it is being replaced, or has died.
    pub away: AtomicBool,
    /// [`now_ms`] until which it is left out after refused connections; 0: it is not.
    ejected_until: AtomicU64,
    refusals: AtomicU32,
}

impl Target {
    fn new(upstream: &str, address: SocketAddr, tls: Option<Tls>, origin: Option<Origin>) -> Self {
        let label = match &origin {
            Some(origin) => format!("{upstream} {} {address}", origin.stamp),
            None => format!("{upstream} {address}"),
        };
        Self {
            address,
            tls,
            origin,
            label,
            open: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            away: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
        }
    }

    /// Whether it may get a request.
    pub fn available(&self) -> bool {
        if !self.healthy.load(Relaxed) {
            return false;
        }
        let until = self.ejected_until.load(Relaxed);
        until == 0 || now_ms() >= until
    }

    /// A connection could not be made: leave it out for a while.
    pub fn refused(&self) {
        let before = self.refusals.fetch_add(1, Relaxed);
        let pause = (EJECT_FIRST_MS << before.min(16)).min(EJECT_MOST_MS);
        self.ejected_until.store(now_ms() + pause, Relaxed);
    }

    /// A connection was made: it is in again.
    pub fn answered(&self) {
        if self.ejected_until.load(Relaxed) != 0 {
            self.ejected_until.store(0, Relaxed);
            self.refusals.store(0, Relaxed);
        }
        // Last: whoever finds it left out must find why.
        if self.away.load(Relaxed) {
            self.away.store(false, Relaxed);
        }
    }
}

/// The replicas of one upstream.
#[derive(Debug)]
pub struct Group {
    pub name: String,
    pub targets: Vec<Arc<Target>>,
    /// How a target is asked whether it is well.
    pub health: Option<HealthCheck>,
    /// Requests that wait until one of the targets takes connections again.
    pub held: Held,
    balance: Balance,
    next: AtomicUsize,
}

impl Group {
    /// Keeps those targets of `old` that stay. `client` is how we speak TLS with those that want it.
    pub fn new(
        name: &str,
        upstream: &api::gateway::Upstream,
        old: Option<&Self>,
        client: Option<&Arc<rustls::ClientConfig>>,
    ) -> Self {
        let tls = upstream.tls.as_ref().and_then(|name| {
            let name = ServerName::try_from(name.clone()).ok()?;
            Some(Tls { client: client?.clone(), name })
        });
        let tls = |address: &SocketAddr| match upstream.origins.get(address) {
            // A configuration whose origins cannot be verified was refused before.
            Some(origin) => origin::tls(origin).ok(),
            None => tls.clone(),
        };
        let same = |target: &Target, address: &SocketAddr| {
            target.address == *address
                && target.origin.as_ref() == upstream.origins.get(address)
                && target.tls.as_ref().map(|t| &t.name) == tls(address).as_ref().map(|t| &t.name)
        };
        let known = |address: &SocketAddr| old.and_then(|g| g.targets.iter().find(|t| same(t, address)).cloned());
        let made = |a: &SocketAddr| Target::new(name, *a, tls(a), upstream.origins.get(a).cloned());
        let targets = upstream.targets.iter();
        Self {
            name: name.into(),
            targets: targets.map(|a| known(a).unwrap_or_else(|| Arc::new(made(a)))).collect(),
            health: upstream.health.clone(),
            held: Held::default(),
            balance: upstream.balance,
            next: AtomicUsize::new(old.map_or(0, |g| g.next.load(Relaxed))),
        }
    }

    /// Whether any target may get a request.
    pub fn is_open(&self) -> bool {
        self.targets.iter().any(|target| target.available())
    }

    /// Whether waiting may help: a target is away, and may come back.
    pub fn is_away(&self) -> bool {
        self.targets.iter().any(|target| target.away.load(Relaxed))
    }

    /// The target of the next request, without those whose bit is set in `tried`. None: nobody may get it.
    pub fn pick(&self, tried: u64) -> Option<(usize, &Arc<Target>)> {
        let count = self.targets.len();
        if count == 0 {
            return None;
        }
        let start = self.next.fetch_add(1, Relaxed);
        let may = |index: &usize| tried & (1 << index) == 0 && self.targets[*index].available();
        if self.targets.iter().any(|target| target.origin.is_some()) {
            let index = self.preferred(start, may)?;
            return Some((index, &self.targets[index]));
        }
        let mut turns = (0..count).map(|turn| (start + turn) % count).filter(may);
        let index = match self.balance {
            Balance::RoundRobin => turns.next(),
            Balance::LeastLoaded => turns.min_by_key(|index| self.targets[*index].open.load(Relaxed)),
        }?;
        Some((index, &self.targets[index]))
    }

    /// The turn number `turn` among origins: of those that may get it, the ones of the lowest priority, by weight.
    fn preferred(&self, turn: usize, may: impl Fn(&usize) -> bool) -> Option<usize> {
        let said = |index: &usize| self.targets[*index].origin.as_ref().map_or((1, 1), |o| (o.priority, o.weight));
        let all: Vec<usize> = (0..self.targets.len()).filter(may).collect();
        let first = all.iter().map(|index| said(index).0).min()?;
        let share = |index: &usize| if said(index).0 == first { said(index).1.max(1) as usize } else { 0 };
        let whole: usize = all.iter().map(share).sum();
        // A step that has no common divisor with the whole visits every part once a round, and spreads each one's parts.
        let step = (whole * 5 / 8..).find(|n| gcd(*n, whole) == 1).unwrap_or(1);
        let mut at = turn.wrapping_mul(step) % whole;
        all.into_iter().find(|index| {
            let own = share(index);
            if at < own {
                return true;
            }
            at -= own;
            false
        })
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(balance: Balance) -> Group {
        let targets = (1..=3).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let upstream = api::gateway::Upstream { targets, balance, ..api::gateway::Upstream::default() };
        Group::new("web", &upstream, None, None)
    }

    /// Priority and weight of each.
    fn origins(said: &[(u32, u32)]) -> Group {
        service::tls::install_provider();
        let pem = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap().cert.pem();
        let address = |port: usize| SocketAddr::from(([127, 0, 0, 1], port as u16 + 1));
        let origin = |(priority, weight): (u32, u32)| api::gateway::Origin {
            stamp: format!("{priority}-{weight}"),
            ca_pem: pem.clone(),
            server_name: "localhost".into(),
            priority,
            weight,
        };
        let upstream = api::gateway::Upstream {
            targets: (0..said.len()).map(address).collect(),
            origins: said.iter().enumerate().map(|(n, s)| (address(n), origin(*s))).collect(),
            ..api::gateway::Upstream::default()
        };
        Group::new("origins", &upstream, None, None)
    }

    #[test]
    fn the_preferred_origin_gets_all_and_the_next_when_it_is_ill() {
        let group = origins(&[(1, 1), (2, 1)]);
        let turns = || (0..10).filter_map(|_| group.pick(0)).map(|(i, _)| i).collect::<Vec<_>>();
        assert_eq!(turns(), [0; 10]);
        group.targets[0].healthy.store(false, Relaxed);
        assert_eq!(turns(), [1; 10]);
        group.targets[0].healthy.store(true, Relaxed);
        assert_eq!(turns(), [0; 10]);
        assert_eq!(group.pick(0b1).map(|(i, _)| i), Some(1), "one that was tried is passed over");
    }

    #[test]
    fn origins_of_one_priority_share_by_weight() {
        for said in [vec![(1, 1), (1, 1)], vec![(1, 90), (1, 10)], vec![(1, 1), (1, 2), (1, 3), (2, 100)]] {
            let group = origins(&said);
            let whole: usize = said.iter().filter(|s| s.0 == 1).map(|s| s.1 as usize).sum();
            let mut counts = vec![0; said.len()];
            for _ in 0..whole * 3 {
                counts[group.pick(0).unwrap().0] += 1;
            }
            let wanted: Vec<usize> = said.iter().map(|s| if s.0 == 1 { s.1 as usize * 3 } else { 0 }).collect();
            assert_eq!(counts, wanted, "{said:?}");
        }
    }

    #[test]
    fn turns_go_round_and_pass_over_the_sick() {
        let group = group(Balance::RoundRobin);
        let turns: Vec<usize> = (0..6).filter_map(|_| group.pick(0)).map(|(i, _)| i).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        group.targets[1].healthy.store(false, Relaxed);
        assert!((0..6).filter_map(|_| group.pick(0)).all(|(i, _)| i != 1));
        group.targets[0].refused();
        assert!((0..6).filter_map(|_| group.pick(0)).all(|(i, _)| i == 2));
        assert!(group.pick(0b100).is_none());
        group.targets[0].answered();
        assert!(group.pick(0b100).is_some());
    }

    #[test]
    fn the_least_loaded_gets_the_next() {
        let group = group(Balance::LeastLoaded);
        group.targets[0].open.store(2, Relaxed);
        group.targets[1].open.store(1, Relaxed);
        group.targets[2].open.store(3, Relaxed);
        assert!((0..6).filter_map(|_| group.pick(0)).all(|(i, _)| i == 1));
    }
}
