//! Checks the configuration the role is started with.

use api::audit::AuditConfig;

use crate::Error;

/// Days from 1 on, and source names that are names of directories too.
pub fn check(config: &AuditConfig) -> Result<(), Error> {
    if config.retention_days == 0 {
        return Err(Error::Config("retention_days is 0; records would be gone at once".into()));
    }
    match config.sources.iter().find(|s| !is_source(s)) {
        Some(bad) => Err(Error::Config(format!("`{bad}` is not the name of a resource"))),
        None => Ok(()),
    }
}

/// Whether a text may name a source: a resource such as `vault.main`.
pub fn is_source(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}
