//! `stamp job`: when jobs run, how they ended, and one run now.

use std::{process::ExitCode, time::Duration};

use api::{
    client::Client,
    job::{JobRequest, JobRun, JobStatus},
};

use crate::{arguments::Of, commands::backup::shown, connect, screen, target};

/// How often a run under way is looked at.
const LOOK: Duration = Duration::from_millis(200);

async fn jobs(client: &Client, of: &Of, name: Option<&str>) -> anyhow::Result<Vec<JobStatus>> {
    let system = target::name(&of.system)?;
    let named = name.map(|n| format!("&name={n}")).unwrap_or_default();
    let path = format!("/jobs?system={system}&stamp={}{named}", of.stamp);
    connect::answer(client, client.send("GET", &path, None).await?)
}

pub async fn list(of: &Of, json: bool) -> anyhow::Result<ExitCode> {
    let client = connect::supervisor(&connect::home()?).await?;
    let jobs = jobs(&client, of, None).await?;
    if json {
        screen::data(&serde_json::to_string(&jobs)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rows = jobs.iter().map(|job| {
        let last = job.runs.first();
        let next = job.next_ms.map(shown).unwrap_or_else(|| "-".into());
        let (when, how) = last.map_or(("-".into(), "never ran".into()), |run| (shown(run.started_ms), how(run)));
        vec![job.name.clone(), job.schedule.clone(), next, when, how]
    });
    screen::table(&["JOB", "SCHEDULE (UTC)", "NEXT", "LAST", "ENDED"], &rows.collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

pub async fn runs(of: &Of, name: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let client = connect::supervisor(&connect::home()?).await?;
    let jobs = jobs(&client, of, name).await?;
    if json {
        screen::data(&serde_json::to_string(&jobs)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rows = jobs.iter().flat_map(|job| {
        job.runs.iter().map(|run| {
            let took =
                run.ended_ms.map_or("-".into(), |end| format!("{:.1} s", (end - run.started_ms) as f64 / 1000.0));
            vec![
                run.number.to_string(),
                job.name.clone(),
                run.why.clone(),
                shown(run.started_ms),
                took,
                how(run),
                run.note.clone(),
            ]
        })
    });
    screen::table(&["RUN", "JOB", "BY", "STARTED", "TOOK", "ENDED", "NOTE"], &rows.collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

/// Runs it and waits for its end, whose success is this command's.
pub async fn run(of: &Of, name: &str, json: bool) -> anyhow::Result<ExitCode> {
    let client = connect::supervisor(&connect::home()?).await?;
    let ask = JobRequest { system: target::name(&of.system)?, stamp: of.stamp.clone(), name: name.to_owned() };
    let body = serde_json::to_vec(&ask)?;
    let sent = client.send("POST", "/job/run", Some(("application/json", body.into()))).await?;
    let begun: JobRun = connect::answer(&client, sent)?;
    let ended = loop {
        let known = jobs(&client, of, Some(name)).await?;
        let run = known.into_iter().flat_map(|job| job.runs).find(|run| run.number == begun.number);
        match run {
            Some(run) if !run.is_over() => tokio::time::sleep(LOOK).await,
            other => break other,
        }
    };
    let ended = ended.unwrap_or(begun);
    let done = ended.outcome == "done";
    if json {
        screen::data(&serde_json::to_string(&ended)?);
    } else {
        let note = if ended.note.is_empty() { String::new() } else { format!(": {}", ended.note) };
        let mark = if done { screen::green("✓") } else { "✗".into() };
        screen::talk(&format!("{mark} {name}: {}{note}", how(&ended)));
        screen::talk(&format!("  what it said: stamp logs {} job.{}", of.system, name.trim_start_matches("job.")));
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn how(run: &JobRun) -> String {
    match (run.exit_code.filter(|code| *code != 0), run.signal) {
        (Some(code), _) => format!("{} with {code}", run.outcome),
        (_, Some(signal)) => format!("{} by signal {signal}", run.outcome),
        _ => run.outcome.clone(),
    }
}
