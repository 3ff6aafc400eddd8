//! The rules of time recording, without any input or output: periods, hours, times, statuses.

use jiff::{ToSpan, civil::Date};

pub use sdk::fault::FieldErrors;

/// The Monday from which periods count.
const FIRST: Date = jiff::civil::date(2024, 1, 1);
/// Days in a period.
pub const DAYS: i32 = 14;
/// Longest note, in characters.
pub const NOTES: usize = 1000;

/// Fourteen days from a Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub start: Date,
}

impl Period {
    /// The period that holds `date`; None where it does not lie in 2000 to 2099 with all its days.
    pub fn of(date: Date) -> Option<Period> {
        let century = 2000..=2099;
        if !century.contains(&date.year()) {
            return None;
        }
        let days = (date - FIRST).get_days();
        let start = FIRST.checked_add(days.div_euclid(DAYS).checked_mul(DAYS)?.days()).ok()?;
        let period = Period { start };
        (century.contains(&start.year()) && century.contains(&period.end().year())).then_some(period)
    }

    /// The last day.
    pub fn end(&self) -> Date {
        self.start.saturating_add((DAYS - 1).days())
    }

    pub fn days(&self) -> Vec<Date> {
        (0..DAYS).map(|n| self.start.saturating_add(n.days())).collect()
    }

    pub fn contains(&self, date: Date) -> bool {
        (self.start..=self.end()).contains(&date)
    }
}

/// Worked time in quarters of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quarters(pub i32);

impl Quarters {
    pub const MAX: Quarters = Quarters(96);

    /// Reads `7.5`, `7,5`, `7:30`, `7h30` or `7h`; rounds to the nearest quarter of an hour.
    ///
    /// # Errors
    /// A sentence to show beside the field.
    pub fn parse(text: &str) -> Result<Quarters, &'static str> {
        const FORM: &str = "Write hours as 7.5 or 7:30.";
        let text = text.trim().to_ascii_lowercase().replace(',', ".");
        if text.is_empty() || text.len() > 10 {
            return Err(FORM);
        }
        let minutes = match text.split_once([':', 'h']) {
            Some((hours, minutes)) => {
                let whole = |t: &str| if t.is_empty() { Ok(0) } else { digits(t).ok_or(FORM) };
                let (hours, minutes) = (digits(hours).ok_or(FORM)?, whole(minutes)?);
                if minutes > 59 {
                    return Err("There are 60 minutes in an hour.");
                }
                f64::from(hours * 60 + minutes)
            }
            None => {
                if !text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-')) {
                    return Err(FORM);
                }
                text.parse::<f64>().map_err(|_| FORM)? * 60.0
            }
        };
        Quarters::from_hours(minutes / 60.0)
    }

    /// Rounds `hours` to the nearest quarter and checks the limits, 0.25 to 24.
    ///
    /// # Errors
    /// A sentence to show beside the field.
    pub fn from_hours(hours: f64) -> Result<Quarters, &'static str> {
        let quarters = (hours * 4.0).round();
        if quarters.is_nan() || quarters < 1.0 {
            return Err("Hours must be at least 0.25.");
        }
        if quarters > 96.0 {
            return Err("A day has 24 hours.");
        }
        #[expect(clippy::cast_possible_truncation, reason = "between 1 and 96, checked above")]
        Ok(Quarters(quarters as i32))
    }

    pub fn hours(self) -> f64 {
        f64::from(self.0) / 4.0
    }
}

fn digits(text: &str) -> Option<u32> {
    (text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

impl std::fmt::Display for Quarters {
    /// `7.5`, `7.25`, `8`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.hours())
    }
}

impl std::iter::Sum for Quarters {
    fn sum<I: Iterator<Item = Quarters>>(all: I) -> Quarters {
        Quarters(all.map(|q| q.0).sum())
    }
}

/// A time of day in minutes; 1440 is midnight at the day's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minutes(pub i32);

impl Minutes {
    /// Reads `9`, `9:30`, `09:30` or `0930`, up to `24:00`.
    ///
    /// # Errors
    /// A sentence to show beside the field.
    pub fn parse(text: &str) -> Result<Minutes, &'static str> {
        const FORM: &str = "Write a time as 09:30.";
        let text = text.trim();
        let (hours, minutes) = match text.split_once([':', '.']) {
            // A browser's time field may add seconds.
            Some((hours, minutes)) => (hours, minutes.strip_suffix(":00").unwrap_or(minutes)),
            None if text.len() == 4 && text.is_ascii() => text.split_at(2),
            None => (text, "0"),
        };
        let (hours, minutes) = (digits(hours).ok_or(FORM)?, digits(minutes).ok_or(FORM)?);
        let total = hours * 60 + minutes;
        if minutes > 59 || total > 1440 {
            return Err("There is no such time of day.");
        }
        i32::try_from(total).map(Minutes).map_err(|_| FORM)
    }
}

impl std::fmt::Display for Minutes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// Where a sheet stands. Only an open one takes changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Status {
    Open,
    Submitted,
    Approved,
    Closed,
}

/// What can be done to a sheet as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// By its owner: it waits for approval.
    Submit,
    /// By its owner, before anybody approved it.
    TakeBack,
    Approve,
    /// Final: nobody changes a closed sheet unless it is reopened.
    Close,
    /// By a manager, with a reason.
    Reopen,
}

/// Who acts, seen from the sheet.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    pub owner: bool,
    pub manager: bool,
}

impl Status {
    pub fn parse(text: &str) -> Option<Status> {
        Some(match text {
            "Open" => Status::Open,
            "Submitted" => Status::Submitted,
            "Approved" => Status::Approved,
            "Closed" => Status::Closed,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Open => "Open",
            Status::Submitted => "Submitted",
            Status::Approved => "Approved",
            Status::Closed => "Closed",
        }
    }

    /// The status after `action`; None when it is not possible from here or not for this person.
    pub fn after(self, action: Action, actor: Actor) -> Option<Status> {
        // Two pairs of eyes: nobody approves, closes or reopens their own sheet.
        let decides = actor.manager && !actor.owner;
        match (self, action) {
            (Status::Open, Action::Submit) if actor.owner => Some(Status::Submitted),
            (Status::Submitted, Action::TakeBack) if actor.owner => Some(Status::Open),
            (Status::Submitted, Action::Approve) if decides => Some(Status::Approved),
            (Status::Approved, Action::Close) if decides => Some(Status::Closed),
            (Status::Submitted | Status::Approved | Status::Closed, Action::Reopen) if decides => Some(Status::Open),
            _ => None,
        }
    }

    /// What `actor` can do now.
    pub fn actions(self, actor: Actor) -> Vec<Action> {
        let all = [Action::Submit, Action::TakeBack, Action::Approve, Action::Close, Action::Reopen];
        all.into_iter().filter(|a| self.after(*a, actor).is_some()).collect()
    }
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Submit => "submit",
            Action::TakeBack => "take-back",
            Action::Approve => "approve",
            Action::Close => "close",
            Action::Reopen => "reopen",
        }
    }

    /// What a button says.
    pub fn title(self) -> &'static str {
        match self {
            Action::Submit => "Submit for approval",
            Action::TakeBack => "Take back",
            Action::Approve => "Approve",
            Action::Close => "Close",
            Action::Reopen => "Reopen",
        }
    }
}

/// An entry as somebody typed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryInput {
    pub project: String,
    pub work_type: String,
    pub date: String,
    pub hours: String,
    pub start: String,
    pub end: String,
    pub notes: String,
}

/// An entry that keeps all rules which can be checked without the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryValues {
    pub project: String,
    pub work_type: String,
    pub date: Date,
    pub hours: Quarters,
    pub times: Option<(Minutes, Minutes)>,
    pub notes: String,
}

impl EntryInput {
    /// Checks everything at once.
    ///
    /// # Errors
    /// All faults, each with its field.
    pub fn check(&self, period: Period) -> Result<EntryValues, FieldErrors> {
        let mut errors = FieldErrors::default();
        let project = code(&self.project);
        let work_type = code(&self.work_type);
        if project.is_none() {
            errors.add("project", "Choose a project.");
        }
        if work_type.is_none() {
            errors.add("work_type", "Choose a kind of work.");
        }
        let date = errors.take("date", date(&self.date));
        if date.is_some_and(|d| !period.contains(d)) {
            errors.add("date", format!("This sheet holds {} to {}.", period.start, period.end()));
        }
        let times = self.times(&mut errors);
        let length = times.map(|(start, end)| end.0 - start.0);
        let hours = match (self.hours.trim(), length) {
            ("", Some(length)) => errors.take("hours", Quarters::from_hours(f64::from(length) / 60.0)),
            (typed, _) => errors.take("hours", Quarters::parse(typed)),
        };
        // Rounding may go up to half a quarter beyond the times.
        if let (Some(hours), Some(length)) = (hours, length)
            && hours.0 * 15 > length + 7
        {
            errors.add("hours", "That is longer than the time between start and end.");
        }
        if self.notes.chars().count() > NOTES {
            errors.add("notes", "Notes have 1,000 characters at most.");
        }
        if self.notes.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            errors.add("notes", "Notes hold a character that cannot be shown.");
        }
        match (project, work_type, date, hours) {
            (Some(project), Some(work_type), Some(date), Some(hours)) if errors.is_empty() => {
                Ok(EntryValues { project, work_type, date, hours, times, notes: self.notes.trim().to_owned() })
            }
            _ => Err(errors),
        }
    }

    fn times(&self, errors: &mut FieldErrors) -> Option<(Minutes, Minutes)> {
        match (self.start.trim(), self.end.trim()) {
            ("", "") => None,
            (_, "") => {
                errors.add("end", "Give an end as well, or leave both empty.");
                None
            }
            ("", _) => {
                errors.add("start", "Give a start as well, or leave both empty.");
                None
            }
            (start, end) => {
                let (start, end) =
                    (errors.take("start", Minutes::parse(start)), errors.take("end", Minutes::parse(end)));
                let (start, end) = (start?, end?);
                if end <= start {
                    errors.add("end", "The end must come after the start. Work past midnight is two entries.");
                    return None;
                }
                Some((start, end))
            }
        }
    }
}

/// A project's or work type's code in the form the database takes.
pub fn code(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_uppercase();
    let first = text.chars().next()?.is_ascii_alphanumeric();
    let rest = text.len() <= 20 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-');
    (first && rest).then_some(text)
}

/// Reads `2026-11-22`.
///
/// # Errors
/// A sentence to show beside the field.
pub fn date(text: &str) -> Result<Date, &'static str> {
    let text = text.trim();
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
    if !shape {
        return Err("Write the date as 2026-11-22.");
    }
    let date: Date = text.parse().map_err(|_| "There is no such date.")?;
    if (2000..=2099).contains(&date.year()) { Ok(date) } else { Err("Dates are from 2000 to 2099.") }
}

#[cfg(test)]
#[path = "domain_tests.rs"]
mod tests;
