//! `stamp up`: reads the manifest, hands it to the supervisor, follows the work.

use std::process::ExitCode;

use anyhow::Context as _;
use api::supervisor::{Event, Ready, UpRequest};

use crate::{arguments::Of, connect, live::Live, screen, target};

pub async fn run(of: &Of, json: bool) -> anyhow::Result<ExitCode> {
    let source = target::read(&of.system)?;
    // Faults are shown before anything is started.
    let system = super::plan::resolve(&source, &of.stamp)?;
    let own = std::env::current_exe().context("could not find this program")?;
    let programs = own.parent().map(|p| vec![p.to_owned()]).unwrap_or_default();
    let home = connect::home()?;
    let client = connect::supervisor(&home).await?;
    let request = UpRequest {
        folder: source.folder,
        manifest: source.text,
        stamp: of.stamp.clone(),
        programs,
        clock_offset_ms: 0,
        certificate_seconds: 0,
    };
    let mut live = Live::new(format!("{}/{}", system.name, of.stamp), json);
    if !screen::is_live() || json {
        screen::talk(&format!("{}/{}: bringing it up", system.name, of.stamp));
    }
    let end = connect::events(&client, "/up", &request, |event| match event {
        Some(event) => live.take(event),
        None => live.draw(),
    })
    .await?;
    if let Event::Ready(ready) = end {
        show(&ready, of, json);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(ready: &Ready, of: &Of, json: bool) {
    if json {
        let object = serde_json::json!({
            "system": ready.system,
            "stamp": ready.stamp,
            "state": "ready",
            "seconds": ready.seconds,
            "urls": ready.urls,
            "ca": ready.ca,
            "admin_link": ready.admin_link,
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
