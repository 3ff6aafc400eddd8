//! Logs of roles: one JSON object a line on stderr. The shim keeps and ships them.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Installs the log output of this process; `STAMP_LOG` sets the filter (default `info`).
pub fn install() {
    let filter = EnvFilter::try_from_env("STAMP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(true);
    // A second call (tests) keeps the first output.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}
