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
    /// Stamps that this edge stands before, the preferred one first.
    pub origins: Vec<String>,
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
