//! Sign-in against a site's directory: the person's own bind by LDAP decides, and their groups there are their roles here.

use std::{sync::Arc, time::Duration};

use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, dn_escape, ldap_escape};
use rustls::ClientConfig;
use sdk::{Secret, Settings, SettingsError, Trust, TrustError};
use url::Url;

/// Each step at the directory takes no longer.
const LIMIT: Duration = Duration::from_secs(4);

#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("MEG_DIRECTORY is not an ldaps:// address (ldap:// is taken for loopback addresses only)")]
    Address,
    #[error("the directory's certificate authority cannot be used")]
    Trust(#[from] TrustError),
    /// Name or password are not right; which of them is not told.
    #[error("the name or the password is not right")]
    Refused,
    #[error("the directory does not answer")]
    Away(#[source] LdapError),
    #[error("the directory has no {0} for this person")]
    Incomplete(&'static str),
}

/// A person as the directory describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The name they signed in with.
    pub user: String,
    pub name: String,
    pub email: String,
    pub roles: Vec<String>,
}

/// A site's directory.
pub struct Directory {
    url: Url,
    base: String,
    /// The name a person binds with; `{name}` stands for what they typed.
    bind: String,
    /// The attribute that holds what they typed.
    attribute: String,
    /// Groups of the directory for staff, auditor, admin.
    groups: [String; 3],
    tls: Arc<ClientConfig>,
}

impl Directory {
    /// Reads `MEG_DIRECTORY` and what begins with it; None without it.
    ///
    /// # Errors
    /// A variable is missing or unusable.
    pub fn from_settings(settings: &Settings) -> Result<Option<Directory>, DirectoryError> {
        let Some(text) = settings.optional("MEG_DIRECTORY")? else { return Ok(None) };
        let url = Url::parse(text).map_err(|_| DirectoryError::Address)?;
        let host = url.host_str().ok_or(DirectoryError::Address)?;
        let local = host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if url.scheme() != "ldaps" && !(url.scheme() == "ldap" && local) {
            return Err(DirectoryError::Address);
        }
        let base =
            settings.required("MEG_DIRECTORY_BASE", "where people and groups are, such as dc=site,dc=example")?;
        let bind = settings.optional("MEG_DIRECTORY_BIND")?;
        let bind = bind.map_or_else(|| format!("uid={{name}},ou=people,{base}"), str::to_owned);
        if !bind.contains("{name}") {
            let expected = "a name to bind with that has {name} in it, such as uid={name},ou=people,dc=site,dc=example";
            return Err(SettingsError::Wrong { name: "MEG_DIRECTORY_BIND", expected }.into());
        }
        let group = |variable, default: &str| {
            Ok::<_, SettingsError>(settings.optional(variable)?.unwrap_or(default).to_owned())
        };
        Ok(Some(Directory {
            url,
            base: base.to_owned(),
            bind,
            attribute: settings.optional("MEG_DIRECTORY_ATTRIBUTE")?.unwrap_or("uid").to_owned(),
            groups: [
                group("MEG_DIRECTORY_STAFF", "meg-staff")?,
                group("MEG_DIRECTORY_AUDITORS", "meg-auditors")?,
                group("MEG_DIRECTORY_ADMINS", "meg-admins")?,
            ],
            tls: Arc::new(Trust::from_settings(settings, &["MEG_DIRECTORY_CERT_FILE"])?.client(&[])?),
        }))
    }

    /// Whether name and password are right, and who that is.
    ///
    /// # Errors
    /// They are not, the directory is away, or it does not say what is needed.
    pub async fn sign_in(&self, name: &str, password: &Secret) -> Result<Person, DirectoryError> {
        let name = name.trim();
        // A bind without a password succeeds at many directories: it says nothing about the person (RFC 4513, 5.1.2).
        if name.is_empty() || name.chars().count() > 100 || password.reveal().is_empty() {
            return Err(DirectoryError::Refused);
        }
        let settings = LdapConnSettings::new().set_conn_timeout(LIMIT).set_config(self.tls.clone());
        let connected = LdapConnAsync::from_url_with_settings(settings, &self.url);
        let connected = tokio::time::timeout(LIMIT, connected).await;
        let (connection, mut ldap) =
            connected.map_err(|e| DirectoryError::Away(e.into()))?.map_err(DirectoryError::Away)?;
        let driving = tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "the connection to the directory ended");
            }
        });
        let person = self.ask(&mut ldap, name, password).await;
        let _ = ldap.unbind().await;
        driving.abort();
        person
    }

    async fn ask(&self, ldap: &mut ldap3::Ldap, name: &str, password: &Secret) -> Result<Person, DirectoryError> {
        let dn = self.bind.replace("{name}", &dn_escape(name));
        let bound = ldap.with_timeout(LIMIT).simple_bind(&dn, password.reveal()).await.map_err(DirectoryError::Away)?;
        match bound.rc {
            0 => {}
            // invalidCredentials, noSuchObject, invalidDNSyntax, inappropriateAuthentication, unwillingToPerform
            49 | 32 | 34 | 48 | 53 => return Err(DirectoryError::Refused),
            _ => return Err(DirectoryError::Away(LdapError::LdapResult { result: bound })),
        }
        let filter = format!("({}={})", self.attribute, ldap_escape(name));
        let entry = self.search(ldap, &filter, &["cn", "displayName", "mail", "memberOf"]).await?.into_iter().next();
        let entry = entry.ok_or(DirectoryError::Incomplete("entry"))?;
        let first = |attribute: &str| {
            let found = entry.attrs.iter().find(|(key, _)| key.eq_ignore_ascii_case(attribute));
            found.and_then(|(_, values)| values.first().cloned())
        };
        let email = first("mail").as_deref().and_then(crate::domain::email);
        let mut groups: Vec<String> = Vec::new();
        for (_, values) in entry.attrs.iter().filter(|(key, _)| key.eq_ignore_ascii_case("memberOf")) {
            groups.extend(values.iter().filter_map(|dn| common_name(dn)));
        }
        // Directories that keep no memberOf: ask which groups name the person.
        let filter = format!("(member={})", ldap_escape(entry.dn.as_str()));
        for group in self.search(ldap, &filter, &["cn"]).await? {
            groups
                .extend(group.attrs.into_iter().filter(|(key, _)| key.eq_ignore_ascii_case("cn")).flat_map(|(_, v)| v));
        }
        let pairs = self.groups.iter().zip(crate::domain::ROLES);
        let has = |group: &str| groups.iter().any(|g| g.eq_ignore_ascii_case(group));
        Ok(Person {
            user: name.to_owned(),
            name: first("displayName").or_else(|| first("cn")).unwrap_or_else(|| name.to_owned()),
            email: email.ok_or(DirectoryError::Incomplete("e-mail address"))?,
            roles: pairs.filter(|(group, _)| has(group)).map(|(_, role)| role.to_owned()).collect(),
        })
    }

    async fn search(
        &self,
        ldap: &mut ldap3::Ldap,
        filter: &str,
        attributes: &[&str],
    ) -> Result<Vec<SearchEntry>, DirectoryError> {
        let found = ldap.with_timeout(LIMIT).search(&self.base, Scope::Subtree, filter, attributes.to_vec()).await;
        let (entries, _) = found.and_then(ldap3::SearchResult::success).map_err(DirectoryError::Away)?;
        Ok(entries.into_iter().map(SearchEntry::construct).collect())
    }
}

/// The value of the first `cn=` of a distinguished name.
fn common_name(dn: &str) -> Option<String> {
    let first = dn.split(',').next()?;
    let (key, value) = first.split_once('=')?;
    key.trim().eq_ignore_ascii_case("cn").then(|| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_is_asked_by_tls_only_and_a_bind_name_needs_its_place() {
        let of = |pairs: &[(&str, &str)]| Directory::from_settings(&Settings::from_pairs(pairs.iter().copied()));
        let base = ("MEG_DIRECTORY_BASE", "dc=site,dc=example");
        assert!(of(&[("MEG_DIRECTORY", "ldap://ad.example"), base]).is_err());
        assert!(of(&[("MEG_DIRECTORY", "ldap://127.0.0.1:389"), base, ("MEG_DIRECTORY_BIND", "cn=admin")]).is_err());
        assert!(of(&[]).unwrap().is_none());
    }

    #[test]
    fn a_groups_name_is_the_first_part_of_its_dn() {
        assert_eq!(common_name("CN=meg-staff,OU=Groups,DC=x").as_deref(), Some("meg-staff"));
        assert_eq!(common_name("ou=people,dc=x"), None);
    }
}
