//! The configuration, checked, and who may do what by it. Deny is the default.

use std::time::Duration;

use api::blob::{AUDIENCE, BlobConfig, BlobRole, ContainerConfig, PublicRead};

use crate::{Error, operation::Right};

/// A checked configuration.
pub struct Settings {
    pub config: BlobConfig,
    /// Host and port of the account's URL.
    pub authority: String,
}

/// Somebody whose token is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The `sub` of identity's token.
    pub subject: String,
    pub groups: Vec<String>,
}

/// Whether a name can be a container's: 3 to 63 lower-case letters, digits and single hyphens, a letter or digit at both ends.
pub fn is_container(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
        && !name.contains("--")
}

/// The container that blobs lie in whose path names none.
pub const ROOT: &str = "$root";

impl Settings {
    pub fn new(config: BlobConfig) -> Result<Self, Error> {
        let authority = config.url.strip_prefix("https://").unwrap_or_default().trim_end_matches('/').to_owned();
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', '"']) {
            return Err(Error::Config(format!("`{}` is not https://HOST[:PORT]", config.url)));
        }
        if config.account.is_empty() {
            return Err(Error::Config("the account has no name".into()));
        }
        if let Some(bad) = config.containers.keys().find(|name| !is_container(name)) {
            return Err(Error::Config(format!(
                "`{bad}` cannot be a container: 3 to 63 lower-case letters, digits and single hyphens"
            )));
        }
        Ok(Self { config, authority })
    }

    /// What is declared of a container; of one that somebody made, nothing is.
    pub fn container(&self, name: &str) -> ContainerConfig {
        self.config.containers.get(name).cloned().unwrap_or_default()
    }

    pub fn soft_delete(&self) -> Option<Duration> {
        Some(self.config.soft_delete_seconds).filter(|s| *s > 0).map(Duration::from_secs)
    }

    /// Whether `who` may do in `container` what needs `right`; None is the account as a whole.
    pub fn allows(&self, who: &Who, right: Right, container: Option<&str>) -> bool {
        self.config.grants.iter().any(|grant| {
            let theirs = match grant.principal.strip_prefix("group:") {
                Some(group) => who.groups.iter().any(|g| g == group),
                None => !who.subject.is_empty() && grant.principal == who.subject,
            };
            // One that is limited to a container allows nothing that is about the account as a whole.
            let here = match (&grant.container, container) {
                (None, _) => true,
                (Some(one), Some(asked)) => one == asked,
                (Some(_), None) => false,
            };
            let enough = match grant.role {
                BlobRole::Reader => matches!(right, Right::Read | Right::List | Right::Look | Right::Delegate),
                BlobRole::Contributor | BlobRole::Owner => true,
            };
            theirs && here && enough
        })
    }

    /// Whether everybody may.
    pub fn is_public(&self, right: Right, container: Option<&str>) -> bool {
        let Some(container) = container else { return false };
        match self.container(container).public {
            PublicRead::None => false,
            PublicRead::Blob => right == Right::Read,
            PublicRead::Container => matches!(right, Right::Read | Right::List),
        }
    }

    /// Whether an audience of identity's tokens means this account. It is never taken from the request.
    pub fn is_audience(&self, audience: &str) -> bool {
        let audience = audience.trim_end_matches('/');
        audience == AUDIENCE || audience.strip_prefix("https://").is_some_and(|rest| self.is_own(rest))
    }

    /// Whether host and port are those of this account, by one of its names.
    pub fn is_own(&self, authority: &str) -> bool {
        let (host, port) = authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let own = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        port.is_none_or(|port| port.parse::<u16>().is_ok())
            && (host.eq_ignore_ascii_case(own) || self.config.hosts.iter().any(|h| h.eq_ignore_ascii_case(host)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use api::blob::Grant;

    use super::*;

    #[test]
    fn rights_are_by_role_and_by_container() {
        let grant = |principal: &str, role, container: Option<&str>| Grant {
            principal: principal.into(),
            role,
            container: container.map(str::to_owned),
        };
        let config = BlobConfig {
            account: "files".into(),
            url: "https://files.blob.dev.shop.internal".into(),
            grants: vec![
                grant("service.web", BlobRole::Contributor, Some("photos")),
                grant("service.web", BlobRole::Reader, Some("nightly")),
                grant("group:pipeline", BlobRole::Owner, None),
            ],
            ..BlobConfig::default()
        };
        let settings = Settings::new(config).unwrap();
        let who = |subject: &str, groups: &[&str]| Who {
            subject: subject.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        };
        let web = who("service.web", &[]);
        assert!(
            settings.allows(&web, Right::Write, Some("photos")) && settings.allows(&web, Right::Read, Some("nightly"))
        );
        assert!(!settings.allows(&web, Right::Write, Some("nightly")) && !settings.allows(&web, Right::List, None));
        assert!(!settings.allows(&web, Right::Read, Some("other")));
        assert!(settings.allows(&who("p-1", &["pipeline"]), Right::Delete, Some("other")));
        for nobody in [who("", &[]), who("group:pipeline", &[]), who("service.api", &["web"])] {
            assert!(!settings.allows(&nobody, Right::Read, Some("photos")), "{nobody:?}");
        }
        assert!(!settings.is_public(Right::Read, Some("photos")));
    }

    #[test]
    fn names_of_containers() {
        for good in ["abc", "a-b-c", "0images", &"a".repeat(63)] {
            assert!(is_container(good), "{good}");
        }
        for bad in ["ab", "Abc", "a--b", "-abc", "abc-", "a_b", "a.b", "", &"a".repeat(64), "../x"] {
            assert!(!is_container(bad), "{bad}");
        }
    }
}
