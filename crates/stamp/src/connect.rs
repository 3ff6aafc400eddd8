//! The way to the supervisor: starts it where it does not run, and anew where it is another version.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use api::{
    client::Client,
    supervisor::{Event, Failure, Version},
};
use http_body_util::BodyExt as _;
use supervisor::Home;

use crate::{env, failure::Failed};

/// The home of this call.
pub fn home() -> anyhow::Result<Home> {
    Ok(Home::at(env::home()?))
}

/// A client of the supervisor, if it runs.
pub async fn running(home: &Home) -> Option<(Client, Version)> {
    let client = Client::unix(home.socket()).timeout(Duration::from_secs(60));
    let version = client.get::<Version>("/version").await.ok()?;
    Some((client, version))
}

/// A client of the supervisor of this very binary; one of another binary hands over (what it placed goes on).
pub async fn supervisor(home: &Home) -> anyhow::Result<Client> {
    home.prepare().with_context(|| format!("could not make {}", home.root().display()))?;
    let own = std::env::current_exe().context("could not find this program")?;
    let bytes = std::fs::read(&own).context("could not read this program")?;
    let digest = supervisor::digest(&bytes);
    if let Some((client, version)) = running(home).await {
        if version.digest == digest {
            return Ok(client);
        }
        let _ = client.post::<(), serde_json::Value>("/shutdown", &()).await;
        gone(version.pid).await;
    }
    let kept = keep(home, &own, &bytes, &digest)?;
    let root = home.root().display().to_string();
    drivers::process::start_supervisor(&kept, &["serve", "supervisor", "--home", &root], &home.log())
        .context("could not start the supervisor")?;
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some((client, _)) = running(home).await {
            return Ok(client);
        }
        if Instant::now() > until {
            let log = std::fs::read_to_string(home.log()).unwrap_or_default();
            let lines = log.lines().rev().take(10).map(str::to_owned).collect::<Vec<_>>().into_iter().rev().collect();
            return Err(Failed(Failure {
                code: "S0003".into(),
                message: "the supervisor did not come up within 15 s".into(),
                lines,
                hint: Some(format!("its log is {}", home.log().display())),
                exit: 3,
                ..Failure::default()
            })
            .into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The copy of this program that every user of the home may run.
pub fn kept(home: &Home) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("could not find this program")?;
    let bytes = std::fs::read(&own).context("could not read this program")?;
    keep(home, &own, &bytes, &supervisor::digest(&bytes))
}

/// Ends the supervisor, and waits until it is gone.
pub async fn stop(home: &Home) {
    if let Some((client, version)) = running(home).await {
        let _ = client.post::<(), serde_json::Value>("/shutdown", &()).await;
        gone(version.pid).await;
    }
}

/// Keeps this program in the home: what runs must not change when the clone is built anew.
fn keep(home: &Home, own: &std::path::Path, bytes: &[u8], digest: &str) -> anyhow::Result<PathBuf> {
    let folder = home.bin().join(&digest[..16]);
    let kept = folder.join("stamp");
    if !kept.exists() {
        supervisor::keep(&folder, "stamp", bytes)
            .with_context(|| format!("could not keep a copy of {}", own.display()))?;
    }
    Ok(kept)
}

async fn gone(pid: u32) {
    let until = Instant::now() + Duration::from_secs(5);
    while drivers::proc::identify(pid).is_some() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends a request and gives every event to `take` until the last, which is returned.
pub async fn events(
    client: &Client,
    path: &str,
    body: &impl serde::Serialize,
    mut take: impl FnMut(Option<&Event>),
) -> anyhow::Result<Event> {
    let body = serde_json::to_vec(body)?;
    let response = client.open("POST", path, Some(("application/json", body.into()))).await?;
    let mut body = response.into_body();
    let mut pending = Vec::new();
    let mut last = None;
    let mut tick = tokio::time::interval(Duration::from_millis(80));
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = tick.tick() => { take(None); continue }
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.context("lost the supervisor; run the same command again")?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Event = serde_json::from_slice(&line).context("the supervisor said what is not understood")?;
            take(Some(&event));
            last = Some(event);
        }
    }
    match last {
        Some(Event::Failed(failure)) => Err(Failed(failure).into()),
        Some(event) if event.is_last() => Ok(event),
        _ => Err(Failed(Failure {
            code: "S0004".into(),
            message: "the supervisor ended before the work did".into(),
            hint: Some("run the same command again: it goes on where it was".into()),
            exit: 1,
            ..Failure::default()
        })
        .into()),
    }
}

/// The supervisor's answer, or its refusal as a failure.
pub fn answer<T: serde::de::DeserializeOwned>(client: &Client, answer: api::client::Answer) -> anyhow::Result<T> {
    if !answer.status.is_success()
        && let Ok(failure) = serde_json::from_slice::<Failure>(&answer.body)
    {
        return Err(Failed(failure).into());
    }
    Ok(client.read(answer)?)
}
