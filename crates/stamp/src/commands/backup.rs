//! `stamp backup` and `stamp backups`.

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use api::{
    backup::{BackupAnswer, Backups},
    client::Client,
    supervisor::{BackupList, BackupOf, Failure},
};

use crate::{arguments::Of, connect, failure::Failed, screen, target};

/// How often a base backup under way is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub async fn run(of: &Of, resource: Option<String>, point: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let client = connect::supervisor(&connect::home()?).await?;
    // Naming a moment waits for the archive.
    let client = client.timeout(Duration::from_secs(120));
    let asked = BackupOf { system: target::name(&of.system)?, stamp: of.stamp.clone(), resource, point };
    let begun = Instant::now();
    let body = serde_json::to_vec(&asked)?;
    let sent = client.send("POST", "/backup", Some(("application/json", body.into()))).await?;
    let answer: BackupAnswer = connect::answer(&client, sent)?;
    if let Some(point) = &answer.point {
        if json {
            screen::data(&serde_json::to_string(point)?);
        } else {
            let at = shown(point.at_ms);
            screen::talk(&format!("{} this moment is named {}: {at}", screen::green("✓"), screen::bold(&point.name)));
            let call = std::env::var(crate::env::STAMP_CALLED).unwrap_or_else(|_| "stamp".into());
            let next = format!("{call} restore {} --stamp {} --to-point {}", of.system, of.stamp, point.name);
            screen::talk(&format!("  go back to it: {next}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(name) = answer.name else { return Ok(ExitCode::SUCCESS) };
    let base = loop {
        let lists = lists(&client, &asked).await?;
        let all = lists.into_iter().map(|l| l.backups).find(|b| known(b, &name)).unwrap_or_default();
        if let Some(base) = all.bases.iter().find(|b| b.name == name) {
            break base.clone();
        }
        match all.running.filter(|r| r.name == name) {
            Some(running) => progress(&format!("{name}: {} MiB read", running.bytes >> 20), json),
            None => {
                let why = all.trouble.unwrap_or_else(|| "the keeper was started anew meanwhile".into());
                return Err(Failed(Failure {
                    code: "S0231".into(),
                    message: format!("the base backup {name} was not taken: {why}"),
                    hint: Some("mend what is named, and take it again; the schedule does so too".into()),
                    exit: 1,
                    ..Failure::default()
                })
                .into());
            }
        }
        tokio::time::sleep(LOOK).await;
    };
    progress("", json);
    if json {
        screen::data(&serde_json::to_string(&base)?);
    } else {
        screen::talk(&format!(
            "{} base backup {}: {} of data, {} stored and sealed, {:.1} s",
            screen::green("✓"),
            screen::bold(&base.name),
            size(base.bytes),
            size(base.stored_bytes),
            begun.elapsed().as_secs_f64()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn known(backups: &Backups, name: &str) -> bool {
    backups.running.as_ref().is_some_and(|r| r.name == name)
        || backups.bases.iter().any(|b| b.name == name)
        || backups.trouble.is_some()
}

/// One line that is drawn anew; on a terminal only.
fn progress(text: &str, plain: bool) {
    if !plain && screen::is_live() {
        let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{text}");
    }
}

async fn lists(client: &Client, of: &BackupOf) -> anyhow::Result<Vec<BackupList>> {
    let named = of.resource.as_ref().map(|r| format!("&resource={r}")).unwrap_or_default();
    let path = format!("/backups?system={}&stamp={}{named}", of.system, of.stamp);
    connect::answer(client, client.send("GET", &path, None).await?)
}

pub async fn list(of: &Of, resource: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let client = connect::supervisor(&connect::home()?).await?;
    let asked = BackupOf { system: target::name(&of.system)?, stamp: of.stamp.clone(), resource, point: None };
    let lists = lists(&client, &asked).await?;
    if json {
        screen::data(&serde_json::to_string(&lists)?);
        return Ok(ExitCode::SUCCESS);
    }
    for list in &lists {
        let all = &list.backups;
        let window = match all.window {
            Some(window) => format!("any moment from {} to {}", shown(window.from_ms), shown(window.to_ms)),
            None => "nothing can be gone back to yet: the first base backup comes a moment after the server".into(),
        };
        screen::talk(&format!("{}: {window}", screen::bold(&list.resource)));
        let archive = &all.archive;
        screen::talk(&match (&archive.trouble, archive.age_s) {
            (Some(trouble), _) => format!("  the log is NOT archived ({} tries failed): {trouble}", archive.failures),
            (None, Some(age)) => format!(
                "  log archived {age} s ago, {} waiting; {} on the disk, sealed",
                archive.waiting,
                size(all.bytes)
            ),
            (None, None) => "  nothing of the log is archived yet".into(),
        });
        if let Some(copy) = &all.copy {
            let behind = match (&copy.trouble, copy.age_s, copy.files_behind) {
                (Some(trouble), _, files) => format!("{files} files behind: {trouble}"),
                (None, Some(_), 0) => "whole".into(),
                (None, _, files) => format!("{files} files, {} behind", size(copy.bytes_behind)),
            };
            screen::talk(&format!("  further copy in {}: {behind}", copy.folder.display()));
        }
        if let Some(running) = &all.running {
            screen::talk(&format!("  base backup {} under way, {} read", running.name, size(running.bytes)));
        }
        if let Some(trouble) = &all.trouble {
            screen::talk(&format!("  the last base backup failed: {trouble}"));
        }
        match &list.verified {
            Some(done) if done.ok == Some(true) => {
                screen::talk(&format!("  restored and read whole by itself {}: {}", shown(done.at_ms), done.words));
            }
            Some(failed) => {
                screen::talk(&format!("  restoring it by itself {} FAILED: {}", shown(failed.at_ms), failed.words));
            }
            None => {}
        }
        for name in &list.restored {
            screen::talk(&format!("  restored beside it: {name} (`--swap` or `--discard`)"));
        }
        for folder in &list.kept {
            screen::talk(&format!("  kept by a swap: {} (`--forget-replaced` removes it)", folder.display()));
        }
        for point in &all.points {
            screen::talk(&format!("  point {}: {}", point.name, shown(point.at_ms)));
        }
        let rows: Vec<Vec<String>> = all
            .bases
            .iter()
            .map(|base| {
                vec![
                    base.name.clone(),
                    shown(base.earliest_ms),
                    size(base.bytes),
                    size(base.stored_bytes),
                    if base.scheduled { "schedule" } else { "asked for" }.into(),
                    match &all.copy {
                        None => "1",
                        Some(_) if base.copied => "2",
                        Some(_) => "1 of 2",
                    }
                    .into(),
                ]
            })
            .collect();
        screen::table(&["BASE BACKUP", "FROM", "DATA", "STORED", "BY", "COPIES"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

/// `2026-01-24T12:00:00.123Z`.
pub fn shown(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
