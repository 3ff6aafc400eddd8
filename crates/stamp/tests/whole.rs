//! Whole stamps on real engines: come up, are broken, go on, leave nothing.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use api::{client::Client, supervisor::Status};
use testkit::{As, Stage, wait_until};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
/// The system's folder, reachable for every user.
const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systems/time-tracker");
const NAME: &str = "time-tracker";

fn runtime() -> tokio::runtime::Runtime {
    service::tls::install_provider();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn get(client: &Client, path: &str) -> Result<u16, String> {
    runtime().block_on(client.send("GET", path, None)).map(|a| a.status.as_u16()).map_err(|e| format!("{e:?}"))
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Requests to the edge in a loop, each on a connection of its own; counts those that were not answered as wanted.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(client: Client) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let thread = std::thread::spawn({
            let (stop, done) = (stop.clone(), done.clone());
            move || {
                let runtime = runtime();
                let mut dropped = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match runtime.block_on(client.send("GET", "/health", None)) {
                        Ok(answer) if answer.status.as_u16() == 200 => {}
                        Ok(answer) => dropped.push(format!("answered {}", answer.status)),
                        Err(error) => dropped.push(format!("{error:?}")),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                dropped
            }
        });
        Self { stop, done, thread }
    }

    /// Waits for so many more requests.
    fn more(&self, count: u32) {
        let goal = self.done.load(Ordering::Relaxed) + count;
        wait_until("requests are answered", Duration::from_secs(60), || {
            let done = self.done.load(Ordering::Relaxed);
            if done >= goal { Ok(()) } else { Err(format!("{done} of {goal}")) }
        });
    }

    /// Ends; how many requests there were, and what became of those that failed.
    fn end(self) -> (u32, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let dropped = self.thread.join().unwrap();
        (self.done.load(Ordering::Relaxed), dropped)
    }
}

fn one(status: &Status, name: &str) -> (u32, u32) {
    let resource = status.resources.iter().find(|r| r.name == name).unwrap();
    (resource.pids[0], resource.pids[1])
}

fn comes_up_serves_and_leaves_nothing(who: As) {
    let Some(stage) = Stage::new(STAMP, who) else { return };
    let up = stage.stamp(&["up", SYSTEM, "--json"]).ok().json();
    assert_eq!(up["state"], "ready");
    assert_eq!((up["system"].as_str(), up["stamp"].as_str()), (Some(NAME), Some("dev")));
    assert!(up["seconds"].as_f64().unwrap() > 0.0);
    assert!(up["admin_link"].as_str().unwrap().starts_with(up["urls"]["identity.main"].as_str().unwrap()));

    let status = stage.ready(NAME, "dev");
    let edge = stage.client(&status, &status.urls["edge"]);
    assert_eq!(get(&edge, "/health"), Ok(200));
    assert_eq!(get(&edge, "/"), Ok(303), "a stranger is sent to sign in");
    assert_eq!(get(&edge, "/api/v1/projects"), Ok(401));

    // The platform's own parts of one idle stamp.
    let own: u64 = status
        .resources
        .iter()
        .filter(|r| !["postgres.main", "service.web"].contains(&r.name.as_str()))
        .map(|r| r.pss_bytes)
        .sum();
    let all = own + status.supervisor_pss_bytes;
    assert!(all < 100 << 20, "supervisor, shims and roles: {all} bytes PSS");

    let migrated = stage
        .stamp(&["exec", NAME, "web", "--", "/bin/sh", "-c", "test -n \"$IDENTITY_HEADER\" && echo in place"])
        .ok();
    assert_eq!(migrated.stdout.trim(), "in place");

    stage.stamp(&["down", NAME]).ok();
    assert_eq!(stage.processes(), Vec::<u32>::new(), "nothing runs after down");
    let again = stage.stamp(&["up", SYSTEM, "--json"]).ok().json();
    assert_eq!(again["urls"], up["urls"], "the addresses stay");
    assert_eq!(get(&edge, "/health"), Ok(200));

    stage.stamp(&["destroy", NAME, "--yes"]).ok();
    assert_eq!(stage.processes(), Vec::<u32>::new(), "nothing runs after destroy");
    let left: Vec<_> = std::fs::read_dir(stage.home().join("stamps")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(stage.stamp(&["status", NAME]).code, Some(2), "it is not known any more");
}

#[test]
fn a_stamp_comes_up_serves_and_leaves_nothing() {
    comes_up_serves_and_leaves_nothing(As::Caller);
}

#[test]
fn an_ordinary_user_brings_a_stamp_up() {
    comes_up_serves_and_leaves_nothing(As::Nobody);
}

#[test]
fn root_without_cap_sys_admin_brings_a_stamp_up() {
    comes_up_serves_and_leaves_nothing(As::RootWithoutSysAdmin);
}

#[test]
fn with_the_supervisor_killed_no_request_is_lost_and_a_new_one_adopts() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    let before = stage.ready(NAME, "dev");
    let load = Load::start(stage.client(&before, &before.urls["edge"]));
    load.more(20);
    let supervisor = stage.supervisor().unwrap();
    kill(supervisor);
    load.more(50);
    // The next command starts another, which must find everything as it is.
    let after = stage.ready(NAME, "dev");
    load.more(20);
    let (requests, dropped) = load.end();
    assert_eq!(dropped, Vec::<String>::new(), "of {requests}");
    assert_ne!(stage.supervisor(), Some(supervisor));
    for resource in &before.resources {
        assert_eq!(one(&before, &resource.name), one(&after, &resource.name), "{} was not started anew", resource.name);
    }
}

#[test]
fn the_supervisor_killed_anywhere_in_up_the_next_up_finishes() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    // After so many steps have been done. Each round begins from what the one before left.
    for steps in [0, 1, 3, 5, 7, 9] {
        let mut up = stage.command(&["up", SYSTEM]).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(up.stderr.take().unwrap()));
        let mut done = 0;
        while done < steps {
            let Some(line) = lines.next() else { break };
            done += u32::from(line.unwrap().contains("  ok  "));
        }
        if let Some(pid) = stage.supervisor() {
            kill(pid);
        }
        up.wait().unwrap();
    }
    stage.stamp(&["up", SYSTEM]).ok();
    let status = stage.ready(NAME, "dev");
    assert_eq!(get(&stage.client(&status, &status.urls["edge"]), "/health"), Ok(200));
    let shims = stage
        .processes()
        .iter()
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.windows(4).any(|w| w == b"shim")))
        .count();
    assert_eq!(shims, status.resources.len(), "one shim a workload, none left of a cut attempt");
}

#[test]
fn every_part_that_is_killed_comes_back() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    let mut status = stage.ready(NAME, "dev");
    let names: Vec<String> = status.resources.iter().map(|r| r.name.clone()).collect();
    for name in names {
        for index in [1, 0] {
            let was = one(&status, &name);
            kill(if index == 1 { was.1 } else { was.0 });
            status = wait_until(&format!("{name} is back"), Duration::from_secs(60), || {
                let status = stage.status(NAME, "dev")?;
                let back = status.resources.iter().all(|r| r.state == "ready" && r.pids.len() > 1);
                if back && one(&status, &name).1 != was.1 { Ok(status) } else { Err(format!("{status:?}")) }
            });
        }
    }
    assert_eq!(get(&stage.client(&status, &status.urls["edge"]), "/health"), Ok(200));
}

#[test]
fn two_ups_at_once_are_one_and_down_cuts_them() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let mut first = stage.command(&["up", SYSTEM, "--json"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let second = stage.stamp(&["up", SYSTEM, "--json"]).ok().json();
    assert!(first.wait().unwrap().success());
    assert_eq!(second["state"], "ready");
    stage.stamp(&["down", NAME]).ok();

    let mut up = stage.command(&["up", SYSTEM]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(up.stderr.take().unwrap()));
    lines.by_ref().find(|l| l.as_ref().is_ok_and(|l| l.contains("  ok  start"))).unwrap().unwrap();
    stage.stamp(&["down", NAME]).ok();
    let said: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(up.wait().unwrap().code(), Some(1), "{said:?}");
    assert!(said.iter().any(|l| l.contains("S0217")), "{said:?}");
    assert_eq!(stage.processes(), Vec::<u32>::new());
}

#[test]
fn two_stamps_stand_side_by_side_and_one_goes_without_the_other() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    stage.stamp(&["up", SYSTEM, "--stamp", "staging"]).ok();
    let (dev, staging) = (stage.ready(NAME, "dev"), stage.ready(NAME, "staging"));
    assert_ne!(dev.urls["edge"], staging.urls["edge"]);
    let other = stage.client(&staging, &dev.urls["edge"]);
    assert!(get(&other, "/health").is_err(), "staging's CA does not vouch for dev");
    stage.stamp(&["destroy", NAME, "--yes"]).ok();
    assert_eq!(get(&stage.client(&staging, &staging.urls["edge"]), "/health"), Ok(200));
}

#[test]
fn the_identity_endpoint_answers_its_own_workload_only() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    let status = stage.ready(NAME, "dev");
    let (_, web) = one(&status, "service.web");
    let environment = std::fs::read_to_string(format!("/proc/{web}/environ")).unwrap();
    let of = |name: &str| environment.split('\0').find_map(|e| e.strip_prefix(&format!("{name}="))).unwrap().to_owned();
    let (endpoint, header) = (of("IDENTITY_ENDPOINT"), of("IDENTITY_HEADER"));
    // Where the stamp has a closed network, strangers are let into the workload's own: from elsewhere there is no way at all.
    let place = status.resources.iter().find(|r| r.name == "service.web").and_then(|r| r.place.clone());
    let ask = |user: u32| {
        let mut command = match &place {
            Some(place) => {
                let mut command = std::process::Command::new("nsenter");
                command.arg(format!("--net={}", place.namespace.display())).arg("setpriv");
                command
            }
            None => std::process::Command::new("setpriv"),
        };
        command
            .args(["--reuid", &user.to_string(), "--regid", &user.to_string(), "--clear-groups"])
            .args(["curl", "-sS", "-m", "5", "-H", &format!("X-IDENTITY-HEADER: {header}")])
            .arg(format!("{endpoint}?resource=https://vault.azure.net&api-version=2019-08-01"))
            .output()
            .unwrap()
    };
    if !testkit::require("root", rustix::process::geteuid().is_root(), "only root can play others: setpriv --reuid") {
        return;
    }
    let own = drivers::proc::user(web).unwrap();
    let answer = ask(own);
    assert!(String::from_utf8_lossy(&answer.stdout).contains("access_token"), "{answer:?}");
    // The very header, taken to another workload, and to root.
    let (_, vault) = one(&status, "vault.main");
    for stranger in [drivers::proc::user(vault).unwrap(), 65534, 0] {
        let answer = ask(stranger);
        assert!(!answer.status.success() && answer.stdout.is_empty(), "user {stranger}: {answer:?}");
    }
    for word in ["ConnectionStrings__DefaultConnection", "SESSION_KEY"] {
        let value = of(word);
        assert!(!value.starts_with("@Microsoft"), "{word} is resolved in the process");
        let kept = std::process::Command::new("grep")
            .args(["-rlF", "--", &value])
            .arg(stage.home().join("stamps"))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&kept.stdout), "", "{word}'s value lies in no file");
    }
}

#[test]
fn a_taken_port_is_named_with_its_owner() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    stage.stamp(&["up", SYSTEM]).ok();
    let status = stage.ready(NAME, "dev");
    let edge = status.resources.iter().find(|r| r.name == "edge").unwrap().address.clone();
    stage.stamp(&["down", NAME]).ok();
    let _taken = std::net::TcpListener::bind(&edge).unwrap();
    let refused = stage.stamp(&["up", SYSTEM]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("error[S0207]"), "{refused:?}");
    assert!(refused.stderr.contains(&format!("(pid {})", std::process::id())), "{refused:?}");
}

/// One GET with a `traceparent`, on a connection of its own; the status line.
fn traced(status: &Status, path: &str, traceparent: &str) -> String {
    use std::io::{Read as _, Write as _};
    let url = status.urls["edge"].parse::<url::Url>().unwrap();
    let host = url.host_str().unwrap().to_owned();
    let tls = api::client::trust(&std::fs::read(&status.ca).unwrap()).unwrap();
    let name = rustls::pki_types::ServerName::try_from(host.clone()).unwrap();
    let stream = std::net::TcpStream::connect((host.as_str(), url.port_or_known_default().unwrap())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = rustls::StreamOwned::new(rustls::ClientConnection::new(tls, name).unwrap(), stream);
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\ntraceparent: {traceparent}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_trace_leads_from_the_client_through_the_edge_into_the_application() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    service::tls::install_provider();
    stage.stamp(&["up", SYSTEM]).ok();
    let status = stage.ready(NAME, "dev");
    let line = traced(&status, "/api/v1/projects", &format!("00-{TRACE}-00f067aa0ba902b7-01"));
    assert_eq!(line, "HTTP/1.1 401 Unauthorized");
    let spans = wait_until("the trace, whole", Duration::from_secs(30), || {
        let said = stage.stamp(&["traces", NAME, TRACE, "--json"]);
        let trace: api::telemetry::Trace =
            serde_json::from_str(&said.stdout).map_err(|error| format!("{error}: {said:?}"))?;
        let of = |source: &str| trace.spans.iter().find(|s| s.source == source && s.kind == "server").cloned();
        of("edge").zip(of("service.web")).ok_or_else(|| format!("{trace:?}"))
    });
    let (edge, application) = spans;
    assert_eq!((edge.parent_span_id.as_str(), edge.depth), ("00f067aa0ba902b7", 0));
    assert_eq!((application.parent_span_id.as_str(), application.depth), (edge.span_id.as_str(), 1));
    assert!(edge.time_ns <= application.time_ns + 1_000_000, "{edge:?} {application:?}");
    assert!(edge.duration_ns >= application.duration_ns, "{edge:?} {application:?}");
    assert_eq!(edge.attributes["url.path"], "/api/v1/projects");
}
