//! The resources of a resolved system: every field checked, typed, and with its default filled in.

mod app;
mod data;
mod edge;
mod trust;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use app::{
    Days, External, Hours, Job, Limits, Migrate, Mount, Program, Rollout, Scale, ScaleMetric, ScaleRule, Schedule,
    Service, Source, StandIn, Unresolved, Watch, When,
};
pub use data::{
    Backup, Blob, BlobAccess, Container, DatabaseAccess, DatabaseRight, Graph, GraphAccess, GraphRight,
    HighAvailability, Postgres, PublicRead, Redis, Redundancy, Share, SignIn, Standby, Storage, VersionWish, WhenLost,
};
pub use edge::{Cache, Edge, EdgeLimits, Origin, Probe, Rate, RatePer, Route, TlsMin};
pub use trust::{
    Audit, BuildTag, Client, ConnectionFormat, Directory, Identity, OnPush, OutsideIssuer, Registry, RegistryAccess,
    RegistryRole, SecretOrigin, Telemetry, Vault, VaultAccess, VaultRole,
};

use crate::{
    id::{Kind, ResourceId},
    value::Value,
};

/// One resource, by kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Resource {
    Edge(Edge),
    Service(Service),
    Job(Job),
    Postgres(Postgres),
    Redis(Redis),
    Blob(Blob),
    Share(Share),
    Graph(Graph),
    Vault(Vault),
    Identity(Identity),
    Telemetry(Telemetry),
    Audit(Audit),
    Registry(Registry),
    External(External),
}

impl Resource {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Edge(_) => Kind::Edge,
            Self::Service(_) => Kind::Service,
            Self::Job(_) => Kind::Job,
            Self::Postgres(_) => Kind::Postgres,
            Self::Redis(_) => Kind::Redis,
            Self::Blob(_) => Kind::Blob,
            Self::Share(_) => Kind::Share,
            Self::Graph(_) => Kind::Graph,
            Self::Vault(_) => Kind::Vault,
            Self::Identity(_) => Kind::Identity,
            Self::Telemetry(_) => Kind::Telemetry,
            Self::Audit(_) => Kind::Audit,
            Self::Registry(_) => Kind::Registry,
            Self::External(_) => Kind::External,
        }
    }

    /// Whether this version can run it; see [`Kind::is_provided`].
    pub fn is_provided(&self) -> bool {
        self.kind().is_provided()
    }

    /// The subnet it lies in.
    pub fn subnet(&self) -> Option<&str> {
        match self {
            Self::Service(r) => r.subnet.as_deref(),
            Self::Job(r) => r.subnet.as_deref(),
            Self::Postgres(r) => r.subnet.as_deref(),
            Self::Redis(r) => r.subnet.as_deref(),
            Self::Blob(r) => r.subnet.as_deref(),
            Self::Share(r) => r.subnet.as_deref(),
            Self::Graph(r) => r.subnet.as_deref(),
            Self::Vault(r) => r.subnet.as_deref(),
            Self::Edge(_)
            | Self::Identity(_)
            | Self::Telemetry(_)
            | Self::Audit(_)
            | Self::Registry(_)
            | Self::External(_) => None,
        }
    }

    /// The size it is declared to have, such as `B1`.
    pub fn size(&self) -> Option<&str> {
        match self {
            Self::Service(r) => r.size.as_deref(),
            Self::Postgres(r) => r.size.as_deref(),
            Self::Redis(r) => r.size.as_deref(),
            Self::Graph(r) => r.size.as_deref(),
            Self::Registry(r) => r.size.as_deref(),
            _ => None,
        }
    }

    /// What it is declared to need: started before it, and it may talk to them. References in values count too, but for
    /// the edge, whose URL is known before it runs.
    pub fn needs(&self) -> BTreeSet<ResourceId> {
        let values = |env: &std::collections::BTreeMap<String, Value>| -> Vec<ResourceId> {
            env.values().flat_map(Value::resources).filter(|id| id.kind != Kind::Edge).cloned().collect()
        };
        match self {
            Self::Edge(edge) => edge.routes.iter().map(|route| route.to.clone()).collect(),
            Self::Service(service) => {
                let mut needs = service.needs.clone();
                needs.extend(values(&service.env));
                needs.extend(service.migrate.iter().flat_map(|m| values(&m.env)));
                needs.extend(service.program.source.registry());
                needs.extend(service.mounts.iter().map(|m| m.share.clone()));
                needs
            }
            Self::Job(job) => {
                let mut needs = job.needs.clone();
                needs.extend(values(&job.env));
                needs.extend(job.program.source.registry());
                needs.extend(job.mounts.iter().map(|m| m.share.clone()));
                needs
            }
            // Not the vault: that needs the identity, which reads it when somebody signs in.
            Self::Identity(identity) => {
                let named = identity.addresses().flat_map(Value::resources);
                named.filter(|id| id.kind != Kind::Edge).cloned().collect()
            }
            _ => BTreeSet::new(),
        }
    }
}
