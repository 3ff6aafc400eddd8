//! A stamp's closed network: a namespace for each workload, and a router between them that lets declared flows pass.
//!
//! ```text
//!  service.web            router                    postgres.main
//!  eth0 10.0.1.100 ────── w100   filter   w60 ────── eth0 10.0.2.60
//! ```
//!
//! Nothing of it is in the machine's own network: the router leads nowhere else, and no process is in it. The namespaces
//! are kept by files ([`namespace::keep`]), so they outlive the supervisor and are found again. Everything here may be done
//! twice, and cut anywhere: what is there is left as it is.
//!
//! Addresses that people use (the edge's, the directory's) are loopback addresses of the machine. Inside, the very same
//! addresses are led through the router, so that a URL is the same for both.

pub mod border;
mod filter;
mod link;
pub mod namespace;
mod netlink;
pub mod watch;

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use filter::Filter;
pub use filter::{Bad, Flow};
use link::{Links, Table};

use crate::Error;

/// The router's end of every link. Each link has two ends and nothing else, so one address does for all.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const ROUTER: &str = "router";
/// The workload's end.
const INNER: &str = "eth0";

/// A workload's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    pub workload: String,
    /// Its number within the stamp: the router's end of its link is called by it.
    pub host: u8,
    pub ip: Ipv4Addr,
    /// The loopback address under which people reach it.
    pub public: Option<Ipv4Addr>,
}

/// What passed and what did not.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Declared flows, and connections that were opened by each.
    pub passed: Vec<(Flow, u64)>,
    /// Undeclared flows that were tried, and how often.
    pub refused: Vec<(Flow, u64)>,
    /// Links that are cut, from and to, and packets that ended there.
    pub cuts: Vec<((Ipv4Addr, Ipv4Addr), u64)>,
}

/// The network of one stamp, kept in a folder.
#[derive(Clone, Debug)]
pub struct Network {
    folder: PathBuf,
}

impl Network {
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where the namespace of a workload is kept.
    pub fn namespace(&self, workload: &str) -> PathBuf {
        self.folder.join(workload)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        namespace::is_kept(&self.router())
    }

    /// Where the router's namespace is kept.
    pub fn router(&self) -> PathBuf {
        self.folder.join(ROUTER)
    }

    /// Makes what is missing of the network, and lets these flows pass and no others.
    pub fn ensure(&self, seats: &[Seat], flows: &[Flow]) -> Result<(), Error> {
        self.make(seats, flows.to_vec()).map_err(|source| self.failed("make", source))
    }

    fn make(&self, seats: &[Seat], flows: Vec<Flow>) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        namespace::keep(&self.router())?;
        let router = namespace::open(&self.router())?;
        let mut places = Vec::new();
        for seat in seats {
            let path = self.namespace(&seat.workload);
            namespace::keep(&path)?;
            places.push((seat.clone(), namespace::open(&path)?));
        }
        namespace::on_a_thread(move || {
            namespace::enter(&router)?;
            // Closed before anything is connected to it.
            let mut filter = Filter::open()?;
            filter.close()?;
            filter.allow(&flows)?;
            namespace::set("ipv6/conf/all/disable_ipv6", "1")?;
            for (name, value) in [("ip_forward", "1"), ("conf/all/route_localnet", "1"), ("conf/all/rp_filter", "1")] {
                namespace::set(&format!("ipv4/{name}"), value)?;
            }
            let public: Vec<Ipv4Addr> = places.iter().filter_map(|(seat, _)| seat.public).collect();
            for (seat, place) in &places {
                connect(&router, seat, place, &public)?;
            }
            Ok(())
        })
    }

    /// Lets these flows pass from now on and no others; connections that are open stay.
    pub fn allow(&self, flows: &[Flow]) -> Result<(), Error> {
        let flows = flows.to_vec();
        let act = move || Filter::open()?.allow(&flows);
        namespace::inside(&self.router(), act).map_err(|source| self.failed("change", source))
    }

    /// Removes a workload's place.
    pub fn leave(&self, workload: &str) -> Result<(), Error> {
        namespace::forget(&self.namespace(workload)).map_err(|source| self.failed("leave", source))
    }

    /// Removes all of it.
    pub fn remove(&self) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|source| self.failed("remove", source))?,
        };
        for entry in entries.flatten() {
            namespace::forget(&entry.path()).map_err(|source| self.failed("remove", source))?;
        }
        fs::remove_dir(&self.folder).map_err(|source| self.failed("remove", source))
    }

    /// Spoils links between addresses, both ways and connections that are open included: these are cut, and these lose
    /// packets or are slow. All others are as they should be.
    pub fn spoil(&self, cut: Vec<(Ipv4Addr, Ipv4Addr)>, bad: Vec<(Ipv4Addr, Ipv4Addr, Bad)>) -> Result<(), Error> {
        let act = move || {
            let mut filter = Filter::open()?;
            filter.cut(&cut)?;
            filter.worsen(&bad)
        };
        namespace::inside(&self.router(), act).map_err(|source| self.failed("spoil a link of", source))
    }

    /// Lets everything pass: a network that is closed badly, for trials of what must notice. Only making it anew mends it.
    pub fn bypass(&self) -> Result<(), Error> {
        namespace::inside(&self.router(), || Filter::open()?.bypass()).map_err(|source| self.failed("open", source))
    }

    /// Watches what passes the router from now on.
    pub fn watch(&self) -> Result<watch::Watch, Error> {
        watch::Watch::begin(&self.router()).map_err(|source| self.failed("watch", source))
    }

    /// What the router has counted.
    pub fn traffic(&self) -> Result<Traffic, Error> {
        let look = || {
            let mut filter = Filter::open()?;
            Ok(Traffic { passed: filter.flows("flows")?, refused: filter.flows("refused")?, cuts: filter.cuts()? })
        };
        namespace::inside(&self.router(), look).map_err(|source| self.failed("look at", source))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::Network { what, folder: self.folder.clone(), source }
    }
}

/// Connects a workload's place with the router, whose namespace the thread is in and is left in.
fn connect(router: &OwnedFd, seat: &Seat, place: &OwnedFd, public: &[Ipv4Addr]) -> io::Result<()> {
    let outer = format!("w{}", seat.host);
    let inner = namespace::again(place)?;
    namespace::enter(&inner)?;
    let found = Links::open().and_then(|mut links| {
        let Some(index) = Links::index(INNER) else { return Ok(None) };
        Ok(Some((index, links.addresses(index)?.contains(&seat.ip))))
    });
    namespace::enter(router)?;
    let mut links = Links::open()?;
    let index = match (Links::index(&outer), found?) {
        (Some(index), Some((_, true))) => index,
        (half, other) => {
            // Half a link, that of a router that is gone, or one with another address.
            if let Some((end, _)) = other {
                namespace::enter(&inner)?;
                let removed = Links::open().and_then(|mut links| links.remove(end));
                namespace::enter(router)?;
                removed?;
            }
            if let Some(half) = half
                && Links::index(&outer) == Some(half)
            {
                links.remove(half)?;
            }
            links.pair(&outer, INNER, place.as_fd())?;
            Links::index(&outer).ok_or_else(|| io::Error::other(format!("{outer} was made and is not there")))?
        }
    };
    links.up(index)?;
    links.address(index, GATEWAY)?;
    // The inner end comes up first: a link is up when both ends are.
    namespace::enter(&inner)?;
    let inside = furnish(seat, public);
    namespace::enter(router)?;
    inside?;
    links.route(Some(seat.ip), index, None, Table::Main)?;
    if let Some(public) = seat.public {
        links.route(Some(public), index, None, Table::Main)?;
    }
    Ok(())
}

/// What the thread's namespace, a workload's, needs.
fn furnish(seat: &Seat, public: &[Ipv4Addr]) -> io::Result<()> {
    namespace::set("ipv6/conf/all/disable_ipv6", "1")?;
    // Loopback addresses that people use come and go over the link.
    namespace::set("ipv4/conf/all/route_localnet", "1")?;
    let mut links = Links::open()?;
    let missing = |name: &str| io::Error::other(format!("{name} is not there"));
    links.up(Links::index("lo").ok_or_else(|| missing("lo"))?)?;
    let index = Links::index(INNER).ok_or_else(|| missing(INNER))?;
    links.up(index)?;
    links.address(index, seat.ip)?;
    links.route(Some(GATEWAY), index, None, Table::Main)?;
    links.route(None, index, Some(GATEWAY), Table::Main)?;
    for other in public.iter().filter(|p| seat.public != Some(**p)) {
        // The local table is asked first, and has all of 127.0.0.0/8 as this namespace's own.
        links.route(Some(*other), index, Some(GATEWAY), Table::Local)?;
    }
    Ok(())
}

/// Whether this machine can have closed networks: tried on a thread, in namespaces that end with it.
pub fn probe() -> Result<(), String> {
    let tried = namespace::on_a_thread(|| Ok(attempt()));
    tried.unwrap_or_else(|e| Err(format!("a thread: {e}")))
}

fn attempt() -> Result<(), String> {
    // SAFETY: plain system calls that change this thread alone.
    let unshare =
        || unsafe { if libc::unshare(libc::CLONE_NEWNET) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) } };
    let own = || fs::File::open("/proc/thread-self/ns/net").map(OwnedFd::from);
    unshare().map_err(|e| format!("unshare --net: {e}"))?;
    let other = own().map_err(|e| format!("open /proc/thread-self/ns/net: {e}"))?;
    unshare().map_err(|e| format!("unshare --net: {e}"))?;
    Filter::open().and_then(|mut f| f.close()).map_err(|e| format!("nft add table ip stampwright: {e}"))?;
    let mut links = Links::open().map_err(|e| format!("ip link: {e}"))?;
    links.pair("w1", INNER, other.as_fd()).map_err(|e| format!("ip link add w1 type veth peer {INNER} netns: {e}"))?;
    namespace::set("ipv4/ip_forward", "1").map_err(|e| format!("sysctl -w net.ipv4.ip_forward=1: {e}"))?;
    mountable().map_err(|e| format!("mount --bind /proc/self/ns/net: {e}"))
}

/// Whether a namespace can be kept by a file.
fn mountable() -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("stampwright-probe-net-{}-{number}", std::process::id()));
    let kept = namespace::keep(&path);
    let gone = namespace::forget(&path);
    kept.and(gone)
}

/// The files in which namespaces are kept below `folder`.
pub fn kept(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|path| namespace::is_kept(path)).collect()
}
