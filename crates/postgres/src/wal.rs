//! Names of the log's files, and which of them lead from one moment to another.

use std::collections::BTreeMap;

use crate::Error;

/// PostgreSQL's own default; ours is never made with another.
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
const PER_LOG: u64 = 0x1_0000_0000 / SEGMENT_BYTES;

/// One file of the log on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub timeline: u32,
    /// Counted from the beginning of all log.
    pub number: u64,
}

impl Segment {
    pub fn parse(name: &str) -> Option<Self> {
        if name.len() != 24 || !is_hex(name) {
            return None;
        }
        let part = |at: usize| u32::from_str_radix(&name[at..at + 8], 16).ok();
        let (timeline, log, low) = (part(0)?, u64::from(part(8)?), u64::from(part(16)?));
        (timeline > 0 && low < PER_LOG).then_some(Self { timeline, number: log * PER_LOG + low })
    }

    pub fn name(self) -> String {
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / PER_LOG, self.number % PER_LOG)
    }
}

/// PostgreSQL writes them in upper case; another case would be another file.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

/// Whether a name is one that PostgreSQL archives: a segment, the part of one at the end of a timeline, the history of a
/// timeline, or the mark of a base backup. Nothing else becomes a file of ours.
pub(crate) fn is_archived(name: &str) -> bool {
    if let Some(timeline) = name.strip_suffix(".history") {
        return timeline.len() == 8 && is_hex(timeline);
    }
    if let Some(segment) = name.strip_suffix(".partial") {
        return Segment::parse(segment).is_some();
    }
    if let Some(mark) = name.strip_suffix(".backup") {
        return mark
            .split_once('.')
            .is_some_and(|(segment, offset)| Segment::parse(segment).is_some() && offset.len() == 8 && is_hex(offset));
    }
    Segment::parse(name).is_some()
}

/// A place in the log, `0/2000028`.
pub(crate) fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.trim().split_once('/')?;
    let part = |text: &str| (text.len() <= 8).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    Some((part(high)? << 32) | part(low)?)
}

/// The timelines that lead to one, each with the place at which the next begins. The last has no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Timeline, and where it begins.
    steps: Vec<(u32, u64)>,
}

impl Path {
    /// From the text of the history of `timeline`: lines of timeline, end and reason. The first has none.
    pub fn of(timeline: u32, history: &str) -> Result<Self, Error> {
        let mut steps = Vec::new();
        let mut begins = 0;
        for line in history.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            let parent = words.next().and_then(|w| w.parse().ok());
            let end = words.next().and_then(lsn);
            let (Some(parent), Some(end)) = (parent, end) else {
                return Err(Error::Config(format!("the history of timeline {timeline} is not understood: {line}")));
            };
            steps.push((parent, begins));
            begins = end;
        }
        steps.push((timeline, begins));
        Ok(Self { steps })
    }

    /// The segment that is replayed for a number: the newest timeline that has begun by then.
    pub fn segment(&self, number: u64) -> Segment {
        let begun = self.steps.iter().rev().find(|(_, begins)| begins / SEGMENT_BYTES <= number);
        Segment { timeline: begun.map_or(1, |(timeline, _)| *timeline), number }
    }

    /// Whether a base backup that begins on `timeline` at `at` leads to the end of this path.
    pub fn passes(&self, timeline: u32, at: u64) -> bool {
        let Some(index) = self.steps.iter().position(|(t, _)| *t == timeline) else { return false };
        at >= self.steps[index].1 && self.steps.get(index + 1).is_none_or(|(_, begins)| at < *begins)
    }
}

/// How far the archive goes without a hole from a segment on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The last segment of the chain, with what is known of it; None: not even the first is there.
    pub last: Option<(Segment, i64)>,
    /// A segment that is missing although later ones are there.
    pub hole: Option<Segment>,
}

/// Follows the path from segment `first` through `there` (when each was last written).
pub(crate) fn reach(path: &Path, first: u64, there: &BTreeMap<Segment, i64>) -> Reach {
    let mut last = None;
    let mut number = first;
    while let Some(written) = there.get(&path.segment(number)) {
        last = Some((path.segment(number), *written));
        number += 1;
    }
    let later = there.keys().any(|s| s.number > number && path.segment(s.number) == *s);
    Reach { last, hole: later.then(|| path.segment(number)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there(names: &[&str]) -> BTreeMap<Segment, i64> {
        names.iter().enumerate().map(|(at, name)| (Segment::parse(name).unwrap(), at as i64)).collect()
    }

    #[test]
    fn only_names_that_postgresql_archives_are_taken() {
        for name in [
            "000000010000000000000001",
            "0000000A.history",
            "00000001000000000000000A.partial",
            "000000010000000000000002.00000028.backup",
        ] {
            assert!(is_archived(name), "{name}");
        }
        for name in [
            "",
            "..",
            "../../etc/passwd",
            "000000010000000000000001.part",
            "00000001000000000000000a",
            "00000000000000000000000A",
            "000000010000000000000100",
            "000000010000000000000001/x",
            "é0000001000000000000000",
            "0000000A.history.history",
        ] {
            assert!(!is_archived(name), "{name:?} was taken");
        }
    }

    #[test]
    fn a_chain_follows_timelines_and_ends_at_a_hole() {
        let one = Path::of(1, "").unwrap();
        let files = there(&["000000010000000000000002", "000000010000000000000003", "000000010000000000000005"]);
        let reached = reach(&one, 2, &files);
        assert_eq!(reached.last.unwrap().0.name(), "000000010000000000000003");
        assert_eq!(reached.hole.unwrap().name(), "000000010000000000000004");
        assert_eq!(reach(&one, 5, &files), Reach { last: Some((Segment { timeline: 1, number: 5 }, 2)), hole: None });

        // Gone back within segment 3: timeline 2 begins there, and what timeline 1 did afterwards is not on the way.
        let two = Path::of(2, "1\t0/3000148\tbefore 2026-01-24 12:00:00+00\n").unwrap();
        let files = there(&[
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000004",
            "000000020000000000000003",
        ]);
        let reached = reach(&two, 2, &files);
        assert_eq!(reached.last.unwrap().0.name(), "000000020000000000000003");
        assert_eq!(reached.hole, None);
        assert!(two.passes(1, 0x200_0028) && !two.passes(1, 0x400_0000) && two.passes(2, 0x300_0200));
    }

    #[test]
    fn names_roll_over_where_postgresql_rolls_over() {
        let last = Segment::parse("0000000100000000000000FF").unwrap();
        assert_eq!(Segment { number: last.number + 1, ..last }.name(), "000000010000000100000000");
    }

    proptest! {
        #[test]
        fn a_name_is_what_it_was_parsed_from(timeline in 1u32.., number in 0u64..0xFFFF_FFFF) {
            let segment = Segment { timeline, number };
            prop_assert_eq!(Segment::parse(&segment.name()), Some(segment));
        }

        #[test]
        fn no_name_and_no_history_make_it_panic(text in "\\PC{0,40}") {
            if is_archived(&text) {
                prop_assert!(!text.contains(['/', '\0']) && !text.starts_with('.'));
            }
            let _ = Path::of(3, &text);
            let _ = lsn(&text);
        }
    }
}
