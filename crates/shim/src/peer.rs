//! Who holds the other end of a TCP connection on this machine.

use std::{
    collections::HashSet,
    fs,
    net::{SocketAddr, SocketAddrV4},
    path::Path,
};

/// Whether the process at `remote` (a client of our listener `local`) is the workload: same user, and, where users are
/// shared, a descendant of this shim.
pub fn is_workload(local: SocketAddr, remote: SocketAddr, shared_user: bool) -> bool {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else { return false };
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else { return false };
    let Some((user, inode)) = find(&table, remote, local) else { return false };
    if user != rustix::process::geteuid().as_raw() {
        return false;
    }
    !shared_user || holds(&crate::proc::family(), &inode)
}

/// The user and socket inode of the connection from `from` to `to`, seen from its client.
fn find(table: &str, from: SocketAddrV4, to: SocketAddrV4) -> Option<(u32, String)> {
    let (from, to) = (hex(from), hex(to));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&from.as_str()) && fields.get(2) == Some(&to.as_str()))
            .then(|| Some((fields.get(7)?.parse().ok()?, (*fields.get(9)?).to_owned())))?
    })
}

/// An address as `/proc/net/tcp` writes it: the address in the machine's byte order, the port as a number.
fn hex(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

fn holds(pids: &HashSet<u32>, inode: &str) -> bool {
    let socket = format!("socket:[{inode}]");
    pids.iter().any(|pid| {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|e| fs::read_link(e.path()).is_ok_and(|l| l == Path::new(&socket)))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_ours_is_known_and_one_of_a_stranger_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let (_server, remote) = listener.accept().unwrap();
        assert!(is_workload(local, remote, false));
        assert!(is_workload(local, remote, true), "this process holds the client's socket");
        drop(client);
        // Process 1 is an ancestor, not a descendant of ours, and holds none of our sockets.
        assert!(!holds(&HashSet::from([1]), "0"));
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let SocketAddr::V4(unknown) = "127.0.0.9:1".parse().unwrap() else { unreachable!() };
        assert!(find(&table, unknown, unknown).is_none());
    }
}
