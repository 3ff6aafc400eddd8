//! Netlink, the kernel's own socket for networks, as far as [`super`] needs it: messages with attributes, acknowledged one
//! by one or in a batch that holds as a whole. Done here in a few lines: no program such as `ip` or `nft` need be there.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

const HEADER: usize = 16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const NESTED: u16 = 1 << 15;
/// The part of an attribute's type that says which it is.
const KIND: u16 = 0x3FFF;
/// The kernel answers within microseconds; this only bounds a fault of ours.
const PATIENCE: libc::timeval = libc::timeval { tv_sec: 5, tv_usec: 0 };

/// One message, its header first.
pub struct Message(Vec<u8>);

impl Message {
    /// A message of a kind; `flags` beyond the request's own.
    pub fn new(kind: u16, flags: libc::c_int) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16 | REQUEST).to_ne_bytes());
        Self(bytes)
    }

    /// The fixed part that follows the header.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    #[must_use]
    pub fn bytes(mut self, kind: u16, bytes: &[u8]) -> Self {
        let length = (bytes.len() + 4) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// A text that ends with a zero.
    #[must_use]
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number as the network writes it (nf_tables).
    #[must_use]
    pub fn big(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    /// A long number as the network writes it.
    #[must_use]
    pub fn big_long(self, kind: u16, number: u64) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    /// A number as this machine writes it (routes and links).
    #[must_use]
    pub fn own(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_ne_bytes())
    }

    /// An attribute that holds attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        let mut whole = fill(self);
        let length = (whole.0.len() - at) as u16;
        whole.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        whole.0[at + 2..at + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        whole
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// The attributes in `bytes`, by kind.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attribute of a kind in `bytes`.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A socket in the network namespace of the thread that opens it.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// A socket of a protocol, such as `NETLINK_ROUTE`.
    pub fn open(protocol: libc::c_int) -> io::Result<Self> {
        // SAFETY: plain system calls; the descriptor is ours alone.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let length = size_of::<libc::timeval>() as libc::socklen_t;
        // SAFETY: the option's value outlives the call.
        let set = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                std::ptr::from_ref(&PATIENCE).cast(),
                length,
            )
        };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { fd, sequence: 0 }) }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: the buffer outlives the call.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The messages of one datagram: kind, sequence, what follows the header.
    fn receive(&self) -> io::Result<Vec<(u16, u32, Vec<u8>)>> {
        let mut buffer = vec![0_u8; 64 * 1024];
        // SAFETY: the buffer outlives the call.
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut rest = &buffer[..got as usize];
        let mut all = Vec::new();
        while let Some(header) = rest.get(..HEADER) {
            let number = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let length = number(0) as usize;
            let Some(body) = rest.get(HEADER..length) else { break };
            all.push((u16::from_ne_bytes([header[4], header[5]]), number(8), body.to_vec()));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(all)
    }

    /// One message, and its acknowledgement.
    pub fn ask(&mut self, message: Message) -> io::Result<()> {
        self.sequence += 1;
        self.send(&message.finish(ACK, self.sequence))?;
        self.acknowledged(self.sequence)
    }

    /// Messages that hold all together or not at all; the first and the last frame the batch and are not acknowledged.
    pub fn batch(&mut self, begin: Message, messages: Vec<Message>, end: Message) -> io::Result<()> {
        self.sequence += 1;
        let mut bytes = begin.finish(0, self.sequence);
        for message in messages {
            self.sequence += 1;
            bytes.extend(message.finish(ACK, self.sequence));
        }
        let last = self.sequence;
        self.sequence += 1;
        bytes.extend(end.finish(0, self.sequence));
        self.send(&bytes)?;
        self.acknowledged(last)
    }

    /// Waits for the acknowledgement of `last`; an earlier refusal is the answer.
    fn acknowledged(&self, last: u32) -> io::Result<()> {
        loop {
            for (kind, sequence, body) in self.receive()? {
                if kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                match refusal(&body) {
                    Some(error) => return Err(error),
                    None if sequence == last => return Ok(()),
                    None => {}
                }
            }
        }
    }

    /// Everything that a question for a list brings.
    pub fn list(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        self.send(&message.finish(libc::NLM_F_DUMP as u16, self.sequence))?;
        let mut all = Vec::new();
        loop {
            for (kind, _, body) in self.receive()? {
                match libc::c_int::from(kind) {
                    libc::NLMSG_DONE => return Ok(all),
                    libc::NLMSG_ERROR => match refusal(&body) {
                        Some(error) => return Err(error),
                        None => return Ok(all),
                    },
                    _ => all.push(body),
                }
            }
        }
    }
}

/// The error that an error message stands for; none is an acknowledgement.
fn refusal(body: &[u8]) -> Option<io::Error> {
    let number = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (number != 0).then(|| io::Error::from_raw_os_error(-number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let message =
            Message::new(1, 0).fixed(&[7; 4]).text(1, "lo").nest(2, |m| m.big(3, 5).bytes(4, &[1, 2, 3])).own(5, 9);
        let bytes = message.finish(0, 1);
        assert_eq!(bytes.len() as u32, u32::from_ne_bytes(bytes[..4].try_into().unwrap()));
        let body = &bytes[HEADER + 4..];
        assert_eq!(attribute(body, 1).unwrap(), b"lo\0");
        let inner = attribute(body, 2).unwrap();
        assert_eq!(attribute(inner, 3).unwrap(), 5_u32.to_be_bytes());
        assert_eq!(attribute(inner, 4).unwrap(), [1, 2, 3], "padding is no part of a value");
        assert_eq!(attribute(body, 5).unwrap(), 9_u32.to_ne_bytes());
        assert_eq!(attributes(body).count(), 3);
    }

    #[test]
    fn a_cut_attribute_is_no_attribute() {
        assert_eq!(attributes(&[8, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
    }
}
