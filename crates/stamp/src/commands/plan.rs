//! `stamp plan`: what `up` would do. It reads the manifest only; nothing needs to run.

use std::process::ExitCode;

use api::supervisor::Failure;
use model::{Manifest, System, plan};

use crate::{arguments::Of, failure::Failed, screen, target};

/// The manifest for one stamp; its faults as they are shown.
pub fn resolve(source: &target::Source, stamp: &str) -> anyhow::Result<System> {
    let shown = std::env::current_dir()
        .ok()
        .and_then(|here| source.file.strip_prefix(here).ok().map(|p| p.display().to_string()))
        .unwrap_or_else(|| source.file.display().to_string());
    let faults = match Manifest::parse(&source.text).and_then(|manifest| manifest.resolve(stamp)) {
        Ok(system) => return Ok(system),
        Err(faults) => faults,
    };
    let text = model::render_all(&faults, &shown, &source.text, screen::is_live());
    Err(Failed(Failure {
        code: "S0100".into(),
        message: format!("{shown} has {} fault{}", faults.len(), if faults.len() == 1 { "" } else { "s" }),
        lines: text.lines().map(str::to_owned).collect(),
        exit: 2,
        ..Failure::default()
    })
    .into())
}

pub fn run(of: &Of, json: bool) -> anyhow::Result<ExitCode> {
    let source = target::read(&of.system)?;
    let system = resolve(&source, &of.stamp)?;
    let steps = plan::up(&system, &plan::Observed::default());
    let later: Vec<String> =
        system.resources.iter().filter(|(_, r)| !r.is_provided()).map(|(id, _)| id.to_string()).collect();
    if json {
        let object = serde_json::json!({
            "system": system.name, "stamp": of.stamp, "steps": steps.steps, "not_built": later, "not_carried_out": system.unbuilt,
        });
        screen::data(&object.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    screen::data(&format!("{}/{} from nothing: {} steps", system.name, of.stamp, steps.steps.len()));
    for step in &steps.steps {
        let needs = if step.needs.is_empty() { String::new() } else { format!("  (after {})", step.needs.join(", ")) };
        screen::data(&format!("  {}{needs}", step.id));
    }
    for id in &later {
        screen::data(&format!("  not built yet, `up` leaves it out: {id}"));
    }
    for path in system.unbuilt.iter().filter(|p| !later.contains(p)) {
        screen::data(&format!("  declared and not carried out yet: {path}"));
    }
    Ok(ExitCode::SUCCESS)
}
