//! A stamp from a copy of another one's backups: when a machine, or all that carries a region's label, is lost. It needs the
//! copy, the recovery key and the manifest, nothing of what was lost.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use api::{Secret, supervisor::FromCopy};
use model::{Kind, ResourceId, System, plan};
use serde::Deserialize;

use crate::{
    Error,
    authority::Authority,
    journal::{Journal, StampRow, Wanted},
    layout::Layout,
    people,
    reconcile::{self, blocking},
    recovery,
    stamp::{Ground, Work},
    state,
};

const SOURCE: &str = "from-copy";

/// What the box of keys holds.
#[derive(Deserialize)]
struct Content {
    version: u32,
    tenant: String,
    keys: BTreeMap<String, Secret>,
}

/// The copy that a stamp was brought up from; None for one that began empty.
pub fn source(journal: &Journal, row: &StampRow) -> Result<Option<PathBuf>, Error> {
    Ok(journal.fact(&row.system, &row.stamp, SOURCE)?.map(PathBuf::from))
}

fn remake(vault: &ResourceId) -> String {
    format!("remake/{vault}")
}

/// Whether the secrets of a vault that lead into the stamp they came from are still to be made anew.
pub fn remakes(ground: &Ground, layout: &Layout, vault: &ResourceId) -> Result<bool, Error> {
    Ok(ground.journal.fact(&layout.system, &layout.stamp, &remake(vault))?.is_some())
}

pub fn remade(ground: &Ground, layout: &Layout, vault: &ResourceId) -> Result<(), Error> {
    ground.journal.drop_fact(&layout.system, &layout.stamp, &remake(vault))
}

/// Begins bringing up a stamp from a copy.
pub async fn up_from(ground: &Arc<Ground>, request: FromCopy) -> Result<Work, Error> {
    let system = reconcile::resolve(&request.up.manifest, &request.up.stamp)?;
    if ground.journal.stamp(&system.name, &request.up.stamp)?.is_some() {
        return Err(Error::Asked {
            what: format!("there is a stamp {}/{} here already", system.name, request.up.stamp),
            hint: Some("name one that is not there with --stamp, or `stamp destroy` it first".into()),
        });
    }
    let (from, key) = (request.from.clone(), request.recovery_key.clone());
    let databases: Vec<ResourceId> = system.resources.keys().filter(|id| id.kind == Kind::Postgres).cloned().collect();
    let (content, roles) = blocking(move || {
        let first = databases.first().ok_or_else(|| Error::Asked {
            what: "the manifest declares no database: there is nothing to restore".into(),
            hint: None,
        })?;
        for id in &databases {
            let folder = from.join(id.to_string());
            if !folder.join("base").is_dir() {
                return Err(Error::Asked {
                    what: format!("{} is no copy of backups: it has no {id}/base", from.display()),
                    hint: Some("name the folder of the stamp in the copy, such as regions/REGION/SYSTEM.STAMP".into()),
                });
            }
        }
        let folder = from.join(first.to_string());
        Ok((recovery::open_box(&folder, &key)?, state::newest(&folder, &key)?))
    })
    .await?;
    let content: Content = serde_json::from_str(content.expose()).map_err(|e| Error::Fault(e.to_string()))?;
    if content.version > 1 {
        return Err(Error::Fault(format!("the box of keys is of version {}", content.version)));
    }
    let own = ground.clone();
    reconcile::begin_up(ground, request.up, move |row, system| {
        lay(&own, row, system, &request.from, &content, roles.as_deref().map(Vec::as_slice))
    })
    .await
}

/// Writes the stamp down as one that is down, and lays out everything that it begins with.
fn lay(
    ground: &Ground,
    row: &mut StampRow,
    system: &System,
    from: &std::path::Path,
    content: &Content,
    roles: Option<&[u8]>,
) -> Result<(), Error> {
    // People and tokens know the directory by this name.
    row.tenant.clone_from(&content.tenant);
    row.wanted = Wanted::Down;
    ground.journal.want(row)?;
    ground.journal.set_fact(&row.system, &row.stamp, SOURCE, &from.display().to_string())?;
    for (vault, _) in system.vaults() {
        ground.journal.set_fact(&row.system, &row.stamp, &remake(vault), "")?;
    }
    let names: Vec<String> = system.resources.iter().flat_map(|(id, r)| plan::workloads(id, r)).collect();
    let layout = Layout::settle(&ground.home, &ground.journal, &ground.machine, row, &names)?;
    crate::home::make(&layout.folder, 0o711).map_err(Error::file("make", &layout.folder))?;
    Authority::adopt(&layout.folder, &layout.zone, system.cloud_names, content.keys.clone())?;
    if let Some(roles) = roles {
        state::lay(&layout, roles)?;
        // The people are those of the stamp that was lost, its administrator among them.
        ground.journal.set_fact(&row.system, &row.stamp, "first-person", people::FIRST_ADMIN)?;
    }
    row.wanted = Wanted::Up;
    Ok(())
}
