//! One contract for all drivers, and what only the process driver can be asked.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use drivers::{
    At, Driver, Limits, Listen, Placement,
    fake::Fake,
    probe::{Machine, Mounts},
    proc,
    process::Process,
};

fn placement(mark: &str, script: &str, folder: &Path) -> Placement {
    Placement {
        mark: mark.into(),
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        directory: folder.into(),
        user: None,
        listeners: Vec::new(),
        secrets: Vec::new(),
        network: None,
        hosts_file: None,
        limits: Limits::default(),
        volume: None,
        shares: Vec::new(),
        log: Some(folder.join("log")),
    }
}

fn until(what: &str, mut look: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !look() {
        assert!(Instant::now() < limit, "not within 10 s: {what}");
        std::thread::yield_now();
    }
}

/// A mark that no other test run has.
fn mark(name: &str) -> String {
    format!("{:08x}/test/{name}/service.web", std::process::id())
}

fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// What every driver keeps.
fn contract(driver: &dyn Driver, name: &str) {
    let dir = scratch();
    let mark = mark(name);
    assert!(driver.processes(&mark, None).is_empty());
    let placed = driver.place(placement(&mark, "sleep 1000 & wait", dir.path())).unwrap();
    assert!(driver.runs(placed.id));
    let other = drivers::ProcessId { start_ticks: placed.id.start_ticks + 1, ..placed.id };
    assert!(!driver.runs(other), "a process is known by its start, too");
    assert!(driver.processes(&mark, None).contains(&placed.id.pid));
    driver.kill(&mark, None).unwrap();
    assert!(!driver.runs(placed.id));
    assert!(driver.processes(&mark, None).is_empty());
    driver.kill(&mark, None).unwrap();
}

#[test]
fn the_fake_driver_keeps_the_contract() {
    contract(&Fake::default(), "fake");
}

#[test]
fn the_process_driver_keeps_the_contract() {
    contract(&Process::new(Machine::probe()), "process");
}

#[test]
fn what_strays_from_its_workload_is_found_and_killed() {
    let driver = Process::new(Machine::probe());
    let (dir, mark) = (scratch(), mark("stray"));
    // A session of its own, its parent gone.
    let placed = driver.place(placement(&mark, "setsid sleep 1001 & exit 0", dir.path())).unwrap();
    until("the first process ends", || !driver.runs(placed.id));
    assert!(!driver.processes(&mark, None).is_empty());
    driver.kill(&mark, None).unwrap();
    assert!(driver.processes(&mark, None).is_empty());
}

#[test]
fn secrets_come_by_the_pipe_and_stand_nowhere_else() {
    let driver = Process::new(Machine::probe());
    let (dir, mark) = (scratch(), mark("secrets"));
    let script = "read -r line <&$STAMP_SECRETS_FD || true; echo \"$line\" > got; sleep 1002";
    let mut wanted = placement(&mark, script, dir.path());
    wanted.secrets = b"a-very-secret-text\n".to_vec();
    let placed = driver.place(wanted).unwrap();
    until("it has read the secret", || {
        std::fs::read_to_string(dir.path().join("got")).is_ok_and(|t| t == "a-very-secret-text\n")
    });
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{}/{file}", placed.id.pid)).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("a-very-secret"), "{file}");
    }
    driver.kill(&mark, None).unwrap();
}

#[test]
fn listeners_are_inherited_open_under_their_names() {
    let driver = Process::new(Machine::probe());
    let (dir, mark) = (scratch(), mark("listeners"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at: SocketAddr = listener.local_addr().unwrap();
    let script = "echo $LISTEN_FDS $LISTEN_FDNAMES > names; sleep 1003";
    let mut wanted = placement(&mark, script, dir.path());
    wanted.listeners = vec![
        Listen { name: "https".into(), at: At::Open(listener.into()) },
        Listen { name: "control".into(), at: At::Unix(dir.path().join("c.sock")) },
    ];
    driver.place(wanted).unwrap();
    until("it has seen the names", || {
        std::fs::read_to_string(dir.path().join("names")).is_ok_and(|t| t == "2 https:control\n")
    });
    // Nobody accepts yet; the connection waits in the backlog of the inherited socket.
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"x").unwrap();
    let mode = std::fs::metadata(dir.path().join("c.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    driver.kill(&mark, None).unwrap();
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).is_err() || rest.is_empty(), "the listener went with its holders");
}

#[test]
fn a_workload_runs_as_its_own_user_without_a_way_back() {
    let machine = Machine::probe();
    if let Err(why) = &machine.users {
        println!("SKIP users: {why}");
        return;
    }
    let driver = Process::new(machine);
    let (dir, mark) = (scratch(), mark("user"));
    let mut wanted = placement(
        &mark,
        "grep -E '^(Uid|Gid|Groups|NoNewPrivs|CapEff)' /proc/self/status > who; sleep 1004",
        dir.path(),
    );
    wanted.user = Some(45_454);
    driver.place(wanted).unwrap();
    until("it has said who it is", || {
        std::fs::read_to_string(dir.path().join("who")).is_ok_and(|t| t.contains("NoNewPrivs"))
    });
    let who = std::fs::read_to_string(dir.path().join("who")).unwrap();
    assert!(who.contains("Uid:\t45454\t45454\t45454"), "{who}");
    assert!(who.contains("CapEff:\t0000000000000000"), "{who}");
    assert!(who.contains("NoNewPrivs:\t1"), "{who}");
    assert!(who.lines().any(|l| l.trim_end() == "Groups:"), "{who}");
    driver.kill(&mark, Some(45_454)).unwrap();
}

#[test]
fn a_workload_sees_names_of_its_own_and_the_machine_does_not() {
    let machine = Machine::probe();
    if let Mounts::None(why) = &machine.mounts {
        println!("SKIP mounts: {why}");
        return;
    }
    let before = std::fs::read_to_string("/etc/hosts").unwrap();
    let driver = Process::new(machine);
    let (dir, mark) = (scratch(), mark("names"));
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "127.9.9.9 main.vault.dev.shop.internal\n").unwrap();
    let mut wanted = placement(&mark, "cat /etc/hosts > seen; sleep 1005", dir.path());
    wanted.hosts_file = Some(hosts);
    assert_eq!(driver.place(wanted).unwrap().missing, Vec::<String>::new());
    until("it has read its names", || {
        std::fs::read_to_string(dir.path().join("seen")).is_ok_and(|t| t == "127.9.9.9 main.vault.dev.shop.internal\n")
    });
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap(), before);
    driver.kill(&mark, None).unwrap();
}

#[test]
fn a_share_is_seen_at_its_path_and_written_only_where_it_is_declared() {
    let machine = Machine::probe();
    let (Ok(()), Mounts::Root) = (&machine.users, &machine.mounts) else {
        println!("SKIP mounts: {:?}, {:?}", machine.users, machine.mounts);
        return;
    };
    let driver = Process::new(machine);
    let (dir, mark) = (scratch(), mark("shares"));
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let share = |name: &str, write: bool| {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(45_460), Some(45_461)).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o2770)).unwrap();
        drivers::share::Share { folder, at: empty.join("deep").join(name), write, group: Some(45_461) }
    };
    let shares = vec![share("taken", true), share("given", false)];
    std::fs::write(dir.path().join("given/word"), "given").unwrap();
    // By its path and where it lies.
    let script = "cd empty/deep; echo taken >taken/word; cat given/word >taken/read; \
        for at in given ../../given; do echo x >$at/word && echo written; done >taken/wrong; echo over >taken/over; sleep 1011";
    let mut wanted = placement(&mark, script, dir.path());
    wanted.user = Some(45_454);
    wanted.shares = shares;
    assert_eq!(driver.place(wanted).unwrap().missing, Vec::<String>::new());
    until("it has come to its end", || dir.path().join("taken/over").exists());
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!((read("taken/word").as_str(), read("taken/read").as_str()), ("taken\n", "given"));
    assert_eq!((read("taken/wrong").as_str(), read("given/word").as_str()), ("", "given"));
    let made = std::fs::metadata(dir.path().join("taken/word")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&made), 45_461, "it is the group's");
    assert_eq!(made.permissions().mode() & 0o777, 0o664, "whose members may change it");
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "the machine sees nothing of it");
    driver.kill(&mark, Some(45_454)).unwrap();
}

#[test]
fn a_workload_cannot_have_more_processes_than_declared() {
    let machine = Machine::probe();
    if !machine.cgroups.limits() {
        println!("SKIP cgroup: {}", machine.cgroups.refused.unwrap_or_default());
        return;
    }
    let driver = Process::new(machine);
    let (dir, mark) = (scratch(), mark("pids"));
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1006 & done; echo done > forked; wait";
    let mut wanted = placement(&mark, script, dir.path());
    wanted.limits = Limits { pids: Some(6), ..Limits::default() };
    let placed = driver.place(wanted).unwrap();
    until("a fork is refused", || {
        std::fs::read_to_string(dir.path().join("log")).is_ok_and(|t| t.contains("fork")) || !driver.runs(placed.id)
    });
    assert!(driver.processes(&mark, None).len() <= 6);
    driver.kill(&mark, None).unwrap();
    assert!(!Path::new("/sys/fs/cgroup/pids/").join(format!("stampwright-{:08x}", std::process::id())).exists());
}

#[test]
fn a_taken_address_names_its_owner() {
    let driver = Process::new(Machine::probe());
    let (dir, mark) = (scratch(), mark("taken"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut wanted = placement(&mark, "sleep 1", dir.path());
    wanted.listeners = vec![Listen { name: "https".into(), at: At::Tcp(listener.local_addr().unwrap()) }];
    let error = driver.place(wanted).err().unwrap().to_string();
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    assert!(proc::identify(std::process::id()).is_some());
    driver.kill(&mark, None).unwrap();
}
