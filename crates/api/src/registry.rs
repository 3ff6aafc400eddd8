//! The registry's configuration, and what its control socket answers. What clients speak is the OCI Distribution
//! Specification 1.1, with the token exchange of Azure Container Registry.

use serde::{Deserialize, Serialize};

/// What tokens for the registry are asked for (`aud`), as on Azure.
pub const AUDIENCE: &str = "https://containerregistry.azure.net";
/// The user name that goes with a refresh token in Basic authentication, as on Azure.
pub const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";
/// The message under which the admin user's password derives from the registry's root key.
pub const ADMIN_KEY: &str = "admin";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RegistryConfig {
    /// The registry's name, such as `main`; also the name of its admin user.
    pub name: String,
    /// `https://ADDRESS[:PORT]` at which people reach it.
    pub url: String,
    /// Other names that it is called by, without port.
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub admin_user: bool,
    #[serde(default)]
    pub grants: Vec<Grant>,
    /// A tag that names a release may be pushed again.
    #[serde(default)]
    pub movable_releases: bool,
    /// Seconds that a manifest without a tag is kept; None is for ever.
    #[serde(default)]
    pub keep_untagged_seconds: Option<u64>,
    /// Azure's word for its size.
    #[serde(default)]
    pub tier: Tier,
}

/// One role assignment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Grant {
    /// The `sub` of identity's token: a resource (`service.web`), `supervisor`, or `group:NAME` of people.
    pub principal: String,
    pub role: RegistryRole,
    /// Repositories it is limited to; empty is all of the registry.
    #[serde(default)]
    pub repositories: Vec<String>,
}

/// Azure's built-in roles for registries, by their own names.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum RegistryRole {
    /// Reads images.
    #[serde(rename = "AcrPull")]
    Pull,
    /// Reads and writes images.
    #[serde(rename = "AcrPush")]
    Push,
    /// Deletes images.
    #[serde(rename = "AcrDelete")]
    Delete,
}

/// What a registry of a size has room for: Azure's included storage of each tier.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum Tier {
    Basic,
    Standard,
    Premium,
    /// No tier of Azure's: the disk is the bound.
    #[default]
    Unbounded,
}

impl Tier {
    /// The tier of this name.
    pub fn named(name: &str) -> Self {
        match name {
            "Basic" => Self::Basic,
            "Standard" => Self::Standard,
            "Premium" => Self::Premium,
            _ => Self::Unbounded,
        }
    }

    /// Bytes that it may hold; None is as much as the disk has.
    pub const fn storage_bytes(self) -> Option<u64> {
        match self {
            Self::Basic => Some(10 << 30),
            Self::Standard => Some(100 << 30),
            Self::Premium => Some(500 << 30),
            Self::Unbounded => None,
        }
    }
}

/// Whether a tag names a release: a semantic version (2.0.0 of its specification), with or without `v` before it. A tag cannot
/// hold the `+` of build data.
pub fn is_release(tag: &str) -> bool {
    let text = tag.strip_prefix('v').unwrap_or(tag);
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let parts: Vec<&str> = core.split('.').collect();
    let identifier = |part: &str| {
        let all = !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        all && (!part.bytes().all(|b| b.is_ascii_digit()) || number(part))
    };
    parts.len() == 3 && parts.iter().all(|part| number(part)) && pre.is_none_or(|pre| pre.split('.').all(identifier))
}

/// `GET /status` on the registry's control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegistryStatus {
    pub name: String,
    pub tier: Tier,
    /// None: as much as the disk has.
    pub storage_bytes: Option<u64>,
    pub used_bytes: u64,
    pub repositories: u64,
    pub manifests: u64,
    pub tags: u64,
    pub admin_user: bool,
    /// When the first image was pushed, Unix milliseconds: since then the registry is set up.
    pub set_up_ms: Option<i64>,
    /// What somebody should look at, such as an admin user that set-up needed and nobody switched off.
    pub warnings: Vec<String>,
    /// The last durable record of the registry's audit spool.
    pub audited: u64,
}
