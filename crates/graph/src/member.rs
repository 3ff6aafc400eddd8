//! One member: who leads, as it knows; when it stands for election; what it tells the others and hears from them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::{
    Secret,
    graph::{GraphConfig, GraphMember, GraphPart, GraphPulse},
};
use service::Shutdown;
use tokio::sync::watch;

use crate::{
    Error,
    peer::{Ask, Links, Reply},
    redis::{Connection, Value},
    tools::{self, Engine, KEEPER, TERM, WRITES},
    vote::{Ballot, Position, Request, most},
};

/// A leader says so this often.
const BEAT: Duration = Duration::from_millis(300);
/// A leader that most have not answered for so long takes no writes.
const SILENCE: Duration = Duration::from_secs(2);
/// A member that has heard no leader for so long, and a little more by chance, stands for election.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How long a look at the own engine may take.
const LOOK: Duration = Duration::from_secs(2);

/// What a member knows.
pub(crate) struct State {
    ballot: Ballot,
    leads: bool,
    /// The engine answers.
    serves: bool,
    leader: Option<String>,
    /// When the leader was last heard.
    heard: Instant,
    patience: Duration,
    /// A leader: when each other member last answered.
    answered: BTreeMap<String, Instant>,
    position: Position,
    streams: bool,
    doing: String,
}

/// One member and its engine.
pub(crate) struct Keeper {
    pub config: GraphConfig,
    pub me: GraphMember,
    pub engine: Engine,
    pub root: Secret,
    own_password: Secret,
    pub links: Links,
    ballot_path: PathBuf,
    state: Mutex<State>,
    /// One change of the ballot at a time.
    voting: tokio::sync::Mutex<()>,
    /// Changes with the leader and the term: whatever streams or serves by the old word ends.
    pub word: watch::Sender<(u64, Option<String>)>,
    /// Where the engine finds its leader.
    tunnel_port: u16,
}

impl Keeper {
    pub fn new(
        config: GraphConfig,
        engine: Engine,
        root: Secret,
        links: Links,
        tunnel_port: u16,
    ) -> Result<Arc<Self>, Error> {
        let me = config.members.iter().find(|m| m.name == config.name).cloned();
        let me = me.ok_or_else(|| Error::Config(format!("{} is no member", config.name)))?;
        let ballot_path = engine.data.with_file_name("ballot.json");
        let ballot = Ballot::open(&ballot_path).map_err(Error::io("read", &ballot_path))?;
        let term = ballot.term;
        let state = State {
            ballot,
            leads: false,
            serves: false,
            leader: None,
            heard: Instant::now(),
            // The first start is quick where there is nobody to wait for.
            patience: if config.members.len() == 1 { Duration::ZERO } else { by_chance() },
            answered: BTreeMap::new(),
            position: Position::default(),
            streams: false,
            doing: "the engine starts".into(),
        };
        let own_password = Secret::random();
        let word = watch::Sender::new((term, None));
        let voting = tokio::sync::Mutex::new(());
        let state = Mutex::new(state);
        Ok(Arc::new(Self {
            config,
            me,
            engine,
            root,
            own_password,
            links,
            ballot_path,
            state,
            voting,
            word,
            tunnel_port,
        }))
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many members must have a write.
    pub fn most(&self) -> usize {
        most(self.config.members.len())
    }

    fn others(&self) -> impl Iterator<Item = &GraphMember> {
        self.config.members.iter().filter(|m| m.name != self.me.name)
    }

    /// Whether it takes writes now; else why not, in words.
    pub fn takes_writes(&self) -> Result<u64, String> {
        let state = self.state();
        if !state.leads {
            return Err(match &state.leader {
                Some(leader) => format!("{} follows; {leader} takes writes", self.me.name),
                None => format!("nobody leads now, as far as {} knows", self.me.name),
            });
        }
        let with_us = 1 + state.answered.values().filter(|at| at.elapsed() < SILENCE).count();
        if with_us < self.most() || !state.serves {
            return Err(format!(
                "{with_us} of {} members answer, and a write must be safe with {}",
                self.config.members.len(),
                self.most()
            ));
        }
        Ok(state.ballot.term)
    }

    /// The member that leads, and those that follow and answer.
    pub fn routes(&self) -> (Option<&GraphMember>, Vec<&GraphMember>) {
        let state = self.state();
        let leader = match state.leads {
            true => Some(&self.me),
            false => state.leader.as_ref().and_then(|l| self.config.members.iter().find(|m| m.name == *l)),
        };
        let readers = self.config.members.iter().filter(|m| leader.is_none_or(|l| l.name != m.name)).collect();
        (leader, readers)
    }

    pub fn pulse(&self) -> GraphPulse {
        let takes_writes = self.takes_writes();
        let state = self.state();
        let part = match (state.serves, state.leads, &state.leader) {
            (false, ..) => GraphPart::None,
            (true, true, _) => GraphPart::Leader,
            (true, false, Some(_)) => GraphPart::Follower,
            (true, false, None) => GraphPart::Alone,
        };
        let joined = if state.leads { takes_writes.is_ok() } else { state.streams };
        let doing = match &takes_writes {
            _ if !state.serves => state.doing.clone(),
            Err(why) if state.leads => why.clone(),
            _ if state.leads || state.streams => String::new(),
            _ if state.leader.is_some() => "the leader's changes do not stream in yet".into(),
            _ => "it knows of no leader".into(),
        };
        GraphPulse {
            part,
            term: state.ballot.term,
            leader: if state.leads { Some(self.me.name.clone()) } else { state.leader.clone() },
            position: state.position.writes,
            joined,
            doing,
        }
    }

    /// The engine, as the keeper itself.
    async fn engine(&self) -> Result<Connection, Error> {
        Ok(Connection::signed_in(&self.engine.socket, KEEPER, self.own_password.expose()).await?)
    }

    pub fn write_engine(&self) -> Result<(), Error> {
        self.engine
            .write(&self.config.users, &self.config.database, &self.root, &self.own_password)
            .map_err(Error::io("write", &self.engine.data))
    }

    /// Keeps the engine running until the end is asked for.
    pub async fn keep_engine(&self, shutdown: &Shutdown) {
        while !shutdown.is_asked() {
            if self.engine.has_left_behind() {
                self.state().doing = "an engine of before still ends".into();
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            let mut child = match self.engine.start() {
                Ok(child) => child,
                Err(error) => {
                    tracing::error!(%error, "the engine could not be started");
                    self.state().doing = format!("the engine could not be started: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            tokio::select! {
                ended = child.wait() => {
                    tracing::error!(status = ?ended.ok(), "the engine ended");
                    self.state().doing = "the engine ended and is started again".into();
                    self.lost_engine();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                () = shutdown.asked() => {
                    if let Some(pid) = child.id().and_then(|p| rustix::process::Pid::from_raw(p as i32)) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    }
                    let _ = tokio::time::timeout(Duration::from_secs(8), child.wait()).await;
                    return;
                }
            }
        }
    }

    fn lost_engine(&self) {
        let mut state = self.state();
        state.serves = false;
        state.streams = false;
        if std::mem::take(&mut state.leads) {
            // Others take over; what this one had not passed on was never acknowledged.
            state.leader = None;
            state.heard = Instant::now();
            state.patience = by_chance() + PATIENCE;
            let term = state.ballot.term;
            drop(state);
            self.word.send_replace((term, None));
        }
    }

    /// Looks at the engine and acts by what is known, until the end.
    pub async fn live(self: &Arc<Self>, shutdown: &Shutdown) {
        let mut connection: Option<Connection> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(BEAT / 3) => {}
                () = shutdown.asked() => return,
            }
            let looked = tokio::time::timeout(LOOK, self.look(&mut connection)).await;
            match looked {
                Ok(Ok(())) => {}
                other => {
                    connection = None;
                    let what = match other {
                        Ok(Err(error)) => error.to_string(),
                        _ => "it does not answer in time".to_owned(),
                    };
                    let mut state = self.state();
                    if state.serves {
                        tracing::warn!(what, "the engine could not be looked at");
                    }
                    state.serves = false;
                    state.doing = what;
                    continue;
                }
            }
            let stands = {
                let state = self.state();
                !state.leads && state.heard.elapsed() > state.patience
            };
            if stands && let Err(error) = self.stand().await {
                tracing::warn!(%error, "standing for election failed");
                self.state().heard = Instant::now();
            }
        }
    }

    /// How far the data goes, and that the engine follows whom it should.
    async fn look(&self, open: &mut Option<Connection>) -> Result<(), Error> {
        let connection = match open {
            Some(connection) => connection,
            None => open.insert(self.engine().await?),
        };
        let position = position(connection).await?;
        let role = connection.call(&["ROLE"]).await?;
        let follows = role.list().first().and_then(Value::text).as_deref() == Some("slave");
        let streams = follows && role.list().get(3).and_then(Value::text).as_deref() == Some("connected");
        let (leads, leader) = {
            let mut state = self.state();
            state.serves = true;
            state.position = position;
            state.streams = streams && state.leader.is_some();
            (state.leads, state.leader.clone())
        };
        if !leads && leader.is_some() && !follows {
            let password = tools::replication(&self.root);
            connection.call(&["CONFIG", "SET", "masterauth", password.expose()]).await?;
            connection.call(&["REPLICAOF", "127.0.0.1", &self.tunnel_port.to_string()]).await?;
        }
        Ok(())
    }

    /// Asks for a vote, first on trial, then in earnest; leads if most give it.
    async fn stand(self: &Arc<Self>) -> Result<(), Error> {
        let _alone = self.voting.lock().await;
        let (term, position) = {
            let mut state = self.state();
            state.leader = None;
            (state.ballot.term, state.position)
        };
        // What streams in from a leader that is heard no longer is cut before it is said how far the data goes.
        self.word.send_replace((term, None));
        let request = Request { term: term + 1, candidate: self.me.name.clone(), position, trial: true };
        let trial = 1 + self.ask_all(&request).await;
        if trial >= self.most() {
            let ballot = Ballot { version: 1, term: term + 1, voted: Some(self.me.name.clone()) };
            ballot.save(&self.ballot_path).map_err(Error::io("write", &self.ballot_path))?;
            self.state().ballot = ballot;
            self.links.cut().await;
            let position = position_of(self).await?;
            let request = Request { position, trial: false, ..request };
            let votes = 1 + self.ask_all(&request).await;
            let still = self.state().ballot.term == term + 1;
            if votes >= self.most() && still {
                return self.lead(term + 1, votes).await;
            }
        }
        let mut state = self.state();
        state.heard = Instant::now();
        state.patience = by_chance() / 2;
        Ok(())
    }

    async fn lead(self: &Arc<Self>, term: u64, votes: usize) -> Result<(), Error> {
        let mut engine = self.engine().await?;
        engine.call(&["REPLICAOF", "NO", "ONE"]).await?;
        engine.call(&["SET", TERM, &term.to_string()]).await?;
        // The graph is there from the first question on.
        engine.call(&["GRAPH.QUERY", &self.config.database, "RETURN 1"]).await?;
        {
            let mut state = self.state();
            if state.ballot.term != term {
                return Ok(());
            }
            state.leads = true;
            state.leader = Some(self.me.name.clone());
            state.answered.clear();
            state.position.term = term;
        }
        tracing::warn!(term, votes, members = self.config.members.len(), "leads");
        self.word.send_replace((term, Some(self.me.name.clone())));
        for other in self.others().cloned() {
            tokio::spawn(self.clone().beat(other, term));
        }
        Ok(())
    }

    /// Tells one other member who leads, as long as it is so.
    async fn beat(self: Arc<Self>, other: GraphMember, term: u64) {
        loop {
            {
                let state = self.state();
                if !state.leads || state.ballot.term != term {
                    return;
                }
            }
            let ask = Ask::Beat { term, leader: self.me.name.clone() };
            match self.links.ask(&other, &ask).await {
                Ok(Reply::Beat { term: theirs, ok: true }) if theirs == term => {
                    self.state().answered.insert(other.name.clone(), Instant::now());
                }
                Ok(Reply::Beat { term: theirs, .. }) if theirs > term => {
                    tracing::warn!(theirs, term, "a newer term has begun");
                    self.step_down(theirs).await;
                    return;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, other = other.name, "not answered"),
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Leads no longer, whatever it was.
    async fn step_down(&self, term: u64) {
        let _alone = self.voting.lock().await;
        let mut ballot = self.state().ballot.clone();
        if term > ballot.term {
            ballot = Ballot { version: 1, term, voted: None };
            if let Err(error) = ballot.save(&self.ballot_path) {
                tracing::error!(%error, "the ballot could not be written");
            }
        }
        {
            let mut state = self.state();
            state.ballot = ballot;
            state.leads = false;
            state.leader = None;
            state.heard = Instant::now();
            state.patience = by_chance();
        }
        self.word.send_replace((term, None));
    }

    async fn ask_all(&self, request: &Request) -> usize {
        let mut asked = tokio::task::JoinSet::new();
        for other in self.others() {
            let (links, other, ask) = (self.links.clone(), other.clone(), Ask::Vote(request.clone()));
            asked.spawn(async move { links.ask(&other, &ask).await });
        }
        let mut given = 0;
        while let Some(answer) = asked.join_next().await {
            given += usize::from(matches!(answer, Ok(Ok(Reply::Vote { given: true, .. }))));
        }
        given
    }

    /// Somebody asks for this member's vote.
    pub async fn on_vote(&self, request: &Request) -> Reply {
        let _alone = self.voting.lock().await;
        let (ballot, led, before) = {
            let state = self.state();
            // A leader that most answer, and a member that hears one, do not let themselves be disturbed.
            let leading =
                state.leads && state.answered.values().filter(|at| at.elapsed() < SILENCE).count() + 1 >= self.most();
            let led = leading || (state.leader.is_some() && !state.leads && state.heard.elapsed() < PATIENCE / 2);
            (state.ballot.clone(), led, state.position)
        };
        let refuse = Reply::Vote { term: ballot.term, given: false };
        if request.trial {
            let (given, _) = ballot.on(request, before, led);
            return Reply::Vote { term: ballot.term, given };
        }
        if led || request.term < ballot.term {
            return refuse;
        }
        // The stream is cut first, then it is looked how far it came: what the old leader sends from here on is acknowledged to nobody.
        {
            let mut state = self.state();
            state.leads = false;
            state.leader = None;
            state.streams = false;
        }
        self.word.send_replace((request.term, None));
        self.links.cut().await;
        let Ok(own) = position_of(self).await else { return refuse };
        let (given, after) = ballot.on(request, own, false);
        if after != ballot && after.save(&self.ballot_path).is_err() {
            return refuse;
        }
        let mut state = self.state();
        state.ballot = after;
        state.position = own;
        if given {
            state.heard = Instant::now();
            state.patience = by_chance();
        }
        Reply::Vote { term: state.ballot.term, given }
    }

    /// Somebody says that it leads.
    pub async fn on_beat(&self, term: u64, leader: &str) -> Reply {
        let known = { self.state().ballot.term };
        if term < known || !self.config.members.iter().any(|m| m.name == leader) {
            return Reply::Beat { term: known, ok: false };
        }
        let news = { self.state().leader.as_deref() != Some(leader) || term > known };
        if news {
            let _alone = self.voting.lock().await;
            let mut ballot = self.state().ballot.clone();
            if term < ballot.term {
                return Reply::Beat { term: ballot.term, ok: false };
            }
            if term > ballot.term {
                ballot = Ballot { version: 1, term, voted: None };
                if ballot.save(&self.ballot_path).is_err() {
                    return Reply::Beat { term: known, ok: false };
                }
            }
            {
                let mut state = self.state();
                state.ballot = ballot;
                state.leads = false;
                state.leader = Some(leader.to_owned());
                state.heard = Instant::now();
            }
            tracing::info!(term, leader, "follows");
            self.word.send_replace((term, Some(leader.to_owned())));
        }
        let mut state = self.state();
        state.heard = Instant::now();
        state.patience = by_chance();
        Reply::Beat { term: state.ballot.term, ok: state.serves }
    }
}

async fn position(connection: &mut Connection) -> Result<Position, Error> {
    let both = connection.call(&["MGET", TERM, WRITES]).await?;
    let number = |n: usize| both.list().get(n).and_then(Value::int).unwrap_or(0) as u64;
    Ok(Position { term: number(0), writes: number(1) })
}

async fn position_of(keeper: &Keeper) -> Result<Position, Error> {
    let look = async { position(&mut keeper.engine().await?).await };
    tokio::time::timeout(LOOK, look).await.map_err(|_| Error::Answer("no answer in time"))?
}

/// Longer than [`PATIENCE`], by a different share each time, so that two seldom stand at once.
fn by_chance() -> Duration {
    let mut byte = [0u8; 1];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    PATIENCE + PATIENCE.mul_f32(f32::from(byte[0]) / 255.0)
}
