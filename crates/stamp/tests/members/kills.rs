//! Kill points on real engines: a seeded story of verbs, each cut by `kill -9` of a part while a client writes. After every
//! one the database has one primary and a standby that has everything, and no write that was acknowledged is missing.
//!
//! Twenty in the normal suite, three hundred with `STAMP_LONG=1`; `STAMP_SEED=N` tells another story. A seed fixes the verbs,
//! the victims and after how many acknowledged writes they die; which instruction that meets is the machine's choice.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use testkit::{As, Stage, wait_until};

use super::{begin, folder, pair, processes, signal, synchronous};

const NORMAL: usize = 20;
const LONG: usize = 300;
/// No client sees its writes stand still for longer, whoever is killed: the standby's `lost_after`, a failover, a reconnect.
const BOUND: Duration = Duration::from_secs(30);

/// What is under way when the kill comes.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Nothing,
    Switchover,
    Backup,
    /// `up` with another setting, which starts the database anew.
    Up,
}

/// Who dies.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Supervisor,
    Vault,
    /// The primary: all its processes at once, as a machine dies.
    Primary,
    Standby,
    /// One process of the primary: shim, keeper, postmaster or one of its children.
    OfPrimary(usize),
    OfStandby(usize),
    SupervisorAndPrimary,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn verb(&mut self) -> Verb {
        [Verb::Nothing, Verb::Switchover, Verb::Backup, Verb::Up][self.roll(4)]
    }

    fn victim(&mut self) -> Victim {
        let which = self.roll(64);
        match self.roll(7) {
            0 => Victim::Supervisor,
            1 => Victim::Vault,
            2 => Victim::Primary,
            3 => Victim::Standby,
            4 => Victim::OfPrimary(which),
            5 => Victim::OfStandby(which),
            _ => Victim::SupervisorAndPrimary,
        }
    }
}

fn begun(stage: &Stage, verb: Verb, round: usize) -> Option<Child> {
    let path = folder(stage);
    let arguments: &[&str] = match verb {
        Verb::Nothing => return None,
        Verb::Switchover => &["switchover", "pair"],
        Verb::Backup => &["backup", "pair"],
        Verb::Up => {
            let manifest = std::fs::read_to_string(path.join("system.toml")).unwrap();
            let setting = format!("settings = {{ autovacuum_naptime = \"{}s\" }} # of this round", 30 + round);
            let kept = manifest.lines().filter(|line| !line.ends_with("# of this round"));
            let lines: Vec<&str> = kept
                .flat_map(|line| [line].into_iter().chain((line == "[postgres.main]").then_some(setting.as_str())))
                .collect();
            std::fs::write(path.join("system.toml"), lines.join("\n")).unwrap();
            &["up", path.to_str().unwrap()]
        }
    };
    Some(stage.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn victims(stage: &Stage, victim: Victim, primary: &str) -> Vec<u32> {
    let standby = if primary == "postgres.main" { "postgres.main+2" } else { "postgres.main" };
    let supervisor = || stage.supervisor().into_iter();
    let one = |name: &str, which: usize| {
        let pids = processes(stage, name);
        pids.get(which % pids.len().max(1)).copied().into_iter().collect()
    };
    match victim {
        Victim::Supervisor => supervisor().collect(),
        Victim::Vault => processes(stage, "vault.main"),
        Victim::Primary => processes(stage, primary),
        Victim::Standby => processes(stage, standby),
        Victim::OfPrimary(which) => one(primary, which),
        Victim::OfStandby(which) => one(standby, which),
        Victim::SupervisorAndPrimary => processes(stage, primary).into_iter().chain(supervisor()).collect(),
    }
}

#[test]
fn whoever_is_killed_while_anything_is_done_no_acknowledged_write_is_lost() {
    let Some(stage) = pair(As::Caller) else { return };
    let seed: u64 = std::env::var("STAMP_SEED").ok().map_or(1, |seed| seed.parse().unwrap());
    let rounds = if std::env::var_os("STAMP_LONG").is_some() { LONG } else { NORMAL };
    let mut dice = Dice(seed);
    let (door, ledger) = begin(&stage);
    let (mut told, mut killed) = (Vec::new(), 0);
    for round in 0..rounds {
        let (verb, victim, after) = (dice.verb(), dice.victim(), dice.roll(60));
        let primary = synchronous(&stage);
        // Whom it would be is looked up before: the look takes longer than the verb.
        let pids = victims(&stage, victim, &primary);
        let child = begun(&stage, verb, round);
        told.push(format!("{round}: {verb:?}, {victim:?} of {primary} after {after} writes"));
        ledger.more(after);
        signal(&pids, Signal::KILL);
        killed += pids.len();
        if let Some(mut child) = child {
            wait_until("the command ends", Duration::from_secs(90), || match child.try_wait() {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}; {}", told.join("; "))),
            });
        }
        let leads = synchronous(&stage);
        ledger.more(10);
        let lost = ledger.missing(&door);
        assert_eq!(lost, Vec::<i64>::new(), "lost, {leads} leads; seed {seed}: {}", told.join("; "));
    }
    let gap = ledger.longest_gap();
    let (acknowledged, lost) = ledger.end(&door);
    eprintln!("{rounds} kill points, {killed} processes killed, {acknowledged} acknowledged, longest gap {gap:?}");
    assert_eq!(lost, Vec::<i64>::new(), "seed {seed}: {}", told.join("; "));
    assert!(gap < BOUND, "{gap:?}; seed {seed}: {}", told.join("; "));
}
