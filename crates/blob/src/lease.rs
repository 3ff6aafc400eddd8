//! Leases: who alone may change a blob, or delete a container, and until when.

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// Seconds that a lease may last; -1 is without end.
const SECONDS: std::ops::RangeInclusive<i64> = 15..=60;
/// The longest time a break may take.
const BREAK_SECONDS: i64 = 60;

/// What is kept of a lease. Its state follows from the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub id: Option<String>,
    /// -1 is without end.
    #[serde(default)]
    pub seconds: i64,
    #[serde(default)]
    pub until_us: Option<i64>,
    /// Broken from then on.
    #[serde(default)]
    pub breaks_us: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Available,
    Leased,
    Expired,
    Breaking,
    Broken,
}

impl State {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Leased => "leased",
            Self::Expired => "expired",
            Self::Breaking => "breaking",
            Self::Broken => "broken",
        }
    }

    /// Whether it keeps others out.
    pub const fn holds(self) -> bool {
        matches!(self, Self::Leased | Self::Breaking)
    }
}

/// What is asked of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Acquire { seconds: i64, proposed: Option<String> },
    Renew { id: String },
    Change { id: String, proposed: String },
    Release { id: String },
    Break { period: Option<i64> },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub status: u16,
    pub id: Option<String>,
    /// Of a break: the seconds that are left.
    pub left_seconds: Option<i64>,
}

impl Lease {
    pub fn state(&self, now_us: i64) -> State {
        match (&self.id, self.breaks_us, self.until_us) {
            (None, ..) => State::Available,
            (Some(_), Some(breaks), _) if breaks <= now_us => State::Broken,
            (Some(_), Some(_), _) => State::Breaking,
            (Some(_), None, Some(until)) if until <= now_us => State::Expired,
            (Some(_), None, _) => State::Leased,
        }
    }

    fn is(&self, id: &str) -> bool {
        self.id.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(id))
    }

    /// Refuses a change by somebody who does not name the lease that holds it, or names one that does not.
    pub fn check_change(&self, named: Option<&str>, now_us: i64, of: &'static str) -> Result<(), Refusal> {
        let state = self.state(now_us);
        match named {
            None if state.holds() => {
                let message = format!("there is a lease on the {of}, and the request names none (`x-ms-lease-id`)");
                Err(Refusal::failed("LeaseIdMissing", message))
            }
            _ => self.check_named(named, now_us, of),
        }
    }

    /// Refuses a request that names a lease which does not hold. One that names none may read.
    pub fn check_named(&self, named: Option<&str>, now_us: i64, of: &'static str) -> Result<(), Refusal> {
        let Some(named) = named else { return Ok(()) };
        let (lost, absent, other) = match of {
            "container" => {
                ("LeaseLost", "LeaseNotPresentWithContainerOperation", "LeaseIdMismatchWithContainerOperation")
            }
            _ => ("LeaseLost", "LeaseNotPresentWithBlobOperation", "LeaseIdMismatchWithBlobOperation"),
        };
        match self.state(now_us) {
            State::Available => Err(Refusal::failed(absent, format!("there is no lease on the {of}"))),
            State::Expired | State::Broken if self.is(named) => {
                Err(Refusal::failed(lost, format!("the lease on the {of} is over")))
            }
            _ if self.is(named) => Ok(()),
            _ => Err(Refusal::failed(other, format!("the lease on the {of} has another id"))),
        }
    }

    /// Does what is asked. `new_id` is the id of a lease for which none is proposed.
    pub fn ask(&mut self, ask: &Ask, new_id: String, now_us: i64) -> Result<Done, Refusal> {
        let state = self.state(now_us);
        let until = |seconds: i64| (seconds > 0).then(|| now_us + seconds * 1_000_000);
        let mismatch = || Refusal::conflict("LeaseIdMismatchWithLeaseOperation", "the lease has another id");
        let done = |status, id: Option<String>| Ok(Done { status, id, left_seconds: None });
        match ask {
            Ask::Acquire { seconds, proposed } => {
                let same = proposed.as_deref().is_some_and(|id| self.is(id));
                match state {
                    State::Leased if !same => {
                        return Err(Refusal::conflict("LeaseAlreadyPresent", "there is a lease already"));
                    }
                    State::Breaking if same => {
                        let message = "the lease is breaking, and cannot be had until it is broken";
                        return Err(Refusal::conflict("LeaseIsBreakingAndCannotBeAcquired", message));
                    }
                    State::Breaking => {
                        return Err(Refusal::conflict(
                            "LeaseAlreadyPresent",
                            "there is a lease already, which is breaking",
                        ));
                    }
                    _ => {}
                }
                let id = proposed.clone().unwrap_or(new_id);
                *self = Self { id: Some(id.clone()), seconds: *seconds, until_us: until(*seconds), breaks_us: None };
                done(201, Some(id))
            }
            Ask::Renew { id } => match state {
                State::Available => Err(mismatch()),
                _ if !self.is(id) => Err(mismatch()),
                State::Broken | State::Breaking => {
                    let message = "the lease was broken, and cannot be renewed";
                    Err(Refusal::conflict("LeaseIsBrokenAndCannotBeRenewed", message))
                }
                State::Leased | State::Expired => {
                    self.until_us = until(self.seconds);
                    done(200, self.id.clone())
                }
            },
            Ask::Change { id, proposed } => match state {
                State::Leased if self.is(id) || self.is(proposed) => {
                    self.id = Some(proposed.clone());
                    done(200, self.id.clone())
                }
                State::Leased => Err(mismatch()),
                State::Breaking if self.is(id) => {
                    let message = "the lease is breaking, and its id cannot be changed";
                    Err(Refusal::conflict("LeaseIsBreakingAndCannotBeChanged", message))
                }
                _ => Err(Refusal::conflict(
                    "LeaseNotPresentWithLeaseOperation",
                    "there is no lease whose id could be changed",
                )),
            },
            Ask::Release { id } => {
                if state == State::Available || !self.is(id) {
                    return Err(mismatch());
                }
                *self = Self::default();
                done(200, None)
            }
            Ask::Break { period } => {
                let left = |at: i64| {
                    (at - now_us).max(0).div_euclid(1_000_000) + i64::from((at - now_us).rem_euclid(1_000_000) > 0)
                };
                let period_end = period.map(|period| now_us + period * 1_000_000);
                let end = match state {
                    State::Available => {
                        let message = "there is no lease to break";
                        return Err(Refusal::conflict("LeaseNotPresentWithLeaseOperation", message));
                    }
                    State::Expired | State::Broken => now_us,
                    // It is over when it would have been, or sooner where that is asked for; one without end at once.
                    State::Leased => {
                        let own = self.until_us.unwrap_or(i64::MAX);
                        period_end.map_or(if own == i64::MAX { now_us } else { own }, |asked| asked.min(own))
                    }
                    State::Breaking => {
                        let own = self.breaks_us.unwrap_or(now_us);
                        period_end.map_or(own, |asked| asked.min(own))
                    }
                };
                self.breaks_us = Some(end);
                Ok(Done { status: 202, id: None, left_seconds: Some(left(end)) })
            }
        }
    }

    /// What a change leaves of it: a lease that is over is none any more.
    pub fn after_change(&self, now_us: i64) -> Self {
        if self.state(now_us).holds() { self.clone() } else { Self::default() }
    }
}

impl Ask {
    /// From the fields of a request.
    pub fn read(headers: &axum::http::HeaderMap) -> Result<Self, Refusal> {
        use crate::fields::text;
        let needed = |name: &'static str| text(headers, name)?.ok_or_else(|| Refusal::no_header(name));
        let id = |name: &'static str| -> Result<String, Refusal> { guid(name, needed(name)?) };
        let proposed =
            text(headers, "x-ms-proposed-lease-id")?.map(|t| guid("x-ms-proposed-lease-id", t)).transpose()?;
        let whole = |name: &'static str, text: &str| {
            text.parse::<i64>().map_err(|_| Refusal::header(name, "it is a whole number"))
        };
        Ok(match needed("x-ms-lease-action")?.to_ascii_lowercase().as_str() {
            "acquire" => {
                let seconds = whole("x-ms-lease-duration", needed("x-ms-lease-duration")?)?;
                if seconds != -1 && !SECONDS.contains(&seconds) {
                    return Err(Refusal::header(
                        "x-ms-lease-duration",
                        "a lease lasts 15 to 60 seconds, or -1: without end",
                    ));
                }
                Self::Acquire { seconds, proposed }
            }
            "renew" => Self::Renew { id: id("x-ms-lease-id")? },
            "release" => Self::Release { id: id("x-ms-lease-id")? },
            "change" => {
                let proposed = proposed.ok_or_else(|| Refusal::no_header("x-ms-proposed-lease-id"))?;
                Self::Change { id: id("x-ms-lease-id")?, proposed }
            }
            "break" => {
                let name = "x-ms-lease-break-period";
                let period = text(headers, name)?.map(|text| whole(name, text)).transpose()?;
                if period.is_some_and(|period| !(0..=BREAK_SECONDS).contains(&period)) {
                    return Err(Refusal::header(name, "a break takes 0 to 60 seconds"));
                }
                Self::Break { period }
            }
            _ => {
                return Err(Refusal::header(
                    "x-ms-lease-action",
                    "it is none of acquire, renew, change, release, break",
                ));
            }
        })
    }
}

fn guid(name: &'static str, text: &str) -> Result<String, Refusal> {
    let read =
        uuid::Uuid::try_parse(text.trim_matches(['{', '}'])).map_err(|_| Refusal::header(name, "it is a GUID"))?;
    Ok(read.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn acquire(seconds: i64, id: &str) -> Ask {
        Ask::Acquire { seconds, proposed: Some(id.into()) }
    }

    #[test]
    fn the_life_of_a_lease() {
        let mut lease = Lease::default();
        lease.ask(&acquire(15, "a"), "x".into(), 0).unwrap();
        assert_eq!(lease.state(14 * SECOND), State::Leased);
        assert_eq!(lease.ask(&acquire(15, "b"), "x".into(), SECOND).unwrap_err().code, "LeaseAlreadyPresent");
        assert_eq!(lease.check_change(None, SECOND, "blob").unwrap_err().code, "LeaseIdMissing");
        assert_eq!(lease.check_change(Some("b"), SECOND, "blob").unwrap_err().code, "LeaseIdMismatchWithBlobOperation");
        assert!(
            lease.check_change(Some("A"), SECOND, "blob").is_ok() && lease.check_named(None, SECOND, "blob").is_ok()
        );
        assert_eq!(lease.state(15 * SECOND), State::Expired);
        assert_eq!(lease.check_change(Some("a"), 15 * SECOND, "blob").unwrap_err().code, "LeaseLost");
        lease.ask(&Ask::Renew { id: "a".into() }, "x".into(), 20 * SECOND).unwrap();
        assert_eq!(lease.state(34 * SECOND), State::Leased);
        lease.ask(&Ask::Change { id: "a".into(), proposed: "c".into() }, "x".into(), 21 * SECOND).unwrap();
        let broken = lease.ask(&Ask::Break { period: Some(5) }, "x".into(), 22 * SECOND).unwrap();
        assert_eq!((broken.status, broken.left_seconds), (202, Some(5)));
        assert_eq!(lease.state(26 * SECOND), State::Breaking);
        assert_eq!(
            lease.ask(&Ask::Renew { id: "c".into() }, "x".into(), 26 * SECOND).unwrap_err().code,
            "LeaseIsBrokenAndCannotBeRenewed"
        );
        assert_eq!(lease.state(27 * SECOND), State::Broken);
        assert!(lease.check_change(None, 27 * SECOND, "blob").is_ok());
        lease.ask(&Ask::Release { id: "c".into() }, "x".into(), 28 * SECOND).unwrap();
        assert_eq!(lease.state(28 * SECOND), State::Available);
    }

    #[test]
    fn one_without_end_breaks_at_once() {
        let mut lease = Lease::default();
        lease.ask(&acquire(-1, "a"), "x".into(), 0).unwrap();
        assert_eq!(lease.state(i64::MAX), State::Leased);
        assert_eq!(lease.ask(&Ask::Break { period: None }, "x".into(), 5).unwrap().left_seconds, Some(0));
        assert_eq!(lease.state(5), State::Broken);
    }

    proptest::proptest! {
        #[test]
        fn nobody_changes_what_another_holds(asks in proptest::collection::vec((0_u8..5, 0_u8..3, 1_i64..30), 1..30)) {
            let mut lease = Lease::default();
            let mut now = 0;
            for (what, who, seconds) in asks {
                now += seconds * SECOND / 2;
                let id = who.to_string();
                let ask = match what {
                    0 => acquire(15 + seconds, &id),
                    1 => Ask::Renew { id: id.clone() },
                    2 => Ask::Change { id: id.clone(), proposed: "2".into() },
                    3 => Ask::Release { id: id.clone() },
                    _ => Ask::Break { period: Some(seconds) },
                };
                let (before, holder) = (lease.state(now), lease.id.clone());
                let took = lease.ask(&ask, "new".into(), now).is_ok();
                // Whoever holds it loses it by their own act, or by a break, which everybody who may write may ask for.
                if before == State::Leased && took && what == 0 {
                    assert_eq!(holder, Some(id));
                }
                let of_another = lease.check_change(Some("another"), now, "blob");
                assert!(of_another.is_err(), "{lease:?}");
                assert_eq!(lease.check_change(None, now, "blob").is_ok(), !lease.state(now).holds());
            }
        }
    }
}
