//! People at work while something breaks: requests at a steady pace, and a ledger of every write that was acknowledged.
//!
//! What they do stands in a file of the system (`load/NAME.toml`). A write carries a mark of its own; the ledger is what was
//! answered as done, and after a drill it is compared with what the database holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::ToSpan as _;
use serde::Deserialize;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    Error, Lab, Miss, Site,
    browser::Browser,
    inside::{Ask, Saw},
    miss,
    script::{ApiCall, filled},
};

/// A request that took longer was not served as promised, even if an answer came: a person would have pressed again.
pub const SLOW: Duration = Duration::from_secs(1);

/// A kind of load.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mix {
    /// The groups of the people.
    groups: Vec<String>,
    /// How many people, each in a session of their own.
    people: u32,
    /// Requests a minute of all of them together.
    per_minute: u32,
    /// What is only read, in turn.
    read: Vec<ApiCall>,
    write: Write,
    ledger: Ledger,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    /// Of so many requests one writes.
    every: u32,
    /// So many writes follow one `begin`.
    batch: u32,
    /// What writes need before: `{week}` stands for a Monday that this person has not used.
    begin: ApiCall,
    /// The write itself; `{mark}` must become part of what is stored.
    call: ApiCall,
}

/// Where the marks of what was written are found past the application.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    service: String,
    variable: String,
    /// One text column: the marks that begin with `{run}`.
    sql: String,
    /// Deletes what was written under them.
    wreck: String,
}

/// How a request came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Another status than the one that means done.
    Refused(u16),
    /// No answer, and why.
    Broken(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was sent, from the load's begin.
    pub sent: Duration,
    pub took: Duration,
    /// The mark of a write; none for a read.
    pub mark: Option<String>,
    pub outcome: Outcome,
}

impl Sample {
    /// When its answer, or the end of waiting for one, came.
    pub fn ended(&self) -> Duration {
        self.sent + self.took
    }

    /// Whether a person was served as promised.
    pub fn served(&self) -> bool {
        self.outcome == Outcome::Done && self.took <= SLOW
    }
}

/// Every request of a load, in the order of their ends.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    pub samples: Vec<Sample>,
}

impl Tape {
    /// Marks of writes that were answered as done, and when.
    pub fn acknowledged(&self) -> BTreeMap<&str, Duration> {
        let done = self.samples.iter().filter(|s| s.outcome == Outcome::Done);
        done.filter_map(|s| Some((s.mark.as_deref()?, s.ended()))).collect()
    }

    /// How many were not answered as done.
    pub fn failures(&self) -> usize {
        self.samples.iter().filter(|s| s.outcome != Outcome::Done).count()
    }

    /// When people were served again: the first write that was acknowledged after the last request that was not served as
    /// promised at or after `fault`. None: every request was.
    pub fn restored(&self, fault: Duration) -> Option<Duration> {
        let last = self.samples.iter().filter(|s| s.ended() >= fault && !s.served()).map(Sample::ended).max()?;
        let again = self.acknowledged().into_values().filter(|end| *end > last).min();
        Some(again.unwrap_or(last))
    }

    /// What had ended by then.
    pub fn until(&self, end: Duration) -> Self {
        Self { samples: self.samples.iter().filter(|s| s.ended() <= end).cloned().collect() }
    }

    /// The longest time in which nothing was written, between `from` and `to`.
    pub fn longest_gap(&self, from: Duration, to: Duration) -> Duration {
        let mut ends: Vec<Duration> = self.acknowledged().into_values().filter(|e| *e > from && *e < to).collect();
        ends.extend([from, to]);
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The p-th percentile of the times of requests that were answered as done.
    pub fn percentile(&self, p: usize) -> Duration {
        let mut times: Vec<Duration> =
            self.samples.iter().filter(|s| s.outcome == Outcome::Done).map(|s| s.took).collect();
        times.sort_unstable();
        times.get(times.len().saturating_sub(1) * p / 100).copied().unwrap_or_default()
    }

    /// What did not come out well, by kind, with counts.
    pub fn troubles(&self) -> BTreeMap<String, usize> {
        let mut troubles = BTreeMap::new();
        for sample in &self.samples {
            let kind = match &sample.outcome {
                Outcome::Done => continue,
                Outcome::Refused(status) => format!("answered {status}"),
                Outcome::Broken(why) => why.clone(),
            };
            *troubles.entry(kind).or_default() += 1;
        }
        troubles
    }
}

/// A load that runs.
pub struct Load {
    mix: Arc<Mix>,
    tape: Arc<Mutex<Tape>>,
    begun: Instant,
    run: String,
    end: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Load {
    /// People sign in and begin to work at the stamp; their first requests have been answered when this returns.
    ///
    /// # Errors
    /// The file of the load is not there or not understood; somebody could not sign in.
    pub async fn begin(lab: &Lab, on: &str, name: &str) -> Result<Self, Miss> {
        let file = format!("load/{name}.toml");
        let text = lab.file(&file)?;
        let mix: Mix = toml_edit::de::from_str(&text).map_err(|e| Error::File { file, what: e.to_string() })?;
        if mix.people == 0 || mix.per_minute == 0 || mix.write.every == 0 || mix.read.is_empty() {
            miss!("load/{name}.toml has nobody who does anything");
        }
        let mix = Arc::new(mix);
        let site = lab.site(on).await?;
        let groups: Vec<&str> = mix.groups.iter().map(String::as_str).collect();
        let mut people = Vec::new();
        for _ in 0..mix.people {
            people.push(site.signed_in(&groups).await?);
        }
        let run = format!("drill-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let (end, ended) = watch::channel(false);
        let tape = Arc::new(Mutex::new(Tape::default()));
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for (number, person) in people.into_iter().enumerate() {
            let worker = Worker {
                mix: mix.clone(),
                person,
                mark: format!("{run} {number}"),
                tape: tape.clone(),
                begun,
                kept: BTreeMap::new(),
                weeks: 0,
                left: 0,
            };
            // Spread over one interval, so that they do not all ask at once.
            let interval = Duration::from_secs(60) * mix.people / mix.per_minute;
            workers.spawn(worker.work(interval, interval * number as u32 / mix.people, ended.clone()));
        }
        Ok(Self { mix, tape, begun, run, end, workers })
    }

    /// The time since the load began.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What has been recorded by now.
    pub fn tape(&self) -> Tape {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everybody has been served for `calm`, or until `limit` is over; whether it became calm.
    pub async fn calm(&self, calm: Duration, limit: Duration) -> bool {
        let since = self.now();
        loop {
            let (now, tape) = (self.now(), self.tape());
            let last_bad = tape.samples.iter().filter(|s| !s.served()).map(Sample::ended).max();
            let quiet = now.saturating_sub(last_bad.unwrap_or_default().max(since));
            let served =
                tape.samples.iter().any(|s| s.served() && s.mark.is_some() && s.sent > now.saturating_sub(calm));
            if quiet >= calm && served {
                return true;
            }
            if now.saturating_sub(since) > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The service and its variable by which the database is reached past the application.
    pub fn database(&self) -> (String, String) {
        (self.mix.ledger.service.clone(), self.mix.ledger.variable.clone())
    }

    /// The groups of the people.
    pub fn groups(&self) -> &[String] {
        &self.mix.groups
    }

    /// The statement that deletes what was written.
    ///
    /// # Errors
    /// The file names something in it that there is not.
    pub fn wreck(&self) -> Result<String, Miss> {
        filled(&self.mix.ledger.wreck, &self.book().kept()).map_err(Miss::Failed)
    }

    /// The way to what has been written.
    pub fn book(&self) -> Book {
        Book { mix: self.mix.clone(), run: self.run.clone() }
    }

    /// Everybody stops after the request that is under way.
    pub async fn end(mut self) -> (Tape, Book) {
        let _ = self.end.send(true);
        while self.workers.join_next().await.is_some() {}
        let tape = std::mem::take(&mut *self.tape.lock().unwrap_or_else(PoisonError::into_inner));
        (tape, self.book())
    }
}

/// The way to what a load wrote, as the database has it.
pub struct Book {
    mix: Arc<Mix>,
    run: String,
}

impl Book {
    fn kept(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("run".to_owned(), self.run.clone())])
    }

    /// Marks that the database of `site` holds.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn stored(&self, site: &Site) -> Result<BTreeSet<String>, Miss> {
        let ledger = &self.mix.ledger;
        let sql = filled(&ledger.sql, &self.kept()).map_err(Miss::Failed)?;
        let ask = Ask::Sql { variable: ledger.variable.clone(), statements: vec![sql] };
        match site.inside(&ledger.service, &[ask]).await?.pop() {
            Some(Saw::Sql(mut answers)) if answers.len() == 1 => Ok(answers.remove(0).into_iter().flatten().collect()),
            other => Err(Miss::Failed(format!("the ledger could not be read: {other:?}"))),
        }
    }
}

/// One person who works.
struct Worker {
    mix: Arc<Mix>,
    person: Browser,
    mark: String,
    tape: Arc<Mutex<Tape>>,
    begun: Instant,
    kept: BTreeMap<String, String>,
    weeks: i64,
    /// Writes that may follow before the next `begin`.
    left: u32,
}

impl Worker {
    async fn work(mut self, interval: Duration, first: Duration, mut ended: watch::Receiver<bool>) {
        let mut next = tokio::time::Instant::now() + first;
        for number in 0_u32.. {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = ended.wait_for(|end| *end) => return,
            }
            if number.is_multiple_of(self.mix.write.every) {
                self.write(number).await;
            } else {
                let read = self.mix.read[number as usize % self.mix.read.len()].clone();
                self.ask(&read, None).await;
            }
            // Who waited long does not hurry afterwards: an outage must not end in a flood of our own making.
            next = (next + interval).max(tokio::time::Instant::now());
        }
    }

    async fn write(&mut self, number: u32) {
        let mix = self.mix.clone();
        if self.left == 0 {
            let week = jiff::civil::date(2024, 1, 1).checked_add((self.weeks * 7).days());
            self.kept.insert("week".into(), week.map(|w| w.to_string()).unwrap_or_default());
            if !self.ask(&mix.write.begin, None).await {
                return;
            }
            self.weeks += 1;
            self.left = mix.write.batch;
        }
        let mark = format!("{} {number}", self.mark);
        self.kept.insert("mark".into(), mark.clone());
        let done = self.ask(&mix.write.call, Some(mark)).await;
        // What their writes belong to may have been lost with them: a person begins anew.
        self.left = if done || !self.is_gone() { self.left - 1 } else { 0 };
    }

    /// Whether the last request was answered that what it names is not there.
    fn is_gone(&self) -> bool {
        let tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        let own = format!("{} ", self.mark);
        let own = |sample: &&Sample| sample.mark.as_ref().is_some_and(|mark| mark.starts_with(&own));
        tape.samples.iter().rev().find(own).is_some_and(|sample| sample.outcome == Outcome::Refused(404))
    }

    /// One request, recorded; whether it was answered as done.
    async fn ask(&mut self, call: &ApiCall, mark: Option<String>) -> bool {
        let sent = self.begun.elapsed();
        let answer = call.make(&mut self.person, &self.kept).await;
        let outcome = match answer {
            Ok(page) if page.status == call.expected() => match call.keep(&page, &mut self.kept) {
                Ok(()) => Outcome::Done,
                Err(miss) => Outcome::Broken(words(miss)),
            },
            Ok(page) => Outcome::Refused(page.status),
            Err(miss) => Outcome::Broken(words(miss)),
        };
        let done = outcome == Outcome::Done;
        let sample = Sample { sent, took: self.begun.elapsed() - sent, mark, outcome };
        self.tape.lock().unwrap_or_else(PoisonError::into_inner).samples.push(sample);
        done
    }
}

fn words(miss: Miss) -> String {
    match miss {
        Miss::Failed(why) | Miss::Substituted(why) | Miss::NotHere { why, .. } => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent: u64, took: u64, mark: Option<&str>, outcome: Outcome) -> Sample {
        let ms = Duration::from_millis;
        Sample { sent: ms(sent), took: ms(took), mark: mark.map(str::to_owned), outcome }
    }

    #[test]
    fn an_outage_ends_with_the_last_request_that_was_not_served() {
        let tape = Tape {
            samples: vec![
                sample(0, 10, Some("a"), Outcome::Done),
                sample(100, 10, None, Outcome::Refused(502)),
                sample(150, 1_500, Some("b"), Outcome::Done),
                sample(2_000, 10, Some("c"), Outcome::Done),
            ],
        };
        assert_eq!(tape.restored(Duration::from_millis(90)), Some(Duration::from_millis(2_010)));
        assert_eq!(tape.restored(Duration::from_millis(1_900)), None);
        assert_eq!(tape.acknowledged().into_keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(tape.failures(), 1);
        assert_eq!(tape.troubles(), BTreeMap::from([("answered 502".to_owned(), 1)]));
        let gap = tape.longest_gap(Duration::from_millis(20), Duration::from_millis(2_000));
        assert_eq!(gap, Duration::from_millis(1_630));
    }
}
