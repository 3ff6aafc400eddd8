//! Vault, identity, telemetry, audit and registry.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Principal, ResourceId},
    value::{Output, Value, VaultReference},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vault {
    pub subnet: Option<String>,
    /// The name it had in the cloud; references may use it as well as the resource's own name.
    pub cloud_name: Option<String>,
    /// How long a deleted secret can be recovered: 7 to 90 days.
    pub soft_delete: Duration,
    /// Keys in hardware are what this tier has and Standard has not.
    pub premium: bool,
    /// Nobody can remove a deleted secret for good before `soft_delete` is over.
    pub purge_protection: bool,
    pub access: Vec<VaultAccess>,
    /// Every secret it holds when the stamp is up, by name, and where its value comes from.
    pub secrets: BTreeMap<String, SecretOrigin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultAccess {
    pub to: Principal,
    pub role: VaultRole,
    /// Names it is limited to; empty is all of the vault.
    pub secrets: Vec<String>,
}

/// Azure's built-in roles for Key Vault data, by their own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultRole {
    #[serde(rename = "Key Vault Secrets User")]
    SecretsUser,
    #[serde(rename = "Key Vault Secrets Officer")]
    SecretsOfficer,
    #[serde(rename = "Key Vault Reader")]
    Reader,
    #[serde(rename = "Key Vault Administrator")]
    Administrator,
}

impl VaultRole {
    pub const ALL: [Self; 4] = [Self::SecretsUser, Self::SecretsOfficer, Self::Reader, Self::Administrator];

    /// Azure's name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::SecretsUser => "Key Vault Secrets User",
            Self::SecretsOfficer => "Key Vault Secrets Officer",
            Self::Reader => "Key Vault Reader",
            Self::Administrator => "Key Vault Administrator",
        }
    }

    /// Whether it may read values.
    pub const fn reads_values(self) -> bool {
        !matches!(self, Self::Reader)
    }
}

/// Where the value of a secret comes from. None of them is in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretOrigin {
    /// How `workload` connects to `database` of `postgres`, with its own role and password.
    Database { postgres: ResourceId, database: String, workload: Principal, format: ConnectionFormat },
    /// The administrator's password of `postgres`.
    AdminPassword { postgres: ResourceId },
    /// `InstrumentationKey=...;IngestionEndpoint=...` with the ingestion key of `workload`.
    Telemetry { telemetry: ResourceId, workload: Principal },
    /// The secret of an OIDC client of `identity`.
    ClientSecret { identity: ResourceId, client: String },
    /// The id of an OIDC client of `identity`, as it knows it.
    ClientId { identity: ResourceId, client: String },
    /// What a resource gives out: no secret here, but one place for a setting that systems keep in a vault.
    Output { resource: ResourceId, output: Output },
    /// How `workload` connects to `redis`, with its own user and password.
    Redis { redis: ResourceId, workload: Principal },
    /// How `workload` connects to `graph`, with its own user and password.
    Graph { graph: ResourceId, workload: Principal },
    /// The admin user's password of `registry`.
    RegistryPassword { registry: ResourceId },
    /// The key of the account `blob`, or how clients connect with it.
    BlobKey { blob: ResourceId, connection_string: bool },
    /// Random, made once.
    Generate { bytes: u32 },
    /// The same value as a secret of another vault.
    Same { vault: ResourceId, secret: String },
    /// A person sets it with `stamp secret set`.
    Ask,
}

impl SecretOrigin {
    /// The resource that the value belongs to, or the vault it is copied from.
    pub fn resource(&self) -> Option<&ResourceId> {
        match self {
            Self::Database { postgres, .. } | Self::AdminPassword { postgres } => Some(postgres),
            Self::Telemetry { telemetry, .. } => Some(telemetry),
            Self::ClientSecret { identity, .. } | Self::ClientId { identity, .. } => Some(identity),
            Self::Redis { redis, .. } => Some(redis),
            Self::Graph { graph, .. } => Some(graph),
            Self::RegistryPassword { registry } => Some(registry),
            Self::BlobKey { blob, .. } => Some(blob),
            Self::Same { vault, .. } => Some(vault),
            // Where something is is known before it runs: two services may know of each other.
            Self::Output { .. } | Self::Generate { .. } | Self::Ask => None,
        }
    }
}

/// How a database connection is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionFormat {
    /// `Host=..;Port=..;Database=..;Username=..;Password=..;SSL Mode=VerifyFull;Root Certificate=..`
    #[default]
    Npgsql,
    /// `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full&sslrootcert=..`
    Url,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Shown when signing in.
    pub title: String,
    /// An outside OIDC issuer that people sign in at; None: this role has its own sign-in.
    pub issuer: Option<String>,
    /// The groups that people can be in.
    pub groups: Vec<String>,
    /// The group whose members administer people; None: nobody but the operator of the stamp.
    pub admin_group: Option<String>,
    pub clients: BTreeMap<String, Client>,
    pub mfa: bool,
    /// How long a sign-in lasts.
    pub session: Duration,
    /// Outside issuers that vouch for people, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub issuers: BTreeMap<String, OutsideIssuer>,
    /// A directory that judges the passwords of people with its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
}

impl Identity {
    /// Secrets of vaults that it reads itself.
    pub fn secrets(&self) -> impl Iterator<Item = &VaultReference> {
        let of_issuers = self.issuers.values().filter_map(|issuer| issuer.secret.as_ref());
        of_issuers.chain(self.directory.iter().map(|directory| &directory.secret))
    }

    /// Addresses that may name other resources.
    pub fn addresses(&self) -> impl Iterator<Item = &Value> {
        self.issuers.values().map(|issuer| &issuer.issuer).chain(self.directory.iter().map(|directory| &directory.url))
    }
}

/// An OIDC issuer that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideIssuer {
    pub title: String,
    /// As it calls itself.
    pub issuer: Value,
    pub client: String,
    pub secret: Option<VaultReference>,
    pub domains: Vec<String>,
    pub groups_claim: String,
    /// By group here: what it is called there.
    pub groups: BTreeMap<String, String>,
}

/// An LDAP directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    pub url: Value,
    pub base: String,
    pub bind: String,
    pub secret: VaultReference,
    pub domains: Vec<String>,
    pub login: String,
    /// By group here: what it is called there.
    pub groups: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub title: String,
    /// Paths under the edge's URL that sign-in may return to.
    pub redirect: Vec<String>,
    /// Paths under the edge's URL that sign-out may return to.
    pub sign_out: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    pub retention: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    pub retention: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    pub size: Option<String>,
    pub cloud_name: Option<String>,
    /// Whether the admin user exists; meant for the first push only.
    pub admin_user: bool,
    pub access: Vec<RegistryAccess>,
    /// What every build is tagged with.
    pub tags: Vec<BuildTag>,
    /// Whether a tag that names a release may be pushed again.
    pub movable_releases: bool,
    /// How long images without a tag are kept; None is for ever.
    pub keep_untagged: Option<Duration>,
    /// Looks at each image as it comes.
    pub scan_on_push: Option<ResourceId>,
    /// Must pass an image before it is deployed.
    pub scan_before_deploy: Option<ResourceId>,
    pub on_push: Vec<OnPush>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAccess {
    pub to: Principal,
    pub role: RegistryRole,
    /// Names it is limited to; empty is all of the registry.
    pub repositories: Vec<String>,
}

/// Azure's built-in roles for registries, by their own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistryRole {
    #[serde(rename = "AcrPull")]
    Pull,
    #[serde(rename = "AcrPush")]
    Push,
    #[serde(rename = "AcrDelete")]
    Delete,
}

impl RegistryRole {
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// Azure's name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pull => "AcrPull",
            Self::Push => "AcrPush",
            Self::Delete => "AcrDelete",
        }
    }
}

/// A tag that a build gets by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildTag {
    /// `latest`, which moves to each build.
    Latest,
    /// `YYYYMMDD-HHMMSS`, the second of the build in UTC.
    Timestamp,
}

/// A push of `image` (`REPOSITORY:TAG`) deploys `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnPush {
    pub image: String,
    pub to: ResourceId,
}
