//! `stamp failover` and `stamp switchover`.

use std::process::ExitCode;

use api::supervisor::{Event, LeadRequest};

use crate::{arguments::Of, connect, live::Live, screen, target};

/// How another member comes to lead.
pub enum How {
    /// The primary is killed.
    Now { accept_loss: bool },
    /// The primary steps down.
    InOrder,
}

pub async fn run(of: &Of, resource: Option<String>, how: How, json: bool) -> anyhow::Result<ExitCode> {
    let (path, accept_loss) = match how {
        How::Now { accept_loss } => ("/failover", accept_loss),
        How::InOrder => ("/switchover", false),
    };
    let request = LeadRequest { system: target::name(&of.system)?, stamp: of.stamp.clone(), resource, accept_loss };
    let client = connect::supervisor(&connect::home()?).await?;
    let mut live = Live::new(format!("{}/{}", request.system, request.stamp), json);
    let end = connect::events(&client, path, &request, |event| match event {
        Some(event) => live.take(event),
        None => live.draw(),
    })
    .await?;
    let Event::Led(led) = end else { anyhow::bail!("the supervisor told no end of it") };
    if json {
        screen::data(&serde_json::to_string(&led)?);
        return Ok(ExitCode::SUCCESS);
    }
    let away = led.outage_ms.map_or_else(String::new, |ms| format!("; no member took writes for {ms} ms"));
    screen::talk(&format!(
        "{} {} leads {} now (term {}){away}",
        screen::green("✓"),
        led.primary,
        led.resource,
        led.term
    ));
    Ok(ExitCode::SUCCESS)
}
