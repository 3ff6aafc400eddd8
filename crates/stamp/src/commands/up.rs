//! `stamp up`: reads the manifest, hands it to the supervisor, follows the work.

use std::process::ExitCode;

use anyhow::Context as _;
use api::{
    Secret,
    supervisor::{Event, Ready, RecoveryKey, StampRef, UpRequest},
};

use crate::{arguments::Of, connect, live::Live, screen, target};

pub async fn run(of: &Of, json: bool) -> anyhow::Result<ExitCode> {
    let request = serde_json::to_value(request(of)?)?;
    bring_up(of, "/up", &request, json).await
}

/// What the supervisor is asked for.
pub fn request(of: &Of) -> anyhow::Result<UpRequest> {
    let source = target::read(&of.system)?;
    // Faults are shown before anything is started.
    super::plan::resolve(&source, &of.stamp)?;
    let own = std::env::current_exe().context("could not find this program")?;
    let programs = own.parent().map(|p| vec![p.to_owned()]).unwrap_or_default();
    Ok(UpRequest {
        folder: source.folder,
        manifest: source.text,
        stamp: of.stamp.clone(),
        programs,
        clock_offset_ms: 0,
        certificate_seconds: 0,
    })
}

/// Asks, follows the work, and shows what came of it.
pub async fn bring_up(of: &Of, path: &str, request: &serde_json::Value, json: bool) -> anyhow::Result<ExitCode> {
    let name = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let mut live = Live::new(format!("{name}/{}", of.stamp), json);
    if !screen::is_live() || json {
        screen::talk(&format!("{name}/{}: bringing it up", of.stamp));
    }
    let end = connect::events(&client, path, request, |event| match event {
        Some(event) => live.take(event),
        None => live.draw(),
    })
    .await?;
    if let Event::Ready(ready) = end {
        let stamp = StampRef { system: name, stamp: of.stamp.clone() };
        let key: RecoveryKey = client.post("/recovery-key", &stamp).await?;
        show(&ready, key.recovery_key.as_ref(), of, json);
        if key.recovery_key.is_some() {
            // Only now: one that was cut before shows it again.
            client.post::<_, serde_json::Value>("/recovery-key-shown", &stamp).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(ready: &Ready, recovery_key: Option<&Secret>, of: &Of, json: bool) {
    if json {
        let object = serde_json::json!({
            "system": ready.system,
            "stamp": ready.stamp,
            "state": "ready",
            "seconds": ready.seconds,
            "urls": ready.urls,
            "ca": ready.ca,
            "admin_link": ready.admin_link,
            "recovery_key": recovery_key.map(|key| key.expose()),
        });
        screen::data(&object.to_string());
        return;
    }
    screen::talk("");
    screen::talk(&format!(
        "{} {} is up, {:.1} s",
        screen::green("✓"),
        screen::bold(&format!("{}/{}", ready.system, ready.stamp)),
        ready.seconds
    ));
    screen::talk("");
    for (name, url) in ready.urls.iter().filter(|(name, _)| !name.starts_with("vault")) {
        let words = if name == "edge" { ready.title.as_str() } else { name.as_str() };
        screen::talk(&format!("  {words:<18} {}", screen::cyan(url)));
    }
    screen::talk(&format!("  {:<18} {}", "CA certificate", ready.ca.display()));
    if let Some(link) = &ready.admin_link {
        screen::talk("");
        screen::talk("  The first administrator sets a password here (the link works once, within 24 hours):");
        screen::talk(&format!("  {}", screen::cyan(link)));
        screen::talk(&format!("  and then signs in as {}.", screen::bold("admin@localhost")));
    }
    if let Some(key) = recovery_key {
        screen::talk("");
        screen::talk(
            "  The recovery key, shown this once. With it and a copy of the backups the stamp comes back without this",
        );
        screen::talk("  machine; without it, nothing stored opens elsewhere. Keep it away from here:");
        screen::talk(&format!("  {}", screen::bold(key.expose())));
    }
    for missing in &ready.missing {
        screen::talk(&format!("  {} not isolated here: {missing}", screen::bold("!")));
    }
    for note in &ready.notes {
        screen::talk(&screen::dim(&format!("  {note}")));
    }
    let stamp = if of.stamp == "dev" { String::new() } else { format!(" --stamp {}", of.stamp) };
    let call = std::env::var(crate::env::STAMP_CALLED).unwrap_or_else(|_| "stamp".into());
    screen::talk("");
    screen::talk("  Next:");
    for (command, why) in [
        (format!("{call} status {}{stamp}", of.system), "what runs, where, with how much memory"),
        (format!("{call} logs {}{stamp} --follow", of.system), "what it says"),
        (format!("{call} down {}{stamp}", of.system), "stop it; the data stays"),
    ] {
        screen::talk(&format!("    {command}  {}", screen::dim(&format!("# {why}"))));
    }
}
