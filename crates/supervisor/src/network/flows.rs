//! Who may talk to whom, by the manifest.

use std::collections::BTreeSet;

use drivers::network::Flow;
use model::{Kind, Resource, ResourceId, System, plan};

use crate::{Error, layout::Layout};

/// Why a migration reaches a database: only as long as it runs.
pub const MIGRATION: &str = "migration";

/// A flow that the manifest declares, or that follows from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declaration {
    pub from: String,
    pub to: String,
    pub port: u16,
    /// Where it comes from, such as `needs`.
    pub why: &'static str,
}

impl Declaration {
    /// Whether it passes now; `migrating` are the services whose migration runs.
    pub fn is_open(&self, migrating: &BTreeSet<ResourceId>) -> bool {
        self.why != MIGRATION || super::resource_of(&self.from).is_some_and(|service| migrating.contains(&service))
    }

    pub fn flow(&self, layout: &Layout) -> Result<Flow, Error> {
        Ok(Flow { from: layout.ip(&self.from)?, to: layout.front(&self.to)?, port: self.port })
    }
}

/// Who may talk to whom: needs and references, routes, rights, and what every workload does (it signs in, tells its logs).
pub fn flows_of(system: &System, layout: &Layout) -> Result<BTreeSet<Declaration>, Error> {
    let provided = |id: &ResourceId| system.resources.get(id).is_some_and(Resource::is_provided);
    let copies = |id: &ResourceId| system.resources.get(id).map_or(Vec::new(), |r| plan::workloads(id, r));
    let port = |id: &ResourceId| match system.resources.get(id) {
        // At its front: a port of its own only its own network reaches.
        Some(Resource::Service(service)) => service.port.map(|port| match &layout.closed {
            Some(_) => layout.https_port(id.kind),
            None => layout.port(port),
        }),
        Some(Resource::Postgres(postgres)) => Some(layout.port(postgres.port)),
        Some(Resource::Redis(redis)) => Some(layout.port(redis.port)),
        Some(Resource::External(external)) => Some(crate::compose::external_port(layout, external)),
        Some(Resource::Graph(graph)) => Some(layout.port(graph.port)),
        _ => Some(layout.https_port(id.kind)),
    };
    let first = |kind: Kind| system.resources.keys().find(|id| id.kind == kind);
    let (telemetry, identity, audit) = (first(Kind::Telemetry), first(Kind::Identity), first(Kind::Audit));
    let mut flows = BTreeSet::new();
    for (id, resource) in system.resources.iter().filter(|(_, r)| r.is_provided()) {
        let mut targets: Vec<(ResourceId, &'static str)> = Vec::new();
        let why = if id.kind == Kind::Edge { "route" } else { "needs" };
        targets.extend(system.needs(id).into_iter().map(|need| (need, why)));
        if let Resource::Service(service) = resource {
            let migrate = service.migrate.iter().flat_map(|m| m.env.values());
            let named = service.env.values().chain(migrate).flat_map(model::value::Value::resources);
            targets.extend(named.filter(|id| id.kind == Kind::Edge).map(|edge| (edge.clone(), "reference")));
            targets.extend(rights(system, id).into_iter().map(|to| (to, "access")));
            // Its identity endpoint signs in with the directory.
            targets.extend(identity.map(|to| (to.clone(), "identity")));
        }
        if let Resource::Identity(outside) = resource {
            targets.extend(outside.secrets().map(|secret| (secret.vault.clone(), "reference")));
        }
        if let Resource::Job(job) = resource {
            let named = job.env.values().flat_map(model::value::Value::resources);
            targets.extend(named.filter(|id| id.kind == Kind::Edge).map(|edge| (edge.clone(), "reference")));
            targets.extend(rights(system, id).into_iter().map(|to| (to, "access")));
            targets.extend(identity.map(|to| (to.clone(), "identity")));
        }
        if matches!(id.kind, Kind::Vault | Kind::Registry | Kind::Blob) {
            targets.extend(identity.map(|to| (to.clone(), "identity")));
        }
        if id.kind.keeps_a_record() {
            targets.extend(audit.map(|to| (to.clone(), "audit")));
        }
        targets.extend(telemetry.map(|to| (to.clone(), "telemetry")));
        let mut sources = copies(id);
        // Servers of one database follow one another.
        if id.kind == Kind::Postgres && sources.len() > 1 {
            targets.push((id.clone(), "replication"));
        }
        if id.kind == Kind::Job {
            // Its runs; between them nothing lives there.
            sources.push(id.to_string());
        }
        if matches!(resource, Resource::Service(service) if service.migrate.is_some()) {
            sources.push(format!("{id}.migrate"));
        }
        for (target, why) in targets.into_iter().filter(|(target, _)| provided(target)) {
            let Some(port) = port(&target) else { continue };
            // Nobody calls what only watches.
            for to in copies(&target).into_iter().filter(|to| !plan::watches(to)) {
                for from in sources.iter().filter(|from| **from != to) {
                    let migrates = from.ends_with(".migrate") && target.kind == Kind::Postgres;
                    let why = if migrates { MIGRATION } else { why };
                    if !flows.iter().any(|f: &Declaration| f.from == *from && f.to == to && f.port == port) {
                        flows.insert(Declaration { from: from.clone(), to: to.clone(), port, why });
                    }
                }
            }
        }
    }
    members_of_graphs(system, layout, &mut flows);
    Ok(flows)
}

/// Members of a graph store vote and follow one another, and their monitor asks them: at a port of their own.
fn members_of_graphs(system: &System, layout: &Layout, flows: &mut BTreeSet<Declaration>) {
    for (id, resource) in system.resources.iter().filter(|(id, _)| id.kind == Kind::Graph) {
        let all = plan::workloads(id, resource);
        for from in &all {
            let why = if plan::watches(from) { "monitor" } else { "replication" };
            for to in all.iter().filter(|to| *to != from && !plan::watches(to)) {
                let port = layout.https_port(Kind::Graph);
                flows.insert(Declaration { from: from.clone(), to: to.clone(), port, why });
            }
        }
    }
}

/// Resources that have given a service, or its migration, a right.
fn rights(system: &System, service: &ResourceId) -> Vec<ResourceId> {
    let named = |who: &model::Principal| matches!(who, model::Principal::Workload(id) | model::Principal::Migrate(id) if id == service);
    let given = |resource: &Resource| match resource {
        Resource::Vault(vault) => vault.access.iter().any(|a| named(&a.to)),
        Resource::Blob(blob) => blob.access.iter().any(|a| named(&a.to)),
        Resource::Registry(registry) => registry.access.iter().any(|a| named(&a.to)),
        Resource::Postgres(postgres) => postgres.access.iter().any(|a| named(&a.to)),
        Resource::Redis(redis) => redis.access.iter().any(named),
        Resource::Graph(graph) => graph.access.iter().any(|a| named(&a.to)),
        _ => false,
    };
    system.resources.iter().filter(|(_, r)| given(r)).map(|(id, _)| id.clone()).collect()
}
