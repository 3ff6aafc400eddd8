//! Each step of the time tracker's plan: it fails once, and is carried out twice.

use std::{collections::BTreeMap, fs, sync::Arc};

use api::supervisor::{Event, Failure};
use serde_json::Value;

use super::{
    story::again,
    world::{World, scratch, stored},
};

const TIME_TRACKER: &str = include_str!("../../../../systems/time-tracker/system.toml");

/// The time tracker as the repository has it, but for its program: no process runs here.
fn time_tracker() -> String {
    let text = TIME_TRACKER.replace("\"time-tracker\", \"serve\"", "\"sleep\", \"1000\"");
    text.replace("\"time-tracker\", \"migrate\"", "\"sleep\", \"0\"")
}

/// With another setting of the service, one person's access more, and one route more: replaces, reloads.
fn changed() -> String {
    let text = time_tracker().replace("\"Production\"", "\"Staging\"");
    let text = text.replace("tls    = { min = \"1.2\" }", "tls    = { min = \"1.3\" }");
    text.replace("  { to = \"group:developer\", role = \"Key Vault Secrets Officer\" },\n", "")
}

/// And with a service that the first does not have.
fn with_more() -> String {
    format!("{}\n[service.more]\nrun = [\"sleep\", \"1000\"]\n", time_tracker())
}

fn request_up(world: &Arc<World>, manifest: String) -> (Vec<String>, Event) {
    again(world, manifest, false, false)
}

fn ready(event: &Event) {
    assert!(matches!(event, Event::Ready(_)), "{event:?}");
}

/// What a person can see of a stamp, without what chance makes: workloads by name with their configuration, names of
/// secrets with the number of their versions, database roles, people.
fn seen(world: &World) -> BTreeMap<String, Value> {
    let folder = world.home.stamp("time-tracker", "dev");
    let mut all = BTreeMap::new();
    let mut count: BTreeMap<String, u64> = BTreeMap::new();
    for (mark, _) in world.fake.running() {
        *count.entry(mark.rsplit('/').next().unwrap().to_owned()).or_default() += 1;
    }
    for (workload, number) in count {
        let read = |name: &str| fs::read_to_string(folder.join(&workload).join(name)).unwrap_or_default();
        all.insert(format!("{workload} config"), read("config.json").into());
        all.insert(format!("{workload} shim"), read("shim.json").into());
        all.insert(workload, number.into());
    }
    let versions = stored(&folder.join("vault.main"), |_| {});
    for (name, versions) in versions.as_object().unwrap() {
        all.insert(format!("secret {name}"), versions.as_array().unwrap().len().into());
    }
    let names =
        |role: &str| stored(&folder.join(role), |_| {}).as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    all.insert("roles".into(), names("postgres.main").into());
    all.insert("people".into(), names("identity.main").into());
    all
}

/// Text that differs from home to home.
fn without_home(world: &World, seen: BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let address = {
        let journal = rusqlite::Connection::open(world.home.journal()).unwrap();
        let block: u16 = journal.query_row("SELECT block FROM stamps", [], |row| row.get(0)).unwrap();
        format!("127.{}.{}.", block >> 8, block & 0xFF)
    };
    let tenant: String = {
        let journal = rusqlite::Connection::open(world.home.journal()).unwrap();
        journal.query_row("SELECT tenant FROM stamps", [], |row| row.get(0)).unwrap()
    };
    let root = world.home.root().display().to_string();
    let sockets = world.home.sockets().display().to_string();
    let plain = |text: String| {
        let text = text.replace(&root, "HOME").replace(&address, "ADDRESS.").replace(&tenant, "TENANT");
        let socket = text.find(&sockets).map(|at| text[at..at + sockets.len() + 5].to_owned());
        let text = socket.map_or(text.clone(), |socket| text.replace(&socket, "SOCKETS"));
        // Digest of a mark, which begins with the home's hash.
        text.lines().filter(|line| !line.contains("WEBSITE_INSTANCE_ID")).collect::<Vec<_>>().join("\n")
    };
    seen.into_iter()
        .map(|(name, value)| (name, plain(value.as_str().map_or(value.to_string(), str::to_owned))))
        .collect()
}

/// Brings `before` up (if any), asks for `fault`, and sees `up` of `manifest` fail in `step` with `code`; the next finishes.
fn fails_once(before: Option<String>, manifest: &str, step: &str, fault: &dyn Fn(&World), code: &str) -> Failure {
    let folder = scratch();
    let world = World::new(folder.path());
    if let Some(before) = before {
        ready(&request_up(&world, before).1);
    }
    fault(&world);
    let (steps, event) = request_up(&world, manifest.to_owned());
    // What cannot be prepared is not planned.
    assert!(steps.iter().any(|s| s == step) || (step == "prepare" && steps.is_empty()), "{step} is not in {steps:?}");
    let Event::Failed(failure) = event else { panic!("{step} was to fail: {event:?}") };
    assert_eq!(failure.code, code, "{step}: {failure:?}");
    world.mend();
    let (_, event) = request_up(&world, manifest.to_owned());
    ready(&event);
    once_each(&world, manifest, step);
    failure
}

/// Nothing is there twice, and a further `up` has nothing to do.
fn once_each(world: &Arc<World>, manifest: &str, step: &str) {
    assert_eq!(world.broken(), Vec::<String>::new(), "{step}");
    for (name, value) in seen(world) {
        if value.is_number() {
            assert_eq!(value, 1, "{name} after {step}");
        }
    }
    let before = world.fake.running();
    ready(&request_up(world, manifest.to_owned()).1);
    assert_eq!(world.fake.running(), before, "{step}");
}

#[test]
fn each_step_fails_once_and_the_next_up_finishes() {
    let place = |workload: &'static str| move |world: &World| world.fake.refuse_next(&format!("/{workload}"));
    let ask = |act: &'static str| move |world: &World| world.fail_once(act);
    let first = time_tracker();
    let plan = {
        let folder = scratch();
        let world = World::new(folder.path());
        let (steps, event) = request_up(&world, first.clone());
        ready(&event);
        steps
    };
    let mut left: Vec<String> = plan;
    let mut check =
        |before: Option<String>, manifest: &str, step: &str, fault: &dyn Fn(&World), code: &str, says: &str| {
            let failure = fails_once(before, manifest, step, fault, code);
            let text = format!("{} {:?} {:?}", failure.message, failure.causes, failure.lines);
            assert!(text.contains(says), "{step}: {says} is not in {text}");
            left.retain(|s| s != step);
        };
    check(None, &first, "prepare", &file_in_the_way, "S0203", "public");
    for workload in [
        "audit.main",
        "edge",
        "identity.main",
        "postgres.main",
        "registry.main",
        "service.web",
        "telemetry.main",
        "vault.main",
    ] {
        check(None, &first, &format!("start {workload}"), &place(workload), "S0208", workload);
    }
    check(None, &first, "secrets vault.main", &ask("PUT /secrets/Session--Key"), "S0214", "Session--Key");
    check(None, &first, "secrets vault.main", &ask("PUT /roles/web"), "S0214", "web");
    check(None, &first, "secrets vault.main", &ask("GET /secrets"), "S0214", "list its secrets");
    check(None, &first, "migrate service.web", &ask("run service.web.migrate"), "S0211", "no such table");
    check(None, &first, "migrate service.web", &place("service.web.migrate"), "S0208", "service.web.migrate");
    let invite = "invite the first administrator to identity.main";
    check(None, &first, invite, &ask("POST /admin/users"), "S0214", "invite admin@localhost");
    // The steps of a change.
    let before = || Some(first.clone());
    check(before(), &changed(), "replace service.web", &place("service.web"), "S0208", "service.web");
    check(before(), &changed(), "replace service.web", &ask("kill service.web"), "S0208", "it does not die");
    check(Some(with_more()), &first, "remove service.more", &ask("kill service.more"), "S0208", "it does not die");
    check(before(), &changed(), "reload vault.main", &folder_in_the_way, "S0203", "config.json");
    // Those that only wait fail after their time, with what was answered last.
    let (brief, ill) = (brief(), ask("always health service.web"));
    check(None, &brief, "start service.web", &ill, "S0209", "it answered 503");
    check(Some(brief.clone()), &brief, "await service.web", &ill, "S0209", "within 1 s");
    check(None, &brief, "open edge", &ask("always open"), "S0209", "the health of service.web, as the entry sees it");
    assert_eq!(left, Vec::<String>::new(), "steps of the plan that were not made to fail");
}

/// With a service that must be healthy soon.
fn brief() -> String {
    time_tracker().replace("health = \"/health\"", "health = \"/health\"\nstart_within = \"1s\"")
}

/// A folder where a file is to be.
fn folder_in_the_way(world: &World) {
    let file = world.home.stamp("time-tracker", "dev").join("vault.main/config.json");
    fs::remove_file(&file).unwrap();
    fs::create_dir(file).unwrap();
}

/// A file where a folder is to be.
fn file_in_the_way(world: &World) {
    let folder = world.home.stamp("time-tracker", "dev");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("public"), "in the way").unwrap();
}

#[test]
fn each_step_carried_out_twice_leaves_the_same_state() {
    let told = |twice: bool| {
        let (folder, mut all) = (scratch(), Vec::new());
        let world = World::new(folder.path());
        for manifest in [with_more(), changed(), time_tracker()] {
            let (steps, event) = again(&world, manifest, false, twice);
            ready(&event);
            assert_eq!(world.broken(), Vec::<String>::new());
            all.push((steps, without_home(&world, seen(&world))));
        }
        all
    };
    let (once, twice) = (told(false), told(true));
    let verbs: Vec<&str> = once.iter().flat_map(|(steps, _)| steps).filter_map(|s| s.split(' ').next()).collect();
    for verb in ["prepare", "start", "await", "reload", "replace", "remove", "secrets", "migrate", "invite", "open"] {
        assert!(verbs.contains(&verb), "no step does {verb}: {verbs:?}");
    }
    for ((steps, one), (_, two)) in once.iter().zip(&twice) {
        for (name, value) in one {
            assert_eq!(Some(value), two.get(name), "{name} after {steps:?}");
        }
        assert_eq!(one.len(), two.len());
    }
}
