//! `stamp exec`: a command in the place of a service, in the foreground.

use std::process::ExitCode;

use anyhow::Context as _;
use api::supervisor::{ExecAnswer, ExecRequest};
use drivers::{Driver as _, Limits, Listen, Placement, probe::Machine, process::Process};

use crate::{arguments::Of, connect, failure::Failed, target};

pub async fn run(of: &Of, service: String, command: Vec<String>) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let mut command = command;
    // A bare name is looked up here, in the person's PATH; the service's own may lack it.
    if let Some(program) = command.first_mut()
        && !program.contains('/')
        && let Some(found) = which(program)
    {
        *program = found;
    }
    let directory = std::env::current_dir().context("could not see the current folder")?;
    let request = ExecRequest { system, stamp: of.stamp.clone(), service, command, directory };
    let body = serde_json::to_vec(&request)?;
    let answer: ExecAnswer =
        connect::answer(&client, client.send("POST", "/exec", Some(("application/json", body.into()))).await?)?;
    let config = answer.config.clone();
    let code = tokio::task::spawn_blocking(move || place(answer)).await;
    let _ = std::fs::remove_file(config);
    Ok(ExitCode::from(code.context("the command's task ended")??))
}

fn place(answer: ExecAnswer) -> anyhow::Result<u8> {
    let driver = Process::new(Machine::probe());
    let environment = std::env::var_os("TERM").map(|t| ("TERM".to_owned(), t.to_string_lossy().into_owned()));
    let placed = driver
        .place(Placement {
            mark: format!("{}/exec", answer.mark),
            program: answer.program,
            arguments: vec!["serve".into(), "shim".into(), "--config".into(), answer.config.display().to_string()],
            environment: environment.into_iter().collect(),
            directory: answer.directory.clone(),
            user: answer.user,
            listeners: Vec::<Listen>::new(),
            secrets: answer.secrets.expose().as_bytes().to_vec(),
            network: answer.network,
            hosts_file: Some(answer.hosts_file),
            limits: Limits::default(),
            volume: None,
            shares: answer.shares.into_iter().map(share).collect(),
            log: None,
        })
        .map_err(|e| {
            if matches!(&e, drivers::Error::Spawn { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied) {
                Failed::asked(
                    format!("the service's user may not enter {}", answer.directory.display()),
                    "run it from a folder that everybody may enter, such as /tmp",
                )
            } else {
                e.into()
            }
        })?;
    let mut child = placed.child.context("the command was not started in the foreground")?;
    let status = child.wait().context("could not wait for the command")?;
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

fn share(mount: api::supervisor::ShareMount) -> drivers::share::Share {
    let api::supervisor::ShareMount { folder, at, write, group } = mount;
    drivers::share::Share { folder, at, write, group }
}

fn which(program: &str) -> Option<String> {
    let path = std::env::var("PATH").ok()?;
    path.split(':')
        .map(|f| std::path::Path::new(f).join(program))
        .find(|p| p.is_file())
        .map(|p| p.display().to_string())
}
