//! A graph store that speaks Cypher over Bolt 5, with one member or several: writes go to whichever leads, reads to any that
//! answers. A statement is a transaction of its own.
//!
//! The address is `neo4j+s://NAME:PASSWORD@HOST:PORT,HOST:PORT/DATABASE`; connections are verified TLS, always.

mod connection;
mod pack;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Secret, Settings, SettingsError, Trust, TrustError};
use connection::{Connection, Trouble};

/// A row, in the order of the statement's RETURN.
pub type Row = Vec<Value>;

/// A statement's parameters: an object.
pub type Parameters = Value;

/// A write waits so long for somebody to lead. Members need some seconds to choose.
const LEADERLESS: Duration = Duration::from_secs(12);
/// Between two rounds of trying all members.
const PAUSE: Duration = Duration::from_millis(250);
/// Idle connections that are kept, a member.
const KEPT: usize = 8;
/// No member has taken a write of this process yet.
const UNKNOWN: usize = usize::MAX;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("{0} is not neo4j+s://NAME:PASSWORD@HOST:PORT[,HOST:PORT]/DATABASE")]
    Address(&'static str),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was done.
    #[error("no member of the graph store could serve: {0}")]
    Unavailable(String),
    /// The connection was lost, or the write was not confirmed, after it was sent: it may have been done.
    #[error("it is not known whether the graph store did it: {0}")]
    Unknown(String),
    #[error("the graph store refused ({code}): {message}")]
    Refused { code: String, message: String },
}

struct Member {
    host: String,
    port: u16,
    idle: Mutex<Vec<Connection>>,
}

struct Inner {
    members: Vec<Member>,
    user: String,
    password: Secret,
    database: String,
    tls: tokio_rustls::TlsConnector,
    /// The member that took the last write.
    leader: AtomicUsize,
    /// The member to read from next.
    next: AtomicUsize,
}

/// Cloning shares the connections.
#[derive(Clone)]
pub struct Graph {
    inner: Arc<Inner>,
}

impl Graph {
    /// From the address in a variable. Nothing is connected yet.
    ///
    /// # Errors
    /// The variable is missing or no address, or there is nobody to trust.
    pub fn from_settings(settings: &Settings, name: &'static str) -> Result<Graph, OpenError> {
        let text = settings.secret(name, "the address of the graph store, neo4j+s://...")?;
        let trust = Trust::from_settings(settings, &[])?;
        let wrong = || OpenError::Address(name);
        let rest = text.reveal().strip_prefix("neo4j+s://").ok_or_else(wrong)?;
        let (who, rest) = rest.rsplit_once('@').ok_or_else(wrong)?;
        let (user, password) = who.split_once(':').ok_or_else(wrong)?;
        let (hosts, database) = rest.split_once('/').ok_or_else(wrong)?;
        let member = |text: &str| {
            let (host, port) = text.rsplit_once(':')?;
            let idle = Mutex::default();
            (!host.is_empty()).then_some(Member { host: host.to_owned(), port: port.parse().ok()?, idle })
        };
        let members = hosts.split(',').map(member).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        let inner = Inner {
            members,
            user: user.to_owned(),
            password: Secret::new(password),
            database: database.to_owned(),
            tls: Arc::new(trust.client(&[])?).into(),
            leader: AtomicUsize::new(UNKNOWN),
            next: AtomicUsize::new(0),
        };
        Ok(Graph { inner: Arc::new(inner) })
    }

    /// Runs a reading statement: where the last write went, so that it is seen, else at any member that answers. A follower may
    /// lag behind by a moment.
    ///
    /// # Errors
    /// No member answers, or the statement is refused.
    pub async fn read(&self, statement: &str, parameters: Parameters) -> Result<Vec<Row>, Error> {
        let members = self.inner.members.len();
        let first = match self.inner.leader.load(Ordering::Relaxed) {
            UNKNOWN => self.inner.next.fetch_add(1, Ordering::Relaxed),
            leader => leader,
        };
        let mut why = String::new();
        for n in 0..members {
            match self.at((first + n) % members, statement, &parameters, true).await {
                Ok(rows) => return Ok(rows),
                Err(Trouble::Refused { code, message }) if !is_elsewhere(&code) => {
                    return Err(Error::Refused { code, message });
                }
                Err(other) => why = other.to_string(),
            }
        }
        Err(Error::Unavailable(why))
    }

    /// Runs a statement where writes are taken, and returns when it is safe with most members.
    ///
    /// # Errors
    /// Nobody leads within some seconds, the statement is refused, or it is not known whether it was done.
    pub async fn write(&self, statement: &str, parameters: Parameters) -> Result<Vec<Row>, Error> {
        self.at_leader(statement, parameters).await
    }

    /// Whether a reading statement is answered within that time.
    pub async fn answers_within(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.read("RETURN 1", Value::Null)).await, Ok(Ok(_)))
    }

    async fn at_leader(&self, statement: &str, parameters: Parameters) -> Result<Vec<Row>, Error> {
        let begun = Instant::now();
        let members = self.inner.members.len();
        loop {
            let first = self.inner.leader.load(Ordering::Relaxed);
            let first = if first == UNKNOWN { 0 } else { first };
            let mut why = String::new();
            for n in 0..members {
                let member = (first + n) % members;
                match self.at(member, statement, &parameters, false).await {
                    Ok(rows) => {
                        self.inner.leader.store(member, Ordering::Relaxed);
                        return Ok(rows);
                    }
                    Err(Trouble::Refused { code, message }) if !is_elsewhere(&code) => {
                        return Err(Error::Refused { code, message });
                    }
                    // Sent and not confirmed: the same statement again might be done twice.
                    Err(Trouble::Lost(what)) => return Err(Error::Unknown(what)),
                    Err(Trouble::Refused { message, .. }) if message.contains("may come to nothing") => {
                        return Err(Error::Unknown(message));
                    }
                    Err(other) => why = other.to_string(),
                }
            }
            if begun.elapsed() > LEADERLESS {
                return Err(Error::Unavailable(why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn at(&self, member: usize, statement: &str, parameters: &Value, reads: bool) -> Result<Vec<Row>, Trouble> {
        // A kept connection may have gone stale; a new one is tried in its place, once.
        let kept = self.inner.members[member].idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept.filter(Connection::is_alive) {
            Some(kept) => kept,
            None => self.connect(member).await?,
        };
        let result = connection.run(&self.inner.database, statement, parameters, reads).await;
        if matches!(result, Ok(_) | Err(Trouble::Refused { .. })) {
            self.keep(member, connection);
        }
        result
    }

    async fn connect(&self, member: usize) -> Result<Connection, Trouble> {
        let Member { host, port, .. } = &self.inner.members[member];
        Connection::open(&self.inner.tls, host, *port, &self.inner.user, &self.inner.password).await
    }

    fn keep(&self, member: usize, connection: Connection) {
        let mut idle = self.inner.members[member].idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(connection);
        }
    }
}

/// Whether another member may well do it, and this one did nothing.
fn is_elsewhere(code: &str) -> bool {
    code.contains(".Cluster.") || code.starts_with("Neo.TransientError.")
}
