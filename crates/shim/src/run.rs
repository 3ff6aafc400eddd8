//! The shim's life: start the workload, keep it running, answer the control socket, end in order.

use std::{
    collections::BTreeMap,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    Secret, Secrets,
    client::{Client, Target},
    context::{MARK, secret},
    shim::{Ask, Exit, INGEST_KEY_PLACE, ShimConfig, ShimStatus, WorkloadState},
};
use rustix::process::Signal;
use service::{Clock, Listener, Listeners};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Child,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use crate::{
    Error, certificate, child, endpoint,
    front::Front,
    log::{LINE_BYTES, Log, Stream},
    references, ship,
    tokens::Tokens,
};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A workload that ran this long has recovered: the next pause is the shortest again.
const RECOVERED: Duration = Duration::from_secs(10);

/// Runs the shim to its end; the exit code is the workload's where it runs in the foreground or once, else 0.
pub fn run(path: &Path) -> Result<i32, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Config { path: path.into(), source })?;
    let config: ShimConfig =
        serde_json::from_slice(&text).map_err(|source| Error::Parse { path: path.into(), source })?;
    let secrets = service::inherited_secrets().map_err(|e| Error::Inherit(e.into()))?;
    // SAFETY: the first act of the process but for the secrets pipe, which lies behind the listeners.
    let listeners = unsafe { Listeners::inherited() }.map_err(|e| Error::Inherit(e.into()))?;
    // The workload has our user: it must not read our memory, where its key is.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| Error::Inherit(std::io::Error::from(e).into()))?;
    // Processes whose parent ends come to us instead of to process 1, so that none is lost.
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    // One thread: the workload's death signal is tied to the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Signals)?;
    runtime.block_on(Shim::start(config, secrets, listeners))
}

struct Shim {
    config: ShimConfig,
    role_secrets: Option<Secrets>,
    listeners: Vec<(String, OwnedFd)>,
    tokens: Option<Arc<Tokens>>,
    identity_env: BTreeMap<String, String>,
    log: Log,
    shipping: Option<mpsc::Sender<ship::Line>>,
    front: Option<Front>,
    clock: Clock,
    status: ShimStatus,
}

type Question = (Ask, oneshot::Sender<ShimStatus>);

enum Wish {
    Stop,
    Restart,
}

impl Shim {
    async fn start(config: ShimConfig, mut secrets: Secrets, mut listeners: Listeners) -> Result<i32, Error> {
        let clock = Clock::default();
        let control = listeners.take("shim");
        let ca = std::fs::read(&config.ca).map_err(|source| Error::Config { path: config.ca.clone(), source })?;
        let workload_key = secrets.take(secret::WORKLOAD_KEY);
        let ingest_key = secrets.take(secret::INGEST_KEY);
        let mut role_secrets = Secrets::default();
        for name in &config.pass_secrets {
            // The ingestion key is the shim's as well.
            let own = ingest_key.as_ref().filter(|_| name == secret::INGEST_KEY).cloned();
            if let Some(value) = own.or_else(|| secrets.take(name)) {
                role_secrets.insert(name, value);
            }
        }
        let tokens =
            Tokens::new(&config, workload_key, &ca, clock.clone()).map_err(|e| Error::Inherit(e.into()))?.map(Arc::new);
        let mut identity_env = BTreeMap::new();
        if let (Some(tokens), Some(endpoint)) = (&tokens, &config.identity) {
            let header = Secret::random();
            let listener = tokio::net::TcpListener::bind((endpoint.listen, 0)).await.map_err(Error::Endpoint)?;
            let at = listener.local_addr().map_err(Error::Endpoint)?;
            identity_env.insert("IDENTITY_ENDPOINT".into(), format!("http://{at}/msi/token"));
            identity_env.insert("IDENTITY_HEADER".into(), header.expose().into());
            tokio::spawn(endpoint::serve(listener, header, tokens.clone(), endpoint.shared_user));
        }
        for setting in config.link_keys.keys() {
            if let Some(key) = secrets.take(setting) {
                identity_env.insert(setting.clone(), key.expose().to_owned());
            }
        }
        let mut shipping = None;
        if let (Some(base), Some(key)) = (&config.telemetry, ingest_key) {
            identity_env.insert("OTEL_EXPORTER_OTLP_HEADERS".into(), format!("x-ingest-key={}", key.expose()));
            for (setting, value) in &config.env {
                if value.contains(INGEST_KEY_PLACE) {
                    identity_env.insert(setting.clone(), value.replace(INGEST_KEY_PLACE, key.expose()));
                }
            }
            if !config.foreground
                && let (Ok(base), Ok(tls)) = (base.parse(), api::client::trust(&ca))
            {
                let client = Client::new(Target::Https { base, tls, hosts: Arc::new(config.hosts.clone()) });
                shipping = Some(ship::start(client, key, config.resource.clone()));
            }
        }
        let (questions, answers) = mpsc::channel::<Question>(8);
        if let Some(Listener::Unix(listener)) = control {
            let listener = tokio::net::UnixListener::from_std(listener).map_err(|e| Error::Inherit(e.into()))?;
            tokio::spawn(control_socket(listener, questions.clone()));
        }
        let front = match &config.front {
            Some(front) => Some(Front::start(front, &ca, &mut secrets, &mut listeners)?),
            None => None,
        };
        if let Some(files) = &config.certificate {
            certificate::start(files, &mut secrets, &mut listeners)?;
        }
        let log = Log::open(config.log_dir.clone(), config.log_bytes, config.log_files);
        let shim = Self {
            role_secrets: (!config.pass_secrets.is_empty()).then_some(role_secrets),
            listeners: listeners.into_descriptors(),
            tokens,
            identity_env,
            log,
            shipping,
            front,
            clock,
            status: ShimStatus { shim_pid: std::process::id(), ..ShimStatus::default() },
            config,
        };
        // `questions` stays alive here, so that the channel never reads as closed.
        let code = shim.live(answers).await;
        drop(questions);
        code
    }

    async fn live(mut self, mut questions: mpsc::Receiver<Question>) -> Result<i32, Error> {
        let mut term = signal(SignalKind::terminate()).map_err(Error::Signals)?;
        let mut children = signal(SignalKind::child()).map_err(Error::Signals)?;
        let mut hup = signal(SignalKind::hangup()).map_err(Error::Signals)?;
        let mut pause = Duration::ZERO;
        loop {
            // A first attempt, or one after a pause.
            let started = Instant::now();
            match self.start_workload().await {
                Ok(mut process) => {
                    let (lines_in, mut lines) = mpsc::channel(256);
                    self.watch_streams(&mut process, &lines_in);
                    drop(lines_in);
                    let pid = process.id();
                    self.status.pid = pid;
                    self.status.start_ticks = pid.and_then(crate::proc::stat).map(|s| s.start_ticks);
                    self.status.state = WorkloadState::Running;
                    self.status.trouble = None;
                    let mut wish = None;
                    let exit = loop {
                        tokio::select! {
                            exit = process.wait() => break exit,
                            Some((stream, line)) = lines.recv() => self.line(stream, &line),
                            Some((ask, answer)) = questions.recv() => {
                                if let Some(w) = self.ask(ask, answer, pid) {
                                    if let (Some(front), Wish::Stop) = (&self.front, &w) { front.close().await; }
                                    wish = Some(w);
                                    break self.end(&mut process, &mut lines).await;
                                }
                            }
                            _ = term.recv() => {
                                if let Some(front) = &self.front { front.close().await; }
                                wish = Some(Wish::Stop);
                                break self.end(&mut process, &mut lines).await;
                            }
                            _ = hup.recv() => if let Some(pid) = pid { child::signal(pid, Signal::HUP) },
                            _ = children.recv() => child::reap_others(pid),
                        }
                    };
                    self.drain(&mut lines).await;
                    let exit = exit.map_err(Error::Signals)?;
                    self.status.pid = None;
                    self.status.start_ticks = None;
                    self.status.last_exit = Some(Exit {
                        code: exit.code(),
                        signal: exit.signal(),
                        at_ms: self.clock.now_ms(),
                        tail: self.log.tail(),
                    });
                    if !self.config.keep_orphans || matches!(wish, Some(Wish::Stop)) {
                        self.kill_orphans().await;
                    }
                    if let (Some(front), Some(Wish::Stop)) = (&self.front, &wish) {
                        // With us ends what passes its last words on.
                        front.drain().await;
                    }
                    let code = exit.code().unwrap_or_else(|| 128 + exit.signal().unwrap_or(0));
                    match wish {
                        Some(Wish::Stop) => return Ok(0),
                        Some(Wish::Restart) => {
                            pause = Duration::ZERO;
                            self.status.restarts += 1;
                            continue;
                        }
                        None if self.config.foreground => return Ok(code),
                        None if self.config.once => {
                            self.status.state = if code == 0 { WorkloadState::Done } else { WorkloadState::Failed };
                            // Stays to tell its end to whoever asks.
                            return self.wait_for_stop(&mut questions, &mut term).await.map(|()| code);
                        }
                        None => {
                            let how =
                                exit.signal().map_or_else(|| format!("exit code {code}"), |s| format!("signal {s}"));
                            self.say(&format!("the workload ended ({how}); it is started again"));
                        }
                    }
                }
                Err(error) => {
                    let text = crate::tokens::chain(&error);
                    self.say(&text);
                    self.status.trouble = Some(text);
                    if self.config.foreground {
                        return Err(error);
                    }
                }
            }
            self.status.state = WorkloadState::BackOff;
            self.status.restarts += 1;
            if started.elapsed() > RECOVERED {
                pause = Duration::ZERO;
            }
            let until = tokio::time::Instant::now() + pause;
            pause = if pause.is_zero() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    _ = term.recv() => return Ok(0),
                    _ = children.recv() => child::reap_others(None),
                    Some((ask, answer)) = questions.recv() => match self.ask(ask, answer, None) {
                        Some(Wish::Stop) => { self.kill_orphans().await; return Ok(0) }
                        Some(Wish::Restart) => break,
                        None => {}
                    },
                }
            }
        }
    }

    async fn start_workload(&mut self) -> Result<Child, Error> {
        let mut env = self.config.env.clone();
        for (setting, value) in &mut env {
            let Some(reference) = references::parse(value) else { continue };
            let resolved = match (reference, &self.tokens) {
                (Ok(reference), Some(tokens)) => tokens.secret(&reference).await,
                (Ok(_), None) => Err("this workload has no identity".into()),
                (Err(why), _) => Err(why),
            };
            match resolved {
                Ok(secret) => *value = secret.expose().to_owned(),
                Err(why) if self.config.unresolved_as_text => {
                    tracing::warn!(setting, why, "a reference stays as text, as the manifest asks");
                }
                Err(why) => return Err(Error::Reference { setting: setting.clone(), reference: value.clone(), why }),
            }
        }
        env.extend(self.identity_env.clone());
        if let Ok(mark) = std::env::var(MARK) {
            env.insert(MARK.into(), mark);
        }
        child::start(
            &self.config.run,
            &self.config.directory,
            &env,
            &self.listeners,
            self.role_secrets.as_ref(),
            self.config.foreground,
        )
    }

    fn watch_streams(&self, process: &mut Child, lines: &mpsc::Sender<(Stream, String)>) {
        if let Some(out) = process.stdout.take() {
            tokio::spawn(read_lines(out, Stream::Out, lines.clone()));
        }
        if let Some(err) = process.stderr.take() {
            tokio::spawn(read_lines(err, Stream::Err, lines.clone()));
        }
    }

    fn line(&mut self, stream: Stream, text: &str) {
        let at_ms = self.clock.now_ms();
        self.log.line(at_ms, stream, text);
        if let Some(shipping) = &self.shipping {
            let _ = shipping.try_send(ship::Line { at_ms, stream, text: text.to_owned() });
        }
    }

    /// Says something of its own into the workload's log.
    fn say(&mut self, text: &str) {
        self.line(Stream::Err, &format!("(stamp: {text})"));
    }

    /// Answers a question; a wish to end the workload is given back.
    fn ask(&mut self, ask: Ask, answer: oneshot::Sender<ShimStatus>, pid: Option<u32>) -> Option<Wish> {
        let _ = answer.send(self.status.clone());
        match ask {
            Ask::Status => None,
            Ask::Reload => {
                if let Some(pid) = pid {
                    child::signal(pid, Signal::HUP);
                }
                None
            }
            Ask::Stop => Some(Wish::Stop),
            Ask::Restart => Some(Wish::Restart),
        }
    }

    /// Ends the workload: its stop signal, the grace, then kill.
    async fn end(
        &mut self,
        process: &mut Child,
        lines: &mut mpsc::Receiver<(Stream, String)>,
    ) -> std::io::Result<std::process::ExitStatus> {
        if let Some(pid) = process.id() {
            child::signal(pid, child::stop_signal(self.config.stop_signal));
        }
        let grace = tokio::time::sleep(Duration::from_millis(self.config.stop_grace_ms));
        tokio::pin!(grace);
        loop {
            tokio::select! {
                exit = process.wait() => return exit,
                Some((stream, line)) = lines.recv() => self.line(stream, &line),
                () = &mut grace => {
                    self.say(&format!("still running after {} ms; killed", self.config.stop_grace_ms));
                    process.kill().await?;
                }
            }
        }
    }

    /// Takes the last lines of a workload that has ended. What it started may hold the pipe open: hence the bound.
    async fn drain(&mut self, lines: &mut mpsc::Receiver<(Stream, String)>) {
        while let Ok(Some((stream, line))) = tokio::time::timeout(Duration::from_millis(100), lines.recv()).await {
            self.line(stream, &line);
        }
    }

    async fn kill_orphans(&mut self) {
        loop {
            let left = child::orphans();
            if left.is_empty() {
                return;
            }
            for pid in &left {
                child::signal(*pid, Signal::KILL);
            }
            child::reap_others(None);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn wait_for_stop(
        &mut self,
        questions: &mut mpsc::Receiver<Question>,
        term: &mut tokio::signal::unix::Signal,
    ) -> Result<(), Error> {
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(()),
                Some((ask, answer)) = questions.recv() => {
                    if let Some(Wish::Stop) = self.ask(ask, answer, None) { return Ok(()) }
                }
            }
        }
    }
}

async fn read_lines(stream: impl tokio::io::AsyncRead + Unpin, kind: Stream, lines: mpsc::Sender<(Stream, String)>) {
    let mut reader = BufReader::with_capacity(8 * 1024, stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end must not fill the memory: it is cut into pieces.
        let mut limited = tokio::io::AsyncReadExt::take(&mut reader, LINE_BYTES as u64);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                if lines.send((kind, text.trim_end_matches(['\n', '\r']).to_owned())).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn control_socket(listener: tokio::net::UnixListener, questions: mpsc::Sender<Question>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // The workload has our user: only root, or the same user where users are shared, may command.
        let uid = stream.peer_cred().map(|c| c.uid()).unwrap_or(u32::MAX);
        if !service::may_command(uid) {
            continue;
        }
        let questions = questions.clone();
        tokio::spawn(async move {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(tokio::io::AsyncReadExt::take(reader, 4096)).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(ask) = serde_json::from_str::<Ask>(&line) else { return };
                let (answer, wait) = oneshot::channel();
                if questions.send((ask, answer)).await.is_err() {
                    return;
                }
                let Ok(status) = wait.await else { return };
                let Ok(mut text) = serde_json::to_string(&status) else { return };
                text.push('\n');
                if writer.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}
