//! Requests that wait for an upstream of which no target takes connections: its one copy is being replaced.
//!
//! Nothing of them was sent, so that any method may wait. One task an upstream looks for a target that is back, as long as
//! somebody waits; those that wait are woken together. Bounded in time (`hold_ms`) and number (`hold_requests`); a client
//! that leaves takes its request along, unless its body still comes: nobody reads from it then.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    dial::dial,
    health::{self, Fault},
    run::Gateway,
    target::{Group, Target},
};

/// The pause between two looks at the targets: half as long again each time, within these bounds.
const FIRST: Duration = Duration::from_millis(5);
const MOST: Duration = Duration::from_millis(100);
/// How long one target may take to say that it is well, unless its check says less.
const LOOK: Duration = Duration::from_secs(1);

/// The requests of one upstream that wait.
#[derive(Debug, Default)]
pub struct Held {
    state: Mutex<State>,
    back: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    /// A task looks for a target that is back.
    looking: bool,
}

impl Held {
    /// How many wait.
    pub fn count(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting
    }
}

/// Waits until a target of `group` may be tried again. False: none came back by `until`, or too many wait.
pub async fn wait(gateway: &Gateway, group: &Arc<Group>, most: usize, until: Instant) -> bool {
    // The place is given up with this future, also when the client leaves.
    let Some(_place) = Place::take(gateway, group, most) else { return false };
    if Instant::now() >= until {
        return false;
    }
    let back = async {
        loop {
            let mut back = std::pin::pin!(group.held.back.notified());
            // From here on no wake is missed.
            back.as_mut().enable();
            if group.is_open() {
                return;
            }
            look(group);
            back.await;
        }
    };
    tokio::time::timeout_at(until, back).await.is_ok()
}

/// One that waits.
struct Place<'a>(&'a Gateway, &'a Group);

impl<'a> Place<'a> {
    fn take(gateway: &'a Gateway, group: &'a Group, most: usize) -> Option<Self> {
        let place = Self(gateway, group);
        group.held.state.lock().unwrap_or_else(PoisonError::into_inner).waiting += 1;
        (gateway.held.fetch_add(1, Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.1.held.state.lock().unwrap_or_else(PoisonError::into_inner).waiting -= 1;
        self.0.held.fetch_sub(1, Relaxed);
    }
}

/// Starts the task that looks for targets that are back, unless there is one.
fn look(group: &Arc<Group>) {
    let mut state = group.held.state.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::replace(&mut state.looking, true) {
        tokio::spawn(Looking(group.clone()).run());
    }
}

/// The task that looks. It ends with the worker it runs on; those who wait on another then start a new one.
struct Looking(Arc<Group>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.held.state.lock().unwrap_or_else(PoisonError::into_inner).looking = false;
        self.0.held.back.notify_waiters();
    }
}

impl Looking {
    async fn run(self) {
        let mut pause = FIRST;
        // Once nobody waits, whoever comes after starts anew.
        while self.0.held.count() > 0 {
            for target in self.0.targets.iter().filter(|target| target.away.load(Relaxed)) {
                if is_back(target, &self.0).await {
                    tracing::info!(target = %target.label, held = self.0.held.count(), "a target is back");
                    // The first word of one that was away decides, as at the start.
                    target.healthy.store(true, Relaxed);
                    target.answered();
                }
            }
            // Others may have found it as well: the regular check, or a request.
            if self.0.is_open() {
                self.0.held.back.notify_waiters();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(MOST);
        }
    }
}

/// Whether somebody listens at `target`, and is well, where it is known how to ask.
async fn is_back(target: &Target, group: &Group) -> bool {
    match &group.health {
        Some(check) => {
            let limit = LOOK.min(Duration::from_millis(check.timeout_ms));
            let asked = health::ask(target, &check.path, limit).await;
            if let Err(Fault::Ill(why)) = &asked {
                tracing::debug!(target = %target.label, why, "a target is back and not well yet");
            }
            asked.is_ok()
        }
        None => {
            matches!(tokio::time::timeout(LOOK, dial(target)).await, Ok(Ok(_)))
        }
    }
}
