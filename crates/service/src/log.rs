//! Logs of roles: one JSON object a line on stderr. The shim keeps and ships them.

use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Installs the log output of this process; `STAMP_LOG` sets the filter, such as `info,gateway=debug` (default `info`).
pub fn install() {
    let asked = std::env::var("STAMP_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    let lines = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(true);
    // A second call (tests) keeps the first output.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}
