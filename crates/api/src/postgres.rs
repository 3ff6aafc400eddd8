//! The keeper of one PostgreSQL: its configuration, and what the supervisor asks of it on the control socket.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Secret, WireError,
    backup::{ArchiveStatus, BackupConfig, RestoreStatus},
    client::Client,
    member::MemberConfig,
};

/// What the keeper is started with. Secrets: `postgres-admin`, `tls-cert`, `tls-key`; listener: `control`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostgresConfig {
    /// The folder with `initdb` and `postgres`.
    pub bin: PathBuf,
    /// A data directory made once by `initdb` for this engine (`postgres::make_template`); it is copied.
    pub template: PathBuf,
    /// The declared address; nothing else is listened on, but the unix socket.
    pub address: IpAddr,
    pub port: u16,
    /// The folder of the unix socket (its path must stay short). The keeper makes it, for its own user alone.
    pub socket_dir: PathBuf,
    /// Databases that exist before the keeper says it is ready. The server's certificate and key come as TLS secrets;
    /// `data` of the context holds `pgdata`.
    pub databases: Vec<String>,
    /// Extra settings, by PostgreSQL's own names. Those that would open, unsafe or redirect the server are refused.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// This is one of several servers of a database; None: the only one.
    #[serde(default)]
    pub member: Option<MemberConfig>,
    /// Base backups and the archive of the log; None: none are kept. Needs the secret `backup-key`.
    #[serde(default)]
    pub backup: Option<BackupConfig>,
    /// Roles may sign in by identity: the tenant whose tokens open them. Needs the secret `database-tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// `PUT /roles/{name}` on the control socket. The password is in the body, once.
#[derive(Clone, Deserialize)]
pub struct RoleRequest {
    pub database: String,
    pub right: Right,
    pub password: Secret,
}

impl RoleRequest {
    /// The JSON body; a secret as a whole.
    pub fn encode(&self) -> Secret {
        let body = serde_json::json!({
            "database": self.database,
            "right": self.right,
            "password": self.password.expose(),
        });
        Secret::new(body.to_string())
    }
}

/// `PUT /identity-roles` on the control socket: all roles that sign in by identity, and no others from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRoles {
    pub roles: Vec<IdentityRole>,
}

/// A role that a token of its workload opens; it has no password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRole {
    pub name: String,
    /// Such as `service.web`.
    pub workload: String,
    /// The addresses from which it comes; empty: any.
    #[serde(default)]
    pub from: Vec<IpAddr>,
    /// Its right in each database; none in any other.
    pub rights: BTreeMap<String, Right>,
}

/// `POST /databases/{name}/dump` and `/load`: the file that one database goes into or comes from, in a folder of the keeper's
/// user. A load makes `NAME-restored` beside the database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DumpFile {
    pub file: PathBuf,
}

/// `POST /databases/{name}/swap`: what the database that is there is called from then on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwapName {
    pub kept: String,
}

/// `POST /databases/{name}/aside`: removes the restored database, or those that swaps have kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Aside {
    pub kept: bool,
}

/// Which database came of it, and which were set aside or removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    pub database: String,
    pub kept: Vec<String>,
}

/// `PUT /admin-password` on the control socket: the administrator has another password from then on.
#[derive(Clone, Deserialize)]
pub struct AdminPassword {
    pub password: Secret,
}

impl AdminPassword {
    /// The JSON body; a secret as a whole.
    pub fn encode(&self) -> Secret {
        Secret::new(serde_json::json!({ "password": self.password.expose() }).to_string())
    }
}

/// What a database role may do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Owns the schema: DDL. For the migration step.
    Owner,
    /// SELECT, INSERT, UPDATE, DELETE on what the owner made; no DDL.
    ReadWrite,
    ReadOnly,
}

/// `GET /status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostgresStatus {
    pub ready: bool,
    /// `SHOW server_version`; empty while no server answers.
    pub version: String,
    pub bin: PathBuf,
    /// The postmaster's process; 0 while none runs.
    pub pid: u32,
    /// Client connections but the keeper's own.
    pub connections: u32,
    /// Why it is not ready, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// How often the keeper has started the server since the keeper itself started; 0 when it adopted a running one.
    #[serde(default)]
    pub starts: u32,
    /// How the archiving of the log goes; None where no backups are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
    /// How the restore goes that this server's data comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
}

/// With less than this free on a disk of `bytes` of its own, a server takes no more writes, so that it can still be read, ended
/// and started: a twentieth of it, between 24 MiB and 5 GiB. Azure Database for PostgreSQL does so at 95 per cent or 5 GiB
/// (learn.microsoft.com, "Storage options in Azure Database for PostgreSQL").
pub fn read_only_below(bytes: u64) -> u64 {
    (bytes / 20).clamp(24 << 20, 5 << 30)
}

/// `GET /health`: 200 with `ready: true`, otherwise 503 with the error body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostgresHealth {
    pub ready: bool,
}

/// Makes a role, or changes its password and right, on a keeper's control socket. May be repeated.
///
/// # Errors
/// As every call: see [`WireError`]. 404 when the database does not exist, 400 for a name that is refused.
pub async fn set_role(control: &Client, name: &str, request: &RoleRequest) -> Result<(), WireError> {
    control.send_secret("PUT", &format!("/roles/{name}"), &request.encode()).await
}

/// Makes the roles that sign in by identity, and removes those that are not among them. A standby only looks anew. May be
/// repeated.
///
/// # Errors
/// As every call: see [`WireError`]. 404 when a database does not exist, 400 for a name that is refused or where no identity is.
pub async fn set_identity_roles(control: &Client, roles: &IdentityRoles) -> Result<(), WireError> {
    control.put("/identity-roles", roles).await
}

/// Removes a role and ends its sessions. May be repeated.
///
/// # Errors
/// 409 when the role owns objects of its own; see [`WireError`] for the rest.
pub async fn remove_role(control: &Client, name: &str) -> Result<(), WireError> {
    control.delete(&format!("/roles/{name}")).await
}

/// Makes a database if it is not there, and sets its groups' rights anew. May be repeated.
///
/// # Errors
/// As every call: see [`WireError`]. 400 for a name that is refused.
pub async fn set_database(control: &Client, name: &str) -> Result<(), WireError> {
    control.put(&format!("/databases/{name}"), &serde_json::json!({})).await
}

/// Writes one database into a file.
///
/// # Errors
/// 404 when there is none of that name, 501 where PostgreSQL's tools are missing; see [`WireError`] for the rest.
pub async fn dump_database(control: &Client, name: &str, file: &Path) -> Result<(), WireError> {
    control.post(&format!("/databases/{name}/dump"), &DumpFile { file: file.into() }).await
}

/// Makes `NAME-restored` out of a file, with the owners and rights of `name`.
///
/// # Errors
/// As [`dump_database`].
pub async fn load_database(control: &Client, name: &str, file: &Path) -> Result<Exchange, WireError> {
    control.post(&format!("/databases/{name}/load"), &DumpFile { file: file.into() }).await
}

/// Has `NAME-restored` take the place of `name`, whose sessions end and which is `kept` under that name.
///
/// # Errors
/// 404 when either is not there; see [`WireError`] for the rest.
pub async fn swap_database(control: &Client, name: &str, kept: &str) -> Result<Exchange, WireError> {
    control.post(&format!("/databases/{name}/swap"), &SwapName { kept: kept.into() }).await
}

/// Removes `NAME-restored`, or what swaps have `kept`.
///
/// # Errors
/// As every call: see [`WireError`].
pub async fn drop_aside(control: &Client, name: &str, kept: bool) -> Result<Exchange, WireError> {
    control.post(&format!("/databases/{name}/aside"), &Aside { kept }).await
}

/// What the keeper says of its server, ready or not.
///
/// # Errors
/// As every call: see [`WireError`].
pub async fn status(control: &Client) -> Result<PostgresStatus, WireError> {
    control.get("/status").await
}
