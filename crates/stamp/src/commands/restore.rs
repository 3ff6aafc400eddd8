//! `stamp restore`: a database beside the one there is, from its backups; then the swap.

use std::{
    io::{BufRead as _, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use api::{
    Secret,
    backup::Target,
    supervisor::{Event, RestoreRequest, Restored, SwapAct, SwapRequest},
};

use super::backup::shown;
use crate::{
    arguments::{Of, RestoreHow},
    connect,
    failure::Failed,
    live::{Live, seconds},
    screen, target,
};

/// `stamp backups --verify`.
pub async fn verify(of: &Of, resource: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let (system, stamp) = (target::name(&of.system)?, of.stamp.clone());
    let request = RestoreRequest {
        system: system.clone(),
        stamp: stamp.clone(),
        resource,
        target: Target::Latest,
        name: None,
        verify: true,
        database: None,
    };
    let restored = work(&system, &stamp, "/restore", &request, json).await?;
    if json {
        screen::data(&serde_json::to_string(&restored)?);
    } else {
        show(&restored, of);
    }
    Ok(ExitCode::SUCCESS)
}

/// A stamp that is not there, from a copy of another one's backups.
async fn from_copy(of: &Of, from: &Path, key_file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let key = if key_file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("could not read the recovery key from standard input")?
    } else {
        std::fs::read_to_string(key_file).with_context(|| format!("could not read {}", key_file.display()))?
    };
    let key = Secret::new(key.trim());
    let from = from.canonicalize().with_context(|| format!("could not find {}", from.display()))?;
    let request = super::up::request(of)?;
    let mut body = serde_json::to_value(&request)?;
    body["from"] = from.display().to_string().into();
    // A secret has no `Serialize`, so that it cannot be written by accident.
    body["recovery_key"] = key.expose().into();
    super::up::bring_up(of, "/restore-from", &body, json).await
}

pub async fn run(of: &Of, how: RestoreHow, json: bool) -> anyhow::Result<ExitCode> {
    if let (Some(from), Some(key_file)) = (&how.from, &how.key_file) {
        return from_copy(of, from, key_file, json).await;
    }
    let (system, stamp, resource) = (target::name(&of.system)?, of.stamp.clone(), how.resource.clone());
    let act = match (how.swap, how.discard, how.forget_replaced) {
        (true, ..) => Some(SwapAct::Swap),
        (_, true, _) => Some(SwapAct::Discard),
        (_, _, true) => Some(SwapAct::Forget),
        _ => None,
    };
    let restored = match act {
        Some(act) => {
            confirm(&system, &stamp, act, how.database.as_deref(), how.yes)?;
            work(
                &system,
                &stamp,
                "/swap",
                &SwapRequest {
                    system: system.clone(),
                    stamp: stamp.clone(),
                    resource,
                    act,
                    database: how.database.clone(),
                },
                json,
            )
            .await?
        }
        None => {
            let request = RestoreRequest {
                system: system.clone(),
                stamp: stamp.clone(),
                resource,
                target: wanted(&how)?,
                name: how.name.clone(),
                verify: false,
                database: how.database.clone(),
            };
            work(&system, &stamp, "/restore", &request, json).await?
        }
    };
    if json {
        screen::data(&serde_json::to_string(&restored)?);
    } else {
        show(&restored, of);
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(how: &RestoreHow) -> anyhow::Result<Target> {
    if let Some(name) = &how.to_point {
        return Ok(Target::Point { name: name.clone() });
    }
    let Some(text) = &how.to else { return Ok(Target::Latest) };
    let at: jiff::Timestamp = text.parse().map_err(|_| {
        Failed::asked(
            format!("`{text}` is no moment"),
            "write it with its zone: 2026-01-24T12:00:00Z, or ...T16:00:00+04:00",
        )
    })?;
    Ok(Target::Time { ms: at.as_millisecond() })
}

fn confirm(system: &str, stamp: &str, act: SwapAct, database: Option<&str>, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    screen::talk(&match (act, database) {
        (SwapAct::Swap, Some(database)) => format!(
            "This ends the sessions of {database} in {system}/{stamp} and puts the restored database in its place. What was written since the restored moment is then in the old one only, which is kept; other databases of the server go on."
        ),
        (SwapAct::Swap, None) => format!(
            "This ends the database of {system}/{stamp} for a moment and puts the restored one in its place. What was written since the restored moment is then in the old data only, which is kept."
        ),
        (SwapAct::Discard, _) => format!("This removes the restored database of {system}/{stamp}."),
        (SwapAct::Forget, _) => {
            format!("This removes the old data of {system}/{stamp} that a swap has kept, for good.")
        }
    });
    if !std::io::stdin().is_terminal() {
        return Err(Failed::asked("it was not confirmed", "add `--yes` where nobody can answer"));
    }
    screen::talk(&format!("Type the stamp's name ({stamp}) to go on:"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == stamp {
        return Ok(());
    }
    Err(Failed::asked("it was not confirmed; nothing was changed", "type the name as it is shown"))
}

async fn work(
    system: &str,
    stamp: &str,
    path: &str,
    request: &impl serde::Serialize,
    json: bool,
) -> anyhow::Result<Restored> {
    let client = connect::supervisor(&connect::home()?).await?;
    let mut live = Live::new(format!("{system}/{stamp}"), json);
    let end = connect::events(&client, path, request, |event| match event {
        Some(event) => live.take(event),
        None => live.draw(),
    })
    .await?;
    match end {
        Event::Restored(restored) => Ok(*restored),
        other => anyhow::bail!("the supervisor ended a restore with {other:?}"),
    }
}

fn show(restored: &Restored, of: &Of) {
    let done = |text: String| screen::talk(&format!("{} {text}", screen::green("✓")));
    let call = std::env::var(crate::env::STAMP_CALLED).unwrap_or_else(|_| "stamp".into());
    let command = format!("{call} restore {} {} --stamp {}", of.system, restored.origin, of.stamp);
    match restored.state.as_str() {
        "beside" => {
            done(format!(
                "{} is restored beside {}, {}",
                screen::bold(&restored.name),
                restored.origin,
                seconds(restored.milliseconds)
            ));
            if let Some(restore) = &restored.restore {
                screen::talk(&format!("  from base backup {} and {} files of the log", restore.base, restore.segments));
                if let Some(stopped) = &restore.stopped {
                    screen::talk(&format!("  recovery stopped {stopped}"));
                }
                if let Some(last) = restore.last_commit_ms {
                    screen::talk(&format!("  the last commit in it: {}", shown(last)));
                }
            }
            screen::talk(&format!(
                "  it answers at {} with the roles and passwords of {}, which was not touched",
                restored.address, restored.origin
            ));
            screen::talk(&format!("  its unix socket, for the administrator: {}", restored.socket.display()));
            screen::talk("");
            screen::talk("  Next:");
            screen::talk(&format!(
                "    {command} --swap     {}",
                screen::dim("# put it in place; the old data is kept")
            ));
            screen::talk(&format!("    {command} --discard  {}", screen::dim("# remove it")));
        }
        "swapped" => {
            done(format!(
                "{} took the place of {}, {}",
                restored.name,
                restored.origin,
                seconds(restored.milliseconds)
            ));
            if let Some(kept) = &restored.kept {
                screen::talk(&format!("  the old data is kept in {}", kept.display()));
                screen::talk(&format!("  once it is not needed: {command} --forget-replaced"));
            }
        }
        "database-beside" => {
            done(format!(
                "{} is restored in {}, beside the database there is, {}",
                screen::bold(&restored.name),
                restored.origin,
                seconds(restored.milliseconds)
            ));
            if let Some(stopped) = restored.restore.as_ref().and_then(|restore| restore.stopped.as_ref()) {
                screen::talk(&format!("  recovery stopped {stopped}"));
            }
            let database = restored.name.trim_end_matches("-restored");
            screen::talk("  it is open to the roles of the database it came from, which was not touched");
            screen::talk("");
            screen::talk("  Next:");
            for (flag, why) in [("--swap   ", "put it in place; the old one is kept"), ("--discard", "remove it")] {
                screen::talk(&format!(
                    "    {command} --database {database} {flag}  {}",
                    screen::dim(&format!("# {why}"))
                ));
            }
        }
        "database-swapped" => {
            let database = restored.name.clone();
            done(format!(
                "{} has the restored data, {}; the old one is kept as {}",
                screen::bold(&database),
                seconds(restored.milliseconds),
                restored.notes.join(", ")
            ));
            screen::talk(&format!("  once it is not needed: {command} --database {database} --forget-replaced"));
            return;
        }
        "database-discarded" | "database-forgotten" => {
            let gone = if restored.notes.is_empty() { "nothing".to_owned() } else { restored.notes.join(", ") };
            return done(format!("{gone} removed from {}", restored.origin));
        }
        "verified" => done(format!(
            "the backups of {} lead to a whole database: restored from {}, every table and index read, {}",
            restored.origin,
            restored.restore.as_ref().map(|r| r.base.as_str()).unwrap_or_default(),
            seconds(restored.milliseconds)
        )),
        "discarded" => done(format!("{} is removed", restored.name)),
        _ => done(format!("the old data of {} is removed", restored.origin)),
    }
    for note in &restored.notes {
        screen::talk(&screen::dim(&format!("  {note}")));
    }
}
