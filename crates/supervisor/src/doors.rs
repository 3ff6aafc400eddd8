//! Front doors: edges that stand before the entries of other stamps. Which entries there are is looked at again and again, so that
//! a stamp that has come up or gone is in or out without anybody asking.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use model::resource::Origin;

use crate::{
    Error, Home,
    files::digest,
    journal::{Journal, StampRow, Wanted},
    reconcile,
    stamp::Ground,
};

/// The entry of a stamp, where people of this machine reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub address: Ipv4Addr,
    /// Of its own authority.
    pub ca_pem: String,
}

/// Where people reach the entry of a stamp; None for one that was never brought up here, or is being removed.
pub fn address(journal: &Journal, system: &str, stamp: &str) -> Result<Option<Ipv4Addr>, Error> {
    let Some(row) = journal.stamp(system, stamp)?.filter(|row| row.wanted != Wanted::Gone) else { return Ok(None) };
    let workloads = journal.workloads(system, stamp)?;
    let edge = workloads.iter().find(|w| w.workload == model::ResourceId::edge().to_string());
    Ok(edge.map(|edge| Ipv4Addr::new(127, (row.block >> 8) as u8, (row.block & 0xFF) as u8, edge.host)))
}

/// The entry of a stamp with what verifies it; None as long as it has neither.
pub fn entry(home: &Home, journal: &Journal, system: &str, stamp: &str) -> Result<Option<Entry>, Error> {
    let Some(address) = address(journal, system, stamp)? else { return Ok(None) };
    let path = home.stamp(system, stamp).join("public/ca.pem");
    match std::fs::read_to_string(&path) {
        Ok(ca_pem) => Ok(Some(Entry { address, ca_pem })),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

/// What is remembered of a stamp between two looks.
pub struct Door {
    manifest: String,
    origins: Vec<Origin>,
    /// The entries as the edge was last told them.
    told: String,
}

/// Has an edge told anew of its origins if they are not what it was told last.
pub fn look(ground: &Arc<Ground>, row: &StampRow, known: &mut BTreeMap<(String, String), Door>) {
    let key = (row.system.clone(), row.stamp.clone());
    if known.get(&key).is_none_or(|door| door.manifest != row.manifest) {
        let origins = reconcile::resolve(&row.manifest, &row.stamp).map(|s| s.origins().to_vec()).unwrap_or_default();
        known.insert(key.clone(), Door { manifest: row.manifest.clone(), origins, told: String::new() });
    }
    let Some(door) = known.get_mut(&key).filter(|door| !door.origins.is_empty()) else { return };
    let entries: Result<Vec<_>, Error> =
        door.origins.iter().map(|o| entry(&ground.home, &ground.journal, &row.system, &o.stamp)).collect();
    let now = match entries {
        Ok(entries) => digest(format!("{entries:?}").as_bytes()),
        Err(error) => {
            tracing::warn!(stamp = row.stamp, error = crate::error::chain(&error), "could not look at the origins");
            return;
        }
    };
    // One that is being worked on is told at the next look.
    if now != door.told && reconcile::mend(ground, row.clone()).is_some() {
        door.told = now;
    }
}
