//! Five fields of cron: minute, hour, day of the month, month, weekday, in UTC. Pure: the same text and moment give the same next
//! moment.

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: i64 = 1440;
/// From one 29th of February to the next but one where a century has none between.
const DAYS_AHEAD: i64 = 366 * 9;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Times that come again; a bit for each number that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where both day fields say something, a day that fits either is one (as cron has it since Version 7).
    either_day: bool,
}

impl Cron {
    /// Reads `*`, numbers, names of months and weekdays, ranges, lists and steps; the error says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(form());
        };
        let mut cron = Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 7, &WEEKDAYS)?,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        if cron.weekdays >> 7 & 1 == 1 {
            // Sunday is 0 and 7.
            cron.weekdays |= 1;
        }
        if cron.next(0).is_none() {
            return Err("such a day never comes".into());
        }
        Ok(cron)
    }

    /// The first of its moments after `after_ms` (milliseconds since 1970), always a full minute.
    pub fn next(&self, after_ms: i64) -> Option<i64> {
        let first = after_ms.div_euclid(MINUTE_MS) + 1;
        let (today, now) = (first.div_euclid(DAY_MINUTES), first.rem_euclid(DAY_MINUTES));
        for day in today..today + DAYS_AHEAD {
            if !self.is_day(day) {
                continue;
            }
            let from = if day == today { now } else { 0 };
            let fits = |minute: &i64| has(self.hours, minute / 60) && has(self.minutes, minute % 60);
            if let Some(minute) = (from..DAY_MINUTES).find(fits) {
                return Some((day * DAY_MINUTES + minute) * MINUTE_MS);
            }
        }
        None
    }

    /// Whether it fits a day, counted from 1970-01-01.
    fn is_day(&self, day: i64) -> bool {
        let (month, of_month) = month_and_day(day);
        let of_month = has(self.days, of_month);
        // The first day of 1970 was a Thursday.
        let weekday = has(self.weekdays, (day + 4).rem_euclid(7));
        has(self.months, month) && if self.either_day { of_month || weekday } else { of_month && weekday }
    }
}

fn form() -> String {
    "write minute, hour, day, month and weekday: `0 2 * * *` is 02:00 UTC each day".into()
}

fn has(bits: u64, number: i64) -> bool {
    bits >> number & 1 == 1
}

/// One field as bits.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let number = |text: &str| -> Option<u32> {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|at| at as u32 + min);
        let plain = || text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
        named.or_else(plain).filter(|n| (min..=max).contains(n))
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step = match step {
            None => 1,
            Some(text) => text.parse().ok().filter(|s: &u32| (1..=max).contains(s)).ok_or_else(form)?,
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            Some((from, to)) => number(from).zip(number(to)).filter(|(a, b)| a <= b).ok_or_else(form)?,
            // From a number on, in steps.
            None if part.contains('/') => (number(range).ok_or_else(form)?, max),
            None => number(range).map(|n| (n, n)).ok_or_else(form)?,
        };
        for n in (from..=to).step_by(step as usize) {
            bits |= 1_u64 << n;
        }
    }
    Ok(bits)
}

/// Month and day of the month of a day counted from 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn month_and_day(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    (if month < 10 { month + 3 } else { month - 9 }, of_year - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-23 (a Monday) 01:30:20 UTC.
    const NOW: i64 = 1_795_397_420_000;

    fn next(text: &str) -> i64 {
        Cron::parse(text).unwrap().next(NOW).unwrap() / 1000
    }

    #[test]
    fn the_next_moment_is_found() {
        assert_eq!(next("* * * * *"), 1_795_397_460);
        assert_eq!(next("0 2 * * *"), 1_795_399_200);
        assert_eq!(next("30 1 * * *"), 1_795_397_400 + 86_400, "this minute has begun");
        assert_eq!(next("0 0 * * mon"), 1_795_996_800, "today's midnight is over");
        assert_eq!(next("0 0 * * 0"), next("0 0 * * 7"));
        assert_eq!(next("0 0 * * sun"), next("0 0 * * 0"));
        assert_eq!(next("0 0 29 FEB *"), 1_835_395_200, "2028 is the next leap year");
        assert_eq!(next("15,45 1-3 * jan,nov *"), 1_795_398_300);
        assert_eq!(next("5/20 * * * *"), 1_795_398_300);
        assert_eq!(next("0 0 1 * tue"), 1_795_478_400, "either day will do");
        assert_eq!(next("0 0 1 * *"), 1_796_083_200);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "0 2 * *",
            "0 2 * * * *",
            "60 2 * * *",
            "0 24 * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "0 0 0 * *",
            "0 0 30 2 *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "0 0 * * funday",
            "+1 * * * *",
            "1- * * * *",
            ", * * * *",
        ] {
            assert!(Cron::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9*,/a-z -]{0,40}") {
            if let Ok(cron) = Cron::parse(&text) {
                prop_assert!(cron.next(NOW).unwrap() > NOW);
            }
        }

        #[test]
        fn nothing_lies_between_a_moment_and_its_next(
            minute in 0u32..60, step in 1u32..30, hour in 0u32..24, weekday in 0u32..7, after in 0i64..4_000_000_000_000,
        ) {
            for text in [format!("{minute} {hour} * * {weekday}"), format!("*/{step} * * * *"), format!("{minute} */7 * * *")] {
                let cron = Cron::parse(&text).unwrap();
                let next = cron.next(after).unwrap();
                prop_assert!(next > after && next % MINUTE_MS == 0);
                // From any moment before it, it is the next one as well.
                prop_assert_eq!(cron.next(next - 1), Some(next));
                prop_assert_eq!(cron.next(after + (next - after) / 2), Some(next));
            }
        }

        #[test]
        fn months_and_days_follow_one_another(day in -200_000i64..400_000) {
            let ((month, of_month), (after, first)) = (month_and_day(day), month_and_day(day + 1));
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
            prop_assert!((after == month && first == of_month + 1) || (after == month % 12 + 1 && first == 1 && of_month >= 28));
        }
    }
}
