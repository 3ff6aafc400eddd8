//! The circuit breaker of a provider: after five failures in a row no call for a minute, then three trials.
//!
//! Pure: the store reads a row, asks, and writes the row, so that all workers share one breaker.

/// Failures in a row that open it.
pub const FAILURES: i32 = 5;
/// Seconds it stays open.
pub const OPEN_SECONDS: f64 = 60.0;
/// Calls let through half-open; so many successes close it.
pub const TRIALS: i32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Closed => "CLOSED",
            State::Open => "OPEN",
            State::HalfOpen => "HALF_OPEN",
        }
    }

    pub fn parse(word: &str) -> State {
        match word {
            "OPEN" => State::Open,
            "HALF_OPEN" => State::HalfOpen,
            _ => State::Closed,
        }
    }
}

/// What is kept. `trials` counts calls let through half-open; `failures` counts failures in a row, and half-open the
/// successes still needed to close, as a negative number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    pub state: State,
    pub failures: i32,
    pub trials: i32,
    /// How long ago it opened, in seconds.
    pub opened: Option<f64>,
}

impl Breaker {
    pub const NEW: Breaker = Breaker { state: State::Closed, failures: 0, trials: 0, opened: None };

    /// Whether a call would be let through now.
    pub fn takes(self) -> bool {
        match self.state {
            State::Closed => true,
            State::Open => self.opened.is_none_or(|s| s >= OPEN_SECONDS),
            // A trial whose worker died is never told of; after another minute it is taken as lost.
            State::HalfOpen => self.trials < TRIALS || self.opened.is_none_or(|s| s >= 2.0 * OPEN_SECONDS),
        }
    }

    /// Lets a call through, or not.
    #[must_use]
    pub fn call(self) -> Option<Breaker> {
        if !self.takes() {
            return None;
        }
        Some(match self.state {
            State::Closed => self,
            State::Open => Breaker { state: State::HalfOpen, failures: -TRIALS, trials: 1, opened: self.opened },
            State::HalfOpen if self.trials >= TRIALS => {
                Breaker { trials: 1, failures: -TRIALS, opened: Some(OPEN_SECONDS), ..self }
            }
            State::HalfOpen => Breaker { trials: self.trials + 1, ..self },
        })
    }

    /// A call that was let through succeeded.
    #[must_use]
    pub fn succeeded(self) -> Breaker {
        match self.state {
            State::HalfOpen if self.failures < -1 => Breaker { failures: self.failures + 1, ..self },
            // A success of a call from before it opened says little about now.
            State::Open => self,
            _ => Breaker::NEW,
        }
    }

    /// A call that was let through failed.
    #[must_use]
    pub fn failed(self) -> Breaker {
        match self.state {
            State::Closed if self.failures + 1 < FAILURES => Breaker { failures: self.failures + 1, ..self },
            State::Open => self,
            _ => Breaker { state: State::Open, failures: FAILURES, trials: 0, opened: Some(0.0) },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;

    fn opened() -> Breaker {
        (0..FAILURES).fold(Breaker::NEW, |b, _| b.call().unwrap().failed())
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_four_do_not() {
        let four = (0..4).fold(Breaker::NEW, |b, _| b.failed());
        assert_eq!(four.state, State::Closed);
        assert_eq!(four.succeeded().failed().failures, 1, "a success begins the count anew");
        assert_eq!(opened().state, State::Open);
    }

    #[test]
    fn open_it_takes_nothing_for_a_minute() {
        assert!(opened().call().is_none());
        assert!(Breaker { opened: Some(59.9), ..opened() }.call().is_none());
        assert_eq!(Breaker { opened: Some(60.0), ..opened() }.call().unwrap().state, State::HalfOpen);
    }

    #[test]
    fn half_open_three_are_let_through_and_three_successes_close_it() {
        let mut breaker = Breaker { opened: Some(60.0), ..opened() };
        for _ in 0..TRIALS {
            breaker = breaker.call().unwrap();
        }
        assert!(breaker.call().is_none(), "a fourth waits");
        breaker = breaker.succeeded().succeeded();
        assert_eq!(breaker.state, State::HalfOpen);
        assert_eq!(breaker.succeeded(), Breaker::NEW);
    }

    #[test]
    fn half_open_one_failure_opens_it_again() {
        let breaker = Breaker { opened: Some(61.0), ..opened() }.call().unwrap().succeeded().failed();
        assert_eq!((breaker.state, breaker.opened), (State::Open, Some(0.0)));
    }

    #[test]
    fn trials_whose_workers_died_do_not_keep_it_half_open_for_good() {
        let mut breaker = Breaker { opened: Some(60.0), ..opened() };
        for _ in 0..TRIALS {
            breaker = breaker.call().unwrap();
        }
        breaker.opened = Some(2.0 * OPEN_SECONDS);
        assert_eq!(breaker.call().unwrap().trials, 1);
    }
}
