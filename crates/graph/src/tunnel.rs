//! The engine's replication, which knows no TLS, carried over the members' own connections. It is cut whenever the word on who leads
//! changes.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinHandle,
};

use crate::{
    member::Keeper,
    peer::{Ask, Reply, ask_on},
};

/// The stream that a follower's engine has to its leader, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Following(Arc<Mutex<Option<JoinHandle<()>>>>);

impl Following {
    fn set(&self, task: JoinHandle<()>) {
        let old = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(task);
        if let Some(old) = old {
            old.abort();
        }
    }

    /// Ends it, and waits until it has ended.
    pub async fn cut(&self) {
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Keeper {
    /// Whether this member leads that term, so that others may follow it.
    pub(crate) fn takes_followers(&self, term: u64) -> bool {
        let word = self.word.borrow();
        word.0 == term && word.1.as_deref() == Some(&self.me.name)
    }

    /// The engine's way to its leader: it connects to a port on the loopback of its own network, and is led on from there.
    pub(crate) async fn lead_engine_on(self: &Arc<Self>, listener: TcpListener) -> io::Error {
        loop {
            let engine = match listener.accept().await {
                Ok((engine, _)) => engine,
                Err(error) => {
                    tracing::warn!(%error, "could not accept the engine");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // One leader, one stream: an older one is cut by a newer.
            self.links.cut().await;
            let keeper = self.clone();
            self.links.following.set(tokio::spawn(async move {
                if let Err(error) = keeper.follow(engine).await {
                    tracing::debug!(%error, "the stream from the leader ended");
                }
            }));
        }
    }

    async fn follow(&self, engine: TcpStream) -> io::Result<()> {
        let mut word = self.word.subscribe();
        let (term, leader) = word.borrow_and_update().clone();
        let leader = leader.filter(|l| *l != self.me.name);
        let to = leader.and_then(|l| self.config.members.iter().find(|m| m.name == l));
        let Some(to) = to else { return Err(io::ErrorKind::NotConnected.into()) };
        let _ = engine.set_nodelay(true);
        let opening = async {
            let mut link = self.links.connect(to).await?;
            match ask_on(&mut link, &Ask::Follow { term }).await? {
                Reply::Follow { ok: true } => Ok(link.into_inner()),
                _ => Err(io::Error::other("it does not lead")),
            }
        };
        let link =
            tokio::time::timeout(Duration::from_secs(5), opening).await.map_err(|_| io::ErrorKind::TimedOut)??;
        tokio::select! {
            ended = copy(engine, link) => ended,
            _ = word.wait_for(|word| word.0 != term || word.1.as_deref() != Some(&to.name)) => Ok(()),
        }
    }
}

/// A follower's stream, at the leader: on to its engine, as long as it leads.
pub(crate) async fn to_engine<S: AsyncRead + AsyncWrite + Unpin>(
    link: S,
    keeper: &Keeper,
    term: u64,
) -> io::Result<()> {
    let mut word = keeper.word.subscribe();
    let engine = UnixStream::connect(&keeper.engine.socket).await?;
    tokio::select! {
        ended = copy(link, engine) => ended,
        _ = word.wait_for(|word| word.0 != term || word.1.as_deref() != Some(&keeper.me.name)) => Ok(()),
    }
}

async fn copy(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    tokio::io::copy_bidirectional(&mut one, &mut other).await.map(drop)
}
