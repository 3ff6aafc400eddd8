//! What a Redis server is started with: its settings on its command line, where they hold nothing secret, and its users in a
//! file.

use std::fmt::Write as _;

use api::shim::CertificateFiles;
use model::resource::Redis;

use super::*;
use crate::redis::{ADMIN, FILE, socket};

/// What a client may do: everything but what is for administrators or reaches beyond data, and of that what client libraries
/// ask at their start, and sorting.
const CLIENT: &str = "~* &* +@all -@admin -@dangerous +info +role +sort +sort_ro";
/// What the supervisor does: look, renew the certificate, read the users anew. It has no way to data.
const SUPERVISOR: &str = "+ping +info +config|set +config|get +acl|load +acl|whoami";

impl Composer<'_> {
    pub(super) fn redis(&self, id: &ResourceId, redis: &Redis) -> Result<Composed, Error> {
        let engines = self.home.engines();
        let engine = api::engine::redis(&engines)
            .ok_or_else(|| Error::NoRedis { workload: id.to_string(), looked: engines.display().to_string() })?;
        let workload = id.to_string();
        let place = self.layout.place(&workload);
        let data = place.join("data");
        let (cert, key) = (data.join("tls.pem"), data.join("tls.key"));
        let port = self.layout.port(redis.port);
        let mut shim = self.shim(&workload, id, &workload)?;
        // It asks for no tokens.
        shim.identity = None;
        shim.env.insert("LD_LIBRARY_PATH".into(), engine.lib.display().to_string());
        shim.run = vec![engine.server.display().to_string()];
        let mut set = |name: &str, value: String| shim.run.extend([format!("--{name}"), value]);
        set("bind", self.layout.ip(&workload)?.to_string());
        // No plain port: whoever is not our user comes in by TLS, with a password.
        set("port", "0".into());
        set("tls-port", port.to_string());
        set("tls-cert-file", cert.display().to_string());
        set("tls-key-file", key.display().to_string());
        set("tls-ca-cert-file", self.layout.ca().display().to_string());
        set("tls-auth-clients", "no".into());
        set("tls-protocols", "TLSv1.2 TLSv1.3".into());
        set("unixsocket", socket(self.layout, &workload).display().to_string());
        set("unixsocketperm", "700".into());
        set("aclfile", place.join(FILE).display().to_string());
        set("protected-mode", "no".into());
        set("dir", data.display().to_string());
        set("appendonly", "yes".into());
        set("appendfsync", if redis.sync_always { "always" } else { "everysec" }.into());
        // The log of writes is what it comes back from; a snapshot beside it would be a second truth.
        set("save", String::new());
        set("maxmemory", redis.memory.0.to_string());
        set("maxmemory-policy", if redis.evicts { "allkeys-lru" } else { "noeviction" }.into());
        set("enable-module-command", "no".into());
        set("enable-debug-command", "no".into());
        set("enable-protected-configs", "no".into());
        set("daemonize", "no".into());
        set("always-show-logo", "no".into());
        shim.stop_grace_ms = 30_000;
        shim.certificate = Some(CertificateFiles { cert, key });
        let mut users = format!("user default reset\nuser {ADMIN} reset on #{{{ADMIN}}} {SUPERVISOR}\n");
        for who in &redis.access {
            if !matches!(who, Principal::Group(_)) {
                let _ = writeln!(users, "user {who} reset on #{{{who}}} {CLIENT}");
            }
        }
        Ok(Composed {
            role: Some(users.into_bytes()),
            role_file: FILE,
            reloads: true,
            control: true,
            sockets: true,
            tls_names: vec![self.layout.name(id)],
            limits: self.limits(&Resource::Redis(redis.clone())),
            ready: Ready::Redis,
            // It reads its log of writes first.
            start_within: STANDBY_WITHIN,
            ..Composed::plain(workload, shim)
        })
    }
}
