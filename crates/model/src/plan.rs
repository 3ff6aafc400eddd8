//! The plan: the ordered steps between what a stamp is declared to be and what was observed of it.
//!
//! Pure: the same system and the same observation give the same plan. Every step may be run twice and cut anywhere; what a
//! step leaves half done, the next plan does again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Kind, ResourceId},
    resource::{Resource, SecretOrigin, When},
    system::System,
};

/// What was seen of a stamp.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// By workload name ([`workloads`]).
    pub workloads: BTreeMap<String, Seen>,
    /// Services whose migration of this very version has run.
    pub migrated: BTreeSet<ResourceId>,
    /// The first administrator has been invited.
    pub first_person: bool,
    /// The workload that leads a database of several members; without an entry the first does.
    pub leads: BTreeMap<ResourceId, String>,
}

/// What was seen of a workload that is placed. One that is not placed is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It runs as declared.
    Same,
    /// It runs; what it is configured with has changed in a way it can take up while running.
    Reload,
    /// It runs as something else than declared.
    Changed,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Folders, addresses, users, the certificate authority.
    Prepare,
    /// Starts a workload and waits until it is ready.
    Start { workload: String },
    /// Ends a workload and starts it as declared.
    Replace { workload: String },
    /// Gives a running workload its new configuration.
    Reload { workload: String },
    /// Waits until a running workload is ready.
    Await { workload: String },
    /// Makes the secrets of a vault that are not there yet, and the database roles they are for.
    Secrets { vault: ResourceId },
    /// Makes the roles of a database that sign in by identity.
    Roles { postgres: ResourceId },
    /// Runs a service's migration to its end.
    Migrate { service: ResourceId },
    /// Invites the first administrator.
    FirstPerson { identity: ResourceId },
    /// Waits until the entry sees every service behind it as healthy.
    Open { edge: ResourceId },
    /// Ends a workload that is no longer declared.
    Remove { workload: String },
}

/// One durable, repeatable act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in the plan, such as `start service.web`.
    pub id: String,
    pub act: Act,
    /// Ids of steps that must be done before.
    pub needs: Vec<String>,
}

/// The steps, each after what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<Step>,
}

/// The workloads of a resource: one for most, one a copy for a service (`service.web`, `service.web+2`, ...), one a member for
/// a database that has a standby or replicas.
pub fn workloads(id: &ResourceId, resource: &Resource) -> Vec<String> {
    let numbered = |count: u32| (1..=count).map(|n| workload(id, n)).collect();
    match resource {
        Resource::Service(service) => numbered(service.scale.min.max(1)),
        Resource::Postgres(postgres) => numbered(postgres.members()),
        // It runs at its times, not with the stamp.
        Resource::Job(_) => Vec::new(),
        // A folder.
        Resource::Share(_) => Vec::new(),
        // Where the real one is called, nothing of it runs here.
        Resource::External(external) if external.stand_in.is_none() => Vec::new(),
        Resource::Graph(graph) => {
            let mut all: Vec<String> = numbered(graph.members);
            all.extend(graph.monitor.then(|| format!("{id}{MONITOR}")));
            all
        }
        _ if resource.is_provided() => vec![id.to_string()],
        _ => Vec::new(),
    }
}

/// The workload number `n` (from 1) of a resource.
pub fn workload(id: &ResourceId, n: u32) -> String {
    if n == 1 { id.to_string() } else { format!("{id}+{n}") }
}

/// The number of a workload within its resource, from 1.
pub fn number_of(workload: &str) -> u32 {
    workload.split_once('+').and_then(|(_, n)| n.parse().ok()).unwrap_or(1)
}

/// What the name of a workload ends with that only watches its resource.
const MONITOR: &str = ".monitor";

/// Whether a workload only watches the members of its resource.
pub fn watches(workload: &str) -> bool {
    workload.ends_with(MONITOR)
}

/// The resource a workload belongs to.
pub fn resource_of(workload: &str) -> &str {
    let name = workload.split('+').next().unwrap_or(workload);
    name.strip_suffix(MONITOR).unwrap_or(name)
}

/// The plan that brings `system` up from what was `observed`.
pub fn up(system: &System, observed: &Observed) -> Plan {
    let mut steps = Vec::new();
    let mut push = |id: String, act: Act, mut needs: Vec<String>| {
        let mut seen = BTreeSet::new();
        needs.retain(|need| seen.insert(need.clone()));
        steps.push(Step { id: id.clone(), act, needs });
        id
    };
    let declared: BTreeSet<String> = system.resources.iter().flat_map(|(id, r)| workloads(id, r)).collect();
    let prepare = push("prepare".into(), Act::Prepare, Vec::new());

    // Every resource's last step: what others wait for.
    let mut ready: BTreeMap<ResourceId, Vec<String>> = BTreeMap::new();
    let identity: Vec<ResourceId> = system.resources.keys().filter(|id| id.kind == Kind::Identity).cloned().collect();

    for id in &system.order {
        let Some(resource) = system.resources.get(id) else { continue };
        if !resource.is_provided() {
            continue;
        }
        let mut after = vec![prepare.clone()];
        let mut migration = None;
        match resource {
            // Roles and databases start side by side: each waits for another only when it calls it.
            Resource::Service(service) => {
                for need in system.needs(id) {
                    after.extend(ready.get(&need).into_iter().flatten().cloned());
                }
                if let Some(migrate) = &service.migrate
                    && !observed.migrated.contains(id)
                {
                    let act = Act::Migrate { service: id.clone() };
                    if migrate.when == When::Before {
                        after = vec![push(format!("migrate {id}"), act, after)];
                    } else {
                        migration = Some(act);
                    }
                }
            }
            // The entry opens last: whoever comes in finds somebody home.
            Resource::Edge(_) => {
                for need in system.needs(id) {
                    after.extend(ready.get(&need).into_iter().flatten().cloned());
                }
            }
            _ => {}
        }
        let mut last = Vec::new();
        // Of a database, whoever leads comes first, and others wait for it alone: a standby is made from it, beside them.
        let is_database = matches!(resource, Resource::Postgres(_));
        let mut all = workloads(id, resource);
        let leads = observed.leads.get(id).filter(|w| all.contains(w)).cloned().unwrap_or_else(|| id.to_string());
        all.sort_by_key(|workload| is_database && *workload != leads);
        for workload in all {
            let follows = is_database && workload != leads;
            let mut after = if follows { last.clone() } else { after.clone() };
            let (verb, act) = match observed.workloads.get(&workload) {
                None => ("start", Act::Start { workload: workload.clone() }),
                Some(Seen::Same) => ("await", Act::Await { workload: workload.clone() }),
                Some(Seen::Reload) => ("reload", Act::Reload { workload: workload.clone() }),
                Some(Seen::Changed) => ("replace", Act::Replace { workload: workload.clone() }),
            };
            // Most members of a graph store must be there for a write: they are replaced one after another.
            if verb == "replace" && matches!(resource, Resource::Graph(_)) {
                after.extend(last.iter().cloned());
            }
            let step = push(format!("{verb} {workload}"), act, after);
            if !follows {
                last.push(step);
            }
        }
        if let Some(act) = migration {
            last = vec![push(format!("migrate {id}"), act, last)];
        }
        if let Resource::Postgres(postgres) = resource
            && postgres.takes_identities()
        {
            last = vec![push(format!("roles {id}"), Act::Roles { postgres: id.clone() }, last)];
        }
        if let Resource::Vault(vault) = resource {
            let mut needs = last.clone();
            for one in identity.iter().chain(vault.secrets.values().filter_map(origin)) {
                needs.extend(ready.get(one).into_iter().flatten().cloned());
            }
            last = vec![push(format!("secrets {id}"), Act::Secrets { vault: id.clone() }, needs)];
        }
        if id.kind == Kind::Edge {
            last = vec![push(format!("open {id}"), Act::Open { edge: id.clone() }, last)];
        }
        if let Resource::Identity(role) = resource
            && role.issuer.is_none()
            && role.admin_group.is_some()
            && !observed.first_person
        {
            let act = Act::FirstPerson { identity: id.clone() };
            push(format!("invite the first administrator to {id}"), act, last.clone());
        }
        ready.insert(id.clone(), last);
    }
    for workload in observed.workloads.keys().filter(|w| !declared.contains(*w)) {
        // Last of all: what took its place must serve first.
        let needs = ready.values().flatten().cloned().collect();
        push(format!("remove {workload}"), Act::Remove { workload: workload.clone() }, needs);
    }
    Plan { steps }
}

/// The resource of this stamp a secret's value comes from.
fn origin(origin: &SecretOrigin) -> Option<&ResourceId> {
    match origin {
        SecretOrigin::Database { postgres, .. } | SecretOrigin::AdminPassword { postgres } => Some(postgres),
        SecretOrigin::ClientSecret { identity, .. } => Some(identity),
        SecretOrigin::Same { vault, .. } => Some(vault),
        // The key is derived; telemetry need not run for it.
        SecretOrigin::Telemetry { .. } | SecretOrigin::Generate { .. } | SecretOrigin::Ask => None,
        SecretOrigin::Redis { .. } | SecretOrigin::Graph { .. } => None,
        SecretOrigin::RegistryPassword { .. } | SecretOrigin::BlobKey { .. } => None,
        // Where a resource is and what it is called is settled before anything is started.
        SecretOrigin::ClientId { .. } | SecretOrigin::Output { .. } => None,
    }
}

/// The workloads to end, in order: the entry first, the stores after what uses them.
pub fn down(workloads: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = workloads.into_iter().collect();
    let rank = |w: &String| match resource_of(w).parse::<ResourceId>().map(|id| id.kind) {
        Ok(Kind::Edge) => 0,
        Ok(Kind::Service | Kind::Job | Kind::External) | Err(_) => 1,
        Ok(Kind::Postgres | Kind::Redis | Kind::Blob | Kind::Share | Kind::Graph | Kind::Registry) => 2,
        Ok(Kind::Vault) => 3,
        Ok(Kind::Identity) => 4,
        Ok(Kind::Telemetry) => 5,
        Ok(Kind::Audit) => 6,
    };
    all.sort_by_key(|w| (rank(w), w.clone()));
    all
}

impl Plan {
    /// Whether every step needs only steps before it.
    pub fn is_ordered(&self) -> bool {
        let mut before = BTreeSet::new();
        self.steps.iter().all(|step| {
            let ok = step.needs.iter().all(|need| before.contains(need));
            before.insert(step.id.clone());
            ok
        })
    }
}
