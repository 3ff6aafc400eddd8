//! `stamp logs`: from telemetry; where that does not answer, from the files that the shims keep.

use std::process::ExitCode;

use anyhow::Context as _;
use api::{client::Client, telemetry::LogLine};
use http_body_util::BodyExt as _;
use supervisor::Places;

use crate::{arguments::Of, connect, failure::Failed, screen, target};

/// What is asked.
pub struct Ask {
    pub resource: Option<String>,
    pub follow: bool,
    pub grep: Option<String>,
    pub since: String,
    pub lines: usize,
}

pub async fn run(of: &Of, ask: Ask, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let places = Places::of(&connect::home()?, &system, &of.stamp).map_err(|e| Failed(e.failure()))?;
    let back = model::unit::duration(&ask.since)
        .map_err(|why| Failed::asked(format!("--since {}: {why}", ask.since), "such as 10m"))?;
    let since = jiff::Timestamp::now().as_millisecond() - back.as_millis() as i64;
    if let Some(telemetry) = places.first("telemetry")
        && from_telemetry(&places, &telemetry, &ask, since, json).await?
    {
        return Ok(ExitCode::SUCCESS);
    }
    from_files(&places, &ask, since, json)?;
    Ok(ExitCode::SUCCESS)
}

/// False if telemetry does not answer.
async fn from_telemetry(places: &Places, telemetry: &str, ask: &Ask, since: i64, json: bool) -> anyhow::Result<bool> {
    let client = Client::unix(places.control(telemetry));
    let mut path = format!("/logs?since_ms={since}&limit={}", ask.lines);
    let mut add = |name: &str, value: &str| {
        let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        path.push_str(&format!("&{name}={value}"));
    };
    if let Some(resource) = &ask.resource {
        add("source", resource);
    }
    if let Some(grep) = &ask.grep {
        add("grep", grep);
    }
    if ask.follow {
        add("follow", "1");
    }
    let Ok(response) = client.open("GET", &path, None).await else { return Ok(false) };
    if !response.status().is_success() {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::bail!("telemetry answered {status}: {}", String::from_utf8_lossy(&body));
    }
    let mut body = response.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("lost telemetry")?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if json {
                screen::data(String::from_utf8_lossy(&line).trim_end());
            } else if let Ok(line) = serde_json::from_slice::<LogLine>(&line) {
                show(line.time_ns / 1_000_000, &line.source, &line.level, &line.body);
            }
        }
    }
    Ok(true)
}

fn from_files(places: &Places, ask: &Ask, since: i64, json: bool) -> anyhow::Result<()> {
    screen::talk("telemetry does not answer; from the files:");
    let mut lines = Vec::new();
    for workload in places.workloads() {
        if ask.resource.as_ref().is_some_and(|r| *r != workload) {
            continue;
        }
        for part in ["current.log.1", "current.log"] {
            let Ok(text) = std::fs::read_to_string(places.log(&workload).join(part)) else { continue };
            for line in text.lines() {
                let mut fields = line.splitn(3, ' ');
                let (Some(at), Some(_), Some(body)) = (fields.next(), fields.next(), fields.next()) else { continue };
                let at: i64 = at.parse().unwrap_or(0);
                if at >= since && ask.grep.as_ref().is_none_or(|g| body.contains(g)) {
                    lines.push((at, workload.clone(), body.to_owned()));
                }
            }
        }
    }
    lines.sort();
    let skip = lines.len().saturating_sub(ask.lines);
    for (at, workload, body) in lines.into_iter().skip(skip) {
        if json {
            screen::data(
                &serde_json::json!({ "time_ns": at * 1_000_000, "source": workload, "body": body }).to_string(),
            );
        } else {
            show(at, &workload, "", &body);
        }
    }
    Ok(())
}

fn show(at_ms: i64, source: &str, level: &str, body: &str) {
    let time =
        jiff::Timestamp::from_millisecond(at_ms).map(|t| t.strftime("%H:%M:%S%.3f").to_string()).unwrap_or_default();
    // A structured line is shown by its message and what goes with it.
    let words = match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body) {
        Ok(fields) => {
            let message = fields.get("message").and_then(|m| m.as_str()).unwrap_or_default().to_owned();
            let rest: Vec<String> = fields
                .iter()
                .filter(|(k, _)| !["message", "timestamp", "level", "target", "time"].contains(&k.as_str()))
                .map(|(k, v)| format!("{k}={}", v.as_str().map_or_else(|| v.to_string(), str::to_owned)))
                .collect();
            format!("{message} {}", screen::dim(&rest.join(" "))).trim().to_owned()
        }
        Err(_) => body.to_owned(),
    };
    let level = match level.to_ascii_lowercase().as_str() {
        "error" | "fatal" => screen::red(" ERROR"),
        "warn" => screen::bold(" WARN"),
        _ => String::new(),
    };
    screen::data(&format!("{} {}{level} {words}", screen::dim(&time), screen::cyan(&format!("{source:<16}"))));
}
