//! A change of who leads a database: the fixed steps of it, decided from what is written down and what is seen. Pure.
//!
//! One authority (the supervisor) gives the word on who leads, each time with a higher term. It gives the word to another
//! member only after it has seen that nothing of the old primary is left that could take a write, so no lease has to run out
//! and no clock is trusted. What a step leaves half done when its carrier dies, the next carrier does again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    pub term: u64,
    /// The workload.
    pub primary: String,
}

/// The step that is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The old primary takes no more writes: asked to step down, or killed with all its processes.
    Fence,
    /// The word is given, and the new primary takes writes.
    Promote,
    /// Clients are led to it.
    Point,
    /// The old one, and everybody else, follows it.
    Rejoin,
}

/// A change of the lead under way, as it is written down before each step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saga {
    /// The term that begins.
    pub term: u64,
    pub from: String,
    pub to: String,
    /// The old primary steps down in order.
    pub planned: bool,
    /// A standby may lead that lacks acknowledged writes: a person said so.
    pub accept_loss: bool,
    pub step: Step,
    /// Why, in words.
    pub why: String,
    /// When the old primary was last known to take writes, Unix milliseconds.
    pub last_served_ms: i64,
}

/// What is seen when a step is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Nothing of the old primary can take a write: no process of it is left, or it has stepped down.
    pub old_is_fenced: bool,
    /// It was asked to step down and has had its time.
    pub old_is_late: bool,
    /// The record beside the old primary's data names the new one, or the database was declared not to wait.
    pub new_has_all: bool,
    /// The new one takes writes under this term.
    pub new_leads: bool,
    /// Its promotion is over and done: others may be made from it.
    pub new_is_settled: bool,
    /// Clients are led to it.
    pub pointed: bool,
    /// The others run with the new word.
    pub others_told: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Tell the old primary alone that it leads no longer, so that it steps down in order.
    AskToStepDown,
    /// Kill all processes of the old primary; it keeps the word that it leads no longer.
    Kill,
    /// Write down that this step is next.
    Write(Step),
    /// Write down the word, and give it to the new primary.
    Call,
    /// Lead clients to the new primary.
    Point,
    /// Give everybody else the word, and start whom the fence ended.
    TellOthers,
    /// The new one lacks what was acknowledged: the old one leads again, under a term after this.
    Abandon,
    /// All is done.
    Over,
}

/// The next order.
pub fn next(saga: &Saga, seen: &Sight) -> Order {
    match saga.step {
        Step::Fence if seen.old_is_fenced => {
            if seen.new_has_all || saga.accept_loss {
                Order::Write(Step::Promote)
            } else {
                Order::Abandon
            }
        }
        Step::Fence if saga.planned && !seen.old_is_late => Order::AskToStepDown,
        Step::Fence => Order::Kill,
        Step::Promote if seen.new_leads => Order::Write(Step::Point),
        Step::Promote => Order::Call,
        Step::Point if seen.pointed => Order::Write(Step::Rejoin),
        Step::Point => Order::Point,
        // It may have ended again: nobody else starts it while this goes on.
        Step::Rejoin if !seen.new_is_settled => Order::Call,
        Step::Rejoin if seen.others_told => Order::Over,
        Step::Rejoin => Order::TellOthers,
    }
}

/// So many looks in a row must find no answer, over at least [`SILENCE`], before silence is a death. A process that is gone is
/// dead at once; one that is slow is not dead: a busy machine delays answers by seconds and loses none.
pub const MISSES: u32 = 12;
pub const SILENCE: Duration = Duration::from_secs(5);
/// A watcher that was woken this much too late says more of itself than of the watched: such a look does not count.
pub const LATE: Duration = Duration::from_millis(200);

/// What one look at the primary gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It takes writes.
    Serves,
    /// No answer in time, or the keeper says that its server does not answer.
    Silent,
    /// The process that served is gone.
    Gone,
}

/// What is thought of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    /// Not for long enough.
    Doubt,
    Dead,
}

/// The looks so far.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    misses: u32,
    since: Option<Duration>,
}

impl Watch {
    /// Takes one look in; `now` is of any steady clock, `late` how much too late the watcher was woken for it.
    pub fn look(&mut self, now: Duration, late: Duration, look: Look) -> Verdict {
        match look {
            Look::Serves => {
                (self.misses, self.since) = (0, None);
                Verdict::Alive
            }
            Look::Gone => Verdict::Dead,
            Look::Silent => {
                let since = *self.since.get_or_insert(now);
                if late < LATE {
                    self.misses += 1;
                }
                if self.misses >= MISSES && now.saturating_sub(since) >= SILENCE {
                    Verdict::Dead
                } else {
                    Verdict::Doubt
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(400);

    #[test]
    fn a_gone_process_is_dead_at_once_and_a_silent_one_after_seconds() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(Duration::ZERO, Duration::ZERO, Look::Serves), Verdict::Alive);
        assert_eq!(watch.look(TICK, Duration::ZERO, Look::Gone), Verdict::Dead);
        let mut watch = Watch::default();
        let verdicts: Vec<Verdict> = (0..20).map(|n| watch.look(n * TICK, Duration::ZERO, Look::Silent)).collect();
        let first = verdicts.iter().position(|v| *v == Verdict::Dead).unwrap() as u32;
        assert!(first * TICK >= SILENCE && first * TICK < 2 * SILENCE, "{first} looks");
    }

    #[test]
    fn one_answer_in_between_and_a_starved_watcher_are_no_death() {
        let mut watch = Watch::default();
        for n in 0..1000 {
            let look = if n % 11 == 0 { Look::Serves } else { Look::Silent };
            assert_ne!(watch.look(n * TICK, Duration::ZERO, look), Verdict::Dead);
        }
        let mut watch = Watch::default();
        for n in 0..1000 {
            assert_ne!(watch.look(n * TICK, LATE, Look::Silent), Verdict::Dead, "woken too late each time");
        }
    }
}
