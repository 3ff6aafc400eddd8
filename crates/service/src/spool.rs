//! The audit spool of a role that acts: durable before the role answers, hash-chained, shipped to the audit role.
//!
//! One writer thread gathers all waiting events, writes them with one `fdatasync` and then answers each caller (group
//! commit), so an event costs a share of a disk flush. A disk that is full or fails makes `append` fail, and with it the
//! caller's act; once there is room again, the next `append` works. With the audit role down, work goes on: segments stay
//! until they are acknowledged. After a `kill -9` the next open cuts an unfinished last line, which nobody was told of.
//!
//! On disk: a directory with `NNNNNNNNNNNNNNNNNNNN.jsonl` segments ([`segments`]) and `shipped.json`.

mod chain;
mod reader;
pub mod segments;
mod ship;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use api::{
    audit::{Event, Head, Outcome, Record},
    context::secret,
};
use segments::{Bounds, Segments};
use serde_json::{Map, Value};
use tokio::sync::{oneshot, watch};

use crate::{Clock, Context};

pub use segments::Error;

/// The longest event, as bytes of JSON.
pub const EVENT_BYTES: usize = 64 * 1024;
/// What one flush takes at most.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// A role's spool. Clones share it; the last one dropped waits until all that was appended is on disk.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    source: String,
    clock: Clock,
    // None only while it is dropped.
    sender: Option<mpsc::Sender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
    durable: watch::Receiver<u64>,
}

enum Order {
    Append { event: String, answer: oneshot::Sender<Result<u64, Error>> },
    Acknowledged(u64),
}

impl Spool {
    /// Opens or makes the spool of `source` in `dir`. Reads the whole chain: a fault in its middle is an error.
    ///
    /// Only one process may have it open; the second gets [`Error::Locked`].
    pub fn open(dir: &Path, source: &str, clock: Clock) -> Result<Self, Error> {
        Self::open_bounded(dir, source, clock, Bounds::default())
    }

    /// [`Spool::open`] with other bounds on the size of segments and on what is kept once it was shipped.
    pub fn open_bounded(dir: &Path, source: &str, clock: Clock, bounds: Bounds) -> Result<Self, Error> {
        let segments = Segments::open(dir, source, bounds)?;
        let (sender, orders) = mpsc::channel();
        let (progress, durable) = watch::channel(segments.head().seq);
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .stack_size(512 * 1024)
            .spawn(move || write(segments, &orders, &progress))
            .map_err(|e| Error::io("start the writer of", dir, e))?;
        let inner = Inner {
            dir: dir.into(),
            source: source.into(),
            clock,
            sender: Some(sender),
            thread: Some(thread),
            durable,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What a role does at its start: opens `DATA/spool` for the role's resource and, where the stamp has an audit role
    /// and this role was handed a ship key, ships to it until the end is asked for. Call it inside the runtime.
    pub fn start(context: &Context) -> Result<Self, Error> {
        let spool = Self::open(&context.data.join("spool"), &context.resource, context.clock.clone())?;
        if let (Some(url), Some(key)) = (&context.audit, context.secrets.get(secret::SHIP_KEY)) {
            let client = context.client(url).map_err(|e| Error::Client { url: url.clone(), source: Arc::new(e) })?;
            let task = spool.clone();
            let (client, shutdown) = (client.bearer(key.clone()), context.shutdown.clone());
            tokio::spawn(async move { task.ship(client, shutdown).await });
        }
        Ok(spool)
    }

    /// Appends `event` and gives its place in the chain. Once this returns `Ok`, the record is on disk.
    ///
    /// On an error nothing was recorded, and the act that the event speaks of must not be done. An event whose `time_ms`
    /// is 0 gets the clock's time. If the future is dropped early, the record may still be written.
    pub async fn append(&self, event: Event) -> Result<u64, Error> {
        self.order(event)?.await.map_err(|_| Error::Closed)?
    }

    /// [`Spool::append`] for threads that may block, such as `spawn_blocking`'s; panics on a thread that drives the runtime.
    pub fn append_blocking(&self, event: Event) -> Result<u64, Error> {
        self.order(event)?.blocking_recv().map_err(|_| Error::Closed)?
    }

    fn order(&self, mut event: Event) -> Result<oneshot::Receiver<Result<u64, Error>>, Error> {
        if event.time_ms == 0 {
            event.time_ms = self.inner.clock.now_ms();
        }
        let event = serde_json::to_string(&event).expect("an event is JSON");
        if event.len() > EVENT_BYTES {
            return Err(Error::TooLong);
        }
        let (answer, answered) = oneshot::channel();
        let sender = self.inner.sender.as_ref().expect("the sender is there until the drop");
        sender.send(Order::Append { event, answer }).map_err(|_| Error::Closed)?;
        Ok(answered)
    }

    /// An event of now.
    pub fn event(&self, actor: &str, action: &str, object: &str, outcome: Outcome) -> Event {
        Event {
            time_ms: self.inner.clock.now_ms(),
            actor: actor.into(),
            action: action.into(),
            object: object.into(),
            outcome,
            detail: Map::<String, Value>::new(),
        }
    }

    /// The place of the last durable record; 0 when there is none.
    pub fn durable(&self) -> u64 {
        *self.inner.durable.borrow()
    }

    /// The durable records after `seq`, at most `records` of them and about `bytes` of text. Blocks on the disk.
    pub fn read(&self, seq: u64, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        segments::Reader::new(&self.inner.dir).read(seq, self.durable(), records, bytes)
    }

    /// Whose chain this is, such as `vault.main`.
    pub fn source(&self) -> &str {
        &self.inner.source
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // It ends once it has drained what was ordered.
            let _ = thread.join();
        }
    }
}

/// The writer: the only one who touches the segments.
fn write(mut segments: Segments, orders: &mpsc::Receiver<Order>, progress: &watch::Sender<u64>) {
    let mut refused = false;
    while let Ok(first) = orders.recv() {
        let (mut events, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut acknowledged = None;
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Append { event, answer } => {
                    bytes += event.len();
                    events.push(event);
                    answers.push(answer);
                }
                Order::Acknowledged(seq) => acknowledged = Some(seq),
            }
            next = if bytes < GROUP_BYTES { orders.try_recv().ok() } else { None };
        }
        if !events.is_empty() {
            match append(&mut segments, events) {
                Ok(first) => {
                    if std::mem::take(&mut refused) {
                        tracing::info!("the audit spool takes records again");
                    }
                    progress.send_replace(segments.head().seq);
                    for (seq, answer) in (first..).zip(answers) {
                        // A caller that went away leaves its record behind.
                        let _ = answer.send(Ok(seq));
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut refused, true) {
                        tracing::error!(error = &error as &dyn std::error::Error, "the audit spool refuses records");
                    }
                    for answer in answers {
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
        if let Some(seq) = acknowledged
            && let Err(error) = segments.prune_shipped(seq)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not remove shipped audit segments");
        }
    }
}

/// Writes the events as the chain's next records; the place of the first.
fn append(segments: &mut Segments, events: Vec<String>) -> Result<u64, Error> {
    let mut head: Head = segments.head().clone();
    let first = head.seq + 1;
    let mut records = Vec::with_capacity(events.len());
    for event in events {
        let record = Record::after(&head, event);
        head = record.head();
        records.push(record);
    }
    segments.append(&records)?;
    Ok(first)
}

#[cfg(test)]
mod tests;
