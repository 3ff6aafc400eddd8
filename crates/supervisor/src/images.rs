//! What the registries of a stamp have to tell.

use std::time::Duration;

use api::{client::Client, registry::RegistryStatus};

use crate::layout::Layout;

/// What `stamp status` notes of a registry; nothing where there is nothing to do.
pub async fn note(layout: &Layout, workload: &str) -> String {
    let client = Client::unix(layout.control(workload)).timeout(Duration::from_secs(2));
    match client.get::<RegistryStatus>("/status").await {
        Ok(status) => status.warnings.join("; "),
        Err(_) => "it does not say how it stands".into(),
    }
}
