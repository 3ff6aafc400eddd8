//! `stamp audit`: the chain checked offline, records shown.

use std::{path::Path, process::ExitCode};

use api::{client::Client, supervisor::Failure};
use supervisor::Places;

use crate::{arguments::Of, connect, failure::Failed, screen, target};

pub fn verify(system: &str, stamp: &str, json: bool) -> anyhow::Result<ExitCode> {
    let path = Path::new(system);
    let folder = if path.is_dir() && !path.join("system.toml").exists() {
        path.to_owned()
    } else {
        let name = target::name(system)?;
        let places = Places::of(&connect::home()?, &name, stamp).map_err(|e| Failed(e.failure()))?;
        let audit = places
            .first("audit")
            .ok_or_else(|| Failed::asked(format!("{name} declares no audit"), "add `[audit.main]` to system.toml"))?;
        places.data(&audit)
    };
    match audit::verify(&folder) {
        Ok(report) => {
            if json {
                screen::data(&serde_json::to_string(&report)?);
            } else {
                screen::talk(&format!("{} the chain of {} is whole", screen::green("✓"), folder.display()));
                screen::data(&serde_json::to_string_pretty(&report)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(broken) => {
            let error = anyhow::Error::from(broken);
            let mut chain = error.chain().map(ToString::to_string);
            Err(Failed(Failure {
                code: "S0301".into(),
                message: chain.next().unwrap_or_default(),
                causes: chain.collect(),
                hint: Some("keep this folder as it is, and compare it with a copy".into()),
                exit: 1,
                ..Failure::default()
            })
            .into())
        }
    }
}

pub async fn show(of: &Of, actor: Option<String>, lines: usize, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let places = Places::of(&connect::home()?, &system, &of.stamp).map_err(|e| Failed(e.failure()))?;
    let audit = places
        .first("audit")
        .ok_or_else(|| Failed::asked(format!("{system} declares no audit"), "add `[audit.main]` to system.toml"))?;
    let mut path = format!("/records?limit={lines}");
    if let Some(actor) = actor {
        let actor: String = url::form_urlencoded::byte_serialize(actor.as_bytes()).collect();
        path.push_str(&format!("&actor={actor}"));
    }
    let answer: serde_json::Value = Client::unix(places.control(&audit)).get(&path).await?;
    show_records(&answer, json);
    Ok(ExitCode::SUCCESS)
}

pub async fn acts(system: Option<&str>, stamp: Option<&str>, lines: usize, json: bool) -> anyhow::Result<ExitCode> {
    let client = connect::supervisor(&connect::home()?).await?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &lines.to_string());
    if let Some(system) = system {
        query.append_pair("system", &target::name(system)?);
    }
    if let Some(stamp) = stamp {
        query.append_pair("stamp", stamp);
    }
    let answer: serde_json::Value = client.get(&format!("/acts?{}", query.finish())).await?;
    show_records(&answer, json);
    Ok(ExitCode::SUCCESS)
}

fn show_records(answer: &serde_json::Value, json: bool) {
    if json {
        screen::data(&answer.to_string());
        return;
    }
    let records = answer.as_array().or_else(|| answer["records"].as_array()).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for record in &records {
        let event = match &record["event"] {
            serde_json::Value::String(text) => serde_json::from_str(text).unwrap_or(serde_json::Value::Null),
            other => other.clone(),
        };
        let word = |k: &str| event[k].as_str().unwrap_or_default().to_owned();
        let time = event["time_ms"].as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        rows.push(vec![
            time.map(|t| t.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default(),
            word("actor"),
            word("action"),
            word("outcome"),
            word("object"),
        ]);
    }
    screen::table(&["TIME (UTC)", "WHO", "WHAT", "OUTCOME", "TO"], &rows);
}
