//! A closed network on this machine: what is declared passes, all else is refused, and nothing is left of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use drivers::network::{Bad, Flow, Network, Seat, namespace, probe};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 100);
const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 60);
const DIRECTORY: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 20);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 99, 7, 20);

struct Bed {
    network: Network,
    folder: tempfile::TempDir,
}

impl Bed {
    /// None, and SKIP, where the machine has no namespaces for us.
    fn new() -> Option<Self> {
        if let Err(why) = probe() {
            let required = std::env::var("STAMP_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|r| r.trim() == "netns"), "STAMP_REQUIRE asks for netns: {why}");
            eprintln!("SKIP netns: {why}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let bed = Self { network: Network::at(folder.path().join("net")), folder };
        bed.network.ensure(&seats(), &flows()).unwrap();
        Some(bed)
    }

    fn listen(&self, workload: &str, at: (Ipv4Addr, u16)) -> TcpListener {
        namespace::listen(&self.network.namespace(workload), at.into()).unwrap()
    }

    fn try_from(&self, workload: &str, to: (Ipv4Addr, u16)) -> Result<TcpStream, ErrorKind> {
        let to = SocketAddr::from(to);
        let limit = Duration::from_millis(700);
        let act = move || TcpStream::connect_timeout(&to, limit);
        namespace::inside(&self.network.namespace(workload), act).map_err(|e| e.kind())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.network.remove().unwrap();
        assert!(!self.folder.path().join("net").exists());
    }
}

fn seat(workload: &str, host: u8, ip: Ipv4Addr, public: Option<Ipv4Addr>) -> Seat {
    Seat { workload: workload.into(), host, ip, public }
}

fn seats() -> Vec<Seat> {
    vec![
        seat("service.web", 100, WEB, None),
        seat("postgres.main", 60, DATABASE, None),
        seat("identity.main", 20, DIRECTORY, Some(PUBLIC)),
    ]
}

fn flows() -> Vec<Flow> {
    vec![Flow { from: WEB, to: DATABASE, port: 5432 }, Flow { from: WEB, to: PUBLIC, port: 443 }]
}

/// What is said on one end is heard on the other.
fn talk(client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_millis(500)))?;
    server.set_read_timeout(Some(Duration::from_millis(500)))?;
    client.write_all(b"x")?;
    server.read_exact(&mut [0])
}

#[test]
fn what_is_declared_passes_and_all_else_is_refused_at_once() {
    let Some(bed) = Bed::new() else { return };
    let database = bed.listen("postgres.main", (DATABASE, 5432));
    let _other = bed.listen("postgres.main", (DATABASE, 8000));
    let _web = bed.listen("service.web", (WEB, 8080));

    bed.try_from("service.web", (DATABASE, 5432)).unwrap();
    let (_, peer) = database.accept().unwrap();
    assert_eq!(peer.ip(), WEB, "it comes from its own address");

    let begun = Instant::now();
    assert_eq!(bed.try_from("service.web", (DATABASE, 8000)).unwrap_err(), ErrorKind::ConnectionRefused);
    assert_eq!(bed.try_from("identity.main", (DATABASE, 5432)).unwrap_err(), ErrorKind::ConnectionRefused);
    assert_eq!(bed.try_from("postgres.main", (WEB, 8080)).unwrap_err(), ErrorKind::ConnectionRefused);
    assert!(begun.elapsed() < Duration::from_millis(500), "refused at once, not after {:?}", begun.elapsed());
    // The router itself; and this machine, which has no way there.
    assert!(bed.try_from("router", (DATABASE, 5432)).is_err());
    let ways = std::fs::read_to_string("/proc/net/fib_trie").unwrap();
    assert!(!ways.contains(&DATABASE.to_string()) && !ways.contains("169.254.1.1"), "{ways}");

    let traffic = bed.network.traffic().unwrap();
    let counted = |list: &[(Flow, u64)], flow: Flow| list.iter().find(|(f, _)| *f == flow).map(|(_, n)| *n);
    assert_eq!(counted(&traffic.passed, flows()[0]), Some(1));
    assert_eq!(counted(&traffic.passed, flows()[1]), Some(0));
    let tried = Flow { from: DIRECTORY, to: DATABASE, port: 5432 };
    assert_eq!(counted(&traffic.refused, tried), Some(1), "{traffic:?}");
    assert_eq!(traffic.refused.len(), 3, "{traffic:?}");
}

#[test]
fn an_address_that_people_use_is_the_same_inside() {
    let Some(bed) = Bed::new() else { return };
    let inside = bed.listen("identity.main", (PUBLIC, 443));
    let outside = TcpListener::bind((PUBLIC, 0)).unwrap();
    let mut client = bed.try_from("service.web", (PUBLIC, 443)).unwrap();
    let (mut server, peer) = inside.accept().unwrap();
    assert_eq!(peer.ip(), WEB);
    talk(&mut client, &mut server).unwrap();
    assert_eq!(bed.try_from("postgres.main", (PUBLIC, 443)).unwrap_err(), ErrorKind::ConnectionRefused);
    // Its own loopback, and the machine's.
    bed.try_from("identity.main", (PUBLIC, 443)).unwrap();
    TcpStream::connect(outside.local_addr().unwrap()).unwrap();
}

#[test]
fn a_cut_link_carries_nothing_and_a_healed_one_goes_on() {
    let Some(bed) = Bed::new() else { return };
    let database = bed.listen("postgres.main", (DATABASE, 5432));
    let mut client = bed.try_from("service.web", (DATABASE, 5432)).unwrap();
    let (mut server, _) = database.accept().unwrap();
    talk(&mut client, &mut server).unwrap();

    for _ in 0..2 {
        bed.network.spoil(vec![(WEB, DATABASE)], Vec::new()).unwrap();
    }
    assert_eq!(talk(&mut client, &mut server).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(bed.try_from("service.web", (DATABASE, 5432)).unwrap_err(), ErrorKind::TimedOut);
    assert_eq!(bed.network.traffic().unwrap().cuts.len(), 2);
    // Whoever brings the stamp up again does not heal it.
    bed.network.ensure(&seats(), &flows()).unwrap();
    assert_eq!(bed.try_from("service.web", (DATABASE, 5432)).unwrap_err(), ErrorKind::TimedOut);

    bed.network.spoil(Vec::new(), Vec::new()).unwrap();
    bed.try_from("service.web", (DATABASE, 5432)).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    server.read_exact(&mut [0]).unwrap();
}

/// Bytes that come in so many seconds through a connection that is written to as fast as it takes them.
fn comes_through(bed: &Bed, seconds: u64) -> usize {
    let database = bed.listen("postgres.main", (DATABASE, 5432));
    let mut client = bed.try_from("service.web", (DATABASE, 5432)).unwrap();
    let (mut server, _) = database.accept().unwrap();
    let until = Instant::now() + Duration::from_secs(seconds);
    client.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let writing = std::thread::spawn(move || {
        while Instant::now() < until {
            // What the link holds up is tried again.
            let _ = client.write(&[7; 64 << 10]);
        }
    });
    let (mut come, mut buffer) = (0, vec![0; 64 << 10]);
    while Instant::now() < until {
        come += server.read(&mut buffer).unwrap_or(0);
    }
    writing.join().unwrap();
    come
}

#[test]
fn a_slow_link_lets_so_much_pass_in_a_second_and_a_healed_one_more() {
    let Some(bed) = Bed::new() else { return };
    bed.network.spoil(Vec::new(), vec![(WEB, DATABASE, Bad::Slow(256))]).unwrap();
    let slow = comes_through(&bed, 3);
    bed.network.spoil(Vec::new(), Vec::new()).unwrap();
    let whole = comes_through(&bed, 1);
    // What was saved up before, a second's worth, comes on top.
    assert!((64 << 10..=(3 * 256 + 256) << 10).contains(&slow), "{slow} bytes in three seconds of 256 KiB");
    assert!(whole > 20 * slow, "{whole} bytes in a second of a whole link, {slow} in three of a slow one");
}

#[test]
fn a_lossy_link_loses_all_of_a_hundred_and_none_of_it_later() {
    let Some(bed) = Bed::new() else { return };
    let _database = bed.listen("postgres.main", (DATABASE, 5432));
    bed.network.spoil(Vec::new(), vec![(WEB, DATABASE, Bad::Loses(100))]).unwrap();
    assert_eq!(bed.try_from("service.web", (DATABASE, 5432)).unwrap_err(), ErrorKind::TimedOut);
    bed.network.spoil(Vec::new(), Vec::new()).unwrap();
    bed.try_from("service.web", (DATABASE, 5432)).unwrap();
}

#[test]
fn it_is_made_twice_changed_and_mended() {
    let Some(bed) = Bed::new() else { return };
    let number = |workload: &str| namespace::number(&bed.network.namespace(workload)).unwrap();
    let before = number("postgres.main");
    let database = bed.listen("postgres.main", (DATABASE, 5432));
    let mut client = bed.try_from("service.web", (DATABASE, 5432)).unwrap();
    let (mut server, _) = database.accept().unwrap();
    bed.network.ensure(&seats(), &flows()).unwrap();
    assert_eq!(number("postgres.main"), before);
    talk(&mut client, &mut server).unwrap();
    let traffic = bed.network.traffic().unwrap();
    assert_eq!(traffic.passed.iter().map(|(_, n)| n).sum::<u64>(), 1, "counts stay");

    // A flow is taken back, an address moves.
    let moved = Ipv4Addr::new(10, 0, 1, 101);
    let mut seats = seats();
    seats[0].ip = moved;
    bed.network.ensure(&seats, &[Flow { from: moved, to: DATABASE, port: 5432 }]).unwrap();
    bed.try_from("service.web", (DATABASE, 5432)).unwrap();
    assert_eq!(database.accept().unwrap().1.ip(), moved);
    assert_eq!(bed.try_from("service.web", (PUBLIC, 443)).unwrap_err(), ErrorKind::ConnectionRefused);

    // The router is lost, as if somebody had removed its file: it is made anew around those that are there.
    namespace::forget(&bed.network.namespace("router")).unwrap();
    bed.network.ensure(&seats, &[Flow { from: moved, to: DATABASE, port: 5432 }]).unwrap();
    assert_eq!(number("postgres.main"), before);
    bed.try_from("service.web", (DATABASE, 5432)).unwrap();
    // A place is given up and taken again.
    bed.network.leave("service.web").unwrap();
    bed.network.ensure(&seats, &[Flow { from: moved, to: DATABASE, port: 5432 }]).unwrap();
    bed.try_from("service.web", (DATABASE, 5432)).unwrap();
}

#[test]
fn two_networks_have_the_same_addresses_and_no_way_between() {
    let (Some(one), Some(two)) = (Bed::new(), Bed::new()) else { return };
    let _first = one.listen("postgres.main", (DATABASE, 5432));
    one.try_from("service.web", (DATABASE, 5432)).unwrap();
    // Nobody listens there in the other one.
    assert_eq!(two.try_from("service.web", (DATABASE, 5432)).unwrap_err(), ErrorKind::ConnectionRefused);
    let second = two.listen("postgres.main", (DATABASE, 5432));
    two.try_from("service.web", (DATABASE, 5432)).unwrap();
    assert_eq!(second.accept().unwrap().1.ip(), WEB);
}

#[test]
fn a_network_is_made_in_a_moment() {
    let Some(bed) = Bed::new() else { return };
    bed.network.remove().unwrap();
    let many: Vec<Seat> =
        (0..10).map(|n| seat(&format!("service.s{n}"), 100 + n, Ipv4Addr::new(10, 0, 1, 100 + n), None)).collect();
    let begun = Instant::now();
    bed.network.ensure(&many, &[]).unwrap();
    let took = begun.elapsed();
    let begun = Instant::now();
    bed.network.ensure(&many, &[]).unwrap();
    eprintln!("11 namespaces in {took:?}, again in {:?}", begun.elapsed());
    // A tenth of it here; a machine under load has room.
    assert!(took < Duration::from_secs(3), "{took:?}");
}
