//! Rotates a secret that was made here: another value, what it opens opened by that and no longer by the old one, the new value
//! in the vault, and whoever holds the old one started anew. A wish that was written down and cut is carried out at the next
//! `up`, with yet another value.

use std::sync::Arc;

use api::{
    Secret,
    client::Client,
    postgres::AdminPassword,
    shim::Ask,
    supervisor::{RotateRequest, Rotated},
};
use model::{Resource, ResourceId, System, plan, resource::SecretOrigin};

use crate::{
    Error,
    authority::Authority,
    journal::StampRow,
    layout::Layout,
    reconcile::{blocking, system_of},
    secrets::{self, Maker},
    shims,
    stamp::Ground,
    state,
};

fn fact(vault: &ResourceId, name: &str) -> String {
    format!("rotating/{vault}/{}", name.to_ascii_lowercase())
}

/// Whether a rotation was begun and not ended.
pub fn is_begun(ground: &Ground, layout: &Layout, vault: &ResourceId, name: &str) -> Result<bool, Error> {
    Ok(ground.journal.fact(&layout.system, &layout.stamp, &fact(vault, name))?.is_some())
}

/// A rotation has come to its end.
pub fn is_done(ground: &Ground, layout: &Layout, vault: &ResourceId, name: &str) -> Result<(), Error> {
    ground.journal.drop_fact(&layout.system, &layout.stamp, &fact(vault, name))
}

/// Rotates one secret.
pub async fn rotate(ground: &Arc<Ground>, row: &StampRow, ask: &RotateRequest) -> Result<Rotated, Error> {
    let state = ground.stamp(&row.system, &row.stamp);
    // Nobody brings the stamp up or takes it down meanwhile.
    let _busy = state.busy.lock().await;
    let system = system_of(ground, row)?;
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let vault = secrets::the_vault(&system, ask.vault.as_deref())?;
    let Some(Resource::Vault(declared)) = system.resources.get(&vault) else {
        return Err(Error::Fault(format!("{vault} is not declared")));
    };
    let found = declared.secrets.iter().find(|(name, _)| name.eq_ignore_ascii_case(&ask.name));
    let Some((name, origin)) = found else {
        return Err(Error::Asked {
            what: format!("{vault} declares no secret {}", ask.name),
            hint: Some(format!("`stamp secret set {} {}` sets one that nothing here has made", row.system, ask.name)),
        });
    };
    if matches!(origin, SecretOrigin::Ask) {
        return Err(Error::Asked {
            what: format!("{name} is a person's to set"),
            hint: Some(format!("`stamp secret set {} {name}`", row.system)),
        });
    }
    let authority = Authority::open(&layout.folder)?;
    let client = secrets::vault_client(ground, &layout, &authority, &system, &vault).await?;
    let step = format!("rotate {vault} {name}");
    let (of, stamp) = (&row.system, &row.stamp);
    ground.journal.step(of, stamp, &step, "begun", ground.clock.now_ms(), "")?;
    ground.journal.set_fact(of, stamp, &fact(&vault, name), "begun")?;
    let maker = Maker { ground, layout: &layout, authority: &authority, system: &system, vault: &vault };
    let value = maker.value(name, origin, true).await?;
    let value = value.ok_or_else(|| Error::Fault(format!("{name} has no value")))?;
    secrets::set(&client, &vault, name, &value).await?;
    let same = secrets::followers(&system, &vault, name);
    for (other, copy) in &same {
        let client = secrets::vault_client(ground, &layout, &authority, &system, other).await?;
        secrets::set(&client, other, copy, &value).await?;
    }
    is_done(ground, &layout, &vault, name)?;
    // The copy for another machine opens what this one opens.
    state::put_keys(row, &layout, &authority, &system)?;
    let mut restarted = Vec::new();
    // Whoever holds it, by this vault or by one that has the same.
    let holds = |value: &model::value::Value| {
        secrets::refers(value, &vault, name) || same.iter().any(|(vault, copy)| secrets::refers(value, vault, copy))
    };
    let uses = |service: &model::resource::Service| {
        let migrate = service.migrate.iter().flat_map(|m| m.env.values());
        service.env.values().chain(migrate).any(holds)
    };
    for (id, service) in system.services().filter(|(_, service)| uses(service)) {
        let Some(resource) = system.resources.get(id) else { continue };
        if !service.env.values().any(holds) {
            // Its migration alone: that asks anew each time.
            continue;
        }
        for workload in plan::workloads(id, resource) {
            let socket = layout.shim_socket(&workload);
            if blocking(move || Ok(shims::ask(&socket, &Ask::Restart).is_some())).await? {
                restarted.push(workload);
            }
        }
    }
    ground.journal.step(of, stamp, &step, "done", ground.clock.now_ms(), "")?;
    Ok(Rotated { vault: vault.to_string(), name: name.clone(), restarted })
}

/// Gives a database's administrator another password: kept first, so that a server that is started from now on has it, then
/// told to the servers that run.
pub async fn admin_password(
    ground: &Ground,
    layout: &Layout,
    authority: &Authority,
    system: &System,
    id: &ResourceId,
) -> Result<Secret, Error> {
    let Some(resource) = system.resources.get(id) else {
        return Err(Error::NotBuilt(format!("the administrator of {id} of another stamp")));
    };
    let password = Secret::random();
    authority.replace(&format!("postgres-admin/{}", id.name), &password)?;
    let body = AdminPassword { password: password.clone() }.encode();
    let leads = crate::lead::primary(ground, layout, id)?;
    // The one that takes writes first: the others get it by its log.
    let mut members = plan::workloads(id, resource);
    members.sort_by_key(|member| *member != leads);
    for member in members {
        let keeper = Client::unix(layout.control(&member));
        match keeper.send_secret::<serde_json::Value>("PUT", "/admin-password", &body).await {
            Ok(_) => {}
            Err(source) if member == leads => {
                return Err(Error::Role {
                    resource: id.to_string(),
                    what: "change its administrator's password".into(),
                    source: Box::new(source),
                });
            }
            // It gets it when it is started anew, which it must be before it serves.
            Err(error) => tracing::warn!(member, %error, "a member was not told of the administrator's new password"),
        }
    }
    Ok(password)
}
