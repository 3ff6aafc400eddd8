//! Stand-ins, Redis, jobs and shares in a whole stamp: seen from inside a service, broken, and gone on with.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use api::{
    job::{JobRun, JobStatus},
    supervisor::Status,
};
use testkit::{As, Stage, wait_until};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/system");
const NAME: &str = "parts";

/// A stage with the system in it; None, and SKIP, where Python or Redis is missing.
fn stage(mebibytes: Option<u32>) -> Option<(Stage, PathBuf)> {
    let python = Path::new("/usr/bin/python3").exists();
    let redis = testkit::engines().and_then(|engines| api::engine::redis(&engines)).is_some();
    if !testkit::require("python3", python, "the stand-ins of these tests are written in Python")
        || !testkit::require("redis", redis, "no Redis among the engines; `engines/bring redis` brings one")
    {
        return None;
    }
    let stage = match mebibytes {
        Some(mebibytes) => Stage::on_small_disk(STAMP, mebibytes)?,
        None => Stage::new(STAMP, As::Caller)?,
    };
    let folder = stage.scratch().join("system");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(SYSTEM).unwrap().flatten() {
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    stage.stamp(&["up", folder.to_str().unwrap()]).ok();
    Some((stage, folder))
}

/// What a command in the place of a service says.
fn inside(stage: &Stage, service: &str, command: &[&str]) -> Result<String, String> {
    let mut all = vec!["exec", NAME, service, "--"];
    all.extend(command);
    let said = stage.stamp(&all);
    if said.code == Some(0) { Ok(said.stdout.trim().to_owned()) } else { Err(said.stderr) }
}

fn look(stage: &Stage, folder: &Path, what: &[&str]) -> Result<String, String> {
    let script = folder.join("look.py").display().to_string();
    let mut command = vec!["/usr/bin/python3", &script];
    command.extend(what);
    inside(stage, "web", &command)
}

fn status(stage: &Stage) -> Status {
    stage.status(NAME, "dev").unwrap()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Kills the Redis server itself, and waits until another serves.
fn kill_redis(stage: &Stage) {
    let pid =
        |status: &Status| status.resources.iter().find(|r| r.name == "redis.main").map(|r| r.pids.clone()).unwrap();
    let before = pid(&status(stage));
    kill(before[1]);
    wait_until("Redis serves again", Duration::from_secs(30), || {
        let status = stage.status(NAME, "dev")?;
        let redis = status.resources.iter().find(|r| r.name == "redis.main").unwrap();
        if redis.state == "ready" && redis.pids.get(1).is_some_and(|pid| *pid != before[1]) {
            Ok(())
        } else {
            Err(format!("{redis:?}"))
        }
    });
}

fn runs(stage: &Stage, job: &str) -> Vec<JobRun> {
    let answer = stage.stamp(&["job", "runs", NAME, job, "--json"]).ok().json();
    let jobs: Vec<JobStatus> = serde_json::from_value(answer).unwrap();
    jobs.into_iter().next().unwrap().runs
}

#[test]
fn stand_ins_and_redis_serve_who_needs_them_and_nobody_else() {
    let Some((stage, folder)) = stage(None) else { return };
    let told = inside(&stage, "web", &["/bin/sh", "-c", "echo $PROVIDER $MAILER $FEED $ABROAD"]).unwrap();
    let urls: Vec<&str> = told.split(' ').collect();
    assert!(urls[0].starts_with("https://") && urls[0].ends_with("/v1") && !urls[0].contains("example.com"), "{told}");
    assert!(urls[1].starts_with("smtps://") && urls[2].starts_with("mllp://"), "{told}");
    assert_eq!(urls[3], "https://abroad.example.com:8443/x", "what nobody plays is where it is declared");
    assert_eq!(look(&stage, &folder, &["http"]).unwrap(), "provider /v1/images");
    assert_eq!(look(&stage, &folder, &["mail"]).unwrap(), "echo hello");
    assert_eq!(look(&stage, &folder, &["feed"]).unwrap(), "echo hello");

    let redis = |command: &str| look(&stage, &folder, &["redis", command]).unwrap();
    assert_eq!(redis("SET kept here"), "+OK");
    assert_eq!(redis("GET kept"), "here");
    for refused in ["FLUSHALL", "KEYS *", "CONFIG GET dir", "ACL LIST", "CLIENT LIST", "SHUTDOWN"] {
        assert!(redis(refused).starts_with("-NOPERM"), "{refused}: {}", redis(refused));
    }
    assert!(look(&stage, &folder, &["stranger"]).unwrap().starts_with("-NOAUTH"));
    assert_eq!(look(&stage, &folder, &["plain"]).unwrap(), "closed", "nothing is said without TLS");
    kill_redis(&stage);
    assert_eq!(redis("GET kept"), "here", "what was acknowledged survives its server");

    if drivers::network::probe().is_ok() {
        for part in ["external.provider", "external.feed", "redis.main"] {
            let status = status(&stage);
            let address = &status.resources.iter().find(|r| r.name == part).unwrap().address;
            let address = if address.contains(':') { address.clone() } else { format!("{address}:6379") };
            let script = format!("exec 3<>/dev/tcp/{}", address.replace(':', "/"));
            let bash = ["/bin/bash", "-c", script.as_str()];
            assert!(inside(&stage, "stranger", &bash).is_err(), "{part} at {address} is reached without a need");
            assert_eq!(inside(&stage, "web", &bash), Ok(String::new()), "{part} at {address}");
        }
    }
    stage.stamp(&["destroy", NAME, "--yes"]).ok();
    assert_eq!(stage.processes(), Vec::<u32>::new(), "nothing runs after destroy");
}

#[test]
fn jobs_run_to_their_ends_whoever_dies_and_share_a_folder() {
    let Some((stage, _)) = stage(None) else { return };
    let broken = stage.stamp(&["job", "run", NAME, "broken", "--json"]);
    assert_eq!(broken.code, Some(1));
    let broken: JobRun = serde_json::from_value(broken.json()).unwrap();
    assert_eq!((broken.outcome.as_str(), broken.exit_code, broken.why.as_str()), ("failed", Some(3), "asked"));
    assert!(broken.note.contains("it broke"), "{broken:?}");
    let slow: JobRun = serde_json::from_value(stage.stamp(&["job", "run", NAME, "slow", "--json"]).json()).unwrap();
    assert_eq!(slow.outcome, "timeout");
    let unknown = stage.stamp(&["job", "run", NAME, "none"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("broken, often, slow, told"), "{unknown:?}");

    // It has begun, and waits: its supervisor dies meanwhile.
    let mut asked = stage.command(&["job", "run", NAME, "told"]).spawn().unwrap();
    let share = stage.home().join("stamps/parts.dev/share.dumps/data");
    wait_until("the job has begun", Duration::from_secs(30), || {
        std::fs::read_to_string(share.join("dump")).map_err(|e| e.to_string())
    });
    let refused = stage.stamp(&["job", "run", NAME, "told"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("runs already"), "one at a time: {refused:?}");
    kill(stage.supervisor().unwrap());
    let _ = asked.wait();
    assert_eq!(runs(&stage, "told")[0].outcome, "running", "a new supervisor waits for it");
    std::fs::write(share.join("go"), "").unwrap();
    wait_until("the run ends", Duration::from_secs(30), || match runs(&stage, "told").remove(0) {
        run if run.is_over() => {
            assert_eq!(run.outcome, "done", "{run:?}");
            Ok(())
        }
        run => Err(format!("{run:?}")),
    });
    assert_eq!(runs(&stage, "told").len(), 1, "it ran once");
    wait_until("a job runs by itself", Duration::from_secs(30), || {
        let done = runs(&stage, "often").iter().filter(|run| run.outcome == "done" && run.why == "schedule").count();
        if done >= 2 { Ok(()) } else { Err(format!("{done} runs")) }
    });

    // What it wrote is read by the service, which may not write, whichever way it goes.
    let read = inside(&stage, "web", &["/bin/sh", "-c", "cat $MOUNT_DUMPS/dump"]).unwrap();
    assert_eq!(read, "written\nended");
    for folder in ["$MOUNT_DUMPS", share.to_str().unwrap()] {
        let script = format!("echo x >>{folder}/dump");
        let written = inside(&stage, "web", &["/bin/sh", "-c", &script]);
        assert!(written.is_err_and(|e| e.contains("Read-only") || e.contains("denied")), "{folder}");
    }
    assert!(inside(&stage, "stranger", &["/bin/ls", share.to_str().unwrap()]).is_err(), "it is not everybody's");
}

#[test]
fn redis_on_a_full_disk_refuses_writes_and_keeps_what_it_took() {
    let Some((stage, folder)) = stage(Some(256)) else { return };
    let redis = |command: &str| look(&stage, &folder, &["redis", command]);
    assert_eq!(redis("SET first kept").unwrap(), "+OK");
    let filler = stage.home().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0x55; 64 * 1024]).is_ok() {}
    // Room for what asks, not for a large value.
    file.set_len(file.metadata().unwrap().len() - 512 * 1024).unwrap();
    drop(file);
    let large = "EVAL \"return redis.call('SET', KEYS[1], string.rep('v', 4000000))\" 1 large";
    let taken = redis(large).unwrap() == "+OK";
    wait_until("writes are refused", Duration::from_secs(30), || match redis("SET second kept")? {
        said if said.starts_with("-MISCONF") => Ok(()),
        said => Err(said),
    });
    assert_eq!(redis("GET first").unwrap(), "kept", "it still answers reads");
    std::fs::remove_file(&filler).unwrap();
    wait_until("writes are taken again", Duration::from_secs(30), || match redis("SET last kept")? {
        said if said == "+OK" => Ok(()),
        said => Err(said),
    });
    kill_redis(&stage);
    assert_eq!((redis("GET first").unwrap().as_str(), redis("GET last").unwrap().as_str()), ("kept", "kept"));
    if taken {
        assert_eq!(redis("STRLEN large").unwrap(), ":4000000", "what was answered while there was no room");
    }
}
