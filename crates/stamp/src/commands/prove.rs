//! `stamp prove`: every claim of a system's document, looked at on scratch stamps; evidence is kept.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context as _;
use api::supervisor::Event;
use prove::{Evidence, Finding, Lab, Ledger, Outcome, Report, Sabotages, Scope, Seen};
use supervisor::Home;

use crate::{
    arguments::ProveOf,
    connect, evidence,
    failure::Failed,
    scratch::{Scratch, Shared},
    screen, target,
};

/// The stamp that is looked at where a row names none.
const FIRST: &str = "dev";

pub async fn run(of: &ProveOf, json: bool) -> anyhow::Result<ExitCode> {
    let source = target::read(&of.system)?;
    let system = super::plan::resolve(&source, FIRST)?;
    let claims_path = source.folder.join("claims.toml");
    let claims = std::fs::read_to_string(&claims_path).map_err(|_| {
        Failed::asked(
            format!("there is no {}", claims_path.display()),
            "a system's claims stand in claims.toml beside it",
        )
    })?;
    let ledger = Ledger::parse(&claims_path.display().to_string(), &claims)?;
    let scope = Scope { claim: of.claim.clone(), area: of.area.clone(), fast: of.fast, also: Vec::new() };
    if let Some(id) = &scope.claim
        && !ledger.rows.iter().any(|r| r.id == *id)
    {
        let begin = ledger.rows.first().map(|r| r.id.clone()).unwrap_or_default();
        return Err(Failed::asked(format!("{} has no claim {id}", system.name), format!("ids look like {begin}")));
    }
    if let Some(area) = &scope.area
        && !ledger.rows.iter().any(|r| r.area == *area)
    {
        let mut areas: Vec<&str> = ledger.rows.iter().map(|r| r.area.as_str()).collect();
        areas.sort_unstable();
        areas.dedup();
        return Err(Failed::asked(format!("there is no area {area}"), format!("there is: {}", areas.join(", "))));
    }
    let person = connect::home()?;
    let scratch = Scratch::make(&person, &source, &system.name, None, tell_step).await?;
    let home = scratch.home().clone();
    let begun = Instant::now();
    let work = async {
        match &of.sabotage {
            Some(which) => sabotages(scratch, &source, &system.name, &ledger, &scope, which, json).await,
            None => {
                let lab = Lab::new(
                    Box::new(Shared(std::sync::Arc::new(scratch))),
                    source.folder.clone(),
                    source.text.clone(),
                );
                let report = look(&lab, &system.name, &ledger, &scope).await?;
                let seconds = begun.elapsed().as_secs_f64();
                let kept = keep(&person, &system.title, &source.text, &claims, &report, seconds).await?;
                show(&report, &of.system, &kept, seconds, json);
                Ok(ExitCode::from(u8::from(report.count(Outcome::Failed) > 0)))
            }
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => Err(Failed::asked("it was stopped", "nothing of a person's was touched; run it again")),
    };
    Scratch::end(&home).await;
    ended
}

async fn look(lab: &Lab, system: &str, ledger: &Ledger, scope: &Scope) -> anyhow::Result<Report> {
    let rows = |key: &str| -> String {
        let of = |r: &&prove::Row| r.call.as_ref().is_some_and(|c| format!("{}: {c}", r.on) == key);
        ledger.rows.iter().filter(of).map(|r| r.id.clone()).collect::<Vec<_>>().join(" ")
    };
    let told = |key: &str, stamp: &str, seen: Option<&Seen>, seconds: f64| {
        let Some(seen) = seen else {
            return screen::talk(&screen::dim(&format!("  bringing {stamp} up")));
        };
        let (sign, words) = match seen {
            Ok(words) => (screen::green("✓"), words.clone()),
            Err(prove::Miss::Failed(words)) => (screen::red("✗"), words.clone()),
            Err(prove::Miss::Substituted(words)) => (screen::green("≈"), words.clone()),
            Err(prove::Miss::NotHere { why, command }) => ("–".into(), format!("{why}; refused: {command}")),
        };
        screen::talk(&format!(
            "{sign} {} {} {}",
            screen::bold(&rows(key)),
            key,
            screen::dim(&format!("{seconds:.1} s"))
        ));
        screen::talk(&screen::dim(&format!("    {words}")));
    };
    Ok(prove::run(lab, system, FIRST, ledger, scope, told).await?)
}

/// One line a step would be too much: only what fails is told while stamps come up.
pub fn tell_step(event: &Event) {
    if let Event::Step { id, state: api::supervisor::StepState::Failed, note, .. } = event {
        screen::talk(&format!("  {} {id}: {note}", screen::red("✗")));
    }
}

/// Brings the system up once as it is and once with each sabotage, and compares.
async fn sabotages(
    scratch: Scratch,
    source: &target::Source,
    system: &str,
    ledger: &Ledger,
    scope: &Scope,
    which: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let path = source.folder.join("sabotages.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let all = Sabotages::parse(&text)?;
    let strangers = all.strangers(ledger);
    if !strangers.is_empty() {
        let hint = format!("correct {}", path.display());
        return Err(Failed::asked(format!("sabotages name claims that there are not: {}", strangers.join(", ")), hint));
    }
    let chosen: Vec<_> = all.sabotage.iter().filter(|s| which == "all" || s.name == which).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = all.sabotage.iter().map(|s| s.name.as_str()).collect();
        return Err(Failed::asked(format!("there is no sabotage `{which}`"), known.join(", ")));
    }
    let host = std::sync::Arc::new(scratch);
    let lab = Lab::new(Box::new(Shared(host.clone())), source.folder.clone(), source.text.clone());
    screen::talk(&format!("{}, as it is", screen::bold(system)));
    let before = look(&lab, system, ledger, scope).await?;
    let mut matrix = Vec::new();
    for sabotage in chosen {
        screen::talk(&format!("{}: {}", screen::bold("sabotage"), sabotage.name));
        // A stamp that was spoilt is not mended: the next one begins from nothing.
        host.clear().await?;
        let manifest = sabotage.manifest(&source.text)?;
        let lab = Lab::new(Box::new(Shared(host.clone())), source.folder.clone(), manifest);
        if let Err(miss) = sabotage.spoil(&lab, FIRST).await {
            let fault = format!("it could not be spoilt: {miss:?}");
            screen::talk(&format!("  {} {fault}", screen::red("✗")));
            matrix.push((sabotage.name.clone(), Vec::new(), vec![fault]));
            continue;
        }
        // What only looks, and what the sabotage is about.
        let near = Scope { fast: true, also: sabotage.fails.clone(), ..scope.clone() };
        let with = look(&lab, system, ledger, &near).await?;
        let faults = sabotage.faults(&before, &with);
        for fault in &faults {
            screen::talk(&format!("  {} {fault}", screen::red("✗")));
        }
        let failed: Vec<String> =
            with.claims.iter().filter(|f| f.outcome == Outcome::Failed).map(|f| f.id.clone()).collect();
        matrix.push((sabotage.name.clone(), failed, faults));
    }
    let unpaired = all.unpaired(ledger);
    if json {
        let rows: Vec<_> = matrix
            .iter()
            .map(|(name, failed, faults)| serde_json::json!({ "sabotage": name, "failed": failed, "faults": faults }))
            .collect();
        screen::data(&serde_json::json!({ "system": system, "sabotages": rows, "unpaired": unpaired }).to_string());
    } else {
        let rows: Vec<Vec<String>> = matrix
            .iter()
            .map(|(name, failed, faults)| {
                vec![if faults.is_empty() { "ok" } else { "WRONG" }.into(), name.clone(), failed.join(" ")]
            })
            .collect();
        screen::table(&["", "SABOTAGE", "ROWS THAT FAIL WITH IT"], &rows);
        if !unpaired.is_empty() {
            screen::talk(&format!("checks that no sabotage makes fail: {}", unpaired.join(" ")));
            for without in &all.without {
                screen::talk(&format!("  {}: {}", without.claim, without.why));
            }
        }
    }
    Ok(ExitCode::from(u8::from(matrix.iter().any(|(_, _, faults)| !faults.is_empty()))))
}

/// Where evidence was written.
struct Kept {
    page: PathBuf,
    digest: String,
    changed: usize,
}

/// Writes JSON and page, and notes the digest in the home's chain of evidence.
async fn keep(
    home: &Home,
    title: &str,
    manifest: &str,
    claims: &str,
    report: &Report,
    seconds: f64,
) -> anyhow::Result<Kept> {
    let now = jiff::Timestamp::now();
    let all = home.root().join("evidence").join(&report.system);
    let folder = all.join(now.strftime("%Y%m%dT%H%M%SZ").to_string());
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let older = latest(&all, &folder).unwrap_or_default();
    let binary = std::fs::read(std::env::current_exe()?)?;
    let run = Evidence {
        evidence: 1,
        system: report.system.clone(),
        title: title.to_owned(),
        time: now.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        binary: supervisor::digest(&binary),
        manifest: supervisor::digest(manifest.as_bytes()),
        claims: supervisor::digest(claims.as_bytes()),
        machine: machine(),
        seconds: (seconds * 10.0).round() / 10.0,
        changed: Evidence::changes(report, &older),
        report: prove::Flat { claims: report.claims.clone() },
    };
    let digest = run.digest();
    let page = folder.join("index.html");
    for (path, text) in [(folder.join("evidence.json"), run.json()), (page.clone(), prove::page(&run, report)?)] {
        evidence::write(&path, &text)?;
    }
    let mut detail = serde_json::Map::new();
    detail.insert("digest".into(), digest.clone().into());
    detail.insert("folder".into(), folder.display().to_string().into());
    for outcome in Outcome::ALL {
        detail.insert(outcome.word().into(), report.count(outcome).into());
    }
    evidence::note(home, "prove.run", &report.system, detail).await?;
    Ok(Kept { page, digest, changed: run.changed.len() })
}

/// The text of the newest evidence but that in `own`.
fn latest(all: &Path, own: &Path) -> Option<String> {
    let entries = std::fs::read_dir(all).ok()?.flatten().map(|e| e.path());
    let mut folders: Vec<PathBuf> = entries.filter(|p| p != own && p.join("evidence.json").exists()).collect();
    folders.sort();
    std::fs::read_to_string(folders.pop()?.join("evidence.json")).ok()
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory = read("/proc/meminfo").lines().next().unwrap_or_default().replace("MemTotal:", "");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("Linux {}, {cores} cores, {} of memory", kernel.trim(), memory.trim())
}

fn show(report: &Report, asked: &str, kept: &Kept, seconds: f64, json: bool) {
    if json {
        let mut object = serde_json::Map::from_iter([("system".to_owned(), report.system.clone().into())]);
        for outcome in Outcome::ALL {
            object.insert(outcome.word().into(), report.count(outcome).into());
        }
        let row = |f: &Finding| {
            serde_json::json!({
                "id": f.id, "area": f.area, "outcome": f.outcome, "check": f.check, "observed": f.observed, "seconds": f.seconds,
            })
        };
        object.insert("claims".into(), report.claims.iter().map(row).collect());
        screen::data(&serde_json::Value::Object(object).to_string());
        return;
    }
    let mut head = vec!["AREA"];
    let words: Vec<String> = Outcome::ALL.iter().map(|o| o.word().replace('_', " ").to_uppercase()).collect();
    head.extend(words.iter().map(String::as_str));
    let rows: Vec<Vec<String>> = report
        .areas()
        .into_iter()
        .map(|(name, counts)| {
            std::iter::once(name)
                .chain(counts.iter().map(|n| if *n == 0 { "·".into() } else { n.to_string() }))
                .collect()
        })
        .collect();
    screen::talk("");
    screen::table(&head, &rows);
    let failed: BTreeMap<&str, &str> = report
        .claims
        .iter()
        .filter(|f| f.outcome == Outcome::Failed)
        .map(|f| (f.id.as_str(), f.observed.as_str()))
        .collect();
    for (id, why) in &failed {
        screen::talk(&format!("{} {id}: {why}", screen::red("failed")));
    }
    let call = std::env::var(crate::env::STAMP_CALLED).unwrap_or_else(|_| "stamp".into());
    screen::talk("");
    screen::talk(&format!("{seconds:.1} s; evidence {}", screen::cyan(&kept.page.display().to_string())));
    screen::talk(&screen::dim(&format!(
        "SHA-256 {} is noted in the chain of evidence; {} rows changed since the run before",
        kept.digest, kept.changed
    )));
    if let Some(id) = failed.keys().next() {
        screen::talk(&format!("  {call} prove {asked} --claim {id}  {}", screen::dim("# that row alone")));
    }
}
