//! What each operation does, once the caller is known and allowed.

use std::sync::Arc;

use aws_lc_rs::rand;
use axum::{body::Bytes, http::StatusCode};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rusqlite::Connection;
use serde_json::{Map, Value, json};

use crate::{
    backup,
    bundle::{Bundles, RestoreBody, SetBody, UpdateBody, parse, with_value},
    operation::Operation,
    refusal::Refusal,
    rows::{self, Deletion, Version},
    vault::{Answer, Ask, Vault},
};

const PAGE: usize = 25;
const DAY_S: i64 = 86_400;

impl Ask {
    fn bundles(&self) -> Bundles<'_> {
        Bundles { settings: &self.settings, authority: &self.authority }
    }
}

/// Does and records what is asked.
pub async fn answer(vault: &Arc<Vault>, ask: Ask) -> Result<Answer, Refusal> {
    match &ask.operation {
        Some(Operation::Get { name, version }) => {
            let result = get(vault, &ask, name, version.as_deref()).await;
            vault.record(&ask, &result).await?;
            result
        }
        _ => {
            let vault = vault.clone();
            // The database and the spool block.
            let done = tokio::task::spawn_blocking(move || blocking(&vault, &ask)).await;
            done.unwrap_or_else(|_| Err(Refusal::internal()))
        }
    }
}

async fn get(vault: &Arc<Vault>, ask: &Ask, name: &str, version: Option<&str>) -> Result<Answer, Refusal> {
    let row = match vault.store.cached(name, version) {
        Some(row) => row,
        None => {
            let (vault, name, version) = (vault.clone(), name.to_owned(), version.map(str::to_owned));
            let load = tokio::task::spawn_blocking(move || {
                let row = vault.store.load(&name, version.as_deref())?;
                row.ok_or_else(|| Refusal::not_found(&name))
            });
            load.await.unwrap_or_else(|_| Err(Refusal::internal()))?
        }
    };
    if !row.enabled {
        return Err(Refusal::disabled("get"));
    }
    let value = vault.store.unseal(&row)?;
    let text = std::str::from_utf8(&value).map_err(|_| Refusal::internal())?;
    let body = with_value(&ask.bundles().version(&row), text);
    Ok(Answer { status: StatusCode::OK, body, version: Some((row.version.clone(), row.key)), name: None })
}

fn blocking(vault: &Vault, ask: &Ask) -> Result<Answer, Refusal> {
    // Bodies are read inside, so that what cannot be read is recorded as well.
    vault.change(ask, |db| match &ask.operation {
        Some(Operation::Set { name }) => set(vault, ask, db, name),
        Some(Operation::Update { name, version }) => update(vault, ask, db, name, version.as_deref()),
        Some(Operation::Delete { name }) => delete(vault, ask, db, name),
        Some(Operation::Recover { name }) => {
            let (row, _) = deleted_row(db, name)?;
            rows::set_deletion(db, name, None)?;
            Ok(Answer::json(&ask.bundles().version(&row)))
        }
        Some(Operation::Purge { name }) => {
            deleted_row(db, name)?;
            if ask.settings.config.purge_protection {
                return Err(Refusal::purge_protected());
            }
            rows::purge(db, name)?;
            Ok(Answer { status: StatusCode::NO_CONTENT, body: Bytes::new(), version: None, name: None })
        }
        Some(Operation::Restore) => restore(vault, ask, db),
        Some(Operation::Backup { name }) => {
            live(db, name)?;
            let rows = rows::versions(db, name, 0, usize::MAX)?;
            Ok(Answer::json(&json!({ "value": backup::make(&vault.backup_key, &vault.store.keys(), &rows)? })))
        }
        Some(Operation::List) => list(ask, db, false),
        Some(Operation::ListDeleted) => list(ask, db, true),
        Some(Operation::ListVersions { name }) => list_versions(ask, db, name),
        Some(Operation::GetDeleted { name }) => {
            let (row, deletion) = deleted_row(db, name)?;
            let bundles = ask.bundles();
            Ok(Answer::json(&bundles.deleted(bundles.version(&row), &row.name, deletion)))
        }
        Some(Operation::Keys { create }) => Err(keys(ask, *create)),
        Some(Operation::Get { .. }) | None => Err(Refusal::no_route()),
    })
}

/// The spelling of a secret that is there and not deleted.
fn live(db: &Connection, name: &str) -> Result<(), Refusal> {
    match rows::state(db, name)? {
        Some(None) => Ok(()),
        _ => Err(Refusal::not_found(name)),
    }
}

fn deleted_row(db: &Connection, name: &str) -> Result<(Version, Deletion), Refusal> {
    let Some(Some(deletion)) = rows::state(db, name)? else { return Err(Refusal::deleted_not_found(name)) };
    let row = rows::version(db, name, None)?.ok_or_else(|| Refusal::deleted_not_found(name))?;
    Ok((row, deletion))
}

fn set(vault: &Vault, ask: &Ask, db: &Connection, name: &str) -> Result<Answer, Refusal> {
    let body: SetBody = parse(&ask.body)?;
    let value = body.checked_value()?;
    body.update.check()?;
    let spelled = match rows::state(db, name)? {
        Some(Some(_)) => return Err(Refusal::deleted_but_recoverable(name)),
        Some(None) => rows::version(db, name, None)?.map_or_else(|| name.to_owned(), |row| row.name),
        None => name.to_owned(),
    };
    let mut random = [0u8; 16];
    rand::fill(&mut random).map_err(|_| Refusal::internal())?;
    let version = api::audit::hex(&random);
    let (key, sealed) = vault.store.keys().seal(&spelled, &version, value.expose().as_bytes());
    let now = vault.clock.now_s();
    let mut row = Version {
        name: spelled,
        serial: 0,
        version,
        key,
        sealed,
        content_type: None,
        tags: None,
        enabled: true,
        nbf: None,
        exp: None,
        created: now,
        updated: now,
    };
    let SetBody { value, update } = body;
    update.apply(&mut row);
    rows::insert(db, &row)?;
    let value = value.ok_or_else(Refusal::internal)?;
    let body = with_value(&ask.bundles().version(&row), value.expose());
    Ok(Answer { status: StatusCode::OK, body, version: Some((row.version, row.key)), name: None })
}

fn update(vault: &Vault, ask: &Ask, db: &Connection, name: &str, version: Option<&str>) -> Result<Answer, Refusal> {
    let body: UpdateBody = if ask.body.is_empty() { UpdateBody::default() } else { parse(&ask.body)? };
    body.check()?;
    live(db, name)?;
    let mut row = rows::version(db, name, version)?.ok_or_else(|| Refusal::not_found(name))?;
    body.apply(&mut row);
    row.updated = vault.clock.now_s();
    rows::update(db, &row)?;
    Ok(Answer::json(&ask.bundles().version(&row)).of(&row.version, row.key))
}

fn delete(vault: &Vault, ask: &Ask, db: &Connection, name: &str) -> Result<Answer, Refusal> {
    live(db, name)?;
    let row = rows::version(db, name, None)?.ok_or_else(|| Refusal::not_found(name))?;
    let deleted = vault.clock.now_s();
    let purge = deleted + i64::from(ask.settings.config.soft_delete_days) * DAY_S;
    let deletion = Deletion { deleted, purge };
    rows::set_deletion(db, name, Some(deletion))?;
    let bundles = ask.bundles();
    Ok(Answer::json(&bundles.deleted(bundles.version(&row), &row.name, deletion)))
}

fn restore(vault: &Vault, ask: &Ask, db: &Connection) -> Result<Answer, Refusal> {
    let body: RestoreBody = parse(&ask.body)?;
    let rows = backup::read(&vault.backup_key, &vault.store.keys(), &body.value).filter(|rows| !rows.is_empty());
    let rows = rows.ok_or_else(|| Refusal::bad("The value is not a backup that this vault's key opens."))?;
    match rows::state(db, &rows[0].name)? {
        Some(Some(_)) => return Err(Refusal::deleted_but_recoverable(&rows[0].name)),
        Some(None) => return Err(Refusal::exists(&rows[0].name)),
        None => {}
    }
    for row in &rows {
        rows::insert(db, row)?;
    }
    let last = &rows[rows.len() - 1];
    let answer = Answer::json(&ask.bundles().version(last)).of(&last.version, last.key);
    Ok(Answer { name: Some(last.name.clone()), ..answer })
}

/// How many a page shall have, and after what it begins.
fn page(ask: &Ask) -> Result<(usize, Option<String>), Refusal> {
    let count = match &ask.query.max_results {
        None => PAGE,
        Some(text) => match text.parse::<usize>() {
            Ok(count) if count > 0 => count.min(PAGE),
            _ => return Err(Refusal::bad("maxresults is a number from 1 to 25.")),
        },
    };
    let after = ask.query.skip_token.as_ref().map(|token| {
        let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| Refusal::bad("$skiptoken is not one of this vault."))
    });
    Ok((count, after.transpose()?))
}

/// A page; `next` is the place after it, if there is more.
fn paged(ask: &Ask, path: &str, items: Vec<Map<String, Value>>, next: Option<String>) -> Answer {
    let link = next.map(|next| {
        let version = ask.query.api_version.as_deref().unwrap_or("7.4");
        let version = percent_encoding::utf8_percent_encode(version, percent_encoding::NON_ALPHANUMERIC).to_string();
        let token = URL_SAFE_NO_PAD.encode(next);
        let count = ask.query.max_results.as_ref().map(|m| format!("&maxresults={m}")).unwrap_or_default();
        let version = version.replace("%2E", ".").replace("%2D", "-");
        format!("https://{}{path}?api-version={version}&$skiptoken={token}{count}", ask.authority)
    });
    Answer::json(&json!({ "value": items, "nextLink": link }))
}

fn list(ask: &Ask, db: &Connection, deleted: bool) -> Result<Answer, Refusal> {
    let (count, after) = page(ask)?;
    let mut found = rows::page(db, deleted, after.as_deref().unwrap_or_default(), count + 1)?;
    let more = found.len() > count;
    found.truncate(count);
    let next = found.last().filter(|_| more).map(|(row, _)| row.name.clone());
    let bundles = ask.bundles();
    let items = found.iter().map(|(row, deletion)| match deletion {
        Some(deletion) => bundles.deleted(bundles.item(row), &row.name, *deletion),
        None => bundles.item(row),
    });
    Ok(paged(ask, if deleted { "/deletedsecrets" } else { "/secrets" }, items.collect(), next))
}

fn list_versions(ask: &Ask, db: &Connection, name: &str) -> Result<Answer, Refusal> {
    let (count, after) = page(ask)?;
    live(db, name)?;
    let after = match after {
        Some(text) => text.parse().map_err(|_| Refusal::bad("$skiptoken is not one of this list."))?,
        None => 0,
    };
    let mut found = rows::versions(db, name, after, count + 1)?;
    let more = found.len() > count;
    found.truncate(count);
    let next = found.last().filter(|_| more).map(|row| row.serial.to_string());
    let items = found.iter().map(|row| ask.bundles().version(row));
    Ok(paged(ask, &format!("/secrets/{name}/versions"), items.collect(), next))
}

/// A Standard vault refuses hardware keys as such. Other keys are not built.
fn keys(ask: &Ask, create: bool) -> Refusal {
    let body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
    let hardware =
        body.get("kty").and_then(Value::as_str).is_some_and(|kty| kty.to_ascii_uppercase().ends_with("-HSM"));
    if create && hardware && !ask.settings.config.premium {
        Refusal::no_hardware()
    } else {
        Refusal::not_built("Keys and certificates")
    }
}
