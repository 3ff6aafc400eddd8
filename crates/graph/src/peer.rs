//! What members and the monitor say to one another: a line of JSON each way over TLS, both ends shown by certificate.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use api::graph::{GraphMember, GraphPulse};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{member::Keeper, tunnel, vote::Request};

/// A question to a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    Vote(Request),
    Beat {
        term: u64,
        leader: String,
    },
    Pulse,
    /// From here on the connection is the engine's own stream.
    Follow {
        term: u64,
    },
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Vote { term: u64, given: bool },
    Beat { term: u64, ok: bool },
    Pulse(GraphPulse),
    Follow { ok: bool },
}

/// How long a question may take, from connecting to its answer.
const ANSWER: Duration = Duration::from_millis(2500);
/// No line is longer.
const LINE: u64 = 16 * 1024;
/// Connections from other members at once.
const PLACES: usize = 64;

pub(crate) type Link = BufReader<TlsStream<TcpStream>>;

/// Connections to the other members, kept open.
#[derive(Clone)]
pub(crate) struct Links {
    connector: TlsConnector,
    open: Arc<Mutex<HashMap<String, Link>>>,
    /// The stream that this member follows by.
    pub following: tunnel::Following,
}

impl Links {
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        Self { connector: TlsConnector::from(tls), open: Arc::default(), following: tunnel::Following::default() }
    }

    /// Cuts the stream that this member follows by; when this returns nothing more of it reaches the engine.
    pub async fn cut(&self) {
        self.following.cut().await;
    }

    pub async fn connect(&self, to: &GraphMember) -> io::Result<Link> {
        let stream = TcpStream::connect((to.address, to.peer_port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(to.server_name.clone()).map_err(io::Error::other)?;
        Ok(BufReader::new(self.connector.connect(name, stream).await?))
    }

    /// Asks a member, over the connection there is or a new one.
    pub async fn ask(&self, to: &GraphMember, ask: &Ask) -> io::Result<Reply> {
        // A vote has a connection of its own: it must not wait behind a beat.
        let kind = if matches!(ask, Ask::Vote(_)) { "vote" } else { "beat" };
        let key = format!("{kind}/{}", to.name);
        let known = self.open.lock().await.remove(&key);
        let exchange = async {
            let mut link = match known {
                Some(link) => link,
                None => self.connect(to).await?,
            };
            let reply = ask_on(&mut link, ask).await?;
            Ok::<_, io::Error>((link, reply))
        };
        let (link, reply) = tokio::time::timeout(ANSWER, exchange).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.open.lock().await.insert(key, link);
        Ok(reply)
    }
}

/// Asks over one connection.
pub(crate) async fn ask_on(link: &mut Link, ask: &Ask) -> io::Result<Reply> {
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    link.get_mut().write_all(&line).await?;
    link.get_mut().flush().await?;
    let mut line = String::new();
    (&mut *link).take(LINE).read_line(&mut line).await?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(io::Error::other)
}

/// Answers other members. Whoever has no certificate of one does not get as far as a line.
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
            let accepted = tokio::time::timeout(ANSWER, acceptor.accept(stream)).await;
            let Ok(Ok(stream)) = accepted else { return };
            if let Err(error) = serve(BufReader::new(stream), &keeper).await {
                tracing::debug!(%error, "a member's connection ended");
            }
        });
    }
}

async fn serve(
    mut stream: BufReader<tokio_rustls::server::TlsStream<TcpStream>>,
    keeper: &Arc<Keeper>,
) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if (&mut stream).take(LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let ask: Ask = serde_json::from_str(&line).map_err(io::Error::other)?;
        let reply = match &ask {
            Ask::Vote(request) => keeper.on_vote(request).await,
            Ask::Beat { term, leader } => keeper.on_beat(*term, leader).await,
            Ask::Pulse => Reply::Pulse(keeper.pulse()),
            Ask::Follow { term } => Reply::Follow { ok: keeper.takes_followers(*term) },
        };
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).await?;
        stream.get_mut().flush().await?;
        if let Ask::Follow { term } = ask {
            return match reply {
                Reply::Follow { ok: true } => tunnel::to_engine(stream.into_inner(), keeper, term).await,
                _ => Ok(()),
            };
        }
    }
}
