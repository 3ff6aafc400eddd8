//! Values of environment variables: plain text, references to a vault, and templates such as `{postgres.main.host}`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Kind, ResourceId};

/// What an environment variable is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Text and outputs of other resources, joined. A plain text is one segment of text, an empty one none.
    Template(Vec<Segment>),
    /// Resolved by the shim with the workload's own identity when it starts.
    Vault(VaultReference),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    Text(String),
    /// What another resource gives out.
    Output {
        resource: ResourceId,
        output: Output,
    },
}

/// A Key Vault reference as App Service knows it, in either spelling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultReference {
    /// The declared vault it leads to.
    pub vault: ResourceId,
    /// The declared secret.
    pub secret: String,
    pub version: Option<String>,
    /// The reference as it was written (after `{stamp}` and the like), for the workload's stored settings.
    pub text: String,
}

/// What a resource gives out to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// `https://HOST[:PORT]`, without a slash at the end.
    Url,
    Host,
    Port,
    /// The OIDC issuer.
    Issuer,
    /// The directory tenant's GUID.
    Tenant,
    /// Where OTLP is sent.
    Endpoint,
    /// `InstrumentationKey=...;IngestionEndpoint=...`: holds the ingestion key of the workload that asks.
    ConnectionString,
}

impl Output {
    /// The word in the manifest.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Host => "host",
            Self::Port => "port",
            Self::Issuer => "issuer",
            Self::Tenant => "tenant",
            Self::Endpoint => "endpoint",
            Self::ConnectionString => "connection_string",
        }
    }

    /// Whether the output holds a key, so that it must not be kept in a stored setting.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::ConnectionString)
    }

    /// What a resource of `kind` gives out.
    pub const fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Edge | Kind::Service | Kind::Vault | Kind::Blob | Kind::Graph | Kind::Registry | Kind::External => {
                &[Self::Url, Self::Host, Self::Port]
            }
            Kind::Postgres | Kind::Redis => &[Self::Host, Self::Port],
            Kind::Identity => &[Self::Issuer, Self::Tenant, Self::Url, Self::Host, Self::Port],
            Kind::Telemetry => &[Self::ConnectionString, Self::Endpoint, Self::Host, Self::Port],
            Kind::Job | Kind::Share | Kind::Audit => &[],
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Value {
    /// The text, if nothing is to be filled in.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Template(segments) => match segments.as_slice() {
                [] => Some(""),
                [Segment::Text(text)] => Some(text),
                _ => None,
            },
            Self::Vault(_) => None,
        }
    }

    /// The resources whose outputs or secrets it takes.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceId> {
        let (segments, vault) = match self {
            Self::Template(segments) => (segments.as_slice(), None),
            Self::Vault(reference) => (&[][..], Some(&reference.vault)),
        };
        let outputs = segments.iter().filter_map(|s| match s {
            Segment::Output { resource, .. } => Some(resource),
            Segment::Text(_) => None,
        });
        outputs.chain(vault)
    }

    /// The whole text, with each output as `fill` gives it. A vault reference stays as written.
    pub fn fill<E>(&self, mut fill: impl FnMut(&ResourceId, Output) -> Result<String, E>) -> Result<String, E> {
        match self {
            Self::Vault(reference) => Ok(reference.text.clone()),
            Self::Template(segments) => {
                let mut text = String::new();
                for segment in segments {
                    match segment {
                        Segment::Text(part) => text.push_str(part),
                        Segment::Output { resource, output } => text.push_str(&fill(resource, *output)?),
                    }
                }
                Ok(text)
            }
        }
    }
}
