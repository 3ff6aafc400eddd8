//! A client of a graph store as an application has it: its address (`neo4j+s://NAME:PASSWORD@HOST:PORT,.../DATABASE`), Bolt 5 over
//! TLS that is checked against the CA, one statement at a time.

use std::{io, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Miss, script::plain};

/// Connecting, signing in and one statement; a store without a leader chooses one in some seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// "GoGo Bolt", then 5.4 down to 5.1 (Bolt protocol, "Handshake").
const HELLO: [u8; 20] = [0x60, 0x60, 0xB0, 0x17, 0, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// How deep values may lie in one another.
const DEPTH: usize = 64;

/// What an address says.
pub struct Address {
    pub user: String,
    pub password: String,
    pub hosts: Vec<String>,
    pub database: String,
}

impl Address {
    /// None: it is no address of a graph store.
    pub fn parse(text: &str) -> Option<Self> {
        let (who, rest) = text.strip_prefix("neo4j+s://")?.rsplit_once('@')?;
        let (user, password) = who.split_once(':')?;
        let (hosts, database) = rest.split_once('/')?;
        let hosts = hosts.split(',').map(str::to_owned).collect();
        Some(Self { user: user.into(), password: password.into(), hosts, database: database.into() })
    }
}

/// The rows of each statement as text, at whichever member takes it.
pub async fn rows(address: &Address, ca_pem: &[u8], statements: &[String]) -> Result<Vec<Vec<Vec<String>>>, Miss> {
    let mut last = String::new();
    for host in &address.hosts {
        let tried = async {
            let mut session = Session::open(encrypted(host, ca_pem).await?, address).await?;
            let mut all = Vec::new();
            for statement in statements {
                all.push(session.run(&address.database, statement).await?);
            }
            Ok::<_, Miss>(all)
        };
        match tokio::time::timeout(PATIENCE, tried).await {
            Ok(Ok(all)) => return Ok(all),
            // Another member leads, or this one is away.
            Ok(Err(Miss::Failed(why))) if why.contains("NotALeader") || why.contains("onnect") => last = why,
            Ok(Err(miss)) => return Err(miss),
            Err(_) => last = format!("{host} does not answer"),
        }
    }
    Err(Miss::Failed(last))
}

/// TLS to a member.
async fn encrypted(host: &str, ca_pem: &[u8]) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Miss> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(|e| Miss::Failed(format!("the CA: {e:?}")))?)?;
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
    let stream = TcpStream::connect(host).await?;
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name)?, stream).await?)
}

/// A session of somebody who signed in.
pub struct Session<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Signs in; a refusal is told with its code.
    pub async fn open(mut stream: S, address: &Address) -> Result<Self, Miss> {
        stream.write_all(&HELLO).await?;
        stream.flush().await?;
        let mut version = [0; 4];
        stream.read_exact(&mut version).await?;
        if version[3] != 5 {
            return Err(Miss::Failed(format!("it answers the handshake of Bolt with {version:?}")));
        }
        let mut session = Self { stream };
        session.send(0x01, &[json!({ "user_agent": "prove/1" })]).await?;
        session.summary().await?;
        let auth = json!({ "scheme": "basic", "principal": address.user, "credentials": address.password });
        session.send(0x6A, &[auth]).await?;
        session.summary().await?;
        Ok(session)
    }

    /// The rows of one statement, each value as text.
    pub async fn run(&mut self, database: &str, statement: &str) -> Result<Vec<Vec<String>>, Miss> {
        self.send(0x10, &[json!(statement), json!({}), json!({ "db": database })]).await?;
        self.summary().await?;
        self.send(0x3F, &[json!({ "n": -1 })]).await?;
        let mut rows = Vec::new();
        loop {
            let (kind, mut fields) = self.message().await?;
            match (kind, fields.pop()) {
                (0x71, Some(Value::Array(row))) => rows.push(row.iter().map(plain).collect()),
                (0x70, _) => return Ok(rows),
                (_, fault) => return Err(refused(&fault.unwrap_or_default())),
            }
        }
    }

    async fn send(&mut self, signature: u8, fields: &[Value]) -> io::Result<()> {
        let mut bytes = vec![0xB0 | fields.len() as u8, signature];
        fields.iter().for_each(|field| write(field, &mut bytes));
        for chunk in bytes.chunks(0xFFFF) {
            self.stream.write_all(&(chunk.len() as u16).to_be_bytes()).await?;
            self.stream.write_all(chunk).await?;
        }
        self.stream.write_all(&[0, 0]).await?;
        self.stream.flush().await
    }

    async fn message(&mut self) -> io::Result<(u8, Vec<Value>)> {
        let mut whole = Vec::new();
        loop {
            let length = usize::from(self.stream.read_u16().await?);
            if length == 0 && whole.is_empty() {
                continue;
            }
            if length == 0 {
                return message(&whole).ok_or_else(|| io::Error::other("not an answer of a graph store"));
            }
            let begin = whole.len();
            whole.resize(begin + length, 0);
            self.stream.read_exact(&mut whole[begin..]).await?;
        }
    }

    async fn summary(&mut self) -> Result<(), Miss> {
        let (kind, mut fields) = self.message().await?;
        if kind == 0x70 { Ok(()) } else { Err(refused(&fields.pop().unwrap_or_default())) }
    }
}

fn refused(fault: &Value) -> Miss {
    Miss::Failed(format!("refused, {}: {}", plain(&fault["code"]), plain(&fault["message"])))
}

// PackStream, the values of Bolt. Only texts, maps and small numbers are written.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => {
            head(text.len(), 0x80, 0xD2, out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Object(all) => {
            head(all.len(), 0xA0, 0xDA, out);
            for (key, value) in all {
                write(&json!(key), out);
                write(value, out);
            }
        }
        Value::Number(n) => out.push(n.as_i64().and_then(|n| i8::try_from(n).ok()).unwrap_or_default() as u8),
        _ => out.push(0xC0),
    }
}

fn head(length: usize, tiny: u8, large: u8, out: &mut Vec<u8>) {
    if length < 16 {
        out.push(tiny | length as u8);
    } else {
        out.push(large);
        out.extend_from_slice(&(length as u32).to_be_bytes());
    }
}

/// A message: its signature and fields. None: the bytes are none.
fn message(bytes: &[u8]) -> Option<(u8, Vec<Value>)> {
    let mut reader = Reader { rest: bytes };
    let count = reader.take(1)?[0];
    (count & 0xF0 == 0xB0).then_some(())?;
    let signature = reader.take(1)?[0];
    Some((signature, reader.list(usize::from(count & 0x0F), 0)?))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(head)
    }

    /// A big-endian number of so many bytes, its sign kept.
    fn number(&mut self, length: usize) -> Option<i64> {
        let bytes = self.take(length)?;
        let first = if bytes.first()? & 0x80 == 0 { 0 } else { -1 };
        Some(bytes.iter().fold(first, |n, byte| n << 8 | i64::from(*byte)))
    }

    fn length(&mut self, length: usize) -> Option<usize> {
        Some(self.take(length)?.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    fn text(&mut self, length: usize) -> Option<Value> {
        String::from_utf8(self.take(length)?.to_vec()).ok().map(Value::String)
    }

    fn list(&mut self, length: usize, depth: usize) -> Option<Vec<Value>> {
        (length <= self.rest.len()).then_some(())?;
        (0..length).map(|_| self.value(depth + 1)).collect()
    }

    fn map(&mut self, length: usize, depth: usize) -> Option<Value> {
        let mut all = Map::new();
        for _ in 0..length {
            let Value::String(key) = self.value(depth + 1)? else { return None };
            all.insert(key, self.value(depth + 1)?);
        }
        Some(Value::Object(all))
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        (depth < DEPTH).then_some(())?;
        let mark = self.take(1)?[0];
        let low = usize::from(mark & 0x0F);
        Some(match mark {
            0x00..=0x7F | 0xF0..=0xFF => json!(mark as i8),
            0x80..=0x8F => self.text(low)?,
            0x90..=0x9F => Value::Array(self.list(low, depth)?),
            0xA0..=0xAF => self.map(low, depth)?,
            // A node, a relationship, a path: all that it has.
            0xB0..=0xBF => {
                self.take(1)?;
                Value::Array(self.list(low, depth)?)
            }
            0xC0 => Value::Null,
            0xC1 => json!(f64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            0xC2 | 0xC3 => json!(mark == 0xC3),
            0xC8..=0xCB => json!(self.number(1 << (mark - 0xC8))?),
            0xD0..=0xD2 => {
                let length = self.length(1 << (mark - 0xD0))?;
                self.text(length)?
            }
            0xD4..=0xD6 => {
                let length = self.length(1 << (mark - 0xD4))?;
                Value::Array(self.list(length, depth)?)
            }
            0xD8..=0xDA => {
                let length = self.length(1 << (mark - 0xD8))?;
                self.map(length, depth)?
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let address = Address::parse("neo4j+s://service.api:p:w@a:7687,b:7687/mdr").expect("an address");
        assert_eq!((address.user.as_str(), address.password.as_str()), ("service.api", "p:w"));
        assert_eq!((address.hosts.len(), address.database.as_str()), (2, "mdr"));
        assert!(Address::parse("Host=a;Password=b").is_none());
    }

    #[test]
    fn what_was_written_is_read() {
        let value = json!({ "text": "x".repeat(300), "n": -1, "in": { "none": null } });
        let mut bytes = vec![0xB1, 0x70];
        write(&value, &mut bytes);
        assert_eq!(message(&bytes), Some((0x70, vec![value])));
        assert_eq!(message(&[0xB1, 0x71, 0xC9, 0xFF, 0x00]), Some((0x71, vec![json!(-256)])));
        assert_eq!(message(&[0xB1, 0x71, 0xD4, 0xFF]), None);
    }
}
