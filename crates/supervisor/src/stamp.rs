//! What all parts of the supervisor share, and the work that a stamp is under.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use api::supervisor::Event;
use drivers::probe::Machine;
use model::ResourceId;
use service::{Clock, Shutdown};
use tokio::sync::watch;

use crate::{
    Home,
    journal::{Cut, Journal},
};

/// How long a stamp that could not be mended is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What only tests change.
#[derive(Clone, Default)]
pub struct Seams {
    /// Ends the journal, and with it all that the supervisor does, at some write.
    pub cut: Option<Cut>,
    /// Vault and identity are called on their control sockets, without TLS and without a token.
    pub sockets: bool,
    /// Nobody else's addresses are looked for: a machine's table of connections may take milliseconds to read.
    pub alone: bool,
    /// Every step is carried out twice.
    pub twice: bool,
}

/// A database of a stamp: system, stamp, resource.
type Database = (String, String, ResourceId);

/// What stands still while the supervisor lives.
pub struct Ground {
    pub home: Home,
    pub journal: Journal,
    pub driver: drivers::Shared,
    pub machine: Machine,
    /// The kept copy of this binary, from which shims and roles run.
    pub stamp_binary: PathBuf,
    pub binary_digest: String,
    pub clock: Clock,
    pub shutdown: Shutdown,
    /// Held while users and addresses are given, and while a wish is written down and its work begun: two that look at once
    /// would take the same.
    pub settling: Mutex<()>,
    /// Held while a database template is made: the stamps that wait then find it.
    pub templates: Mutex<()>,
    pub seams: Seams,
    stamps: Mutex<HashMap<(String, String), Arc<Stamp>>>,
    leads: Mutex<HashMap<Database, Arc<tokio::sync::Mutex<()>>>>,
}

impl Ground {
    pub fn new(
        home: Home,
        journal: Journal,
        driver: drivers::Shared,
        machine: Machine,
        stamp_binary: PathBuf,
        digest: String,
        seams: Seams,
    ) -> Self {
        Self {
            home,
            journal: journal.cut_by(seams.cut.clone()),
            seams,
            driver,
            machine,
            stamp_binary,
            binary_digest: digest,
            clock: Clock::default(),
            shutdown: Shutdown::default(),
            settling: Mutex::default(),
            templates: Mutex::default(),
            stamps: Mutex::default(),
            leads: Mutex::default(),
        }
    }

    /// Held by whoever places or ends a member of a database, or changes who leads it.
    pub fn lead_lock(&self, system: &str, stamp: &str, id: &ResourceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut leads = self.leads.lock().unwrap_or_else(PoisonError::into_inner);
        leads.entry((system.to_owned(), stamp.to_owned(), id.clone())).or_default().clone()
    }

    /// The stamp, made at its first mention.
    pub fn stamp(&self, system: &str, stamp: &str) -> Arc<Stamp> {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        stamps.entry((system.to_owned(), stamp.to_owned())).or_default().clone()
    }
}

/// One stamp: at most one work at a time.
#[derive(Default)]
pub struct Stamp {
    /// Held by the work that changes the stamp.
    pub busy: tokio::sync::Mutex<()>,
    pub work: Mutex<Option<Work>>,
    /// Held, shared, while a workload is placed: a step that is cut goes on with that on its own thread. Who ends workloads waits
    /// for it first.
    pub placing: RwLock<()>,
    /// Since when a database has been without the server that leads, though another could take over.
    pub leaderless: Mutex<Option<Instant>>,
    /// Services whose migration runs: its way to the databases is open.
    pub migrating: Mutex<BTreeSet<ResourceId>>,
    /// Jobs of which somebody sees to a run: one at a time.
    pub jobs: Mutex<BTreeSet<ResourceId>>,
}

/// Work under way or ended last.
#[derive(Clone)]
pub struct Work {
    pub what: What,
    pub feed: Arc<Feed>,
    pub cancel: Shutdown,
}

impl Work {
    /// Whether it failed a moment ago: what cannot run is not tried without pause.
    pub fn failed_recently(&self) -> bool {
        let events = self.feed.events.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(events.last(), Some(Event::Failed(_))) && self.feed.since().elapsed() < AFTER_FAILURE
    }
}

#[derive(Clone, PartialEq, Eq)]
pub enum What {
    /// With the digest of the manifest: a second `up` of the same joins.
    Up(String),
    Down,
    Destroy,
    /// Mends what ended by itself.
    Mend,
    /// Restores a database beside the one there is.
    Restore,
    /// The same by itself, to see that it can be done: whatever else is asked for comes first.
    Verify,
    /// Puts a restored database in its origin's place, or removes it.
    Swap,
}

impl Stamp {
    /// The work under way, if any.
    pub fn current(&self) -> Option<Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|w| !w.feed.is_over())
    }

    pub fn begin(&self, what: What) -> Work {
        let work = Work { what, feed: Arc::default(), cancel: Shutdown::default() };
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work.clone());
        work
    }
}

/// The events of one work, from its beginning, for any number of readers.
pub struct Feed {
    events: Mutex<Vec<Event>>,
    last: Mutex<Instant>,
    count: watch::Sender<(usize, bool)>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { events: Mutex::default(), last: Mutex::new(Instant::now()), count: watch::channel((0, false)).0 }
    }
}

impl Feed {
    /// Adds an event; the last one ends the feed.
    pub fn tell(&self, event: Event) {
        let over = event.is_last();
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        let count = events.len();
        drop(events);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.count.send_replace((count, over));
    }

    /// When the last event was told.
    pub fn since(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_over(&self) -> bool {
        self.count.borrow().1
    }

    /// The event number `at`, waited for; None after the last.
    pub async fn at(&self, at: usize) -> Option<Event> {
        let mut count = self.count.subscribe();
        // The sender lives in self.
        let _ = count.wait_for(|(n, over)| *n > at || *over).await;
        self.events.lock().unwrap_or_else(PoisonError::into_inner).get(at).cloned()
    }

    /// The last event, waited for.
    pub async fn end(&self) -> Option<Event> {
        let mut count = self.count.subscribe();
        let _ = count.wait_for(|(_, over)| *over).await;
        self.events.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_reader_gets_every_event_from_the_first() {
        let feed = Arc::new(Feed::default());
        feed.tell(Event::Plan { steps: Vec::new() });
        let reader = tokio::spawn({
            let feed = feed.clone();
            async move {
                let mut seen = 0;
                while feed.at(seen).await.is_some() {
                    seen += 1;
                }
                seen
            }
        });
        feed.tell(Event::Stopped { milliseconds: 1 });
        assert_eq!(reader.await.unwrap(), 2);
        assert!(feed.is_over());
        assert!(matches!(feed.end().await, Some(Event::Stopped { .. })));
    }
}
