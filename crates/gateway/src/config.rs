//! Checks a configuration before anything of it is used; all faults at once.

use std::collections::BTreeSet;

use api::gateway::GatewayConfig;

use crate::{error::Error, origin, path};

/// Refuses a configuration that could not serve as it is written.
pub fn check(config: &GatewayConfig) -> Result<(), Error> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, route) in config.routes.iter().enumerate() {
        match path::normal(&route.path) {
            Ok(normal) if normal == route.path => {}
            Ok(normal) => faults.push(format!("route {index}: write the path {} as {normal}", route.path)),
            Err(why) => faults.push(format!("route {index}: {why}: {}", route.path)),
        }
        if !config.upstreams.contains_key(&route.to) {
            faults.push(format!("route {index}: there is no upstream {}", route.to));
        }
        let any = [String::new()];
        for host in if route.hosts.is_empty() { &any[..] } else { &route.hosts } {
            if !host.is_empty() && path::host(host).as_deref() != Some(host) {
                faults.push(format!("route {index}: {host} is not a lower-case host name without a port"));
            }
            if !seen.insert((host.clone(), route.path.trim_end_matches('/').to_owned())) {
                faults.push(format!("route {index}: {host}{} is routed twice", route.path));
            }
        }
    }
    for (name, upstream) in &config.upstreams {
        if let Some(check) = &upstream.health {
            if check.interval_ms == 0 || check.timeout_ms == 0 || check.fall == 0 || check.rise == 0 {
                faults.push(format!("upstream {name}: health times and counts are 1 or more"));
            }
            if check.path.parse::<http::uri::PathAndQuery>().is_err() || !check.path.starts_with('/') {
                faults.push(format!("upstream {name}: {} is not a path", check.path));
            }
        }
        for (address, said) in &upstream.origins {
            if !upstream.targets.contains(address) {
                faults.push(format!("upstream {name}: the origin {address} is no target"));
            }
            if said.priority == 0 || said.weight == 0 {
                faults.push(format!("upstream {name}: priority and weight of {} are 1 or more", said.stamp));
            }
            if let Err(Error::Config(more)) = origin::tls(said) {
                faults.extend(more);
            }
        }
        if let Some(tls) = &upstream.tls
            && rustls::pki_types::ServerName::try_from(tls.as_str()).is_err()
        {
            faults.push(format!("upstream {name}: {tls} is no name of a certificate"));
        }
        if upstream.targets.len() > 64 {
            faults.push(format!("upstream {name}: at most 64 targets"));
        }
    }
    let limits = &config.limits;
    for (name, value) in [
        ("header_bytes", limits.header_bytes as u64),
        ("headers", limits.headers as u64),
        ("header_timeout_ms", limits.header_timeout_ms),
        ("body_idle_timeout_ms", limits.body_idle_timeout_ms),
        ("keep_alive_timeout_ms", limits.keep_alive_timeout_ms),
        ("connect_timeout_ms", limits.connect_timeout_ms),
        ("upstream_timeout_ms", limits.upstream_timeout_ms),
        ("websocket_idle_ms", limits.websocket_idle_ms),
        ("connections", limits.connections as u64),
        ("streams", u64::from(limits.streams)),
    ] {
        if value == 0 {
            faults.push(format!("limits.{name} is 1 or more"));
        }
    }
    if config.https_port == 0 {
        faults.push("https_port is 1 or more".into());
    }
    if faults.is_empty() { Ok(()) } else { Err(Error::Config(faults)) }
}

/// Refuses upstreams by TLS where we have no certificate and CA for it.
pub fn check_tls(config: &GatewayConfig, possible: bool) -> Result<(), Error> {
    let asked = config.upstreams.iter().find(|(_, upstream)| upstream.tls.is_some());
    match asked {
        Some((name, _)) if !possible => {
            Err(Error::Config(vec![format!("upstream {name}: TLS needs a certificate of our own, and the stamp's CA")]))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use api::gateway::{HealthCheck, Route, Upstream};

    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        let mut config = GatewayConfig { https_port: 443, ..GatewayConfig::default() };
        let route = |hosts: &[&str], path: &str| Route {
            hosts: hosts.iter().map(|h| (*h).into()).collect(),
            path: path.into(),
            to: "web".into(),
        };
        config.upstreams.insert("web".into(), Upstream::default());
        config.routes = vec![route(&[], "/"), route(&["a.example"], "/api")];
        check(&config).unwrap();
        config.routes.push(route(&["A:80"], "/a/../b"));
        config.routes.push(route(&[], "/"));
        config.routes.push(Route { to: "nobody".into(), ..route(&[], "/%61") });
        let health = HealthCheck { path: "x".into(), interval_ms: 0, timeout_ms: 1, fall: 1, rise: 1 };
        config.upstreams.insert("db".into(), Upstream { health: Some(health), ..Upstream::default() });
        config.limits.connections = 0;
        let Err(Error::Config(faults)) = check(&config) else { panic!("accepted") };
        assert_eq!(faults.len(), 8, "{faults:#?}");
    }
}
