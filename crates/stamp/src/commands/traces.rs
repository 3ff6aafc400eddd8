//! `stamp traces`.

use std::process::ExitCode;

use api::{client::Client, telemetry::Trace};
use supervisor::Places;

use crate::{arguments::Of, connect, failure::Failed, screen, target};

pub async fn run(of: &Of, id: Option<&str>, lines: usize, json: bool) -> anyhow::Result<ExitCode> {
    let client = telemetry(of)?;
    match id {
        None => {
            let traces: Vec<serde_json::Value> = client.get(&format!("/traces?limit={lines}")).await?;
            if json {
                screen::data(&serde_json::to_string(&traces)?);
                return Ok(ExitCode::SUCCESS);
            }
            let word = |v: &serde_json::Value, k: &str| v[k].as_str().map_or_else(|| v[k].to_string(), str::to_owned);
            let rows: Vec<Vec<String>> = traces
                .iter()
                .map(|t| {
                    let ms = t["duration_ns"].as_f64().unwrap_or(0.0) / 1e6;
                    vec![word(t, "trace_id"), format!("{ms:.1} ms"), word(t, "spans"), word(t, "name")]
                })
                .collect();
            screen::table(&["TRACE", "TOOK", "SPANS", "ROOT"], &rows);
        }
        Some(id) => {
            let trace: Trace = client.get(&format!("/traces/{id}")).await?;
            if json {
                screen::data(&serde_json::to_string(&trace)?);
                return Ok(ExitCode::SUCCESS);
            }
            for span in &trace.spans {
                let indent = "  ".repeat(span.depth as usize);
                screen::data(&format!(
                    "{indent}{} {} {}{}",
                    span.name,
                    screen::dim(&format!("{:.2} ms", span.duration_ns as f64 / 1e6)),
                    screen::cyan(&span.source),
                    if span.status == "error" { screen::red(" error") } else { String::new() }
                ));
            }
            for line in &trace.logs {
                screen::data(&format!("  {} {}", screen::dim(&line.source), line.body));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A client of the stamp's telemetry.
pub fn telemetry(of: &Of) -> anyhow::Result<Client> {
    let system = target::name(&of.system)?;
    let places = Places::of(&connect::home()?, &system, &of.stamp).map_err(|e| Failed(e.failure()))?;
    let telemetry = places.first("telemetry").ok_or_else(|| {
        Failed::asked(format!("{system} declares no telemetry"), "add `[telemetry.main]` to system.toml")
    })?;
    Ok(Client::unix(places.control(&telemetry)))
}
