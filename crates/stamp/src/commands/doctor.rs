//! `stamp doctor`: what this machine can isolate; what it refuses, with the refused command.

use std::process::ExitCode;

use drivers::probe::{Machine, Mounts};

use crate::{connect, screen};

pub fn run(json: bool) -> anyhow::Result<ExitCode> {
    let machine = Machine::probe();
    let home = connect::home()?;
    let engines = api::engine::installed(&home.engines());
    let mounts = match &machine.mounts {
        Mounts::Root => Ok("mount namespaces, as root".to_owned()),
        Mounts::UserNamespace => Ok("mount namespaces inside user namespaces".to_owned()),
        Mounts::None(why) => Err(why.clone()),
    };
    let cgroups = if machine.cgroups.limits() {
        Ok(if machine.cgroups.v2.is_some() {
            "control groups, version 2".to_owned()
        } else {
            "control groups, version 1".to_owned()
        })
    } else {
        Err(machine.cgroups.refused.clone().unwrap_or_default())
    };
    let ports = if machine.lowest_port <= 80 {
        Ok("the documents' own ports (443, 80)".to_owned())
    } else {
        Err(format!(
            "bind port 443: the lowest port this user may bind is {}; 8443 and 8080 are used",
            machine.lowest_port
        ))
    };
    let engine = match engines.first() {
        Some(_) => Ok(engines
            .iter()
            .map(|e| format!("PostgreSQL {} in {}", e.version, e.bin.display()))
            .collect::<Vec<_>>()
            .join(", ")),
        None => Err(format!("ls {}: no engine; `./stampw up` brings one", home.engines().display())),
    };
    let checks = [
        (
            "own user for each workload",
            machine.users.clone().map(|()| "yes".to_owned()),
            "workloads share your user; tokens are bound to processes instead",
        ),
        (
            "own names for each workload",
            mounts,
            "names such as main.vault.dev.SYSTEM.internal do not resolve inside workloads; addresses are used",
        ),
        ("limits on memory, CPU, processes", cgroups, "declared limits are not enforced"),
        (
            "closed network for each stamp",
            machine.network.clone().map(|()| "namespaces, a router, and only declared flows".to_owned()),
            "stamps live on loopback addresses, and every process of the machine reaches their ports",
        ),
        (
            "a disk of its own for each database",
            machine.volumes.clone().map(|()| "ext4 on loop devices, of the declared size".to_owned()),
            "`storage.size` is not enforced: a database takes what the machine's disk has",
        ),
        ("ports", ports, "URLs carry a port"),
        ("engines", engine, "databases cannot be started"),
    ];
    if json {
        let list: Vec<serde_json::Value> = checks
            .iter()
            .map(|(what, found, _)| match found {
                Ok(how) => serde_json::json!({ "what": what, "ok": true, "how": how }),
                Err(why) => serde_json::json!({ "what": what, "ok": false, "refused": why }),
            })
            .collect();
        screen::data(&serde_json::json!({ "home": home.root(), "checks": list }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    screen::data(&format!("STAMP_HOME: {}", home.root().display()));
    for (what, found, without) in &checks {
        match found {
            Ok(how) => screen::data(&format!("{} {what}: {how}", screen::green("✓"))),
            Err(why) => {
                screen::data(&format!("{} {what}: no", screen::bold("!")));
                screen::data(&format!("    refused: {why}"));
                screen::data(&format!("    so: {without}"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
