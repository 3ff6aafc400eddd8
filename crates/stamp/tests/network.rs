//! The closed network of a whole stamp: who reaches whom, links that are cut, and nothing left at the end.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use api::{
    client::Client,
    supervisor::{NetworkStatus, Status},
};
use drivers::network::{kept, namespace};
use testkit::{As, Stage, wait_until};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systems/time-tracker");
const NAME: &str = "time-tracker";

/// A stage where networks can be closed; None, and SKIP, elsewhere.
fn stage() -> Option<Stage> {
    let probe = drivers::network::probe();
    let why = probe.as_ref().err().cloned().unwrap_or_default();
    testkit::require("netns", probe.is_ok(), &why).then(|| Stage::new(STAMP, As::Caller)).flatten()
}

/// The Time Tracker with a second service that needs nothing.
fn with_a_stranger(stage: &Stage) -> PathBuf {
    let folder = stage.scratch().join("system");
    std::fs::create_dir(&folder).unwrap();
    let text = std::fs::read_to_string(Path::new(SYSTEM).join("system.toml")).unwrap();
    let stranger = "\n[service.stranger]\nrun = [\"/bin/sleep\", \"3600\"]\n";
    std::fs::write(folder.join("system.toml"), format!("{text}{stranger}")).unwrap();
    folder
}

fn network(stage: &Stage, stamp: &str) -> NetworkStatus {
    serde_json::from_value(stage.stamp(&["network", NAME, "--stamp", stamp, "--json"]).ok().json()).unwrap()
}

/// Whether a service gets a connection, and what was said if not.
fn reaches(stage: &Stage, stamp: &str, service: &str, to: (IpAddr, u16)) -> Result<(), String> {
    let script = format!("exec 3<>/dev/tcp/{}/{}", to.0, to.1);
    let said = stage.stamp(&["exec", NAME, service, "--stamp", stamp, "--", "/bin/bash", "-c", &script]);
    if said.code == Some(0) { Ok(()) } else { Err(said.stderr) }
}

fn place(status: &Status, name: &str) -> (IpAddr, PathBuf) {
    let resource = status.resources.iter().find(|r| r.name == name).unwrap();
    let place = resource.place.clone().unwrap();
    (place.address.into(), place.namespace)
}

fn health(client: &Client) -> Result<u16, String> {
    service::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.send("GET", "/health", None)).map(|a| a.status.as_u16()).map_err(|e| format!("{e:?}"))
}

/// Files that keep namespaces of this stage, mounted or not.
fn left(stage: &Stage) -> Vec<PathBuf> {
    let sockets = supervisor::Home::at(stage.home()).sockets().to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mounted =
        mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|at| at.starts_with(sockets.to_str().unwrap()));
    let folders = std::fs::read_dir(&sockets).into_iter().flatten().flatten().map(|e| e.path().join("net"));
    mounted.map(PathBuf::from).chain(folders.flat_map(|f| kept(&f))).collect()
}

#[test]
fn only_who_needs_the_database_reaches_it() {
    let Some(stage) = stage() else { return };
    let folder = with_a_stranger(&stage);
    stage.stamp(&["up", folder.to_str().unwrap()]).ok();
    let status = stage.ready(NAME, "dev");
    let (web, _) = place(&status, "service.web");
    let (database, namespace) = place(&status, "postgres.main");
    assert!(web.to_string().starts_with("10.0.1."), "{web}");
    assert!(database.to_string().starts_with("10.0.2."), "{database}");

    reaches(&stage, "dev", "web", (database, 5432)).unwrap();
    let begun = Instant::now();
    let refused = reaches(&stage, "dev", "stranger", (database, 5432)).unwrap_err();
    assert!(refused.contains("Connection refused"), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(3), "it fails at once");
    // What web needs, it reaches at the ports that are declared, and at no other.
    assert!(reaches(&stage, "dev", "web", (database, 22)).is_err());
    let (audit, _) = place(&status, "audit.main");
    assert!(reaches(&stage, "dev", "web", (audit, 443)).is_err());

    // From this machine: nobody listens at the stamp's loopback addresses but the entry and where people sign in.
    let edge: SocketAddr = status.resources.iter().find(|r| r.name == "edge").unwrap().address.parse().unwrap();
    let IpAddr::V4(block) = edge.ip() else { panic!("{edge}") };
    let [a, b, c, _] = block.octets();
    let open = |host: u8, port: u16| TcpStream::connect((IpAddr::from([a, b, c, host]), port)).is_ok();
    assert!(open(10, edge.port()) && open(20, edge.port()));
    for (host, port) in [(60, 5432), (100, 8080), (30, edge.port()), (40, 4318), (50, edge.port())] {
        assert!(!open(host, port), "{host}:{port} answers on the machine's own network");
    }
    // And this machine has no way in: neither its addresses nor its routes lie in the stamp's space.
    let ways = std::fs::read_to_string("/proc/net/fib_trie").unwrap();
    assert!(!ways.contains(&database.to_string()) && !ways.contains(&web.to_string()), "{ways}");
    assert_ne!(namespace::number(&namespace), Some(own_network()));

    let seen = network(&stage, "dev");
    let tried = seen.refused.iter().find(|f| f.from == "service.stranger" && f.to == "postgres.main").unwrap();
    assert_eq!((tried.port, tried.count), (5432, 1), "{:?}", seen.refused);
    let passed = seen.flows.iter().find(|f| f.from == "service.web" && f.to == "postgres.main").unwrap();
    assert!(passed.count > 0 && passed.why == "needs", "{passed:?}");
    assert!(!seen.flows.iter().any(|f| f.from == "service.stranger" && f.to == "postgres.main"));

    // A service that is taken back takes its place with it; the rest stays.
    assert!(left(&stage).iter().any(|p| p.ends_with("service.stranger")));
    stage.stamp(&["up", SYSTEM]).ok();
    assert!(!left(&stage).iter().any(|p| p.ends_with("service.stranger")), "{:?}", left(&stage));
    reaches(&stage, "dev", "web", (database, 5432)).unwrap();
    stage.stamp(&["down", NAME]).ok();
    assert_eq!(left(&stage), Vec::<PathBuf>::new(), "nothing is kept after down");
}

fn own_network() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self/ns/net").unwrap().ino()
}

#[test]
fn a_cut_link_is_felt_outlives_the_supervisor_and_is_healed() {
    let Some(stage) = stage() else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    let status = stage.ready(NAME, "dev");
    let edge = stage.client(&status, &status.urls["edge"]).timeout(Duration::from_secs(5));
    assert_eq!(health(&edge), Ok(200));
    stage.stamp(&["network", NAME, "cut", "service.web", "postgres.main"]).ok();
    let sick = wait_until("the cut is felt", Duration::from_secs(30), || match health(&edge) {
        Ok(200) => Err("it is healthy".into()),
        other => Ok(other),
    });
    assert!(sick != Ok(200), "{sick:?}");

    let number = namespace::number(&place(&status, "postgres.main").1);
    let supervisor = stage.supervisor().unwrap();
    let pid = rustix::process::Pid::from_raw(supervisor as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let seen = network(&stage, "dev");
    assert_ne!(stage.supervisor(), Some(supervisor));
    assert_eq!(seen.links.len(), 1, "{:?}", seen.links);
    assert!(health(&edge) != Ok(200), "another supervisor does not heal it");

    stage.stamp(&["network", NAME, "heal", "postgres.main", "service.web"]).ok();
    wait_until("it is healthy again", Duration::from_secs(30), || match health(&edge) {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let after = stage.ready(NAME, "dev");
    assert_eq!(namespace::number(&place(&after, "postgres.main").1), number, "the network is the same");
    let wrong = stage.stamp(&["network", NAME, "cut", "service.web", "service.nobody"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("postgres.main"), "{wrong:?}");
}

#[test]
fn two_stamps_have_the_same_addresses_and_nothing_in_common() {
    let Some(stage) = stage() else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    stage.stamp(&["up", SYSTEM, "--stamp", "staging"]).ok();
    let (dev, staging) = (stage.ready(NAME, "dev"), stage.ready(NAME, "staging"));
    let (here, there) = (place(&dev, "postgres.main"), place(&staging, "postgres.main"));
    assert_eq!(here.0, there.0, "both are at the documents' address");
    assert_ne!(namespace::number(&here.1), namespace::number(&there.1));
    let opened = |stamp: &str| {
        let flows = network(&stage, stamp).flows;
        flows.iter().find(|f| f.from == "service.web" && f.to == "postgres.main").unwrap().count
    };
    let before = opened("dev");
    reaches(&stage, "staging", "web", (there.0, 5432)).unwrap();
    assert_eq!(opened("dev"), before, "what staging opens does not come by dev's router");
    stage.stamp(&["destroy", NAME, "--yes"]).ok();
    reaches(&stage, "staging", "web", (there.0, 5432)).unwrap();
    stage.stamp(&["destroy", NAME, "--stamp", "staging", "--yes"]).ok();
    assert_eq!(left(&stage), Vec::<PathBuf>::new());
}

/// A system that had no network of its own is given one: what its vault holds leads to where everything is now.
#[test]
fn a_network_that_is_closed_later_takes_the_data_along() {
    let Some(stage) = stage() else { return };
    let folder = stage.scratch().join("open");
    std::fs::create_dir(&folder).unwrap();
    let text = std::fs::read_to_string(Path::new(SYSTEM).join("system.toml")).unwrap();
    let (mut open, mut in_network) = (String::new(), false);
    for line in text.lines() {
        if line.starts_with('[') {
            in_network = line.starts_with("[network");
        }
        if !in_network && !line.starts_with("subnet ") {
            open.push_str(line);
            open.push('\n');
        }
    }
    let manifest = folder.join("system.toml");
    std::fs::write(&manifest, open).unwrap();
    stage.stamp(&["up", folder.to_str().unwrap()]).ok();
    let before = stage.ready(NAME, "dev");
    assert!(before.resources.iter().all(|r| r.place.is_none()), "{before:?}");
    std::fs::write(&manifest, text).unwrap();
    stage.stamp(&["up", folder.to_str().unwrap()]).ok();
    let after = stage.ready(NAME, "dev");
    let (database, _) = place(&after, "postgres.main");
    reaches(&stage, "dev", "web", (database, 5432)).unwrap();
    let client = stage.client(&after, &after.urls["edge"]);
    wait_until("it serves with its database", Duration::from_secs(20), || match health(&client)? {
        200 => Ok(()),
        status => Err(format!("/health answers {status}")),
    });
}
