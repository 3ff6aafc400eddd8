//! People whom somebody else vouches for: an outside issuer or a directory. An account is tied to the issuer and to what the
//! issuer calls the person for ever, never to an e-mail address, which may be given to another.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::people::{self, Person};

/// Somebody, as an outside issuer vouches for them just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outsider {
    /// Who vouches, such as `https://login.example` or `ldaps://ad.example/dc=example`.
    pub issuer: String,
    /// What the issuer calls the person, for ever.
    pub subject: String,
    pub email: String,
    pub name: String,
    /// What the issuer calls the groups they are in.
    pub groups: BTreeSet<String>,
}

/// Whose account it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    Person(Person),
    /// The account is disabled here, whatever is said outside.
    Disabled(Person),
    /// The e-mail is that of an account which this issuer does not vouch for.
    Taken,
}

/// Finds the account of an outsider, or makes it, and puts it in the groups that the issuer's are mapped to. Groups that no
/// mapping gives are left as an administrator has set them.
pub fn settle(
    db: &Connection,
    outsider: &Outsider,
    mapped: &BTreeMap<String, String>,
    now: i64,
) -> rusqlite::Result<Settled> {
    let given: Vec<String> = ours(&outsider.groups, mapped).into_iter().collect();
    let known: Option<String> = db
        .query_row(
            "SELECT user FROM outsiders WHERE issuer = ?1 AND subject = ?2",
            params![outsider.issuer, outsider.subject],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(id) = known {
        let Some(person) = people::by_id(db, &id)? else { return Ok(Settled::Taken) };
        let of_the_issuer: BTreeSet<&String> = mapped.keys().collect();
        let mut groups: Vec<String> = person.groups.iter().filter(|g| !of_the_issuer.contains(g)).cloned().collect();
        groups.extend(given);
        people::set_groups(db, &id, &groups)?;
        let Some(person) = people::by_id(db, &id)? else { return Ok(Settled::Taken) };
        return Ok(if person.active { Settled::Person(person) } else { Settled::Disabled(person) });
    }
    let Some(person) = people::add(db, &outsider.email, &outsider.name, &given, now)? else {
        return Ok(Settled::Taken);
    };
    db.execute(
        "INSERT INTO outsiders (issuer, subject, user, since_s) VALUES (?1, ?2, ?3, ?4)",
        params![outsider.issuer, outsider.subject, person.id, now],
    )?;
    Ok(Settled::Person(person))
}

/// The groups here that are given to who is in these groups there. Names of directories have no capitals that count.
fn ours(theirs: &BTreeSet<String>, mapped: &BTreeMap<String, String>) -> BTreeSet<String> {
    let theirs: BTreeSet<String> = theirs.iter().map(|group| group.to_lowercase()).collect();
    mapped.iter().filter(|(_, there)| theirs.contains(&there.to_lowercase())).map(|(here, _)| here.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Outsider {
        Outsider {
            issuer: "https://login.example".into(),
            subject: "7".into(),
            email: "ada@example.org".into(),
            name: "Ada".into(),
            groups: BTreeSet::from(["CN=Auditors".to_owned()]),
        }
    }

    #[test]
    fn an_account_is_tied_to_issuer_and_subject_and_to_no_address() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(&folder.path().join("db")).unwrap();
        let mapped = BTreeMap::from([("auditor".to_owned(), "cn=auditors".to_owned())]);
        let person = |settled: Settled| match settled {
            Settled::Person(person) => person,
            other => panic!("{other:?}"),
        };
        store
            .run_here(|db| {
                let first = person(settle(db, &ada(), &mapped, 1)?);
                assert_eq!(first.groups, ["auditor"]);
                people::join(db, &first.id, &["staff".into()])?;
                // No longer an auditor there: not here either; what an administrator gave stays.
                let left = Outsider { groups: BTreeSet::new(), email: "other@example.org".into(), ..ada() };
                let again = person(settle(db, &left, &mapped, 2)?);
                assert_eq!((again.id.clone(), again.groups), (first.id.clone(), vec!["staff".to_owned()]));
                // The same address from another issuer, or for another person of the same, is nobody's way in.
                for other in [
                    Outsider { issuer: "https://other.example".into(), ..ada() },
                    Outsider { subject: "8".into(), ..ada() },
                ] {
                    assert_eq!(settle(db, &other, &mapped, 3)?, Settled::Taken);
                }
                people::set_active(db, &first.id, false)?;
                assert!(matches!(settle(db, &ada(), &mapped, 4)?, Settled::Disabled(_)));
                Ok(())
            })
            .unwrap();
    }
}
