//! The configuration after it was checked, in the shape the role asks it in.

use std::collections::{BTreeMap, BTreeSet};

use api::identity::{Client, Directory, IdentityConfig, OutsideIssuer};

use crate::error::Error;

/// Checked configuration; replaced as a whole when it is read again.
#[derive(Clone, Debug)]
pub struct Settings {
    pub issuer: String,
    pub tenant: uuid::Uuid,
    pub title: String,
    pub clients: BTreeMap<String, Client>,
    /// With the administrators' group.
    pub groups: BTreeSet<String>,
    /// Empty: nobody administers people on the pages, only the control socket does.
    pub admin_group: String,
    pub workloads: BTreeSet<String>,
    pub workload_token_seconds: i64,
    pub session_seconds: i64,
    pub refresh_seconds: i64,
    pub key_rotation_seconds: i64,
    /// Outside issuers by name.
    pub issuers: BTreeMap<String, OutsideIssuer>,
    pub directory: Option<Directory>,
}

/// Where people with an address sign in.
pub enum Realm<'a> {
    Here,
    Issuer(&'a OutsideIssuer),
    Directory(&'a Directory),
}

impl Settings {
    /// Who judges the person with this address: by its domain alone, whatever accounts there are.
    pub fn realm(&self, email: &str) -> Realm<'_> {
        let Some((_, domain)) = email.trim().rsplit_once('@') else { return Realm::Here };
        let has = |domains: &[String]| domains.iter().any(|d| d.eq_ignore_ascii_case(domain));
        if let Some(directory) = self.directory.as_ref().filter(|directory| has(&directory.domains)) {
            return Realm::Directory(directory);
        }
        self.issuers.values().find(|issuer| has(&issuer.domains)).map_or(Realm::Here, Realm::Issuer)
    }
}

const DAY: i64 = 24 * 3600;

impl Settings {
    /// Checks a configuration whole.
    ///
    /// # Errors
    /// [`Error::Config`] names the first key that is wrong.
    pub fn check(config: IdentityConfig) -> Result<Self, Error> {
        let IdentityConfig {
            issuer,
            tenant,
            title,
            clients,
            groups,
            admin_group,
            workloads,
            workload_token_seconds,
            session_seconds,
            refresh_seconds,
            key_rotation_seconds,
            issuers,
            directory,
        } = config;
        let wrong = |what: String| Err(Error::Config(what));
        match url::Url::parse(&issuer) {
            Ok(url)
                if url.scheme() == "https"
                    && url.path() == "/"
                    && url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
                    && !issuer.ends_with('/') => {}
            _ => return wrong(format!("issuer `{issuer}` is not https://HOST[:PORT]")),
        }
        let Ok(tenant) = uuid::Uuid::parse_str(&tenant) else {
            return wrong(format!("tenant `{tenant}` is not a GUID"));
        };
        if !admin_group.is_empty() && !word(&admin_group) {
            return wrong(format!("admin_group `{admin_group}` is not a group's name"));
        }
        let mut by_id = BTreeMap::new();
        for client in clients {
            if !word(&client.id) {
                return wrong(format!("client id `{}` may hold letters, digits, `.`, `_` and `-` only", client.id));
            }
            if client.redirect_uris.is_empty() {
                return wrong(format!("client `{}` has no redirect URI", client.id));
            }
            for uri in client.redirect_uris.iter().chain(&client.post_logout_redirect_uris) {
                if !redirectable(uri) {
                    return wrong(format!(
                        "redirect URI `{uri}` of client `{}` is not https (or http on loopback) without a fragment",
                        client.id
                    ));
                }
            }
            if let Some(twice) = by_id.insert(client.id.clone(), client) {
                return wrong(format!("client `{}` is there twice", twice.id));
            }
        }
        let mut all_groups: BTreeSet<String> = groups.into_iter().collect();
        if let Some(bad) = all_groups.iter().find(|g| !word(g)) {
            return wrong(format!("group `{bad}` may hold letters, digits, `.`, `_` and `-` only"));
        }
        if !admin_group.is_empty() {
            all_groups.insert(admin_group.clone());
        }
        let mut domains = BTreeSet::new();
        let mut by_name = BTreeMap::new();
        for issuer in issuers {
            let good = url::Url::parse(&issuer.issuer).is_ok_and(|url| {
                url.scheme() == "https"
                    && url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
            });
            if !word(&issuer.name) || issuer.name.contains('.') || !good {
                return wrong(format!("outside issuer `{}` ({}) is not https://", issuer.name, issuer.issuer));
            }
            outside(&issuer.name, &issuer.domains, &issuer.groups, &all_groups, &mut domains)?;
            if let Some(twice) = by_name.insert(issuer.name.clone(), issuer) {
                return wrong(format!("outside issuer `{}` is there twice", twice.name));
            }
        }
        if let Some(directory) = &directory {
            if !directory.url.starts_with("ldaps://") && !directory.url.starts_with("ldap://") {
                return wrong(format!("directory `{}` is neither ldaps:// nor ldap://", directory.url));
            }
            let named =
                !directory.login.is_empty() && directory.login.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if !named || directory.base.trim().is_empty() || directory.bind.trim().is_empty() {
                return wrong("directory needs a base, an account to bind with, and the attribute of logins".into());
            }
            if directory.domains.is_empty() {
                return wrong("directory names no domain: nobody would sign in by it".into());
            }
            outside("directory", &directory.domains, &directory.groups, &all_groups, &mut domains)?;
        }
        let between = |name: &str, value: u64, least: i64, most: i64| match i64::try_from(value) {
            Ok(seconds) if (least..=most).contains(&seconds) => Ok(seconds),
            _ => Err(Error::Config(format!("{name} is {value}; {least} to {most} seconds are possible"))),
        };
        Ok(Self {
            issuer,
            tenant,
            title: if title.trim().is_empty() { "Sign-in".into() } else { title },
            clients: by_id,
            groups: all_groups,
            admin_group,
            workloads: workloads.into_iter().collect(),
            workload_token_seconds: between("workload_token_seconds", workload_token_seconds, 60, DAY)?,
            session_seconds: between("session_seconds", session_seconds, 60, 30 * DAY)?,
            refresh_seconds: between("refresh_seconds", refresh_seconds, 60, 365 * DAY)?,
            key_rotation_seconds: between("key_rotation_seconds", key_rotation_seconds, 3600, 365 * DAY)?,
            issuers: by_name,
            directory,
        })
    }
}

/// Checks what issuers and directories have in common: their domains are theirs alone, their groups lead to ours.
fn outside(
    name: &str,
    theirs: &[String],
    groups: &BTreeMap<String, String>,
    ours: &BTreeSet<String>,
    domains: &mut BTreeSet<String>,
) -> Result<(), Error> {
    for domain in theirs {
        if domain.is_empty() || domain.contains('@') || !domains.insert(domain.to_lowercase()) {
            return Err(Error::Config(format!("`{name}`: the domain `{domain}` is none, or is another's already")));
        }
    }
    match groups.keys().find(|group| !ours.contains(*group)) {
        Some(group) => Err(Error::Config(format!("`{name}` leads to the group `{group}`, which there is not"))),
        None => Ok(()),
    }
}

/// Whether a name needs no escaping anywhere it is used.
fn word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 100 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn redirectable(uri: &str) -> bool {
    let Ok(url) = url::Url::parse(uri) else { return false };
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => return false,
    };
    (url.scheme() == "https" || (url.scheme() == "http" && loopback)) && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> IdentityConfig {
        IdentityConfig {
            issuer: "https://127.0.0.1:8443".into(),
            tenant: "7f3c2a90-0000-4000-8000-000000000001".into(),
            title: "Time Tracker".into(),
            admin_group: "administrators".into(),
            ..IdentityConfig::default()
        }
    }

    #[test]
    fn administrators_are_always_a_group() {
        assert!(Settings::check(good()).unwrap().groups.contains("administrators"));
        let nobody = IdentityConfig { admin_group: String::new(), ..good() };
        assert!(Settings::check(nobody).unwrap().groups.is_empty());
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let client = |uri: &str| Client { id: "web".into(), redirect_uris: vec![uri.into()], ..Client::default() };
        let cases: Vec<(IdentityConfig, &str)> = vec![
            (IdentityConfig { issuer: "http://127.0.0.1".into(), ..good() }, "issuer"),
            (IdentityConfig { issuer: "https://127.0.0.1/".into(), ..good() }, "issuer"),
            (IdentityConfig { issuer: "https://127.0.0.1/a".into(), ..good() }, "issuer"),
            (IdentityConfig { tenant: "t".into(), ..good() }, "tenant"),
            (IdentityConfig { admin_group: "a b".into(), ..good() }, "admin_group"),
            (IdentityConfig { session_seconds: 0, ..good() }, "session_seconds"),
            (IdentityConfig { clients: vec![client("http://example.org/cb")], ..good() }, "redirect URI"),
            (IdentityConfig { clients: vec![client("https://example.org/cb#x")], ..good() }, "redirect URI"),
            (IdentityConfig { clients: vec![client("javascript:alert(1)")], ..good() }, "redirect URI"),
            (IdentityConfig { clients: vec![client("https://a/"), client("https://a/")], ..good() }, "twice"),
        ];
        for (config, word) in cases {
            let text = Settings::check(config).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
