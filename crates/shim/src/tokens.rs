//! The workload's tokens, kept until shortly before they run out, and its secrets.

use std::{collections::HashMap, sync::Arc};

use api::{
    Secret, WireError,
    client::{Client, Target, TlsConfig},
    identity::{WorkloadToken, WorkloadTokenRequest},
    shim::ShimConfig,
    vault::SecretBundle,
};
use service::Clock;
use tokio::sync::Mutex;

use crate::references::Reference;

/// A token is asked anew when less than this is left of it.
const SPARE_SECONDS: i64 = 300;
/// What a token for any vault is for.
const VAULT: &str = "https://vault.azure.net";

/// What the workload may have by its identity.
pub struct Tokens {
    workload: String,
    identity: Client,
    vaults: std::collections::BTreeMap<String, String>,
    tls: Arc<TlsConfig>,
    hosts: Arc<std::collections::BTreeMap<String, std::net::IpAddr>>,
    clock: Clock,
    kept: Mutex<HashMap<String, WorkloadToken>>,
}

impl Tokens {
    /// None if the workload has no identity.
    pub fn new(config: &ShimConfig, key: Option<Secret>, ca: &[u8], clock: Clock) -> Result<Option<Self>, String> {
        let (Some(endpoint), Some(key)) = (&config.identity, key) else { return Ok(None) };
        let tls = api::client::trust(ca).map_err(|e| format!("the stamp's CA is unusable: {e}"))?;
        let hosts = Arc::new(config.hosts.clone());
        let base = endpoint.identity.parse().map_err(|_| format!("{} is not a URL", endpoint.identity))?;
        let identity = Client::new(Target::Https { base, tls: tls.clone(), hosts: hosts.clone() }).bearer(key);
        Ok(Some(Self {
            workload: config.resource.clone(),
            identity,
            vaults: endpoint.vaults.clone(),
            tls,
            hosts,
            clock,
            kept: Mutex::default(),
        }))
    }

    /// A token whose audience is `resource`.
    pub async fn token(&self, resource: &str) -> Result<WorkloadToken, WireError> {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now_s();
        if let Some(token) = kept.get(resource)
            && token.expires_on.parse::<i64>().is_ok_and(|at| at - SPARE_SECONDS > now)
        {
            return Ok(token.clone());
        }
        let ask = WorkloadTokenRequest { workload: self.workload.clone(), resource: resource.to_owned() };
        let token: WorkloadToken = self.identity.post("/workload/token", &ask).await?;
        // A workload that asks for ever new audiences must not fill our memory.
        if kept.len() >= 64 {
            kept.clear();
        }
        kept.insert(resource.to_owned(), token.clone());
        Ok(token)
    }

    /// The value a reference stands for, read from its vault with this workload's identity.
    pub async fn secret(&self, reference: &Reference) -> Result<Secret, String> {
        let Some(base) = self.vaults.get(&reference.vault) else {
            let known: Vec<&str> = self.vaults.keys().map(String::as_str).collect();
            return Err(format!("there is no vault `{}` here (there is: {})", reference.vault, known.join(", ")));
        };
        let url: url::Url = base.parse().map_err(|_| format!("{base} is not a URL"))?;
        let path = match &reference.version {
            Some(version) => format!("/secrets/{}/{version}?api-version=7.4", reference.secret),
            None => format!("/secrets/{}?api-version=7.4", reference.secret),
        };
        let mut again = false;
        let answered = loop {
            let token = self.token(VAULT).await.map_err(|e| chain(&e))?;
            let target = Target::Https { base: url.clone(), tls: self.tls.clone(), hosts: self.hosts.clone() };
            let answered = Client::new(target).bearer(token.access_token).get::<SecretBundle>(&path).await;
            match answered {
                // Its key may have been withdrawn since: another is asked for, once.
                Err(WireError::Refused { status: 401, .. }) if !again => {
                    again = true;
                    self.kept.lock().await.remove(VAULT);
                }
                answered => break answered,
            }
        };
        let bundle = answered.map_err(|e| match &e {
            // The vault speaks Key Vault's error body: keep its sentence.
            WireError::Refused { status, body, .. } => {
                format!("{base} answered {status}: {}", vault_message(&body.message))
            }
            other => chain(other),
        })?;
        bundle.value.ok_or_else(|| format!("{base} sent no value"))
    }
}

fn vault_message(body: &str) -> String {
    serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|v| v.pointer("/error/message").and_then(|m| m.as_str().map(str::to_owned)))
        .unwrap_or_else(|| body.to_owned())
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
