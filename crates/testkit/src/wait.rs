//! Waiting for a condition instead of sleeping.

use std::time::{Duration, Instant};

/// Waits until `look` gives a value; the panic of a time-out tells the last thing that was seen instead.
///
/// # Panics
/// After `limit`.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if started.elapsed() > limit => panic!("{what}: not within {limit:?}; last seen: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
