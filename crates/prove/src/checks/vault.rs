//! Secrets: who reads them, where they lie, how they end.

use std::path::Path;

use api::client::Client;
use serde_json::{Value, json};

use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    harm::kill,
    inside::{Ask, Saw, Value as Told},
    miss, must,
    site::until,
};

const VERSION: &str = "api-version=7.4";
const DAY_MS: i64 = 86_400_000;

pub(super) async fn call(client: &Client, method: &str, path: &str, body: Value) -> Result<(u16, Value), Miss> {
    let body = (!body.is_null()).then(|| ("application/json", body.to_string().into()));
    let answer = client.send(method, &format!("{path}?{VERSION}"), body).await?;
    Ok((answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default()))
}

/// A name that no other check uses.
pub(super) fn fresh() -> String {
    format!("Check-{}", uuid::Uuid::new_v4().simple())
}

/// Files under `folder`, at most 64 MiB each, that hold `needle`.
pub fn files_with(folder: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && entry.metadata().is_ok_and(|m| m.len() < 64 << 20)
                && std::fs::read(entry.path())
                    .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
            {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

/// The stamp's own folder: what all places of its workloads have in common.
pub fn folder(site: &Site) -> Result<std::path::PathBuf, Miss> {
    let place = site.places.values().next().ok_or_else(|| Miss::Failed("nothing runs".into()))?;
    let folder = place.ancestors().find(|a| site.places.values().all(|p| p.starts_with(a)));
    folder.map(Path::to_owned).ok_or_else(|| Miss::Failed("the stamp has no folder".into()))
}

/// `reference(SERVICE, VARIABLE, SECRET[, sql])`; `sql`: the value must open the database.
pub async fn reference(lab: &Lab, on: &str, call_: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, variable, secret) = (call_.argument(0, "web"), call_.argument(1, ""), call_.argument(2, ""));
    let mut asks = vec![Ask::Environment { names: vec![variable.into()] }];
    if call_.argument(3, "") == "sql" {
        asks.push(Ask::Sql { variable: variable.into(), statements: vec!["SELECT 1".into()] });
    }
    let saw = site.inside(service, &asks).await?;
    let Some(Saw::Environment(values)) = saw.first() else { miss!("{saw:?}") };
    must!(
        saw.get(1).is_none_or(|s| matches!(s, Saw::Sql(_))),
        "the value does not open the database: {:?}",
        saw.get(1)
    );
    let Some(Some(held)) = values.get(variable) else { miss!("{variable} is not set in the service's place") };
    // As the service, so that a secret it may not read cannot pass.
    let client = site.vault(&format!("service.{service}")).await?;
    let (status, body) = call(&client, "GET", &format!("/secrets/{secret}"), Value::Null).await?;
    must!(status == 200, "the service reads {secret}: {status} {body}");
    let value = body["value"].as_str().unwrap_or_default();
    must!(*held == Told::of(value), "the value that the process holds is not the vault's");
    let place = site.places.get(&format!("service.{service}")).ok_or_else(|| Miss::Failed("no place".into()))?;
    let stored = format!("SecretName={secret})");
    let references = files_with(place, stored.as_bytes());
    must!(!references.is_empty(), "no stored setting of the service holds the reference to {secret}");
    let leaks = files_with(&folder(&site)?, value.as_bytes());
    must!(leaks.is_empty(), "the value lies in {leaks:?}");
    if call_.argument(3, "") == "telemetry" {
        super::telemetry::arrives(&site, service).await?;
    }
    Ok(format!(
        "{variable}: stored as a reference in {}, resolved in the process ({} bytes), in no file",
        references.len(),
        held.length
    ))
}

pub async fn lifecycle(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let client = site.vault("supervisor").await?;
    let (name, value) = (fresh(), fresh());
    let path = format!("/secrets/{name}");
    let (put, first) = call(&client, "PUT", &path, json!({ "value": value })).await?;
    let (again, _) = call(&client, "PUT", &path, json!({ "value": format!("{value}-2") })).await?;
    must!((put, again) == (200, 200), "putting it twice answers {put} and {again}");
    let (_, latest) = call(&client, "GET", &path, Value::Null).await?;
    must!(latest["value"] == format!("{value}-2"), "the latest version is not what was put last");
    let version = first["id"].as_str().and_then(|id| id.rsplit('/').next()).unwrap_or_default().to_owned();
    let (_, old) = call(&client, "GET", &format!("{path}/{version}"), Value::Null).await?;
    must!(old["value"] == value, "the first version is lost");
    let (_, versions) = call(&client, "GET", &format!("{path}/versions"), Value::Null).await?;
    let count = versions["value"].as_array().map_or(0, Vec::len);
    must!(count == 2, "it has {count} versions, not 2");
    let leaks = files_with(&folder(&site)?, value.as_bytes());
    must!(leaks.is_empty(), "the value lies in {leaks:?}");
    let (deleted, _) = call(&client, "DELETE", &path, Value::Null).await?;
    let (gone, _) = call(&client, "GET", &path, Value::Null).await?;
    must!((deleted, gone) == (200, 404), "deleted ({deleted}), it answers {gone}");
    Ok("put, read, two versions, deleted; no file of the stamp holds its value in the clear".into())
}

/// `right_of_service(SERVICE, SECRET)`.
pub async fn right_of_service(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, secret) = (c.argument(0, "web"), c.argument(1, ""));
    let vault = site.vault_of(&format!("service.{service}"))?;
    let url = site.url(&vault)?;
    // What is written over and deleted, should that be allowed, is nobody's.
    let victim = fresh();
    let operator = site.vault_at(&vault, "supervisor").await?;
    let made = call(&operator, "PUT", &format!("/secrets/{victim}"), json!({ "value": "v" })).await?;
    must!(made.0 == 200, "making a secret to try it on answers {}", made.0);
    let ask = |name: &str, method: &str, body: Option<&str>| Ask::Http {
        method: method.into(),
        url: format!("{url}/secrets/{name}?{VERSION}"),
        resource: Some("https://vault.azure.net".into()),
        body: body.map(str::to_owned),
        headers: Default::default(),
        told: false,
    };
    let asks = [
        ask(secret, "GET", None),
        ask(&victim, "PUT", Some(r#"{"value":"taken over"}"#)),
        ask(&victim, "DELETE", None),
    ];
    let statuses: Vec<String> = site.inside(service, &asks).await?.iter().map(status).collect();
    must!(
        statuses == ["200", "403", "403"],
        "reading {secret}, writing and deleting another as the service: {statuses:?}"
    );
    Ok(format!(
        "as the service, through its identity endpoint: read {}, write {}, delete {}",
        statuses[0], statuses[1], statuses[2]
    ))
}

fn status(saw: &Saw) -> String {
    match saw {
        Saw::Http { status, .. } => status.to_string(),
        other => format!("{other:?}"),
    }
}

/// `role_decides(SERVICE, SECRET)`: a secret that the service has no role for.
pub async fn role_decides(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (workload, secret) = (format!("service.{}", c.argument(0, "web")), c.argument(1, ""));
    let vault = site.first("vault")?;
    let path = format!("/secrets/{secret}");
    let (before, _) = call(&site.vault(&workload).await?, "GET", &path, Value::Null).await?;
    must!(before == 403, "without a role for it the service asks for {secret} and gets {before}");
    let granted = async {
        let site = lab.changed(on, &granting(&site.manifest, &vault, &workload, secret)?).await?;
        let client = site.vault(&workload).await?;
        until("the role counts", async || {
            let (status, body) = call(&client, "GET", &path, Value::Null).await?;
            must!(status == 200, "{status} {}", body["error"]["code"]);
            Ok(status)
        })
        .await
    }
    .await;
    let site = lab.restore(on).await?;
    let client = site.vault(&workload).await?;
    let after = until("the role is gone", async || {
        let (status, _) = call(&client, "GET", &path, Value::Null).await?;
        must!(status == 403, "{status}");
        Ok(status)
    })
    .await?;
    Ok(format!("without a role {before}, with the reader's role {}, taken away {after}", granted?))
}

/// TOML that gives `workload` the reader's role for one secret, beside all that the vault has.
fn granting(manifest: &str, vault: &str, workload: &str, secret: &str) -> Result<String, Miss> {
    let document: toml_edit::DocumentMut = manifest.parse()?;
    let name = vault.trim_start_matches("vault.");
    let access = document.get("vault").and_then(|v| v.get(name)?.get("access")?.as_array());
    let mut access = access.cloned().ok_or_else(|| Miss::Failed(format!("{vault} has no access list")))?;
    let mut grant = toml_edit::InlineTable::new();
    grant.insert("to", workload.into());
    grant.insert("role", "Key Vault Secrets User".into());
    grant.insert("secrets", toml_edit::Value::Array([secret].into_iter().collect()));
    access.push(grant);
    Ok(format!("[vault.{name}]\naccess = {access}"))
}

/// `refused_and_audited(SERVICE, SECRET)`: a secret that the service has no role for.
pub async fn refused_and_audited(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (workload, secret) = (format!("service.{}", c.argument(0, "web")), c.argument(1, ""));
    let (status, _) = call(&site.vault(&workload).await?, "GET", &format!("/secrets/{secret}"), Value::Null).await?;
    must!(status == 403, "{workload} asks for {secret} and gets {status}");
    let event = until("the refusal is in the record", async || {
        let events = site.audited(&workload).await?;
        let of = |e: &&api::audit::Event| e.object.contains(secret) && e.outcome == api::audit::Outcome::Denied;
        events.iter().find(of).cloned().ok_or_else(|| Miss::Failed(format!("{} records, none of it", events.len())))
    })
    .await?;
    Ok(format!("403; recorded: {} {} {} {:?}", event.actor, event.action, event.object, event.outcome))
}

/// `soft_delete(DAYS)`.
pub async fn soft_delete(lab: &Lab, on: &str, c: &Call) -> Seen {
    let days: i64 = c.argument(0, "7").parse()?;
    let site = lab.site(on).await?;
    let client = site.vault("supervisor").await?;
    let (kept, lost) = (fresh(), fresh());
    for name in [&kept, &lost] {
        call(&client, "PUT", &format!("/secrets/{name}"), json!({ "value": "v" })).await?;
        let (status, body) = call(&client, "DELETE", &format!("/secrets/{name}"), Value::Null).await?;
        must!(status == 200, "deleting answers {status} {body}");
    }
    let later = async {
        let site = lab.at(on, (days - 1) * DAY_MS).await?;
        let client = site.vault("supervisor").await?;
        let (recovered, body) = call(&client, "POST", &format!("/deletedsecrets/{kept}/recover"), Value::Null).await?;
        must!(recovered == 200, "on day {} it is not recovered: {recovered} {body}", days - 1);
        let (read, _) = call(&client, "GET", &format!("/secrets/{kept}"), Value::Null).await?;
        must!(read == 200, "recovered, it answers {read}");
        let site = lab.at(on, (days + 1) * DAY_MS).await?;
        let client = site.vault("supervisor").await?;
        let (gone, body) = call(&client, "POST", &format!("/deletedsecrets/{lost}/recover"), Value::Null).await?;
        must!(gone == 404, "on day {} it is still there: {gone} {body}", days + 1);
        Ok(format!("day {}: recovered and read; day {}: not found", days - 1, days + 1))
    }
    .await;
    lab.restore(on).await?;
    later
}

/// `purge_protection(PROTECTED STAMP[, OTHER STAMP])`.
pub async fn purge(lab: &Lab, _: &str, c: &Call) -> Seen {
    let protected = purge_in(lab, c.argument(0, "prod"), false).await?;
    let Some(other) = c.arguments.get(1) else { return Ok(protected) };
    Ok(format!("{protected}; {}", purge_in(lab, other, true).await?))
}

async fn purge_in(lab: &Lab, stamp: &str, allowed: bool) -> Seen {
    let site = lab.site(stamp).await?;
    let client = site.vault("supervisor").await?;
    let name = fresh();
    call(&client, "PUT", &format!("/secrets/{name}"), json!({ "value": "v" })).await?;
    call(&client, "DELETE", &format!("/secrets/{name}"), Value::Null).await?;
    let (purged, body) = call(&client, "DELETE", &format!("/deletedsecrets/{name}"), Value::Null).await?;
    let (there, _) = call(&client, "GET", &format!("/deletedsecrets/{name}"), Value::Null).await?;
    if allowed {
        must!((purged, there) == (204, 404), "{stamp}: purging answers {purged}, then it answers {there}");
    } else {
        must!((purged, there) == (403, 200), "{stamp}: purging answers {purged} {body}, then it answers {there}");
    }
    Ok(format!("{stamp}: purging a deleted secret as the highest role {purged}, looked for after {there}"))
}

/// `rotation_reaches_service(SERVICE, VARIABLE, SECRET[, OTHER VAULT])`; the other vault must refuse the service.
pub async fn rotation(lab: &Lab, on: &str, c: &Call) -> Seen {
    // What another check left to be put back is put back first: here nothing may change but the value.
    let site = lab.restore(on).await?;
    let (service, variable, secret) = (c.argument(0, "web"), c.argument(1, ""), c.argument(2, ""));
    let workload = format!("service.{service}");
    let path = format!("/secrets/{secret}");
    let operator = site.vault_at(&site.vault_of(&workload)?, "supervisor").await?;
    let mut refused = String::new();
    if let Some(other) = c.arguments.get(3) {
        let (status, _) = call(&site.vault_at(other, &workload).await?, "GET", &path, Value::Null).await?;
        must!(status == 403, "{other} answers the service {status}");
        refused = format!("; {other} answers the service {status}");
    }
    let (_, old) = call(&site.vault(&workload).await?, "GET", &path, Value::Null).await?;
    let old = old["value"].as_str().unwrap_or_default().to_owned();
    let settings = stored(&site, &workload)?;
    let new = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let (status, _) = call(&operator, "PUT", &path, json!({ "value": new })).await?;
    must!(status == 200, "rotating {secret} answers {status}");
    let pid = site.pids(&workload).get(1).copied().unwrap_or_default();
    let seen = async {
        kill(pid)?;
        let ask = [Ask::Environment { names: vec![variable.into()] }];
        until("the service runs anew", async || {
            let site = lab.restore(on).await?;
            let now = site.pids(&workload).get(1).copied().unwrap_or_default();
            must!(now != 0 && now != pid, "it is still process {now}");
            let environment = std::fs::read(format!("/proc/{now}/environ"))?;
            let prefix = format!("{variable}=");
            let held = environment.split(|b| *b == 0).find_map(|e| e.strip_prefix(prefix.as_bytes()));
            must!(held == Some(new.as_bytes()), "the process that runs holds another value");
            Ok(())
        })
        .await?;
        let saw = site.inside(service, &ask).await?;
        let Some(Saw::Environment(values)) = saw.first() else { miss!("{saw:?}") };
        must!(values.get(variable) == Some(&Some(Told::of(&new))), "in the service's place the old value counts");
        must!(stored(&site, &workload)? == settings, "the stored settings have changed");
        Ok(format!(
            "the restarted process holds the new value; its stored settings are byte for byte the same{refused}"
        ))
    }
    .await;
    call(&operator, "PUT", &path, json!({ "value": old })).await?;
    // Every copy of the service holds the value of its start.
    let copy = format!("{workload}+");
    for resource in &lab.restore(on).await?.status.resources {
        if let (true, Some(pid)) = (resource.name == workload || resource.name.starts_with(&copy), resource.pids.get(1))
        {
            kill(*pid)?;
        }
    }
    until("the service is back", async || {
        let site = lab.restore(on).await?;
        let status = site.client(&site.url("edge")?)?.send("GET", "/health", None).await?.status.as_u16();
        must!(status == 200, "it answers {status}");
        Ok(())
    })
    .await?;
    seen
}

fn stored(site: &Site, workload: &str) -> Result<String, Miss> {
    let place = site.places.get(workload).ok_or_else(|| Miss::Failed(format!("{workload} has no place")))?;
    Ok(std::fs::read_to_string(place.join("shim.json"))?)
}

/// `connection_from_vault(SERVICE, VARIABLE, SECRET)`.
pub async fn connection_from_vault(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, variable, secret) = (c.argument(0, "web"), c.argument(1, ""), c.argument(2, ""));
    let url = site.url(&site.first("vault")?)?;
    let asks = [
        Ask::Http {
            method: "GET".into(),
            url: format!("{url}/secrets/{secret}?{VERSION}"),
            resource: Some("https://vault.azure.net".into()),
            body: None,
            headers: Default::default(),
            told: false,
        },
        Ask::Environment { names: vec![variable.into()] },
        Ask::Sql { variable: variable.into(), statements: vec!["SELECT current_user, 40 + 2".into()] },
    ];
    let saw = site.inside(service, &asks).await?;
    let [Saw::Http { status: 200, value: Some(held), .. }, Saw::Environment(values), Saw::Sql(rows)] = saw.as_slice()
    else {
        let told: Vec<String> = saw.iter().map(status).collect();
        miss!("reading {secret} and asking the database by it: {told:?}")
    };
    must!(values.get(variable) == Some(&Some(held.clone())), "{variable} is not what the vault holds");
    must!(rows.first().is_some_and(|r| r.len() == 1 && r[0][1] == "42"), "the database answers {rows:?}");
    Ok(format!("read with its own identity; the database answers it as {}", rows[0][0][0]))
}

/// `own_vault(OTHER STAMP, SECRET)`.
pub async fn own_vault(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (one, other) = (lab.site(on).await?, lab.site(c.argument(0, "staging")).await?);
    let secret = c.argument(1, "");
    let vault = one.first("vault")?;
    let (here, there) = (one.url(&vault)?, other.url(&vault)?);
    must!(here != there, "both stamps' vaults are at {here}");
    must!(one.seat(&vault)? != other.seat(&vault)?, "both vaults listen at the same address");
    let foreign = other.token("service.web", "https://vault.azure.net").await?;
    let client = one.client(&here)?.bearer(foreign);
    let (status, _) = call(&client, "GET", &format!("/secrets/{secret}"), Value::Null).await?;
    must!(status == 401, "with the other stamp's identity {secret} is answered {status}");
    let (own, _) = call(&one.vault("service.web").await?, "GET", &format!("/secrets/{secret}"), Value::Null).await?;
    must!(own == 200, "with its own identity {secret} is answered {own}");
    Ok(format!("{here} and {there}; the other stamp's identity: {status}, the own one: {own}"))
}
