//! The blob role's configuration, and what its control socket answers. What clients speak is the Blob REST API of Azure Storage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// What tokens for blobs are asked for (`aud`), as on Azure.
pub const AUDIENCE: &str = "https://storage.azure.com";

/// The account's key, as clients take it: 64 bytes in base64. It derives from the role's root key.
pub fn account_key(root: &Secret) -> Secret {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(64));
    for half in ["account-key:1", "account-key:2"] {
        let derived = root.derive(half);
        bytes.extend(URL_SAFE_NO_PAD.decode(derived.expose()).expect("a derived secret is base64url"));
    }
    Secret::new(STANDARD.encode(bytes.as_slice()))
}

/// The connection string that clients of Azure Storage read.
pub fn connection_string(account: &str, url: &str, key: &Secret) -> Secret {
    Secret::new(format!(
        "DefaultEndpointsProtocol=https;AccountName={account};AccountKey={};BlobEndpoint={url}",
        key.expose()
    ))
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BlobConfig {
    /// The account's name, such as `images`.
    pub account: String,
    /// `https://NAME[:PORT]` at which workloads reach it.
    pub url: String,
    /// Other names that it is called by, without port.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Containers that are always there.
    #[serde(default)]
    pub containers: BTreeMap<String, ContainerConfig>,
    #[serde(default)]
    pub grants: Vec<Grant>,
    /// The account's key opens it, and what is signed by it.
    #[serde(default)]
    pub shared_key: bool,
    /// What is overwritten or deleted stays as a version.
    #[serde(default)]
    pub versioning: bool,
    /// How long what is deleted can be brought back; 0 is not at all.
    #[serde(default)]
    pub soft_delete_seconds: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct ContainerConfig {
    #[serde(default)]
    pub public: PublicRead,
    #[serde(default)]
    pub cool_after_seconds: Option<u64>,
    #[serde(default)]
    pub archive_after_seconds: Option<u64>,
    #[serde(default)]
    pub delete_after_seconds: Option<u64>,
    /// Nobody changes or deletes a blob before this.
    #[serde(default)]
    pub immutable_seconds: Option<u64>,
}

/// What somebody without credentials may do.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum PublicRead {
    /// Nothing.
    #[default]
    None,
    /// Read a blob whose name they know.
    Blob,
    /// List the container too.
    Container,
}

/// One role assignment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Grant {
    /// The `sub` of identity's token: a resource (`service.web`), or `group:NAME` of people.
    pub principal: String,
    pub role: BlobRole,
    /// The container it is limited to; None is the whole account.
    #[serde(default)]
    pub container: Option<String>,
}

/// Azure's built-in roles for the data of blobs, by their own names.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum BlobRole {
    #[serde(rename = "Storage Blob Data Reader")]
    Reader,
    #[serde(rename = "Storage Blob Data Contributor")]
    Contributor,
    #[serde(rename = "Storage Blob Data Owner")]
    Owner,
}

impl BlobRole {
    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "Storage Blob Data Reader" => Some(Self::Reader),
            "Storage Blob Data Contributor" => Some(Self::Contributor),
            "Storage Blob Data Owner" => Some(Self::Owner),
            _ => None,
        }
    }
}

/// `GET /status` on the role's control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobStatus {
    pub account: String,
    pub containers: u64,
    /// Blobs that are read without naming a version.
    pub blobs: u64,
    /// What stands behind them: versions, snapshots, and what can be brought back.
    pub kept: u64,
    /// Bytes of all of it, each piece counted once.
    pub used_bytes: u64,
    /// The last durable record of the role's audit spool.
    pub audited: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_bytes_and_another_for_another_root() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let (one, two) = (account_key(&Secret::new("a")), account_key(&Secret::new("b")));
        assert_eq!(STANDARD.decode(one.expose()).map(|key| key.len()), Ok(64));
        assert!(!one.matches(two.expose()));
    }
}
