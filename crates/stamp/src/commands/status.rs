//! `stamp status`.

use std::process::ExitCode;

use api::supervisor::{MemberStatus, ResourceStatus, StampLine, Status, StorageStatus};

use crate::{connect, screen, target};

pub async fn run(system: Option<&str>, stamp: &str, json: bool) -> anyhow::Result<ExitCode> {
    let client = connect::supervisor(&connect::home()?).await?;
    let Some(system) = system else {
        let lines: Vec<StampLine> = connect::answer(&client, client.send("GET", "/stamps", None).await?)?;
        if json {
            screen::data(&serde_json::to_string(&lines)?);
        } else if lines.is_empty() {
            screen::talk("No stamp yet. Bring one up: stamp up systems/time-tracker");
        } else {
            let rows: Vec<Vec<String>> =
                lines.into_iter().map(|l| vec![l.system, l.stamp, l.wanted, l.folder.display().to_string()]).collect();
            screen::table(&["SYSTEM", "STAMP", "WANTED", "FROM"], &rows);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let name = target::name(system)?;
    let status: Status =
        connect::answer(&client, client.send("GET", &format!("/status?system={name}&stamp={stamp}"), None).await?)?;
    if json {
        screen::data(&serde_json::to_string(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    screen::talk(&format!("{} is {}", screen::bold(&format!("{}/{}", status.system, status.stamp)), status.state));
    let rows: Vec<Vec<String>> = status
        .resources
        .iter()
        .map(|r| {
            let pids: Vec<String> = r.pids.iter().take(2).map(u32::to_string).collect();
            vec![
                r.name.clone(),
                r.state.clone(),
                r.address.clone(),
                pids.join(" "),
                format!("{:.1} MiB", r.pss_bytes as f64 / 1_048_576.0),
                r.restarts.to_string(),
                r.note.clone(),
            ]
        })
        .collect();
    screen::table(&["RESOURCE", "STATE", "ADDRESS", "SHIM, PID", "PSS", "RESTARTS", "NOTE"], &rows);
    let members: Vec<Vec<String>> =
        status.resources.iter().filter_map(|r| Some((r, r.member.as_ref()?))).map(|(r, m)| member(r, m)).collect();
    if !members.is_empty() {
        screen::table(&["MEMBER", "PART", "ZONE", "TERM", "TIMELINE", "LAG", "SYNCHRONOUS", "DOING"], &members);
    }
    let disks: Vec<Vec<String>> =
        status.resources.iter().filter_map(|r| Some((r, r.storage.as_ref()?))).map(|(r, s)| disk(r, s)).collect();
    if !disks.is_empty() {
        screen::table(&["DISK", "SIZE", "USED", "FREE", "GROWS", "FREE ON THE MACHINE"], &disks);
    }
    if !status.groups.is_empty() {
        let rows: Vec<Vec<String>> =
            status.groups.iter().map(|(name, holds)| vec![name.clone(), holds.join(", ")]).collect();
        screen::table(&["GROUP", "HOLDS"], &rows);
    }
    if !status.network.is_empty() {
        screen::talk(&format!("network: {}", status.network));
    }
    for (name, url) in &status.urls {
        screen::talk(&format!("{name}: {url}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn disk(resource: &ResourceStatus, storage: &StorageStatus) -> Vec<String> {
    let bytes = |bytes: u64| match bytes >> 20 {
        mib if mib < 10_240 => format!("{mib} MiB"),
        mib => format!("{:.1} GiB", mib as f64 / 1024.0),
    };
    let grows = match storage.grows {
        true => format!("up to {} GiB", storage.most_bytes >> 30),
        false => "no".into(),
    };
    vec![
        resource.name.clone(),
        bytes(storage.bytes),
        bytes(storage.used_bytes),
        bytes(storage.free_bytes),
        grows,
        bytes(storage.disk_free_bytes),
    ]
}

fn member(resource: &ResourceStatus, member: &MemberStatus) -> Vec<String> {
    let lag = match (member.part.as_str(), member.lag_bytes, member.lag_ms) {
        ("primary", _, _) => "-".to_owned(),
        (_, Some(bytes), Some(ms)) => format!("{bytes} B, {ms} ms"),
        _ => "?".into(),
    };
    vec![
        resource.name.clone(),
        member.part.clone(),
        member.zone.clone(),
        member.term.to_string(),
        member.timeline.to_string(),
        lag,
        if member.synchronous { "yes" } else { "-" }.into(),
        member.doing.clone(),
    ]
}
