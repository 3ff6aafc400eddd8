//! `stamp open`: the address for a browser.

use std::process::ExitCode;

use api::supervisor::Status;

use crate::{arguments::Of, connect, failure::Failed, screen, target};

pub async fn run(of: &Of, resource: &str, json: bool) -> anyhow::Result<ExitCode> {
    let name = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let answer = client.send("GET", &format!("/status?system={name}&stamp={}", of.stamp), None).await?;
    let status: Status = connect::answer(&client, answer)?;
    let Some(url) = status.urls.get(resource) else {
        let known: Vec<&str> = status.urls.keys().map(String::as_str).collect();
        return Err(Failed::asked(format!("{resource} has no pages"), format!("one of: {}", known.join(", "))));
    };
    if json {
        screen::data(&serde_json::json!({ "resource": resource, "url": url, "ca": status.ca }).to_string());
    } else {
        screen::data(url);
        screen::talk(&format!("Your browser trusts it once you import {}", status.ca.display()));
    }
    Ok(ExitCode::SUCCESS)
}
