//! The one thread that writes: it takes the batches of waiting requests together into one transaction, and answers
//! them once that is on the disk.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::{
    day::Day,
    error::{Error, StoreError, chain},
    row::{Arrival, Rows},
    store,
};

/// Rows in one transaction, about; the last request may go beyond.
const TRANSACTION_ROWS: usize = 20_000;

struct Job {
    arrival: Arrival,
    rows: Rows,
    /// The memory this request holds of the role's budget, given back when it is stored.
    _budget: OwnedSemaphorePermit,
    done: oneshot::Sender<Result<(), Arc<StoreError>>>,
}

/// What was committed since the start, for the live view.
#[derive(Default)]
pub(crate) struct Counts {
    pub requests: AtomicU64,
    pub failed: AtomicU64,
    pub request_ns: AtomicU64,
    pub spans: AtomicU64,
    pub logs: AtomicU64,
    pub exceptions: AtomicU64,
    pub metrics: AtomicU64,
}

/// The last log row of each day that was written to lately; changes after every commit with logs.
pub(crate) type LogMarks = Vec<(Day, i64)>;

/// The way to the writer; cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    pub marks: watch::Receiver<LogMarks>,
    pub counts: Arc<Counts>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Writer {
    /// Starts the thread; it ends when the last [`Writer`] is dropped and all jobs are done.
    ///
    /// The receiver resolves (with an error, nothing is sent) when the thread has ended.
    pub(crate) fn start(data: PathBuf) -> Result<(Self, oneshot::Receiver<()>), Error> {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let (marks, watched) = watch::channel(LogMarks::new());
        let writer = Self { jobs, marks: watched, counts: Arc::default(), trouble: Arc::default() };
        let state = State { data, today: None, marks, counts: writer.counts.clone(), trouble: writer.trouble.clone() };
        let (alive, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("telemetry-writer".into())
            .stack_size(512 * 1024)
            .spawn(move || {
                state.run(receiver);
                drop(alive);
            })
            .map_err(Error::Thread)?;
        Ok((writer, ended))
    }

    /// Stores the rows of one request; they are on the disk when this returns.
    pub(crate) async fn store(
        &self,
        arrival: Arrival,
        rows: Rows,
        budget: OwnedSemaphorePermit,
    ) -> Result<(), Arc<StoreError>> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job { arrival, rows, _budget: budget, done }).map_err(|_| Arc::new(StoreError::Ended))?;
        answer.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Ended)))
    }

    /// Why the last batch could not be stored, if it could not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().map_or(None, |t| t.clone())
    }
}

struct State {
    data: PathBuf,
    today: Option<(Day, Connection)>,
    marks: watch::Sender<LogMarks>,
    counts: Arc<Counts>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl State {
    fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Job>) {
        while let Some(first) = receiver.blocking_recv() {
            let mut jobs = vec![first];
            let day = Day::of_ms(jobs[0].arrival.now_ms);
            let mut next_day = None;
            let mut count = size(&jobs[0].rows);
            while count < TRANSACTION_ROWS
                && let Ok(job) = receiver.try_recv()
            {
                if Day::of_ms(job.arrival.now_ms) != day {
                    next_day = Some(job);
                    break;
                }
                count += size(&job.rows);
                jobs.push(job);
            }
            self.store_all(day, jobs);
            if let Some(job) = next_day {
                self.store_all(Day::of_ms(job.arrival.now_ms), vec![job]);
            }
        }
    }

    fn store_all(&mut self, day: Day, jobs: Vec<Job>) {
        let together = self.store(day, jobs.iter());
        match together {
            Ok(()) => self.answer(jobs, &Ok(())),
            // On a nearly full disk a small batch may still fit where all together did not.
            Err(_) if jobs.len() > 1 => {
                for job in jobs {
                    let alone = self.store(day, std::iter::once(&job)).map_err(Arc::new);
                    self.answer(vec![job], &alone);
                }
            }
            Err(error) => self.answer(jobs, &Err(Arc::new(error))),
        }
    }

    fn store<'j>(&mut self, day: Day, jobs: impl Iterator<Item = &'j Job>) -> Result<(), StoreError> {
        let stored = self.transaction(day, jobs);
        if stored.is_err() {
            // After a failed write the next attempt starts from a fresh connection: nothing half-open is carried on.
            self.today = None;
        }
        stored
    }

    fn transaction<'j>(&mut self, day: Day, jobs: impl Iterator<Item = &'j Job>) -> Result<(), StoreError> {
        if self.today.as_ref().is_none_or(|(open, _)| *open != day) {
            self.today = None;
            self.today = Some((day, store::open(&day.file(&self.data))?));
        }
        let Some((_, connection)) = &mut self.today else { return Err(StoreError::Ended) };
        let transaction = connection.transaction().map_err(StoreError::Write)?;
        let mut logs = false;
        for job in jobs {
            store::insert(&transaction, &job.arrival, &job.rows).map_err(StoreError::Write)?;
            logs |= !job.rows.logs.is_empty();
        }
        let mark = if logs {
            let last = transaction.query_row("SELECT max(id) FROM logs", [], |row| row.get(0));
            Some(last.map_err(StoreError::Write)?)
        } else {
            None
        };
        transaction.commit().map_err(StoreError::Write)?;
        if let Some(last) = mark {
            self.marks.send_modify(|marks| {
                marks.retain(|(known, _)| *known != day);
                marks.push((day, last));
                if marks.len() > 3 {
                    marks.remove(0);
                }
            });
        }
        Ok(())
    }

    fn answer(&self, jobs: Vec<Job>, outcome: &Result<(), Arc<StoreError>>) {
        let trouble = outcome.as_ref().err().map(|e| chain(&**e));
        if let Ok(mut known) = self.trouble.lock()
            && *known != trouble
        {
            match &trouble {
                Some(reason) => tracing::error!(reason, "batches cannot be stored; senders are told to try again"),
                None => tracing::info!("batches are stored again"),
            }
            *known = trouble;
        }
        for job in jobs {
            if outcome.is_ok() {
                self.count(&job.rows);
            }
            // A sender that has gone needs no answer.
            let _ = job.done.send(outcome.clone());
        }
    }

    fn count(&self, rows: &Rows) {
        let counts = &self.counts;
        counts.logs.fetch_add(rows.logs.len() as u64, Relaxed);
        counts.metrics.fetch_add(rows.metrics.len() as u64, Relaxed);
        counts.spans.fetch_add(rows.spans.len() as u64, Relaxed);
        counts.exceptions.fetch_add(rows.logs.iter().filter(|l| l.exception).count() as u64, Relaxed);
        for span in &rows.spans {
            counts.exceptions.fetch_add(span.exceptions, Relaxed);
            if span.kind == "server" {
                counts.requests.fetch_add(1, Relaxed);
                counts.failed.fetch_add(u64::from(span.status == "error"), Relaxed);
                counts.request_ns.fetch_add(span.duration_ns.max(0) as u64, Relaxed);
            }
        }
    }
}

fn size(rows: &Rows) -> usize {
    rows.logs.len() + rows.spans.len() + rows.metrics.len()
}
