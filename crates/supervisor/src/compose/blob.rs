//! What an account of blobs is configured with.

use std::time::Duration;

use api::blob::{BlobConfig, BlobRole, ContainerConfig, Grant, PublicRead};
use model::resource::SecretOrigin;

use super::*;

impl Composer<'_> {
    pub(super) fn blob(&self, id: &ResourceId, blob: &model::resource::Blob) -> BlobConfig {
        let grants = blob.access.iter().filter_map(|a| {
            let role = BlobRole::named(&a.role)?;
            Some(Grant { principal: a.to.to_string(), role, container: a.container.clone() })
        });
        let containers = blob.containers.iter().map(|(name, declared)| (name.clone(), container(declared)));
        let mut hosts = vec![self.layout.name(id)];
        if self.system.cloud_names {
            hosts.push(crate::layout::cloud_account(id, blob));
        }
        if let Ok(address) = self.layout.address(id) {
            hosts.push(address.to_string());
        }
        // The key opens the account only where somebody is declared to have it.
        let asked = |origin: &SecretOrigin| matches!(origin, SecretOrigin::BlobKey { blob, .. } if blob == id);
        let shared_key = self.system.vaults().any(|(_, vault)| vault.secrets.values().any(asked));
        BlobConfig {
            account: crate::layout::account(id, blob),
            url: self.layout.named_url(id),
            hosts,
            containers: containers.collect(),
            grants: grants.collect(),
            shared_key,
            versioning: blob.versioning,
            soft_delete_seconds: blob.soft_delete.as_secs(),
        }
    }
}

fn container(declared: &model::resource::Container) -> ContainerConfig {
    let seconds = |after: Option<Duration>| after.map(|after| after.as_secs());
    ContainerConfig {
        public: match declared.public {
            model::resource::PublicRead::None => PublicRead::None,
            model::resource::PublicRead::Blob => PublicRead::Blob,
            model::resource::PublicRead::Container => PublicRead::Container,
        },
        cool_after_seconds: seconds(declared.cool_after),
        archive_after_seconds: seconds(declared.archive_after),
        delete_after_seconds: seconds(declared.delete_after),
        immutable_seconds: seconds(declared.immutable),
    }
}
