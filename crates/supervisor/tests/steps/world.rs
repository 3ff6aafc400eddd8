//! A machine as the supervisor sees it, and the workloads on it: they answer on their sockets as the real ones do, keep
//! their state in their data folders, and go on when a supervisor dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use api::shim::{Ask, Exit, ShimConfig, ShimStatus, WorkloadState};
use drivers::{
    Driver, Error, Placed, Placement, ProcessId,
    cgroup::Cgroups,
    fake::{Fake, Play},
    probe::{Machine, Mounts},
};
use serde_json::{Value, json};
use supervisor::{Cut, Home, Seams, Supervisor};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, UnixListener},
    sync::watch,
    task::AbortHandle,
};

use super::http::{self, Request};

/// The moment at which a supervisor is killed: nothing that it would do after counts.
#[derive(Default)]
struct Gate {
    /// Grows with every supervisor: what an earlier one still asks for is not heard.
    life: u64,
    passed: u64,
    kill_at: Option<u64>,
    dead: bool,
    /// What was about to happen at each point.
    points: Vec<String>,
}

/// A workload that runs.
struct Playing {
    workload: String,
    state: WorkloadState,
    exit: Option<Exit>,
    tasks: Vec<AbortHandle>,
    /// Taken as long as it runs.
    ports: Vec<OwnedFd>,
}

#[derive(Default)]
struct State {
    playing: BTreeMap<u32, Playing>,
    /// Acts that fail at their next attempt, such as `PUT /secrets/Db`, `run service.web.migrate`; `always health service.web`
    /// fails until it is mended.
    faults: BTreeSet<String>,
    /// What must never be, and was.
    broken: Vec<String>,
    links: u32,
}

/// The machine. Supervisors come and go.
pub struct World {
    pub home: Home,
    pub fake: Fake,
    handle: tokio::runtime::Handle,
    gate: Mutex<Gate>,
    /// The present supervisor was killed.
    death: watch::Sender<bool>,
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads on which workloads answer.
fn runtime() -> tokio::runtime::Handle {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let made = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    RUNTIME.get_or_init(made).handle().clone()
}

/// A folder for one machine, and with it the folder of sockets that its home makes elsewhere. Removed by the test that made it: what
/// a killed supervisor left running may hold the machine itself until the process ends.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let below = fs::read_dir(self.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        for root in below.chain([self.path().to_owned()]).filter(|root| root.is_dir()) {
            let _ = fs::remove_dir_all(Home::at(root).sockets());
        }
    }
}

/// A folder in memory where there is one: nothing here is about the disk.
pub fn scratch() -> Scratch {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    Scratch(made.unwrap())
}

struct Player(OnceLock<std::sync::Weak<World>>);

impl World {
    /// A machine with nothing on it.
    pub fn new(root: &Path) -> Arc<Self> {
        let player = Arc::new(Player(OnceLock::new()));
        let home = Home::at(root.to_owned());
        let world = Arc::new(Self {
            home,
            fake: Fake::playing(player.clone()),
            handle: runtime(),
            gate: Mutex::default(),
            death: watch::channel(false).0,
            state: Mutex::default(),
        });
        player.0.set(Arc::downgrade(&world)).unwrap();
        let bin = root.join("engines/postgresql-16.1/bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["postgres", "initdb"] {
            fs::write(bin.join(name), "").unwrap();
        }
        // Its 4 MiB would be written for every seed.
        fs::write(root.join("ballast"), "").unwrap();
        world
    }

    /// A new supervisor of this machine; killed at its point number `kill_at`, the first being 1.
    pub fn supervisor(self: &Arc<Self>, kill_at: Option<u64>, alone: bool, twice: bool) -> Supervisor {
        let life = {
            let mut gate = lock(&self.gate);
            self.death.send_replace(false);
            *gate = Gate { life: gate.life + 1, kill_at, ..Gate::default() };
            gate.life
        };
        let cut: Cut = {
            let world = self.clone();
            Arc::new(move |what: &str| world.point(life, what))
        };
        let machine = Machine {
            users: Err("one user plays them all".into()),
            mounts: Mounts::None("nobody mounts".into()),
            cgroups: Cgroups::default(),
            network: Err("nobody closes networks".into()),
            volumes: Err("nobody mounts volumes".into()),
            lowest_port: 1024,
        };
        let driver = Arc::new(Mortal { world: self.clone(), life });
        let seams = Seams { cut: Some(cut), sockets: true, alone, twice };
        let binary = self.home.bin().join("stamp");
        Supervisor::open(self.home.clone(), driver, machine, binary, "digest".into(), seams).unwrap()
    }

    /// Asked before everything that changes the world: whether the supervisor of this life lives to do it.
    fn point(&self, life: u64, what: &str) -> bool {
        let mut gate = lock(&self.gate);
        if gate.dead || gate.life != life {
            return false;
        }
        gate.passed += 1;
        gate.points.push(what.to_owned());
        gate.dead = gate.kill_at == Some(gate.passed);
        if gate.dead {
            self.death.send_replace(true);
        }
        !gate.dead
    }

    /// Whether the supervisor of this life has been killed.
    fn is_dead(&self, life: u64) -> bool {
        let gate = lock(&self.gate);
        gate.dead || gate.life != life
    }

    /// Waits until the present supervisor is killed.
    pub async fn death(&self) {
        // The sender lives in self.
        let _ = self.death.subscribe().wait_for(|dead| *dead).await;
    }

    /// Whether the present supervisor has been killed.
    pub fn killed(&self) -> bool {
        lock(&self.gate).dead
    }

    fn life(&self) -> u64 {
        lock(&self.gate).life
    }

    /// Every point of the present supervisor's life so far.
    pub fn points(&self) -> Vec<String> {
        lock(&self.gate).points.clone()
    }

    /// The next attempt at an act fails.
    pub fn fail_once(&self, act: &str) {
        lock(&self.state).faults.insert(act.into());
    }

    fn fails(&self, act: &str) -> bool {
        let mut all = lock(&self.state);
        all.faults.contains(&format!("always {act}")) || all.faults.remove(act)
    }

    /// Nothing fails any more, and what was in the way is gone.
    pub fn mend(&self) {
        lock(&self.state).faults.clear();
        let folder = self.home.stamp("time-tracker", "dev");
        if folder.join("public").is_file() {
            fs::remove_file(folder.join("public")).unwrap();
        }
        if folder.join("vault.main/config.json").is_dir() {
            fs::remove_dir(folder.join("vault.main/config.json")).unwrap();
        }
    }

    /// What must never be, and was.
    pub fn broken(&self) -> Vec<String> {
        lock(&self.state).broken.clone()
    }

    /// The one-time link that works: the last that was given.
    pub fn link(&self) -> String {
        format!("https://identity/first/{}", lock(&self.state).links)
    }

    fn runs(&self, workload: &str) -> bool {
        lock(&self.state).playing.values().any(|p| p.workload == workload && p.state == WorkloadState::Running)
    }
}

/// The fake driver in the hands of a supervisor that can be killed.
struct Mortal {
    world: Arc<World>,
    life: u64,
}

impl Mortal {
    fn may(&self, what: &str) -> Result<(), Error> {
        if self.world.point(self.life, what) { Ok(()) } else { Err(Error::Refused("killed".into())) }
    }
}

impl Driver for Mortal {
    fn place(&self, placement: Placement) -> Result<Placed, Error> {
        self.may(&format!("place {}", placement.mark))?;
        self.world.fake.place(placement)
    }

    fn identify(&self, pid: u32) -> Option<ProcessId> {
        // The dead wait for nothing.
        if self.world.is_dead(self.life) { None } else { self.world.fake.identify(pid) }
    }

    fn processes(&self, mark: &str, user: Option<u32>) -> Vec<u32> {
        self.world.fake.processes(mark, user)
    }

    fn kill(&self, mark: &str, user: Option<u32>) -> Result<(), Error> {
        self.may(&format!("kill {mark}"))?;
        if self.world.fails(&format!("kill {}", mark.rsplit('/').next().unwrap_or(mark))) {
            return Err(Error::Refused("it does not die".into()));
        }
        self.world.fake.kill(mark, user)
    }

    fn memory(&self, _mark: &str, _user: Option<u32>) -> Option<u64> {
        None
    }
}

impl Play for Player {
    fn placed(&self, id: ProcessId, placement: &Placement, listeners: Vec<(String, OwnedFd)>) -> bool {
        let Some(world) = self.0.get().and_then(std::sync::Weak::upgrade) else { return false };
        if placement.arguments[1] == "template" {
            let to = PathBuf::from(&placement.arguments[5]);
            fs::create_dir_all(&to).unwrap();
            fs::write(to.join("PG_VERSION"), "16").unwrap();
            return false;
        }
        world.begin(id, placement, listeners);
        true
    }

    fn ended(&self, id: ProcessId) {
        let Some(world) = self.0.get().and_then(std::sync::Weak::upgrade) else { return };
        let ended = lock(&world.state).playing.remove(&id.pid);
        if let Some(playing) = ended {
            playing.end();
        }
    }
}

impl Playing {
    /// As a process ends: its ports are free at once, whenever its tasks notice.
    fn end(self) {
        for port in self.ports {
            let _ = rustix::net::shutdown(port, rustix::net::Shutdown::Both);
        }
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl World {
    /// Starts to play a workload.
    fn begin(self: &Arc<Self>, id: ProcessId, placement: &Placement, listeners: Vec<(String, OwnedFd)>) {
        let workload = placement.mark.rsplit('/').next().unwrap().to_owned();
        let shim: ShimConfig = serde_json::from_slice(&fs::read(&placement.arguments[3]).unwrap()).unwrap();
        let (mut state, mut exit) = (WorkloadState::Running, None);
        if shim.once {
            state = WorkloadState::Done;
            if self.fails(&format!("run {workload}")) {
                state = WorkloadState::Failed;
                exit = Some(Exit { code: Some(3), signal: None, at_ms: 0, tail: vec!["no such table".into()] });
            }
        }
        {
            let mut all = lock(&self.state);
            if all.playing.values().any(|p| p.workload == workload) {
                all.broken.push(format!("{workload} was placed beside itself"));
            }
            let stamp = placement.directory.parent().unwrap().parent().unwrap();
            let database = stamp.join("postgres.main");
            if state == WorkloadState::Done {
                stored(&database, |tables| tables["migrated"] = json!(true));
            }
            if workload == "service.web" && stored(&database, |_| {})["migrated"] != json!(true) {
                all.broken.push("the service was started on a database that was not migrated".into());
            }
            all.playing.insert(
                id.pid,
                Playing { workload: workload.clone(), state, exit, tasks: Vec::new(), ports: Vec::new() },
            );
        }
        let (mut tasks, mut ports) = (Vec::new(), Vec::new());
        let place = placement.directory.parent().unwrap().to_owned();
        for (name, fd) in listeners {
            let (world, workload, place) = (self.clone(), workload.clone(), place.clone());
            match name.as_str() {
                "shim" => tasks.push(self.handle.spawn(world.shim(id, fd)).abort_handle()),
                "control" => tasks.push(self.handle.spawn(world.control(workload, place, fd)).abort_handle()),
                // Nobody calls it in these tests.
                _ => ports.push(fd),
            }
        }
        let port = shim.env.get("PORT").filter(|_| !shim.once).cloned();
        if let (Some(address), Some(port)) = (shim.env.get("LISTEN_ADDRESS"), port) {
            let listener = std::net::TcpListener::bind(format!("{address}:{port}")).unwrap();
            ports.push(listener.try_clone().unwrap().into());
            let (world, workload) = (self.clone(), workload.clone());
            tasks.push(self.handle.spawn(world.service(workload, listener)).abort_handle());
        }
        match lock(&self.state).playing.get_mut(&id.pid) {
            Some(playing) => (playing.tasks, playing.ports) = (tasks, ports),
            None => Playing { workload, state, exit: None, tasks, ports }.end(),
        }
    }

    /// A shim's socket: a line there, a line back.
    async fn shim(self: Arc<Self>, id: ProcessId, fd: OwnedFd) {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (world, life) = (self.clone(), self.life());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                if stream.read_line(&mut line).await.is_err() {
                    return;
                }
                let Ok(ask) = serde_json::from_str::<Ask>(&line) else { return };
                if let Some(status) = world.asked(life, id, ask) {
                    if status.state == WorkloadState::Stopped {
                        world.fake.exit(id);
                    }
                    let mut line = serde_json::to_string(&status).unwrap();
                    line.push('\n');
                    let _ = stream.write_all(line.as_bytes()).await;
                }
            });
        }
    }

    fn asked(&self, life: u64, id: ProcessId, ask: Ask) -> Option<ShimStatus> {
        let workload = lock(&self.state).playing.get(&id.pid)?.workload.clone();
        let heard = match ask {
            Ask::Status => !self.is_dead(life),
            Ask::Stop => self.point(life, &format!("stop {workload}")),
            Ask::Restart | Ask::Reload => self.point(life, &format!("reload {workload}")),
        };
        if !heard {
            return None;
        }
        let mut all = lock(&self.state);
        let playing = all.playing.get_mut(&id.pid)?;
        if matches!(ask, Ask::Stop) {
            playing.state = WorkloadState::Stopped;
        }
        Some(ShimStatus {
            state: playing.state,
            shim_pid: id.pid,
            last_exit: playing.exit.clone(),
            ..ShimStatus::default()
        })
    }

    /// A role's control socket.
    async fn control(self: Arc<Self>, workload: String, place: PathBuf, fd: OwnedFd) {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let (world, life) = (self.clone(), self.life());
            let (workload, place) = (workload.clone(), place.clone());
            tokio::spawn(async move {
                let Some(request) = http::read(&mut stream).await else { return };
                if let Some((status, body)) = world.role(life, &workload, &place, &request) {
                    http::answer(&mut stream, status, &body).await;
                }
            });
        }
    }

    /// A service's own port.
    async fn service(self: Arc<Self>, workload: String, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let (world, workload) = (self.clone(), workload.clone());
            tokio::spawn(async move {
                // Closed without TIME_WAIT.
                let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO));
                let Some(_) = http::read(&mut stream).await else { return };
                let status = if world.fails(&format!("health {workload}")) { 503 } else { 200 };
                http::answer(&mut stream, status, &json!({})).await;
            });
        }
    }

    /// What a role answers; None: the caller is dead.
    fn role(&self, life: u64, workload: &str, place: &Path, request: &Request) -> Option<(u16, Value)> {
        if self.is_dead(life) {
            return None;
        }
        let line = request.line();
        if self.fails(&line) || (request.path == "/health" && self.fails(&format!("health {workload}"))) {
            return Some((500, json!({ "code": "asked", "message": "it fails, as asked", "request_id": "1" })));
        }
        if request.method != "GET" && !self.point(life, &line) {
            return None;
        }
        let answer = self.act(workload, place, request);
        // Done, and the answer may still be lost.
        if request.method != "GET" && !self.point(life, &format!("answer {line}")) {
            return None;
        }
        Some(answer)
    }

    fn act(&self, workload: &str, place: &Path, request: &Request) -> (u16, Value) {
        let kind = workload.split('.').next().unwrap_or(workload);
        let last = request.path.rsplit('/').next().unwrap_or_default();
        match (kind, request.method.as_str(), request.path.as_str()) {
            (_, "GET", "/health") => (200, json!({})),
            ("edge", "GET", "/targets") => (200, self.targets(place)),
            ("postgres", "PUT", _) => {
                stored(place, |roles| roles[last] = request.json()["password"].clone());
                (200, json!({}))
            }
            ("vault", "GET", "/secrets") => {
                let there = stored(place, |_| {});
                let names = there.as_object().into_iter().flat_map(|o| o.keys());
                let value: Vec<Value> = names.map(|n| json!({ "id": format!("https://vault/secrets/{n}") })).collect();
                (200, json!({ "value": value }))
            }
            ("vault", "PUT", _) => {
                stored(place, |secrets| {
                    let versions = secrets[last].as_array().cloned().unwrap_or_default();
                    secrets[last] = versions.into_iter().chain([request.json()["value"].clone()]).collect();
                });
                (200, json!({}))
            }
            ("identity", "POST", "/admin/users") => {
                let email = request.json()["email"].as_str().unwrap_or_default().to_owned();
                stored(place, |people| people[&email] = json!(true));
                lock(&self.state).links += 1;
                (200, json!({ "id": email, "link": self.link(), "created": true }))
            }
            ("identity", "GET", "/admin/users") => {
                let people = stored(place, |_| {});
                let all = people.as_object().into_iter().flat_map(|o| o.keys());
                let user = |email: &String| json!({ "id": email, "email": email, "name": "", "active": true, "groups": [], "has_password": false });
                (200, all.map(user).collect())
            }
            _ => (404, json!({ "code": "unknown", "message": "no such route", "request_id": "1" })),
        }
    }

    /// What the entry sees: every upstream of its own configuration, healthy if the service runs.
    fn targets(&self, place: &Path) -> Value {
        let config: Value = serde_json::from_slice(&fs::read(place.join("config.json")).unwrap()).unwrap();
        let upstreams = config["config"]["upstreams"].as_object().cloned().unwrap_or_default();
        let closed = self.fails("open");
        let line = |name: &String| {
            let healthy = self.runs(name) && !closed;
            json!({ "upstream": name, "available": true, "healthy": healthy })
        };
        json!({ "targets": upstreams.keys().map(line).collect::<Vec<_>>() })
    }
}

/// What a role keeps in its data folder, after `change`.
pub fn stored(place: &Path, change: impl FnOnce(&mut Value)) -> Value {
    let path = place.join("data/stored.json");
    let old: Value = fs::read(&path).map_or_else(|_| json!({}), |text| serde_json::from_slice(&text).unwrap());
    let mut new = old.clone();
    change(&mut new);
    if new != old {
        fs::write(&path, new.to_string()).unwrap();
    }
    new
}
