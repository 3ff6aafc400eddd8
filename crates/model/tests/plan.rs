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

#[test]
fn a_migration_after_the_deployment_stands_between_the_service_and_those_who_wait_for_it() {
    let text = r#"
stamp = 1
system = "shop"
[stamps.dev]
[edge]
routes = [{ path = "/", to = "service.web" }]
[service.web]
run = ["web"]
port = 8080
needs = ["postgres.main", "identity.main"]
[service.web.migrate]
run = ["web", "migrate"]
when = "after"
[postgres.main]
version = 16
databases = ["one", "two"]
access = [
  { to = "service.web", right = "read-write", database = "two", sign_in = "identity" },
  { to = "service.web.migrate", right = "owner", database = "two", sign_in = "identity" },
]
[identity.main]
"#;
    let system = Manifest::parse(text).unwrap().resolve("dev").unwrap();
    let plan = plan::up(&system, &Observed::default());
    let needs = |id: &str| plan.steps.iter().find(|s| s.id == id).unwrap().needs.clone();
    assert_eq!(needs("roles postgres.main"), ["start postgres.main"], "the roles need no vault");
    assert!(needs("start service.web").contains(&"roles postgres.main".to_owned()));
    assert_eq!(needs("migrate service.web"), ["start service.web"]);
    assert!(needs("start edge").contains(&"migrate service.web".to_owned()), "nobody comes in before it");
    // Once it has run for this version it is not run again, and the roles are looked at each time.
    let migrated = system.services().map(|(id, _)| id.clone()).collect();
    let again = plan::up(&system, &Observed { migrated, ..Observed::default() });
    assert!(again.steps.iter().all(|s| s.id != "migrate service.web"));
    assert!(again.steps.iter().any(|s| s.id == "roles postgres.main"));
}

#[test]
fn whoever_signs_in_by_identity_must_have_one_and_do_so_everywhere() {
    let with = |access: &str, rest: &str| {
        let text = format!(
            "stamp = 1\nsystem = \"shop\"\n[stamps.dev]\n[service.web]\nrun = [\"web\"]\n[postgres.main]\nversion = 16\n\
             databases = [\"one\", \"two\"]\naccess = [{access}]\n{rest}"
        );
        let faults = Manifest::parse(&text).and_then(|manifest| manifest.resolve("dev").map(drop)).unwrap_err();
        faults.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>().join("; ")
    };
    let one = "{ to = \"service.web\", right = \"read-only\", sign_in = \"identity\" }";
    assert!(with(one, "").contains("and the stamp has none"));
    let two = "{ to = \"service.web\", right = \"read-only\", database = \"two\" }";
    let said = with(&format!("{one}, {two}"), "[identity.main]");
    assert!(said.contains("by identity in one of `one` and `two`"), "{said}");
    let group = "{ to = \"group:staff\", right = \"read-only\", sign_in = \"identity\" }";
    let said = with(group, "[identity.main]\ngroups = [\"staff\"]");
    assert!(said.contains("it is no workload"), "{said}");
}
