//! People: who they are, their groups, their password and the link with which they first sign in.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

/// How long a first-sign-in link works.
pub const LINK_SECONDS: i64 = 24 * 3600;

/// One person as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Stable for ever; the `sub` of tokens.
    pub id: String,
    pub email: String,
    pub name: String,
    pub active: bool,
    /// Sorted.
    pub groups: Vec<String>,
    pub has_password: bool,
    /// Unix seconds.
    pub created_s: i64,
}

const SELECT: &str = "SELECT u.id, u.email, u.name, u.active, u.created_s,
    (SELECT group_concat(team, ' ') FROM (SELECT team FROM members m WHERE m.user = u.id ORDER BY team)),
    EXISTS (SELECT 1 FROM passwords p WHERE p.user = u.id) FROM users u";

fn person(row: &Row<'_>) -> rusqlite::Result<Person> {
    let groups: Option<String> = row.get(5)?;
    Ok(Person {
        id: row.get(0)?,
        email: row.get(1)?,
        name: row.get(2)?,
        active: row.get(3)?,
        created_s: row.get(4)?,
        // Groups' names hold no space: the configuration refuses them.
        groups: groups.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        has_password: row.get(6)?,
    })
}

/// An e-mail as it is compared: people do not remember which letters were capital.
pub fn email_key(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Whether a text can be an e-mail address at all; that it is somebody's, only mail could show.
pub fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    !local.is_empty()
        && !domain.is_empty()
        && !domain.contains('@')
        && text.len() <= 254
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "<>\"(),;:\\".contains(c))
}

pub fn by_id(db: &Connection, id: &str) -> rusqlite::Result<Option<Person>> {
    db.query_row(&format!("{SELECT} WHERE u.id = ?1"), [id], person).optional()
}

pub fn by_email(db: &Connection, email: &str) -> rusqlite::Result<Option<Person>> {
    db.query_row(&format!("{SELECT} WHERE u.email_key = ?1"), [email_key(email)], person).optional()
}

/// All people, by name.
pub fn all(db: &Connection) -> rusqlite::Result<Vec<Person>> {
    db.prepare(&format!("{SELECT} ORDER BY u.name COLLATE NOCASE, u.email_key"))?.query_map([], person)?.collect()
}

/// Adds a person without a password. None if the e-mail is somebody's already.
pub fn add(db: &Connection, email: &str, name: &str, groups: &[String], now: i64) -> rusqlite::Result<Option<Person>> {
    let id = uuid::Uuid::new_v4().to_string();
    let email = email.trim();
    let added = db.execute(
        "INSERT INTO users (id, email, email_key, name, active, created_s) VALUES (?1, ?2, ?3, ?4, 1, ?5)
         ON CONFLICT (email_key) DO NOTHING",
        params![id, email, email_key(email), name.trim(), now],
    )?;
    if added == 0 {
        return Ok(None);
    }
    join(db, &id, groups)?;
    by_id(db, &id)
}

/// Puts a person in `groups` as well.
pub fn join(db: &Connection, id: &str, groups: &[String]) -> rusqlite::Result<()> {
    for group in groups {
        db.execute("INSERT INTO members (user, team) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![id, group])?;
    }
    Ok(())
}

/// Puts a person in exactly `groups`.
pub fn set_groups(db: &Connection, id: &str, groups: &[String]) -> rusqlite::Result<()> {
    db.execute("DELETE FROM members WHERE user = ?1", [id])?;
    join(db, id, groups)
}

/// Lets a person in, or keeps them out.
pub fn set_active(db: &Connection, id: &str, active: bool) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET active = ?2 WHERE id = ?1", params![id, active])?;
    Ok(())
}

/// Whether somebody besides `id` is active in `group`.
pub fn another_in(db: &Connection, group: &str, id: &str) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM members m JOIN users u ON u.id = m.user
         WHERE m.team = ?1 AND u.active = 1 AND u.id <> ?2)",
        params![group, id],
        |row| row.get(0),
    )
}

pub fn password_hash(db: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    db.query_row("SELECT hash FROM passwords WHERE user = ?1", [id], |row| row.get(0)).optional()
}

pub fn set_password(db: &Connection, id: &str, hash: &str, now: i64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO passwords (user, hash, changed_s) VALUES (?1, ?2, ?3)
         ON CONFLICT (user) DO UPDATE SET hash = excluded.hash, changed_s = excluded.changed_s",
        params![id, hash, now],
    )?;
    Ok(())
}

/// Makes a first-sign-in link; older ones of the person stop working.
pub fn new_link(db: &Connection, id: &str, hash: &[u8], now: i64) -> rusqlite::Result<()> {
    db.execute("DELETE FROM links WHERE user = ?1", [id])?;
    db.execute("INSERT INTO links (hash, user, expires_s) VALUES (?1, ?2, ?3)", params![hash, id, now + LINK_SECONDS])?;
    Ok(())
}

/// Whose link this is, if it still works and the person may sign in.
pub fn by_link(db: &Connection, hash: &[u8], now: i64) -> rusqlite::Result<Option<Person>> {
    db.query_row(
        &format!("{SELECT} JOIN links l ON l.user = u.id WHERE l.hash = ?1 AND l.expires_s > ?2 AND u.active = 1"),
        params![hash, now],
        person,
    )
    .optional()
}

/// Uses a link up: it works for nobody after this. Gives the person whose it was.
pub fn use_link(db: &Connection, hash: &[u8], now: i64) -> rusqlite::Result<Option<Person>> {
    let Some(person) = by_link(db, hash, now)? else { return Ok(None) };
    db.execute("DELETE FROM links WHERE hash = ?1", [hash])?;
    Ok(Some(person))
}

impl From<Person> for api::identity::User {
    fn from(person: Person) -> Self {
        let Person { id, email, name, active, groups, has_password, created_s: _ } = person;
        Self { id, email, name, active, groups, has_password }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_is_one_person_whatever_its_capitals() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(&folder.path().join("db")).unwrap();
        let found = store
            .run_here(|db| {
                let first = add(db, "Ada@Example.org", "Ada", &["staff".into()], 1)?.unwrap();
                assert_eq!(add(db, "ada@EXAMPLE.org ", "Other", &[], 1)?, None);
                Ok((first, by_email(db, "ADA@example.ORG")?))
            })
            .unwrap();
        assert_eq!(Some(found.0), found.1);
    }

    #[test]
    fn a_link_works_once_and_not_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(&folder.path().join("db")).unwrap();
        store
            .run_here(|db| {
                let ada = add(db, "ada@example.org", "Ada", &[], 1)?.unwrap();
                new_link(db, &ada.id, b"one", 1000)?;
                assert_eq!(by_link(db, b"one", 1000 + LINK_SECONDS)?, None);
                new_link(db, &ada.id, b"two", 1000)?;
                assert_eq!(use_link(db, b"one", 1001)?, None, "a newer link ends the older");
                assert_eq!(use_link(db, b"two", 1001)?.map(|p| p.id), Some(ada.id));
                assert_eq!(use_link(db, b"two", 1001)?, None);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn what_cannot_be_an_email_is_refused() {
        for good in ["a@b", "ada.lovelace+x@example.org", "åsa@exämple.org"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\r\nBcc: x", "<a@b>"] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
