//! The one guarded entry.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::ResourceId,
    unit::{Bytes, Cidr},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// At least one, unless there are `origins`.
    pub routes: Vec<Route>,
    /// Stamps that this edge stands before.
    pub origins: Vec<Origin>,
    /// How they are asked whether they are well.
    pub probe: Probe,
    /// The stamp through whose edge people come to this one: its address is this edge's for `{edge.url}` and for sign-in.
    pub front: Option<String>,
    pub tls_min: TlsMin,
    /// `max-age` of Strict-Transport-Security; zero leaves the header out.
    pub hsts: Duration,
    pub limits: EdgeLimits,
    /// Source blocks that may come in; empty is all.
    pub allow: Vec<Cidr>,
    /// ISO 3166 countries that may come in; empty is all.
    pub countries: Vec<String>,
    /// The OWASP Core Rule Set looks at each request.
    pub waf: bool,
    /// By tier of caller, such as `standard`.
    pub rates: BTreeMap<String, Rate>,
    pub cache: Vec<Cache>,
}

/// The entry of another stamp, as a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub stamp: String,
    /// From 1. Of those that are well, the ones with the lowest get the requests.
    pub priority: u32,
    /// From 1. Its share among those of its priority.
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// A 2xx or 3xx answer says that it is well.
    pub path: String,
    pub every: Duration,
    /// So many bad answers in a row take it out.
    pub fall: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self { path: "/".into(), every: Duration::from_secs(1), fall: 2 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Host names this route is for; empty is any.
    pub hosts: Vec<String>,
    /// A prefix by whole segments, starting with `/`.
    pub path: String,
    /// A service with a port.
    pub to: ResourceId,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMin {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// Bounds of one request and of all together. None leaves the gateway's own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeLimits {
    pub header: Option<Bytes>,
    pub headers: Option<u32>,
    pub body: Option<Bytes>,
    /// From the sent request to the head of the answer.
    pub timeout: Option<Duration>,
    pub connections: Option<u32>,
    /// What open requests get when the gateway stops.
    pub drain: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub requests: u32,
    pub per: RatePer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatePer {
    Second,
    Minute,
    Hour,
}

/// Answers under `path` are kept for `life`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub path: String,
    pub life: Duration,
}
