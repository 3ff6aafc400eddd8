//! The configuration as requests use it: one immutable snapshot, swapped whole.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::HeaderValue;
use api::gateway::{GatewayConfig, Limits};

use crate::{path, target::Group};

struct Entry {
    /// Empty: any host.
    host: String,
    /// Without a slash at its end; empty: any path.
    prefix: String,
    group: Arc<Group>,
}

/// One configuration.
pub struct Table {
    /// Named hosts first, then the longest prefix.
    entries: Vec<Entry>,
    pub groups: BTreeMap<String, Arc<Group>>,
    pub limits: Limits,
    pub upstream_timeout: Duration,
    pub connect_timeout: Duration,
    pub body_idle: Duration,
    pub hsts: Option<HeaderValue>,
    pub config: GatewayConfig,
}

impl Table {
    /// `config` was checked. Targets that `old` knows keep their state; `client` is how we speak TLS with targets.
    pub fn new(config: GatewayConfig, old: Option<&Self>, client: Option<&Arc<rustls::ClientConfig>>) -> Self {
        let groups: BTreeMap<String, Arc<Group>> = config
            .upstreams
            .iter()
            .map(|(name, upstream)| {
                let known = old.and_then(|o| o.groups.get(name));
                (name.clone(), Arc::new(Group::new(name, upstream, known.map(AsRef::as_ref), client)))
            })
            .collect();
        let mut entries = Vec::new();
        for route in &config.routes {
            let Some(group) = groups.get(&route.to) else { continue };
            let any = [String::new()];
            for host in if route.hosts.is_empty() { &any[..] } else { &route.hosts } {
                let prefix = route.path.trim_end_matches('/').to_owned();
                entries.push(Entry { host: host.clone(), prefix, group: group.clone() });
            }
        }
        entries.sort_by_key(|e| (e.host.is_empty(), std::cmp::Reverse(e.prefix.len())));
        let hsts = (config.hsts_seconds > 0)
            .then(|| HeaderValue::try_from(format!("max-age={}", config.hsts_seconds)).ok())
            .flatten();
        Self {
            entries,
            groups,
            upstream_timeout: Duration::from_millis(config.limits.upstream_timeout_ms),
            connect_timeout: Duration::from_millis(config.limits.connect_timeout_ms),
            body_idle: Duration::from_millis(config.limits.body_idle_timeout_ms),
            limits: config.limits.clone(),
            hsts,
            config,
        }
    }

    /// The upstream of a request; `host` and `path` as [`path::host`] and [`path::normal`] give them.
    pub fn route(&self, host: &str, path: &str) -> Option<&Arc<Group>> {
        let entry = self.entries.iter().find(|e| (e.host.is_empty() || e.host == host) && path::under(path, &e.prefix));
        entry.map(|e| &e.group)
    }

    /// Whether any route is for this host.
    pub fn knows(&self, host: &str) -> bool {
        self.entries.iter().any(|e| e.host.is_empty() || e.host == host)
    }
}

#[cfg(test)]
mod tests {
    use api::gateway::{Route, Upstream};

    use super::*;

    #[test]
    fn a_named_host_goes_first_then_the_longest_prefix() {
        let mut config = GatewayConfig { https_port: 443, ..GatewayConfig::default() };
        for (host, path, to) in [
            ("", "/", "root"),
            ("", "/api", "api"),
            ("", "/api/v2", "v2"),
            ("a.example", "/", "named"),
            ("", "/x/", "x"),
        ] {
            config.upstreams.insert(to.into(), Upstream::default());
            let hosts = if host.is_empty() { vec![] } else { vec![host.to_owned()] };
            config.routes.push(Route { hosts, path: path.into(), to: to.into() });
        }
        let table = Table::new(config, None, None);
        let to = |host: &str, path: &str| table.route(host, path).map(|g| g.name.clone()).unwrap_or_default();
        assert_eq!(to("b", "/"), "root");
        assert_eq!(to("b", "/apis"), "root");
        assert_eq!(to("b", "/api"), "api");
        assert_eq!(to("b", "/api/v1"), "api");
        assert_eq!(to("b", "/api/v2/x"), "v2");
        assert_eq!(to("a.example", "/api"), "named");
        assert_eq!(to("b", "/x"), "x");
    }
}
