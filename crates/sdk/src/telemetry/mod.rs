//! Logs, spans and metrics: as JSON lines on stdout, and over OTLP/HTTP to the address the platform gives.
//!
//! Nothing here ever makes a request wait: records go into a bounded queue, and what does not fit is counted and dropped.
//! Where they go: `APPLICATIONINSIGHTS_CONNECTION_STRING` (`InstrumentationKey=...;IngestionEndpoint=https://.../`) or the
//! OpenTelemetry variables `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_EXPORTER_OTLP_HEADERS`; neither set means stdout only.

mod context;
mod export;
mod layer;
mod metrics;
mod panics;
pub mod request;

use std::time::Duration;

use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

pub use context::{TraceContext, traceparent};
pub use metrics::{Metrics, metrics};
pub use panics::stack;
pub use request::track;

use crate::{Settings, SettingsError, Trust, TrustError};

/// Records waiting to be sent; more are dropped and counted.
pub(crate) const QUEUE: usize = 4096;
/// How long the last batch may take when the program ends.
const GOODBYE: Duration = Duration::from_secs(3);
/// Our own troubles with sending are told on stdout only; sending them would feed itself.
pub(crate) const OWN_TARGET: &str = "sdk::telemetry::export";

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the telemetry address in {0} cannot be read")]
    Address(&'static str),
    #[error("the telemetry service's certificate authority is unusable")]
    Trust(#[from] TrustError),
    #[error("telemetry was already started in this process")]
    Twice,
}

/// Running telemetry; call [`Telemetry::finish`] last so that nothing is lost at a planned end.
pub struct Telemetry {
    exporter: Option<export::Exporter>,
}

/// Starts logs on stdout and, where the environment names a receiver, sending. `service` names the application.
///
/// # Errors
/// The receiver's address or certificate authority is unusable, or telemetry runs already.
pub fn start(settings: &Settings, service: &str, version: &str) -> Result<Telemetry, TelemetryError> {
    let asked = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(true);
    // Statements and outgoing calls are spans of the sent trace; in the lines only the request's span is of use.
    let lines = lines.with_span_list(false).with_filter(filter.clone());
    let receiver = export::Receiver::from_settings(settings)?;
    let exporter = match receiver {
        None => None,
        Some(receiver) => {
            let trust = Trust::from_settings(settings, &["OTEL_EXPORTER_OTLP_CERTIFICATE"])?;
            Some(export::Exporter::start(receiver, &trust, export::resource(settings, service, version)?)?)
        }
    };
    let sending = exporter.as_ref().map(|e| layer::ExportLayer::new(e.queue()).with_filter(filter));
    tracing_subscriber::registry().with(lines).with(sending).try_init().map_err(|_| TelemetryError::Twice)?;
    panics::install();
    Ok(Telemetry { exporter })
}

impl Telemetry {
    /// Sends what is waiting, for three seconds at most.
    pub async fn finish(self) {
        if let Some(exporter) = self.exporter {
            let _ = tokio::time::timeout(GOODBYE, exporter.finish()).await;
        }
    }
}

/// A custom event: something that happened in the application's own terms, found in the telemetry by `event.name`.
#[macro_export]
macro_rules! event {
    ($name:literal $(, $($fields:tt)*)?) => {
        $crate::telemetry::tracing_crate::info!(event.name = $name, $($($fields)*,)? "{}", $name)
    };
}

#[doc(hidden)]
pub use tracing as tracing_crate;
