//! `stamp secret set`, `stamp secret show`, `stamp secret rotate`, `stamp user add` and `stamp user groups`.

use std::{
    io::{IsTerminal as _, Read as _},
    process::ExitCode,
};

use anyhow::Context as _;
use api::{
    Secret,
    identity::{User, UserAnswer},
    supervisor::{GroupsRequest, RotateRequest, Rotated, SecretRef, UserRequest},
};

use crate::{arguments::Of, connect, failure::Failed, screen, target};

/// The value alone goes to standard output, so that it can be piped to whom it is for.
pub async fn show_secret(of: &Of, name: String, vault: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let request = SecretRef { system, stamp: of.stamp.clone(), vault, name };
    let body = Some(("application/json", serde_json::to_vec(&request)?.into()));
    let answer: api::supervisor::SecretValue =
        connect::answer(&client, client.send("POST", "/secret/show", body).await?)?;
    if json {
        screen::data(&serde_json::json!({ "name": request.name, "value": answer.value.expose() }).to_string());
    } else {
        screen::data(answer.value.expose());
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn set_secret(of: &Of, name: String, vault: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    if std::io::stdin().is_terminal() {
        screen::talk(&format!("Type the value of {name}, then Ctrl-D:"));
    }
    let mut value = String::new();
    std::io::stdin().read_to_string(&mut value).context("could not read the value from standard input")?;
    let value = Secret::new(value.strip_suffix('\n').unwrap_or(&value));
    if value.expose().is_empty() {
        return Err(Failed::asked(
            "the value is empty",
            format!("printf %s VALUE | stamp secret set {} {name}", of.system),
        ));
    }
    let client = connect::supervisor(&connect::home()?).await?;
    let body = Secret::new(
        serde_json::json!({ "system": system, "stamp": of.stamp, "vault": vault, "name": name, "value": value.expose() }).to_string(),
    );
    let bytes = bytes::Bytes::copy_from_slice(body.expose().as_bytes());
    let answer: serde_json::Value =
        connect::answer(&client, client.send("POST", "/secret", Some(("application/json", bytes))).await?)?;
    if json {
        screen::data(&answer.to_string());
    } else {
        screen::talk(&format!(
            "{} {name} is set in {}",
            screen::green("✓"),
            answer["vault"].as_str().unwrap_or_default()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn rotate_secret(of: &Of, name: String, vault: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let body = serde_json::to_vec(&RotateRequest { system, stamp: of.stamp.clone(), vault, name })?;
    let answer = client.send("POST", "/secret/rotate", Some(("application/json", body.into()))).await?;
    let rotated: Rotated = connect::answer(&client, answer)?;
    if json {
        screen::data(&serde_json::to_string(&rotated)?);
        return Ok(ExitCode::SUCCESS);
    }
    screen::talk(&format!("{} {} has another value in {}", screen::green("✓"), rotated.name, rotated.vault));
    if !rotated.restarted.is_empty() {
        screen::talk(&format!("started anew with it: {}", rotated.restarted.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn add(
    of: &Of,
    email: String,
    name: Option<String>,
    groups: Vec<String>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let name = name.unwrap_or_else(|| email.split('@').next().unwrap_or(&email).to_owned());
    let request = UserRequest { system, stamp: of.stamp.clone(), email: email.clone(), name, groups };
    let body = serde_json::to_vec(&request)?;
    let answer: UserAnswer =
        connect::answer(&client, client.send("POST", "/user", Some(("application/json", body.into()))).await?)?;
    if json {
        screen::data(&serde_json::to_string(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    let done = if answer.created { "is invited" } else { "was known; groups are as given" };
    screen::talk(&format!("{} {email} {done}", screen::green("✓")));
    if let Some(link) = answer.link {
        screen::talk("The link sets the password; it works once, within 24 hours:");
        screen::data(&link);
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn groups(of: &Of, email: String, groups: Vec<String>, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let request = GroupsRequest { system, stamp: of.stamp.clone(), email, groups };
    let body = serde_json::to_vec(&request)?;
    let answer = client.send("POST", "/user/groups", Some(("application/json", body.into()))).await?;
    let user: User = connect::answer(&client, answer)?;
    if json {
        screen::data(&serde_json::to_string(&user)?);
        return Ok(ExitCode::SUCCESS);
    }
    let groups = if user.groups.is_empty() { "no group".to_owned() } else { user.groups.join(", ") };
    screen::talk(&format!("{} {} is in {groups}, from the next sign-in on", screen::green("✓"), user.email));
    Ok(ExitCode::SUCCESS)
}
