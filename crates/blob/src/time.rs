//! Times as the API writes and reads them, and the marks that tell versions apart.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Microseconds since the Unix epoch as HTTP writes them (RFC 9110, section 5.6.7), to the second.
pub fn http_date(us: i64) -> String {
    let time = Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The second that a date of HTTP names.
pub fn of_http(text: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(text.trim()).ok().map(Timestamp::as_second)
}

/// The second that a date of a shared access signature names: ISO 8601 in UTC, to the second, the minute or the day.
pub fn of_sas(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_second());
    }
    let filled = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        17 => format!("{}:00Z", text.strip_suffix('Z')?),
        _ => return None,
    };
    filled.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// Microseconds as ISO 8601 to the second, as keys of delegated signatures have them.
pub fn iso(us: i64) -> String {
    let time = Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Gives moments of 100 ns, each later than all before: from them ETags and the marks of versions are made.
pub struct Ticks(AtomicI64);

/// A moment of [`Ticks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(i64);

impl Ticks {
    /// All later than `mark`, the last one that was given.
    pub fn after(mark: Option<&str>) -> Self {
        Self(AtomicI64::new(mark.and_then(Tick::of_mark).map_or(0, |tick| tick.0)))
    }

    pub fn next(&self, now_us: i64) -> Tick {
        let now = now_us.saturating_mul(10);
        let later = |last: i64| Some(now.max(last + 1));
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).unwrap_or_default();
        Tick(now.max(last + 1))
    }
}

impl Tick {
    /// The name of a version or a snapshot, such as `2026-11-23T01:02:03.1234567Z`. Later ones sort behind.
    pub fn mark(self) -> String {
        let time = Timestamp::from_microsecond(self.0.div_euclid(10)).unwrap_or(Timestamp::UNIX_EPOCH);
        let part = self.0.rem_euclid(10_000_000);
        format!("{}.{part:07}Z", time.strftime("%Y-%m-%dT%H:%M:%S"))
    }

    /// Without its quotes.
    pub fn etag(self) -> String {
        format!("0x{:X}", self.0)
    }

    fn of_mark(mark: &str) -> Option<Self> {
        let nanoseconds = mark.parse::<Timestamp>().ok()?.as_nanosecond();
        i64::try_from(nanoseconds / 100).ok().map(Self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read_as_their_formats_have_them() {
        let us = 1_795_395_723_123_456;
        assert_eq!(http_date(us), "Mon, 23 Nov 2026 01:02:03 GMT");
        assert_eq!(of_http("Mon, 23 Nov 2026 01:02:03 GMT"), Some(us / 1_000_000));
        for (text, second) in [
            ("2026-11-23T01:02:03Z", 1_795_395_723),
            ("2026-11-23T01:02:03.1234567Z", 1_795_395_723),
            ("2026-11-23T01:02Z", 1_795_395_720),
            ("2026-11-23", 1_795_392_000),
        ] {
            assert_eq!(of_sas(text), Some(second), "{text}");
        }
        assert!(of_sas("soon").is_none() && of_http("soon").is_none() && of_sas("ééééé").is_none());
    }

    #[test]
    fn marks_rise_even_if_the_clock_stands_or_goes_back() {
        let ticks = Ticks::after(None);
        let first = ticks.next(1_795_395_723_123_456);
        assert_eq!(first.mark(), "2026-11-23T01:02:03.1234560Z");
        let second = ticks.next(1_000_000);
        assert_eq!(second.mark(), "2026-11-23T01:02:03.1234561Z");
        assert_eq!(Ticks::after(Some(&second.mark())).next(0).mark(), "2026-11-23T01:02:03.1234562Z");
        assert_ne!(first.etag(), second.etag());
    }
}
