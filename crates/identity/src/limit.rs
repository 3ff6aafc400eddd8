//! Slowing down who guesses: after some free failures each further one doubles the wait.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures of one kind of key (an account, an address). Kept in memory: a restart forgives.
pub struct Limiter<K> {
    free: u32,
    first: Duration,
    longest: Duration,
    entries: Mutex<HashMap<K, Entry>>,
}

struct Entry {
    failures: u32,
    last: Instant,
}

/// Failures are forgotten after this long without another.
const FORGET: Duration = Duration::from_secs(30 * 60);
/// Keys remembered at most; beyond, the one that failed longest ago is forgotten.
const MOST: usize = 10_000;

impl<K: Eq + Hash + Clone> Limiter<K> {
    /// `free` failures cost nothing; then the wait is `first` and doubles with each, up to `longest`.
    pub fn new(free: u32, first: Duration, longest: Duration) -> Self {
        Self { free, first, longest, entries: Mutex::default() }
    }

    /// Takes one attempt, which counts as a failure until [`Limiter::succeeded`]: attempts side by side are all counted.
    ///
    /// # Errors
    /// How long to wait before the next attempt.
    pub fn attempt(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&key) {
            let idle = now.saturating_duration_since(entry.last);
            if idle >= FORGET {
                entry.failures = 0;
            }
            let wait = self.wait(entry.failures);
            if idle < wait {
                return Err(wait - idle);
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.last = now;
            return Ok(());
        }
        if entries.len() >= MOST {
            entries.retain(|_, entry| now.saturating_duration_since(entry.last) < FORGET);
            if entries.len() >= MOST {
                let oldest = entries.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| key.clone());
                oldest.and_then(|key| entries.remove(&key));
            }
        }
        entries.insert(key, Entry { failures: 1, last: now });
        Ok(())
    }

    /// Forgets the failures of `key`.
    pub fn succeeded(&self, key: &K) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Takes one attempt of `key` back, for a key that many people share.
    pub fn forgive(&self, key: &K) {
        if let Some(entry) = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key) {
            entry.failures = entry.failures.saturating_sub(1);
        }
    }

    fn wait(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.free) {
            None => Duration::ZERO,
            Some(over) => self.first.saturating_mul(1 << over.min(24)).min(self.longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest() {
        let limiter = Limiter::new(3, S, 10 * S);
        let mut now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limiter.attempt("ada", now), Ok(()));
        }
        for wait in [1, 2, 4, 8, 10, 10] {
            assert_eq!(limiter.attempt("ada", now), Err(wait * S));
            now += wait * S - S / 2;
            assert_eq!(limiter.attempt("ada", now), Err(S / 2));
            now += S / 2;
            assert_eq!(limiter.attempt("ada", now), Ok(()));
        }
        assert_eq!(limiter.attempt("bob", now), Ok(()), "others are not held up");
    }

    #[test]
    fn success_and_time_forget() {
        let limiter = Limiter::new(1, S, 60 * S);
        let now = Instant::now();
        limiter.attempt("ada", now).unwrap();
        assert!(limiter.attempt("ada", now).is_err());
        limiter.succeeded(&"ada");
        assert_eq!(limiter.attempt("ada", now), Ok(()));
        assert!(limiter.attempt("ada", now).is_err());
        assert_eq!(limiter.attempt("ada", now + FORGET), Ok(()));
    }

    #[test]
    fn a_shared_key_is_forgiven_one_attempt_only() {
        let limiter = Limiter::new(2, S, 60 * S);
        let now = Instant::now();
        limiter.attempt(1, now).unwrap();
        limiter.attempt(1, now).unwrap();
        limiter.forgive(&1);
        assert_eq!(limiter.attempt(1, now), Ok(()));
        assert!(limiter.attempt(1, now).is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::new(1, S, S);
        let now = Instant::now();
        for key in 0..MOST as u64 + 50 {
            limiter.attempt(key, now + Duration::from_millis(key)).unwrap();
        }
        assert_eq!(limiter.entries.lock().unwrap().len(), MOST);
    }
}
