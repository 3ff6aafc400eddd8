//! What goes wrong at `up`: each a clear error with the mend, nothing lost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use api::{client::Client, supervisor::Status};
use bytes::Bytes;
use testkit::{As, Stage, wait_until};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const TIME_TRACKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systems/time-tracker");

/// A small system in the stage's scratch folder; the path for `stamp`.
fn system(stage: &Stage, rest: &str) -> String {
    let folder = stage.scratch().join("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("system.toml"), format!("stamp = 1\nsystem = \"shop\"\n[stamps.dev]\n{rest}")).unwrap();
    folder.display().to_string()
}

#[test]
fn a_service_that_keeps_ending_is_told_with_its_last_words_and_comes_up_once_mended() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let shop =
        system(&stage, "[service.web]\nrun = [\"sh\", \"-c\", \"echo the shelf is empty; exit 7\"]\nport = 8080\n");
    // With a port it is ready once somebody listens, which nobody ever does.
    let said = stage.stamp(&["up", &shop]);
    assert_eq!(said.code, Some(1), "{said:?}");
    for part in ["error[S0210]", "service.web", "exit code 7", "the shelf is empty", "hint:"] {
        assert!(said.stderr.contains(part), "{part} is missing: {}", said.stderr);
    }
    system(&stage, "[service.web]\nrun = [\"sleep\", \"1000\"]\n");
    stage.stamp(&["up", &shop]).ok();
    assert_eq!(stage.ready("shop", "dev").resources.len(), 1);
}

#[test]
fn a_service_that_never_becomes_healthy_is_told_with_its_last_answer_and_comes_up_once_mended() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let python = std::path::Path::new("/usr/bin/python3").exists();
    if !testkit::require("python3", python, "the service of this test is a Python program") {
        return;
    }
    let shop = system(
        &stage,
        "[service.web]\nrun = [\"python3\", \"-u\", \"web.py\"]\nport = 8080\nhealth = \"/health\"\nstart_within = \"3s\"\n",
    );
    let answers = |status: u16| {
        let program = format!(
            "import http.server, os\n\
             class Web(http.server.BaseHTTPRequestHandler):\n\
             \x20   def do_GET(self):\n\
             \x20       print('the shelf is empty')\n\
             \x20       self.send_response({status})\n\
             \x20       self.end_headers()\n\
             \x20       self.wfile.write(b'no shelf')\n\
             http.server.HTTPServer((os.environ['LISTEN_ADDRESS'], int(os.environ['PORT'])), Web).serve_forever()\n"
        );
        std::fs::write(std::path::Path::new(&shop).join("web.py"), program).unwrap();
    };
    answers(503);
    let said = stage.stamp(&["up", &shop]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let asked = ["within 3 s", "GET http://127.", "/health", "it answered 503: no shelf"];
    let next = ["hint:", "stamp logs shop service.web", "stamp status shop", "start_within"];
    for part in ["error[S0209]", "service.web", "the shelf is empty"].iter().chain(&asked).chain(&next) {
        assert!(said.stderr.contains(part), "{part} is missing: {}", said.stderr);
    }
    let status = stage.status("shop", "dev").unwrap();
    let web = &status.resources[0];
    assert_eq!((status.state.as_str(), web.state.as_str()), ("degraded", "starting"));
    assert!(web.note.contains("it answered 503: no shelf"), "{web:?}");
    let logs = stage.stamp(&["logs", "shop", "service.web"]).ok();
    assert!(logs.stdout.contains("the shelf is empty"), "{logs:?}");
    answers(200);
    stage.stamp(&["up", &shop]).ok();
    let ready = stage.ready("shop", "dev");
    assert_ne!(ready.resources[0].pids, web.pids, "the mended program is another process");
}

#[test]
fn a_program_that_is_not_there_is_asked_wrongly() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let shop = system(&stage, "[service.web]\nrun = [\"no-such-program\"]\n");
    let said = stage.stamp(&["up", &shop]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.stderr.contains("error[S0212]") && said.stderr.contains("no-such-program"), "{said:?}");
    assert_eq!(stage.processes(), Vec::<u32>::new());
}

#[test]
fn a_missing_engine_is_named_with_where_it_was_looked_for() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    std::fs::remove_file(stage.home().join("engines")).unwrap();
    let said = stage.stamp(&["up", TIME_TRACKER]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let engines = stage.home().join("engines").display().to_string();
    assert!(said.stderr.contains("error[S0213]") && said.stderr.contains(&engines), "{said:?}");
}

#[test]
fn a_secret_that_nobody_has_set_stops_up_and_can_then_be_set() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let shop = system(
        &stage,
        "[identity.main]\n[vault.main]\naccess = [{ to = \"service.web\", role = \"Key Vault Secrets User\" }]\n\
         [vault.main.secrets]\nSmtp--Password = { ask = true }\n\
         [service.web]\nrun = [\"sh\", \"-c\", \"test \\\"$SMTP\\\" = from-a-person && exec sleep 1000\"]\nneeds = [\"vault.main\"]\n\
         [service.web.env]\nSMTP = \"@Microsoft.KeyVault(VaultName=main;SecretName=Smtp--Password)\"\n",
    );
    let said = stage.stamp(&["up", &shop]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("error[S0215]") && said.stderr.contains("stamp secret set"), "{said:?}");
    let mut set = stage.command(&["secret", "set", "shop", "Smtp--Password"]);
    let mut set = set.stdin(std::process::Stdio::piped()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(b"from-a-person\n").unwrap();
    assert!(set.wait().unwrap().success());
    stage.stamp(&["up", &shop]).ok();
    stage.ready("shop", "dev");
}

#[test]
fn on_a_full_disk_down_works_and_nothing_acknowledged_is_lost() {
    let Some(stage) = Stage::on_small_disk(STAMP, 600) else { return };
    stage.stamp(&["up", TIME_TRACKER]).ok();
    stage.ready("time-tracker", "dev");
    let before = stage.stamp(&["audit", "verify", "time-tracker", "--json"]).ok().json();
    let filler = stage.home().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let block = vec![0u8; 1 << 20];
    let full = loop {
        if let Err(error) = file.write_all(&block) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    stage.stamp(&["down", "time-tracker"]).ok();
    assert_eq!(stage.processes(), Vec::<u32>::new(), "nothing runs after down");
    // An open file keeps its room.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    stage.stamp(&["up", TIME_TRACKER]).ok();
    stage.ready("time-tracker", "dev");
    let after = stage.stamp(&["audit", "verify", "time-tracker", "--json"]).ok().json();
    assert!(after["records"].as_u64() >= before["records"].as_u64(), "{before} {after}");
}

#[test]
fn after_the_last_stamp_nothing_is_left_outside_the_home_and_the_next_up_works() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let shop = system(&stage, "[service.web]\nrun = [\"sleep\", \"1000\"]\n");
    stage.stamp(&["up", &shop]).ok();
    let sockets = supervisor::Home::at(stage.home()).sockets().to_owned();
    assert!(sockets.join("supervisor.sock").exists());
    stage.stamp(&["destroy", "shop", "--yes"]).ok();
    testkit::wait_until("the supervisor ends", std::time::Duration::from_secs(30), || {
        if sockets.exists() { Err(format!("{} is there", sockets.display())) } else { Ok(()) }
    });
    assert_eq!(stage.processes(), Vec::<u32>::new());
    stage.stamp(&["up", &shop]).ok();
    stage.ready("shop", "dev");
}

#[test]
fn with_the_clone_gone_status_tells_and_a_killed_service_comes_back() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let shop = system(&stage, "[service.web]\nrun = [\"bin/web\", \"1000\"]\n");
    std::fs::create_dir(stage.scratch().join("shop/bin")).unwrap();
    std::fs::copy("/usr/bin/sleep", stage.scratch().join("shop/bin/web")).unwrap();
    stage.stamp(&["up", &shop]).ok();
    let before = stage.ready("shop", "dev");
    std::fs::remove_dir_all(&shop).unwrap();
    for pid in &before.resources[0].pids {
        let pid = rustix::process::Pid::from_raw(*pid as i32).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    testkit::wait_until("it is back", std::time::Duration::from_secs(30), || {
        let status = stage.status("shop", "dev")?;
        let new = status.resources[0].pids.iter().all(|p| !before.resources[0].pids.contains(p));
        if status.state == "ready" && new { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

/// Asks in a loop, GET and POST in turn, until told to stop; what was not answered as the first time.
fn load(client: &Client, stop: &AtomicBool, done: &AtomicU32) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut dropped = Vec::new();
    // A stranger's API call is refused by the application itself, after it has read the body.
    let turns = [("GET", "/health", 200), ("POST", "/api/v1/projects", 401)];
    for (method, path, wanted) in turns.into_iter().cycle() {
        if stop.load(Relaxed) {
            return dropped;
        }
        let body = (method == "POST").then(|| ("application/json", Bytes::from_static(b"{}")));
        match runtime.block_on(client.send(method, path, body)) {
            Ok(answer) if answer.status.as_u16() == wanted => {}
            Ok(answer) => dropped.push(format!("{method} {path}: {}", answer.status)),
            Err(error) => dropped.push(format!("{method} {path}: {error:?}")),
        }
        done.fetch_add(1, Relaxed);
    }
    dropped
}

#[test]
fn a_service_with_one_copy_is_replaced_under_load_and_no_request_is_dropped() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    service::tls::install_provider();
    let folder = stage.scratch().join("time-tracker");
    std::fs::create_dir(&folder).unwrap();
    let manifest = std::fs::read_to_string(format!("{TIME_TRACKER}/system.toml")).unwrap();
    let write = |environment: &str| {
        let setting = format!("ASPNETCORE_ENVIRONMENT                = \"{environment}\"");
        let changed = manifest.replace("ASPNETCORE_ENVIRONMENT                = \"Production\"", &setting);
        assert!(changed.contains(&setting));
        std::fs::write(folder.join("system.toml"), changed).unwrap();
    };
    write("Production");
    let folder = folder.display().to_string();
    stage.stamp(&["up", &folder]).ok();
    let mut status = stage.ready("time-tracker", "dev");
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop, done) = (stage.client(&status, &status.urls["edge"]), stop.clone(), done.clone());
            std::thread::spawn(move || load(&client, &stop, &done))
        })
        .collect();
    let more = |count: u32| {
        let goal = done.load(Relaxed) + count;
        wait_until("more requests", Duration::from_secs(60), || {
            let now = done.load(Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        });
    };
    let pid = |status: &Status| status.resources.iter().find(|r| r.name == "service.web").unwrap().pids[1];
    for environment in ["Staging", "Production", "Staging"] {
        more(100);
        write(environment);
        stage.stamp(&["up", &folder]).ok();
        let now = stage.ready("time-tracker", "dev");
        assert_ne!(pid(&status), pid(&now), "replaced");
        status = now;
    }
    more(100);
    stop.store(true, Relaxed);
    let dropped: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let said = stage.stamp(&["logs", &folder, "edge"]).stdout;
    let said: Vec<&str> =
        said.lines().filter(|line| !line.contains("status=200") && !line.contains("status=401")).collect();
    assert!(
        dropped.is_empty(),
        "of {}: {dropped:#?}\n{}",
        done.load(Relaxed),
        said[said.len().saturating_sub(80)..].join("\n")
    );
}

#[test]
fn what_people_had_done_is_recorded_and_outlives_the_stamp() {
    let Some(stage) = Stage::new(STAMP, As::Caller) else { return };
    let shop = system(&stage, "[service.web]\nrun = [\"sleep\", \"1000\"]\n");
    stage.stamp(&["up", &shop]).ok();
    stage.stamp(&["destroy", &shop, "--yes"]).ok();
    let records = stage.stamp(&["audit", "acts", "shop", "--json"]).ok().json();
    let events: Vec<serde_json::Value> = records
        .as_array()
        .unwrap()
        .iter()
        .map(|r| serde_json::from_str(r["event"].as_str().unwrap()).unwrap())
        .collect();
    let actions: Vec<&str> = events.iter().map(|e| e["action"].as_str().unwrap()).collect();
    // What is asked for the person's sake is recorded too: `up` asks whether there is a recovery key to show.
    assert_eq!(actions, ["stamp.destroy", "stamp.recovery-key", "stamp.up"], "the newest first: {events:?}");
    for event in &events {
        assert_eq!(event["object"], "shop/dev");
        assert!(event["actor"].as_str().unwrap().starts_with("os:"), "{event}");
    }
}
