//! A person's command in the place of a service: its identity, its names, its CA, its settings.

use std::sync::Arc;

use api::supervisor::{ExecRequest, ShareMount};
use model::{Kind, Resource, ResourceId};

use crate::{
    Error,
    authority::Authority,
    compose::Composed,
    files,
    journal::StampRow,
    layout::Layout,
    place,
    reconcile::{composer, resolve},
    stamp::Ground,
};

/// What the caller needs to place the command in its own foreground; keys included, for the caller's eyes only.
pub fn prepare(ground: &Arc<Ground>, row: &StampRow, request: &ExecRequest) -> Result<api::Secret, Error> {
    let system = resolve(&row.manifest, &row.stamp)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let id: ResourceId =
        request.service.parse().unwrap_or_else(|_| ResourceId::new(Kind::Service, request.service.clone()));
    let Some(Resource::Service(service)) = system.resources.get(&id) else {
        let known: Vec<String> = system.services().map(|(id, _)| id.to_string()).collect();
        return Err(Error::Asked {
            what: format!("there is no service `{}` in {}", request.service, system.name),
            hint: Some(format!("one of: {}", known.join(", "))),
        });
    };
    let authority = Authority::open(&layout.folder)?;
    let workload = id.to_string();
    let user = layout.user(&workload);
    let composer = composer(ground, row, &system, &layout, false);
    let shim = composer.command(&id, service, &request.command, &request.directory)?;
    // Commands may run side by side: a file for each.
    let config = layout.place(&workload).join(format!("exec-{}.json", uuid::Uuid::new_v4()));
    let text = serde_json::to_vec(&shim).map_err(|e| Error::Fault(e.to_string()))?;
    files::write(&config, &text, 0o600, user).map_err(Error::file("write", &config))?;
    let shares: Vec<ShareMount> = composer
        .shares(&service.mounts)?
        .into_iter()
        .map(|share| ShareMount { folder: share.folder, at: share.at, write: share.write, group: share.group })
        .collect();
    let composed = Composed::plain(workload.clone(), shim);
    let secrets = place::secrets(ground, &layout, &authority, &composed)?;
    let answer = serde_json::json!({
        "mark": layout.mark(&workload),
        "program": ground.stamp_binary,
        "config": config,
        "user": user,
        "network": layout.namespace(&workload),
        "hosts_file": layout.hosts_file(),
        "secrets": secrets.encode().expose(),
        "directory": request.directory,
        "shares": shares,
    });
    Ok(api::Secret::new(answer.to_string()))
}
