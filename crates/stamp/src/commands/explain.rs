//! `stamp explain` and `stamp schema`: pages that are built in.

use std::process::ExitCode;

use crate::{failure::Failed, screen};

include!(concat!(env!("OUT_DIR"), "/pages.rs"));

pub fn run(code: &str, json: bool) -> anyhow::Result<ExitCode> {
    let code = code.to_ascii_uppercase();
    let Some((_, page)) = PAGES.iter().find(|(name, _)| *name == code) else {
        let known: Vec<&str> = PAGES.iter().map(|(name, _)| *name).collect();
        return Err(Failed::asked(format!("there is no error code {code}"), format!("there is: {}", known.join(", "))));
    };
    if json {
        screen::data(&serde_json::json!({ "code": code, "page": page }).to_string());
    } else {
        screen::data(page.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

pub fn schema() -> anyhow::Result<ExitCode> {
    screen::data(&serde_json::to_string_pretty(&model::schema())?);
    Ok(ExitCode::SUCCESS)
}
