//! What must hold of a stamp that is said to be ready: the journal, what runs, and the files agree.

use std::{collections::BTreeMap, fs, path::PathBuf};

use api::supervisor::{Event, Ready};
use serde_json::Value;

use super::world::{World, stored};

pub const SYSTEM: &str = "shop";
pub const STAMP: &str = "dev";

/// What a person was promised by the first `ready`, and what must stay so until `destroy`.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    pub ca: String,
    pub tenant: String,
    pub block: u32,
    /// Values by name; a secret that is there keeps its value.
    pub secrets: BTreeMap<String, String>,
}

pub fn folder(world: &World) -> PathBuf {
    world.home.stamp(SYSTEM, STAMP)
}

fn journal(world: &World) -> rusqlite::Connection {
    rusqlite::Connection::open(world.home.journal()).unwrap()
}

/// `workload -> pid`, as the journal has it.
fn written(world: &World) -> BTreeMap<String, u32> {
    let journal = journal(world);
    let mut rows = journal.prepare("SELECT workload, pid FROM workloads WHERE pid IS NOT NULL").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// `workload -> pid`, as they run; twice the same is a fault.
fn running(world: &World) -> Result<BTreeMap<String, u32>, String> {
    let mut all = BTreeMap::new();
    for (mark, id) in world.fake.running() {
        let workload = mark.rsplit('/').next().unwrap().to_owned();
        if all.insert(workload.clone(), id.pid).is_some() {
            return Err(format!("{workload} runs twice"));
        }
    }
    Ok(all)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, one: T, other: T) -> Result<(), String> {
    if one == other { Ok(()) } else { Err(format!("{what}: {one:?} and {other:?}")) }
}

/// Holds of a stamp at the moment it is told to be ready.
pub fn ready(world: &World, told: &Ready, workloads: &[&str], before: Option<&Promise>) -> Result<Promise, String> {
    if let Some(broken) = world.broken().first() {
        return Err(broken.clone());
    }
    let runs = running(world)?;
    let names: Vec<&str> = runs.keys().map(String::as_str).collect();
    same("what runs and what is declared", names, workloads.to_vec())?;
    same("what the journal says runs and what runs", written(world), runs)?;

    let folder = folder(world);
    let keys: Value = serde_json::from_slice(&fs::read(folder.join("root/keys.json")).unwrap()).unwrap();
    let ca = fs::read_to_string(folder.join("public/ca.pem")).unwrap();
    same("the CA in public and in root", ca.as_str(), keys["ca_cert"].as_str().unwrap_or_default())?;

    let roles = stored(&folder.join("postgres.main"), |_| {});
    let mut secrets = BTreeMap::new();
    for (name, versions) in stored(&folder.join("vault.main"), |_| {}).as_object().unwrap() {
        same(&format!("versions of {name}"), versions.as_array().unwrap().len(), 1)?;
        secrets.insert(name.clone(), versions[0].as_str().unwrap().to_owned());
    }
    for (secret, role) in [("Db", "web"), ("Db--Owner", "web_migrate")] {
        let Some(connection) = secrets.get(secret) else { return Err(format!("{secret} is not in the vault")) };
        let password = connection.split(';').find_map(|part| part.strip_prefix("Password="));
        same(&format!("the password in {secret} and in the database"), password, roles[role].as_str())?;
    }
    same("keys of the vault", secrets.contains_key("Key"), true)?;
    same("the first administrator's link", told.admin_link.clone(), Some(world.link()))?;

    let (tenant, block): (String, u32) = journal(world)
        .query_row("SELECT tenant, block FROM stamps", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(|e| e.to_string())?;
    let now = Promise { ca, tenant, block, secrets };
    if let Some(before) = before {
        same("CA, tenant and addresses promised", (&before.ca, &before.tenant), (&now.ca, &now.tenant))?;
        same("addresses promised", before.block, now.block)?;
        for (name, value) in &before.secrets {
            same(&format!("the promised value of {name}"), Some(value), now.secrets.get(name))?;
        }
    }
    Ok(now)
}

/// Holds after `down`.
pub fn down(world: &World) -> Result<(), String> {
    same("what runs after down", running(world)?, BTreeMap::new())?;
    same("what the journal says runs after down", written(world), BTreeMap::new())
}

/// Holds after `destroy`.
pub fn gone(world: &World) -> Result<(), String> {
    same("what runs after destroy", running(world)?, BTreeMap::new())?;
    same("its folder is there", folder(world).exists(), false)?;
    for table in ["stamps", "workloads", "facts", "steps"] {
        let left: u32 = journal(world).query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).unwrap();
        same(&format!("rows of {table} after destroy"), left, 0)?;
    }
    Ok(())
}

/// The end of an `up`, which must be good.
pub fn good(event: Option<Event>) -> Result<Ready, String> {
    match event {
        Some(Event::Ready(ready)) => Ok(*ready),
        other => Err(format!("not ready: {other:?}")),
    }
}
