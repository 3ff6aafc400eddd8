//! A role is gone: supervisor, vault, audit.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    Miss, Seen, Site,
    drill::Scene,
    harm::{self, kill},
    must,
    site::until_in,
};

/// How long people must not notice anything.
const UNNOTICED: Duration = Duration::from_secs(5);
/// A role that was killed is back within this.
const BACK: Duration = Duration::from_secs(30);
/// Who the supervisor is to the vault.
const OPERATOR: &str = "supervisor";
const SECRET: &str = "/secrets/Drill--Secret?api-version=7.4";

async fn supervisor_pid(site: &Site) -> Result<u32, Miss> {
    Ok(site.supervisor.get::<api::supervisor::Version>("/version").await?.pid)
}

/// `workload: pids` of all that runs; what PostgreSQL begins and ends by itself is left out.
fn processes(site: &Site) -> BTreeSet<(String, u32)> {
    let steady = |name: &str| if name.starts_with("postgres") { 3 } else { usize::MAX };
    let of = |r: &api::supervisor::ResourceStatus| {
        let name = r.name.clone();
        r.pids.iter().take(steady(&r.name)).map(move |pid| (name.clone(), *pid)).collect::<Vec<_>>()
    };
    site.status.resources.iter().flat_map(of).collect()
}

pub async fn supervisor(scene: &Scene<'_>) -> Seen {
    let before = scene.lab.restore(scene.on).await?;
    let pid = supervisor_pid(&before).await?;
    scene.fault(format!("the supervisor, process {pid}, is killed"));
    kill(pid)?;
    let failures = scene.load.tape().failures();
    let calm = scene.load.calm(UNNOTICED, UNNOTICED * 2).await;
    must!(calm && scene.load.tape().failures() == failures, "people noticed that the supervisor was gone");
    scene.say(format!("nobody noticed for {} s", UNNOTICED.as_secs()));
    let after = scene.lab.restore(scene.on).await?;
    let new = supervisor_pid(&after).await?;
    must!(new != pid, "the supervisor that was killed still answers");
    // Nobody missed it: the time until somebody asks for a supervisor is no recovery time.
    scene.say(format!("a new supervisor, process {new}, knows the stamp"));
    let (then, now) = (processes(&before), processes(&after));
    must!(then == now, "it did not adopt what ran: {then:?} before, {now:?} now");
    Ok(format!("{} processes adopted, none started anew", now.len()))
}

pub async fn vault(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    let vault = site.first("vault")?;
    let value = uuid::Uuid::new_v4().to_string();
    put(&site, &vault, &value).await?;
    scene.say("a secret is written to the vault");
    let failures = scene.load.tape().failures();
    scene.fault(format!("{vault} is killed"));
    let killed = harm::all_of(&site, &vault, Signal::KILL)?.len();
    let begun = Instant::now();
    let held = until_in("the vault is back", BACK, async || {
        // Asked as it stands: nobody brings it up.
        read(&site).await
    })
    .await?;
    scene.mended("the vault answers again");
    must!(held == value, "the vault gives another value than it was told");
    let seconds = begun.elapsed().as_secs_f64();
    must!(scene.load.tape().failures() == failures, "people noticed that the vault was gone");
    Ok(format!("{killed} processes killed, back after {seconds:.1} s, the secret is what it was"))
}

pub async fn audit(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    let (audit, vault) = (site.first("audit")?, site.first("vault")?);
    put(&site, &vault, "one").await?;
    let failures = scene.load.tape().failures();
    scene.fault(format!("{audit} is frozen"));
    harm::all_of(&site, &audit, Signal::STOP)?;
    const READS: usize = 20;
    let reads = async {
        for _ in 0..READS {
            read(&site).await?;
        }
        Ok::<(), Miss>(())
    };
    let worked = reads.await;
    scene.say(format!("{READS} reads of a secret while nobody records centrally"));
    // A frozen process does not end in order: it loses what it had not written.
    harm::all_of(&site, &audit, Signal::KILL)?;
    worked?;
    let recorded = until_in("the records are there", BACK, async || {
        let all = site.audited(OPERATOR).await?;
        let of_secret = |e: &&api::audit::Event| e.action == "secret.get" && e.object.contains("Drill--Secret");
        let count = all.iter().filter(of_secret).count();
        must!(count >= READS, "{count} of {READS} records are there");
        Ok(count)
    })
    .await?;
    scene.mended(format!("{audit} is back and holds {recorded} records of the reads"));
    must!(scene.load.tape().failures() == failures, "people noticed that the audit role was gone");
    Ok(format!("{READS} reads while it was gone, {recorded} records of them afterwards"))
}

async fn put(site: &Site, vault: &str, value: &str) -> Result<(), Miss> {
    let name = "Drill--Secret".to_owned();
    let api::supervisor::StampRef { system, stamp } = site.of();
    let ask = json!({ "system": system, "stamp": stamp, "vault": vault, "name": name, "value": value });
    site.supervisor.post::<_, serde_json::Value>("/secret", &ask).await?;
    Ok(())
}

async fn read(site: &Site) -> Result<String, Miss> {
    let answer = site.vault(OPERATOR).await?.send("GET", SECRET, None).await?;
    must!(answer.status.is_success(), "the vault answers {}", answer.status);
    let json: serde_json::Value = serde_json::from_slice(&answer.body)?;
    Ok(json["value"].as_str().unwrap_or_default().to_owned())
}
