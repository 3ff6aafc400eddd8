//! Two stamps with links between them: each side knows the other, nobody else comes in, and any of them may come and go.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use api::{client::Client, supervisor::NetworkStatus};
use testkit::{As, Stage, wait_until};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const NAME: &str = "pair";
const MANIFEST: &str = r#"
stamp  = 1
system = "pair"

[stamps.eu]
links.home = { what = "call", from = "service.web", to = "uk/service.web", carries = ["sign-in"] }

[stamps.uk]
links.users = { what = "call", from = "service.web", to = "eu/service.web", carries = ["name", "e-mail"] }

[network]
space   = "10.0.0.0/16"
subnets = { app = "10.0.1.0/24" }

[edge]
routes = [{ path = "/", to = "service.web" }]

[service.web]
run    = ["python3", "app.py"]
port   = 8080
health = "/health"
subnet = "app"

[service.other]
run    = ["python3", "app.py"]
port   = 8081
health = "/health"
subnet = "app"
"#;

fn system(stage: &Stage, manifest: &str) -> PathBuf {
    let folder = stage.scratch().join("system");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("system.toml"), manifest).unwrap();
    std::fs::write(folder.join("app.py"), include_str!("pair.py")).unwrap();
    folder
}

fn up(stage: &Stage, folder: &std::path::Path, stamp: &str) -> Client {
    stage.stamp(&["up", folder.to_str().unwrap(), "--stamp", stamp]).ok();
    let status = stage.ready(NAME, stamp);
    stage.client(&status, &status.urls["edge"]).timeout(Duration::from_secs(20))
}

/// What the entry of a stamp answers.
fn ask(client: &Client, path: &str) -> (u16, String) {
    service::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(client.send("GET", path, None)) {
        Ok(answer) => (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned()),
        Err(error) => (0, error.to_string()),
    }
}

fn known(client: &Client, link: &str, as_what: &str) {
    wait_until("the call arrives", Duration::from_secs(30), || match ask(client, &format!("/call?link={link}")) {
        (200, who) if who == as_what => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_service_calls_one_of_another_stamp_and_nobody_else_does() {
    let probe = drivers::network::probe();
    let why = probe.as_ref().err().cloned().unwrap_or_default();
    if !testkit::require("netns", probe.is_ok(), &why) {
        return;
    }
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let folder = system(&stage, MANIFEST);

    // Alone: the link leads nowhere, and says so at once.
    let uk = up(&stage, &folder, "uk");
    let note = |stamp: &str| {
        let status = stage.ready(NAME, stamp);
        status.resources.iter().find(|r| r.name == "service.web").unwrap().note.clone()
    };
    assert!(note("uk").contains("its link users leads to eu/service.web, which is not up"), "{}", note("uk"));
    assert_eq!(ask(&uk, "/call?link=users").0, 502);

    // The other comes: each is known to the other by the key of the link, though both have the same addresses.
    let eu = up(&stage, &folder, "eu");
    known(&uk, "users", "LINK_USERS_FROM_UK_KEY");
    known(&eu, "home", "LINK_HOME_FROM_EU_KEY");
    assert_eq!(note("uk"), "");
    let reached = |stamp: &str| {
        stage.ready(NAME, stamp).resources.iter().find(|r| r.name == "service.web").unwrap().place.clone()
    };
    assert_eq!(reached("uk").unwrap().address, reached("eu").unwrap().address);

    // Without the key nobody is anybody, by the public entry too.
    assert_eq!(ask(&eu, "/who"), (401, "nobody".into()));

    // A service of the same stamp that has no link has no way.
    let begun = Instant::now();
    let script = "exec 3<>/dev/tcp/web.service.eu.pair.internal/443";
    let said = stage.stamp(&["exec", NAME, "other", "--stamp", "uk", "--", "/bin/bash", "-c", script]);
    assert!(said.code != Some(0) && said.stderr.contains("refused"), "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "it fails at once");
    // Nor has one that has a link to any other port, or to any other part of that stamp.
    for script in ["exec 3<>/dev/tcp/web.service.eu.pair.internal/8080", "exec 3<>/dev/tcp/10.0.255.10/443"] {
        let said = stage.stamp(&["exec", NAME, "web", "--stamp", "uk", "--", "/bin/bash", "-c", script]);
        assert!(said.code != Some(0), "{script}: {said:?}");
    }
    let seen = stage.stamp(&["network", NAME, "--stamp", "eu", "--json"]).ok().json();
    let seen: NetworkStatus = serde_json::from_value(seen).unwrap();
    let passed = seen.flows.iter().find(|f| f.why == "links.users").unwrap();
    assert_eq!((passed.from.as_str(), passed.to.as_str()), ("uk/service.web", "service.web"));
    assert!(passed.count > 0, "{passed:?}");

    // Cut, nothing passes; healed, it does.
    stage.stamp(&["network", NAME, "--stamp", "uk", "cut", "links.users"]).ok();
    let cut = ask(&uk, "/call?link=users");
    assert!(cut.0 == 502 && cut.1.contains("timed out"), "{cut:?}");
    assert!(note("uk").contains("its link links.users is cut"), "{}", note("uk"));
    stage.stamp(&["network", NAME, "--stamp", "uk", "heal", "links.users"]).ok();
    known(&uk, "users", "LINK_USERS_FROM_UK_KEY");
    let wrong = stage.stamp(&["network", NAME, "--stamp", "uk", "cut", "links.nobody"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("links.users"), "{wrong:?}");

    // Down: refused, not awaited. Up again, and made anew: known again, with another key.
    stage.stamp(&["down", NAME, "--stamp", "eu"]).ok();
    wait_until("the call is refused", Duration::from_secs(10), || match ask(&uk, "/call?link=users") {
        (502, why) if why.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    up(&stage, &folder, "eu");
    known(&uk, "users", "LINK_USERS_FROM_UK_KEY");
    stage.stamp(&["destroy", NAME, "--stamp", "eu", "--yes"]).ok();
    up(&stage, &folder, "eu");
    known(&uk, "users", "LINK_USERS_FROM_UK_KEY");
}

/// Without a closed network a link is plain and on loopback, and the key still says who calls.
#[test]
fn links_work_without_closed_networks() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let open: String = MANIFEST.split("[network]").next().unwrap().to_owned()
        + MANIFEST
            .split_once("[edge]")
            .map(|(_, rest)| "[edge]".to_owned() + rest)
            .unwrap()
            .replace("subnet = \"app\"", "")
            .as_str();
    let folder = system(&stage, &open);
    let uk = up(&stage, &folder, "uk");
    let refused = ask(&uk, "/call?link=users");
    assert!(refused.0 == 502 && refused.1.contains("refused"), "{refused:?}");
    let eu = up(&stage, &folder, "eu");
    known(&uk, "users", "LINK_USERS_FROM_UK_KEY");
    known(&eu, "home", "LINK_HOME_FROM_EU_KEY");
}
