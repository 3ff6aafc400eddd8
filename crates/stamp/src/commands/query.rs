//! `stamp query`: read-only SQL over logs, spans and metrics.

use std::process::ExitCode;

use api::telemetry::{QueryAnswer, QueryRequest};

use crate::{arguments::Of, screen};

pub async fn run(of: &Of, sql: String, days: u32, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
    let client = super::traces::telemetry(of)?;
    let answer: QueryAnswer = client.post("/query", &QueryRequest { sql, days, limit }).await?;
    if json {
        screen::data(&serde_json::to_string(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = answer
        .rows
        .iter()
        .map(|row| row.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect())
        .collect();
    let head: Vec<&str> = answer.columns.iter().map(String::as_str).collect();
    screen::table(&head, &rows);
    if answer.truncated {
        screen::talk(&format!("more rows than {limit}: raise -n"));
    }
    Ok(ExitCode::SUCCESS)
}
