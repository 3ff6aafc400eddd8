//! Links, addresses and routes of a namespace, by rtnetlink (`ip link`, `ip address`, `ip route`).

use std::{
    ffi::CString,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::netlink::{Message, Socket, attribute};

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
/// The kernel adds it by itself to what is its own; ours says so too.
const RTPROT_STATIC: u8 = 4;

/// Where a route is looked for: the main table, or the local one, which is asked first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Main,
    Local,
}

/// Links, addresses and routes of the namespace in which it was opened.
pub struct Links(Socket);

impl Links {
    pub fn open() -> io::Result<Self> {
        Socket::open(libc::NETLINK_ROUTE).map(Self)
    }

    /// The number of a link, if it is there.
    pub fn index(name: &str) -> Option<u32> {
        let name = CString::new(name).ok()?;
        // SAFETY: the text outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        (index > 0).then_some(index)
    }

    /// A pair of links: `name` here, `peer` in the namespace `other`.
    pub fn pair(&mut self, name: &str, peer: &str, other: BorrowedFd<'_>) -> io::Result<()> {
        let make = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let message = Message::new(libc::RTM_NEWLINK, make).fixed(&interface(0, 0)).text(IFLA_IFNAME, name).nest(
            IFLA_LINKINFO,
            |m| {
                m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                    m.nest(VETH_INFO_PEER, |m| {
                        m.fixed(&interface(0, 0)).text(IFLA_IFNAME, peer).own(IFLA_NET_NS_FD, other.as_raw_fd() as u32)
                    })
                })
            },
        );
        self.0.ask(message)
    }

    /// Removes a link, and the other end with it.
    pub fn remove(&mut self, index: u32) -> io::Result<()> {
        self.0.ask(Message::new(libc::RTM_DELLINK, 0).fixed(&interface(index, 0)))
    }

    pub fn up(&mut self, index: u32) -> io::Result<()> {
        self.0.ask(Message::new(libc::RTM_NEWLINK, 0).fixed(&interface(index, libc::IFF_UP as u32)))
    }

    /// Gives a link an address of its own, without a network around it.
    pub fn address(&mut self, index: u32, ip: Ipv4Addr) -> io::Result<()> {
        let make = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let head = address(index);
        let message = Message::new(libc::RTM_NEWADDR, make).fixed(&head);
        self.0.ask(message.bytes(IFA_LOCAL, &ip.octets()).bytes(IFA_ADDRESS, &ip.octets()))
    }

    /// The addresses of a link.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Ipv4Addr>> {
        let all = self.0.list(Message::new(libc::RTM_GETADDR, 0).fixed(&address(0)))?;
        let ours = all.iter().filter(|body| body.get(4..8) == Some(&index.to_ne_bytes()));
        Ok(ours
            .filter_map(|body| attribute(body.get(8..)?, IFA_LOCAL)?.try_into().ok())
            .map(|octets: [u8; 4]| Ipv4Addr::from(octets))
            .collect())
    }

    /// The way to `to` (None: to everything) over a link, through `gateway` if it is not at the other end itself.
    pub fn route(
        &mut self,
        to: Option<Ipv4Addr>,
        index: u32,
        gateway: Option<Ipv4Addr>,
        table: Table,
    ) -> io::Result<()> {
        let make = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let number = if table == Table::Main { libc::RT_TABLE_MAIN } else { libc::RT_TABLE_LOCAL };
        let scope = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let bits = if to.is_some() { 32 } else { 0 };
        let head = [libc::AF_INET as u8, bits, 0, 0, number, RTPROT_STATIC, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(libc::RTM_NEWROUTE, make).fixed(&head).own(RTA_OIF, index);
        if let Some(to) = to {
            message = message.bytes(RTA_DST, &to.octets());
        }
        if let Some(gateway) = gateway {
            message = message.bytes(RTA_GATEWAY, &gateway.octets());
        }
        self.0.ask(message)
    }

    /// The way to an address through `gateway`, asked for before the loopback's own, with the source that is taken for it.
    pub fn route_from(&mut self, to: Ipv4Addr, index: u32, gateway: Ipv4Addr, source: Ipv4Addr) -> io::Result<()> {
        let make = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let (table, scope) = (libc::RT_TABLE_LOCAL, libc::RT_SCOPE_UNIVERSE);
        let head = [libc::AF_INET as u8, 32, 0, 0, table, RTPROT_STATIC, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
        let message = Message::new(libc::RTM_NEWROUTE, make).fixed(&head).own(RTA_OIF, index);
        let message = message.bytes(RTA_DST, &to.octets()).bytes(RTA_GATEWAY, &gateway.octets());
        self.0.ask(message.bytes(RTA_PREFSRC, &source.octets()))
    }
}

/// `struct ifinfomsg`, its flags set to `flags`.
fn interface(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg` of a single address.
fn address(index: u32) -> [u8; 8] {
    let mut bytes = [libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}
