//! How a role is started: `stamp serve <role> --config FILE`, listeners and secrets as inherited descriptors.
//!
//! - `FILE` is a [`RoleFile`]: where the role lives and its own configuration. No secret in it.
//! - Listeners are inherited as systemd does it: `LISTEN_FDS` sockets from descriptor 3 on, their names in `LISTEN_FDNAMES`
//!   (colon-separated). Names in use: `control` (unix socket, owner only), `https`, `http`.
//! - Secrets come as one JSON object ([`crate::Secrets`]) through the pipe whose descriptor is in `STAMP_SECRETS_FD`.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The environment variable with the descriptor of the secrets pipe.
pub const SECRETS_FD: &str = "STAMP_SECRETS_FD";
/// The environment variable by which every process of a workload can be found: `HOMEHASH/SYSTEM/STAMP/RESOURCE`.
pub const MARK: &str = "STAMP_MARK";

/// Names of secrets that a role may be handed.
pub mod secret {
    /// The role's TLS certificate chain, PEM.
    pub const TLS_CERT: &str = "tls-cert";
    /// The role's TLS private key, PEM (PKCS#8).
    pub const TLS_KEY: &str = "tls-key";
    /// The vault's key-encryption key: 32 bytes, base64url.
    pub const VAULT_KEK: &str = "vault-kek";
    /// The identity role's root key; workload keys and client secrets derive from it.
    pub const IDENTITY_ROOT: &str = "identity-root";
    /// The telemetry role's root key; ingestion keys derive from it.
    pub const TELEMETRY_ROOT: &str = "telemetry-root";
    /// The audit role's root key; the keys with which spools ship derive from it.
    pub const AUDIT_ROOT: &str = "audit-root";
    /// A workload's own key at `identity` (`identity-root` derived by `workload:RESOURCE`).
    pub const WORKLOAD_KEY: &str = "workload-key";
    /// A workload's own ingestion key at `telemetry` (`telemetry-root` derived by `ingest:RESOURCE`).
    pub const INGEST_KEY: &str = "ingest-key";
    /// A role's own key at `audit` (`audit-root` derived by `ship:RESOURCE`).
    pub const SHIP_KEY: &str = "ship-key";
    /// The key that a PostgreSQL's backups are sealed under, for its keeper.
    pub const BACKUP_KEY: &str = "backup-key";
    /// The registry's root key; the admin user's password and the key of its tokens derive from it.
    pub const REGISTRY_ROOT: &str = "registry-root";
    /// A graph store's root key; the passwords of its users derive from it.
    pub const GRAPH_ROOT: &str = "graph-root";
    /// The blob role's root key; the account's key and those of delegated signatures derive from it.
    pub const BLOB_ROOT: &str = "blob-root";
    /// The database administrator's password, for the keeper of a PostgreSQL.
    pub const POSTGRES_ADMIN: &str = "postgres-admin";
    /// The password with which the members of one database follow each other.
    pub const POSTGRES_REPLICATION: &str = "postgres-replication";
    /// The public key by which a keeper knows tokens that open its database; no secret, but handed over with them.
    pub const DATABASE_TOKENS: &str = "database-tokens";
}

/// `PUT /certificate` on a role's control socket: shown from the next handshake on, while connections stay.
#[derive(Deserialize)]
pub struct Renewal {
    /// The chain, PEM.
    pub cert: crate::Secret,
    /// Its key, PEM (PKCS#8).
    pub key: crate::Secret,
}

/// The file a role is started with. `version` is 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleFile<C> {
    pub version: u32,
    pub context: ContextFile,
    pub config: C,
}

/// Where a role lives.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContextFile {
    /// The system's name, such as `time-tracker`.
    pub system: String,
    /// The stamp's name, such as `dev`.
    pub stamp: String,
    /// The resource this role serves, such as `vault.main`.
    pub resource: String,
    /// The role's own directory; only its user reads it.
    pub data: PathBuf,
    /// The stamp's CA certificate, PEM; everybody in the stamp reads it.
    pub ca: PathBuf,
    /// Names of the stamp and where they lead, for clients of the role.
    #[serde(default)]
    pub hosts: BTreeMap<String, IpAddr>,
    /// Who signs the tokens this role accepts.
    #[serde(default)]
    pub identity: Option<IdentityRef>,
    /// Where the audit spool is shipped to, `https://HOST:PORT`. None: it stays local.
    #[serde(default)]
    pub audit: Option<String>,
    /// Milliseconds by which this stamp's clock is moved (scratch stamps only).
    #[serde(default)]
    pub clock_offset_ms: i64,
}

/// The issuer whose tokens a role accepts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IdentityRef {
    /// The `iss` of workload tokens.
    pub issuer: String,
    /// Where the public keys are, `https://...`.
    pub jwks: String,
    /// The tenant id (a GUID) of this stamp.
    pub tenant: String,
}
