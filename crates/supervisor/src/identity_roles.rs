//! Roles of a database that sign in by identity: made from the declaration alone, with no secret.

use std::{collections::BTreeMap, net::IpAddr};

use api::{
    client::Client,
    postgres::{IdentityRole, IdentityRoles},
};
use model::{
    Principal, Resource, ResourceId, System, plan,
    resource::{Postgres, SignIn},
};

use crate::{
    Error,
    layout::Layout,
    lead,
    secrets::{database_role, right},
    stamp::Ground,
};

/// Has the database know them; whoever signs in so and is no longer declared has no role any more. May be repeated.
pub async fn ensure(ground: &Ground, layout: &Layout, system: &System, id: &ResourceId) -> Result<String, Error> {
    let Some(Resource::Postgres(postgres)) = system.resources.get(id) else { return Ok(String::new()) };
    let roles = declared(layout, system, postgres);
    let client = lead::control(ground, layout, id)?;
    api::postgres::set_identity_roles(&client, &roles).await.map_err(|source| Error::Role {
        resource: id.to_string(),
        what: "make the roles that sign in by identity".into(),
        source: Box::new(source),
    })?;
    // Others have the roles by the log, and look at them when they are told, or at their next start.
    let leads = lead::primary(ground, layout, id)?;
    for member in plan::workloads(id, &Resource::Postgres(postgres.clone())).iter().filter(|m| **m != leads) {
        let told = api::postgres::set_identity_roles(&Client::unix(layout.control(member)), &roles).await;
        if let Err(error) = told {
            tracing::info!(member, error = crate::error::chain(&error), "it looks at its roles once it serves");
        }
    }
    let names: Vec<&str> = roles.roles.iter().map(|role| role.name.as_str()).collect();
    Ok(format!("without a password: {}", names.join(", ")))
}

/// The roles, one a workload.
fn declared(layout: &Layout, system: &System, postgres: &Postgres) -> IdentityRoles {
    let mut roles: BTreeMap<String, IdentityRole> = BTreeMap::new();
    for access in postgres.access.iter().filter(|access| access.sign_in == SignIn::Identity) {
        let name = database_role(&access.to);
        let role = roles.entry(name.clone()).or_insert_with(|| IdentityRole {
            name,
            workload: access.to.to_string(),
            from: from(layout, system, &access.to),
            rights: BTreeMap::new(),
        });
        role.rights.insert(access.database.clone(), right(access.right));
    }
    IdentityRoles { roles: roles.into_values().collect() }
}

/// Where a workload's connections come from, in a closed network. On loopback all come from one address.
fn from(layout: &Layout, system: &System, who: &Principal) -> Vec<IpAddr> {
    if layout.closed.is_none() {
        return Vec::new();
    }
    let names = match who {
        Principal::Workload(id) => system.resources.get(id).map_or(Vec::new(), |r| plan::workloads(id, r)),
        Principal::Migrate(_) => vec![who.to_string()],
        Principal::Group(_) => Vec::new(),
    };
    names.iter().filter_map(|name| layout.ip(name).ok()).map(IpAddr::V4).collect()
}
