//! Active checks: each target of an upstream with a check is asked in its interval, whatever the traffic.

use std::{
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use ::http::{Request, StatusCode, header};
use api::gateway::HealthCheck;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use crate::{
    dial::{Stream, dial},
    table::Table,
    target::Target,
};

/// Starts the checks of a configuration. They end when the set is dropped.
pub fn start(table: &Table) -> JoinSet<()> {
    let mut checks = JoinSet::new();
    for (name, group) in &table.groups {
        let check = table.config.upstreams.get(name).and_then(|u| u.health.clone());
        for target in &group.targets {
            match &check {
                Some(check) => {
                    checks.spawn(watch(target.clone(), check.clone()));
                }
                // Nobody would ever call it healthy again.
                None => target.healthy.store(true, Relaxed),
            }
        }
    }
    checks
}

/// The first answer decides at once, also that of one that was away; after it, `fall` failures or `rise` successes in a
/// row do.
async fn watch(target: Arc<Target>, check: HealthCheck) {
    let timeout = Duration::from_millis(check.timeout_ms);
    let mut row = 0;
    let mut ill = 0;
    let mut first = true;
    let mut ticks = tokio::time::interval(Duration::from_millis(check.interval_ms));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = ask(&target, &check.path, timeout).await;
        let healthy = target.healthy.load(Relaxed);
        match &outcome {
            Ok(()) => first |= target.away.load(Relaxed),
            Err(Fault::Away(_)) => {
                ill = 0;
                target.away.store(true, Relaxed);
            }
            // One that has just come back may answer so while it starts.
            Err(Fault::Ill(_)) => {
                ill += 1;
                if ill >= check.fall {
                    target.away.store(false, Relaxed);
                }
            }
        }
        let well = outcome.is_ok();
        row = if outcome.is_ok() == healthy { 0 } else { row + 1 };
        if row > 0 && (first || row >= if healthy { check.fall } else { check.rise }) {
            target.healthy.store(!healthy, Relaxed);
            row = 0;
            match outcome {
                Ok(()) => tracing::info!(target = %target.label, "a target is healthy"),
                Err(why) => tracing::warn!(target = %target.label, path = check.path, %why, "a target is not healthy"),
            }
        }
        if well {
            target.answered();
        }
        first = false;
    }
}

/// Why a target is not well.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody listens.
    #[error("{0}")]
    Away(io::Error),
    #[error("{0}")]
    Ill(String),
}

/// Whether a connection could not be made because nobody listens, or whoever did is just ending: then nothing was sent, and
/// somebody may listen soon. What is wrong with a certificate is another thing (`InvalidData`), and so is silence.
pub fn is_away(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// Asks a target once.
pub async fn ask(target: &Target, path: &str, limit: Duration) -> Result<(), Fault> {
    let asked = tokio::time::timeout(limit, async {
        let stream = dial(target).await.map_err(|error| match is_away(&error) {
            true => Fault::Away(error),
            false => Fault::Ill(error.to_string()),
        })?;
        get(stream, target, path).await.map_err(|error| Fault::Ill(error.to_string()))
    });
    match asked.await {
        Ok(Ok(status)) if status.is_success() || status.is_redirection() => Ok(()),
        Ok(Ok(status)) => Err(Fault::Ill(format!("it answered {status}"))),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err(Fault::Ill(format!("no answer within {} ms", limit.as_millis()))),
    }
}

async fn get(stream: Stream, target: &Target, path: &str) -> io::Result<StatusCode> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(path)
        .header(header::HOST, target.address.to_string())
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, "stampwright-gateway")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let mut answer = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut answer => response,
        // The connection may end in the same turn in which it brought the answer.
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    response.map(|response| response.status()).map_err(io::Error::other)
}
