//! Plans: from nothing, from what runs, and for every stamp of every system of this repository.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;

use model::{
    Manifest, System,
    plan::{self, Observed, Seen},
};

const SYSTEMS: [&str; 6] = ["time-tracker", "donatello", "monozu", "meg-qms", "clinical-mdr", "witness"];

fn manifest(system: &str) -> Manifest {
    let path = format!("{}/../../systems/{system}/system.toml", env!("CARGO_MANIFEST_DIR"));
    Manifest::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn time_tracker(stamp: &str) -> System {
    manifest("time-tracker").resolve(stamp).unwrap()
}

fn lines(plan: &plan::Plan) -> String {
    plan.steps.iter().map(|s| format!("{}  <- {}\n", s.id, s.needs.join(", "))).collect()
}

#[test]
fn every_stamp_of_every_system_has_a_plan_whose_steps_stand_on_earlier_ones() {
    for system in SYSTEMS {
        let manifest = manifest(system);
        let stamps: Vec<String> = manifest.stamps().map(str::to_owned).collect();
        assert!(!stamps.is_empty());
        for stamp in stamps {
            let system = manifest.resolve(&stamp).unwrap();
            let plan = plan::up(&system, &Observed::default());
            assert!(plan.is_ordered(), "{}/{stamp}:\n{}", system.name, lines(&plan));
            assert_eq!(plan, plan::up(&system, &Observed::default()), "the same twice");
        }
    }
}

#[test]
fn the_time_tracker_from_nothing() {
    insta::assert_snapshot!(lines(&plan::up(&time_tracker("dev"), &Observed::default())));
}

#[test]
fn what_runs_is_awaited_and_what_changed_is_replaced() {
    let system = time_tracker("dev");
    let mut workloads: BTreeMap<String, Seen> =
        system.resources.iter().flat_map(|(id, r)| plan::workloads(id, r)).map(|w| (w, Seen::Same)).collect();
    workloads.insert("service.web".into(), Seen::Changed);
    workloads.insert("edge".into(), Seen::Reload);
    workloads.insert("service.gone".into(), Seen::Changed);
    let migrated = system.services().map(|(id, _)| id.clone()).collect();
    let plan = plan::up(&system, &Observed { workloads, migrated, first_person: true, leads: BTreeMap::new() });
    assert!(plan.is_ordered());
    insta::assert_snapshot!(lines(&plan));
}

#[test]
fn prod_runs_two_copies_and_dev_one() {
    let copies = |stamp: &str| {
        let plan = plan::up(&time_tracker(stamp), &Observed::default());
        plan.steps.iter().filter(|s| s.id.starts_with("start service.web")).count()
    };
    assert_eq!((copies("dev"), copies("prod")), (1, 2));
}

#[test]
fn down_ends_the_entry_first_and_the_record_last() {
    let all = ["audit.main", "edge", "postgres.main", "service.web", "service.web+2", "vault.main"].map(str::to_owned);
    assert_eq!(plan::down(all), ["edge", "service.web", "service.web+2", "postgres.main", "vault.main", "audit.main"]);
}
