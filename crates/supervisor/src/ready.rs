//! Waits until a workload is ready, and says what is awaited. A failed check says what was asked and what came back.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    time::{Duration, Instant},
};

use api::{
    client::{Client, Target},
    shim::{Ask, ShimStatus, WorkloadState},
};

use crate::{
    Error,
    compose::{Composed, Ready},
    layout::Layout,
    shims,
};

/// Of a log, when a wait was in vain: lines, and bytes at most.
const LINES: usize = 10;
const WORDS: u64 = 16 * 1024;
/// So many ends within the wait are a program that cannot run.
const ENDS: u32 = 5;

/// Resolves when the workload is ready, and fails if it is not in time; `note` is told what is awaited.
pub async fn wait(layout: &Layout, composed: &Composed, mut note: impl FnMut(String)) -> Result<(), Error> {
    let (workload, ready, within) = (composed.workload.as_str(), &composed.ready, composed.start_within);
    let started = Instant::now();
    let mut pause = Duration::from_millis(5);
    let mut told = Instant::now();
    let mut ends_before = None;
    loop {
        let status = shim(layout, workload).await;
        let ends_before = *ends_before.get_or_insert_with(|| status.as_ref().map_or(0, |s| s.restarts));
        let awaited = match check(layout, workload, ready, status.as_ref()).await {
            Ok(()) => return Ok(()),
            Err(awaited) => awaited,
        };
        let tail = || status.as_ref().and_then(|s| s.last_exit.as_ref()).map(|e| e.tail.clone()).unwrap_or_default();
        if let Some(status) = &status {
            if status.state == WorkloadState::Failed {
                return Err(Error::KeepsEnding { workload: workload.into(), how: how(status), tail: tail() });
            }
            if status.restarts >= ends_before + ENDS {
                let how = status.trouble.clone().unwrap_or_else(|| how(status));
                return Err(Error::KeepsEnding { workload: workload.into(), how, tail: tail() });
            }
        }
        if started.elapsed() > within {
            // One that never ended has said nothing at its end.
            let tail = Some(tail()).filter(|lines| !lines.is_empty()).unwrap_or_else(|| last_words(layout, workload));
            let of = format!("{}/{}", layout.system, layout.stamp);
            return Err(Error::NotReady { of, workload: workload.into(), within, awaited, tail });
        }
        if told.elapsed() > Duration::from_millis(500) {
            told = Instant::now();
            note(awaited);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
}

/// The last lines of a workload's log; none where it cannot be read.
fn last_words(layout: &Layout, workload: &str) -> Vec<String> {
    let log = layout.place(workload).join("log/current.log");
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(end.saturating_sub(WORDS)))?;
        let mut bytes = Vec::new();
        file.take(WORDS).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    words_of(&String::from_utf8_lossy(&bytes))
}

/// The texts of the last lines `UNIX-MS o|e TEXT`; a first line that was cut is none.
fn words_of(log: &str) -> Vec<String> {
    let text = |line: &str| {
        let (at, rest) = line.split_once(' ')?;
        at.parse::<i64>().ok()?;
        rest.strip_prefix("o ").or_else(|| rest.strip_prefix("e ")).map(str::to_owned)
    };
    let texts: Vec<String> = log.lines().filter_map(text).collect();
    texts[texts.len().saturating_sub(LINES)..].to_vec()
}

/// One look; the error is what is awaited.
pub async fn check(layout: &Layout, workload: &str, ready: &Ready, status: Option<&ShimStatus>) -> Result<(), String> {
    let trouble = || status.and_then(|s| s.trouble.clone());
    let running = status.is_some_and(|s| s.state == WorkloadState::Running);
    match ready {
        Ready::Done => match status.map(|s| s.state) {
            Some(WorkloadState::Done) => Ok(()),
            _ => Err(trouble().unwrap_or_else(|| "its end".into())),
        },
        _ if !running => Err(trouble().unwrap_or_else(|| match status {
            Some(status) => format!("its process ({})", how(status)),
            None => "its shim".into(),
        })),
        Ready::Running => Ok(()),
        Ready::Redis => {
            let (layout, workload) = (layout.clone(), workload.to_owned());
            let asked = tokio::task::spawn_blocking(move || crate::redis::ping(&layout, &workload)).await;
            asked.unwrap_or_else(|e| Err(e.to_string()))
        }
        Ready::Port(at) => match tokio::time::timeout(Duration::from_secs(1), connect(layout, workload, *at)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(format!("a connection to {at}: {e}")),
            Err(_) => Err(format!("a connection to {at}: no answer in 1 s")),
        },
        Ready::Http { at, path } => {
            let base = format!("http://{at}");
            let Ok(base) = base.parse() else { return Err(base) };
            let client =
                Client::new(Target::Http { base }).dialled(layout.dial(workload)).timeout(Duration::from_secs(2));
            match client.send("GET", path, None).await {
                Ok(answer) if answer.status.is_success() => Ok(()),
                Ok(answer) => {
                    let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
                    Err(format!(
                        "GET http://{at}{path} to answer 200 (it answered {}: {})",
                        answer.status.as_u16(),
                        body.trim()
                    ))
                }
                Err(e) => Err(format!("GET http://{at}{path}: {}", crate::error::chain(&e))),
            }
        }
        Ready::Control => {
            let client = Client::unix(layout.control(workload)).timeout(Duration::from_secs(2));
            match client.send("GET", "/health", None).await {
                Ok(answer) if answer.status.is_success() => Ok(()),
                Ok(answer) => {
                    let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
                    Err(format!("its health (it answered {}: {})", answer.status.as_u16(), body.trim()))
                }
                Err(e) => Err(format!("its health: {}", crate::error::chain(&e))),
            }
        }
    }
}

/// A connection to a workload, from inside its own network if it has one.
async fn connect(layout: &Layout, workload: &str, at: std::net::SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    match layout.dial(workload) {
        Some(dial) => dial(at).await,
        None => tokio::net::TcpStream::connect(at).await,
    }
}

/// Resolves when the entry sees a target of every upstream as healthy, and fails if it does not within `within`.
pub async fn open(
    layout: &Layout,
    workload: &str,
    within: Duration,
    mut note: impl FnMut(String),
) -> Result<(), Error> {
    let started = Instant::now();
    let mut told = Instant::now();
    let client = Client::unix(layout.control(workload)).timeout(Duration::from_secs(2));
    loop {
        let awaited = match client.get::<serde_json::Value>("/targets").await {
            Ok(answer) => {
                let targets = answer["targets"].as_array().cloned().unwrap_or_default();
                let name = |t: &serde_json::Value| t["upstream"].as_str().unwrap_or_default().to_owned();
                // Stamps behind a front door come and go; it serves whichever are there.
                let waited = targets.iter().map(name).filter(|upstream| *upstream != crate::compose::ORIGINS);
                let closed = waited.into_iter().find(|upstream| {
                    !targets.iter().any(|t| name(t) == *upstream && t["available"] == true && t["healthy"] == true)
                });
                match closed {
                    None => return Ok(()),
                    Some(upstream) => format!("the health of {upstream}, as the entry sees it"),
                }
            }
            Err(e) => crate::error::chain(&e),
        };
        if started.elapsed() > within {
            let of = format!("{}/{}", layout.system, layout.stamp);
            let tail = Vec::new();
            return Err(Error::NotReady { of, workload: workload.into(), within, awaited, tail });
        }
        if told.elapsed() > Duration::from_millis(500) {
            told = Instant::now();
            note(awaited);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A shim's status, asked off the runtime.
pub async fn shim(layout: &Layout, workload: &str) -> Option<ShimStatus> {
    let socket = layout.shim_socket(workload);
    tokio::task::spawn_blocking(move || shims::ask(&socket, &Ask::Status)).await.ok().flatten()
}

/// How a workload last ended, in words.
pub fn how(status: &ShimStatus) -> String {
    match &status.last_exit {
        Some(exit) => match (exit.code, exit.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".into(),
        },
        None => "it has not started yet".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_told_without_their_marks() {
        let log =
            "95 e cut\n1795436769814 e 2026-11-23 FATAL:  bogus data\n1795436769815 o and so on\nno line of a log\n";
        assert_eq!(words_of(log), ["cut", "2026-11-23 FATAL:  bogus data", "and so on"]);
        let many: String = (0..30).map(|n| format!("{n} o line {n}\n")).collect();
        assert_eq!((words_of(&many).len(), words_of(&many)[0].as_str()), (LINES, "line 20"));
        assert_eq!(words_of("6769814 x what"), Vec::<String>::new());
    }
}
