//! A directory that speaks LDAP: simple bind and search, over the people of a file. No anonymous reading, no writing.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use lber::{
    common::TagClass,
    parse::parse_tag,
    structure::{PL, StructureTag},
    write::encode_into,
};
use sdk::{Secret, Settings};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::Line;

/// Bytes of a message at most.
const LARGEST: usize = 64 * 1024;

/// Somebody in the directory.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    pub uid: String,
    pub name: String,
    #[serde(default)]
    pub mail: String,
    pub password: String,
    #[serde(default)]
    pub groups: Vec<String>,
}

/// The people, under a base.
pub struct Tree {
    base: String,
    people: Vec<Entry>,
}

impl Tree {
    /// Reads `STAND_IN_BASE`, and a JSON list of people from `file` or `STAND_IN_PEOPLE`; without either, three who say by name that they
    /// stand in.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn from_settings(file: Option<&str>, settings: &Settings) -> Result<Tree> {
        let base = settings.optional("STAND_IN_BASE")?.unwrap_or("dc=kfmmc,dc=example").to_owned();
        let text = match file {
            Some(file) => std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?,
            None => settings.optional("STAND_IN_PEOPLE")?.unwrap_or(include_str!("people.json")).to_owned(),
        };
        Ok(Tree { base, people: serde_json::from_str(&text).context("there is no list of people")? })
    }

    pub fn new(base: &str, people: Vec<Entry>) -> Tree {
        Tree { base: base.to_owned(), people }
    }

    fn dn(&self, entry: &Entry) -> String {
        format!("uid={},ou=people,{}", entry.uid, self.base)
    }

    /// LDAP result code of a bind, and who it is then.
    fn bind(&self, dn: &str, password: &str) -> (u8, Option<&Entry>) {
        // An empty password is an unauthenticated bind (RFC 4513, 5.1.2): refused as unwilling.
        if password.is_empty() {
            return (53, None);
        }
        let who = self.people.iter().find(|p| self.dn(p).eq_ignore_ascii_case(dn));
        match who {
            Some(who) if Secret::new(who.password.clone()).matches(password) => (0, Some(who)),
            _ => (49, None),
        }
    }

    fn attributes(&self, entry: &Entry) -> Vec<(&'static str, Vec<String>)> {
        let groups = entry.groups.iter().map(|g| format!("cn={g},ou=groups,{}", self.base)).collect();
        vec![
            ("uid", vec![entry.uid.clone()]),
            ("cn", vec![entry.name.clone()]),
            ("displayName", vec![entry.name.clone()]),
            ("mail", vec![entry.mail.clone()]),
            ("memberOf", groups),
        ]
    }

    /// Entries whose attributes fit an equality filter.
    fn find(&self, attribute: &str, value: &str) -> Vec<&Entry> {
        let fits = |entry: &&Entry| {
            let all = self.attributes(entry);
            all.iter().any(|(name, values)| {
                name.eq_ignore_ascii_case(attribute) && values.iter().any(|v| v.eq_ignore_ascii_case(value))
            })
        };
        self.people.iter().filter(fits).collect()
    }
}

/// Serves until the process ends.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, tree: Arc<Tree>) -> Result<()> {
    super::accept(listener, tls, move |line| session(line, tree.clone())).await
}

async fn session(mut line: Box<dyn Line>, tree: Arc<Tree>) -> Result<()> {
    let (mut buffer, mut bound) = (Vec::new(), false);
    loop {
        while let Some(length) = whole(&buffer)? {
            let message: Vec<u8> = buffer.drain(..length).collect();
            let (_, tag) = parse_tag(&message).map_err(|_| anyhow::anyhow!("no BER"))?;
            let Some(answer) = answer(&tree, tag, &mut bound)? else { return Ok(()) };
            line.write_all(&answer).await?;
        }
        let mut chunk = [0; 4096];
        let read = line.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..read]);
    }
}

/// The length of the first message in `bytes`, if it is whole.
fn whole(bytes: &[u8]) -> Result<Option<usize>> {
    let [tag, first, ..] = bytes else { return Ok(None) };
    ensure!(*tag == 0x30, "no LDAP message");
    let (length, head) = if *first < 0x80 {
        (usize::from(*first), 2)
    } else {
        let more = usize::from(first & 0x7F);
        ensure!((1..=4).contains(&more), "a length of {more} bytes");
        let Some(digits) = bytes.get(2..2 + more) else { return Ok(None) };
        (digits.iter().fold(0_usize, |n, d| n << 8 | usize::from(*d)), 2 + more)
    };
    ensure!(length <= LARGEST, "a message of {length} bytes");
    Ok((bytes.len() >= head + length).then_some(head + length))
}

/// The answer to one message; None to end.
fn answer(tree: &Tree, message: StructureTag, bound: &mut bool) -> Result<Option<Vec<u8>>> {
    let mut parts = children(message)?.into_iter();
    let id = parts.next().context("no message id")?;
    let operation = parts.next().context("no operation")?;
    let mut out = bytes::BytesMut::new();
    let mut say = |operation: StructureTag| -> Result<()> {
        encode_into(&mut out, node(TagClass::Universal, 16, vec![id.clone(), operation]))?;
        Ok(())
    };
    ensure!(operation.class == TagClass::Application, "no operation of LDAP");
    match operation.id {
        0 => {
            let parts = children(operation)?;
            let [_, dn, password] = &parts[..] else { bail!("a bind has three parts") };
            // Only the simple way (context tag 0) is offered.
            let code = if password.id == 0 { tree.bind(&text(dn)?, &text(password)?).0 } else { 7 };
            *bound = code == 0;
            say(result(1, code))?;
        }
        2 => return Ok(None),
        3 if !*bound => say(result(5, 1))?,
        3 => {
            let parts = children(operation)?;
            let filter = parts.get(6).context("no filter")?;
            // Equality (context tag 3) is all that the application asks for.
            if filter.id != 3 {
                say(result(5, 53))?;
            } else {
                let pair = children(filter.clone())?;
                let [attribute, value] = &pair[..] else { bail!("an equality has two parts") };
                for entry in tree.find(&text(attribute)?, &text(value)?) {
                    let octets = |t: &str| leaf(TagClass::Universal, 4, t.as_bytes().to_vec());
                    let attributes =
                        tree.attributes(entry).into_iter().filter(|(_, values)| values.iter().any(|v| !v.is_empty()));
                    let attributes = attributes.map(|(name, values)| {
                        let values = values.iter().map(|v| octets(v)).collect();
                        node(TagClass::Universal, 16, vec![octets(name), node(TagClass::Universal, 17, values)])
                    });
                    let list = node(TagClass::Universal, 16, attributes.collect());
                    say(node(TagClass::Application, 4, vec![octets(&tree.dn(entry)), list]))?;
                }
                say(result(5, 0))?;
            }
        }
        // Anything else is an extended operation or a change: unwilling.
        6 | 8 | 10 | 12 => say(result(u64::from(operation.id as u8) + 1, 53))?,
        23 => say(result(24, 53))?,
        _ => return Ok(None),
    }
    Ok(Some(out.to_vec()))
}

fn children(tag: StructureTag) -> Result<Vec<StructureTag>> {
    tag.expect_constructed().context("not constructed")
}

fn text(tag: &StructureTag) -> Result<String> {
    match &tag.payload {
        PL::P(bytes) => Ok(String::from_utf8(bytes.clone())?),
        PL::C(_) => bail!("not a text"),
    }
}

fn node(class: TagClass, id: u64, parts: Vec<StructureTag>) -> StructureTag {
    StructureTag { class, id, payload: PL::C(parts) }
}

fn leaf(class: TagClass, id: u64, bytes: Vec<u8>) -> StructureTag {
    StructureTag { class, id, payload: PL::P(bytes) }
}

/// An LDAPResult: a code, and no words that would help a guesser.
fn result(operation: u64, code: u8) -> StructureTag {
    let empty = || leaf(TagClass::Universal, 4, Vec::new());
    node(TagClass::Application, operation, vec![leaf(TagClass::Universal, 10, vec![code]), empty(), empty()])
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_break_a_session(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let tree = Tree::new("dc=x", Vec::new());
            if let Ok(Some(length)) = whole(&bytes)
                && let Ok((_, tag)) = parse_tag(&bytes[..length])
            {
                let _ = answer(&tree, tag, &mut true);
            }
        }
    }
}
