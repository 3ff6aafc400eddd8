//! Old days go as whole files, by the stamp's clock.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use service::Clock;

use crate::day::{self, Day};

/// A clock that leaps further ahead than this against the monotonic clock is not believed at once.
const LEAP_MS: i64 = 3_600_000;
/// How long a leapt clock must hold before days are deleted by it.
const HOLD: Duration = Duration::from_secs(600);

/// The oldest day that is kept: with 30 days, what arrived 30 days ago is still there, what arrived 31 days ago is not.
pub(crate) fn oldest(now_ms: i64, retention_days: u32) -> Day {
    Day(Day::of_ms(now_ms).0.saturating_sub(retention_days as i32))
}

/// Decides when deleting is safe: a clock that leaps ahead while the role runs must not delete everything.
pub(crate) struct Watch {
    clock: Clock,
    seen_ms: i64,
    seen_at: Instant,
    hold_until: Option<Instant>,
}

impl Watch {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { seen_ms: clock.now_ms(), seen_at: Instant::now(), hold_until: None, clock }
    }

    /// The time to delete by, unless the clock has just leapt.
    pub(crate) fn time(&mut self, at: Instant) -> Option<i64> {
        let now_ms = self.clock.now_ms();
        let passed = at.saturating_duration_since(self.seen_at).as_millis() as i64;
        let ahead = now_ms.saturating_sub(self.seen_ms).saturating_sub(passed);
        (self.seen_ms, self.seen_at) = (now_ms, at);
        if ahead > LEAP_MS {
            tracing::warn!(ahead_ms = ahead, "the clock leapt ahead; no day is deleted for ten minutes");
            self.hold_until = Some(at + HOLD);
        } else if ahead < -LEAP_MS {
            // It went back; whatever held it is over.
            self.hold_until = None;
        }
        match self.hold_until {
            Some(until) if at < until => None,
            _ => {
                self.hold_until = None;
                Some(now_ms)
            }
        }
    }
}

/// Deletes the files of all days before `oldest`. The main file goes last, so that a cut leaves a file that the next
/// pass finds again.
pub(crate) fn delete_before(data: &Path, oldest: Day) {
    let days = match day::list(data) {
        Ok(days) => days,
        Err(error) => {
            tracing::error!(reason = crate::error::chain(&error), "could not look for days to delete");
            return;
        }
    };
    for day in days.into_iter().filter(|day| *day < oldest) {
        let main = day.file(data);
        let mut beside = [main.clone().into_os_string(), main.clone().into_os_string()];
        beside[0].push("-wal");
        beside[1].push("-shm");
        for path in beside.iter().map(Path::new).chain([main.as_path()]) {
            match std::fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "could not delete a day");
                    break;
                }
            }
        }
        tracing::info!(%day, "deleted a day whose time was over");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_leaps_ahead_deletes_nothing_until_it_has_held() {
        let clock = Clock::default();
        let mut watch = Watch::new(clock.clone());
        let start = watch.seen_at;
        assert!(watch.time(start).is_some());
        clock.set_offset_ms(400 * 86_400_000);
        assert!(watch.time(start).is_none());
        assert!(watch.time(start + HOLD - Duration::from_secs(1)).is_none());
        assert!(watch.time(start + HOLD).is_some());
    }

    #[test]
    fn a_leap_that_is_taken_back_never_deleted_anything() {
        let clock = Clock::default();
        let mut watch = Watch::new(clock.clone());
        let start = watch.seen_at;
        clock.set_offset_ms(400 * 86_400_000);
        assert!(watch.time(start).is_none());
        clock.set_offset_ms(0);
        let now = watch.time(start).unwrap();
        assert!(now < clock.now_ms() + 1000);
    }

    #[test]
    fn only_days_before_the_oldest_are_deleted() {
        let data = tempfile::tempdir().unwrap();
        let now_ms = 1_795_305_600_000;
        let today = Day::of_ms(now_ms);
        for back in [0, 29, 30, 31, 400] {
            let day = Day(today.0 - back);
            drop(crate::store::open(&day.file(data.path())).unwrap());
        }
        std::fs::write(data.path().join("telemetry-notes.db"), "kept").unwrap();
        delete_before(data.path(), oldest(now_ms, 30));
        let left: Vec<i32> = day::list(data.path()).unwrap().iter().map(|d| today.0 - d.0).collect();
        assert_eq!(left, [30, 29, 0]);
        assert!(data.path().join("telemetry-notes.db").exists());
    }
}
