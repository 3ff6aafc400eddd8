//! Where the workloads of a stamp live: addresses, users, names, folders. Given once, written to the journal, kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use drivers::probe::{Machine, Mounts};
use model::{Kind, ResourceId, System};

use crate::{
    Error, Home,
    journal::{Journal, StampRow, WorkloadRow},
    network::Closed,
};

/// Blocks `127.64.0.0/24` to `127.254.255.0/24`: away from 127.0.0.1 and what other software likes.
const BLOCKS: std::ops::RangeInclusive<u16> = 0x4000..=0xFEFF;
/// User numbers of workloads; under 65536, so that they exist in user-namespaced containers too.
const USERS: std::ops::Range<u32> = 20_000..60_000;
const USERS_PER_HOME: u32 = 256;

/// The places of one stamp.
#[derive(Clone)]
pub struct Layout {
    pub system: String,
    pub stamp: String,
    pub folder: PathBuf,
    pub sockets: PathBuf,
    pub tenant: String,
    /// `STAMP.SYSTEM.internal`.
    pub zone: String,
    /// The lowest port this machine lets us bind.
    lowest_port: u16,
    /// Workloads see names of their own.
    pub names: bool,
    /// The stamp's closed network; None: it lives on loopback.
    pub closed: Option<Closed>,
    block: u16,
    home_hash: String,
    workloads: BTreeMap<String, WorkloadRow>,
}

impl Layout {
    /// Reads the places of a stamp and gives new workloads theirs.
    pub fn settle(
        home: &Home,
        journal: &Journal,
        machine: &Machine,
        row: &StampRow,
        workloads: &[String],
    ) -> Result<Self, Error> {
        let known = journal.workloads(&row.system, &row.stamp)?;
        let mut hosts: BTreeSet<u8> = known.iter().map(|w| w.host).collect();
        for workload in workloads {
            if known.iter().any(|w| w.workload == *workload) {
                continue;
            }
            let first = first_host(workload);
            let host = (first..=250).chain(11..first).find(|h| !hosts.contains(h)).ok_or(Error::NoAddresses)?;
            let user = if machine.users.is_ok() { Some(free_user(home, &journal.users()?)) } else { None };
            journal.add_workload(&row.system, &row.stamp, workload, user, host)?;
            hosts.insert(host);
        }
        Self::read(home, journal, machine, row)
    }

    /// Reads the places of a stamp.
    pub fn read(home: &Home, journal: &Journal, machine: &Machine, row: &StampRow) -> Result<Self, Error> {
        let workloads =
            journal.workloads(&row.system, &row.stamp)?.into_iter().map(|w| (w.workload.clone(), w)).collect();
        Ok(Self {
            folder: home.stamp(&row.system, &row.stamp),
            sockets: sockets(home, row),
            tenant: row.tenant.clone(),
            zone: format!("{}.{}.internal", row.stamp, row.system),
            lowest_port: machine.lowest_port,
            names: !matches!(machine.mounts, Mounts::None(_)),
            closed: Closed::read(home, journal, row)?,
            block: row.block,
            home_hash: home.hash().to_owned(),
            system: row.system.clone(),
            stamp: row.stamp.clone(),
            workloads,
        })
    }

    pub fn workloads(&self) -> impl Iterator<Item = &WorkloadRow> {
        self.workloads.values()
    }

    pub fn row(&self, workload: &str) -> Result<&WorkloadRow, Error> {
        self.workloads.get(workload).ok_or_else(|| Error::Fault(format!("{workload} has no place in the journal")))
    }

    pub fn user(&self, workload: &str) -> Option<u32> {
        self.workloads.get(workload).and_then(|w| w.user)
    }

    /// The workload's own address: in its subnet, or in the stamp's block of loopback addresses.
    pub fn ip(&self, workload: &str) -> Result<Ipv4Addr, Error> {
        match &self.closed {
            None => self.outer(workload),
            Some(closed) => closed.ip(workload),
        }
    }

    /// The workload's address in the stamp's block of loopback addresses.
    pub fn outer(&self, workload: &str) -> Result<Ipv4Addr, Error> {
        let host = self.row(workload)?.host;
        Ok(Ipv4Addr::new(127, (self.block >> 8) as u8, (self.block & 0xFF) as u8, host))
    }

    /// The loopback address at which people of this machine reach a workload of a closed network: the entry, and where they
    /// sign in. Inside, it leads to the same.
    pub fn public(&self, workload: &str) -> Option<Ipv4Addr> {
        let id: ResourceId = workload.parse().ok()?;
        (self.closed.is_some() && id.kind.is_open_to_people()).then(|| self.outer(workload).ok())?
    }

    /// The address at which a workload is called.
    pub fn front(&self, workload: &str) -> Result<Ipv4Addr, Error> {
        self.public(workload).map_or_else(|| self.ip(workload), Ok)
    }

    /// Where a service's program listens: in a closed network on its loopback, behind the shim that ends TLS.
    pub fn inner(&self, workload: &str) -> Result<Ipv4Addr, Error> {
        match &self.closed {
            None => self.outer(workload),
            // One that has no place there has no inside either.
            Some(closed) => closed.ip(workload).map(|_| Ipv4Addr::LOCALHOST),
        }
    }

    /// The file that keeps the workload's own network, if it has one.
    pub fn namespace(&self, workload: &str) -> Option<PathBuf> {
        self.closed.as_ref().map(|closed| closed.network.namespace(workload))
    }

    /// How we reach what only the workload's own network reaches.
    pub fn dial(&self, workload: &str) -> Option<api::client::Dial> {
        self.namespace(workload).map(|path| drivers::network::namespace::dial(path) as api::client::Dial)
    }

    /// The address at which a resource's first workload is called.
    pub fn address(&self, id: &ResourceId) -> Result<IpAddr, Error> {
        self.front(&id.to_string()).map(IpAddr::V4)
    }

    /// A port below 1024 where we may bind it, else the same plus 8000.
    pub fn port(&self, wanted: u16) -> u16 {
        if wanted >= self.lowest_port { wanted } else { wanted + 8000 }
    }

    /// `NAME.KIND.STAMP.SYSTEM.internal`; the edge is `edge.STAMP.SYSTEM.internal`.
    pub fn name(&self, id: &ResourceId) -> String {
        if id.kind == Kind::Edge {
            format!("edge.{}", self.zone)
        } else {
            format!("{}.{}.{}", id.name, id.kind, self.zone)
        }
    }

    /// The name of one member of a database, `NAME-N.postgres.STAMP.SYSTEM.internal`; the database's own name leads to
    /// whichever member takes writes.
    pub fn member_name(&self, id: &ResourceId, n: u32) -> String {
        format!("{}-{n}.{}.{}", id.name, id.kind, self.zone)
    }

    /// The name in the certificate of what watches a store's members.
    pub fn monitor_name(&self, id: &ResourceId) -> String {
        format!("{}-monitor.{}.{}", id.name, id.kind, self.zone)
    }

    /// How workloads of the stamp reach a resource: by name where they have names of their own, else by address.
    pub fn reach(&self, id: &ResourceId) -> Result<String, Error> {
        if self.names { Ok(self.name(id)) } else { Ok(self.address(id)?.to_string()) }
    }

    /// The port a resource of a kind answers TLS on.
    pub fn https_port(&self, kind: Kind) -> u16 {
        match kind {
            // OTLP over HTTP has a port of its own (OpenTelemetry specification).
            Kind::Telemetry => 4318,
            _ => self.port(443),
        }
    }

    /// `https://ADDRESS[:PORT]`: works for browsers, and for everybody without names. Inside a closed network, by name.
    pub fn url(&self, id: &ResourceId) -> Result<String, Error> {
        if self.closed.is_some() && self.public(&id.to_string()).is_none() {
            return Ok(self.named_url(id));
        }
        Ok(https(&self.address(id)?.to_string(), self.https_port(id.kind)))
    }

    /// `https://NAME[:PORT]`.
    pub fn named_url(&self, id: &ResourceId) -> String {
        https(&self.name(id), self.https_port(id.kind))
    }

    /// Every name of the stamp and where it leads.
    pub fn hosts(&self, system: &System) -> Result<BTreeMap<String, IpAddr>, Error> {
        let mut hosts = BTreeMap::new();
        for (id, resource) in &system.resources {
            if model::plan::workloads(id, resource).is_empty() {
                continue;
            }
            let address = self.address(id)?;
            hosts.insert(self.name(id), address);
            if let model::Resource::Postgres(postgres) = resource
                && postgres.members() > 1
            {
                for n in 1..=postgres.members() {
                    hosts.insert(self.member_name(id, n), IpAddr::V4(self.ip(&model::plan::workload(id, n))?));
                }
            }
            if let model::Resource::Graph(graph) = resource {
                for n in 1..=graph.members {
                    hosts.insert(self.member_name(id, n), IpAddr::V4(self.ip(&model::plan::workload(id, n))?));
                }
            }
            if let model::Resource::Vault(vault) = resource
                && system.cloud_names
            {
                let cloud = vault.cloud_name.clone().unwrap_or_else(|| id.name.clone());
                hosts.insert(format!("{cloud}.vault.azure.net"), address);
            }
            if let model::Resource::Registry(registry) = resource
                && system.cloud_names
            {
                hosts.insert(self.cloud_registry(id, registry), address);
            }
            if let model::Resource::Blob(blob) = resource
                && system.cloud_names
            {
                hosts.insert(cloud_account(id, blob), address);
            }
        }
        Ok(hosts)
    }

    /// The host that a registry had in the cloud.
    pub fn cloud_registry(&self, id: &ResourceId, registry: &model::resource::Registry) -> String {
        let name = registry.cloud_name.as_ref().unwrap_or(&id.name);
        format!("{}.azurecr.io", name.to_ascii_lowercase())
    }

    /// The mark in the environment of every process of a workload.
    pub fn mark(&self, workload: &str) -> String {
        format!("{}/{}/{}/{workload}", self.home_hash, self.system, self.stamp)
    }

    /// The folder of a workload.
    pub fn place(&self, workload: &str) -> PathBuf {
        self.folder.join(workload)
    }

    /// The control socket of a role.
    pub fn control(&self, workload: &str) -> PathBuf {
        self.sockets.join(format!("{workload}.ctl"))
    }

    /// The control socket of a workload's shim.
    pub fn shim_socket(&self, workload: &str) -> PathBuf {
        self.sockets.join(format!("{workload}.shim"))
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.join("public/ca.pem")
    }

    pub fn bundle(&self) -> PathBuf {
        self.folder.join("public/bundle.pem")
    }

    pub fn hosts_file(&self) -> PathBuf {
        self.folder.join("public/hosts")
    }
}

/// The name of an account of blobs: what it was called in the cloud, or its own.
pub fn account(id: &ResourceId, blob: &model::resource::Blob) -> String {
    blob.cloud_name.as_ref().unwrap_or(&id.name).to_ascii_lowercase()
}

/// The host that an account of blobs had in the cloud.
pub fn cloud_account(id: &ResourceId, blob: &model::resource::Blob) -> String {
    format!("{}.blob.core.windows.net", account(id, blob))
}

/// The folder of a stamp's sockets.
pub fn sockets(home: &Home, row: &StampRow) -> PathBuf {
    home.sockets().join(format!("{:04x}", row.block))
}

/// `https://HOST[:PORT]`.
pub fn https(host: &str, port: u16) -> String {
    if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }
}

/// Where the addresses of a kind begin, so that a person recognises them.
fn first_host(workload: &str) -> u8 {
    match model::plan::resource_of(workload).parse::<ResourceId>().map(|id| id.kind) {
        Ok(Kind::Edge) => 10,
        Ok(Kind::Identity) => 20,
        Ok(Kind::Vault) => 30,
        Ok(Kind::Telemetry) => 40,
        Ok(Kind::Audit) => 50,
        Ok(Kind::Postgres) => 60,
        Ok(Kind::Blob) => 75,
        Ok(Kind::Graph) => 70,
        Ok(Kind::Redis) => 80,
        Ok(Kind::Registry) => 90,
        _ => 100,
    }
}

/// A user number that nobody has: not in the journal, not in the machine's list, no process.
fn free_user(home: &Home, taken: &[u32]) -> u32 {
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut used: BTreeSet<u32> = known.lines().filter_map(|l| l.split(':').nth(2)?.parse().ok()).collect();
    used.extend(taken);
    used.extend(drivers::proc::all().into_iter().filter_map(drivers::proc::user));
    let blocks = (USERS.end - USERS.start) / USERS_PER_HOME;
    let seed = u32::from_str_radix(&home.hash()[..6], 16).unwrap_or(0);
    let first = USERS.start + (seed % blocks) * USERS_PER_HOME;
    (first..USERS.end).chain(USERS.start..first).find(|u| !used.contains(u)).unwrap_or(USERS.end)
}

/// An address block that no stamp of the journal has (`taken`) and nobody listens in ([`listening_blocks`]).
pub fn free_block(home: &Home, system: &str, stamp: &str, taken: &[u16], busy: &BTreeSet<u16>) -> Result<u16, Error> {
    let seed = crate::files::digest(format!("{}/{system}/{stamp}", home.hash()).as_bytes());
    let span = BLOCKS.end() - BLOCKS.start() + 1;
    let first = u16::from_str_radix(&seed[..4], 16).unwrap_or(0) % span;
    (0..span)
        .map(|n| BLOCKS.start() + (first + n) % span)
        .find(|block| !taken.contains(block) && !busy.contains(block))
        .ok_or(Error::NoAddresses)
}

/// Blocks of 127.0.0.0/8 in which something listens now.
pub fn listening_blocks() -> BTreeSet<u16> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let ip = u32::from_str_radix(fields.get(1)?.split(':').next()?, 16).ok()?.to_ne_bytes();
            (*fields.get(3)? == "0A" && ip[0] == 127).then(|| u16::from(ip[1]) << 8 | u16::from(ip[2]))
        })
        .collect()
}

/// A socket address of a workload.
pub fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_get_blocks_of_their_own_and_keep_away_from_what_listens() {
        let home = Home::at("/tmp/a".into());
        let free = |taken: &[u16]| free_block(&home, "s", "dev", taken, &listening_blocks()).unwrap();
        let first = free(&[]);
        assert_eq!(first, free(&[]), "the same stamp is led to the same block");
        assert_ne!(first, free(&[first]));
        let ip = Ipv4Addr::new(127, (first >> 8) as u8, (first & 0xFF) as u8, 9);
        let _listener = std::net::TcpListener::bind((ip, 0)).unwrap();
        assert!(listening_blocks().contains(&first));
        assert_ne!(first, free(&[]));
    }

    #[test]
    fn users_are_not_given_twice() {
        let home = Home::at("/tmp/a".into());
        let first = free_user(&home, &[]);
        assert!(USERS.contains(&first));
        assert_ne!(first, free_user(&home, &[first]));
    }
}
