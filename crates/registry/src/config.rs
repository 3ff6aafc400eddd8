//! The configuration, checked, and who may do what by it. Deny is the default.

use api::registry::{AUDIENCE, RegistryConfig, RegistryRole};

use crate::{Error, operation::Right};

/// A checked configuration.
pub struct Settings {
    pub config: RegistryConfig,
    /// Host and port of the registry's URL.
    pub authority: String,
}

/// Somebody whose credentials are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The `sub` of identity's token, or [`Who::admin`]'s.
    pub subject: String,
    pub groups: Vec<String>,
    pub admin: bool,
}

impl Who {
    /// The admin user, which is called as the registry is.
    pub fn admin(name: &str) -> Self {
        Self { subject: format!("admin:{name}"), groups: Vec::new(), admin: true }
    }
}

impl Settings {
    pub fn new(config: RegistryConfig) -> Result<Self, Error> {
        let authority = config.url.strip_prefix("https://").unwrap_or_default().trim_end_matches('/').to_owned();
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', '"']) {
            return Err(Error::Config(format!("`{}` is not https://HOST[:PORT]", config.url)));
        }
        if config.name.is_empty() {
            return Err(Error::Config("the registry has no name".into()));
        }
        Ok(Self { config, authority })
    }

    /// Whether `who` may do on `repository` what needs `right`.
    pub fn allows(&self, who: &Who, right: Right, repository: Option<&str>) -> bool {
        if who.admin {
            // As on Azure it pulls and pushes everything; here it deletes nothing.
            return self.config.admin_user && right != Right::Delete;
        }
        if right == Right::Known {
            return true;
        }
        self.config.grants.iter().any(|grant| {
            let theirs = match grant.principal.strip_prefix("group:") {
                Some(group) => who.groups.iter().any(|g| g == group),
                None => !who.subject.is_empty() && grant.principal == who.subject,
            };
            // One that is limited to some repositories allows nothing that is about the registry as a whole.
            let here = grant.repositories.is_empty()
                || repository.is_some_and(|name| grant.repositories.iter().any(|r| r == name));
            let enough = match grant.role {
                RegistryRole::Pull => matches!(right, Right::Pull | Right::Catalog),
                RegistryRole::Push => matches!(right, Right::Pull | Right::Push | Right::Catalog),
                RegistryRole::Delete => right == Right::Delete,
            };
            theirs && here && enough
        })
    }

    /// Whether an audience of identity's tokens means this registry. It is never taken from the request.
    pub fn is_audience(&self, audience: &str) -> bool {
        let audience = audience.trim_end_matches('/');
        if audience == AUDIENCE {
            return true;
        }
        audience.strip_prefix("https://").is_some_and(|rest| self.is_own(rest))
    }

    /// Host and port that the challenge speaks of: the request's if they name this registry, else the configuration's.
    pub fn authority<'a>(&'a self, host: Option<&'a str>) -> &'a str {
        host.filter(|host| self.is_own(host)).unwrap_or(&self.authority)
    }

    fn is_own(&self, authority: &str) -> bool {
        let (host, port) = authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let own = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        port.is_none_or(|port| port.parse::<u16>().is_ok())
            && (host.eq_ignore_ascii_case(own) || self.config.hosts.iter().any(|h| h.eq_ignore_ascii_case(host)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use api::registry::Grant;

    use super::*;

    fn grant(principal: &str, role: RegistryRole, repositories: &[&str]) -> Grant {
        let repositories = repositories.iter().map(|r| (*r).to_owned()).collect();
        Grant { principal: principal.into(), role, repositories }
    }

    fn settings() -> Settings {
        let config = RegistryConfig {
            name: "main".into(),
            url: "https://127.0.0.1:8443".into(),
            hosts: vec!["main.registry.dev.shop.internal".into()],
            grants: vec![
                grant("service.web", RegistryRole::Pull, &["web"]),
                grant("group:developer", RegistryRole::Push, &[]),
                grant("supervisor", RegistryRole::Delete, &[]),
            ],
            ..RegistryConfig::default()
        };
        Settings::new(config).unwrap()
    }

    #[test]
    fn rights_are_separate_and_by_repository() {
        let settings = settings();
        let who = |subject: &str, groups: &[&str]| Who {
            subject: subject.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            admin: false,
        };
        let may = |who: &Who, right, name| settings.allows(who, right, name);
        let web = who("service.web", &[]);
        assert!(may(&web, Right::Pull, Some("web")) && !may(&web, Right::Push, Some("web")));
        assert!(!may(&web, Right::Pull, Some("api")) && !may(&web, Right::Catalog, None));
        let person = who("p-1", &["developer"]);
        assert!(may(&person, Right::Push, Some("api")) && !may(&person, Right::Delete, Some("api")));
        assert!(!may(&who("supervisor", &[]), Right::Pull, Some("api")), "deleting is not reading");
        for nobody in [who("", &[]), who("group:developer", &[]), who("service.api", &["web"])] {
            assert!(!may(&nobody, Right::Pull, Some("web")), "{nobody:?}");
        }
        assert!(!may(&Who::admin("main"), Right::Pull, Some("web")), "it is switched off");
    }

    #[test]
    fn only_its_own_names_are_believed() {
        let settings = settings();
        assert_eq!(settings.authority(Some("main.registry.dev.shop.internal:9")), "main.registry.dev.shop.internal:9");
        for foreign in [Some("evil.example"), Some("127.0.0.1:8443\""), Some("127.0.0.1:x"), None] {
            assert_eq!(settings.authority(foreign), "127.0.0.1:8443");
        }
        assert!(settings.is_audience(AUDIENCE) && settings.is_audience("https://127.0.0.1:8443/"));
        for bad in ["https://vault.azure.net", "https://evil/127.0.0.1", "http://127.0.0.1:8443", ""] {
            assert!(!settings.is_audience(bad), "{bad}");
        }
    }
}
