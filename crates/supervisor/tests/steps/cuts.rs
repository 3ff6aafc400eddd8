//! More than ten thousand deaths of a supervisor. A seed is a story: lives, each killed at some journal write, driver call or
//! call of a role, each with another wish, with workloads that crash in between; and at the end one that is let live.
//!
//! `STAMP_SEED=N` tells one story again, `STAMP_LONG=1` ten times as many. A seed fixes the story and the points; which
//! of the steps that run side by side comes first is the machine's.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use api::supervisor::Event;
use supervisor::Home;

use super::{
    check::{self, Promise},
    story::{End, VARIANTS, Wish, again, live, manifest, workloads},
    world::{World, scratch},
};

const STORIES: u64 = 800;
const DEATHS: u64 = 10_000;
/// More than a first `up` has; a later point is a death that does not come.
const POINTS: u64 = 110;

/// SplitMix64: a story of its own for every seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn wish(&mut self) -> Wish {
        match self.roll(20) {
            0 | 1 => Wish::Down,
            2 | 3 => Wish::Destroy,
            4 | 5 => Wish::Rest,
            _ => Wish::Up(self.roll(VARIANTS as u64) as usize),
        }
    }
}

/// What a story was, for whoever must understand its failure.
#[derive(Default)]
struct Tale {
    lines: Vec<String>,
    deaths: u64,
}

fn story(root: &Path, seed: u64, tale: &mut Tale) -> Result<(), String> {
    let mut dice = Dice(seed);
    let world = emptied(root);
    let mut promise: Option<Promise> = None;
    let mut wanted = None;
    for _ in 0..14 + dice.roll(10) {
        let wish = dice.wish();
        // What goes on where another was cut is short: most die early.
        let points = [POINTS, 12, 30][dice.roll(3) as usize];
        let (kill_at, quick) = (1 + dice.roll(points), dice.roll(3) == 0);
        let end = live(&world, Some(kill_at), quick, wish);
        let points = world.points();
        tale.lines.push(format!("{wish:?} quick={quick} kill_at={kill_at} last={:?} -> {end:?}", points.last()));
        match (wish, &end) {
            (Wish::Up(variant), _) => wanted = Some(variant),
            // Whether it was written down before the death is open.
            (Wish::Down | Wish::Destroy, End::Killed) => (promise, wanted) = (None, None),
            _ => {}
        }
        match end {
            End::Killed => tale.deaths += 1,
            End::Nothing => {}
            End::Told(Event::Ready(told)) => {
                // A rest may end what an `up` began that was killed before it was written down.
                let variants = wanted.map_or(0..VARIANTS, |v| if wish == Wish::Rest { 0..VARIANTS } else { v..v + 1 });
                let mut whys = Vec::new();
                let kept = variants.map(|v| check::ready(&world, &told, &workloads(v), promise.as_ref()));
                let kept = kept.filter_map(|k| k.map_err(|why| whys.push(why)).ok()).next();
                promise = Some(kept.ok_or_else(|| whys.join("; "))?);
            }
            End::Told(Event::Stopped { .. }) => check::down(&world)?,
            End::Told(Event::Destroyed { .. }) => {
                check::gone(&world)?;
                (promise, wanted) = (None, None);
            }
            End::Told(other) => return Err(format!("{wish:?} ended with {other:?}")),
        }
        if dice.roll(5) == 0 {
            let runs = world.fake.running();
            if !runs.is_empty() {
                let (mark, id) = &runs[dice.roll(runs.len() as u64) as usize];
                tale.lines.push(format!("crash of {mark}"));
                world.fake.exit(*id);
            }
        }
    }

    // Now one that is let live: everything converges.
    let variant = dice.roll(VARIANTS as u64) as usize;
    let end = live(&world, None, dice.roll(3) == 0, Wish::Up(variant));
    tale.lines.push(format!("the last up, {variant} -> {end:?}"));
    let End::Told(event) = end else { return Err(format!("the last up: {end:?}")) };
    let told = check::good(Some(event))?;
    let kept = check::ready(&world, &told, &workloads(variant), promise.as_ref())?;
    let before = world.fake.running();
    let (steps, event) = again(&world, manifest(variant), true, false);
    check::ready(&world, &check::good(Some(event))?, &workloads(variant), Some(&kept))?;
    let idle = |step: &String| ["prepare", "await ", "secrets ", "open "].iter().any(|verb| step.starts_with(verb));
    if let Some(step) = steps.iter().find(|s| !idle(s)) {
        return Err(format!("a second up of what is up wants to {step}"));
    }
    if world.fake.running() != before {
        return Err("a second up of what is up started something".into());
    }
    match live(&world, None, false, Wish::Destroy) {
        End::Told(Event::Destroyed { .. }) => check::gone(&world),
        other => Err(format!("the destroy at the end: {other:?}")),
    }
}

/// A machine with nothing on it, in place of the one that was there.
fn emptied(root: &Path) -> Arc<World> {
    let _ = std::fs::remove_dir_all(Home::at(root.to_owned()).sockets());
    match std::fs::remove_dir_all(root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{e}"),
        _ => World::new(root),
    }
}

/// A root for each thread, such that their stamps are led to different addresses (they do not look for one another).
fn roots(below: &Path, count: usize) -> Vec<PathBuf> {
    let mut blocks = BTreeMap::new();
    for name in 0.. {
        if blocks.len() == count {
            break;
        }
        let root = below.join(format!("{name}"));
        let world = emptied(&root);
        let End::Told(Event::Ready(told)) = live(&world, None, true, Wish::Up(0)) else { panic!("a first up failed") };
        let promise = check::ready(&world, &told, &workloads(0), None).unwrap();
        let _ = live(&world, None, true, Wish::Destroy);
        blocks.insert(promise.block, root);
    }
    blocks.into_values().collect()
}

/// Tells a story; a panic in it is a failure of this seed.
fn told(root: &Path, seed: u64) -> Result<u64, String> {
    let mut tale = Tale::default();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(root, seed, &mut tale)))
        .unwrap_or_else(|_| Err("a panic, above".into()));
    ended
        .map(|()| tale.deaths)
        .map_err(|why| format!("seed {seed} (STAMP_SEED={seed} tells it again): {why}\n  {}", tale.lines.join("\n  ")))
}

#[test]
fn a_supervisor_that_is_killed_anywhere_loses_nothing_that_was_acknowledged() {
    let one: Option<u64> = std::env::var("STAMP_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..STORIES * if std::env::var_os("STAMP_LONG").is_some() { 10 } else { 1 },
    };
    let (next, deaths) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let started = Instant::now();
    let folder = scratch();
    let threads = std::thread::available_parallelism().map_or(2, usize::from) * 2;
    let roots = roots(folder.path(), threads);
    std::thread::scope(|scope| {
        for root in &roots {
            let (next, deaths, failures) = (&next, &deaths, &failures);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failures.lock().unwrap().len() >= 3 {
                        return;
                    }
                    match told(root, seed) {
                        Ok(died) => drop(deaths.fetch_add(died, Ordering::Relaxed)),
                        Err(why) => failures.lock().unwrap().push(why),
                    }
                }
            });
        }
    });
    let deaths = deaths.into_inner();
    eprintln!("{} stories, {deaths} deaths, {:.1} s", seeds.end - seeds.start, started.elapsed().as_secs_f64());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(one.is_some() || deaths >= DEATHS, "only {deaths} deaths: the stories are too few");
}
