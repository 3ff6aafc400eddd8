//! The checked configuration of the role.

use api::{Secret, Secrets, context::secret::TELEMETRY_ROOT, telemetry::TelemetryConfig};

use crate::Error;

const DEFAULT_RETENTION_DAYS: u32 = 30;
const DEFAULT_BODY_BYTES: u64 = 4 * 1024 * 1024;
/// A year of day files and a bit; more belongs into an archive.
const MAX_RETENTION_DAYS: u32 = 4000;

/// Sources with their keys, and bounds.
pub(crate) struct Config {
    pub retention_days: u32,
    pub body_bytes: usize,
    sources: Vec<(String, Secret)>,
}

impl Config {
    /// Derives the keys of all sources from the role's root key.
    pub(crate) fn new(config: TelemetryConfig, secrets: &Secrets) -> Result<Self, Error> {
        let root = secrets.get(TELEMETRY_ROOT).ok_or(Error::Secret(TELEMETRY_ROOT))?;
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        let retention = or(config.retention_days.into(), DEFAULT_RETENTION_DAYS.into());
        Ok(Self {
            retention_days: retention.min(MAX_RETENTION_DAYS.into()) as u32,
            body_bytes: or(config.body_bytes, DEFAULT_BODY_BYTES) as usize,
            sources: config
                .sources
                .into_iter()
                .map(|name| {
                    let key = root.derive(&format!("ingest:{name}"));
                    (name, key)
                })
                .collect(),
        })
    }

    /// The source whose key this is. Every key is compared, so that the time tells nothing about which one was near.
    pub(crate) fn source_of(&self, key: &str) -> Option<&str> {
        let mut found = None;
        for (name, secret) in &self.sources {
            if secret.matches(key) {
                found = Some(name.as_str());
            }
        }
        found
    }
}
