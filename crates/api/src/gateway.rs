//! The gateway's configuration. It is written to the gateway's file and read again on SIGHUP.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct GatewayConfig {
    /// First match wins among equal prefixes; the longest prefix and a named host go before others.
    pub routes: Vec<Route>,
    pub upstreams: BTreeMap<String, Upstream>,
    #[serde(default)]
    pub tls_min: TlsMin,
    /// The port that people type, for the redirect from plain HTTP.
    pub https_port: u16,
    #[serde(default)]
    pub limits: Limits,
    /// `Strict-Transport-Security` max-age in seconds; 0 leaves the header out.
    #[serde(default = "year")]
    pub hsts_seconds: u64,
    /// One JSON line a request on stdout.
    #[serde(default = "yes")]
    pub access_log: bool,
    /// Threads that serve connections, each with its own runtime and its own upstream connections. 0: one a core, at
    /// most 4. Read at the start only.
    #[serde(default)]
    pub workers: usize,
    /// Base URL of the telemetry role, for a span a request; the ingestion key is handed over as a secret. None: no spans.
    /// Read at the start only.
    #[serde(default)]
    pub telemetry: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum TlsMin {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Route {
    /// Host names (without port) this route is for; empty is any.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Path prefix by whole segments: `/api` takes `/api` and `/api/x`, not `/apis`.
    pub path: String,
    /// Name of an upstream.
    pub to: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Upstream {
    pub targets: Vec<SocketAddr>,
    #[serde(default)]
    pub health: Option<HealthCheck>,
    #[serde(default)]
    pub balance: Balance,
    /// The targets speak TLS, and their certificate is for this name. None: plain HTTP.
    #[serde(default)]
    pub tls: Option<String>,
    /// Of targets that are the entries of other stamps: how each is verified, and which is preferred. Empty: all are services of
    /// this stamp, spoken to plainly.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub origins: BTreeMap<SocketAddr, Origin>,
}

/// The entry of another stamp: spoken to by TLS, verified with that stamp's own CA.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Origin {
    /// The stamp, for logs.
    pub stamp: String,
    /// The CA that vouches for it (PEM); no other is trusted.
    pub ca_pem: String,
    /// The name or address in its certificate.
    pub server_name: String,
    /// From 1. Of those that are well, the ones with the lowest get the requests.
    pub priority: u32,
    /// From 1. Its share among those of its priority.
    pub weight: u32,
}

/// Which of the healthy targets gets the next request.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// The one with the fewest open requests.
    LeastLoaded,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct HealthCheck {
    pub path: String,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    /// Consecutive failures that take a target out.
    pub fall: u32,
    /// Consecutive successes that bring it back.
    pub rise: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Limits {
    pub header_bytes: usize,
    pub headers: usize,
    pub body_bytes: u64,
    /// Time for a request's head to arrive.
    pub header_timeout_ms: u64,
    /// Time without a byte of a request's body.
    pub body_idle_timeout_ms: u64,
    pub keep_alive_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// Time from the sent request to the upstream's response head.
    pub upstream_timeout_ms: u64,
    /// Open client connections; more wait in the listener's backlog.
    pub connections: usize,
    /// Requests open at once on one HTTP/2 connection.
    pub streams: u32,
    /// Idle upstream connections kept for each target and worker.
    pub idle_upstream: usize,
    /// Time without a byte either way after which a WebSocket is closed.
    pub websocket_idle_ms: u64,
    /// Time that open requests get when the gateway is asked to stop.
    pub drain_ms: u64,
    /// How long a request waits for an upstream of which no target takes connections, as while it is replaced. 0: not at
    /// all.
    pub hold_ms: u64,
    /// Requests that wait so at once; more are answered 502 or 503.
    pub hold_requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            headers: 100,
            body_bytes: 100 * 1024 * 1024,
            header_timeout_ms: 10_000,
            body_idle_timeout_ms: 30_000,
            keep_alive_timeout_ms: 75_000,
            connect_timeout_ms: 2_000,
            upstream_timeout_ms: 60_000,
            connections: 10_000,
            streams: 128,
            idle_upstream: 64,
            websocket_idle_ms: 300_000,
            drain_ms: 10_000,
            hold_ms: 5_000,
            hold_requests: 1_000,
        }
    }
}

fn year() -> u64 {
    31_536_000
}

fn yes() -> bool {
    true
}
