//! What is stored is read on the control socket: SQL, lines, traces, rates.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod role;

use std::time::Duration;

use api::telemetry::{Live, LogLine, QueryRequest, Trace, TraceSummary};
use http_body_util::BodyExt as _;
use role::{JSON, Role, config, key, log_json, start, start_with};
use serde_json::{Value, json};
use service::Clock;

const DAY_MS: i64 = 86_400_000;
const TRACE: &str = "5b8efff798038103d269b633813fc60c";

async fn lines(role: &Role, path: &str) -> Vec<LogLine> {
    let answer = role.control.send("GET", path, None).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bodies(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|l| l.body.as_str()).collect()
}

fn span(id: &str, parent: &str, name: &str, kind: i32, start: u64, end: u64, status: i32) -> Value {
    json!({"traceId": TRACE, "spanId": id, "parentSpanId": parent, "name": name, "kind": kind,
        "startTimeUnixNano": start.to_string(), "endTimeUnixNano": end.to_string(), "status": {"code": status},
        "attributes": [{"key": "db.system", "value": {"stringValue": "postgresql"}}]})
}

fn spans(service: &str, spans: Vec<Value>) -> String {
    json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
        "scopeSpans": [{"spans": spans}]
    }]})
    .to_string()
}

#[tokio::test]
async fn a_query_spans_more_days_than_sqlite_attaches_and_counts_as_the_raw_lines_do() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    for back in (0..15).rev() {
        role.clock.set_offset_ms(-back * DAY_MS);
        let bodies: Vec<String> = (0..=back).map(|i| format!("day {back} line {i}")).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        assert_eq!(role.send("/v1/logs", JSON, log_json(&bodies)).await.status, 200);
    }
    let files = std::fs::read_dir(dir.path().join("data")).unwrap();
    assert_eq!(files.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "db")).count(), 15);
    assert_eq!(role.value("SELECT count(*) FROM logs").await, 120);
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE body LIKE '% line 0'").await, 15);
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE body = 'day 14 line 14'").await, 1);
    assert_eq!(role.query_days("SELECT count(*) FROM logs", 1).await.unwrap().rows, [[1]]);
    assert_eq!(role.query_days("SELECT count(*) FROM logs", 11).await.unwrap().rows, [[66]]);
    let grouped = role
        .query("SELECT time_ns / 86400000000000 AS day, count(*) FROM logs GROUP BY day ORDER BY day DESC LIMIT 3")
        .await
        .unwrap();
    let counts: Vec<&Value> = grouped.rows.iter().map(|r| &r[1]).collect();
    assert_eq!(counts, [1, 2, 3]);
    // SQLite reads the table once for each side, and leaves out what it takes for a row that it had.
    let either = "SELECT count(*) FROM logs WHERE (body = 'day 14 line 14' AND time_ns > 0) OR (body = 'day 3 line 2' AND time_ns > 0)
         OR (body = 'day 0 line 0' AND time_ns > 0) OR (body = 'day 3 line 2' AND time_ns > 1)";
    assert_eq!(role.value(either).await, 3);
    let range = "SELECT count(*) FROM logs, clock WHERE time_ns > now_ns - 3600000000000";
    assert_eq!(role.value(range).await, 1);
    let join = "SELECT count(*) FROM logs a JOIN logs b ON a.time_ns = b.time_ns AND a.body = b.body";
    assert_eq!(role.value(join).await, 120);
    role.stop().await;
}

#[tokio::test]
async fn a_long_day_is_read_page_by_page_without_losing_or_doubling_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    // Many rows of one time, so that pages end amid equal times.
    let records: Vec<Value> = (0..3000)
        .map(|i| json!({"timeUnixNano": 1_000 + i / 700, "severityNumber": 1 + i % 24, "body": {"stringValue": i.to_string()}}))
        .collect();
    let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string();
    assert_eq!(role.send("/v1/logs", JSON, body).await.status, 200);
    assert_eq!(role.value("SELECT count(DISTINCT body) FROM logs").await, 3000);
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE severity >= 17 AND time_ns = 1001").await, 232);
    let answer = role.query("SELECT body FROM logs").await.unwrap();
    assert_eq!((answer.rows.len(), answer.truncated), (1000, true));
    let request = QueryRequest { sql: "SELECT body FROM logs".into(), days: 1, limit: 5000 };
    let answer: api::telemetry::QueryAnswer = role.control.post("/query", &request).await.unwrap();
    assert_eq!((answer.rows.len(), answer.truncated), (3000, false));
    // Comparisons that the file's own indexes must not answer more strictly than SQLite does.
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE level = 'ERROR'").await, 0);
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE level = 'ERROR' COLLATE NOCASE").await, 500);
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE severity = '17'").await, 125);
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE severity IN (17, 18)").await, 250);
    assert_eq!(role.value("SELECT count(*) FROM logs WHERE severity = NULL").await, 0);
    role.stop().await;
}

#[tokio::test]
async fn a_query_can_read_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["kept"])).await.status, 200);
    let other = dir.path().join("other.db");
    let refused = [
        "DELETE FROM logs".to_owned(),
        "UPDATE logs SET body = 'x'".into(),
        "INSERT INTO logs (body) VALUES ('x')".into(),
        "DROP TABLE logs".into(),
        "CREATE TABLE t (x)".into(),
        "CREATE TEMP TABLE t AS SELECT * FROM logs".into(),
        "CREATE VIEW v AS SELECT 1".into(),
        format!("ATTACH '{}' AS o", other.display()),
        format!("VACUUM INTO '{}'", other.display()),
        "PRAGMA query_only = OFF".into(),
        "PRAGMA user_version".into(),
        "SELECT * FROM pragma_database_list".into(),
        "BEGIN".into(),
        "SAVEPOINT s".into(),
        "SELECT load_extension('x')".into(),
        "SELECT 1; DELETE FROM logs".into(),
        "EXPLAIN DELETE FROM logs".into(),
        "WITH d AS (SELECT 1) DELETE FROM logs".into(),
        "SELECT zeroblob(100000000)".into(),
        "SELECT".into(),
        "".into(),
    ];
    for sql in refused {
        let error = role.query(&sql).await.expect_err(&sql);
        assert_eq!(error.status(), Some(400), "{sql}: {error:?}");
    }
    assert!(!other.exists());
    assert_eq!(role.value("SELECT body FROM logs").await, "kept");
    role.stop().await;
}

#[tokio::test]
async fn lines_are_chosen_by_source_level_text_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    let record = |ms: i64, severity: i32, body: &str| {
        json!({"timeUnixNano": (ms * 1_000_000).to_string(), "severityNumber": severity, "body": {"stringValue": body},
            "traceId": TRACE})
    };
    let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        record(3000, 17, "Disk FULL"), record(1000, 9, "started"), record(2000, 13, "disk slow"),
        {"timeUnixNano": "4000000000", "severityText": "Warning", "body": {"kvlistValue": {"values": [
            {"key": "a", "value": {"intValue": 1}}]}}},
    ]}]}]});
    assert_eq!(role.send("/v1/logs", JSON, body.to_string()).await.status, 200);
    let bearer = format!("Bearer {}", key("gateway"));
    let headers = [("authorization", bearer.as_str()), ("content-type", JSON)];
    assert_eq!(role.post("/v1/logs", &headers, log_json(&["from the gateway"])).await.status, 200);

    let all = lines(&role, "/logs?until_ms=9000").await;
    assert_eq!(bodies(&all), ["started", "disk slow", "Disk FULL", r#"{"a":1}"#]);
    assert_eq!((all[3].level.as_str(), all[2].source.as_str()), ("warn", "service.web"));
    assert_eq!(bodies(&lines(&role, "/logs?source=gateway").await), ["from the gateway"]);
    assert_eq!(bodies(&lines(&role, "/logs?grep=DISK").await), ["disk slow", "Disk FULL"]);
    assert_eq!(bodies(&lines(&role, "/logs?level=error").await), ["Disk FULL"]);
    assert_eq!(bodies(&lines(&role, "/logs?since_ms=2000&until_ms=3000").await), ["disk slow"]);
    assert_eq!(bodies(&lines(&role, "/logs?limit=2&until_ms=9000").await), ["Disk FULL", r#"{"a":1}"#]);
    assert_eq!(bodies(&lines(&role, &format!("/logs?trace_id={TRACE}&level=warn")).await), ["disk slow", "Disk FULL"]);
    assert_eq!(bodies(&lines(&role, "/logs?grep=%25").await), Vec::<&str>::new());
    let answer = role.control.send("GET", "/logs?level=loud", None).await.unwrap();
    assert_eq!(answer.status, 400);
    role.stop().await;
}

/// The next line of a stream; empty ones are skipped.
struct Stream(hyper::body::Incoming, String);

impl Stream {
    async fn open(role: &Role, path: &str) -> Self {
        Self(role.control.open("GET", path, None).await.unwrap().into_body(), String::new())
    }

    async fn line(&mut self) -> Option<String> {
        let next = async {
            loop {
                if let Some((line, rest)) = self.1.split_once('\n') {
                    let (line, rest) = (line.to_owned(), rest.to_owned());
                    self.1 = rest;
                    if !line.is_empty() {
                        return Some(line);
                    }
                    continue;
                }
                let data = self.0.frame().await?.ok()?.into_data().ok()?;
                self.1.push_str(std::str::from_utf8(&data).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.expect("a line comes or the stream ends")
    }

    async fn body(&mut self) -> String {
        serde_json::from_str::<LogLine>(&self.line().await.unwrap()).unwrap().body
    }
}

#[tokio::test]
async fn a_follower_sees_what_is_there_then_what_comes_over_midnight_too_and_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["one", "two"])).await.status, 200);
    let mut stream = Stream::open(&role, "/logs?follow=1&limit=1").await;
    assert_eq!(stream.body().await, "two");
    let many: Vec<String> = (0..1200).map(|i| format!("line {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(role.send("/v1/logs", JSON, log_json(&many)).await.status, 200);
    for expected in &many {
        assert_eq!(stream.body().await, *expected);
    }
    role.clock.set_offset_ms(DAY_MS);
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["tomorrow"])).await.status, 200);
    assert_eq!(stream.body().await, "tomorrow");
    role.clock.set_offset_ms(0);
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["today again"])).await.status, 200);
    assert_eq!(stream.body().await, "today again");

    let mut errors = Stream::open(&role, "/logs?follow=1&limit=0&level=error").await;
    assert_eq!(role.send("/v1/logs", JSON, log_json(&["unimportant"])).await.status, 200);
    let grave = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"severityNumber": 21, "body": {"stringValue": "grave"}}]}]}]});
    assert_eq!(role.send("/v1/logs", JSON, grave.to_string()).await.status, 200);
    assert_eq!(errors.body().await, "grave");
    role.stop().await;
    assert_eq!(errors.line().await, None);
}

#[tokio::test]
async fn a_trace_of_three_senders_is_one_tree_with_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    let t = 1_795_305_600_000_000_000u64;
    let parts = [
        ("web", span("00000000000000b2", "00000000000000a1", "GET /entries", 2, t + 10, t + 80, 0)),
        ("edge", span("00000000000000a1", "", "GET", 2, t, t + 100, 2)),
        ("web", span("00000000000000c3", "00000000000000b2", "SELECT", 3, t + 20, t + 30, 0)),
    ];
    for (service, part) in parts {
        assert_eq!(role.send("/v1/traces", JSON, spans(service, vec![part])).await.status, 200);
    }
    let line = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"body": {"stringValue": "found 3"}, "traceId": TRACE, "spanId": "00000000000000b2"}]}]}]});
    assert_eq!(role.send("/v1/logs", JSON, line.to_string()).await.status, 200);

    let listed: Vec<TraceSummary> = role.control.get("/traces?limit=5").await.unwrap();
    assert_eq!(listed.len(), 1);
    let found = &listed[0];
    assert_eq!((found.trace_id.as_str(), found.name.as_str(), found.service.as_str()), (TRACE, "GET", "edge"));
    assert_eq!((found.duration_ns, found.spans, found.errors), (100, 3, 1));

    let trace: Trace = role.control.get(&format!("/traces/{}", TRACE.to_uppercase())).await.unwrap();
    let shape: Vec<(u32, &str)> = trace.spans.iter().map(|s| (s.depth, s.name.as_str())).collect();
    assert_eq!(shape, [(0, "GET"), (1, "GET /entries"), (2, "SELECT")]);
    assert_eq!(bodies(&trace.logs), ["found 3"]);
    let rows = role.query("SELECT type, duration_ns FROM dependencies").await.unwrap().rows;
    assert_eq!(rows, [vec![json!("postgresql"), json!(10)]]);
    let plan =
        role.query(&format!("SELECT name FROM spans WHERE trace_id = '{TRACE}' AND kind = 'client'")).await.unwrap();
    assert_eq!(plan.rows, [["SELECT"]]);
    assert_eq!(role.control.send("GET", "/traces/ffff", None).await.unwrap().status, 404);
    role.stop().await;
}

#[tokio::test]
async fn the_live_stream_shows_rates_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let role = start(dir.path()).await;
    let mut stream = Stream::open(&role, "/live").await;
    // The first second has gone when the first line is here; what is sent now is in a later one.
    stream.line().await.unwrap();
    let t = 1_795_305_600_000_000_000u64;
    let requests =
        (0..10).map(|i| span(&format!("{:016x}", i + 1), "", "GET", 2, t, t + 4_000_000, if i < 2 { 2 } else { 0 }));
    assert_eq!(role.send("/v1/traces", JSON, spans("web", requests.collect())).await.status, 200);
    let mut sum = Live::default();
    for _ in 0..5 {
        let live: Live = serde_json::from_str(&stream.line().await.unwrap()).unwrap();
        if live.requests > 0 {
            sum = live;
            break;
        }
    }
    assert_eq!((sum.requests, sum.failed, sum.mean_ms), (10, 2, 4.0));
    role.stop().await;
}

#[tokio::test]
async fn the_control_routes_answer_on_a_unix_socket_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut context = service::Context::for_test(&dir.path().join("data"));
    context.secrets.insert(api::context::secret::TELEMETRY_ROOT, api::Secret::new(role::ROOT));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", tcp.local_addr().unwrap()).parse().unwrap();
    context.listeners.insert("control", service::Listener::Tcp(tcp));
    let shutdown = context.shutdown.clone();
    let task = tokio::spawn(telemetry::run(config(), context));
    let client = api::client::Client::new(api::client::Target::Http { base });
    for (method, path) in [
        ("GET", "/health"),
        ("POST", "/query"),
        ("GET", "/logs"),
        ("GET", "/traces"),
        ("GET", "/traces/x"),
        ("GET", "/live"),
        ("GET", "/"),
    ] {
        let answer = client.send(method, path, None).await.unwrap();
        assert_eq!(answer.status, 403, "{path}");
    }
    shutdown.ask();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn retention_is_by_the_stamps_clock_and_by_day_of_arrival() {
    let dir = tempfile::tempdir().unwrap();
    for (back, body) in [(31, "31 days old"), (29, "29 days old")] {
        let role = start_with(dir.path(), config(), Clock::moved_by(-back * DAY_MS)).await;
        // Event times in the far past and future change nothing about how long it is kept.
        let record = |time: u64| json!({"timeUnixNano": time.to_string(), "body": {"stringValue": body}});
        let sent = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record(1), record(u64::MAX), record(0)]}]}]});
        assert_eq!(role.send("/v1/logs", JSON, sent.to_string()).await.status, 200);
        assert_eq!(role.value(&format!("SELECT count(*) FROM logs WHERE body = '{body}'")).await, 3);
        role.stop().await;
    }
    let role = start(dir.path()).await;
    let rows = role.query("SELECT body, count(*) FROM logs GROUP BY body").await.unwrap().rows;
    assert_eq!(rows, [vec![json!("29 days old"), json!(3)]]);
    let data = dir.path().join("data");
    let gone = async {
        // The first pass is at the start, on another thread.
        while std::fs::read_dir(&data)
            .unwrap()
            .filter(|f| f.as_ref().unwrap().path().extension().unwrap() == "db")
            .count()
            > 1
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the file of 31 days ago is deleted");
    role.stop().await;
}
