//! From a configuration to a role that answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::telemetry::TelemetryConfig;
use service::{Context, Limits};

use crate::{
    Error,
    config::Config,
    http::{self, Reader},
    ingest::Ingest,
    retention::{self, Watch},
    writer::Writer,
};

/// How often old days are looked for.
const RETENTION_PAUSE: Duration = Duration::from_secs(60);
/// Time for the last batches to reach the disk.
const WRITE_OUT: Duration = Duration::from_secs(5);
/// Connections of senders; each sender keeps one or a few.
const CONNECTIONS: usize = 256;

/// Serves until the end is asked for: ingestion on `https*`, reading on `control`. Returns when every request that was
/// taken is on the disk and answered.
pub async fn run(config: TelemetryConfig, mut context: Context) -> Result<(), Error> {
    let config = Arc::new(Config::new(config, &context.secrets)?);
    std::fs::create_dir_all(&context.data).map_err(|source| Error::Data { path: context.data.clone(), source })?;
    let (writer, written) = Writer::start(context.data.clone())?;
    let mut serving = tokio::task::JoinSet::new();

    if let Some(listener) = context.listeners.take("control") {
        let reader = Reader::new(
            context.data.clone(),
            config.clone(),
            context.clock.clone(),
            writer.clone(),
            context.shutdown.clone(),
        );
        let app = context.renewable(http::control(Arc::new(reader)));
        serving.spawn(service::serve(listener, None, app, Limits::default(), context.shutdown.clone()));
    }
    let listeners = context.listeners.take_all("https");
    if !listeners.is_empty() {
        let tls = context.server_tls(&[b"h2", b"http/1.1"], false).map_err(Error::Tls)?;
        let app = http::ingest(Arc::new(Ingest::new(config.clone(), writer.clone(), context.clock.clone())));
        for listener in listeners {
            let limits = Limits { connections: CONNECTIONS, body_bytes: config.body_bytes, ..Limits::default() };
            serving.spawn(service::serve(listener, Some(tls.clone()), app.clone(), limits, context.shutdown.clone()));
        }
    }
    drop(writer);
    let retention =
        tokio::spawn(keep_retention(context.data.clone(), config.retention_days, Watch::new(context.clock.clone())));

    let mut ended = Ok(());
    while let Some(served) = serving.join_next().await {
        let failed = match served {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(panic) => std::io::Error::other(panic),
        };
        // One listener lost is a role that does not do its duty: end as a whole, and be started again.
        ended = Err(Error::Serve(failed));
        context.shutdown.ask();
    }
    retention.abort();
    // The last sender of jobs went with the last connection; the thread ends after its last commit. A connection that
    // outlived its drain holds no answered request, so it is not waited for.
    if tokio::time::timeout(WRITE_OUT, written).await.is_err() {
        tracing::warn!("a connection was still open when the role ended");
    }
    ended
}

async fn keep_retention(data: std::path::PathBuf, retention_days: u32, mut watch: Watch) {
    let mut ticks = tokio::time::interval(RETENTION_PAUSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(now_ms) = watch.time(Instant::now()) {
            let data = data.clone();
            let oldest = retention::oldest(now_ms, retention_days);
            let _ = tokio::task::spawn_blocking(move || retention::delete_before(&data, oldest)).await;
        }
    }
}
