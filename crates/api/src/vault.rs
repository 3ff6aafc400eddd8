//! The vault's configuration and the shapes of the Key Vault REST API that our own processes use.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VaultConfig {
    /// The vault's name, such as `main`; the first label of its host.
    pub name: String,
    /// `https://NAME.vault.ZONE[:PORT]`, used in ids and in the challenge.
    pub url: String,
    /// Days that a deleted secret stays recoverable, 7 to 90.
    pub soft_delete_days: u32,
    pub purge_protection: bool,
    /// The tier Premium: keys in hardware would be made, were they built. Otherwise Standard, which refuses them.
    #[serde(default)]
    pub premium: bool,
    pub assignments: Vec<Assignment>,
    /// Answers without auditing. Never read from a file: the load program sets it, to measure what auditing costs.
    #[doc(hidden)]
    #[serde(skip)]
    pub audit_off: bool,
}

/// One role assignment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Assignment {
    /// The `sub` that identity puts into the token: a resource (`service.web`), `supervisor`, or `group:NAME` of people.
    pub principal: String,
    pub role: VaultRole,
    /// Names of secrets it is limited to; empty is all of the vault.
    #[serde(default)]
    pub secrets: Vec<String>,
}

/// Azure's built-in roles for Key Vault data, by their own names.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum VaultRole {
    /// Reads values.
    #[serde(rename = "Key Vault Secrets User")]
    SecretsUser,
    /// Everything but role assignments.
    #[serde(rename = "Key Vault Secrets Officer")]
    SecretsOfficer,
    /// Reads names and attributes, no values.
    #[serde(rename = "Key Vault Reader")]
    Reader,
    /// Everything, purge included.
    #[serde(rename = "Key Vault Administrator")]
    Administrator,
}

/// A secret as the vault returns it. `value` is absent in lists and after updates.
#[derive(Clone, Deserialize)]
pub struct SecretBundle {
    #[serde(default)]
    pub value: Option<crate::Secret>,
    pub id: String,
}

/// Answers of the identity endpoint and the token endpoint.
#[derive(Deserialize)]
pub struct TokenAnswer {
    pub access_token: crate::Secret,
}

/// `GET /status` on the vault's control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VaultStatus {
    pub name: String,
    /// `standard`: keys are kept by software, none in hardware; or `premium`.
    pub sku: String,
    pub secrets: u64,
    pub deleted: u64,
    /// The data key that new values are sealed under.
    pub data_key: u64,
    pub assignments: usize,
    pub soft_delete_days: u32,
    pub purge_protection: bool,
    /// The last durable record of the vault's audit spool.
    pub audited: u64,
}
