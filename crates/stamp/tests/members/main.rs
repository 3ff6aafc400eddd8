//! A database with a standby in another zone, in a whole stamp: its primary is killed, paused and asked to step down while an
//! unchanged client writes. Every write that was acknowledged is counted.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod kills;

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use api::supervisor::{MemberStatus, Status};
use rustix::process::{Pid, Signal};
use testkit::{As, Stage, require, wait_until};
use tokio_postgres_rustls::MakeRustlsConnect;

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const MANIFEST: &str = r#"
stamp = 1
system = "pair"
[stamps.dev]

[service.web]
run   = ["sleep", "100000"]
needs = ["postgres.main", "vault.main"]
[service.web.env]
DB = "@Microsoft.KeyVault(VaultName=main;SecretName=Db)"

[postgres.main]
version           = { want = 16, accept = [15, 17, 18] }
high_availability = "zone-redundant"
standby           = { lost_after = "3s" }
access            = [{ to = "service.web", right = "owner" }]

[vault.main]
access = [{ to = "service.web", role = "Key Vault Secrets User" }]
[vault.main.secrets]
Db = { from = "postgres.main", what = "connection-string", for = "service.web", format = "url" }
"#;

/// A stage with the system up and its standby synchronous; None where the engine lacks the tools.
fn pair(who: As) -> Option<Stage> {
    let stage = Stage::new(STAMP, who)?;
    let engines = testkit::engines()?;
    let has_tools = api::engine::choose(&engines, 16, &[15, 17, 18])
        .is_some_and(|e| api::engine::tool(&e.bin, "pg_basebackup").is_some());
    if !require("tools", has_tools, "the engine has no pg_basebackup; `engines/bring postgresql` adds it") {
        return None;
    }
    let folder = folder(&stage);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("system.toml"), MANIFEST).unwrap();
    stage.stamp(&["up", folder.to_str().unwrap(), "--json"]).ok();
    synchronous(&stage);
    Some(stage)
}

fn folder(stage: &Stage) -> PathBuf {
    stage.scratch().join("pair")
}

fn member(status: &Status, name: &str) -> MemberStatus {
    status.resources.iter().find(|r| r.name == name).unwrap().member.clone().unwrap()
}

/// Waits until one member leads and the other has every acknowledged write; who leads.
fn synchronous(stage: &Stage) -> String {
    wait_until("a synchronous standby", Duration::from_secs(90), || {
        let status = stage.status("pair", "dev")?;
        let members: Vec<(String, MemberStatus)> =
            status.resources.iter().filter_map(|r| Some((r.name.clone(), r.member.clone()?))).collect();
        let primary = members.iter().find(|(_, m)| m.part == "primary");
        let follows = members.iter().any(|(_, m)| m.part == "standby" && m.synchronous);
        match primary {
            Some((name, _)) if follows => Ok(name.clone()),
            _ => Err(format!("{members:?}")),
        }
    })
}

/// Where a client finds the database: the address that the stamp's name has now, as workloads see it.
struct Door {
    hosts: PathBuf,
    name: String,
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
}

impl Door {
    fn of(stage: &Stage) -> Self {
        let url = stage.stamp(&["exec", "pair", "web", "--", "/bin/sh", "-c", "printf %s \"$DB\""]).ok().stdout;
        let url = url.trim().split('?').next().unwrap().to_owned();
        let public = stage.home().join("stamps/pair.dev/public");
        let pem = fs::read(public.join("ca.pem")).unwrap();
        let tls = api::client::trust(&pem).unwrap();
        let mut config: tokio_postgres::Config = url.parse().unwrap();
        let tokio_postgres::config::Host::Tcp(name) = config.get_hosts()[0].clone() else { panic!("a socket") };
        config.ssl_mode(tokio_postgres::config::SslMode::Require).connect_timeout(Duration::from_secs(1));
        config.application_name("ledger");
        Self { hosts: public.join("hosts"), name, config, tls: MakeRustlsConnect::new(Arc::unwrap_or_clone(tls)) }
    }

    async fn open(&self) -> Result<tokio_postgres::Client, String> {
        let hosts = fs::read_to_string(&self.hosts).unwrap();
        let address = hosts.lines().find_map(|line| line.strip_suffix(&format!(" {}", self.name)));
        let mut config = self.config.clone();
        config.hostaddr(address.unwrap().parse().unwrap());
        let (client, connection) = config.connect(self.tls.clone()).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// A client that writes one row after the other, reconnects as any pool does, and keeps a ledger of what it was told is safe.
struct Ledger {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicI64>,
    rows: Arc<Mutex<Vec<(i64, Instant)>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn runtime() -> tokio::runtime::Runtime {
    service::tls::install_provider();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Ledger {
    fn start(door: Arc<Door>) -> Self {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let rows: Arc<Mutex<Vec<(i64, Instant)>>> = Arc::default();
        let thread = std::thread::spawn({
            let (stop, last, rows) = (stop.clone(), last.clone(), rows.clone());
            move || {
                runtime().block_on(async {
                    let mut n = 0_i64;
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(client) = door.open().await else { continue };
                        while !stop.load(Ordering::Relaxed) {
                            n += 1;
                            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&n];
                            let insert = client.execute("INSERT INTO ledger VALUES ($1)", &values);
                            match tokio::time::timeout(Duration::from_secs(2), insert).await {
                                Ok(Ok(_)) => {
                                    rows.lock().unwrap().push((n, Instant::now()));
                                    last.store(n, Ordering::Relaxed);
                                }
                                // Not told that it is safe: it may be there or not.
                                _ => break,
                            }
                        }
                    }
                });
            }
        });
        Self { stop, last, rows, thread: Some(thread) }
    }

    /// Waits for so many more acknowledged rows.
    fn more(&self, count: usize) {
        let goal = self.rows.lock().unwrap().len() + count;
        wait_until("rows are acknowledged", Duration::from_secs(60), || {
            let done = self.rows.lock().unwrap().len();
            if done >= goal {
                Ok(())
            } else {
                Err(format!("{done} of {goal}, last {}", self.last.load(Ordering::Relaxed)))
            }
        });
    }

    /// The longest time without an acknowledged write.
    fn longest_gap(&self) -> Duration {
        let rows = self.rows.lock().unwrap();
        rows.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap_or_default()
    }

    /// What was acknowledged until now and is not there.
    fn missing(&self, door: &Door) -> Vec<i64> {
        let acknowledged: Vec<i64> = self.rows.lock().unwrap().iter().map(|(n, _)| *n).collect();
        let there: std::collections::BTreeSet<i64> = runtime().block_on(async {
            let client = door.open().await.unwrap();
            let rows = client.query("SELECT n FROM ledger", &[]).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        });
        acknowledged.into_iter().filter(|n| !there.contains(n)).collect()
    }

    /// Ends; how many were acknowledged, and those of them that are not there.
    fn end(mut self, door: &Door) -> (usize, Vec<i64>) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let missing = self.missing(door);
        (self.rows.lock().unwrap().len(), missing)
    }
}

fn begin(stage: &Stage) -> (Arc<Door>, Ledger) {
    let door = Arc::new(Door::of(stage));
    runtime().block_on(async {
        let client = door.open().await.unwrap();
        client
            .batch_execute("CREATE TABLE IF NOT EXISTS ledger (n bigint PRIMARY KEY); TRUNCATE ledger")
            .await
            .unwrap();
    });
    let ledger = Ledger::start(door.clone());
    ledger.more(100);
    (door, ledger)
}

/// Every process of a member: shim, keeper, server.
fn processes(stage: &Stage, name: &str) -> Vec<u32> {
    let status = stage.status("pair", "dev").unwrap();
    status.resources.iter().find(|r| r.name == name).unwrap().pids.clone()
}

fn signal(pids: &[u32], signal: Signal) {
    for pid in pids {
        let _ = rustix::process::kill_process(Pid::from_raw(*pid as i32).unwrap(), signal);
    }
}

/// The answer to one question, by whoever leads.
fn ask(door: &Door, sql: &str) -> String {
    runtime().block_on(async {
        let client = door.open().await.unwrap();
        let row = client.query_one(sql, &[]).await.unwrap();
        row.get::<_, String>(0)
    })
}

#[test]
fn a_mistake_is_undone_where_a_standby_leads_and_the_other_follows_what_was_restored() {
    let Some(stage) = pair(As::Caller) else { return };
    let first = synchronous(&stage);
    let led = stage.stamp(&["switchover", "pair", "--json"]).ok().json();
    let second = led["primary"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(synchronous(&stage), second);
    stage.stamp(&["backup", "pair"]).ok();
    let door = Door::of(&stage);
    let count = "SELECT count(*)::text FROM kept";
    runtime().block_on(async {
        let client = door.open().await.unwrap();
        client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 40) AS n").await.unwrap();
    });
    stage.stamp(&["backup", "pair", "--point", "whole"]).ok();
    runtime().block_on(async {
        let client = door.open().await.unwrap();
        client.batch_execute("DELETE FROM kept").await.unwrap();
    });
    stage.stamp(&["restore", "pair", "--to-point", "whole", "--json"]).ok();
    assert_eq!(ask(&door, count), "0", "the original is as it was until it is swapped");

    let swapped = stage.stamp(&["restore", "pair", "--swap", "--yes", "--json"]).ok().json();
    let kept = PathBuf::from(swapped["kept"].as_str().unwrap());
    assert!(kept.starts_with(stage.home()) && kept.to_string_lossy().contains(&second), "{}", kept.display());
    assert!(kept.exists(), "{}", kept.display());
    assert_eq!(synchronous(&stage), second, "who led leads, and the other has copied what was restored");
    assert_eq!(ask(&door, count), "40");

    // The standby's data is the restored one's: it takes over with all of it.
    signal(&processes(&stage, &second), Signal::KILL);
    wait_until("the standby leads", Duration::from_secs(30), || {
        let part = member(&stage.status("pair", "dev")?, &first).part;
        if part == "primary" { Ok(()) } else { Err(part) }
    });
    assert_eq!(synchronous(&stage), first);
    assert_eq!(ask(&door, count), "40");
    stage.stamp(&["restore", "pair", "--forget-replaced", "--yes"]).ok();
    assert!(!kept.exists(), "what was kept in another member's place is found as well");
}

fn a_killed_primary_is_replaced(who: As) {
    let Some(stage) = pair(who) else { return };
    let first = synchronous(&stage);
    let (door, ledger) = begin(&stage);
    let pids = processes(&stage, &first);
    assert!(pids.len() > 5, "{pids:?}");
    // All at once, as a machine dies.
    signal(&pids, Signal::KILL);
    wait_until("another member leads", Duration::from_secs(30), || {
        let status = stage.status("pair", "dev")?;
        let led =
            status.resources.iter().any(|r| r.name != first && r.member.as_ref().is_some_and(|m| m.part == "primary"));
        if led { Ok(()) } else { Err(format!("{status:?}")) }
    });
    ledger.more(200);
    let second = synchronous(&stage);
    assert_ne!(first, second, "the killed one follows");
    assert_eq!(member(&stage.status("pair", "dev").unwrap(), &second).term, 2);
    let gap = ledger.longest_gap();
    let (acknowledged, lost) = ledger.end(&door);
    eprintln!("killed: {acknowledged} acknowledged, longest gap {} ms", gap.as_millis());
    assert_eq!(lost, Vec::<i64>::new(), "of {acknowledged} acknowledged writes these are gone");
    assert!(gap < Duration::from_secs(20), "{gap:?}");
}

#[test]
fn a_primary_killed_with_all_its_processes_is_replaced_and_comes_back_behind() {
    a_killed_primary_is_replaced(As::Caller);
}

#[test]
fn an_ordinary_user_has_the_same_failover() {
    a_killed_primary_is_replaced(As::Nobody);
}

#[test]
fn a_paused_primary_is_fenced_before_another_leads_and_a_switchover_loses_nothing() {
    let Some(stage) = pair(As::Caller) else { return };
    let first = synchronous(&stage);
    let (door, ledger) = begin(&stage);
    let led = stage.stamp(&["switchover", "pair", "--json"]).ok().json();
    assert_eq!(led["before"].as_str(), Some(first.as_str()));
    let second = led["primary"].as_str().unwrap().to_owned();
    ledger.more(100);
    println!("switchover: supervisor saw {} ms, client {} ms", led["outage_ms"], ledger.longest_gap().as_millis());
    assert_eq!(synchronous(&stage), second);

    // Every process of the primary is stopped, its server too: it answers nobody, and would go on when it wakes.
    let pids = processes(&stage, &second);
    signal(&pids, Signal::STOP);
    wait_until("the first leads again", Duration::from_secs(60), || {
        let status = stage.status("pair", "dev")?;
        let part = member(&status, &first).part;
        if part == "primary" { Ok(()) } else { Err(format!("{part}: {status:?}")) }
    });
    let left: Vec<u32> = pids.iter().copied().filter(|pid| drivers::proc::identify(*pid).is_some()).collect();
    assert_eq!(left, Vec::<u32>::new(), "what was paused is gone before another leads");
    signal(&pids, Signal::CONT);
    ledger.more(100);
    assert_eq!(synchronous(&stage), first, "it came back, behind");
    let (acknowledged, lost) = ledger.end(&door);
    assert_eq!(lost, Vec::<i64>::new(), "of {acknowledged} acknowledged writes these are gone");
}

#[test]
fn a_primary_that_dies_while_it_steps_down_costs_seconds() {
    let Some(stage) = pair(As::Caller) else { return };
    let first = synchronous(&stage);
    let (door, ledger) = begin(&stage);
    let pids = processes(&stage, &first);
    let mut switchover = stage.command(&["switchover", "pair"]).stdout(Stdio::null()).spawn().unwrap();
    written_down(&stage);
    // Keeper and server; the shim starts another keeper, whose server has not ended in order.
    signal(&pids[1..], Signal::KILL);
    ledger.more(100);
    assert!(ledger.longest_gap() < Duration::from_secs(20), "{:?} without a write", ledger.longest_gap());
    // Whether it was done or refused: it ends.
    let _ = switchover.wait().unwrap();
    synchronous(&stage);
    let (acknowledged, lost) = ledger.end(&door);
    assert_eq!(lost, Vec::<i64>::new(), "of {acknowledged} acknowledged writes these are gone");
}

/// Waits until a change of who leads is under way: its first word is on the disk.
fn written_down(stage: &Stage) {
    wait_until("a change is written down", Duration::from_secs(10), || {
        let journal = rusqlite::Connection::open(stage.home().join("journal.db")).map_err(|e| e.to_string())?;
        let begun = "SELECT count(*) FROM steps WHERE step LIKE 'failover %'";
        let steps: u32 = journal.query_row(begun, [], |row| row.get(0)).map_err(|e| e.to_string())?;
        if steps > 0 { Ok(()) } else { Err("no step yet".into()) }
    });
}

#[test]
fn a_supervisor_that_is_killed_in_a_failover_goes_on_at_its_next_start() {
    let Some(stage) = pair(As::Caller) else { return };
    let first = synchronous(&stage);
    let (door, ledger) = begin(&stage);
    let supervisor = stage.supervisor().unwrap();
    signal(&processes(&stage, &first), Signal::KILL);
    written_down(&stage);
    signal(&[supervisor], Signal::KILL);
    // Any command starts another.
    let second = synchronous(&stage);
    assert_ne!(first, second);
    ledger.more(100);
    let (acknowledged, lost) = ledger.end(&door);
    assert_eq!(lost, Vec::<i64>::new(), "of {acknowledged} acknowledged writes these are gone");
}
