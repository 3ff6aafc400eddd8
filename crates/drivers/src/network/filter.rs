//! What may pass the router, by nf_tables: one table `stampwright` in the router's namespace. `nft list ruleset` shows it,
//! in words:
//!
//! ```text
//! chain forward {                                     # policy drop
//!     ip saddr . ip daddr @cut drop                   # a link that was cut on purpose; each counted
//!     jump loss                                       # links that lose or are slow on purpose
//!     ct state established,related accept
//!     ip saddr . ip daddr . tcp dport @flows accept   # what is declared, each counted
//!     update @refused { ip saddr . ip daddr . tcp dport counter }
//!     meta l4proto tcp reject with tcp reset          # at once, so that nobody waits
//!     reject with icmp admin-prohibited
//! }
//! chain input  { }                                    # policy drop: the router itself takes nothing
//! chain output { ... }                                # and sends nothing but refusals
//! ```

use std::{io, net::Ipv4Addr};

use super::netlink::{Message, Socket, attribute, attributes};

const NETLINK_NETFILTER: libc::c_int = 12;
const TABLE: &str = "stampwright";
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const IPV4: u8 = 2;
// Messages of nf_tables.
const GETTABLE: u16 = 1;
const NEWTABLE: u16 = 0;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
// Registers of four bytes; what is compared as a whole lies side by side.
const REG: u32 = 8;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const JUMP: u32 = -3_i32 as u32;
const TCP: u8 = 6;
const ICMP: u8 = 1;
/// So many refused pairs are told apart; more are refused all the same.
const REFUSED_KEPT: u32 = 4096;

/// What a segment that the sender's kernel has not cut up yet may have, bytes.
const LONGEST_PACKET: u64 = 64 << 10;

/// How a link is spoilt that is not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// So many of a hundred packets.
    Loses(u32),
    /// So many KiB a second pass each way, and what comes beyond is dropped.
    Slow(u32),
}

/// Who may open connections to whom, at which TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub port: u16,
}

impl Flow {
    fn key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.from.octets());
        key[4..8].copy_from_slice(&self.to.octets());
        key[8..10].copy_from_slice(&self.port.to_be_bytes());
        key
    }

    fn read(key: &[u8]) -> Option<Self> {
        let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(key.get(at..at + 4)?).ok()?));
        Some(Self { from: ip(0)?, to: ip(4)?, port: u16::from_be_bytes(key.get(8..10)?.try_into().ok()?) })
    }
}

/// The filter of the namespace in which it was opened.
pub struct Filter(Socket);

impl Filter {
    pub fn open() -> io::Result<Self> {
        Socket::open(NETLINK_NETFILTER).map(Self)
    }

    /// Makes the table with its chains and sets, all at once, unless it is there. Nothing passes then.
    pub fn close(&mut self) -> io::Result<()> {
        let there = self.0.list(message(GETTABLE, 0))?;
        if there.iter().any(|body| body.get(4..).and_then(|b| attribute(b, 1)) == Some(b"stampwright\0")) {
            return Ok(());
        }
        let mut all = vec![message(NEWTABLE, libc::NLM_F_CREATE).text(1, TABLE)];
        all.push(set("cut", &[IPADDR, IPADDR], 0, None));
        all.push(set("flows", &[IPADDR, IPADDR, SERVICE], 0, None));
        // Filled from the path of packets.
        all.push(set("refused", &[IPADDR, IPADDR, SERVICE], 0x20, Some(REFUSED_KEPT)));
        all.push(message(NEWCHAIN, libc::NLM_F_CREATE).text(1, TABLE).text(3, "loss"));
        for (name, hook) in [("input", 1), ("forward", 2), ("output", 3)] {
            all.push(
                message(NEWCHAIN, libc::NLM_F_CREATE)
                    .text(1, TABLE)
                    .text(3, name)
                    .nest(4, |m| m.big(1, hook).big(2, 0))
                    .big(5, DROP)
                    .text(7, "filter"),
            );
        }
        let pair = |e: Expressions| e.network(12, REG).network(16, REG + 1);
        let triple = |e: Expressions| pair(e.protocol(TCP)).transport(2, 2, REG + 2);
        all.push(rule("forward", |e| pair(e).lookup("cut").verdict(DROP)));
        all.push(rule("forward", |e| e.jump("loss")));
        // Established is bit 1, related bit 2.
        all.push(rule("forward", |e| e.connection_state().any_of(&6_u32.to_ne_bytes()).verdict(ACCEPT)));
        all.push(rule("forward", |e| triple(e).lookup("flows").verdict(ACCEPT)));
        all.push(rule("forward", |e| triple(e).remember("refused")));
        all.push(rule("forward", |e| e.protocol(TCP).reject(1, 0)));
        // 13: communication administratively prohibited.
        all.push(rule("forward", |e| e.reject(0, 13)));
        // What the router refuses with: a reset, and `destination unreachable`.
        all.push(rule("output", |e| e.protocol(TCP).transport(13, 1, REG).any_of(&[4]).verdict(ACCEPT)));
        all.push(rule("output", |e| e.protocol(ICMP).transport(0, 1, REG).equals(0, &[3]).verdict(ACCEPT)));
        self.batch(all)
    }

    /// Lets these flows pass and no others; those that stay keep their counts.
    pub fn allow(&mut self, flows: &[Flow]) -> io::Result<()> {
        let there = self.flows("flows")?;
        let gone: Vec<[u8; 12]> = there.iter().map(|(f, _)| *f).filter(|f| !flows.contains(f)).map(Flow::key).collect();
        let new: Vec<[u8; 12]> =
            flows.iter().filter(|f| !there.iter().any(|(t, _)| t == *f)).map(|f| f.key()).collect();
        let mut all = Vec::new();
        all.extend(elements(DELSETELEM, "flows", &gone));
        all.extend(elements(NEWSETELEM, "flows", &new));
        if all.is_empty() { Ok(()) } else { self.batch(all) }
    }

    /// Cuts the links between these addresses, both ways, connections that are open included, and heals all others.
    pub fn cut(&mut self, pairs: &[(Ipv4Addr, Ipv4Addr)]) -> io::Result<()> {
        let there: Vec<_> = self.cuts()?.into_iter().map(|(pair, _)| pair).collect();
        let wanted: Vec<(Ipv4Addr, Ipv4Addr)> =
            pairs.iter().flat_map(|(one, other)| [(*one, *other), (*other, *one)]).collect();
        let key = |(from, to): &(Ipv4Addr, Ipv4Addr)| {
            let mut key = [0; 8];
            key[..4].copy_from_slice(&from.octets());
            key[4..].copy_from_slice(&to.octets());
            key
        };
        let healed: Vec<[u8; 8]> = there.iter().filter(|pair| !wanted.contains(pair)).map(key).collect();
        let mut new: Vec<[u8; 8]> = wanted.iter().filter(|pair| !there.contains(pair)).map(key).collect();
        new.dedup();
        let mut all = Vec::new();
        all.extend(elements(DELSETELEM, "cut", &healed));
        all.extend(elements(NEWSETELEM, "cut", &new));
        if all.is_empty() { Ok(()) } else { self.batch(all) }
    }

    /// Links that are cut, each direction of its own, and how many packets ended there.
    pub fn cuts(&mut self) -> io::Result<Vec<((Ipv4Addr, Ipv4Addr), u64)>> {
        let ip = |key: &[u8], at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(key.get(at..at + 4)?).ok()?));
        let all = self.elements("cut")?;
        Ok(all.iter().filter_map(|(key, count)| Some(((ip(key, 0)?, ip(key, 4)?), *count))).collect())
    }

    /// Puts `accept` before all other rules.
    pub fn bypass(&mut self) -> io::Result<()> {
        let head = message(NEWRULE, libc::NLM_F_CREATE).text(1, TABLE).text(2, "forward");
        self.batch(vec![head.nest(4, |m| Expressions(m).verdict(ACCEPT).0)])
    }

    /// Makes these pairs, each both ways, as bad as they say, and no others.
    pub fn worsen(&mut self, pairs: &[(Ipv4Addr, Ipv4Addr, Bad)]) -> io::Result<()> {
        let mut all = vec![message(DELRULE, 0).text(1, TABLE).text(2, "loss")];
        for (one, other, bad) in pairs {
            for (from, to) in [(one, other), (other, one)] {
                all.push(rule("loss", |e| {
                    let e = e.network(12, REG).equals(0, &from.octets()).network(16, REG).equals(0, &to.octets());
                    let e = match *bad {
                        Bad::Loses(of_hundred) => e.of_hundred_below(of_hundred),
                        Bad::Slow(kib_s) => e.over(u64::from(kib_s) << 10),
                    };
                    e.counter().verdict(DROP)
                }));
            }
        }
        self.batch(all)
    }

    /// Flows in a set (`flows`, `refused`), and how many packets opened or tried them.
    pub fn flows(&mut self, set: &str) -> io::Result<Vec<(Flow, u64)>> {
        Ok(self.elements(set)?.iter().filter_map(|(key, count)| Some((Flow::read(key)?, *count))).collect())
    }

    fn elements(&mut self, set: &str) -> io::Result<Vec<(Vec<u8>, u64)>> {
        let bodies = self.0.list(message(GETSETELEM, 0).text(1, TABLE).text(2, set))?;
        let mut all = Vec::new();
        for body in &bodies {
            let Some(list) = body.get(4..).and_then(|b| attribute(b, 3)) else { continue };
            for (_, element) in attributes(list) {
                let Some(key) = attribute(element, 1).and_then(|key| attribute(key, 1)) else { continue };
                let packets = attribute(element, 7).and_then(|e| attribute(e, 2)).and_then(|c| attribute(c, 2));
                let packets = packets.and_then(|p| p.try_into().ok()).map_or(0, u64::from_be_bytes);
                all.push((key.to_vec(), packets));
            }
        }
        Ok(all)
    }

    fn batch(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let frame = |kind: u16| Message::new(kind, 0).fixed(&[0, 0, 0, SUBSYSTEM as u8]);
        self.0.batch(frame(BATCH_BEGIN), messages, frame(BATCH_END))
    }
}

fn message(kind: u16, flags: libc::c_int) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, flags).fixed(&[IPV4, 0, 0, 0])
}

// nft's own numbers of types, so that it shows the sets as people write them.
const IPADDR: u32 = 7;
const SERVICE: u32 = 13;

/// A set of such keys, a counter with each element.
fn set(name: &str, types: &[u32], flags: u32, size: Option<u32>) -> Message {
    let kind = types.iter().fold(0, |whole, one| whole << 6 | one);
    let mut made = message(NEWSET, libc::NLM_F_CREATE)
        .text(1, TABLE)
        .text(2, name)
        .big(3, flags)
        .big(4, kind)
        .big(5, 4 * types.len() as u32)
        // Its number within the batch; rules find it by its name.
        .big(10, name.len() as u32)
        .nest(17, |m| m.text(1, "counter"));
    if let Some(size) = size {
        made = made.nest(9, |m| m.big(1, size));
    }
    made
}

fn elements<const N: usize>(kind: u16, set: &str, keys: &[[u8; N]]) -> Option<Message> {
    let flags = if kind == NEWSETELEM { libc::NLM_F_CREATE } else { 0 };
    let one = |m: Message, key: &[u8; N]| m.nest(1, |m| m.nest(1, |m| m.bytes(1, key)));
    (!keys.is_empty()).then(|| message(kind, flags).text(1, TABLE).text(2, set).nest(3, |m| keys.iter().fold(m, one)))
}

fn rule(chain: &str, fill: impl FnOnce(Expressions) -> Expressions) -> Message {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    let head = message(NEWRULE, flags).text(1, TABLE).text(2, chain);
    head.nest(4, |m| fill(Expressions(m)).0)
}

/// The expressions of a rule, one after the other; the rule ends at the first that does not hold.
struct Expressions(Message);

impl Expressions {
    fn add(self, name: &str, fill: impl FnOnce(Message) -> Message) -> Self {
        Self(self.0.nest(1, |m| m.text(1, name).nest(2, fill)))
    }

    /// Four bytes of the IPv4 header (12: source, 16: destination) into a register.
    fn network(self, offset: u32, register: u32) -> Self {
        self.add("payload", |m| m.big(1, register).big(2, 1).big(3, offset).big(4, 4))
    }

    /// Bytes of the transport's header into a register.
    fn transport(self, offset: u32, length: u32, register: u32) -> Self {
        self.add("payload", |m| m.big(1, register).big(2, 2).big(3, offset).big(4, length))
    }

    fn protocol(self, number: u8) -> Self {
        self.add("meta", |m| m.big(1, REG).big(2, 16)).equals(0, &[number])
    }

    /// Compares the first register: 0 is equal, 1 is not equal, 2 is less.
    fn equals(self, how: u32, bytes: &[u8]) -> Self {
        self.add("cmp", |m| m.big(1, REG).big(2, how).nest(3, |m| m.bytes(1, bytes)))
    }

    fn connection_state(self) -> Self {
        self.add("ct", |m| m.big(1, REG).big(2, 0))
    }

    /// Any bit of `mask` in the first register.
    fn any_of(self, mask: &[u8]) -> Self {
        let none = vec![0; mask.len()];
        self.add("bitwise", |m| {
            m.big(1, REG)
                .big(2, REG)
                .big(3, mask.len() as u32)
                .nest(4, |m| m.bytes(1, mask))
                .nest(5, |m| m.bytes(1, &none))
        })
        .equals(1, &none)
    }

    fn lookup(self, set: &str) -> Self {
        self.add("lookup", |m| m.text(1, set).big(2, REG))
    }

    /// Counts what the registers hold in a set, which takes it in.
    fn remember(self, set: &str) -> Self {
        self.add("dynset", |m| m.text(1, set).big(3, 1).big(4, REG))
    }

    /// A random number under a hundred is less than `limit`.
    fn of_hundred_below(self, limit: u32) -> Self {
        self.add("numgen", |m| m.big(1, REG).big(2, 100).big(3, 1))
            .add("byteorder", |m| m.big(1, REG).big(2, REG).big(3, 1).big(4, 4).big(5, 4))
            .equals(2, &limit.to_be_bytes())
    }

    /// More than so many bytes a second have come, and what was saved up is spent.
    fn over(self, bytes_s: u64) -> Self {
        // A second's worth is saved up in any case. What is sent at once through a veth pair is up to 64 KiB long: with less saved up
        // none of it would ever pass.
        let saved = LONGEST_PACKET.saturating_sub(bytes_s) as u32;
        // Type 1 is bytes, flag 1 is `over`; see include/uapi/linux/netfilter/nf_tables.h.
        self.add("limit", |m| m.big_long(1, bytes_s).big_long(2, 1).big(3, saved).big(4, 1).big(5, 1))
    }

    fn counter(self) -> Self {
        self.add("counter", |m| m)
    }

    fn reject(self, kind: u32, code: u8) -> Self {
        self.add("reject", |m| m.big(1, kind).bytes(2, &[code]))
    }

    fn verdict(self, code: u32) -> Self {
        self.add("immediate", |m| m.big(1, 0).nest(2, |m| m.nest(2, |m| m.big(1, code))))
    }

    fn jump(self, chain: &str) -> Self {
        self.add("immediate", |m| m.big(1, 0).nest(2, |m| m.nest(2, |m| m.big(1, JUMP).text(2, chain))))
    }
}
