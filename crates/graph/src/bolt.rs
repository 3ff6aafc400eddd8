//! The Bolt door: sign-in, statements, results, and who takes writes. Bolt 4.4 and 5.0 to 5.4, over TLS alone.
//!
//! Every session has a connection of its own to the engine, signed in there with what the client said: who may do what is decided by
//! the engine. A statement is one transaction of the engine. An explicit transaction therefore takes any number of reading
//! statements and one that writes; a second is refused, and so is a rollback after one.

use std::{io, sync::Arc, time::Duration};

use api::graph::GraphRight;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    compact::{Names, Table},
    literal,
    member::Keeper,
    pack::Pack,
    redis::{Connection, Refusal},
    tools::WRITES,
};

/// Time for TLS, handshake and sign-in.
const OPENING: Duration = Duration::from_secs(15);
/// The longest message.
const LONGEST: usize = 16 * 1024 * 1024;
/// Sessions at once.
const PLACES: usize = 256;
/// How long a write may take to become safe.
const SAFE_WITHIN_MS: &str = "5000";
/// How long clients may keep a table of who leads.
const ROUTES_FOR_S: i64 = 5;
/// What the engine says of a writing statement where it only reads.
const ONLY_READS: &str = "is to be executed only on read-only queries";

/// Takes sessions. Nothing that a client does ends this.
pub(crate) async fn answer(listener: TcpListener, tls: Arc<rustls::ServerConfig>, keeper: Arc<Keeper>) -> io::Error {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(tokio::sync::Semaphore::new(PLACES));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, keeper) = (acceptor.clone(), keeper.clone());
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = tokio::time::timeout(OPENING, acceptor.accept(stream)).await else { return };
            let mut word = keeper.word.subscribe();
            word.borrow_and_update();
            let session = serve(stream, keeper);
            tokio::select! {
                ended = session => if let Err(error) = ended {
                    tracing::debug!(%error, "a session ended");
                },
                // Who leads has changed: clients come again, and are told whom to ask.
                _ = word.changed() => {}
            }
        });
    }
}

/// Messages of clients.
mod ask {
    pub const HELLO: u8 = 0x01;
    pub const GOODBYE: u8 = 0x02;
    pub const RESET: u8 = 0x0F;
    pub const RUN: u8 = 0x10;
    pub const BEGIN: u8 = 0x11;
    pub const COMMIT: u8 = 0x12;
    pub const ROLLBACK: u8 = 0x13;
    pub const DISCARD: u8 = 0x2F;
    pub const PULL: u8 = 0x3F;
    pub const TELEMETRY: u8 = 0x54;
    pub const ROUTE: u8 = 0x66;
    pub const LOGON: u8 = 0x6A;
    pub const LOGOFF: u8 = 0x6B;
}

/// A refusal as Bolt tells it: a code by which drivers know what to do, and words.
struct Fault {
    code: &'static str,
    words: String,
}

const UNAUTHORIZED: &str = "Neo.ClientError.Security.Unauthorized";
const FORBIDDEN: &str = "Neo.ClientError.Security.Forbidden";
const NOT_LEADER: &str = "Neo.ClientError.Cluster.NotALeader";
const UNAVAILABLE: &str = "Neo.TransientError.General.DatabaseUnavailable";
const SYNTAX: &str = "Neo.ClientError.Statement.SyntaxError";
const STATEMENT: &str = "Neo.ClientError.Statement.ExecutionFailed";
const TRANSACTION: &str = "Neo.ClientError.Transaction.TransactionStartFailed";
const REQUEST: &str = "Neo.ClientError.Request.Invalid";

fn fault(code: &'static str, words: impl Into<String>) -> Fault {
    Fault { code, words: words.into() }
}

/// An answer's rows still to come, and what it changed.
type Open = (std::vec::IntoIter<Vec<Pack>>, Vec<(String, i64)>);

struct Session<S> {
    stream: S,
    keeper: Arc<Keeper>,
    major: u8,
    signed_in: Option<(Connection, GraphRight)>,
    /// Who that is.
    user: String,
    names: Names,
    /// Rows that were not fetched yet.
    open: Option<Open>,
    failed: bool,
    /// Inside of an explicit transaction; whether it has written.
    transaction: Option<bool>,
    reads_only: bool,
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, keeper: Arc<Keeper>) -> io::Result<()> {
    let Some(major) = tokio::time::timeout(OPENING, handshake(&mut stream)).await?? else { return Ok(()) };
    let mut session = Session {
        stream,
        keeper,
        major,
        signed_in: None,
        user: String::new(),
        names: Names::default(),
        open: None,
        failed: false,
        transaction: None,
        reads_only: false,
    };
    loop {
        let message = match session.signed_in {
            Some(_) => session.message().await?,
            None => tokio::time::timeout(OPENING, session.message()).await??,
        };
        let Some(Pack::Struct(kind, fields)) = message else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message"));
        };
        if kind == ask::GOODBYE {
            return Ok(());
        }
        if kind == ask::RESET {
            (session.failed, session.open, session.transaction) = (false, None, None);
            session.success(Vec::new()).await?;
            continue;
        }
        if session.failed {
            session.say(Pack::Struct(0x7E, Vec::new())).await?;
            continue;
        }
        if session.signed_in.is_none() && !matches!(kind, ask::HELLO | ask::LOGON) {
            session.refuse(fault(REQUEST, "sign in first")).await?;
            return Ok(());
        }
        let done = match session.act(kind, &fields).await {
            Ok(fields) => session.success(fields).await,
            Err(fault) => {
                let ends = fault.code == UNAUTHORIZED;
                session.refuse(fault).await?;
                if ends {
                    return Ok(());
                }
                Ok(())
            }
        };
        done?;
    }
}

/// Agrees on a version; None: there is none in common, and the client was told.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<Option<u8>> {
    let mut hello = [0u8; 20];
    stream.read_exact(&mut hello).await?;
    if hello[..4] != [0x60, 0x60, 0xB0, 0x17] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not Bolt"));
    }
    let chosen = hello[4..].chunks_exact(4).find_map(|offer| {
        let (span, minor, major) = (offer[1], offer[2], offer[3]);
        let lowest = minor.saturating_sub(span);
        match major {
            5 if lowest <= 4 => Some([0, 0, minor.min(4), 5]),
            4 if lowest <= 4 && minor >= 4 => Some([0, 0, 4, 4]),
            _ => None,
        }
    });
    stream.write_all(&chosen.unwrap_or_default()).await?;
    stream.flush().await?;
    Ok(chosen.map(|c| c[3]))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn message(&mut self) -> io::Result<Option<Pack>> {
        let mut whole = Vec::new();
        loop {
            let length = self.stream.read_u16().await? as usize;
            match length {
                // A chunk of nothing between messages keeps the connection alive.
                0 if whole.is_empty() => continue,
                0 => return Ok(Pack::read(&whole)),
                _ if whole.len() + length > LONGEST => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
                }
                _ => {
                    let begin = whole.len();
                    whole.resize(begin + length, 0);
                    self.stream.read_exact(&mut whole[begin..]).await?;
                }
            }
        }
    }

    async fn put(&mut self, message: Pack) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        for chunk in bytes.chunks(0xFFFF) {
            self.stream.write_all(&(chunk.len() as u16).to_be_bytes()).await?;
            self.stream.write_all(chunk).await?;
        }
        self.stream.write_all(&[0, 0]).await
    }

    async fn say(&mut self, message: Pack) -> io::Result<()> {
        self.put(message).await?;
        self.stream.flush().await
    }

    async fn success(&mut self, fields: Vec<(String, Pack)>) -> io::Result<()> {
        self.say(Pack::Struct(0x70, vec![Pack::Map(fields)])).await
    }

    async fn refuse(&mut self, fault: Fault) -> io::Result<()> {
        self.failed = true;
        self.open = None;
        let map = vec![("code".to_owned(), Pack::text(fault.code)), ("message".to_owned(), Pack::Text(fault.words))];
        self.say(Pack::Struct(0x7F, vec![Pack::Map(map)])).await
    }

    async fn act(&mut self, kind: u8, fields: &[Pack]) -> Result<Vec<(String, Pack)>, Fault> {
        let first = fields.first().unwrap_or(&Pack::Null);
        match kind {
            ask::HELLO => {
                if self.major < 5 || first.get("scheme").is_some() {
                    self.sign_in(first).await?;
                }
                // Drivers only speak with a server that has this name.
                Ok(vec![
                    ("server".into(), Pack::text("Neo4j/5.4.0")),
                    ("connection_id".into(), Pack::text("bolt-1")),
                    ("hints".into(), Pack::Map(Vec::new())),
                ])
            }
            ask::LOGON => {
                self.sign_in(first).await?;
                Ok(Vec::new())
            }
            ask::LOGOFF => {
                self.signed_in = None;
                Ok(Vec::new())
            }
            ask::RUN => {
                let (Some(Pack::Text(statement)), Some(Pack::Map(parameters))) = (fields.first(), fields.get(1)) else {
                    return Err(fault(REQUEST, "RUN takes a statement and its parameters"));
                };
                if self.transaction.is_none() {
                    self.begin(fields.get(2).unwrap_or(&Pack::Null))?;
                }
                let table = self.run(statement, parameters).await?;
                let columns = table.columns.into_iter().map(Pack::Text).collect();
                self.open = Some((table.rows.into_iter(), table.changes));
                Ok(vec![
                    ("fields".into(), Pack::List(columns)),
                    ("t_first".into(), Pack::Int(0)),
                    ("qid".into(), Pack::Int(0)),
                ])
            }
            ask::PULL | ask::DISCARD => self.fetch(first, kind == ask::PULL).await,
            ask::BEGIN => {
                self.begin(first)?;
                self.transaction = Some(false);
                Ok(Vec::new())
            }
            ask::COMMIT => {
                self.transaction = None;
                self.open = None;
                Ok(vec![("bookmark".into(), Pack::text("stamp:1"))])
            }
            ask::ROLLBACK => {
                self.open = None;
                match self.transaction.take() {
                    Some(true) => Err(fault(
                        TRANSACTION,
                        "what this transaction wrote was stored by its one statement; it cannot be rolled back",
                    )),
                    _ => Ok(Vec::new()),
                }
            }
            ask::TELEMETRY => Ok(Vec::new()),
            ask::ROUTE => Ok(vec![("rt".into(), self.routes())]),
            _ => Err(fault(REQUEST, format!("there is no message {kind:#04x}"))),
        }
    }

    /// As the engine knows the user; what it says of the password is what counts.
    async fn sign_in(&mut self, auth: &Pack) -> Result<(), Fault> {
        let text = |key: &str| auth.get(key).and_then(Pack::as_text);
        let refused = || fault(UNAUTHORIZED, "the name or the password is wrong");
        if text("scheme") != Some("basic") {
            return Err(fault(UNAUTHORIZED, "sign in with a name and a password (scheme `basic`)"));
        }
        let (Some(name), Some(password)) = (text("principal"), text("credentials")) else { return Err(refused()) };
        // The engine's own users are not for clients.
        let user = self.keeper.config.users.iter().find(|u| u.name == name).ok_or_else(refused)?;
        let right = user.right;
        match Connection::signed_in(&self.keeper.engine.socket, name, password).await {
            Ok(connection) => {
                self.signed_in = Some((connection, right));
                self.user = name.to_owned();
                Ok(())
            }
            Err(Refusal::Refused(words)) if words.starts_with("WRONGPASS") => {
                tracing::warn!(user = name, "refused a sign-in");
                Err(refused())
            }
            Err(Refusal::Refused(words)) => Err(fault(UNAVAILABLE, words)),
            Err(Refusal::Broken(_)) => {
                Err(fault(UNAVAILABLE, format!("the engine of {} does not run", self.keeper.me.name)))
            }
        }
    }

    /// What a transaction is to be: of which database, and whether it only reads.
    fn begin(&mut self, extra: &Pack) -> Result<(), Fault> {
        let database = &self.keeper.config.database;
        if let Some(asked) = extra.get("db").and_then(Pack::as_text)
            && asked != database
        {
            let words = format!("there is no database `{asked}`; this store has `{database}`");
            return Err(fault("Neo.ClientError.Database.DatabaseNotFound", words));
        }
        self.reads_only = extra.get("mode").and_then(Pack::as_text) == Some("r");
        Ok(())
    }

    async fn run(&mut self, statement: &str, parameters: &[(String, Pack)]) -> Result<Table, Fault> {
        let whole = literal::with_parameters(statement, parameters).map_err(|words| fault(STATEMENT, words))?;
        let keeper = self.keeper.clone();
        let graph = keeper.config.database.as_str();
        let Some((connection, right)) = &mut self.signed_in else { return Err(fault(REQUEST, "sign in first")) };
        let writer = *right == GraphRight::Write && !self.reads_only && self.transaction != Some(true);
        let takes_writes = keeper.takes_writes();
        let command = if writer && takes_writes.is_ok() { "GRAPH.QUERY" } else { "GRAPH.RO_QUERY" };
        let answer = match connection.call(&[command, graph, &whole, "--compact"]).await {
            Ok(answer) => answer,
            Err(Refusal::Refused(words)) if words.contains(ONLY_READS) => {
                return Err(match (*right, takes_writes) {
                    (GraphRight::Read, _) => fault(FORBIDDEN, format!("this user may only read: {words}")),
                    _ if self.reads_only => fault(
                        "Neo.ClientError.Statement.AccessMode",
                        format!("a session that reads cannot write: {words}"),
                    ),
                    (_, Ok(_)) => {
                        fault(TRANSACTION, "a transaction takes one statement that writes; this is its second")
                    }
                    (_, Err(why)) => match keeper.routes().0 {
                        Some(leader) if leader.name == keeper.me.name => fault(UNAVAILABLE, why),
                        _ => fault(NOT_LEADER, why),
                    },
                });
            }
            Err(refusal) => return Err(said(refusal)),
        };
        let table = match self.names.table(&answer) {
            Ok(table) => table,
            Err(_) => {
                self.names.learn(connection, graph).await.map_err(|e| fault(UNAVAILABLE, e.to_string()))?;
                self.names
                    .table(&answer)
                    .map_err(|_| fault(STATEMENT, "the engine's answer has names that it does not know"))?
            }
        };
        if command == "GRAPH.QUERY" && !table.changes.is_empty() {
            if let Some(wrote) = &mut self.transaction {
                *wrote = true;
            }
            connection.call(&["INCR", WRITES]).await.map_err(said)?;
            let others = (keeper.most() - 1).to_string();
            let safe = connection.call(&["WAITAOF", "1", &others, SAFE_WITHIN_MS]).await.map_err(said)?;
            let with = |n: usize| safe.list().get(n).and_then(crate::redis::Value::int).unwrap_or(0) as usize;
            if with(0) < 1 || with(1) + 1 < keeper.most() || !keeper.takes_followers(takes_writes.unwrap_or(0)) {
                let words = format!(
                    "the write is on {} of the {} members that it must be on: it may come to nothing, look before it is tried again",
                    1 + with(1),
                    keeper.most()
                );
                return Err(fault(UNAVAILABLE, words));
            }
            // The store's own record of who changes it; what was changed is the application's to tell.
            tracing::info!(user = self.user, "wrote");
        }
        Ok(table)
    }

    async fn fetch(&mut self, asked: &Pack, tell: bool) -> Result<Vec<(String, Pack)>, Fault> {
        let Some((mut rows, changes)) = self.open.take() else {
            return Err(fault(REQUEST, "there is no result to fetch"));
        };
        let count = match asked.get("n") {
            Some(Pack::Int(n)) if *n >= 0 => *n as usize,
            _ => usize::MAX,
        };
        for row in rows.by_ref().take(count) {
            if !tell {
                continue;
            }
            let mut row = Pack::List(row);
            if self.major < 5 {
                as_before_5(&mut row);
            }
            self.put(Pack::Struct(0x71, vec![row])).await.map_err(|e| fault(REQUEST, e.to_string()))?;
        }
        if rows.len() > 0 {
            self.open = Some((rows, changes));
            return Ok(vec![("has_more".into(), Pack::Bool(true))]);
        }
        let kind = match changes.is_empty() {
            true => "r",
            false => "rw",
        };
        let mut fields = vec![
            ("type".to_owned(), Pack::text(kind)),
            ("db".to_owned(), Pack::text(self.keeper.config.database.clone())),
            ("t_last".to_owned(), Pack::Int(0)),
        ];
        if self.transaction.is_none() {
            fields.push(("bookmark".into(), Pack::text("stamp:1")));
        }
        if !changes.is_empty() {
            let counts = changes.into_iter().map(|(name, n)| (name, Pack::Int(n))).collect();
            fields.push(("stats".into(), Pack::Map(counts)));
        }
        Ok(fields)
    }

    fn routes(&self) -> Pack {
        let at = |m: &api::graph::GraphMember| Pack::text(format!("{}:{}", m.host, m.bolt_port));
        let (leader, readers) = self.keeper.routes();
        let server = |role: &str, all: Vec<Pack>| {
            Pack::Map(vec![("addresses".into(), Pack::List(all)), ("role".into(), Pack::text(role))])
        };
        let mut reading: Vec<Pack> = readers.into_iter().map(at).collect();
        if reading.is_empty() {
            reading.extend(leader.map(at));
        }
        let everybody = self.keeper.config.members.iter().map(at).collect();
        Pack::Map(vec![
            ("ttl".into(), Pack::Int(ROUTES_FOR_S)),
            ("db".into(), Pack::text(self.keeper.config.database.clone())),
            (
                "servers".into(),
                Pack::List(vec![
                    server("WRITE", leader.map(at).into_iter().collect()),
                    server("READ", reading),
                    server("ROUTE", everybody),
                ]),
            ),
        ])
    }
}

fn said(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::Broken(error) => fault(UNAVAILABLE, format!("the engine went away: {error}")),
        Refusal::Refused(words) if words.starts_with("NOPERM") => fault(FORBIDDEN, words),
        Refusal::Refused(words) if words.starts_with("READONLY") => fault(NOT_LEADER, words),
        Refusal::Refused(words) if words.starts_with("LOADING") || words.starts_with("MASTERDOWN") => {
            fault(UNAVAILABLE, words)
        }
        Refusal::Refused(words) if words.contains("errMsg: ") => {
            // The engine repeats a part of the statement, which may hold a person's data: the words before it are enough.
            let words = words.trim_start_matches("errMsg: ").split(" errCtx:").next().unwrap_or_default().to_owned();
            fault(SYNTAX, words)
        }
        Refusal::Refused(words) => fault(STATEMENT, words),
    }
}

/// Elements as Bolt 4 writes them: without their ids as text.
fn as_before_5(value: &mut Pack) {
    match value {
        Pack::Struct(kind, fields) => {
            match kind {
                b'N' => fields.truncate(3),
                b'R' => fields.truncate(5),
                b'r' => fields.truncate(3),
                _ => {}
            }
            fields.iter_mut().for_each(as_before_5);
        }
        Pack::List(all) => all.iter_mut().for_each(as_before_5),
        Pack::Map(all) => all.iter_mut().for_each(|(_, v)| as_before_5(v)),
        _ => {}
    }
}
