//! Watches what passes a stamp's router: of each TCP connection who opened it and the first bytes each side said. For looks at
//! whether connections are encrypted; what is said later is not kept.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::namespace;

/// Bytes of each side that are kept.
const HEAD: usize = 32;
/// What is read of a packet: its headers and enough of what it carries.
const PACKET: usize = 256;
/// How often the end is looked for, in milliseconds.
const LOOK_MS: libc::c_long = 50;
/// Bytes of packets that may wait to be read.
const BUFFER: libc::c_int = 16 << 20;
/// packet(7): a packet that goes out; it was seen when it came in.
const OUTGOING: u8 = 4;
// Flags of TCP (RFC 9293, section 3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// One TCP connection that passed the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    /// Its beginning was seen; otherwise it was open before, and the heads are of somewhere in the middle.
    pub begun: bool,
    /// The first bytes of the side that opened it.
    pub says: Vec<u8>,
    /// The first bytes of the other side.
    pub answers: Vec<u8>,
}

/// Watches until it is asked for what it saw, or dropped.
pub struct Watch {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Vec<Conversation>>>>,
}

impl Watch {
    /// Begins to watch the router that `path` keeps.
    pub(super) fn begin(path: &std::path::Path) -> io::Result<Self> {
        let socket = namespace::inside(path, open)?;
        let end = Arc::new(AtomicBool::new(false));
        let told = end.clone();
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || read(&socket, &told))?;
        Ok(Self { end, thread: Some(thread) })
    }

    /// What passed since the beginning.
    pub fn seen(mut self) -> io::Result<Vec<Conversation>> {
        self.end.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("the watch failed"))),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn open() -> io::Result<OwnedFd> {
    let ip = (libc::ETH_P_IP as u16).to_be();
    // SAFETY: plain system calls; the options outlive them.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::c_int::from(ip));
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let wait = libc::timeval { tv_sec: 0, tv_usec: LOOK_MS * 1000 };
        option(&socket, libc::SO_RCVTIMEO, &wait)?;
        option(&socket, libc::SO_RCVBUFFORCE, &BUFFER)?;
        Ok(socket)
    }
}

fn option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value outlives the call, and its length is its own.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, std::ptr::from_ref(value).cast(), length)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn read(socket: &OwnedFd, end: &AtomicBool) -> io::Result<Vec<Conversation>> {
    let mut table = Table::default();
    let mut packet = [0; PACKET];
    loop {
        // SAFETY: buffer and address are ours, and as long as is said.
        let (length, way) = unsafe {
            let mut from: libc::sockaddr_ll = std::mem::zeroed();
            let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            let length = libc::recvfrom(
                socket.as_raw_fd(),
                packet.as_mut_ptr().cast(),
                packet.len(),
                0,
                std::ptr::from_mut(&mut from).cast(),
                &mut size,
            );
            (length, from.sll_pkttype)
        };
        if length < 0 {
            let error = io::Error::last_os_error();
            match error.kind() {
                // All that had come is read.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if end.load(Ordering::Relaxed) => {
                    return Ok(table.0.into_values().map(|flow| flow.conversation).collect());
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            }
        }
        if way != OUTGOING {
            table.take(&packet[..length as usize]);
        }
    }
}

#[derive(Default)]
struct Table(BTreeMap<(SocketAddrV4, SocketAddrV4), Flow>);

struct Flow {
    conversation: Conversation,
    /// The sequence numbers at which each side's next head bytes begin; None: not known yet.
    next: [Option<u32>; 2],
}

impl Table {
    /// Takes an IPv4 packet in; what is no TCP is passed over.
    fn take(&mut self, packet: &[u8]) {
        let Some((from, to, segment, carried)) = tcp(packet) else { return };
        let word = |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
        let (sequence, flags) = (word(4), segment[13]);
        if flags & (SYN | ACK) == SYN {
            let conversation = Conversation { from, to, begun: true, says: Vec::new(), answers: Vec::new() };
            self.0.insert((from, to), Flow { conversation, next: [Some(sequence.wrapping_add(1)), None] });
            return;
        }
        let forward = if self.0.contains_key(&(from, to)) {
            true
        } else if self.0.contains_key(&(to, from)) {
            false
        } else {
            // Open before: whoever has the higher port has opened it.
            from.port() > to.port()
        };
        let key = if forward { (from, to) } else { (to, from) };
        let flow = self.0.entry(key).or_insert_with(|| Flow {
            conversation: Conversation { from: key.0, to: key.1, begun: false, says: Vec::new(), answers: Vec::new() },
            next: [None, None],
        });
        let side = usize::from(!forward);
        if flags & SYN != 0 {
            flow.next[side] = Some(sequence.wrapping_add(1));
            return;
        }
        if carried.is_empty() {
            return;
        }
        let head = if forward { &mut flow.conversation.says } else { &mut flow.conversation.answers };
        if head.len() >= HEAD || flow.next[side].is_some_and(|next| next != sequence) {
            return;
        }
        let taken = &carried[..carried.len().min(HEAD - head.len())];
        head.extend_from_slice(taken);
        flow.next[side] = Some(sequence.wrapping_add(carried.len() as u32));
    }
}

/// Both ends, the segment from its header on, and what it carries.
fn tcp(packet: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8], &[u8])> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0F) * 4;
    if first >> 4 != 4 || header < 20 || *packet.get(9)? != 6 {
        return None;
    }
    let whole = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    // A whole length of 0 is one of a packet that the sender left to be cut up.
    let end = if whole == 0 { packet.len() } else { whole.min(packet.len()) };
    let segment = packet.get(header..end).filter(|s| s.len() >= 20)?;
    let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let carried = segment.get(usize::from(segment[12] >> 4) * 4..)?;
    Some((SocketAddrV4::new(ip(12)?, port(0)), SocketAddrV4::new(ip(16)?, port(2)), segment, carried))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn packet(from: (u8, u16), to: (u8, u16), sequence: u32, flags: u8, carried: &[u8]) -> Vec<u8> {
        let mut made = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, from.0, 10, 0, 0, to.0];
        made.extend(from.1.to_be_bytes());
        made.extend(to.1.to_be_bytes());
        made.extend(sequence.to_be_bytes());
        made.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        made.extend(carried);
        let length = made.len() as u16;
        made[2..4].copy_from_slice(&length.to_be_bytes());
        made
    }

    #[test]
    fn the_first_bytes_of_each_side_are_kept_in_their_order() {
        let mut table = Table::default();
        let (a, b) = ((1, 40_000), (2, 443));
        table.take(&packet(a, b, 99, SYN, b""));
        table.take(&packet(b, a, 499, SYN | ACK, b""));
        table.take(&packet(a, b, 100, ACK, b"he"));
        // Sent again, and one that overtook another.
        table.take(&packet(a, b, 100, ACK, b"he"));
        table.take(&packet(a, b, 110, ACK, b"later"));
        table.take(&packet(a, b, 102, ACK, b"llo"));
        table.take(&packet(b, a, 500, ACK, b"yes"));
        let all: Vec<Conversation> = table.0.into_values().map(|f| f.conversation).collect();
        assert_eq!(all.len(), 1);
        assert!(all[0].begun);
        assert_eq!((all[0].says.as_slice(), all[0].answers.as_slice()), (&b"hello"[..], &b"yes"[..]));
        assert_eq!(all[0].to.to_string(), "10.0.0.2:443");
    }

    #[test]
    fn one_that_was_open_before_is_known_by_its_ports_and_nonsense_is_passed_over() {
        let mut table = Table::default();
        table.take(&packet((2, 443), (1, 40_000), 7, ACK, b"middle"));
        for junk in [&b""[..], b"\x45", b"\x60abcdefghijklmnopqrstuvwxyz", &[0x4F; 30]] {
            table.take(junk);
        }
        let all: Vec<Conversation> = table.0.into_values().map(|f| f.conversation).collect();
        assert_eq!(all.len(), 1);
        assert!(!all[0].begun);
        assert_eq!((all[0].from.port(), all[0].answers.as_slice()), (40_000, &b"middle"[..]));
    }
}
