//! What a keeper does for backups: archives each file of the log, takes base backups when they are due or asked for, lets old
//! ones go, and tells of all of it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use api::{
    Secret,
    backup::{ArchiveStatus, BackupAnswer, BackupConfig, Base, Point, Running},
};
use service::{Clock, Shutdown};
use tokio::sync::watch;

use crate::{
    Error,
    admin::Admin,
    archive, base,
    config::Checked,
    copy::Copying,
    name,
    repository::{Repository, window},
    restore::{self, Restore},
    seal::Head,
    tools,
    wal::Segment,
};

/// A new server has its first base backup a moment after it serves: whoever brings a stamp up waits for other things first.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// How often it is looked whether a base backup is due; by the stamp's clock, which a scratch stamp's `prove` moves.
const LOOK: Duration = Duration::from_secs(2);
/// A base backup that failed is tried again after this, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_AT_MOST: Duration = Duration::from_secs(1800);
/// How often the further copy is looked after where nothing calls for it: others write into the repository too.
const COPY_LOOK: Duration = Duration::from_secs(20);
/// What the further copy may take at an orderly end; the shim waits longer.
const LAST_COPY: Duration = Duration::from_secs(20);
/// How long a file of the log may take to be archived when somebody waits for it.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Backups {
    pub config: BackupConfig,
    repository: Arc<Repository>,
    copying: Option<Arc<Copying>>,
    pub restore: Option<Restore>,
    clock: Clock,
    bin: PathBuf,
    pgdata: PathBuf,
    socket_dir: PathBuf,
    port: u16,
    state: Mutex<State>,
    /// Counts archived files, for those who wait for one.
    archived: watch::Sender<u64>,
    archiving: tokio::sync::Mutex<()>,
    /// Held while a base backup is taken, and while old ones are let go.
    taking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<Segment, i64>,
    last: Option<(String, i64)>,
    failures: u64,
    trouble: Option<String>,
    running: Option<(String, Arc<AtomicU64>, Instant)>,
    base_trouble: Option<String>,
}

impl Backups {
    pub fn open(checked: &Checked, key: &Secret, clock: Clock) -> Result<Option<Arc<Self>>, Error> {
        let Some(config) = checked.config.backup.clone() else { return Ok(None) };
        let repository = Repository::open(&config.repository, key)?;
        let segments = repository.segments().unwrap_or_default();
        let newest = segments.iter().max_by_key(|(s, written)| (**written, **s)).map(|(s, _)| s.name());
        let last = newest.and_then(|name| {
            let head = repository.head(&format!("wal/{name}")).ok()?;
            Some((name, head.stored_ms))
        });
        let state = State { segments, last, ..State::default() };
        let repository = Arc::new(repository);
        let restore = config.restore.clone().map(|order| Restore::new(order, key)).transpose()?;
        let copying = config.copy.clone().map(|to| Arc::new(Copying::new(config.repository.clone(), to)));
        Ok(Some(Arc::new(Self {
            repository,
            copying,
            restore,
            clock,
            bin: checked.config.bin.clone(),
            pgdata: checked.pgdata.clone(),
            socket_dir: checked.config.socket_dir.clone(),
            port: checked.config.port,
            state: Mutex::new(state),
            archived: watch::Sender::new(0),
            archiving: tokio::sync::Mutex::default(),
            taking: tokio::sync::Mutex::default(),
            config,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server is one for looking: it is not archived and not backed up.
    fn aside(&self) -> bool {
        self.config.restore.as_ref().is_some_and(|order| order.aside)
    }

    /// Archives a file of the log that PostgreSQL hands over; it keeps the file until this is done.
    pub async fn archive(self: &Arc<Self>, name: String) -> Result<(), Error> {
        // One at a time: a caller that was cut and calls again would write the same file twice at once.
        let _alone = self.archiving.lock().await;
        let now_ms = self.clock.now_ms();
        let (own, file) = (self.clone(), name.clone());
        let stored = blocking(move || {
            archive::store(&own.repository, &own.pgdata, &file, now_ms)?;
            own.repository.head(&format!("wal/{file}"))
        })
        .await;
        let mut state = self.state();
        match stored {
            Ok(head) => {
                if let Some(segment) = Segment::parse(&name) {
                    state.segments.insert(segment, head.written_ms);
                }
                state.last = Some((name, now_ms));
                state.trouble = None;
                drop(state);
                self.archived.send_modify(|count| *count += 1);
                Ok(())
            }
            Err(error) => {
                state.failures += 1;
                let why = error.chain();
                if state.trouble.as_ref() != Some(&why) {
                    tracing::error!(
                        file = name,
                        why,
                        "the log could not be archived; the server keeps it and asks again"
                    );
                }
                state.trouble = Some(why);
                Err(error)
            }
        }
    }

    /// Gives a file of the archive to a server that is being restored.
    pub async fn fetch(self: &Arc<Self>, name: String, to: String) -> Result<(), Error> {
        let own = self.clone();
        blocking(move || {
            let restore = own.restore.as_ref().ok_or(Error::NoBackups)?;
            restore.fetch(&own.pgdata, &name, &to)
        })
        .await
    }

    /// Ends the log's file of now and waits until it is archived. A commit of our own goes first, so that every moment up to
    /// now has one after it: replay to a moment ends at the first commit behind it.
    pub async fn close_log(&self, admin: &Admin) -> Result<(), Error> {
        if self.aside() {
            return Err(Error::NoBackups);
        }
        let sql = || Error::sql("end the log's file");
        let client = admin.connect("postgres").await.map_err(sql())?;
        let mark = "SELECT pg_logical_emit_message(true, 'stampwright', 'the log is closed here')";
        client.batch_execute(mark).await.map_err(sql())?;
        let switched = client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).await.map_err(sql())?;
        self.wait_archived(switched.get(0)).await
    }

    async fn wait_archived(&self, name: String) -> Result<(), Error> {
        let segment = Segment::parse(&name).ok_or(Error::NotArchived(name))?;
        let mut archived = self.archived.subscribe();
        let there = archived.wait_for(|_| self.state().segments.contains_key(&segment));
        match tokio::time::timeout(ARCHIVED_WITHIN, there).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let why = self.state().trouble.clone();
                Err(Error::Behind(why.unwrap_or_else(|| format!("{} is not archived yet", segment.name()))))
            }
        }
    }

    /// Begins a base backup, or joins the one under way. Gives its name.
    pub fn begin(self: &Arc<Self>, admin: &Arc<Admin>, scheduled: bool) -> Result<String, Error> {
        if self.aside() {
            return Err(Error::NoBackups);
        }
        tools::client(&self.bin, "pg_basebackup")?;
        let begun_ms = self.clock.now_ms();
        let mut name = label(begun_ms);
        while self.repository.has(&format!("base/{name}")) {
            name.push('+');
        }
        let bytes = Arc::new(AtomicU64::new(0));
        {
            let mut state = self.state();
            if let Some((name, ..)) = &state.running {
                return Ok(name.clone());
            }
            state.running = Some((name.clone(), bytes.clone(), Instant::now()));
        }
        let (own, admin, known) = (self.clone(), admin.clone(), name.clone());
        tokio::spawn(async move {
            let alone = own.taking.lock().await;
            let taken = own.take(&admin, name.clone(), begun_ms, scheduled, bytes).await;
            drop(alone);
            let trouble = match taken {
                Ok(base) => {
                    tracing::info!(name, bytes = base.bytes, stored = base.stored_bytes, "took a base backup");
                    None
                }
                Err(error) => {
                    tracing::error!(name, error = error.chain(), "the base backup failed");
                    Some(error.chain())
                }
            };
            {
                let mut state = own.state();
                state.running = None;
                state.base_trouble = trouble;
            }
            own.expire().await;
        });
        Ok(known)
    }

    async fn take(
        self: &Arc<Self>,
        admin: &Admin,
        name: String,
        begun_ms: i64,
        scheduled: bool,
        bytes: Arc<AtomicU64>,
    ) -> Result<Base, Error> {
        let own = self.clone();
        let place = format!("base/{name}");
        let head = Head { place, stored_ms: begun_ms, written_ms: begun_ms };
        let (label, password) = (name.clone(), admin.password());
        let (stored_bytes, contents) = blocking(move || {
            let asked = tools::BaseBackup {
                bin: &own.bin,
                socket_dir: &own.socket_dir,
                port: own.port,
                password: &password,
                label: &label,
            };
            base::take(&own.repository, &asked, &head, &bytes)
        })
        .await?;
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, current_setting('server_version')";
        let row = admin.kept().await?.query_one(sql, &[]).await.map_err(Error::sql("ask the server for its time"))?;
        let base = Base {
            version: 1,
            name,
            begun_ms,
            ended_ms: self.clock.now_ms(),
            earliest_ms: row.get(0),
            timeline: contents.timeline,
            start_lsn: contents.start_lsn,
            stop_lsn: contents.stop_lsn,
            start_segment: contents.start_segment,
            bytes: contents.bytes,
            stored_bytes,
            files: contents.files,
            server: row.get(1),
            scheduled,
            copied: false,
        };
        let (own, done, now_ms) = (self.clone(), base.clone(), self.clock.now_ms());
        blocking(move || own.repository.put_base(&done, now_ms)).await?;
        self.archived.send_modify(|count| *count += 1);
        Ok(base)
    }

    /// Names this moment, and has it archived.
    pub async fn point(self: &Arc<Self>, admin: &Admin, point: &str) -> Result<Point, Error> {
        name::check("point", point)?;
        if self.repository.has(&format!("point/{point}")) {
            return Err(Error::PointTaken(point.into()));
        }
        let own = self.clone();
        if blocking(move || own.repository.bases()).await?.is_empty() {
            // A base backup that ends later cannot go back to it: who names a moment now would be refused when it is needed.
            return Err(Error::PointTooEarly(point.into()));
        }
        let sql = || Error::sql("name a moment");
        let client = admin.connect("postgres").await.map_err(sql())?;
        let statement =
            "SELECT pg_create_restore_point($1)::text, (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let row = client.query_one(statement, &[&point]).await.map_err(sql())?;
        let made = Point { version: 1, name: point.into(), lsn: row.get(0), at_ms: row.get(1) };
        self.close_log(admin).await?;
        let (own, done, now_ms) = (self.clone(), made.clone(), self.clock.now_ms());
        blocking(move || own.repository.put_point(&done, now_ms)).await?;
        self.archived.send_modify(|count| *count += 1);
        Ok(made)
    }

    /// Has every table and index read.
    pub async fn check(self: &Arc<Self>, admin: &Admin) -> Result<String, Error> {
        let (own, password) = (self.clone(), admin.password());
        blocking(move || tools::check(&own.bin, &own.socket_dir, own.port, &password)).await
    }

    /// What a person asked for.
    pub async fn asked(self: &Arc<Self>, admin: &Arc<Admin>, point: Option<&str>) -> Result<BackupAnswer, Error> {
        match point {
            Some(point) => Ok(BackupAnswer { name: None, point: Some(self.point(admin, point).await?) }),
            None => Ok(BackupAnswer { name: Some(self.begin(admin, false)?), point: None }),
        }
    }

    /// Everything that is there.
    pub async fn list(self: &Arc<Self>) -> Result<api::backup::Backups, Error> {
        let own = self.clone();
        let mut all = blocking(move || {
            let ((mut bases, broken), path) = (own.repository.all_bases()?, own.repository.path()?);
            let window = window(&bases, &path, &own.state().segments);
            if let Some(copying) = &own.copying {
                for base in &mut bases {
                    base.copied = copying.has(&format!("base/{}.info", base.name));
                }
            }
            let (points, bytes) = (own.repository.points()?, own.repository.bytes());
            let copy = own.copying.as_ref().map(|copying| copying.status());
            let trouble = broken.first().map(Error::chain);
            Ok(api::backup::Backups { bases, points, window, copy, bytes, trouble, ..api::backup::Backups::default() })
        })
        .await?;
        all.archive = self.status();
        let state = self.state();
        all.running = state.running.as_ref().map(|(name, bytes, since)| Running {
            name: name.clone(),
            bytes: bytes.load(Ordering::Relaxed),
            milliseconds: since.elapsed().as_millis() as u64,
        });
        all.trouble = state.base_trouble.clone().or(all.trouble);
        drop(state);
        if let Err(error) = tools::client(&self.bin, "pg_basebackup") {
            all.trouble = Some(error.chain());
        }
        Ok(all)
    }

    /// How the archiving goes.
    pub fn status(&self) -> ArchiveStatus {
        let waiting = std::fs::read_dir(self.pgdata.join("pg_wal/archive_status")).into_iter().flatten().flatten();
        let waiting = waiting.filter(|entry| entry.file_name().to_string_lossy().ends_with(".ready")).count();
        let tools = tools::client(&self.bin, "pg_basebackup");
        let state = self.state();
        let last_ms = state.last.as_ref().map(|(_, ms)| *ms);
        ArchiveStatus {
            on: !self.aside() && tools.is_ok(),
            last: state.last.as_ref().map(|(name, _)| name.clone()),
            last_ms,
            age_s: last_ms.map(|ms| (self.clock.now_ms() - ms) / 1000),
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            failures: state.failures,
            trouble: state.trouble.clone().or_else(|| tools.err().map(|e| e.chain())),
        }
    }

    async fn expire(self: &Arc<Self>) {
        // What a base backup under way has stored is not known as one yet, and would be taken for a leftover.
        let _alone = self.taking.lock().await;
        let own = self.clone();
        let (now_ms, retention_ms) = (self.clock.now_ms(), self.config.retention_s.saturating_mul(1000));
        let retention_ms = i64::try_from(retention_ms).unwrap_or(i64::MAX);
        let expired = blocking(move || {
            let removed = own.repository.expire(now_ms, retention_ms)?;
            if !removed.is_empty() {
                let segments = own.repository.segments()?;
                own.state().segments = segments;
            }
            if let Some(copying) = &own.copying {
                copying.expire(&own.repository, now_ms, retention_ms)?;
            }
            Ok(removed)
        });
        match expired.await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(removed = removed.join(", "), "let go what is older than the retention"),
            Err(error) => tracing::error!(error = error.chain(), "could not let go what is older than the retention"),
        }
    }

    /// Takes base backups as they become due while the server serves; resolves when it is cut.
    pub async fn keep(self: &Arc<Self>, admin: &Arc<Admin>) -> Result<(), Error> {
        if self.aside() || tools::client(&self.bin, "pg_basebackup").is_err() {
            return std::future::pending().await;
        }
        let since = Instant::now();
        let mut pause = AGAIN;
        let mut not_before = since;
        self.expire().await;
        loop {
            tokio::time::sleep(LOOK).await;
            if Instant::now() < not_before || self.state().running.is_some() {
                continue;
            }
            let due = match self.due(admin, since).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "could not see whether a base backup is due");
                    not_before = Instant::now() + AGAIN;
                    continue;
                }
            };
            if !due {
                pause = AGAIN;
                continue;
            }
            // One that fails is due again at once.
            not_before = Instant::now() + pause;
            pause = (pause * 2).min(AGAIN_AT_MOST);
            if let Err(error) = self.begin(admin, true) {
                self.state().base_trouble = Some(error.chain());
            }
        }
    }

    async fn due(self: &Arc<Self>, admin: &Admin, since: Instant) -> Result<bool, Error> {
        let own = self.clone();
        let newest = blocking(move || Ok(own.repository.bases()?.pop())).await?;
        let Some(newest) = newest else { return Ok(since.elapsed() >= FIRST_AFTER) };
        let every_ms = i64::try_from(self.config.every_s.saturating_mul(1000)).unwrap_or(i64::MAX);
        let now_ms = self.clock.now_ms();
        // One from the future: the clock went back, and would not reach its day for long.
        if now_ms >= newest.begun_ms.saturating_add(every_ms) || now_ms < newest.begun_ms {
            return Ok(true);
        }
        // A server that took another's place, or was promoted, is on a timeline of its own.
        let sql = "SELECT timeline_id FROM pg_control_checkpoint()";
        let row = admin.kept().await?.query_one(sql, &[]).await.map_err(Error::sql("ask for the timeline"))?;
        Ok(row.get::<_, i32>(0) != i32::try_from(newest.timeline).unwrap_or(i32::MAX))
    }

    /// Keeps the further copy up until the end is asked for.
    pub async fn keep_copy(self: &Arc<Self>, shutdown: &Shutdown) {
        let Some(copying) = self.copying.clone() else { return shutdown.asked().await };
        let mut archived = self.archived.subscribe();
        loop {
            archived.borrow_and_update();
            let (one, root) = (copying.clone(), self.clock.clone());
            let again = match blocking(move || one.bring_up(&root)).await {
                Ok(()) => COPY_LOOK,
                Err(_) => Duration::from_secs(5),
            };
            tokio::select! {
                _ = archived.changed() => {}
                () = tokio::time::sleep(again) => {}
                () = shutdown.asked() => return,
            }
        }
    }

    /// Copies what is still missing, once the server has ended in order and handed over the last of its log: who goes on from the
    /// copy then has every write.
    pub async fn copy_the_last(self: &Arc<Self>) {
        let Some(copying) = self.copying.clone() else { return };
        let clock = self.clock.clone();
        // What fails is logged there; the copy is then behind, as it says.
        let _ = tokio::time::timeout(LAST_COPY, blocking(move || copying.bring_up(&clock))).await;
    }

    /// The log's last commit that was replayed here, for a restored server.
    pub async fn restored(&self, admin: &Admin) -> Result<(), Error> {
        let Some(restore) = &self.restore else { return Ok(()) };
        let sql = "SELECT (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::bigint";
        let row = admin.kept().await?.query_one(sql, &[]).await.map_err(Error::sql("ask what was replayed"))?;
        restore.done(&self.pgdata, row.get(0));
        Ok(())
    }
}

/// Work on files, off the runtime's thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::Config(format!("a task failed: {e}"))))
}

/// `20260124T120000Z`.
fn label(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y%m%dT%H%M%SZ").to_string(),
        Err(_) => restore::time(ms),
    }
}
