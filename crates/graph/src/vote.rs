//! Who may lead: the rules of the votes, pure, and the ballot that survives a crash.
//!
//! They are Raft's: of one term a member votes once, only for somebody who has at least what it has itself, and whoever has the
//! votes of most leads that term. A write is acknowledged when most members have it on their disks, and a member that votes first cuts
//! what streams in from the old leader; so whoever is elected has every acknowledged write, and the old leader gets no further one
//! acknowledged. No clock decides; times decide only when somebody tries.

use std::{cmp::Ordering, fs, io::Write as _, path::Path};

use serde::{Deserialize, Serialize};

/// How far a member's data goes: the term whose leader wrote it last, and the number of writes. What has the same is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    pub term: u64,
    pub writes: u64,
}

/// What a member has promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub version: u32,
    /// The highest term heard of.
    pub term: u64,
    /// Whom it voted for in it.
    pub voted: Option<String>,
}

/// Somebody asks for a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub term: u64,
    pub candidate: String,
    pub position: Position,
    /// It only asks whether it would be given; nothing is promised.
    pub trial: bool,
}

impl Ballot {
    /// Whether the vote is given, and the ballot after. `own` is how far the voter's data goes, `led`: it hears a leader now.
    pub fn on(&self, request: &Request, own: Position, led: bool) -> (bool, Self) {
        let mut after = self.clone();
        if led || request.term < self.term {
            return (false, after);
        }
        if request.trial {
            return (request.position >= own, after);
        }
        if request.term.cmp(&self.term) == Ordering::Greater {
            after.term = request.term;
            after.voted = None;
        }
        let free = after.voted.as_ref().is_none_or(|voted| *voted == request.candidate);
        let given = free && request.position >= own;
        if given {
            after.voted = Some(request.candidate.clone());
        }
        (given, after)
    }

    /// Reads the ballot; one that is not there is a new member's.
    ///
    /// # Errors
    /// It cannot be read: without it a member might vote twice.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(std::io::Error::other),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self { version: 1, ..Self::default() }),
            Err(e) => Err(e),
        }
    }

    /// Writes it down, on the disk when this returns.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let part = path.with_extension("part");
        let mut file = fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Most of so many.
pub(crate) fn most(members: usize) -> usize {
    members / 2 + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(term: u64, candidate: &str, writes: u64) -> Request {
        Request { term, candidate: candidate.into(), position: Position { term: 1, writes }, trial: false }
    }

    #[test]
    fn a_member_votes_once_a_term_and_for_nobody_who_lacks_what_it_has() {
        let own = Position { term: 1, writes: 5 };
        let (given, ballot) = Ballot::default().on(&ask(2, "a", 5), own, false);
        assert!(given && ballot.term == 2);
        assert!(!ballot.on(&ask(2, "b", 9), own, false).0, "twice in a term");
        assert!(ballot.on(&ask(2, "a", 5), own, false).0, "the same again");
        assert!(!ballot.on(&ask(3, "b", 4), own, false).0, "it lacks a write");
        assert!(!ballot.on(&ask(1, "b", 9), own, false).0, "an older term");
        assert!(!ballot.on(&ask(3, "b", 9), own, true).0, "there is a leader");
    }

    #[test]
    fn a_ballot_survives_and_a_trial_promises_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ballot.json");
        let (_, ballot) = Ballot::open(&path).unwrap().on(&ask(7, "a", 1), Position::default(), false);
        ballot.save(&path).unwrap();
        assert_eq!(Ballot::open(&path).unwrap(), ballot);
        let trial = Request { trial: true, ..ask(9, "b", 1) };
        assert_eq!(ballot.on(&trial, Position::default(), false), (true, ballot));
        fs::write(&path, "not a ballot").unwrap();
        assert!(Ballot::open(&path).is_err(), "a broken ballot is not an empty one");
    }

    proptest! {
        /// Members that crash, votes that are lost and candidates in any order: of each term one leads at most, and whoever leads has
        /// every write that was acknowledged before.
        #[test]
        fn of_each_term_one_leads_and_has_all_that_was_acknowledged(acts in proptest::collection::vec((0usize..3, 0u8..8, 0u8..4), 1..200)) {
            let mut ballots = vec![Ballot::default(); 3];
            let mut data = [Position::default(); 3];
            let mut following: Vec<Option<(usize, u64)>> = vec![None; 3];
            let mut leads: std::collections::BTreeMap<u64, usize> = std::collections::BTreeMap::new();
            let mut acknowledged = Position::default();
            for (who, reach, kind) in acts {
                if kind == 0 {
                    // Who stands for election cuts its own stream and reaches some of the others.
                    following[who] = None;
                    let term = ballots[who].term + 1;
                    let request = Request { term, candidate: who.to_string(), position: data[who], trial: false };
                    let mut votes = 0;
                    for voter in 0..3 {
                        if voter != who && reach & (1 << voter) == 0 { continue }
                        if ballots[voter].term < term { following[voter] = None }
                        let (given, after) = ballots[voter].on(&request, data[voter], false);
                        ballots[voter] = after;
                        votes += usize::from(given);
                    }
                    if votes >= most(3) {
                        prop_assert!(leads.insert(term, who).is_none(), "two lead one term");
                        prop_assert!(data[who] >= acknowledged, "{:?} lacks {:?}", data[who], acknowledged);
                        data[who].term = term;
                    }
                } else {
                    // The last leader that this member knows itself to be writes; those that still follow it get it.
                    let Some((&term, _)) = leads.iter().rev().find(|(_, l)| **l == who) else { continue };
                    if data[who].term != term { continue }
                    for other in 0..3 {
                        if other != who && reach & (1 << other) != 0 && ballots[other].term <= term {
                            ballots[other].term = term;
                            following[other] = Some((who, term));
                        }
                    }
                    data[who].writes += 1;
                    let mut have = 1;
                    for other in 0..3 {
                        if other != who && reach & (1 << other) != 0 && following[other] == Some((who, term)) {
                            data[other] = data[who];
                            have += 1;
                        }
                    }
                    if have >= most(3) { acknowledged = acknowledged.max(data[who]) }
                }
            }
        }
    }
}
