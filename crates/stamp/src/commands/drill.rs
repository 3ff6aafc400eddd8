//! `stamp drill`: something is broken on purpose under load, brought back, and measured.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use prove::{Drill, Lab, Measured, Miss, Moment};
use supervisor::Home;

use crate::{
    arguments::DrillOf,
    connect, evidence,
    failure::Failed,
    scratch::{Person, Scratch, Shared},
    screen, target,
};

pub async fn run(of: &DrillOf, json: bool) -> anyhow::Result<ExitCode> {
    let Some(name) = &of.name else { return list(json) };
    let Some(drill) = prove::drill(name) else {
        let known: Vec<&str> = prove::drills().iter().map(|d| d.name).collect();
        return Err(Failed::asked(format!("there is no drill `{name}`"), format!("there is: {}", known.join(", "))));
    };
    let person = connect::home()?;
    match &of.on {
        Some(stamp) => on_a_stamp(of, drill, stamp, person, json).await,
        None => on_a_scratch_stamp(of, drill, &person, json).await,
    }
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let all: Vec<_> =
            prove::drills().iter().map(|d| serde_json::json!({ "drill": d.name, "about": d.about })).collect();
        screen::data(&serde_json::Value::from(all).to_string());
    } else {
        let rows: Vec<Vec<String>> = prove::drills().iter().map(|d| vec![d.name.into(), d.about.into()]).collect();
        screen::table(&["DRILL", "WHAT IS BROKEN, AND WHAT MUST HOLD"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

async fn on_a_scratch_stamp(of: &DrillOf, drill: &Drill, person: &Home, json: bool) -> anyhow::Result<ExitCode> {
    let source = target::read(&of.system)?;
    let system = super::plan::resolve(&source, &of.stamp)?;
    screen::talk(&format!("{} {}: {}", screen::bold("drill"), drill.name, drill.about));
    screen::talk(&screen::dim(&format!("  bringing a scratch stamp of {}/{} up", system.name, of.stamp)));
    let scratch = Scratch::make(person, &source, &system.name, drill.disk, super::prove::tell_step).await?;
    let home = scratch.home().clone();
    let lab = Lab::new(Box::new(Shared(Arc::new(scratch))), source.folder.clone(), source.text.clone());
    let ended = until_stopped(prove::run_drill(&lab, &of.stamp, drill, &of.load, &tell)).await;
    Scratch::end(&home).await;
    show(person, ended?, json).await
}

async fn on_a_stamp(of: &DrillOf, drill: &Drill, stamp: &str, person: Home, json: bool) -> anyhow::Result<ExitCode> {
    if drill.scratch_only {
        let hint = format!("without `--on` it is run on a scratch stamp: drill {} {}", of.system, drill.name);
        return Err(Failed::asked(format!("{} is never run on a stamp of yours", drill.name), hint));
    }
    let name = target::name(&of.system)?;
    let host = Person::stamp(person.clone(), &name, stamp).await?;
    let (folder, manifest) = (host.request.folder.clone(), host.request.manifest.clone());
    let system = supervisor::resolve(&manifest, stamp)?;
    if system.protected {
        return Err(Failed::asked(
            format!("{name}/{stamp} is protected: its manifest says `protected = true`"),
            format!("without `--on` the drill is run on a scratch stamp of the same kind: --stamp {stamp}"),
        ));
    }
    screen::talk(&format!("{} {}: {}", screen::bold("drill"), drill.name, drill.about));
    if !of.yes {
        screen::talk(&format!("This breaks {name}/{stamp} on purpose, and leaves rows of four made-up people in it."));
        super::down::confirm(stamp, "nothing was broken")?;
    }
    let lab = Lab::new(Box::new(host), folder, manifest);
    let ended = until_stopped(prove::run_drill(&lab, stamp, drill, &of.load, &tell)).await;
    if ended.is_err() {
        // Whatever stopped it: the stamp is brought back to what its manifest says.
        let _ = lab.restore(stamp).await;
    }
    show(&person, ended?, json).await
}

async fn until_stopped(work: impl Future<Output = Result<Measured, Miss>>) -> anyhow::Result<Measured> {
    let ended = tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => return Err(Failed::asked("it was stopped", "run it again")),
    };
    ended.map_err(|miss| match miss {
        Miss::NotHere { why, command } => Failed::world(why, format!("refused: {command}")),
        Miss::Failed(why) | Miss::Substituted(why) => {
            Failed::world(format!("the drill could not begin: {why}"), "`stamp status` and `stamp logs` say more")
        }
    })
}

fn tell(moment: &Moment) {
    screen::talk(&format!("{} {}", screen::dim(&format!("{:>9} ms", moment.ms)), moment.what));
}

async fn show(home: &Home, measured: Measured, json: bool) -> anyhow::Result<ExitCode> {
    let path = keep(home, &measured).await?;
    let code = ExitCode::from(u8::from(!measured.met));
    if json {
        screen::data(&serde_json::to_string(&measured)?);
        return Ok(code);
    }
    let declared = |limit: Option<u64>| limit.map_or("-".to_owned(), |ms| format!("{ms} ms"));
    let rows = vec![
        vec!["recovery time".into(), format!("{} ms", measured.rto_ms), declared(measured.objective.rto_ms)],
        vec!["recovery point".into(), format!("{} ms", measured.rpo_ms), declared(measured.objective.rpo_ms)],
        vec!["acknowledged writes".into(), measured.acknowledged.to_string(), String::new()],
        vec!["of them lost".into(), measured.lost.to_string(), String::new()],
        vec!["taken back on purpose".into(), measured.undone.to_string(), String::new()],
        vec!["longest time without a write".into(), format!("{} ms", measured.longest_gap_ms), String::new()],
        vec!["requests, p95".into(), format!("{}, {} ms", measured.requests, measured.p95_ms), String::new()],
    ];
    screen::talk("");
    screen::table(&["", "MEASURED", "DECLARED"], &rows);
    for (kind, count) in &measured.troubles {
        screen::talk(&screen::dim(&format!("  {count} requests: {kind}")));
    }
    for why in &measured.failed {
        screen::talk(&format!("{} {why}", screen::red("not kept:")));
    }
    let verdict = if measured.met { screen::green("✓ kept") } else { screen::red("✗ not kept") };
    screen::talk(&format!("{verdict}  {}", measured.observed));
    screen::talk(&format!("evidence {}", screen::cyan(&path)));
    Ok(code)
}

/// Writes the measurement beside the evidence of `prove`, and notes its digest in the same chain.
async fn keep(home: &Home, measured: &Measured) -> anyhow::Result<String> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let folder = home.root().join("evidence").join(&measured.system).join("drills");
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let path = folder.join(format!("{}-{now}.json", measured.drill));
    let text = serde_json::to_string_pretty(measured)? + "\n";
    evidence::write(&path, &text)?;
    let detail = [
        ("drill".to_owned(), measured.drill.clone().into()),
        ("digest".to_owned(), supervisor::digest(text.as_bytes()).into()),
        ("met".to_owned(), measured.met.into()),
    ];
    evidence::note(home, "drill.run", &measured.system, detail.into_iter().collect()).await?;
    Ok(path.display().to_string())
}
