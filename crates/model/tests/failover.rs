//! Changes of who leads, driven by a seed: members die, pause and wake, keepers and supervisors are killed at any step, looks
//! go unanswered. At no time can two take writes, and nothing that was acknowledged is lost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use model::failover::{Lead, Order, Saga, Sight, Step, next};

/// A small generator: the same seed, the same story.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    None,
    Primary,
    Standby,
}

#[derive(Clone, Debug)]
struct Member {
    /// The file beside it, and the newest term its keeper ever heard.
    word: Lead,
    heard: u64,
    server: Server,
    keeper: bool,
    /// Its shim starts a keeper that ended; only the supervisor starts a shim.
    shim: bool,
    /// Every process of it is stopped; it goes on as if nothing had been when it wakes.
    paused: bool,
    /// It does not answer the supervisor.
    cut_off: bool,
    has: u64,
    /// The record beside its data.
    safe_with_other: bool,
    /// The data follows: PostgreSQL takes no write with it.
    follows: bool,
}

type Decide = fn(&Saga, &Sight) -> Order;

#[derive(Debug)]
struct World {
    decide: Decide,
    members: [Member; 2],
    journal: Lead,
    saga: Option<Saga>,
    supervisor: bool,
    /// In the supervisor's memory.
    killed: bool,
    told: bool,
    suspicion: u32,
    acknowledged: u64,
    promotions: u32,
    /// Nobody asks for a change any more.
    calm: bool,
    story: Vec<String>,
}

fn name(index: usize) -> String {
    ["a", "b"][index].into()
}

fn index(name: &str) -> usize {
    usize::from(name == "b")
}

impl World {
    fn new(decide: Decide) -> Self {
        let word = Lead { term: 1, primary: name(0) };
        let member = Member {
            word: word.clone(),
            heard: 1,
            server: Server::Standby,
            keeper: true,
            shim: true,
            paused: false,
            cut_off: false,
            has: 0,
            safe_with_other: false,
            follows: true,
        };
        let first = Member { server: Server::Primary, follows: false, ..member.clone() };
        Self {
            decide,
            members: [first, member],
            journal: word,
            saga: None,
            supervisor: true,
            killed: false,
            told: false,
            suspicion: 0,
            acknowledged: 0,
            promotions: 0,
            calm: false,
            story: Vec::new(),
        }
    }

    fn primaries(&self) -> usize {
        self.members.iter().filter(|m| m.server == Server::Primary).count()
    }

    /// A member's keeper does what its word says.
    fn keeper_acts(&mut self, at: usize) {
        let other = self.members[1 - at].clone();
        let member = &mut self.members[at];
        if !member.keeper || member.paused {
            return;
        }
        if member.word.term < member.heard {
            member.server = Server::None;
            return;
        }
        member.heard = member.word.term;
        let leads = member.word.primary == name(at);
        match (leads, member.server) {
            (false, Server::Primary) => {
                member.server = Server::None;
                member.follows = true;
            }
            // Rewound or copied: what the other does not have is gone.
            (false, Server::None) if other.server == Server::Primary && !other.paused => {
                (member.server, member.follows, member.has) = (Server::Standby, true, other.has);
            }
            (true, Server::None) if !member.follows => member.server = Server::Primary,
            (true, Server::None) => member.server = Server::Standby,
            (true, Server::Standby) => {
                // The record is struck out before the promotion.
                member.safe_with_other = false;
                (member.server, member.follows) = (Server::Primary, false);
                self.promotions += 1;
            }
            _ => {}
        }
    }

    /// A client writes, and is told that it is safe if it is.
    fn write(&mut self) {
        let Some(at) = (0..2).find(|i| self.members[*i].server == Server::Primary && !self.members[*i].paused) else {
            return;
        };
        self.members[at].has += 1;
        let has = self.members[at].has;
        let other = &mut self.members[1 - at];
        let streams = other.server == Server::Standby && !other.paused && other.has + 1 >= has;
        if streams {
            other.has = has;
        }
        if streams || !self.members[at].safe_with_other {
            self.acknowledged = self.acknowledged.max(has);
        }
    }

    /// The primary's keeper lets a lost standby go, or takes a near one in.
    fn waits(&mut self) {
        for at in 0..2 {
            let (other, member) = (self.members[1 - at].clone(), &self.members[at]);
            if member.server != Server::Primary || member.paused || !member.keeper {
                continue;
            }
            let streams = other.server == Server::Standby && !other.paused && other.word.primary == name(at);
            if streams {
                self.members[1 - at].has = self.members[at].has;
            }
            self.members[at].safe_with_other = streams;
            if streams {
                self.acknowledged = self.acknowledged.max(self.members[at].has);
            }
        }
    }

    fn answers(&self, at: usize) -> bool {
        let m = &self.members[at];
        m.keeper && !m.paused && !m.cut_off
    }

    /// One act of the supervisor.
    fn supervise(&mut self, dice: &mut Dice) {
        if !self.supervisor {
            return;
        }
        let Some(mut saga) = self.saga.clone() else { return self.watch(dice) };
        let (from, to) = (index(&saga.from), index(&saga.to));
        let old = &self.members[from];
        let stepped_down = self.answers(from) && old.server != Server::Primary && old.heard >= saga.term && old.follows;
        let new = &self.members[to];
        let leads = self.answers(to) && new.server == Server::Primary && new.heard == saga.term;
        let seen = Sight {
            old_is_fenced: self.killed || (saga.planned && stepped_down),
            old_is_late: dice.one_in(8),
            new_has_all: old.safe_with_other,
            new_leads: leads,
            new_is_settled: leads,
            pointed: true,
            others_told: self.told,
        };
        let word = Lead { term: saga.term, primary: saga.to.clone() };
        let order = (self.decide)(&saga, &seen);
        self.story.push(format!("{:?}: {order:?}", saga.step));
        match order {
            Order::AskToStepDown => {
                self.members[from].word = word;
                if self.answers(from) {
                    self.keeper_acts(from);
                }
            }
            Order::Kill => {
                let old = &mut self.members[from];
                old.word = word;
                (old.server, old.keeper, old.shim, old.paused) = (Server::None, false, false, false);
                self.killed = true;
            }
            Order::Write(step) => {
                saga.step = step;
                self.saga = Some(saga);
            }
            Order::Call => {
                self.journal = word.clone();
                if dice.one_in(4) {
                    // Killed between the two.
                    self.end_supervisor();
                    return;
                }
                let new = &mut self.members[to];
                new.word = word;
                if !new.shim {
                    (new.shim, new.keeper) = (true, true);
                }
                if self.answers(to) {
                    self.keeper_acts(to);
                }
            }
            Order::TellOthers => {
                let old = &mut self.members[from];
                old.word = self.journal.clone();
                if !old.shim {
                    (old.shim, old.keeper) = (true, true);
                }
                self.told = true;
            }
            Order::Abandon => {
                self.journal = Lead { term: saga.term + 1, primary: saga.from.clone() };
                let old = &mut self.members[from];
                old.word = self.journal.clone();
                (old.shim, old.keeper) = (true, true);
                self.finish();
            }
            Order::Over => self.finish(),
            Order::Point => {}
        }
    }

    fn finish(&mut self) {
        (self.saga, self.killed, self.told, self.suspicion) = (None, false, false, 0);
    }

    /// No change is under way: looks, mends, and begins one.
    fn watch(&mut self, dice: &mut Dice) {
        let at = index(&self.journal.primary);
        let to = 1 - at;
        for member in 0..2 {
            // A newer word is handed to whoever is placed; a shim that is gone is placed again, but not a primary that
            // somebody else may replace, for a while.
            if !self.members[member].shim && (member != at || dice.one_in(3)) {
                self.members[member].word = self.journal.clone();
                (self.members[member].shim, self.members[member].keeper) = (true, true);
            }
        }
        let serves = self.answers(at) && self.members[at].server == Server::Primary;
        let gone = self.members[at].server == Server::None;
        self.suspicion = if serves { 0 } else { self.suspicion + 1 };
        let planned = serves && !self.calm && dice.one_in(30);
        let dead = gone || self.suspicion > 5;
        let ready = self.answers(to) && self.members[to].server == Server::Standby;
        if (planned || dead) && ready && self.members[at].safe_with_other {
            self.story.push(format!("begin {} -> {}", name(at), name(to)));
            self.saga = Some(Saga {
                term: self.journal.term + 1,
                from: name(at),
                to: name(to),
                planned,
                accept_loss: false,
                step: Step::Fence,
                why: String::new(),
                last_served_ms: 0,
            });
        }
    }

    fn end_supervisor(&mut self) {
        self.supervisor = false;
        (self.killed, self.told, self.suspicion) = (false, false, 0);
    }

    fn event(&mut self, dice: &mut Dice) {
        let at = dice.below(2) as usize;
        match dice.below(100) {
            0..=29 => self.write(),
            30..=54 => self.supervise(dice),
            55..=69 => self.keeper_acts(at),
            70..=79 => self.waits(),
            80..=82 => self.members[at].paused = self.members[at].server != Server::None,
            83..=86 => self.members[at].paused = false,
            87..=88 => self.members[at].cut_off = true,
            89..=91 => self.members[at].cut_off = false,
            92 => self.members[at].server = Server::None,
            93 => self.members[at].keeper = false,
            94..=95 => {
                let member = &mut self.members[at];
                if member.shim && !member.paused {
                    member.keeper = true;
                }
            }
            96 => {
                let member = &mut self.members[at];
                (member.server, member.keeper, member.shim, member.paused) = (Server::None, false, false, false);
            }
            97 => self.end_supervisor(),
            _ => self.supervisor = true,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.primaries() > 1 {
            return Err("two take writes".into());
        }
        for member in self.members.iter().filter(|m| m.server == Server::Primary) {
            if member.has < self.acknowledged {
                return Err(format!("{} were acknowledged, the primary has {}", self.acknowledged, member.has));
            }
        }
        Ok(())
    }
}

/// One story; how often another member came to lead, or what must never be and was.
fn play(seed: u64, decide: Decide) -> Result<u32, String> {
    let mut dice = Dice(seed);
    let mut world = World::new(decide);
    for turn in 0..400 {
        world.event(&mut dice);
        world.check().map_err(|why| format!("seed {seed}, turn {turn}: {why}\n{world:#?}"))?;
    }
    // Everything is well from now on: somebody leads in the end, and takes writes.
    (world.supervisor, world.calm) = (true, true);
    for member in &mut world.members {
        (member.paused, member.cut_off) = (false, false);
        member.keeper |= member.shim;
    }
    for _ in 0..400 {
        world.supervise(&mut dice);
        world.supervisor = true;
        for at in 0..2 {
            world.members[at].keeper |= world.members[at].shim;
            world.keeper_acts(at);
        }
        world.waits();
        world.check().map_err(|why| format!("seed {seed}, at the end: {why}\n{world:#?}"))?;
    }
    let before = world.acknowledged;
    world.write();
    if world.acknowledged > before {
        Ok(world.promotions)
    } else {
        Err(format!("seed {seed}: nobody takes writes\n{world:#?}"))
    }
}

#[test]
fn never_two_primaries_and_nothing_acknowledged_is_lost() {
    let promotions: u32 = (0..10_000).map(|seed| play(seed, next).unwrap_or_else(|why| panic!("{why}"))).sum();
    assert!(promotions > 5_000, "the stories change who leads: {promotions} times");
}

/// The stories can tell: a decision that does not wait for the fence, or that promotes whoever is there, is found out.
#[test]
fn a_decision_that_skips_the_fence_or_the_record_is_found_out() {
    let hasty: Decide = |saga, seen| next(saga, &Sight { old_is_fenced: true, ..*seen });
    let careless: Decide = |saga, seen| next(saga, &Sight { new_has_all: true, ..*seen });
    let two = (0..10_000).find_map(|seed| play(seed, hasty).err()).unwrap();
    assert!(two.contains("two take writes"), "{two}");
    let lost = (0..10_000).find_map(|seed| play(seed, careless).err()).unwrap();
    assert!(lost.contains("were acknowledged"), "{lost}");
}
