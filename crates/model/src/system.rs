//! A system as one stamp of it is to be: resolved, checked, complete.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Kind, Principal, ResourceId},
    resource::{Edge, Job, Postgres, Resource, Service, SignIn, Vault, Watch},
    unit::{Bytes, Cidr, Price},
};

/// One stamp of a system, as declared. Made by [`crate::Manifest::resolve`] only, so that what it says has been checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct System {
    /// The system's name, such as `time-tracker`.
    pub name: String,
    /// For people, such as `Time Tracker`.
    pub title: String,
    /// The stamp's name, such as `dev`.
    pub stamp: String,
    pub region: Option<String>,
    /// No drill may break it.
    pub protected: bool,
    /// Real Azure host names lead to this stamp, for its own workloads.
    pub cloud_names: bool,
    pub network: Network,
    pub resources: BTreeMap<ResourceId, Resource>,
    /// All resources, each after what it needs.
    pub order: Vec<ResourceId>,
    /// Resources of other stamps that this one uses as if they were its own.
    pub shared: BTreeMap<ResourceId, Shared>,
    pub links: BTreeMap<String, Link>,
    /// Links of the kind `call` that begin or end in this stamp, whichever stamp declares them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    pub objectives: BTreeMap<String, Objective>,
    pub alerts: BTreeMap<String, Alert>,
    pub groups: BTreeMap<String, Group>,
    /// On every resource.
    pub tags: BTreeMap<String, String>,
    pub sizes: BTreeMap<String, Size>,
    pub cost: Option<Cost>,
    /// What is declared and not carried out by this version: key paths such as `edge.waf`, and whole resources.
    pub unbuilt: Vec<String>,
}

impl System {
    pub fn get(&self, id: &ResourceId) -> Option<&Resource> {
        self.resources.get(id)
    }

    pub fn edge(&self) -> Option<&Edge> {
        match self.resources.get(&ResourceId::edge())? {
            Resource::Edge(edge) => Some(edge),
            _ => None,
        }
    }

    /// Stamps before which this one's edge stands.
    pub fn origins(&self) -> &[crate::resource::Origin] {
        self.edge().map_or(&[], |edge| edge.origins.as_slice())
    }

    /// The stamp through whose edge people come to this one.
    pub fn front(&self) -> Option<&str> {
        self.edge().and_then(|edge| edge.front.as_deref())
    }

    /// Whether it has a closed network, where the machine allows it. A front door has none: it stands before the networks of
    /// others and comes to their entries as people do.
    pub fn wants_network(&self) -> bool {
        (self.network.space.is_some() || !self.network.subnets.is_empty()) && self.origins().is_empty()
    }

    pub fn services(&self) -> impl Iterator<Item = (&ResourceId, &Service)> {
        self.resources.iter().filter_map(|(id, r)| if let Resource::Service(s) = r { Some((id, s)) } else { None })
    }

    pub fn jobs(&self) -> impl Iterator<Item = (&ResourceId, &Job)> {
        self.resources.iter().filter_map(|(id, r)| if let Resource::Job(j) = r { Some((id, j)) } else { None })
    }

    pub fn databases(&self) -> impl Iterator<Item = (&ResourceId, &Postgres)> {
        self.resources.iter().filter_map(|(id, r)| if let Resource::Postgres(p) = r { Some((id, p)) } else { None })
    }

    /// The zone in which a workload stands; None for one that is of the region as a whole. Members of a zone-redundant database
    /// say theirs; copies of a service beside one are spread over the same zones in turn.
    pub fn zone(&self, workload: &str) -> Option<String> {
        let id: ResourceId = crate::plan::resource_of(workload).parse().ok()?;
        let number = crate::plan::number_of(workload);
        match self.resources.get(&id)? {
            Resource::Postgres(postgres) if postgres.members() > 1 => Some(postgres.zone(number)),
            Resource::Graph(graph) if graph.members > 1 && !crate::plan::watches(workload) => Some(graph.zone(number)),
            Resource::Service(service) if service.scale.min > 1 => {
                let members = self.databases().map(|(_, p)| p).find(|p| p.zone(1) != p.zone(2) && p.has_standby());
                members.map(|postgres| postgres.zone((number - 1) % 2 + 1))
            }
            _ => None,
        }
    }

    pub fn vaults(&self) -> impl Iterator<Item = (&ResourceId, &Vault)> {
        self.resources.iter().filter_map(|(id, r)| if let Resource::Vault(v) = r { Some((id, v)) } else { None })
    }

    /// Whether a workload, or its migration, signs in to a database by identity.
    fn signs_in_by_identity(&self, id: &ResourceId) -> bool {
        let named = |who: &Principal| matches!(who, Principal::Workload(w) | Principal::Migrate(w) if w == id);
        self.resources.values().any(|resource| match resource {
            Resource::Postgres(postgres) => {
                postgres.access.iter().any(|a| a.sign_in == SignIn::Identity && named(&a.to))
            }
            _ => false,
        })
    }

    /// What `id` needs, declared or implied, within this stamp: started before it, and it may talk to them. A vault and
    /// what else asks for tokens needs the identity; a service needs the telemetry only if it says so.
    pub fn needs(&self, id: &ResourceId) -> BTreeSet<ResourceId> {
        let Some(resource) = self.resources.get(id) else { return BTreeSet::new() };
        let mut needs = resource.needs();
        needs.retain(|need| self.resources.contains_key(need));
        // A vault judges tokens; who signs in to a database by identity has to get one first.
        if matches!(resource, Resource::Vault(_) | Resource::Blob(_)) || self.signs_in_by_identity(id) {
            needs.extend(self.resources.keys().filter(|k| k.kind == crate::Kind::Identity).cloned());
        }
        needs
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub space: Option<Cidr>,
    /// Inside `space`, none overlapping another.
    pub subnets: BTreeMap<String, Cidr>,
    /// Subnets in which only resources of one kind lie.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub delegated: BTreeMap<String, Kind>,
}

/// A resource of another stamp, `SYSTEM/STAMP/RESOURCE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    pub system: String,
    pub stamp: String,
    pub resource: ResourceId,
}

/// What crosses the border between two stamps of the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub what: LinkKind,
    pub from: LinkEnd,
    pub to: LinkEnd,
    /// For a call: what it may carry; empty is not limited.
    pub carries: Vec<String>,
    /// How far a copy may lag behind.
    pub lag: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// `to` follows `from` and can take its place.
    Replica,
    /// `to` holds copies of `from`.
    Copy,
    /// `from` may call `to`.
    Call,
}

/// A service of one stamp may call a service of another: a link of the kind `call` as both ends see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Call {
    /// The link's name, such as `users`.
    pub link: String,
    pub from: CallEnd,
    pub to: CallEnd,
    /// What it may carry; empty is not limited.
    pub carries: Vec<String>,
}

/// A service of a stamp.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallEnd {
    pub stamp: String,
    pub resource: ResourceId,
}

impl std::fmt::Display for CallEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.stamp, self.resource)
    }
}

/// A resource, of another stamp if `stamp` is given: `STAMP/RESOURCE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEnd {
    pub stamp: Option<String>,
    pub resource: ResourceId,
}

/// What is promised, and what measures it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    pub target: Target,
    /// At least one drill or a probe.
    pub drills: Vec<String>,
    pub probe: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Not longer than this.
    Within(Duration),
    /// At least so many thousandths of a per cent: 99950 is 99.95 %.
    Percent { millipercent: u32 },
    /// At least so many in each span.
    Rate { count: u64, per: Duration },
    /// At least so many.
    Count(u64),
}

/// What people are told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub when: Watch,
    pub critical: bool,
}

/// A logical group of resources, such as a resource group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// For people and cost reports, such as `rg-timetracker-dev`.
    pub title: String,
    pub members: BTreeSet<ResourceId>,
    pub tags: BTreeMap<String, String>,
}

/// A machine size by its name in the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub cpu_millis: Option<u32>,
    pub memory: Option<Bytes>,
    pub price: Option<Price>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub budget: Price,
    /// Per cent of the budget at which an alert fires.
    pub alerts: Vec<u32>,
    pub report_every: Option<Duration>,
}
