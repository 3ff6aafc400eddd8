//! With whom a write is safe before it is acknowledged: a small machine without a clock or a server, so that a seed can drive it.
//!
//! Two facts, and one rule between them. `named`: the standby that the server waits for (`synchronous_standby_names`). `safe`:
//! the standby of which a durable file says that it has every acknowledged write. Whoever is safe is named: the file is
//! written after the naming took hold, and struck out before the naming ends. So whoever reads the file after the server's
//! death knows whether the standby has everything.

use std::time::Duration;

/// The log a standby may lack and still be waited for: more would let every write wait for its catching up.
const NEAR: u64 = 16 * 1024 * 1024;

/// What is seen of the one standby that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub streaming: bool,
    /// The server counts it as synchronous.
    pub counted: bool,
    /// Where its disk has the log.
    pub flushed: u64,
    pub behind: u64,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The server is to wait for the standby (true) or for nobody.
    Name(bool),
    /// Have every process of the server know the naming, then say where the log ends: [`Sync::named_up_to`].
    Settle,
    /// Write the file: the standby is safe (true), or nobody is.
    Record(bool),
}

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Sync {
    /// A standby is to be waited for at all.
    pub wanted: bool,
    /// None: a lost one is waited for without end.
    pub go_on_after: Option<Duration>,
    named: bool,
    safe: bool,
    /// All that was acknowledged without the standby lies before this.
    up_to: Option<u64>,
    lost_since: Option<Duration>,
}

impl Sync {
    /// As a server starts: it waits for whom the file names, from its first moment.
    pub fn new(wanted: bool, go_on_after: Option<Duration>, safe: bool) -> Self {
        Self { wanted, go_on_after, named: safe, safe, up_to: None, lost_since: None }
    }

    pub fn is_safe(&self) -> bool {
        self.safe
    }

    /// The naming is known everywhere, and the log ended at `wal` after that.
    pub fn named_up_to(&mut self, wal: u64) {
        self.up_to = Some(wal);
    }

    /// What is to be done now; done before the next is asked for. `now` is of any steady clock.
    pub fn next(&mut self, now: Duration, seen: Option<Seen>) -> Option<Act> {
        let seen = seen.filter(|s| s.streaming);
        let Some(seen) = seen else {
            let since = *self.lost_since.get_or_insert(now);
            // A standby that is not safe yet has nothing to lose: nobody waits for it.
            let give_up = !self.safe || self.go_on_after.is_some_and(|after| now.saturating_sub(since) >= after);
            return self.let_go(give_up || !self.wanted);
        };
        self.lost_since = None;
        if !self.wanted {
            return self.let_go(true);
        }
        if !self.named {
            if seen.behind > NEAR {
                return None;
            }
            (self.named, self.up_to) = (true, None);
            return Some(Act::Name(true));
        }
        if self.safe || !seen.counted {
            return None;
        }
        match self.up_to {
            None => Some(Act::Settle),
            Some(up_to) if seen.flushed >= up_to => {
                self.safe = true;
                Some(Act::Record(true))
            }
            Some(_) => None,
        }
    }

    /// First the file, then the naming.
    fn let_go(&mut self, yes: bool) -> Option<Act> {
        if !yes {
            return None;
        }
        if self.safe {
            self.safe = false;
            return Some(Act::Record(false));
        }
        if self.named {
            (self.named, self.up_to) = (false, None);
            return Some(Act::Name(false));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn near(flushed: u64) -> Option<Seen> {
        Some(Seen { streaming: true, counted: true, flushed, behind: 0 })
    }

    #[test]
    fn a_standby_is_safe_once_it_has_what_was_acknowledged_before_it_was_waited_for() {
        let mut sync = Sync::new(true, Some(10 * SECOND), false);
        assert_eq!(sync.next(SECOND, near(100)), Some(Act::Name(true)));
        assert_eq!(sync.next(SECOND, near(100)), Some(Act::Settle));
        sync.named_up_to(200);
        assert_eq!(sync.next(SECOND, near(199)), None);
        assert_eq!(sync.next(SECOND, near(200)), Some(Act::Record(true)));
        assert_eq!(sync.next(2 * SECOND, None), None, "lost, and not for long");
        assert_eq!(sync.next(11 * SECOND, None), None);
        assert_eq!(sync.next(12 * SECOND, None), Some(Act::Record(false)), "the file first");
        assert_eq!(sync.next(12 * SECOND, None), Some(Act::Name(false)));
        assert_eq!(sync.next(99 * SECOND, None), None);
    }

    #[test]
    fn who_waits_for_a_lost_standby_waits_without_end() {
        let mut sync = Sync::new(true, None, true);
        assert_eq!(sync.next(SECOND, None), None);
        assert_eq!(sync.next(1_000_000 * SECOND, None), None);
        assert!(sync.is_safe());
    }

    proptest! {
        /// However a standby comes and goes: a write that is acknowledged while the file names the standby is on its disk.
        #[test]
        fn what_is_acknowledged_is_where_the_file_says(
            turns in proptest::collection::vec((0u64..4000, any::<bool>(), 0u64..50, any::<bool>()), 1..200),
            patient in any::<bool>(),
        ) {
            let mut sync = Sync::new(true, (!patient).then_some(10 * SECOND), false);
            let (mut named, mut file, mut wal, mut flushed, mut now) = (false, false, 0u64, 0u64, Duration::ZERO);
            // The end of the log that clients were told is safe.
            let mut acknowledged = 0u64;
            for (pause, streaming, write, reaches) in turns {
                now += Duration::from_millis(pause);
                wal += write;
                if streaming && reaches {
                    flushed = wal;
                }
                acknowledged = acknowledged.max(if named { flushed } else { wal });
                if file {
                    prop_assert!(named, "the file names whom the server does not wait for");
                    prop_assert!(flushed >= acknowledged, "acknowledged {acknowledged}, on the standby {flushed}");
                }
                let seen = Seen { streaming, counted: named, flushed, behind: wal - flushed };
                match sync.next(now, Some(seen)) {
                    Some(Act::Name(yes)) => named = yes,
                    Some(Act::Settle) => sync.named_up_to(wal),
                    Some(Act::Record(yes)) => file = yes,
                    None => {}
                }
            }
        }
    }
}
