//! Services, jobs, and what stands outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Kind, ResourceId},
    unit::Bytes,
    value::Value,
};

/// A program of the application that keeps running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub program: Program,
    /// The TCP port it listens on; None for a worker that nobody calls.
    pub port: Option<u16>,
    /// The path that answers 200 when it can work; None: it is up when its port takes connections (or it runs).
    pub health: Option<String>,
    pub subnet: Option<String>,
    /// A key of `System::sizes`; its memory and CPU are the limits that `limits` does not give.
    pub size: Option<String>,
    /// As declared; see also [`crate::Resource::needs`].
    pub needs: BTreeSet<ResourceId>,
    pub scale: Scale,
    pub env: BTreeMap<String, Value>,
    pub migrate: Option<Migrate>,
    pub limits: Limits,
    /// How long it may take to become healthy once started.
    pub start_within: Duration,
    pub stop_grace: Duration,
    pub unresolved: Unresolved,
    pub mounts: Vec<Mount>,
    /// None: a new version takes all traffic at once when it is ready.
    pub rollout: Option<Rollout>,
    /// Named standing-by copies a new version is put in before it takes the traffic.
    pub slots: Vec<String>,
    /// When it runs; None is always.
    pub hours: Option<Hours>,
}

/// What is run, and where from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub source: Source,
    /// The working directory, relative to the folder of `system.toml`.
    pub directory: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A program and its arguments. The program is a name (looked up among what the system builds, then in `PATH`) or a
    /// path relative to the folder of `system.toml`.
    Run(Vec<String>),
    /// An OCI image, `registry.NAME/REPOSITORY:TAG` or any other registry's, and arguments that replace its own.
    Image { image: String, args: Vec<String> },
}

impl Source {
    /// The declared registry that the image comes from, if it is `registry.NAME/...`.
    pub fn registry(&self) -> Option<ResourceId> {
        match self {
            Self::Image { image, .. } => {
                image.split('/').next()?.parse().ok().filter(|id: &ResourceId| id.kind == Kind::Registry)
            }
            Self::Run(_) => None,
        }
    }
}

/// A step of its own before (or after) a new version takes the traffic, with an identity of its own
/// (`service.NAME.migrate`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrate {
    /// Program and arguments; with an image, the arguments of the same image.
    pub run: Vec<String>,
    /// Its whole environment; nothing is taken over from the service.
    pub env: BTreeMap<String, Value>,
    pub when: When,
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    #[default]
    Before,
    After,
}

/// How many copies run, and what changes that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Copies that are started.
    pub min: u32,
    pub max: u32,
    /// Any of them adds a copy.
    pub out: Vec<ScaleRule>,
    /// All of them together take one away.
    pub r#in: Vec<ScaleRule>,
}

/// A new version takes over in steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Per cent of the traffic, rising.
    pub steps: Vec<u32>,
    /// Any of them takes all traffic back.
    pub abort: Vec<Watch>,
}

/// A rule over what telemetry measures, such as `p95 > 200ms for 5m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Such as `errors`, `p95`, `cpu`, `queue`, `budget`.
    pub metric: String,
    /// Over the threshold, otherwise under it.
    pub over: bool,
    pub threshold: f64,
    /// `%`, `ms`, `s`, `/s`, `/m`, or nothing for a count.
    pub unit: String,
    pub window: Duration,
}

/// A rule such as `cpu > 70% for 5m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleRule {
    pub metric: ScaleMetric,
    /// Over the threshold, otherwise under it.
    pub over: bool,
    /// Per cent of the limit for `cpu` and `memory`, a copy's requests a second for `requests`, jobs waiting for `queue`.
    pub threshold: f64,
    /// The average over this time is compared.
    pub window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleMetric {
    Cpu,
    Memory,
    Requests,
    Queue,
}

/// What one copy may use. None is no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory: Option<Bytes>,
    /// Thousandths of a CPU: 1500 is one and a half.
    pub cpu_millis: Option<u32>,
    pub pids: Option<u32>,
}

/// What happens when a vault reference cannot be resolved at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unresolved {
    /// The workload does not start.
    #[default]
    Fail,
    /// It starts with the literal text, as App Service does.
    Text,
}

/// A share that a workload sees as a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub share: ResourceId,
    /// The absolute path at which the workload sees it.
    pub path: String,
    pub write: bool,
}

/// The hours in which a service runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// Minutes after midnight.
    pub from: u16,
    /// Minutes after midnight, after `from`.
    pub to: u16,
    pub days: Days,
    /// An IANA time zone, such as `Europe/Dublin`.
    pub zone: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Days {
    #[default]
    Every,
    MonFri,
}

/// A program that runs at set times and ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub program: Program,
    pub schedule: Schedule,
    pub subnet: Option<String>,
    pub needs: BTreeSet<ResourceId>,
    pub env: BTreeMap<String, Value>,
    pub limits: Limits,
    pub mounts: Vec<Mount>,
    /// After this it is ended and counts as failed.
    pub timeout: Duration,
    pub unresolved: Unresolved,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    Every(Duration),
    /// Five fields of cron, in UTC.
    Cron(String),
}

impl Schedule {
    /// The first time to run after `after_ms` (milliseconds since 1970); None for times that cannot be read.
    pub fn next(&self, after_ms: i64) -> Option<i64> {
        match self {
            Self::Every(pause) => after_ms.checked_add(i64::try_from(pause.as_millis()).ok()?.max(1000)),
            Self::Cron(text) => crate::cron::Cron::parse(text).ok()?.next(after_ms),
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Every(pause) => write!(f, "every {}", crate::unit::show_duration(*pause)),
            Self::Cron(text) => f.write_str(text),
        }
    }
}

/// Something that is not ours: a provider, a directory, a mail server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Where it really is.
    pub url: String,
    /// The region in which it processes data.
    pub region: Option<String>,
    /// What plays its part on this machine. None: the real one is called.
    pub stand_in: Option<StandIn>,
}

impl External {
    /// Such as `https`.
    pub fn scheme(&self) -> &str {
        self.url.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// Whether its connections begin with TLS; the others speak plainly, as the real one does.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme(), "https" | "ldaps" | "smtps" | "mllps")
    }

    /// `HOST[:PORT]`, and what follows: a path with its slash, or nothing.
    fn parts(&self) -> (&str, &str) {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()))
    }

    pub fn host(&self) -> &str {
        let (authority, _) = self.parts();
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        }
    }

    /// As declared, else the scheme's own.
    pub fn port(&self) -> u16 {
        let (authority, _) = self.parts();
        let own = authority[self.host().len()..].trim_start_matches(':').parse().ok();
        own.unwrap_or(match self.scheme() {
            "http" => 80,
            "ldap" => 389,
            "ldaps" => 636,
            "smtp" => 25,
            "smtps" => 465,
            // IANA's port of HL7 over MLLP.
            "mllp" | "mllps" => 2575,
            _ => 443,
        })
    }

    /// What follows the host: a path with its slash, or nothing.
    pub fn path(&self) -> &str {
        self.parts().1
    }
}

/// What plays the part of something outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandIn {
    pub run: Vec<String>,
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outside_parts_address_is_taken_apart() {
        let of = |url: &str| {
            let e = External { url: url.into(), region: None, stand_in: None };
            (e.scheme().to_owned(), e.host().to_owned(), e.port(), e.path().to_owned(), e.is_tls())
        };
        let owned = |s: &str, h: &str, p: u16, path: &str, tls| (s.to_owned(), h.to_owned(), p, path.to_owned(), tls);
        assert_eq!(of("https://a.example/v1/x"), owned("https", "a.example", 443, "/v1/x", true));
        assert_eq!(of("https://a.example:8443"), owned("https", "a.example", 8443, "", true));
        assert_eq!(of("ldaps://dir.example"), owned("ldaps", "dir.example", 636, "", true));
        assert_eq!(of("smtp://mail.example:587"), owned("smtp", "mail.example", 587, "", false));
        assert_eq!(of("mllp://feed.example"), owned("mllp", "feed.example", 2575, "", false));
        assert_eq!(of("https://[::1]:99/x"), owned("https", "[::1]", 99, "/x", true));
    }
}
