//! A driver that starts no process, for tests of the supervisor: it opens the listeners as a real one does, hands them to
//! whoever plays the workload, remembers, and fails when told to.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{At, Driver, Error, Placed, Placement, ProcessId, sockets};

/// Plays the workloads that a [`Fake`] places.
pub trait Play: Send + Sync {
    /// A workload was placed, its listeners by name. False: it has ended already, as a program that runs once does.
    fn placed(&self, id: ProcessId, placement: &Placement, listeners: Vec<(String, OwnedFd)>) -> bool;

    /// A workload was ended.
    fn ended(&self, id: ProcessId);
}

/// Workloads that only run.
struct Still;

impl Play for Still {
    fn placed(&self, _id: ProcessId, _placement: &Placement, _listeners: Vec<(String, OwnedFd)>) -> bool {
        true
    }

    fn ended(&self, _id: ProcessId) {}
}

/// Remembers what was placed.
pub struct Fake {
    play: Arc<dyn Play>,
    next: AtomicU32,
    /// By mark; one that was placed twice is here twice.
    running: Mutex<Vec<(String, ProcessId)>>,
    /// Marks whose next placement fails, once each.
    refuse: Mutex<Vec<String>>,
    /// Every act, in order, such as `place a/b/c/service.web`.
    acts: Mutex<Vec<String>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::playing(Arc::new(Still))
    }
}

impl Fake {
    /// A driver whose workloads are played by `play`.
    pub fn playing(play: Arc<dyn Play>) -> Self {
        // Numbers that no process of the machine has.
        let next = AtomicU32::new(1 << 30);
        Self { play, next, running: Mutex::default(), refuse: Mutex::default(), acts: Mutex::default() }
    }

    /// The next placement whose mark ends with `resource` fails.
    pub fn refuse_next(&self, resource: &str) {
        self.lock(&self.refuse).push(resource.into());
    }

    /// Ends a workload as a crash would.
    pub fn crash(&self, resource: &str) {
        self.end(|mark, _| mark.ends_with(resource));
    }

    /// Ends one process, as one that ends by itself does.
    pub fn exit(&self, id: ProcessId) {
        self.end(|_, running| running == id);
    }

    /// What was done, in order.
    pub fn acts(&self) -> Vec<String> {
        self.lock(&self.acts).clone()
    }

    /// What runs, by mark, in the order of placing.
    pub fn running(&self) -> Vec<(String, ProcessId)> {
        self.lock(&self.running).clone()
    }

    fn end(&self, which: impl Fn(&str, ProcessId) -> bool) {
        let mut ended = Vec::new();
        self.lock(&self.running).retain(|(mark, id)| {
            let ends = which(mark, *id);
            if ends {
                ended.push(*id);
            }
            !ends
        });
        for id in ended {
            self.play.ended(id);
        }
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Driver for Fake {
    fn place(&self, mut placement: Placement) -> Result<Placed, Error> {
        self.lock(&self.acts).push(format!("place {}", placement.mark));
        {
            let mut refuse = self.lock(&self.refuse);
            if let Some(at) = refuse.iter().position(|r| placement.mark.ends_with(r.as_str())) {
                refuse.remove(at);
                return Err(Error::Refused(format!("{} was refused, as asked", placement.mark)));
            }
        }
        let mut listeners = Vec::new();
        for listen in placement.listeners.drain(..) {
            let fd = match listen.at {
                At::Tcp(address) | At::Inside(address) => sockets::tcp(address)?,
                At::Unix(path) => sockets::unix(&path, placement.user)?,
                At::Open(fd) => fd,
            };
            listeners.push((listen.name, fd));
        }
        let id = ProcessId { pid: self.next.fetch_add(1, Ordering::Relaxed), start_ticks: 1 };
        // It runs before it is played: who plays it may ask.
        self.lock(&self.running).push((placement.mark.clone(), id));
        if !self.play.placed(id, &placement, listeners) {
            self.end(|_, running| running == id);
        }
        Ok(Placed { id, missing: Vec::new(), child: None })
    }

    fn identify(&self, pid: u32) -> Option<ProcessId> {
        self.lock(&self.running).iter().map(|(_, id)| *id).find(|id| id.pid == pid)
    }

    fn processes(&self, mark: &str, _user: Option<u32>) -> Vec<u32> {
        self.lock(&self.running).iter().filter(|(m, _)| m == mark).map(|(_, id)| id.pid).collect()
    }

    fn kill(&self, mark: &str, _user: Option<u32>) -> Result<(), Error> {
        self.lock(&self.acts).push(format!("kill {mark}"));
        self.end(|m, _| m == mark);
        Ok(())
    }

    fn memory(&self, _mark: &str, _user: Option<u32>) -> Option<u64> {
        None
    }
}
