//! Days of arrival, and the files that hold them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use jiff::{ToSpan as _, civil::Date};

use crate::error::StoreError;

const DAY_MS: i64 = 86_400_000;
const EPOCH: Date = jiff::civil::date(1970, 1, 1);

/// A day in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(pub i32);

impl Day {
    /// The day of a clock reading. A clock outside of the years 1 to 9999 is held at their edge.
    pub(crate) fn of_ms(now_ms: i64) -> Self {
        Self(now_ms.div_euclid(DAY_MS).clamp(-719_000, 2_932_000) as i32)
    }

    pub(crate) fn file(self, data: &Path) -> PathBuf {
        data.join(format!("telemetry-{self}.db"))
    }

    fn from_file_name(name: &str) -> Option<Self> {
        let date: Date = name.strip_prefix("telemetry-")?.strip_suffix(".db")?.parse().ok()?;
        let days = EPOCH.until(date).ok()?.get_days();
        let day = Self(days);
        // Only the one spelling we write; anything else in the directory is not ours to read or delete.
        (format!("telemetry-{day}.db") == name).then_some(day)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = EPOCH.checked_add(self.0.days()).unwrap_or(EPOCH);
        write!(f, "{date}")
    }
}

/// All days that have a file, oldest first.
pub(crate) fn list(data: &Path) -> Result<Vec<Day>, StoreError> {
    let failed = |source| StoreError::List { path: data.into(), source };
    let mut days = Vec::new();
    for entry in std::fs::read_dir(data).map_err(failed)? {
        if let Some(day) = entry.map_err(failed)?.file_name().to_str().and_then(Day::from_file_name) {
            days.push(day);
        }
    }
    days.sort_unstable();
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_file_names_map_to_each_other() {
        let day = Day::of_ms(1_795_305_600_000);
        assert_eq!(day.to_string(), "2026-11-22");
        assert_eq!(Day::from_file_name("telemetry-2026-11-22.db"), Some(day));
        assert_eq!(Day::from_file_name("telemetry-2026-11-22.db-wal"), None);
        assert_eq!(Day::from_file_name("telemetry-20261122.db"), None);
        assert_eq!(Day::of_ms(-1).to_string(), "1969-12-31");
        assert!(!Day::of_ms(i64::MAX).to_string().is_empty());
        assert!(!Day::of_ms(i64::MIN).to_string().is_empty());
    }
}
