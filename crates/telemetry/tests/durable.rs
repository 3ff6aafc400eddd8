//! What was answered 200 is there after the process was killed, the disk was full, or the role was replaced.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod role;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use role::{JSON, Role, certificate, config, log_json, start};
use serde_json::json;

/// The role as a process; killed when dropped.
struct Process {
    child: Child,
    role: Role,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/telemetry_role")
}

fn prepare(dir: &Path) {
    let (cert, key) = certificate();
    std::fs::write(dir.join("cert.pem"), cert).unwrap();
    std::fs::write(dir.join("key.pem"), key).unwrap();
    std::fs::write(dir.join("root"), role::ROOT).unwrap();
    std::fs::write(dir.join("config.json"), serde_json::to_vec(&config()).unwrap()).unwrap();
}

async fn spawn(dir: &Path) -> Process {
    let _ = std::fs::remove_file(dir.join("address"));
    // A file that grows beyond the process's limit then fails to be written, as on a full disk, instead of killing it.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$1\""])
        .arg(program())
        .arg(dir)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = async {
        let mut look = tokio::time::interval(Duration::from_millis(2));
        loop {
            if let Ok(text) = std::fs::read_to_string(dir.join("address")) {
                return text.parse::<SocketAddr>().unwrap();
            }
            look.tick().await;
        }
    };
    let address = tokio::time::timeout(Duration::from_secs(20), address).await.expect("the role says where it listens");
    let ca = std::fs::read_to_string(dir.join("cert.pem")).unwrap();
    Process { child, role: Role::new(address, &dir.join("control"), &ca) }
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..4 {
        let mut process = spawn(dir.path()).await;
        let (acked, mut acks) = tokio::sync::mpsc::unbounded_channel();
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (role, acked) = (process.role.clone(), acked.clone());
                tokio::spawn(async move {
                    for i in 0.. {
                        let body = format!("round {round} sender {sender} line {i}");
                        let headers = [("x-ingest-key", &*role::key("service.web")), ("content-type", JSON)];
                        match role.try_post("/v1/logs", &headers, log_json(&[&body])).await {
                            Ok(answer) if answer.status == 200 => acked.send(body).unwrap(),
                            _ => return,
                        }
                    }
                })
            })
            .collect();
        drop(acked);
        for _ in 0..20 + round * 7 {
            acknowledged.push(acks.recv().await.unwrap());
        }
        // SIGKILL, in the middle of whatever it does.
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        for sender in senders {
            sender.await.unwrap();
        }
        while let Some(body) = acks.recv().await {
            acknowledged.push(body);
        }
    }
    let process = spawn(dir.path()).await;
    let request = api::telemetry::QueryRequest { sql: "SELECT body FROM logs".into(), days: 0, limit: 10_000 };
    let answer: api::telemetry::QueryAnswer = process.role.control.post("/query", &request).await.unwrap();
    let kept: std::collections::HashSet<&str> = answer.rows.iter().map(|r| r[0].as_str().unwrap()).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|b| !kept.contains(b.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} lost, first {:?}", lost.len(), acknowledged.len(), lost.first());
    assert!(acknowledged.len() >= 20 * 4);
}

#[tokio::test]
async fn a_full_disk_is_answered_503_and_mends_itself_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let process = spawn(dir.path()).await;
    let role = &process.role;
    let web = role::key("service.web");
    let headers = [("x-ingest-key", web.as_str()), ("content-type", JSON)];
    let line = "x".repeat(20_000);

    let pid = rustix::process::Pid::from_raw(process.child.id() as i32).unwrap();
    let set = |bytes: Option<u64>| {
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).unwrap();
    };
    set(Some(400_000));
    let mut acknowledged = 0;
    let refused = loop {
        let answer = role.post("/v1/logs", &headers, log_json(&[&line])).await;
        match answer.status {
            200 => acknowledged += 1,
            _ => break answer,
        }
        assert!(acknowledged < 1000, "the limit is never met");
    };
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"));
    assert!(acknowledged > 0);
    let health: api::telemetry::TelemetryHealth = role.control.get("/health").await.unwrap();
    assert_eq!((health.status.as_str(), health.reason.is_some()), ("degraded", true));
    // Reading goes on, and what was answered is there.
    assert_eq!(role.value("SELECT count(*) FROM logs").await, acknowledged);

    set(None);
    assert_eq!(role.post("/v1/logs", &headers, log_json(&["space again"])).await.status, 200);
    assert_eq!(role.value("SELECT count(*) FROM logs").await, acknowledged + 1);
    let health: api::telemetry::TelemetryHealth = role.control.get("/health").await.unwrap();
    assert_eq!((health.status.as_str(), health.days), ("ok", 1));
}

#[tokio::test]
async fn a_role_that_is_asked_to_end_answers_what_it_took_and_leaves_clean_files() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["before the end"])).await.status, 200);
    role.stop().await;
    let left: Vec<_> = std::fs::read_dir(dir.path().join("data")).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let role = start(dir.path()).await;
    assert_eq!(role.value("SELECT body FROM logs").await, "before the end");
    role.stop().await;
}

#[tokio::test]
async fn a_day_file_of_a_newer_format_is_neither_written_nor_misread() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["old"])).await.status, 200);
    role.stop().await;
    let file = std::fs::read_dir(dir.path().join("data")).unwrap().next().unwrap().unwrap().path();
    rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 2").unwrap();
    let role = start(dir.path()).await;
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["new"])).await.status, 503);
    let error = role.query("SELECT count(*) FROM logs").await.unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
    let health: serde_json::Value = role.control.get("/health").await.unwrap();
    assert_eq!(health["status"], json!("degraded"));
    role.stop().await;
}

#[test]
fn without_its_root_key_the_role_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ended = runtime.block_on(telemetry::run(config(), service::Context::for_test(dir.path())));
    assert!(matches!(ended, Err(telemetry::Error::Secret(_))));
}
