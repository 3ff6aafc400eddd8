//! Identity: its configuration, and how shims and the supervisor ask it for tokens.

use serde::{Deserialize, Serialize};

use crate::{Secret, WireError, client::Client as HttpClient};

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
    /// Outside issuers that vouch for people.
    #[serde(default)]
    pub issuers: Vec<OutsideIssuer>,
    /// A directory that judges the passwords of people with its addresses.
    #[serde(default)]
    pub directory: Option<Directory>,
}

/// An OIDC issuer that is not ours: people sign in there, by the code flow with PKCE.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutsideIssuer {
    /// As in addresses: `/outside/NAME`.
    pub name: String,
    /// For people: the button says `Sign in with TITLE`.
    pub title: String,
    /// As it calls itself, exactly.
    pub issuer: String,
    pub client_id: String,
    /// Where the client's secret is; None: the client is public, and PKCE alone proves who asks.
    #[serde(default)]
    pub secret: Option<VaultSecret>,
    /// People with these e-mail domains sign in there and nowhere else.
    #[serde(default)]
    pub domains: Vec<String>,
    /// The claim with the groups.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// By group here: what it is called there.
    #[serde(default)]
    pub groups: std::collections::BTreeMap<String, String>,
}

/// An LDAP directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Directory {
    /// `ldaps://HOST[:PORT]`, or `ldap://`, which is then spoken with StartTLS only.
    pub url: String,
    /// Where people and groups are searched.
    pub base: String,
    /// The name of the account that searches.
    pub bind: String,
    /// Where that account's password is.
    pub secret: VaultSecret,
    /// People with these e-mail domains sign in by it and in no other way.
    pub domains: Vec<String>,
    /// The attribute that people's logins are.
    #[serde(default = "mail")]
    pub login: String,
    /// By group here: what it is called there.
    #[serde(default)]
    pub groups: std::collections::BTreeMap<String, String>,
}

/// A secret of a vault of the stamp, read with the role's own identity when it is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultSecret {
    /// The vault's base URL.
    pub vault: String,
    pub name: String,
}

fn groups_claim() -> String {
    "groups".into()
}

fn mail() -> String {
    "mail".into()
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
            issuers: Vec::new(),
            directory: None,
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

/// The client of a person at a terminal (`stamp token`), which every directory of ours has.
pub const TERMINAL: &str = "stamp";

/// A person at a terminal who is being asked for: the code flow with PKCE (RFC 7636, RFC 8252).
pub struct AtTerminal {
    redirect: String,
    verifier: Secret,
    pub state: String,
}

impl AtTerminal {
    /// The answer comes to `http://127.0.0.1:PORT/`.
    pub fn new(port: u16) -> Self {
        let state = Secret::random().expose().to_owned();
        Self { redirect: format!("http://127.0.0.1:{port}/"), verifier: Secret::random(), state }
    }

    /// Where the person goes with a browser.
    pub fn url(&self, issuer: &str) -> String {
        use base64::Engine as _;
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.verifier.expose().as_bytes());
        let challenge = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.as_ref());
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", TERMINAL)
            .append_pair("redirect_uri", &self.redirect)
            .append_pair("response_type", "code")
            .append_pair("scope", "openid")
            .append_pair("state", &self.state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .finish();
        format!("{issuer}/authorize?{query}")
    }

    /// The token that a code stands for, good at `resource`; `client` leads to the directory.
    ///
    /// # Errors
    /// The directory refuses the code or the resource.
    pub async fn redeem(&self, client: &HttpClient, code: &str, resource: &str) -> Result<Secret, WireError> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("client_id", TERMINAL)
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.redirect)
            .append_pair("code_verifier", self.verifier.expose())
            .append_pair("resource", resource)
            .finish();
        let answer = client.send("POST", "/token", Some(("application/x-www-form-urlencoded", form.into()))).await?;
        let answer: TerminalAnswer = client.read(answer)?;
        Ok(answer.access_token)
    }
}

#[derive(Deserialize)]
struct TerminalAnswer {
    access_token: Secret,
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
    /// A program on the person's own machine: it can keep no secret and needs none (RFC 8252), and its redirect URIs may have
    /// any port.
    #[serde(default)]
    pub native: bool,
    /// For what else its access tokens may be, as `resource` (RFC 8707), such as `https://vault.azure.net`.
    #[serde(default)]
    pub resources: Vec<String>,
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

/// `POST /admin/groups` on the control socket (supervisor only): puts a person in exactly these; answered by [`User`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserGroups {
    pub email: String,
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
