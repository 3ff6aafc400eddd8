//! Buckets: how much of something may come at once, and how fast it may come on.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::fault::Fault;

/// Buckets kept at most. Full ones are as good as new and are forgotten first; with none to forget, strangers share one.
const KEPT: usize = 10_000;
/// The bucket of all who find no room.
const SHARED: &str = "";

/// Buckets by name, all of one size.
pub struct Limits {
    size: f64,
    per_second: f64,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    by_name: HashMap<String, Bucket>,
    /// When room was made last. It takes a look at every bucket, so a flood of names must not cause it at each.
    swept: Option<Instant>,
}

const SWEEP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limits {
    /// Buckets that hold `size` and get `per_second` anew.
    pub fn of(size: u64, per_second: f64) -> Limits {
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        Limits { size: size as f64, per_second, buckets: Mutex::default() }
    }

    /// Takes `count` out of the bucket `name`.
    ///
    /// # Errors
    /// Not so much is in it: nothing is taken, and the fault says when it will be.
    pub fn take(&self, name: &str, count: u64) -> Result<(), Fault> {
        self.take_at(name, count, 1, Instant::now())
    }

    /// As [`Limits::take`], of a bucket `times` as large.
    ///
    /// # Errors
    /// As [`Limits::take`].
    pub fn take_of(&self, name: &str, count: u64, times: u32) -> Result<(), Fault> {
        self.take_at(name, count, times, Instant::now())
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts and seconds are small"
    )]
    fn take_at(&self, name: &str, count: u64, times: u32, now: Instant) -> Result<(), Fault> {
        let (size, speed) = (self.size * f64::from(times), self.per_second * f64::from(times));
        let mut all = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = all.by_name.len() >= KEPT && !all.by_name.contains_key(name);
        if full && all.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
            let (per_second, least) = (self.per_second, self.size);
            all.by_name.retain(|_, b| b.left + now.saturating_duration_since(b.at).as_secs_f64() * per_second < least);
            all.swept = Some(now);
        }
        let buckets = &mut all.by_name;
        let name = if buckets.len() >= KEPT && !buckets.contains_key(name) { SHARED } else { name };
        let bucket = buckets.entry(name.to_owned()).or_insert(Bucket { left: size, at: now });
        bucket.left = (bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * speed).min(size);
        bucket.at = now;
        // More than a bucket ever holds is taken from a full one, which then owes it.
        let count = count as f64;
        let needed = count.min(size);
        if bucket.left < needed {
            let wait = ((needed - bucket.left) / speed).ceil().clamp(1.0, 3600.0);
            return Err(Fault::TooMany(wait as u64));
        }
        bucket.left -= count;
        Ok(())
    }
}

/// Keys that the database did not know a moment ago.
#[derive(Default)]
pub struct Unknown {
    marks: Mutex<Marks>,
}

#[derive(Default)]
struct Marks {
    by_name: HashMap<String, Instant>,
    swept: Option<Instant>,
}

/// How long a key stays unknown without being asked about: a device that was just registered has a new key.
const FORGOTTEN: Duration = Duration::from_secs(5);

impl Unknown {
    pub fn has(&self, mark: &str) -> bool {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.by_name.get(mark).is_some_and(|at| at.elapsed() < FORGOTTEN)
    }

    pub fn add(&self, mark: String) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.by_name.len() >= KEPT && marks.swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            marks.by_name.retain(|_, at| at.elapsed() < FORGOTTEN);
            marks.swept = Some(Instant::now());
        }
        if marks.by_name.len() < KEPT {
            marks.by_name.insert(mark, Instant::now());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_emptied_and_fills_again() {
        let limits = Limits::of(10, 5.0);
        let start = Instant::now();
        assert!(limits.take_at("a", 10, 1, start).is_ok());
        let Err(Fault::TooMany(wait)) = limits.take_at("a", 10, 1, start) else { panic!("an empty bucket gave") };
        assert_eq!(wait, 2);
        assert!(limits.take_at("b", 10, 1, start).is_ok(), "another's bucket is its own");
        assert!(limits.take_at("a", 10, 1, start + Duration::from_secs(2)).is_ok());
    }

    #[test]
    fn a_larger_bucket_holds_so_many_times_as_much() {
        let limits = Limits::of(10, 5.0);
        let start = Instant::now();
        assert!(limits.take_at("t", 100, 10, start).is_ok());
        assert!(limits.take_at("t", 1, 10, start).is_err());
    }

    #[test]
    fn endless_names_fill_no_memory_and_do_not_empty_a_known_bucket() {
        let limits = Limits::of(1, 0.001);
        let start = Instant::now();
        assert!(limits.take_at("known", 1, 1, start).is_ok());
        for n in 0..(KEPT * 2) {
            let _ = limits.take_at(&n.to_string(), 1, 1, start);
        }
        assert!(limits.buckets.lock().unwrap().by_name.len() <= KEPT + 1);
        assert!(limits.take_at("known", 1, 1, start).is_err());
        let unknown = Unknown::default();
        for n in 0..(KEPT * 2) {
            unknown.add(n.to_string());
        }
        assert!(unknown.marks.lock().unwrap().by_name.len() <= KEPT);
        assert!(unknown.has("1") && !unknown.has("x"));
    }
}
