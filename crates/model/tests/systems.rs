//! The manifests of the systems, which are what the format was made for.
#![allow(clippy::unwrap_used)] // its allowance in tests does not reach their helpers

use std::path::{Path, PathBuf};

use model::{Kind, Manifest, Resource, ResourceId, System, render_all};

fn manifests() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systems");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("system.toml"))
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    found.sort();
    found
}

fn read(path: &Path, text: &str) -> Manifest {
    Manifest::parse(text)
        .unwrap_or_else(|faults| panic!("\n{}", render_all(&faults, &path.display().to_string(), text, false)))
}

fn time_tracker(stamp: &str) -> System {
    let (path, text) =
        manifests().into_iter().find(|(path, _)| path.parent().unwrap().ends_with("time-tracker")).unwrap();
    read(&path, &text).resolve(stamp).unwrap()
}

#[test]
fn every_system_resolves_for_each_of_its_stamps() {
    let all = manifests();
    assert!(all.len() >= 6, "five systems and the witness, not {}", all.len());
    for (path, text) in all {
        let manifest = read(&path, &text);
        assert_eq!(Some(manifest.name()), path.parent().unwrap().file_name().unwrap().to_str());
        for stamp in manifest.stamps() {
            let system = manifest.resolve(stamp).unwrap();
            assert_eq!(system.stamp, stamp);
            assert_eq!(system.order.len(), system.resources.len());
        }
    }
}

#[test]
fn a_person_reads_each_manifest_in_a_minute() {
    for (path, text) in manifests() {
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 170, "{}: {lines} lines that are not blank", path.display());
    }
}

#[test]
fn the_order_of_starting_puts_each_resource_after_what_it_needs() {
    for (path, text) in manifests() {
        let manifest = read(&path, &text);
        for stamp in manifest.stamps() {
            let system = manifest.resolve(stamp).unwrap();
            let place = |id: &ResourceId| system.order.iter().position(|o| o == id).unwrap();
            for id in &system.order {
                for need in system.needs(id) {
                    assert!(place(&need) < place(id), "{stamp}: {need} before {id}");
                }
            }
        }
    }
}

#[test]
fn a_vault_comes_after_what_fills_it_even_if_its_first_reader_does_not_need_that() {
    let text = r#"
        stamp = 1
        system = "shop"
        [stamps.dev]
        [service.a]
        run = ["a"]
        env = { KEY = "@Microsoft.KeyVault(VaultName=left;SecretName=Key)" }
        [service.b]
        run = ["b"]
        needs = ["postgres.main"]
        [postgres.main]
        version = 16
        access = [{ to = "service.b", right = "read-only" }]
        [vault.left]
        access = [{ to = "service.a", role = "Key Vault Secrets User", secrets = ["Key"] }]
        [vault.left.secrets]
        Key = { generate = "32B" }
        Database = { from = "postgres.main", what = "connection-string", for = "service.b" }
        Theirs = { same = "vault.right/Key" }
        [vault.right.secrets]
        Key = { generate = "32B" }
        Mine = { same = "vault.left/Key" }
    "#;
    let system = read(Path::new("system.toml"), text).resolve("dev").unwrap();
    let order: Vec<String> = system.order.iter().map(ToString::to_string).collect();
    assert_eq!(order, ["identity.main", "postgres.main", "vault.right", "vault.left", "service.a", "service.b"]);
}

#[test]
fn overlays_merge_tables_and_replace_lists() {
    let (dev, prod) = (time_tracker("dev"), time_tracker("prod"));
    let web = |system: &System| system.services().next().unwrap().1.clone();
    assert_eq!((web(&dev).scale.min, web(&dev).scale.max), (1, 1));
    assert_eq!((web(&prod).scale.min, web(&prod).scale.max), (2, 10));
    assert_eq!(web(&dev).port, web(&prod).port, "what the overlay does not name stays");
    let access = |system: &System| system.vaults().next().unwrap().1.access.len();
    assert_eq!((access(&dev), access(&prod)), (3, 2), "the list is replaced as a whole");
    assert_eq!(prod.groups["all"].title, "rg-timetracker-prod");
}

#[test]
fn a_size_gives_the_limits_that_are_not_given() {
    let system = time_tracker("prod");
    let (_, web) = system.services().next().unwrap();
    assert_eq!(web.limits.cpu_millis, Some(2000));
    assert_eq!(web.limits.memory.unwrap().to_string(), "8GiB");
}

#[test]
fn a_scratch_stamp_is_like_its_kind_but_for_the_name() {
    let (path, text) =
        manifests().into_iter().find(|(path, _)| path.parent().unwrap().ends_with("time-tracker")).unwrap();
    let manifest = read(&path, &text);
    let scratch = manifest.resolve_as("prod", "prod-a1b2").unwrap();
    assert_eq!(scratch.stamp, "prod-a1b2");
    assert_eq!(scratch.tags["environment"], "prod-a1b2");
    assert_eq!(scratch.resources.keys().collect::<Vec<_>>(), time_tracker("prod").resources.keys().collect::<Vec<_>>());
    assert!(manifest.resolve("qa").unwrap_err()[0].message.contains("qa"));
    assert!(manifest.resolve_as("prod", "Prod!").is_err());
}

#[test]
fn what_this_version_does_not_carry_out_is_told() {
    let system = time_tracker("prod");
    assert!(system.unbuilt.contains(&"registry.main.on_push".to_owned()), "{:?}", system.unbuilt);
    assert!(!system.unbuilt.contains(&"postgres.main.high_availability".to_owned()), "{:?}", system.unbuilt);
    assert!(!time_tracker("dev").unbuilt.contains(&"postgres.main.high_availability".to_owned()));
    assert!(system.unbuilt.contains(&"objectives".to_owned()), "{:?}", system.unbuilt);
    for path in ["network", "service.web.subnet", "postgres.main.subnet"] {
        assert!(!system.unbuilt.contains(&path.to_owned()), "{path} is carried out");
    }
    assert!(ResourceId::new(Kind::Redis, "main").kind.is_provided());
}

#[test]
fn a_resolved_system_survives_json() {
    let system = time_tracker("prod");
    let text = serde_json::to_string(&system).unwrap();
    assert_eq!(serde_json::from_str::<System>(&text).unwrap(), system);
    assert!(
        matches!(system.get(&"postgres.main".parse().unwrap()), Some(Resource::Postgres(p)) if p.databases == ["time_tracker"])
    );
}

/// Both ends of a call know of it, whichever stamp declares it; what is a replica or a copy is told as not carried out.
#[test]
fn a_call_between_stamps_is_known_at_both_ends() {
    let of = |name: &str, stamp: &str| {
        let (path, text) = manifests().into_iter().find(|(path, _)| path.parent().unwrap().ends_with(name)).unwrap();
        read(&path, &text).resolve(stamp).unwrap()
    };
    let calls = |system: &System| -> Vec<String> {
        system.calls.iter().map(|call| format!("{} {} {}", call.link, call.from, call.to)).collect()
    };
    let uk = of("meg-qms", "uk");
    assert_eq!(
        calls(&uk),
        ["sign-in-uk eu/service.cms uk/service.cms", "users uk/service.cms eu/service.cms"],
        "what eu and uae have with one another is not uk's"
    );
    assert_eq!(calls(&of("meg-qms", "eu")).len(), 4);
    assert!(!uk.unbuilt.iter().any(|path| path.starts_with("links")), "{:?}", uk.unbuilt);
    let melbourne = of("donatello", "melbourne");
    assert_eq!(melbourne.calls, []);
    assert!(melbourne.unbuilt.contains(&"links.images".to_owned()), "{:?}", melbourne.unbuilt);
}
