//! The configuration, checked, and who may do what by it. Deny is the default.

use api::vault::{VaultConfig, VaultRole};
use service::Caller;

use crate::{Error, operation::Operation};

/// A checked configuration.
pub struct Settings {
    pub config: VaultConfig,
    /// The host of the vault's URL, lower case, without port.
    pub host: String,
    /// The host without its first label.
    pub zone: String,
}

/// The right an operation needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Reads a value.
    Read,
    /// Reads names and attributes.
    Look,
    /// Changes, deletes, recovers, purges, backs up.
    Manage,
    /// Works with keys.
    Keys,
}

impl Settings {
    pub fn new(config: VaultConfig) -> Result<Self, Error> {
        let host = config.url.strip_prefix("https://").map(host_of).unwrap_or_default();
        let zone = host.split_once('.').map(|(_, zone)| zone.to_owned()).unwrap_or_default();
        if zone.is_empty() {
            return Err(Error::Config(format!("`{}` is not https://NAME.ZONE[:PORT]", config.url)));
        }
        if !(7..=90).contains(&config.soft_delete_days) {
            return Err(Error::Config(format!(
                "soft_delete_days is {}; 7 to 90 are possible",
                config.soft_delete_days
            )));
        }
        Ok(Self { config, host, zone })
    }

    /// Whether `caller` holds a role that allows `operation`.
    pub fn allows(&self, caller: &Caller, operation: &Operation) -> bool {
        let right = match operation {
            Operation::Get { .. } => Right::Read,
            Operation::List | Operation::ListVersions { .. } => Right::Look,
            Operation::Keys { .. } => Right::Keys,
            _ => Right::Manage,
        };
        self.config.assignments.iter().any(|assignment| {
            let theirs = match assignment.principal.strip_prefix("group:") {
                Some(group) => caller.groups.iter().any(|g| g == group),
                None => !caller.subject.is_empty() && assignment.principal == caller.subject,
            };
            // One that is limited to some secrets allows nothing that is about the vault as a whole.
            let here = assignment.secrets.is_empty()
                || operation.name().is_some_and(|n| assignment.secrets.iter().any(|s| s.eq_ignore_ascii_case(n)));
            let enough = match assignment.role {
                VaultRole::Administrator => true,
                VaultRole::SecretsOfficer => right != Right::Keys,
                VaultRole::SecretsUser => matches!(right, Right::Read | Right::Look),
                VaultRole::Reader => right == Right::Look,
            };
            theirs && here && enough
        })
    }

    /// Whether a token's audience means this vault: Azure's own name, this vault's, or its zone's; ports do not matter.
    ///
    /// It is never taken from the request: by a made-up `Host`, a token for another service would open the vault.
    pub fn is_audience(&self, audience: &str) -> bool {
        let Some(rest) = audience.strip_prefix("https://") else { return false };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return false;
        }
        let host = host_of(rest);
        host == "vault.azure.net" || host == self.host || host == self.zone
    }

    /// The authority that ids and the challenge speak of: the request's `Host` if it names this vault, else the
    /// configuration's.
    pub fn authority<'a>(&'a self, host: Option<&'a str>) -> &'a str {
        let own = self.config.url.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
        let azure = format!("{}.vault.azure.net", self.config.name);
        host.filter(|h| {
            let port_fits = h.split_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
            let name = host_of(h);
            port_fits && (name == self.host || name == azure)
        })
        .unwrap_or(own)
    }

    /// The recovery level as Azure words it.
    pub fn recovery_level(&self) -> &'static str {
        match (self.config.purge_protection, self.config.soft_delete_days) {
            (true, 90) => "Recoverable",
            (true, _) => "CustomizedRecoverable",
            (false, 90) => "Recoverable+Purgeable",
            (false, _) => "CustomizedRecoverable+Purgeable",
        }
    }
}

fn host_of(authority: &str) -> String {
    let authority = authority.trim_end_matches('/');
    authority.split_once(':').map_or(authority, |(host, _)| host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let url = "https://main.vault.dev.time-tracker.internal:8443".into();
        Settings::new(VaultConfig { name: "main".into(), url, soft_delete_days: 7, ..VaultConfig::default() }).unwrap()
    }

    #[test]
    fn an_audience_is_this_vault_its_zone_or_azures_name_and_nothing_else() {
        let settings = settings();
        for good in [
            "https://vault.azure.net",
            "https://vault.azure.net/",
            "https://vault.dev.time-tracker.internal:8443",
            "https://vault.dev.time-tracker.internal",
            "https://main.vault.dev.time-tracker.internal:8443",
        ] {
            assert!(settings.is_audience(good), "{good}");
        }
        for bad in [
            "http://vault.azure.net",
            "vault.azure.net",
            "https://telemetry.dev.time-tracker.internal",
            "https://evil.vault.azure.net",
            "https://vault.azure.net.evil",
            "https://evil/vault.azure.net",
            "https://vault.azure.net@evil",
            "",
        ] {
            assert!(!settings.is_audience(bad), "{bad}");
        }
    }

    #[test]
    fn the_authority_keeps_the_port_of_the_request_and_ignores_foreign_hosts() {
        let settings = settings();
        assert_eq!(settings.authority(Some("main.vault.azure.net")), "main.vault.azure.net");
        assert_eq!(
            settings.authority(Some("Main.vault.dev.time-tracker.internal:9000")),
            "Main.vault.dev.time-tracker.internal:9000"
        );
        for foreign in ["x.telemetry.dev.time-tracker.internal", "main.vault.azure.net:1\"", ""] {
            assert_eq!(settings.authority(Some(foreign)), "main.vault.dev.time-tracker.internal:8443");
        }
    }

    #[test]
    fn retention_outside_7_to_90_days_and_a_plain_http_url_are_refused() {
        let base = VaultConfig { url: "https://a.b".into(), soft_delete_days: 7, ..VaultConfig::default() };
        assert!(Settings::new(VaultConfig { soft_delete_days: 6, ..base.clone() }).is_err());
        assert!(Settings::new(VaultConfig { soft_delete_days: 91, ..base.clone() }).is_err());
        assert!(Settings::new(VaultConfig { url: "http://a.b".into(), ..base }).is_err());
    }
}
