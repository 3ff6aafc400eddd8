//! Identity: its configuration, and how shims and the supervisor ask it for tokens.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentityConfig {
    /// `https://HOST[:PORT]`, no trailing slash; the OIDC issuer, also of workload tokens.
    pub issuer: String,
    /// A GUID; the directory tenant of this stamp (`tid`).
    pub tenant: String,
    /// Shown on the pages, such as `Time Tracker`.
    pub title: String,
    #[serde(default)]
    pub clients: Vec<Client>,
    /// Groups that people can be put in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The group whose members administer people. The first person is put there. Empty: nobody does so on the pages.
    #[serde(default)]
    pub admin_group: String,
    /// Workloads that may ask for tokens, such as `service.web`.
    #[serde(default)]
    pub workloads: Vec<String>,
    /// Life of a workload's token.
    #[serde(default = "hour")]
    pub workload_token_seconds: u64,
    /// Life of a person's session.
    #[serde(default = "session")]
    pub session_seconds: u64,
    /// Life of a refresh token that is not used.
    #[serde(default = "month")]
    pub refresh_seconds: u64,
    /// How long one key signs before the next, already published one takes over.
    #[serde(default = "month")]
    pub key_rotation_seconds: u64,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            tenant: String::new(),
            title: String::new(),
            clients: Vec::new(),
            groups: Vec::new(),
            admin_group: String::new(),
            workloads: Vec::new(),
            workload_token_seconds: hour(),
            session_seconds: session(),
            refresh_seconds: month(),
            key_rotation_seconds: month(),
        }
    }
}

fn hour() -> u64 {
    3600
}

fn session() -> u64 {
    12 * 3600
}

fn month() -> u64 {
    30 * 24 * 3600
}

/// An OIDC client: confidential, code flow with PKCE required. Its secret is `identity-root` derived by `client:ID`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Client {
    pub id: String,
    /// Shown when signing in.
    pub title: String,
    /// Exact redirect URIs.
    pub redirect_uris: Vec<String>,
    #[serde(default)]
    pub post_logout_redirect_uris: Vec<String>,
}

/// `POST /workload/token` with `Authorization: Bearer WORKLOAD-KEY`: what a shim asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadTokenRequest {
    /// `service.web`, or `supervisor`.
    pub workload: String,
    /// The `aud` of the token, such as `https://vault.azure.net`.
    pub resource: String,
}

/// Exactly the answer of App Service's identity endpoint. `expires_on` is Unix seconds as text.
#[derive(Clone, Deserialize)]
pub struct WorkloadToken {
    pub access_token: crate::Secret,
    pub expires_on: String,
    pub resource: String,
    pub token_type: String,
    pub client_id: String,
}

/// `POST /admin/users` on the control socket (supervisor only): makes a person, or a new first-sign-in link for one.
/// Somebody who is there already keeps name and groups, and is put in the groups asked for as well.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserRequest {
    pub email: String,
    pub name: String,
    pub groups: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserAnswer {
    pub id: String,
    /// One-time link that sets the password; works once, for 24 hours.
    pub link: Option<String>,
    pub created: bool,
}

/// `GET /admin/users` on the control socket answers a list of these.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct User {
    pub id: String,
    pub email: String,
    pub name: String,
    pub active: bool,
    pub groups: Vec<String>,
    /// Whether the first sign-in has happened.
    pub has_password: bool,
}

/// `GET /admin/keys` on the control socket answers a list of these; public facts only.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct SigningKey {
    pub kid: String,
    /// `current`, `next` (published, not signing yet) or `old` (verifies what it signed until that has expired).
    pub state: String,
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds since which it signs; none for `next`.
    pub since: Option<i64>,
    /// Unix seconds since which it signs no more.
    pub retired: Option<i64>,
}
