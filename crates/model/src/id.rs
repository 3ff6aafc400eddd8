//! Names of resources: `service.web`, `postgres.main`, `edge`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The kinds of resource, in the order in which lists show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The one guarded entry of a stamp. There is one at most, so it has no name.
    Edge,
    /// A program of the application.
    Service,
    /// A program that runs at set times and ends.
    Job,
    Postgres,
    Redis,
    /// Objects in containers (Blob REST).
    Blob,
    /// A folder that several workloads mount.
    Share,
    /// A graph database that speaks Cypher.
    Graph,
    Vault,
    Identity,
    Telemetry,
    Audit,
    /// A private registry of OCI images.
    Registry,
    /// Something that is not ours, with the stand-in that plays it on this machine.
    External,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Edge,
        Self::Service,
        Self::Job,
        Self::Postgres,
        Self::Redis,
        Self::Blob,
        Self::Share,
        Self::Graph,
        Self::Vault,
        Self::Identity,
        Self::Telemetry,
        Self::Audit,
        Self::Registry,
        Self::External,
    ];

    /// The word in the manifest.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Service => "service",
            Self::Job => "job",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Blob => "blob",
            Self::Share => "share",
            Self::Graph => "graph",
            Self::Vault => "vault",
            Self::Identity => "identity",
            Self::Telemetry => "telemetry",
            Self::Audit => "audit",
            Self::Registry => "registry",
            Self::External => "external",
        }
    }

    /// The kind called `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether it is a role that writes an audit record of what it did.
    pub const fn keeps_a_record(self) -> bool {
        matches!(self, Self::Vault | Self::Identity | Self::Registry | Self::Blob)
    }

    /// Whether people of this machine reach it from outside of a closed network.
    pub const fn is_open_to_people(self) -> bool {
        matches!(self, Self::Edge | Self::Identity | Self::Registry)
    }

    /// Whether this version can run resources of this kind. The others are parsed and planned, and `up` refuses them.
    pub const fn is_provided(self) -> bool {
        matches!(
            self,
            Self::Edge
                | Self::Service
                | Self::Postgres
                | Self::Vault
                | Self::Identity
                | Self::Telemetry
                | Self::Audit
                | Self::Registry
                | Self::External
                | Self::Redis
                | Self::Job
                | Self::Graph
                | Self::Share
                | Self::Blob
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One declared thing of a stamp. Written `KIND.NAME`; the edge is `edge` alone and its name is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    pub kind: Kind,
    pub name: String,
}

/// A text that is not the name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the name of a resource, such as `service.web` or `edge`")]
pub struct NotAResource {
    pub text: String,
}

impl ResourceId {
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// The one edge of a stamp.
    pub fn edge() -> Self {
        Self::new(Kind::Edge, "")
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { write!(f, "{}", self.kind) } else { write!(f, "{}.{}", self.kind, self.name) }
    }
}

impl FromStr for ResourceId {
    type Err = NotAResource;

    fn from_str(text: &str) -> Result<Self, NotAResource> {
        let wrong = || NotAResource { text: text.to_owned() };
        let (word, name) = text.split_once('.').unwrap_or((text, ""));
        let kind = Kind::from_word(word).ok_or_else(wrong)?;
        let id = Self::new(kind, name);
        if (kind == Kind::Edge) == (text == "edge") && (kind == Kind::Edge || is_name(name)) {
            Ok(id)
        } else {
            Err(wrong())
        }
    }
}

impl Serialize for ResourceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ResourceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Self::from_word(&word)
            .ok_or_else(|| serde::de::Error::custom(format!("no kind of resource is called `{word}`")))
    }
}

/// Who acts: what a token's `sub` says, and what rights are given to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A service or a job, by its own identity: `service.web`.
    Workload(ResourceId),
    /// The migration step of a service, which has an identity of its own: `service.web.migrate`.
    Migrate(ResourceId),
    /// The people of a group: `group:admin`.
    Group(String),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => write!(f, "{id}"),
            Self::Migrate(id) => write!(f, "{id}.migrate"),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

impl FromStr for Principal {
    type Err = NotAResource;

    fn from_str(text: &str) -> Result<Self, NotAResource> {
        if let Some(group) = text.strip_prefix("group:") {
            return if is_name(group) {
                Ok(Self::Group(group.to_owned()))
            } else {
                Err(NotAResource { text: text.to_owned() })
            };
        }
        if let Some(id) = text.strip_suffix(".migrate")
            && let Ok(id) = id.parse::<ResourceId>()
        {
            return Ok(Self::Migrate(id));
        }
        text.parse().map(Self::Workload)
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `text` may name a resource, a stamp, a system, a group: 1 to 32 of `a-z`, `0-9` and `-`, a letter first, no `-`
/// last. Such a name is a DNS label and a safe file name as it stands.
pub fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.as_bytes()[0].is_ascii_lowercase()
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_and_principals_are_written_as_they_are_read() {
        for text in ["edge", "service.web", "vault.main"] {
            assert_eq!(text.parse::<ResourceId>().unwrap().to_string(), text);
        }
        for text in ["service.web", "service.web.migrate", "group:admin", "job.backup"] {
            assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
        }
        for text in
            ["", "edge.main", "service", "service.", "service.Web", "service.web.x", "web", "service.-a", "service.a-"]
        {
            assert!(text.parse::<ResourceId>().is_err(), "{text}");
        }
    }
}
