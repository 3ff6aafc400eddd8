//! Logs, traces, metrics: what the workspace knows.

use std::{collections::BTreeMap, time::Duration};

use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    harm::kill,
    inside::{Ask, Saw},
    miss, must,
    sabotage::as_owner,
    site::until,
};

const DAY_MS: i64 = 86_400_000;
/// Ours: TLS and the edge take one or two on an idle machine.
const BETWEEN_MS: f64 = 50.0;

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn now_ns() -> i128 {
    jiff::Timestamp::now().as_nanosecond()
}

/// A new trace: its id, and the header that begins it.
fn trace() -> (String, String) {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let parent = format!("00-{id}-{}-01", &id[..16]);
    (id, parent)
}

/// Requests with a trace id of their own; the ids and how long the client waited for each, in nanoseconds.
pub async fn requests(site: &Site, path: &str, count: usize) -> Result<Vec<(String, u16, i64)>, Miss> {
    let client = site.client(&site.url("edge")?)?;
    let name = http::HeaderName::from_static("traceparent");
    let mut sent = Vec::new();
    for _ in 0..count {
        let (id, parent) = trace();
        let asked = std::time::Instant::now();
        let answer = client.clone().header(name.clone(), &parent).send("GET", path, None).await?;
        sent.push((id, answer.status.as_u16(), asked.elapsed().as_nanos() as i64));
    }
    Ok(sent)
}

/// Waits until spans of a service arrive for requests made now.
pub async fn arrives(site: &Site, service: &str) -> Result<(), Miss> {
    let sent = requests(site, "/health", 3).await?;
    let sql =
        format!("SELECT count(*) FROM spans WHERE source = 'service.{service}' AND trace_id IN ({})", list(&sent));
    site.query_until("the service's spans", &sql, |rows| number(&rows[0][0]) >= 3).await.map(drop)
}

/// The ids for a list in SQL.
pub fn list(ids: &[(String, u16, i64)]) -> String {
    ids.iter().map(|(id, ..)| format!("'{id}'")).collect::<Vec<_>>().join(",")
}

/// `logs_of(SERVICE, VARIABLE, DATABASE)`.
pub async fn logs_of(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, database) = (format!("service.{}", c.argument(0, "web")), c.argument(2, "postgres.main"));
    let begun = now_ns() - 1_000_000_000;
    let mark = format!("mark_{}", uuid::Uuid::new_v4().simple());
    let ask = Ask::Sql { variable: c.argument(1, "").into(), statements: vec![format!("SELECT 1 AS {mark}")] };
    let saw = site.inside(c.argument(0, "web"), &[ask]).await?;
    must!(matches!(saw.first(), Some(Saw::Sql(_))), "the query with the mark: {saw:?}");
    site.signed_in(&["user"]).await?;
    let sql = format!(
        "SELECT source, count(*), max(CASE WHEN body LIKE '%{mark}%' THEN 1 ELSE 0 END) FROM logs \
         WHERE time_ns > {begun} GROUP BY source"
    );
    let rows = site
        .query_until("lines of all three", &sql, |rows| {
            let of = |fits: &dyn Fn(&str) -> bool| rows.iter().any(|r| fits(&text(&r[0])));
            rows.iter().any(|r| text(&r[0]) == database && number(&r[2]) == 1)
                && of(&|s| s == service)
                && of(&|s| s != service && s != database)
        })
        .await?;
    Ok(rows.iter().map(|r| format!("{} {}", text(&r[0]), r[1])).collect::<Vec<_>>().join(", "))
}

pub async fn query_language(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    requests(&site, "/health", 5).await?;
    let until_ns = now_ns();
    let range = format!("time_ns BETWEEN {} AND {until_ns} AND body <> ''", until_ns - 600_000_000_000);
    // What comes late would be counted by one query and not by the other: both are asked until they are of one moment.
    until("both agree", async || {
        let raw = site.query(&format!("SELECT source, level FROM logs WHERE {range} ORDER BY time_ns")).await?;
        let grouped = site
            .query(&format!(
                "SELECT source, level, count(*) FROM logs WHERE {range} GROUP BY source, level ORDER BY 1, 2"
            ))
            .await?;
        must!(raw.len() < 5_000, "there are too many lines to count by hand");
        must!(!raw.is_empty(), "there are no lines");
        let mut counted = std::collections::BTreeMap::new();
        for row in &raw {
            *counted.entry((text(&row[0]), text(&row[1]))).or_insert(0) += 1;
        }
        let told: std::collections::BTreeMap<_, _> =
            grouped.iter().map(|r| ((text(&r[0]), text(&r[1])), number(&r[2]))).collect();
        must!(counted == told, "counted {counted:?}, told {told:?}");
        Ok(format!("{} lines in {} groups, counted and told alike", raw.len(), told.len()))
    })
    .await
}

/// `restart_logged(SERVICE)`.
pub async fn restart_logged(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let workload = format!("service.{}", c.argument(0, "web"));
    let begun = now_ns();
    let pid = site.pids(&workload).get(1).copied().unwrap_or_default();
    kill(pid)?;
    until("it runs again", async || {
        let site = lab.restore(on).await?;
        must!(site.pids(&workload).get(1).is_some_and(|p| *p != pid), "{:?}", site.pids(&workload));
        Ok(())
    })
    .await?;
    let sql = format!(
        "SELECT source, body FROM logs WHERE time_ns > {begun} AND source = '{workload}' AND \
         (body LIKE '%ended%' OR body LIKE '%restart%' OR body LIKE '%started%') ORDER BY time_ns"
    );
    let rows = site.query_until("the restart is in the logs", &sql, |rows| !rows.is_empty()).await?;
    Ok(rows.iter().take(3).map(|r| format!("{}: {}", text(&r[0]), text(&r[1]))).collect::<Vec<_>>().join("; "))
}

pub async fn trace_from_log(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let begun = now_ns() - 1_000_000_000;
    site.signed_in(&["user"]).await?;
    let sql = format!(
        "SELECT l.body, r.name, l.trace_id FROM logs l JOIN requests r ON r.trace_id = l.trace_id \
         WHERE l.time_ns > {begun} AND l.trace_id <> '' AND l.source LIKE 'service.%' LIMIT 5"
    );
    let rows = site.query_until("a line and its request", &sql, |rows| !rows.is_empty()).await?;
    let row = &rows[0];
    let trace: api::telemetry::Trace =
        site.control(&site.first("telemetry")?)?.get(&format!("/traces/{}", text(&row[2]))).await?;
    must!(trace.logs.iter().any(|l| l.body == text(&row[0])), "the view of the trace lacks its line");
    Ok(format!(
        "the line `{}` and the request {} are one trace of {} spans",
        text(&row[0]),
        text(&row[1]),
        trace.spans.len()
    ))
}

/// `requests_counted(COUNT, PATH...)`: as many to each path.
pub async fn requests_counted(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let count = c.argument(0, "100").parse::<usize>()?;
    let paths: Vec<&str> = c.arguments.iter().skip(1).map(String::as_str).collect();
    must!(paths.len() > 1, "one path says nothing of the others");
    let mut sent = Vec::new();
    for path in &paths {
        sent.extend(requests(&site, path, count / paths.len()).await?);
    }
    let count = sent.len();
    let sql = format!(
        "SELECT trace_id, max(duration_ns), max(name), max(status_code) FROM requests WHERE source LIKE 'service.%' \
         AND trace_id IN ({}) GROUP BY trace_id",
        list(&sent)
    );
    let rows = site.query_until("all requests are there", &sql, |rows| rows.len() == sent.len()).await?;
    let mut server: Vec<i64> = Vec::new();
    for (id, status, waited) in &sent {
        let Some(row) = rows.iter().find(|r| text(&r[0]) == *id) else { miss!("request {id} is missing") };
        let took = number(&row[1]);
        must!(took > 0 && took <= *waited, "the client waited {waited} ns, the server says {took} ns");
        must!(number(&row[3]) == i64::from(*status), "the client saw {status}, the server says {}", row[3]);
        server.push(took);
    }
    server.sort_unstable();
    let mut client: Vec<i64> = sent.iter().map(|s| s.2).collect();
    client.sort_unstable();
    let ms = |ns: i64| ns as f64 / 1e6;
    let names: std::collections::BTreeSet<String> = rows.iter().map(|r| text(&r[2])).collect();
    must!(names.len() >= paths.len(), "{} paths were asked and the telemetry tells {names:?} apart", paths.len());
    // What lies between the two is TLS and the edge.
    let between = ms(client[count / 2]) - ms(server[count / 2]);
    must!(between < BETWEEN_MS, "half of the clients waited {between:.0} ms longer than the server says it took");
    Ok(format!(
        "{count} requests to {}: median {:.2} ms at the server, {:.2} ms at the client; p95 {:.2} and {:.2} ms",
        names.into_iter().collect::<Vec<_>>().join(", "),
        ms(server[count / 2]),
        ms(client[count / 2]),
        ms(server[count * 95 / 100]),
        ms(client[count * 95 / 100])
    ))
}

/// `failures_counted(GOOD PATH, NOWHERE, API PATH, TABLE)`: 90 of the first, 5 that the client is to blame for, and 5 of the third
/// while the table behind it goes by another name, which the application is to blame for.
pub async fn failures_counted(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (path, table) = (c.argument(2, ""), c.argument(3, ""));
    let mut person = site.signed_in(&["user", "admin"]).await?;
    let mut sent = requests(&site, c.argument(0, "/health"), 90).await?;
    sent.extend(requests(&site, c.argument(1, "/nowhere"), 5).await?);
    as_owner(&site, &format!("ALTER TABLE \"{table}\" RENAME TO \"{table} is away\"")).await?;
    let broken = async {
        let mut sent = Vec::new();
        for _ in 0..5 {
            let (id, parent) = trace();
            let headers = BTreeMap::from([("traceparent".to_owned(), parent)]);
            sent.push((id, person.send_with("GET", path, "", None, &headers).await?.status, 0));
        }
        Ok::<_, Miss>(sent)
    }
    .await;
    as_owner(&site, &format!("ALTER TABLE \"{table} is away\" RENAME TO \"{table}\"")).await?;
    sent.extend(broken?);
    let of = |from: u16, to: u16| sent.iter().filter(|s| (from..to).contains(&s.1)).count();
    let (theirs, ours) = (of(400, 500), of(500, 600));
    must!((theirs, ours) == (5, 5), "of 100 requests {theirs} were answered 4xx and {ours} 5xx, not 5 and 5");
    must!(person.get(path).await?.status == 200, "with its table back {path} still fails");
    let sql = format!(
        "SELECT count(*), 100.0 * sum(status_code >= 400) / count(*), sum(status_code >= 500) FROM requests \
         WHERE source LIKE 'service.%' AND trace_id IN ({})",
        list(&sent)
    );
    let rows = site.query_until("all requests are there", &sql, |rows| number(&rows[0][0]) == 100).await?;
    must!(rows[0][1].as_f64() == Some(10.0), "the telemetry says {} per cent", rows[0][1]);
    must!(number(&rows[0][2]) == 5, "the telemetry says {} of them are the application's own", rows[0][2]);
    Ok("100 requests, 5 answered 4xx and 5 answered 5xx; the telemetry says 10.0 per cent, half of them the application's own".into())
}

/// `dependencies(PATH OF THE RETURN FROM SIGN-IN)`.
pub async fn dependencies(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let begun = now_ns() - 1_000_000_000;
    site.signed_in(&["user"]).await?;
    let sql = format!(
        "SELECT d.type, max(d.name), max(d.duration_ns), max(r.duration_ns), r.trace_id FROM dependencies d \
         JOIN requests r ON r.trace_id = d.trace_id AND r.source = d.source \
         WHERE r.time_ns > {begun} AND r.name LIKE '%{}%' GROUP BY r.trace_id, d.type ORDER BY r.trace_id",
        c.argument(0, "/signin-oidc")
    );
    let both = |rows: &[Vec<Value>]| {
        rows.iter().any(|r| {
            let of_trace: Vec<String> = rows.iter().filter(|o| o[4] == r[4]).map(|o| text(&o[0])).collect();
            of_trace.iter().any(|t| t.contains("postgres")) && of_trace.iter().any(|t| t == "http")
        })
    };
    let rows = site.query_until("both dependencies", &sql, both).await?;
    let mut seen = Vec::new();
    for row in &rows {
        let (took, whole) = (number(&row[2]), number(&row[3]));
        must!(took > 0 && took <= whole, "{} took {took} ns of a request of {whole} ns", row[0]);
        seen.push(format!(
            "{} `{}` {:.2} of {:.2} ms",
            text(&row[0]),
            text(&row[1]),
            took as f64 / 1e6,
            whole as f64 / 1e6
        ));
    }
    Ok(seen.join("; "))
}

/// `one_tree(PATH, SOURCE...)`.
pub async fn one_tree(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let sent = requests(&site, c.argument(0, "/health"), 1).await?;
    let client = site.control(&site.first("telemetry")?)?;
    let path = format!("/traces/{}", sent[0].0);
    let wanted = &c.arguments[1.min(c.arguments.len())..];
    until("the whole tree", async || {
        let trace: api::telemetry::Trace = client.get(&path).await?;
        for source in wanted {
            must!(trace.spans.iter().any(|s| s.source == *source), "it has no span of {source}");
        }
        must!(
            trace.spans.iter().any(|s| s.name.to_uppercase().contains("SELECT") || s.depth >= 1),
            "it has no span of the database"
        );
        let known: Vec<&str> = trace.spans.iter().map(|s| s.span_id.as_str()).collect();
        let roots: Vec<_> = trace.spans.iter().filter(|s| !known.contains(&s.parent_span_id.as_str())).collect();
        must!(roots.len() == 1, "it has {} roots", roots.len());
        Ok(trace
            .spans
            .iter()
            .map(|s| format!("{}{} ({})", "> ".repeat(s.depth as usize), s.name, s.source))
            .collect::<Vec<_>>()
            .join(" "))
    })
    .await
}

/// `custom_event(NAME, FIELD)`: one that signing in causes.
pub async fn custom_event(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (name, field) = (c.argument(0, ""), c.argument(1, ""));
    let begun = now_ns() - 1_000_000_000;
    site.signed_in(&["user"]).await?;
    let sql = format!(
        "SELECT source, attributes ->> '$.\"{field}\"' FROM logs WHERE time_ns > {begun} AND source LIKE 'service.%' \
         AND (event = '{name}' OR attributes ->> '$.\"event.name\"' = '{name}')"
    );
    let rows = site.query_until("the event", &sql, |rows| rows.iter().any(|r| !r[1].is_null())).await?;
    Ok(format!("{}: {name} with {field} {}", text(&rows[0][0]), rows[0][1]))
}

/// Reads the stream of rates while requests are sent.
pub async fn live_stream(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mut body = site.control(&site.first("telemetry")?)?.open("GET", "/live", None).await?.into_body();
    let begun = std::time::Instant::now();
    let mut said = String::new();
    let load = async {
        loop {
            requests(&site, "/health", 20).await?;
            tokio::task::yield_now().await;
        }
        #[allow(unreachable_code, reason = "it gives the future its type")]
        Ok::<(), Miss>(())
    };
    let read = async {
        while begun.elapsed() < Duration::from_secs(10) {
            let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await;
            let Ok(Some(Ok(frame))) = frame else { miss!("the stream ended or said nothing for 5 s: {said}") };
            let Ok(data) = frame.into_data() else { continue };
            for line in String::from_utf8_lossy(&data).lines() {
                said = line.to_owned();
                let json: Value = serde_json::from_str(line.trim_start_matches("data:").trim()).unwrap_or_default();
                let rate = json["requests_per_second"].as_f64().or_else(|| json["requests"].as_f64()).unwrap_or(0.0);
                if rate > 0.0 {
                    return Ok(format!(
                        "{rate:.0} requests a second, told {:.1} s after the load began",
                        begun.elapsed().as_secs_f64()
                    ));
                }
            }
        }
        miss!("for 10 s the stream told of no request: {said}")
    };
    tokio::select! {
        seen = read => seen,
        ended = load => { ended?; miss!("the load ended") }
    }
}

/// `slow_query(SERVICE, VARIABLE)`.
pub async fn slow_query(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mark = format!("mark_{}", uuid::Uuid::new_v4().simple());
    let ask =
        Ask::Sql { variable: c.argument(1, "").into(), statements: vec![format!("SELECT pg_sleep(0.6) AS {mark}")] };
    let saw = site.inside(c.argument(0, "web"), &[ask]).await?;
    must!(matches!(saw.first(), Some(Saw::Sql(_))), "{saw:?}");
    // Where every statement is recorded, its text is not told again beside the duration: the process is the link.
    let sql = format!(
        "SELECT d.body FROM logs s JOIN logs d ON d.source = s.source AND d.time_ns >= s.time_ns \
         WHERE s.source LIKE 'postgres.%' AND s.body LIKE '%{mark}%' AND d.body LIKE '%duration:%' \
         AND substr(d.body, instr(d.body, '['), 8) = substr(s.body, instr(s.body, '['), 8) ORDER BY d.time_ns LIMIT 1"
    );
    let rows = site.query_until("the slow query with its duration", &sql, |rows| !rows.is_empty()).await?;
    let body = text(&rows[0][0]);
    let took = body.split("duration: ").nth(1).and_then(|t| t.split(' ').next()).and_then(|t| t.parse::<f64>().ok());
    must!(took.is_some_and(|ms| ms >= 600.0), "it took 600 ms and more, the record says {body}");
    Ok(body)
}

/// `own_telemetry(OTHER STAMP)`.
pub async fn own(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (one, other) = (lab.site(on).await?, lab.site(c.argument(0, "staging")).await?);
    let sent = requests(&one, "/health", 20).await?;
    let sql = format!("SELECT count(DISTINCT trace_id) FROM spans WHERE trace_id IN ({})", list(&sent));
    one.query_until("the requests", &sql, |rows| number(&rows[0][0]) == 20).await?;
    let there = other.query(&sql).await?;
    must!(number(&there[0][0]) == 0, "the other stamp's telemetry knows {} of them", there[0][0]);
    Ok(format!("20 requests to {on}: 20 there, 0 in {}", other.stamp))
}

/// `logs_kept(DAYS, SERVICE, VARIABLE)`: the line is the record of a query.
pub async fn kept(lab: &Lab, on: &str, c: &Call) -> Seen {
    let days: i64 = c.argument(0, "30").parse()?;
    let site = lab.site(on).await?;
    let mark = format!("mark_{}", uuid::Uuid::new_v4().simple());
    let ask = Ask::Sql { variable: c.argument(2, "").into(), statements: vec![format!("SELECT 1 AS {mark}")] };
    let saw = site.inside(c.argument(1, "web"), &[ask]).await?;
    must!(matches!(saw.first(), Some(Saw::Sql(_))), "the query with the mark: {saw:?}");
    let sql = format!("SELECT count(*) FROM logs WHERE body LIKE '%{mark}%'");
    site.query_until("the line", &sql, |rows| number(&rows[0][0]) > 0).await?;
    let ask = |site: &Site, sql: &str| {
        let ask = api::telemetry::QueryRequest { sql: sql.into(), days: 0, limit: 10 };
        (site.control(&site.first("telemetry")?).map(|client| (client, ask))).map_err(|e: Miss| e)
    };
    let later = async {
        for (day, there) in [(days - 1, true), (days + 1, false)] {
            let site = lab.at(on, day * DAY_MS).await?;
            until(&format!("day {day}"), async || {
                let (client, ask) = ask(&site, &sql)?;
                let answer: api::telemetry::QueryAnswer = client.post("/query", &ask).await?;
                let found = number(&answer.rows[0][0]) > 0;
                must!(found == there, "on day {day} the line is {}", if found { "there" } else { "gone" });
                Ok(())
            })
            .await?;
        }
        Ok(format!("there on day {}, gone on day {}", days - 1, days + 1))
    }
    .await;
    lab.restore(on).await?;
    later
}
