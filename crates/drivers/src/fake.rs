//! A driver that places nothing, for tests of the supervisor: it remembers, and fails when told to.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{Driver, Error, Placed, Placement, ProcessId};

/// Remembers what was placed.
#[derive(Default)]
pub struct Fake {
    next: AtomicU32,
    running: Mutex<BTreeMap<String, ProcessId>>,
    /// Marks whose next placement fails, once each.
    refuse: Mutex<Vec<String>>,
    /// Every act, in order, such as `place a/b/c/service.web`.
    acts: Mutex<Vec<String>>,
}

impl Fake {
    /// The next placement whose mark ends with `resource` fails.
    pub fn refuse_next(&self, resource: &str) {
        self.lock(&self.refuse).push(resource.into());
    }

    /// Ends a workload as a crash would.
    pub fn crash(&self, resource: &str) {
        self.lock(&self.running).retain(|mark, _| !mark.ends_with(resource));
    }

    /// What was done, in order.
    pub fn acts(&self) -> Vec<String> {
        self.lock(&self.acts).clone()
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Driver for Fake {
    fn place(&self, placement: Placement) -> Result<Placed, Error> {
        self.lock(&self.acts).push(format!("place {}", placement.mark));
        let mut refuse = self.lock(&self.refuse);
        if let Some(at) = refuse.iter().position(|r| placement.mark.ends_with(r.as_str())) {
            refuse.remove(at);
            return Err(Error::Refused(format!("{} was refused, as asked", placement.mark)));
        }
        let id = ProcessId { pid: 1_000_000 + self.next.fetch_add(1, Ordering::Relaxed), start_ticks: 1 };
        self.lock(&self.running).insert(placement.mark, id);
        Ok(Placed { id, missing: Vec::new(), child: None })
    }

    fn runs(&self, id: ProcessId) -> bool {
        self.lock(&self.running).values().any(|r| *r == id)
    }

    fn processes(&self, mark: &str, _user: Option<u32>) -> Vec<u32> {
        self.lock(&self.running).get(mark).map(|id| id.pid).into_iter().collect()
    }

    fn kill(&self, mark: &str, _user: Option<u32>) -> Result<(), Error> {
        self.lock(&self.acts).push(format!("kill {mark}"));
        self.lock(&self.running).remove(mark);
        Ok(())
    }

    fn memory(&self, _mark: &str, _user: Option<u32>) -> Option<u64> {
        None
    }
}
