//! Sign-in by a directory (LDAP): the person is looked up with an account of the stamp's own, then the directory itself judges the
//! password by a bind. Over TLS only: `ldaps://`, or `ldap://` with StartTLS before anything is said.

use std::{collections::BTreeSet, time::Duration};

use api::{Secret, identity::Directory};
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, ldap_escape};

use crate::outsiders::Outsider;

/// A directory that has not answered by then is down.
const WITHIN: Duration = Duration::from_secs(5);
/// Results of LDAP (RFC 4511, appendix A).
const SIZE_LIMIT: u32 = 4;
const INVALID_CREDENTIALS: u32 = 49;
/// Identifiers that a directory gives an entry for ever: OpenLDAP's and others' as text, Active Directory's as bytes.
const UUID: &str = "entryUUID";
const GUID: &str = "objectGUID";

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nobody there has this login, or the password is another: told apart in the record only.
    #[error("{0}")]
    Wrong(&'static str),
    #[error("the directory's entry cannot be used: {0}")]
    Entry(&'static str),
    #[error("the directory does not answer as it should: {0}")]
    Down(String),
}

impl From<LdapError> for Refused {
    fn from(error: LdapError) -> Self {
        Self::Down(error.to_string())
    }
}

/// Judges a login and a password. `bind` is the password of the stamp's own account in the directory.
pub async fn judge(
    directory: &Directory,
    tls: &std::sync::Arc<rustls::ClientConfig>,
    bind: &Secret,
    login: &str,
    password: &Secret,
) -> Result<Outsider, Refused> {
    // An empty password is a bind of nobody (RFC 4513, 5.1.2), which many servers let pass.
    if password.expose().is_empty() || bind.expose().is_empty() || login.is_empty() {
        return Err(Refused::Wrong("empty"));
    }
    let work = async {
        let mut own = connect(directory, tls).await?;
        let bound = own.simple_bind(&directory.bind, bind.expose()).await?;
        if bound.rc != 0 {
            return Err(Refused::Down(format!("it refuses {}: result {}", directory.bind, bound.rc)));
        }
        let (dn, mut outsider) = find(directory, &mut own, login).await?;
        // On a connection of its own: what it may see is no longer the stamp's account's.
        let mut theirs = connect(directory, tls).await?;
        let judged = theirs.simple_bind(&dn, password.expose()).await?;
        let _ = theirs.unbind().await;
        match judged.rc {
            0 => {}
            INVALID_CREDENTIALS => return Err(Refused::Wrong("wrong password")),
            other => return Err(Refused::Down(format!("it answers a bind with result {other}"))),
        }
        outsider.groups.extend(groups(directory, &mut own, &dn).await?);
        let _ = own.unbind().await;
        Ok(outsider)
    };
    tokio::time::timeout(2 * WITHIN, work).await.unwrap_or_else(|_| Err(Refused::Down("no answer in time".into())))
}

async fn connect(directory: &Directory, tls: &std::sync::Arc<rustls::ClientConfig>) -> Result<Ldap, Refused> {
    let settings = LdapConnSettings::new()
        .set_conn_timeout(WITHIN)
        .set_starttls(directory.url.starts_with("ldap://"))
        .set_config(tls.clone());
    let (connection, ldap) = LdapConnAsync::with_settings(settings, &directory.url).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.drive().await {
            tracing::debug!(%error, "a connection to the directory ended early");
        }
    });
    Ok(ldap)
}

/// The one entry that has this login.
async fn find(directory: &Directory, ldap: &mut Ldap, login: &str) -> Result<(String, Outsider), Refused> {
    let filter = format!("({}={})", directory.login, ldap_escape(login));
    let attributes = vec!["mail", "displayName", "cn", "memberOf", UUID, GUID];
    let search = ldap.with_timeout(WITHIN).with_search_options(SearchOptions::new().sizelimit(2));
    let found = search.search(&directory.base, Scope::Subtree, &filter, attributes).await?;
    let (entries, result) = (found.0, found.1);
    if result.rc == SIZE_LIMIT || entries.len() > 1 {
        return Err(Refused::Entry("several have this login"));
    }
    if result.rc != 0 {
        return Err(Refused::Down(format!("it answers a search with result {}", result.rc)));
    }
    let entry =
        entries.into_iter().next().map(SearchEntry::construct).ok_or(Refused::Wrong("nobody has this login"))?;
    if entry.dn.is_empty() {
        return Err(Refused::Entry("it has no name"));
    }
    let text = |name: &str| entry.attrs.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, v)| v.first());
    let bytes = || entry.bin_attrs.iter().find(|(n, _)| n.eq_ignore_ascii_case(GUID)).and_then(|(_, v)| v.first());
    let guid = || Some(bytes()?.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let subject = text(UUID).or_else(|| text(GUID)).cloned().or_else(guid);
    let subject = subject.filter(|s| !s.is_empty()).ok_or(Refused::Entry("it has neither entryUUID nor objectGUID"))?;
    let email = text("mail").filter(|mail| crate::people::is_email(mail)).ok_or(Refused::Entry("it has no mail"))?;
    let name = text("displayName").or_else(|| text("cn")).unwrap_or(email);
    let all = entry.attrs.iter().find(|(n, _)| n.eq_ignore_ascii_case("memberOf"));
    let mut groups = BTreeSet::new();
    for dn in all.map_or(&[][..], |(_, groups)| groups) {
        groups.extend(names(dn));
    }
    let outsider = Outsider {
        issuer: format!("{}/{}", directory.url.trim_end_matches('/'), directory.base),
        subject,
        email: email.clone(),
        name: name.clone(),
        groups,
    };
    Ok((entry.dn, outsider))
}

/// Groups that name the person as a member: directories that keep no `memberOf` say it there only. Groups in groups are not
/// followed.
async fn groups(directory: &Directory, ldap: &mut Ldap, dn: &str) -> Result<BTreeSet<String>, Refused> {
    let member = ldap_escape(dn);
    let filter = format!("(|(member={member})(uniqueMember={member}))");
    let found = ldap.with_timeout(WITHIN).search(&directory.base, Scope::Subtree, &filter, vec!["cn"]).await?;
    if found.1.rc != 0 {
        return Err(Refused::Down(format!("it answers a search of groups with result {}", found.1.rc)));
    }
    Ok(found.0.into_iter().flat_map(|entry| names(&SearchEntry::construct(entry).dn)).collect())
}

/// What a group may be called in the mapping: its whole name, or its first part.
fn names(dn: &str) -> [String; 2] {
    [dn.to_owned(), dn.split(',').next().unwrap_or(dn).to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_cannot_change_the_question() {
        assert_eq!(ldap_escape("*)(uid=*"), "\\2a\\29\\28uid=\\2a");
        assert_eq!(ldap_escape("a\\b\0"), "a\\5cb\\00");
    }

    #[test]
    fn a_group_is_known_by_its_whole_name_and_by_its_first_part() {
        let dn = "cn=auditors,ou=groups,dc=example,dc=org";
        assert_eq!(names(dn), [dn.to_owned(), "cn=auditors".to_owned()]);
    }
}
