//! The loop: have a server, make it ready, watch it, have it again.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use api::{
    Secret,
    context::Renewal,
    member::{Lead, Pulse},
    postgres::{IdentityRoles, PostgresStatus},
};
use service::Shutdown;
use tokio::sync::{Notify, watch};
use tokio_postgres::Client;

use crate::{
    Error,
    admin::{Admin, SignIn},
    backups::{Backups, blocking},
    config::Checked,
    identities::Identities,
    member::{Membership, Rebuild},
    postmaster::{self, Postmaster},
    replica,
    restore::Restore,
    roles::Roles,
    settings::{self, Door},
    space::Space,
    template, tools,
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A server that served this long ended for a new reason.
const SETTLED: Duration = Duration::from_secs(30);
/// How often a server that starts or recovers is asked whether it answers.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// With less than this free, PostgreSQL may be unable to make its next WAL file (16 MiB).
const LITTLE_SPACE: u64 = 32 * 1024 * 1024;

/// What the keeper knows of its server.
#[derive(Clone, Debug)]
enum State {
    /// Not answering yet, and why.
    Starting(String),
    Ready,
    /// Ended or not startable, and why; the keeper tries again.
    Down(String),
    Stopping,
}

/// Why one server's life came to its end.
enum End {
    Asked,
    Died(String),
    /// Another member leads: this one begins anew, behind it.
    SteppedDown,
}

pub(crate) struct Keeper {
    checked: Checked,
    /// What the server shows: the first is what this process was handed, the next come by its control socket.
    shown: Mutex<Renewal>,
    /// Told when `shown` is another.
    renewed: Notify,
    admin: Arc<Admin>,
    roles: Roles,
    /// None: the only server of its database.
    member: Option<Membership>,
    backups: Option<Arc<Backups>>,
    /// None: nobody signs in by identity.
    identities: Option<Identities>,
    space: Space,
    state: watch::Sender<State>,
    pid: AtomicU32,
    starts: AtomicU32,
}

impl Keeper {
    pub fn new(
        checked: Checked,
        cert: Secret,
        key: Secret,
        password: Secret,
        member: Option<Membership>,
        backups: Option<Arc<Backups>>,
        identities: Option<Identities>,
    ) -> Self {
        let admin = Arc::new(Admin::new(checked.config.socket_dir.clone(), checked.config.port, password));
        let data = checked.pgdata.parent().unwrap_or(Path::new("/"));
        Self {
            space: Space::of(data, &checked.conf),
            backups,
            identities,
            checked,
            shown: Mutex::new(Renewal { cert, key }),
            renewed: Notify::new(),
            admin,
            roles: Roles::default(),
            member,
            state: watch::Sender::new(State::Starting("the keeper has just started".into())),
            pid: AtomicU32::new(0),
            starts: AtomicU32::new(0),
        }
    }

    /// Keeps a server until the end is asked for; then ends it.
    pub async fn keep(&self, shutdown: &Shutdown) {
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_asked() {
            let begun = Instant::now();
            let why = match self.one_life(shutdown).await {
                Ok(End::Asked) => return,
                Ok(End::SteppedDown) => {
                    pause = FIRST_PAUSE;
                    continue;
                }
                Ok(End::Died(why)) => why,
                Err(error) => error.chain(),
            };
            self.pid.store(0, Ordering::Relaxed);
            if begun.elapsed() > SETTLED {
                pause = FIRST_PAUSE;
            }
            let why = self.with_space(why);
            if let Some(member) = &self.member {
                member.tell_down(&why);
            }
            tracing::error!(why, "the server is down; trying again in {} ms", pause.as_millis());
            self.state.send_replace(State::Down(why));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.asked() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// From having a server to its end.
    async fn one_life(&self, shutdown: &Shutdown) -> Result<End, Error> {
        let having = async {
            let word = match &self.member {
                Some(member) => {
                    self.state.send_replace(State::Starting("it awaits word on who leads".into()));
                    Some(member.word().await?)
                }
                None => None,
            };
            // A copy of a large database takes long; who leads may change meanwhile.
            tokio::select! {
                server = self.have(word.as_ref()) => Ok((server?, word.clone())),
                news = self.other_word(word.as_ref()) => {
                    Err(Error::NotReady(format!("{} leads now; beginning anew", news.primary)))
                }
            }
        };
        let (mut server, word) = tokio::select! {
            had = having => had?,
            () = shutdown.asked() => return Ok(End::Asked),
        };
        self.pid.store(server.pid(), Ordering::Relaxed);
        let serve = async {
            match (&self.member, word) {
                (Some(member), Some(word)) => self.serve_as_member(&server, member, word).await,
                _ => {
                    self.make_ready(&server).await?;
                    self.say_ready();
                    self.keep_backups().await
                }
            }
        };
        // The borrow of `serve` ends before the server is ended or its end awaited a second time.
        enum Event {
            Failed(Error),
            Turned(Lead),
            Asked,
            Ended,
        }
        let watched = server.watch();
        let renewals = async {
            loop {
                self.renewed.notified().await;
                server.reload();
                tracing::info!("the certificate was renewed");
            }
        };
        let event = tokio::select! {
            never = renewals => never,
            result = serve => result.map_or_else(Event::Failed, Event::Turned),
            () = shutdown.asked() => Event::Asked,
            () = watched => Event::Ended,
        };
        match event {
            Event::Ended => {
                let status = server.ended().await;
                let how = status.map_or_else(|| "unknown, it was adopted".to_owned(), |s| s.to_string());
                if let Some(restore) = self.restore() {
                    restore.ended(&self.checked.pgdata, &how);
                }
                Ok(End::Died(format!("the server ended ({how}); its own words are in the log")))
            }
            Event::Asked => {
                self.state.send_replace(State::Stopping);
                server.stop().await;
                tracing::info!("the server was ended");
                Ok(End::Asked)
            }
            Event::Turned(news) => {
                tracing::info!(primary = news.primary, "another member leads; stepping down");
                self.state.send_replace(State::Starting(format!("it steps down for {}", news.primary)));
                if let Some(member) = &self.member {
                    member.tell_down("it steps down");
                }
                let was_primary = !replica::is_standby(&self.checked.pgdata);
                let status = server.stop().await;
                if was_primary && status.is_some_and(|s| s.success()) {
                    // In order: every standby was sent all of it, so there is nothing to rewind.
                    replica::mark_standby(&self.checked.pgdata)?;
                }
                Ok(End::SteppedDown)
            }
            // A server that cannot be made ready is of no use; a new one may be.
            Event::Failed(error) => {
                server.stop().await;
                Err(error)
            }
        }
    }

    /// Another word than `known`; never, for the only server of a database.
    async fn other_word(&self, known: Option<&Lead>) -> Lead {
        match (&self.member, known) {
            (Some(member), Some(known)) => member.other_word(known).await,
            _ => std::future::pending().await,
        }
    }

    fn say_ready(&self) {
        self.state.send_replace(State::Ready);
        tracing::info!(pid = self.pid.load(Ordering::Relaxed), "the server is ready");
    }

    /// Takes base backups as declared for as long as the server serves; only a failure ends it.
    async fn keep_backups(&self) -> Result<Lead, Error> {
        if let Some(backups) = &self.backups {
            backups.keep(&self.admin).await?;
        }
        std::future::pending().await
    }

    /// A member's days as long as its server may stay: as a standby, then as the primary if it is called to lead. Gives the
    /// word that ends them.
    async fn serve_as_member(&self, server: &Postmaster, member: &Membership, word: Lead) -> Result<Lead, Error> {
        let mut word = word;
        if !member.leads(&word) || replica::is_standby(&self.checked.pgdata) {
            // The one that it was to follow may be gone: then it never answers.
            tokio::select! {
                () = self.answers() => {}
                () = member.rebuild_asked() => return Err(Error::NotReady("its data is fetched anew".into())),
                news = member.turned_to_another(&word) => return Ok(news),
            }
            if !member.leads(&word) {
                replica::drop_slots(&self.admin).await?;
                self.open_to_identities().await?;
                self.say_ready();
                word = tokio::select! {
                    word = replica::follow(&self.checked, member, &self.admin, server, word) => word,
                    () = member.rebuild_asked() => return Err(Error::NotReady("its data is fetched anew".into())),
                };
                if !member.leads(&word) {
                    return Ok(word);
                }
            }
            replica::promote(&self.checked, member, &self.admin, server, &word).await?;
        }
        self.replayed().await?;
        let ready = async {
            self.make_ready(server).await?;
            self.say_ready();
            self.keep_backups().await
        };
        // Side by side: after a crash, what makes it ready may wait for a standby that is lost.
        tokio::select! {
            failed = ready => failed,
            news = replica::lead(&self.checked, member, &self.admin, server, &word) => news,
        }
    }

    /// Watches the room on the disk, for as long as it is polled.
    pub async fn watch_space(&self) {
        self.space.watch(&self.pid).await;
    }

    /// Waits until data that came from backups is replayed to its end. A member takes people in while it replays, and whoever
    /// took it for a primary then would end it in the middle.
    async fn replayed(&self) -> Result<(), Error> {
        if !Restore::is_replaying(&self.checked.pgdata) {
            return Ok(());
        }
        loop {
            self.still_replays().await;
            match self.admin.sign_in().await {
                SignIn::Done(client) => {
                    let sql = "SELECT pg_is_in_recovery()";
                    let row = client.query_one(sql, &[]).await.map_err(Error::sql("ask whether it still replays"))?;
                    if !row.get::<_, bool>(0) {
                        return Ok(());
                    }
                }
                SignIn::WrongPassword => return Ok(()),
                SignIn::NotYet(_) => {}
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Waits while data that came from backups is replayed. Each sign-in would cost the server a process that it needs for
    /// replaying.
    async fn still_replays(&self) {
        if Restore::is_replaying(&self.checked.pgdata) {
            self.state.send_replace(State::Starting("the log is replayed".into()));
        }
        while Restore::is_replaying(&self.checked.pgdata) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Waits until a standby takes the administrator in; its password comes with the primary's log.
    async fn answers(&self) {
        loop {
            let why = match self.admin.sign_in().await {
                SignIn::Done(_) => return,
                SignIn::WrongPassword => "the administrator's password is not the primary's yet".into(),
                SignIn::NotYet(why) => why,
            };
            self.state.send_replace(State::Starting(why));
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Adopts the server that runs on the data directory, or starts one.
    async fn have(&self, word: Option<&Lead>) -> Result<Postmaster, Error> {
        let checked = &self.checked;
        let follows = self.member.as_ref().zip(word).filter(|(member, word)| !member.leads(word));
        let door = match follows {
            Some(_) => Door::Password,
            None => self.own_data(word).await?,
        };
        let mut further = self.restore().map(|restore| restore.settings()).unwrap_or_default();
        further.extend(self.space.settings(&checked.settings));
        {
            let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            settings::write(checked, &shown.cert, &shown.key, door, &further)?;
        }
        self.space.begin()?;
        if let (Some(member), Some(word), None) = (&self.member, word, follows) {
            // A server that was ended goes on waiting for whom its record names.
            let safe = if replica::is_standby(&checked.pgdata) { Vec::new() } else { member.safe_with() };
            member.write_settings(checked, word, &safe)?;
        }
        if self.member.is_none() {
            let _ = std::fs::remove_file(checked.conf.join("member.conf"));
        }
        let find = || Postmaster::find(&checked.pgdata).map_err(Error::io("look for a server on", &checked.pgdata));
        if let Some((mut server, listens)) = find()? {
            let config = &checked.config;
            let as_declared = listens.port == config.port.to_string()
                && listens.address == config.address.to_string()
                && Path::new(&listens.socket_dir) == config.socket_dir;
            // A primary that is one no longer has nothing to serve; neither has a standby whose data is to be replaced.
            let in_place = follows
                .is_none_or(|(member, _)| replica::is_standby(&checked.pgdata) && member.rebuild() == Rebuild::No);
            if as_declared && in_place {
                if let Some((member, word)) = follows {
                    member.write_settings(checked, word, &[])?;
                }
                server.reload();
                tracing::info!(pid = server.pid(), "adopted the running server");
                self.state.send_replace(State::Starting("the server was adopted".into()));
                return Ok(server);
            }
            tracing::info!(pid = server.pid(), ?listens, in_place, "the running server is not as declared; ending it");
            server.stop().await;
        }
        postmaster::end_orphans(&checked.pgdata).await.map_err(Error::io("look for processes on", &checked.pgdata))?;
        postmaster::drop_empty_lock(&checked.pgdata).map_err(Error::io("look at the lock of", &checked.pgdata))?;
        if let Some((member, word)) = follows {
            self.state.send_replace(State::Starting(format!("its data is made from {}", word.primary)));
            replica::prepare(checked, member, word).await?;
        }
        let child = tools::server(&checked.config.bin, &checked.pgdata, &settings::fixed(checked))
            .map_err(Error::io("start", checked.config.bin.join("postgres")))?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(State::Starting("the server was started".into()));
        Postmaster::child(child).map_err(Error::io("watch", checked.config.bin.join("postgres")))
    }

    /// The data of a server that follows nobody: what is there, or the template. Gives who may come in at first.
    async fn own_data(&self, word: Option<&Lead>) -> Result<Door, Error> {
        let (from, to) = (self.checked.config.template.clone(), self.checked.pgdata.clone());
        let (backups, bin) = (self.backups.clone(), self.checked.config.bin.clone());
        if word.is_some_and(|word| word.term > 1) && !to.exists() {
            // An empty database in the place of one that others follow would be a loss that nobody sees.
            return Err(Error::Config(format!("{} is not there, and this member is to lead with it", to.display())));
        }
        self.state.send_replace(State::Starting("its data is laid out".into()));
        let copied = blocking(move || match backups.as_ref().and_then(|b| b.restore.as_ref()) {
            // What is restored has the password that its origin had.
            Some(restore) => restore.lay(&bin, &to).map(|_| false),
            None => template::copy(&from, &to),
        });
        // A fresh copy has no password yet, so that the first sign-in would only fail.
        Ok(if copied.await? { Door::Trust } else { Door::Password })
    }

    /// Waits until the server answers, sees to the administrator's password, and makes what was declared.
    async fn make_ready(&self, server: &Postmaster) -> Result<(), Error> {
        self.still_replays().await;
        let client = loop {
            match self.admin.sign_in().await {
                SignIn::Done(client) => break *client,
                SignIn::WrongPassword => break self.set_password(server).await?,
                SignIn::NotYet(why) => {
                    self.state.send_replace(State::Starting(why));
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        };
        self.close_door(server, client).await?;
        self.roles.close_defaults(&self.admin).await?;
        match &self.member {
            Some(member) => replica::open_to_others(&self.admin, member).await?,
            // Whoever followed in earlier days is waited for no more, and no log is kept for it.
            None => replica::drop_slots(&self.admin).await?,
        }
        for database in &self.checked.config.databases {
            self.roles.set_database(&self.admin, database).await?;
        }
        self.open_to_identities().await?;
        match &self.backups {
            Some(backups) => backups.restored(&self.admin).await,
            None => Ok(()),
        }
    }

    /// Lets those in who sign in by identity, as the data says who they are; in force when it returns.
    async fn open_to_identities(&self) -> Result<(), Error> {
        let Some(identities) = &self.identities else { return Ok(()) };
        let sql = || Error::sql("let identities sign in");
        let client = self.admin.connect("postgres").await.map_err(sql())?;
        identities.read(&client).await?;
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = client.query_one(loaded, &[]).await.map_err(sql())?.get(0);
        if !settings::write_access(&self.checked, Door::Password, &identities.lines().await?)? {
            return Ok(());
        }
        client.execute("SELECT pg_reload_conf()", &[]).await.map_err(sql())?;
        self.loaded_since(&before).await
    }

    /// Waits until connections carry a newer load of the configuration than `before`.
    async fn loaded_since(&self, before: &str) -> Result<(), Error> {
        let sql = || Error::sql("see that the access file is in force");
        loop {
            let client = self.admin.connect("postgres").await.map_err(sql())?;
            let loaded = client.query_one("SELECT pg_conf_load_time()::text", &[]).await.map_err(sql())?;
            if loaded.get::<_, String>(0) != before {
                return Ok(());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Makes the roles that sign in by identity; a standby gets them by the log, and looks at them.
    pub async fn set_identity_roles(&self, request: &IdentityRoles) -> Result<(), Error> {
        let (roles, admin) = self.roles()?;
        if self.identities.is_none() {
            return Err(Error::NoIdentity);
        }
        if !replica::is_standby(&self.checked.pgdata) {
            roles.set_identities(admin, &request.roles).await?;
        }
        self.open_to_identities().await
    }

    /// Judges sign-ins by identity, for as long as it is polled.
    pub async fn judge_identities(&self) -> Result<(), Error> {
        match &self.identities {
            Some(identities) => identities.judge().await,
            None => std::future::pending().await,
        }
    }

    fn restore(&self) -> Option<&Restore> {
        self.backups.as_ref()?.restore.as_ref()
    }

    /// What keeps the backups, and the administrator's way in once the server is ready.
    pub fn backups(&self) -> Result<(&Arc<Backups>, &Arc<Admin>), Error> {
        Ok((self.backups.as_ref().ok_or(Error::NoBackups)?, &self.admin))
    }

    /// As [`Keeper::backups`], for what needs the server.
    pub fn served_backups(&self) -> Result<(&Arc<Backups>, &Arc<Admin>), Error> {
        self.roles()?;
        self.backups()
    }

    /// The secret was changed since the password was set: opens the socket for a moment and sets it.
    async fn set_password(&self, server: &Postmaster) -> Result<Client, Error> {
        tracing::info!("the administrator's password is another; setting it");
        settings::write_access(&self.checked, Door::Trust, "")?;
        server.reload();
        loop {
            if let SignIn::Done(client) = self.admin.sign_in().await {
                return Ok(*client);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Sees to it that the administrator has our password, however this connection was let in (a keeper may have been
    /// killed between two steps of this), and that it is asked for from now on.
    async fn close_door(&self, server: &Postmaster, mut client: Client) -> Result<(), Error> {
        let sql = || Error::sql("have the password asked for");
        if !self.admin.has_password(&client).await? {
            self.admin.set_password(&mut client).await?;
        }
        let method =
            client.query_one("SELECT auth_method FROM pg_hba_file_rules ORDER BY line_number LIMIT 1", &[]).await;
        if method.map_err(sql())?.get::<_, String>(0) != "trust" {
            return Ok(());
        }
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = client.query_one(loaded, &[]).await.map_err(sql())?.get(0);
        settings::write_access(&self.checked, Door::Password, "")?;
        server.reload();
        // A connection that was accepted after the reload carries its time.
        self.loaded_since(&before).await
    }

    /// Whether the server takes queries now.
    pub async fn health(&self) -> Result<(), Error> {
        let state = self.state.borrow().clone();
        match state {
            State::Ready => match self.admin.ping().await {
                Err(error) => Err(Error::NotReady(self.with_space(error.chain()))),
                Ok(()) if self.member.as_ref().is_some_and(|m| !m.follows()) => {
                    Err(Error::NotReady("it follows nobody: the log does not stream in".into()))
                }
                Ok(()) => Ok(()),
            },
            State::Starting(why) => Err(Error::NotReady(format!("starting: {why}"))),
            State::Down(why) => Err(Error::NotReady(why)),
            State::Stopping => Err(Error::NotReady("it is being ended".into())),
        }
    }

    /// How this member stands with the others; an only server has no pulse.
    pub fn pulse(&self) -> Option<Pulse> {
        self.member.as_ref().map(Membership::pulse)
    }

    /// Reads now who leads.
    pub fn read_lead(&self) -> Result<(), Error> {
        self.member.as_ref().map_or(Ok(()), Membership::read_lead)
    }

    /// Has a standby's data fetched anew.
    pub fn rebuild(&self) {
        if let Some(member) = &self.member {
            member.ask_rebuild();
        }
    }

    /// Shows another certificate from the next connection on; those that are open stay.
    ///
    /// # Errors
    /// Certificate and key are no PEM or do not belong together, or could not be written; the old ones are shown then.
    pub fn renew(&self, renewal: Renewal) -> Result<(), Error> {
        service::Certificate::new(&renewal.cert, &renewal.key).map_err(Error::Certificate)?;
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        settings::write_certificate(&self.checked, &renewal.cert, &renewal.key)?;
        *shown = renewal;
        drop(shown);
        self.renewed.notify_one();
        Ok(())
    }

    /// Everything at a glance; never fails.
    pub async fn status(&self) -> PostgresStatus {
        let mut status = PostgresStatus {
            ready: false,
            version: String::new(),
            bin: self.checked.config.bin.clone(),
            pid: self.pid.load(Ordering::Relaxed),
            connections: 0,
            trouble: None,
            starts: self.starts.load(Ordering::Relaxed),
            archive: self.backups.as_ref().map(|backups| backups.status()),
            restore: self.restore().map(|restore| restore.status()),
        };
        let asked = async {
            self.health().await?;
            let statement = "SELECT current_setting('server_version'), (SELECT count(*) FROM pg_stat_activity \
                             WHERE backend_type = 'client backend' AND application_name <> 'keeper')";
            self.admin
                .kept()
                .await?
                .query_one(statement, &[])
                .await
                .map_err(Error::sql("ask the server for its status"))
        };
        match asked.await {
            Ok(row) => {
                status.ready = true;
                status.version = row.get(0);
                status.connections = u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX);
            }
            Err(error) => status.trouble = Some(error.chain()),
        }
        status
    }

    /// The roles, once the server is ready: before that, what they need may not be there.
    pub fn roles(&self) -> Result<(&Roles, &Admin), Error> {
        match &*self.state.borrow() {
            State::Ready => Ok((&self.roles, &self.admin)),
            other => Err(Error::NotReady(format!("{other:?}"))),
        }
    }

    /// What is needed to work on whole databases, once the server is ready and takes writes.
    pub fn databases(&self) -> Result<(&Checked, &Admin), Error> {
        let (_, admin) = self.roles()?;
        if replica::is_standby(&self.checked.pgdata) {
            return Err(Error::NotReady("it follows another server".into()));
        }
        Ok((&self.checked, admin))
    }

    /// The administrator has another password from now on.
    pub async fn change_admin_password(&self, new: Secret) -> Result<(), Error> {
        let (_, admin) = self.roles()?;
        admin.change_password(new, replica::is_standby(&self.checked.pgdata)).await
    }

    /// Adds what the disk has to do with it.
    fn with_space(&self, why: String) -> String {
        let Some(data) = self.checked.pgdata.parent() else { return why };
        match rustix::fs::statvfs(data) {
            Ok(disk) if disk.f_bavail * disk.f_frsize < LITTLE_SPACE => {
                format!(
                    "{why}; the disk of {} is full ({} KiB free)",
                    data.display(),
                    disk.f_bavail * disk.f_frsize / 1024
                )
            }
            _ => why,
        }
    }
}
