//! `stamp down` and `stamp destroy`.

use std::{
    io::{BufRead as _, IsTerminal as _},
    process::ExitCode,
};

use api::supervisor::{Event, StampRef};

use crate::{arguments::Of, connect, failure::Failed, live::Live, screen, target};

pub async fn run(of: &Of, json: bool) -> anyhow::Result<ExitCode> {
    let stamp = StampRef { system: target::name(&of.system)?, stamp: of.stamp.clone() };
    work(&stamp, "/down", json).await?;
    if json {
        screen::data(
            &serde_json::json!({ "system": stamp.system, "stamp": stamp.stamp, "state": "stopped" }).to_string(),
        );
    } else {
        screen::talk(&format!("{} {}/{} is down; its data stays", screen::green("✓"), stamp.system, stamp.stamp));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn destroy(of: &Of, yes: bool, json: bool) -> anyhow::Result<ExitCode> {
    let stamp = StampRef { system: target::name(&of.system)?, stamp: of.stamp.clone() };
    if !yes {
        let home = connect::home()?;
        screen::talk(&format!(
            "This removes {}/{} with its database, vault, people, logs and audit record:",
            stamp.system, stamp.stamp
        ));
        screen::talk(&format!("  {}", home.stamp(&stamp.system, &stamp.stamp).display()));
        confirm(&stamp.stamp, "nothing was removed")?;
    }
    work(&stamp, "/destroy", json).await?;
    if json {
        screen::data(
            &serde_json::json!({ "system": stamp.system, "stamp": stamp.stamp, "state": "destroyed" }).to_string(),
        );
    } else {
        screen::talk(&format!("{} {}/{} is gone", screen::green("✓"), stamp.system, stamp.stamp));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for the stamp's name; `kept` says what a wrong answer leaves as it was.
pub fn confirm(stamp: &str, kept: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Failed::asked("it was not confirmed", "add `--yes` where nobody can answer"));
    }
    screen::talk(&format!("Type the stamp's name ({stamp}) to go on:"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != stamp {
        return Err(Failed::asked(format!("it was not confirmed; {kept}"), "type the name as it is shown"));
    }
    Ok(())
}

async fn work(stamp: &StampRef, path: &str, json: bool) -> anyhow::Result<Event> {
    let client = connect::supervisor(&connect::home()?).await?;
    let mut live = Live::new(format!("{}/{}", stamp.system, stamp.stamp), json);
    connect::events(&client, path, stamp, |event| match event {
        Some(event) => live.take(event),
        None => live.draw(),
    })
    .await
}
