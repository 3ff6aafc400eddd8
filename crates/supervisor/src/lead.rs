//! Who leads a database of several members: written in the journal, and handed to each member as a file beside it.

use std::{collections::BTreeMap, fs, net::IpAddr, os::unix::fs::FileExt as _, path::Path};

use api::{
    client::Client,
    member::{LEAD, SAFE_WITH, SafeWith},
};
use model::{
    Kind, Resource, ResourceId, System,
    failover::{Lead, Saga},
    plan,
    resource::Postgres,
};

use crate::{
    Error, files,
    journal::{Journal, StampRow},
    layout::Layout,
    stamp::Ground,
};

fn fact(id: &str) -> String {
    format!("lead/{id}")
}

fn saga_fact(id: &ResourceId) -> String {
    format!("saga/{id}")
}

/// The databases of a system that have several members.
pub fn groups(system: &System) -> impl Iterator<Item = (&ResourceId, &Postgres)> {
    system.databases().filter(|(_, p)| p.members() > 1)
}

/// Who leads, by the journal.
pub fn of(ground: &Ground, system: &str, stamp: &str, id: &str) -> Result<Option<Lead>, Error> {
    written(&ground.journal, system, stamp, id)
}

/// As [`of`], from a journal.
pub fn written(journal: &Journal, system: &str, stamp: &str, id: &str) -> Result<Option<Lead>, Error> {
    let text = journal.fact(system, stamp, &fact(id))?;
    text.map(|t| serde_json::from_str(&t).map_err(|e| Error::Fault(format!("who leads {id} cannot be read: {e}"))))
        .transpose()
}

/// Writes down who leads. This comes first; members are told after.
pub fn set(ground: &Ground, layout: &Layout, id: &ResourceId, lead: &Lead) -> Result<(), Error> {
    let text = serde_json::to_string(lead).map_err(|e| Error::Fault(e.to_string()))?;
    ground.journal.set_fact(&layout.system, &layout.stamp, &fact(&id.to_string()), &text)
}

/// A change of the lead that is under way.
pub fn saga(ground: &Ground, system: &str, stamp: &str, id: &ResourceId) -> Result<Option<Saga>, Error> {
    let text = ground.journal.fact(system, stamp, &saga_fact(id))?;
    text.map(|t| serde_json::from_str(&t).map_err(|e| Error::Fault(format!("the change of {id} cannot be read: {e}"))))
        .transpose()
}

pub fn set_saga(ground: &Ground, layout: &Layout, id: &ResourceId, saga: &Saga) -> Result<(), Error> {
    let text = serde_json::to_string(saga).map_err(|e| Error::Fault(e.to_string()))?;
    ground.journal.set_fact(&layout.system, &layout.stamp, &saga_fact(id), &text)
}

pub fn end_saga(ground: &Ground, layout: &Layout, id: &ResourceId) -> Result<(), Error> {
    ground.journal.drop_fact(&layout.system, &layout.stamp, &saga_fact(id))
}

/// Sees to it that somebody leads each database that has several members, and that whoever leads is declared.
pub fn settle(ground: &Ground, layout: &Layout, system: &System) -> Result<(), Error> {
    for (id, postgres) in system.databases() {
        let known = of(ground, &layout.system, &layout.stamp, &id.to_string())?;
        match known {
            Some(lead) if plan::number_of(&lead.primary) > postgres.members() => {
                let (system, stamp) = (&layout.system, &layout.stamp);
                return Err(Error::Asked {
                    what: format!("{} leads {id}, and the manifest no longer declares it", lead.primary),
                    hint: Some(format!(
                        "have {id} lead first: put the declaration back, `stamp switchover {system} --stamp {stamp}`, then take it out"
                    )),
                });
            }
            None if postgres.members() > 1 => {
                set(ground, layout, id, &Lead { term: 1, primary: id.to_string() })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the journal's word beside a member. A member of a database with one server has none.
pub fn hand_out(ground: &Ground, layout: &Layout, workload: &str) -> Result<(), Error> {
    let id = plan::resource_of(workload);
    if !id.starts_with("postgres.") {
        return Ok(());
    }
    match of(ground, &layout.system, &layout.stamp, id)? {
        Some(lead) => give(layout, workload, &lead),
        None => Ok(()),
    }
}

/// Writes a word beside one member, durably.
pub fn give(layout: &Layout, workload: &str, lead: &Lead) -> Result<(), Error> {
    let path = layout.place(workload).join(LEAD);
    let word = api::member::Lead { term: lead.term, primary: lead.primary.clone() };
    let text = serde_json::to_vec(&word).map_err(|e| Error::Fault(e.to_string()))?;
    if fs::read(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    files::write(&path, &text, 0o600, layout.user(workload)).map_err(Error::file("write", &path))
}

/// The workload that leads a resource; its first for everything but a database of several members.
pub fn primary(ground: &Ground, layout: &Layout, id: &ResourceId) -> Result<String, Error> {
    if id.kind != Kind::Postgres {
        return Ok(id.to_string());
    }
    let lead = of(ground, &layout.system, &layout.stamp, &id.to_string())?;
    Ok(lead.map_or_else(|| id.to_string(), |lead| lead.primary))
}

/// The control socket of whoever leads a database.
pub fn control(ground: &Ground, layout: &Layout, id: &ResourceId) -> Result<Client, Error> {
    Ok(Client::unix(layout.control(&primary(ground, layout, id)?)))
}

/// Where a member's keeper writes down with whom it is safe: beside its data, which may lie on a disk that is there only while
/// the member runs.
pub fn records(layout: &Layout, workload: &str) -> std::path::PathBuf {
    layout.place(workload).join("record")
}

/// With whom everything acknowledged is safe, by the record beside a member's data.
pub fn safe_with(layout: &Layout, workload: &str) -> Vec<String> {
    let text = fs::read(records(layout, workload).join(SAFE_WITH)).unwrap_or_default();
    serde_json::from_slice::<SafeWith>(&text).map(|s| s.members).unwrap_or_default()
}

/// Every name of the stamp and where it leads now: a database's name leads to whoever leads it, and each member has a name of
/// its own besides.
pub fn names(ground: &Ground, layout: &Layout, system: &System) -> Result<BTreeMap<String, IpAddr>, Error> {
    let mut hosts = layout.hosts(system)?;
    for (id, resource) in &system.resources {
        let Resource::Postgres(postgres) = resource else { continue };
        if postgres.members() < 2 {
            continue;
        }
        hosts.insert(layout.name(id), IpAddr::V4(layout.ip(&primary(ground, layout, id)?)?));
        for workload in plan::workloads(id, resource) {
            hosts.insert(layout.member_name(id, plan::number_of(&workload)), IpAddr::V4(layout.ip(&workload)?));
        }
    }
    Ok(hosts)
}

/// The stamp's names as a hosts file, the machine's own first.
pub fn hosts_text(ground: &Ground, layout: &Layout, system: &System) -> Result<String, Error> {
    let mut hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    hosts.push_str("\n# Names of this stamp.\n");
    for (name, address) in
        names(ground, layout, system)?.into_iter().chain(crate::border::names(ground, layout, system)?)
    {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    Ok(hosts)
}

/// Leads clients to whoever leads: the one place where it is decided how. The hosts file is mounted into running workloads, so
/// it is changed in place; an address has the same length before and after, and is one write.
pub fn point(ground: &Ground, layout: &Layout, row: &StampRow, system: &System) -> Result<(), Error> {
    debug_assert_eq!(row.system, layout.system);
    let text = hosts_text(ground, layout, system)?;
    write_in_place(&layout.hosts_file(), text.as_bytes())
}

/// Whether the names lead where the journal says.
pub fn is_pointed(ground: &Ground, layout: &Layout, system: &System) -> Result<bool, Error> {
    let text = hosts_text(ground, layout, system)?;
    Ok(fs::read(layout.hosts_file()).is_ok_and(|now| now == text.as_bytes()))
}

pub fn write_in_place(path: &Path, text: &[u8]) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let write = || {
        let file = match fs::OpenOptions::new().write(true).open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return files::write(path, text, 0o644, None),
            other => other?,
        };
        file.write_all_at(text, 0)?;
        file.set_len(text.len() as u64)?;
        file.sync_data()
    };
    write().map_err(Error::file("write", path))
}
