//! What a workload is started with: made from the declaration and the layout alone, so that two runs make the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use api::{
    audit::AuditConfig,
    context::{ContextFile, IdentityRef, RoleFile, secret},
    gateway::{GatewayConfig, HealthCheck, Limits as EdgeBounds, Origin, Route, TlsMin, Upstream},
    identity::{Client, IdentityConfig},
    member::{LEAD, Member, MemberConfig},
    postgres::PostgresConfig,
    registry::{Grant, RegistryConfig, RegistryRole, Tier},
    shim::{FRONT, Front, IdentityEndpoint, ShimConfig, StopSignal},
    telemetry::TelemetryConfig,
    vault::{Assignment, VaultConfig, VaultRole},
};
use model::{
    Kind, Principal, Resource, ResourceId, System,
    resource::{Service, Source, Unresolved, WhenLost},
    value::{Output, Value},
};

use crate::{
    Error, Home,
    files::digest,
    journal::{Journal, StampRow},
    layout::{Layout, at},
};

/// Who the supervisor is to the stamp's own roles.
pub const OPERATOR: &str = "supervisor";
/// Connections beyond the declared ones: PostgreSQL keeps three for superusers, and the keeper has two at times.
const OWN_CONNECTIONS: u32 = 5;
/// The upstream of an edge that stands before other stamps.
pub const ORIGINS: &str = "origins";
/// The shim puts the workload's ingestion key in place of this text.
const INGEST_KEY: &str = api::shim::INGEST_KEY_PLACE;

/// A role is ready in well under a second; one that is not by then will not be.
const ROLE_WITHIN: Duration = Duration::from_secs(60);
/// A standby is copied from its primary; what takes longer goes on by itself after `up` has said so.
const STANDBY_WITHIN: Duration = Duration::from_secs(600);
/// A large database is replayed for hours, and is not restored by waiting less long.
const RESTORE_WITHIN: Duration = Duration::from_secs(86_400);
/// A migration of a large table takes its time, and what it does is not undone by waiting less long.
const MIGRATION_WITHIN: Duration = Duration::from_secs(3600);

/// Everything a workload is placed with, but for keys.
pub struct Composed {
    pub workload: String,
    pub shim: ShimConfig,
    /// The role's own file; None for a service.
    pub role: Option<Vec<u8>>,
    /// In the workload's own network, if it has one.
    pub listeners: Vec<(String, SocketAddr)>,
    /// In the machine's network, for people: what a closed network lets in.
    pub doors: Vec<(String, SocketAddr)>,
    /// The role answers `/health` on its control socket.
    pub control: bool,
    /// Root keys that the role is handed, by secret name, and the name of the key in the authority.
    pub keys: Vec<(&'static str, String)>,
    /// Names in its certificate; empty: it has none.
    pub tls_names: Vec<String>,
    pub limits: drivers::Limits,
    pub ready: Ready,
    /// How long it may take until it is.
    pub start_within: Duration,
    /// A new role file is taken up by SIGHUP.
    pub reloads: bool,
    /// The engine's `bin` and the template its data begins as.
    pub template: Option<(PathBuf, PathBuf)>,
    /// Folders of its own beyond `data` and `log`; others may look into them.
    pub folders: Vec<PathBuf>,
    /// The size of a disk of its own, bytes; changed while it runs.
    pub volume: Option<u64>,
}

/// How readiness is seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Ready {
    /// `/health` on the control socket.
    Control,
    /// `GET path` answers 200.
    Http { at: SocketAddr, path: String },
    /// The port takes connections.
    Port(SocketAddr),
    /// The process runs.
    Running,
    /// It ended with success.
    Done,
}

impl Composed {
    /// Digest of what needs a new process when it changes.
    pub fn digest(&self) -> String {
        let mut text = serde_json::to_string(&self.shim).unwrap_or_default();
        text.push_str(&format!("{:?}{:?}{:?}{:?}", self.listeners, self.limits, self.tls_names, self.keys));
        if !self.doors.is_empty() {
            text.push_str(&format!("{:?}", self.doors));
        }
        if !self.reloads {
            text.push_str(&String::from_utf8_lossy(self.role.as_deref().unwrap_or_default()));
        }
        digest(text.as_bytes())
    }

    /// Digest of what can be taken up while running.
    pub fn role_digest(&self) -> String {
        digest(self.role.as_deref().unwrap_or_default())
    }
}

/// Makes every workload of a stamp.
pub struct Composer<'a> {
    pub home: &'a Home,
    pub row: &'a StampRow,
    pub system: &'a System,
    pub layout: &'a Layout,
    /// The kept copy of this binary.
    pub stamp_binary: &'a Path,
    /// Workloads share our user.
    pub shared_user: bool,
    /// Programs and files are looked up anew, as at `up`; otherwise those of the last `up` count, and the clone may be gone.
    pub fresh: bool,
    pub journal: &'a Journal,
    /// Milliseconds by which the roles' clock is moved; not 0 on scratch stamps only.
    pub clock_offset_ms: i64,
}

impl Composer<'_> {
    /// All workloads in the order of the declaration.
    pub fn all(&self) -> Result<Vec<Composed>, Error> {
        let mut all = Vec::new();
        for id in &self.system.order {
            let Some(resource) = self.system.resources.get(id) else { continue };
            for workload in model::plan::workloads(id, resource) {
                all.push(self.one(id, resource, &workload)?);
            }
        }
        Ok(all)
    }

    fn one(&self, id: &ResourceId, resource: &Resource, workload: &str) -> Result<Composed, Error> {
        match resource {
            Resource::Service(service) => self.service(id, service, workload),
            Resource::Edge(edge) => self.role(id, "gateway", self.gateway(edge)?, true, Vec::new()),
            Resource::Vault(vault) => {
                let keys = vec![(secret::VAULT_KEK, format!("vault-kek/{}", id.name)), ship_key(id)];
                self.role(id, "vault", self.vault(id, vault), true, keys)
            }
            Resource::Identity(identity) => {
                let keys = vec![(secret::IDENTITY_ROOT, "identity-root".into()), ship_key(id)];
                self.role(id, "identity", self.identity(id, identity)?, true, keys)
            }
            Resource::Telemetry(telemetry) => {
                let config = TelemetryConfig {
                    retention_days: days(telemetry.retention),
                    sources: self.sources(),
                    ..default_telemetry()
                };
                self.role(id, "telemetry", config, false, vec![(secret::TELEMETRY_ROOT, "telemetry-root".into())])
            }
            Resource::Audit(audit) => {
                let config = AuditConfig { retention_days: days(audit.retention), sources: self.acting_roles() };
                self.role(id, "audit", config, false, vec![(secret::AUDIT_ROOT, "audit-root".into())])
            }
            Resource::Registry(registry) => {
                let keys = vec![(secret::REGISTRY_ROOT, format!("registry-root/{}", id.name)), ship_key(id)];
                self.role(id, "registry", self.registry(id, registry)?, true, keys)
            }
            Resource::Postgres(postgres) => self.postgres(id, postgres, workload),
            other => Err(Error::NotBuilt(format!("{id} ({})", other.kind()))),
        }
    }

    /// The migration of a service: run once, with an identity and a database role of its own.
    pub fn migration(&self, id: &ResourceId, service: &Service) -> Result<Option<Composed>, Error> {
        let Some(migrate) = &service.migrate else { return Ok(None) };
        let workload = format!("{id}.migrate");
        let mut shim = self.shim(&workload, id, &workload)?;
        shim.run = self.program(&workload, &migrate.run)?;
        shim.directory = self.directory(id, service, &migrate.run, &workload)?;
        shim.env = self.environment(&workload, &migrate.env, None)?;
        shim.once = true;
        shim.unresolved_as_text = false;
        Ok(Some(Composed {
            workload,
            shim,
            role: None,
            listeners: Vec::new(),
            doors: Vec::new(),
            control: false,
            keys: Vec::new(),
            tls_names: Vec::new(),
            limits: drivers::Limits::default(),
            ready: Ready::Done,
            start_within: MIGRATION_WITHIN,
            reloads: false,
            template: None,
            folders: Vec::new(),
            volume: None,
        }))
    }

    /// A command of a person in the place of a service.
    pub fn command(
        &self,
        id: &ResourceId,
        service: &Service,
        command: &[String],
        directory: &Path,
    ) -> Result<ShimConfig, Error> {
        let workload = id.to_string();
        let mut shim = self.service(id, service, &workload)?.shim;
        shim.front = None;
        shim.run = command.to_vec();
        shim.directory = directory.into();
        shim.foreground = true;
        Ok(shim)
    }

    fn service(&self, id: &ResourceId, service: &Service, workload: &str) -> Result<Composed, Error> {
        let Source::Run(run) = &service.program.source else {
            return Err(Error::NotBuilt(format!("{id}'s image (processes, not containers yet)")));
        };
        let port = service.port.map(|p| self.layout.port(p));
        let mut shim = self.shim(workload, id, &id.to_string())?;
        shim.run = self.program(workload, run)?;
        shim.directory = self.directory(id, service, run, workload)?;
        shim.env = self.environment(workload, &service.env, port)?;
        shim.unresolved_as_text = service.unresolved == Unresolved::Text;
        shim.stop_grace_ms = service.stop_grace.as_millis() as u64;
        let inner = self.layout.inner(workload)?;
        let ready = match (port, &service.health) {
            (Some(port), Some(path)) => Ready::Http { at: at(inner, port), path: path.clone() },
            (Some(port), None) => Ready::Port(at(inner, port)),
            (None, _) => Ready::Running,
        };
        let (mut listeners, mut tls_names) = (Vec::new(), Vec::new());
        if let Some(port) = port.filter(|_| self.layout.closed.is_some()) {
            // Nothing crosses a network in the clear: the shim ends TLS at the workload's address.
            shim.front = Some(Front { to: at(inner, port), clients: self.callers(id) });
            listeners.push((FRONT.to_owned(), at(self.layout.ip(workload)?, self.layout.https_port(Kind::Service))));
            tls_names.push(self.layout.name(id));
        }
        Ok(Composed {
            workload: workload.into(),
            shim,
            role: None,
            control: !listeners.is_empty(),
            listeners,
            doors: Vec::new(),
            keys: Vec::new(),
            tls_names,
            limits: self.limits(&Resource::Service(service.clone())),
            ready,
            start_within: service.start_within,
            reloads: false,
            template: None,
            folders: Vec::new(),
            volume: None,
        })
    }

    /// Whose certificates a service's front asks for: the edge's, where nobody else calls it. Applications have none to show.
    fn callers(&self, id: &ResourceId) -> Vec<String> {
        let calls =
            |other: &ResourceId| other.kind == Kind::Service && other != id && self.system.needs(other).contains(id);
        if self.system.edge().is_none() || self.system.resources.keys().any(calls) {
            return Vec::new();
        }
        vec![self.layout.name(&ResourceId::edge())]
    }

    fn role<C: serde::Serialize>(
        &self,
        id: &ResourceId,
        role: &str,
        config: C,
        reloads: bool,
        keys: Vec<(&'static str, String)>,
    ) -> Result<Composed, Error> {
        self.role_as(id, id.to_string(), role, config, reloads, keys)
    }

    /// The role of one workload of a resource.
    fn role_as<C: serde::Serialize>(
        &self,
        id: &ResourceId,
        workload: String,
        role: &str,
        config: C,
        reloads: bool,
        keys: Vec<(&'static str, String)>,
    ) -> Result<Composed, Error> {
        let ip = self.layout.front(&workload)?;
        let mut shim = self.shim(&workload, id, &id.to_string())?;
        let config_path = self.layout.place(&workload).join("config.json");
        shim.run = vec![
            self.stamp_binary.display().to_string(),
            "serve".into(),
            role.into(),
            "--config".into(),
            config_path.display().to_string(),
        ];
        shim.pass_secrets = keys.iter().map(|(name, _)| (*name).to_owned()).collect();
        shim.pass_secrets.extend([secret::TLS_CERT.to_owned(), secret::TLS_KEY.to_owned()]);
        if id.kind == Kind::Edge && shim.telemetry.is_some() {
            // For its spans.
            shim.pass_secrets.push(secret::INGEST_KEY.to_owned());
        }
        shim.identity = None;
        let audit = self.first(Kind::Audit).map(|audit| self.layout.url(&audit)).transpose()?;
        let identity = match self.first(Kind::Identity) {
            Some(identity) => {
                let issuer = self.layout.url(&identity)?;
                Some(IdentityRef { jwks: format!("{issuer}/jwks"), issuer, tenant: self.layout.tenant.clone() })
            }
            None => None,
        };
        let file = RoleFile {
            version: 1,
            context: ContextFile {
                system: self.system.name.clone(),
                stamp: self.system.stamp.clone(),
                resource: workload.clone(),
                data: self.layout.place(&workload).join("data"),
                ca: self.layout.ca(),
                hosts: self.layout.hosts(self.system)?,
                identity,
                audit: audit.filter(|_| id.kind != Kind::Audit),
                clock_offset_ms: self.clock_offset_ms,
            },
            config,
        };
        let port = self.layout.https_port(id.kind);
        let (mut listeners, mut doors) = (Vec::new(), Vec::new());
        if id.kind != Kind::Postgres {
            listeners.push(("https".to_owned(), at(ip, port)));
        }
        let plain = (id.kind == Kind::Edge).then(|| ("http".to_owned(), at(ip, self.layout.port(80))));
        if self.layout.public(&workload).is_some() {
            doors.push(("https-outside".to_owned(), at(ip, port)));
            doors.extend(plain);
        } else {
            listeners.extend(plain);
        }
        let mut tls_names = vec![self.layout.name(id)];
        if let Some(Resource::Vault(vault)) = self.system.resources.get(id)
            && self.system.cloud_names
        {
            tls_names.push(format!("{}.vault.azure.net", vault.cloud_name.as_deref().unwrap_or(&id.name)));
        }
        if let Some(Resource::Registry(registry)) = self.system.resources.get(id)
            && self.system.cloud_names
        {
            tls_names.push(self.layout.cloud_registry(id, registry));
        }
        let limits = self.system.resources.get(id).map(|r| self.limits(r)).unwrap_or_default();
        Ok(Composed {
            role: Some(serde_json::to_vec_pretty(&file).map_err(|e| Error::Fault(e.to_string()))?),
            workload,
            shim,
            listeners,
            doors,
            control: true,
            keys,
            tls_names,
            limits,
            ready: Ready::Control,
            start_within: ROLE_WITHIN,
            // A clock is set once, at the start.
            reloads: reloads && self.clock_offset_ms == 0,
            template: None,
            folders: Vec::new(),
            volume: None,
        })
    }

    /// The part of a shim's configuration that all workloads share.
    fn shim(&self, workload: &str, id: &ResourceId, identity_name: &str) -> Result<ShimConfig, Error> {
        let place = self.layout.place(workload);
        let telemetry = self.first(Kind::Telemetry).filter(|t| t != id);
        let telemetry = telemetry.map(|t| self.layout.url(&t)).transpose()?;
        let identity = match self.first(Kind::Identity) {
            Some(role) => {
                let mut vaults = BTreeMap::new();
                for (vault, declared) in self.system.vaults() {
                    let url = self.layout.named_url(vault);
                    vaults.insert(vault.name.clone(), url.clone());
                    if let Some(cloud) = &declared.cloud_name {
                        vaults.insert(cloud.clone(), url);
                    }
                }
                Some(IdentityEndpoint {
                    identity: self.layout.url(&role)?,
                    listen: self.endpoint(workload, id)?,
                    shared_user: self.shared_user,
                    vaults,
                })
            }
            None => None,
        };
        let mut env = BTreeMap::new();
        env.insert("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        env.insert("LANG".into(), "C.UTF-8".into());
        env.insert("HOME".into(), place.join("data").display().to_string());
        Ok(ShimConfig {
            version: 1,
            system: self.system.name.clone(),
            stamp: self.system.stamp.clone(),
            resource: identity_name.into(),
            run: Vec::new(),
            directory: place.join("data"),
            env,
            pass_secrets: Vec::new(),
            log_dir: place.join("log"),
            log_bytes: 10 * 1024 * 1024,
            log_files: 5,
            once: false,
            foreground: false,
            keep_orphans: false,
            stop_signal: StopSignal::Term,
            stop_grace_ms: 10_000,
            identity,
            telemetry,
            ca: self.layout.ca(),
            hosts: self.layout.hosts(self.system)?,
            unresolved_as_text: false,
            front: None,
        })
    }

    /// Where a workload's identity endpoint listens: on the loopback of its own network, or at its own loopback address.
    fn endpoint(&self, workload: &str, id: &ResourceId) -> Result<IpAddr, Error> {
        if self.layout.closed.is_some() {
            return Ok(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        }
        self.layout.ip(workload).or_else(|_| self.layout.ip(&id.to_string())).map(IpAddr::V4)
    }

    /// The environment of an application: what App Service gives, what SDKs read to trust the CA, and what is declared.
    fn environment(
        &self,
        workload: &str,
        declared: &BTreeMap<String, Value>,
        port: Option<u16>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let place = self.layout.place(workload);
        let bundle = self.layout.bundle().display().to_string();
        let resource = model::plan::resource_of(workload);
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |name: &str, value: String| {
            env.insert(name.to_owned(), value);
        };
        set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        set("LANG", "C.UTF-8".into());
        set("HOME", place.join("data").display().to_string());
        // One variable a client family; none of them reads another's (research notes on Azure SDKs, section 0).
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
            set(name, bundle.clone());
        }
        if let Ok(ip) = self.layout.inner(workload) {
            set("LISTEN_ADDRESS", ip.to_string());
            if let Some(port) = port {
                set("PORT", port.to_string());
                set("ASPNETCORE_URLS", format!("http://{ip}:{port}"));
            }
        }
        let short = resource.split('.').nth(1).unwrap_or(resource);
        set("WEBSITE_SITE_NAME", format!("{}-{short}", self.system.name));
        set("WEBSITE_INSTANCE_ID", digest(self.layout.mark(workload).as_bytes()));
        if let Some(edge) = self.system.edge().map(|_| ResourceId::edge()) {
            let url = self.layout.url(&edge)?;
            set("WEBSITE_HOSTNAME", url.trim_start_matches("https://").to_owned());
        }
        set("REGION_NAME", self.system.region.clone().unwrap_or_else(|| "local".into()));
        if let Some(telemetry) = self.first(Kind::Telemetry) {
            set("OTEL_EXPORTER_OTLP_ENDPOINT", self.layout.url(&telemetry)?);
            set("OTEL_EXPORTER_OTLP_CERTIFICATE", bundle.clone());
            set("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".into());
            set("OTEL_SERVICE_NAME", resource.to_owned());
            set(
                "OTEL_RESOURCE_ATTRIBUTES",
                format!("service.namespace={},deployment.environment.name={}", self.system.name, self.system.stamp),
            );
        }
        for (name, value) in declared {
            let text = value.fill(|id, output| self.output(id, output))?;
            set(name, text);
        }
        Ok(env)
    }

    /// What a resource gives out.
    fn output(&self, id: &ResourceId, output: Output) -> Result<String, Error> {
        let layout = self.layout;
        Ok(match (id.kind, output) {
            (Kind::Edge, Output::Url) => self.people_come_to()?,
            (Kind::Identity | Kind::Registry, Output::Url) | (Kind::Identity, Output::Issuer) => layout.url(id)?,
            (Kind::Identity, Output::Tenant) => layout.tenant.clone(),
            (Kind::Vault, Output::Url) => layout.named_url(id),
            (Kind::Telemetry, Output::Endpoint) => layout.url(id)?,
            (Kind::Telemetry, Output::ConnectionString) => {
                format!("InstrumentationKey={INGEST_KEY};IngestionEndpoint={}/", layout.url(id)?)
            }
            (Kind::Service, Output::Url) => {
                if layout.closed.is_some() {
                    layout.named_url(id)
                } else {
                    format!("http://{}:{}", layout.reach(id)?, self.service_port(id))
                }
            }
            (_, Output::Host) => layout.reach(id)?,
            (Kind::Postgres, Output::Port) => match self.system.resources.get(id) {
                Some(Resource::Postgres(p)) => layout.port(p.port).to_string(),
                _ => String::new(),
            },
            (Kind::Service, Output::Port) => self.service_port(id).to_string(),
            (kind, Output::Port) => layout.https_port(kind).to_string(),
            (kind, output) => return Err(Error::NotBuilt(format!("`{output}` of {kind}"))),
        })
    }

    /// The port at which others reach a service.
    fn service_port(&self, id: &ResourceId) -> u16 {
        if self.layout.closed.is_some() {
            return self.layout.https_port(Kind::Service);
        }
        match self.system.resources.get(id) {
            Some(Resource::Service(s)) => s.port.map_or(0, |p| self.layout.port(p)),
            _ => 0,
        }
    }

    fn gateway(&self, edge: &model::resource::Edge) -> Result<GatewayConfig, Error> {
        let mut upstreams = BTreeMap::new();
        let mut routes = Vec::new();
        for route in &edge.routes {
            let Some(Resource::Service(service)) = self.system.resources.get(&route.to) else { continue };
            let port = self.service_port(&route.to);
            let mut targets = Vec::new();
            for workload in model::plan::workloads(&route.to, &Resource::Service(service.clone())) {
                targets.push(at(self.layout.ip(&workload)?, port));
            }
            let health = service.health.as_ref().map(|path| HealthCheck {
                path: path.clone(),
                interval_ms: 1000,
                timeout_ms: 2000,
                fall: 2,
                rise: 1,
            });
            let tls = self.layout.closed.is_some().then(|| self.layout.name(&route.to));
            upstreams.insert(route.to.to_string(), Upstream { targets, health, tls, ..Upstream::default() });
            routes.push(Route { hosts: route.hosts.clone(), path: route.path.clone(), to: route.to.to_string() });
        }
        if !edge.origins.is_empty() {
            upstreams.insert(ORIGINS.to_owned(), self.origins(edge)?);
            routes.push(Route { hosts: Vec::new(), path: "/".into(), to: ORIGINS.into() });
        }
        let standard = EdgeBounds::default();
        let bounds = edge.limits;
        let limits = EdgeBounds {
            header_bytes: bounds.header.map_or(standard.header_bytes, |b| b.0 as usize),
            headers: bounds.headers.map_or(standard.headers, |n| n as usize),
            body_bytes: bounds.body.map_or(standard.body_bytes, |b| b.0),
            upstream_timeout_ms: bounds.timeout.map_or(standard.upstream_timeout_ms, |d| d.as_millis() as u64),
            connections: bounds.connections.map_or(standard.connections, |n| n as usize),
            drain_ms: bounds.drain.map_or(standard.drain_ms, |d| d.as_millis() as u64),
            ..standard
        };
        Ok(GatewayConfig {
            routes,
            upstreams,
            tls_min: if edge.tls_min == model::resource::TlsMin::V1_3 { TlsMin::V1_3 } else { TlsMin::V1_2 },
            https_port: self.layout.https_port(Kind::Edge),
            limits,
            hsts_seconds: edge.hsts.as_secs(),
            access_log: true,
            telemetry: self.first(Kind::Telemetry).map(|t| self.layout.url(&t)).transpose()?,
            ..GatewayConfig::default()
        })
    }

    /// The entries of other stamps that are there now; one that comes later is told later ([`crate::doors`]).
    fn origins(&self, edge: &model::resource::Edge) -> Result<Upstream, Error> {
        let mut upstream = Upstream::default();
        for origin in &edge.origins {
            let entry = crate::doors::entry(self.home, self.journal, &self.system.name, &origin.stamp)?;
            let Some(entry) = entry else { continue };
            let address = at(entry.address, self.layout.https_port(Kind::Edge));
            upstream.targets.push(address);
            let verified = Origin {
                stamp: origin.stamp.clone(),
                ca_pem: entry.ca_pem,
                server_name: entry.address.to_string(),
                priority: origin.priority,
                weight: origin.weight,
            };
            upstream.origins.insert(address, verified);
        }
        upstream.health = Some(HealthCheck {
            path: edge.probe.path.clone(),
            interval_ms: edge.probe.every.as_millis() as u64,
            timeout_ms: 2000,
            fall: edge.probe.fall,
            rise: 1,
        });
        Ok(upstream)
    }

    /// Where people come in: at this stamp's edge, or at the front door before it.
    fn people_come_to(&self) -> Result<String, Error> {
        if let Some(front) = self.system.front()
            && let Some(address) = crate::doors::address(self.journal, &self.system.name, front)?
        {
            return Ok(crate::layout::https(&address.to_string(), self.layout.https_port(Kind::Edge)));
        }
        self.layout.url(&ResourceId::edge())
    }

    fn vault(&self, id: &ResourceId, vault: &model::resource::Vault) -> VaultConfig {
        let mut assignments: Vec<Assignment> = vault
            .access
            .iter()
            .map(|a| Assignment { principal: a.to.to_string(), role: role(a.role), secrets: a.secrets.clone() })
            .collect();
        // It sets what is declared to be there; it is one of the names in the audit record like any other.
        assignments.push(Assignment {
            principal: OPERATOR.into(),
            role: VaultRole::SecretsOfficer,
            secrets: Vec::new(),
        });
        VaultConfig {
            name: id.name.clone(),
            url: self.layout.named_url(id),
            soft_delete_days: days(vault.soft_delete),
            purge_protection: vault.purge_protection,
            premium: vault.premium,
            assignments,
            ..VaultConfig::default()
        }
    }

    fn registry(&self, id: &ResourceId, registry: &model::resource::Registry) -> Result<RegistryConfig, Error> {
        let grants = registry.access.iter().map(|a| Grant {
            principal: a.to.to_string(),
            role: match a.role {
                model::resource::RegistryRole::Pull => RegistryRole::Pull,
                model::resource::RegistryRole::Push => RegistryRole::Push,
                model::resource::RegistryRole::Delete => RegistryRole::Delete,
            },
            repositories: a.repositories.clone(),
        });
        // It pushes what people have it build; it is one of the names in the audit record like any other.
        let own = Grant { principal: OPERATOR.into(), role: RegistryRole::Push, repositories: Vec::new() };
        let grants = grants.chain([own]);
        let mut hosts = vec![self.layout.name(id)];
        if self.system.cloud_names {
            hosts.push(self.layout.cloud_registry(id, registry));
        }
        Ok(RegistryConfig {
            name: id.name.clone(),
            url: self.layout.url(id)?,
            hosts,
            admin_user: registry.admin_user,
            grants: grants.collect(),
            movable_releases: registry.movable_releases,
            keep_untagged_seconds: registry.keep_untagged.map(|d| d.as_secs()),
            tier: registry.size.as_deref().map(Tier::named).unwrap_or_default(),
        })
    }

    fn identity(&self, id: &ResourceId, identity: &model::resource::Identity) -> Result<IdentityConfig, Error> {
        let edge = self.system.edge().map(|_| self.people_come_to()).transpose()?.unwrap_or_default();
        let mut clients: Vec<Client> = identity
            .clients
            .iter()
            .map(|(name, client)| Client {
                id: name.clone(),
                title: client.title.clone(),
                redirect_uris: client.redirect.iter().map(|p| format!("{edge}{p}")).collect(),
                post_logout_redirect_uris: client.sign_out.iter().map(|p| format!("{edge}{p}")).collect(),
                ..Client::default()
            })
            .collect();
        // A person at a terminal: `stamp token`.
        if !identity.clients.contains_key(api::identity::TERMINAL) {
            clients.push(Client {
                id: api::identity::TERMINAL.into(),
                title: "stamp, at a terminal of this machine".into(),
                redirect_uris: vec!["http://127.0.0.1/".into()],
                native: true,
                resources: vec!["https://vault.azure.net".into()],
                ..Client::default()
            });
        }
        let mut workloads: BTreeSet<String> = BTreeSet::from([OPERATOR.to_owned()]);
        for (service, declared) in self.system.services() {
            workloads.insert(service.to_string());
            if declared.migrate.is_some() {
                workloads.insert(Principal::Migrate(service.clone()).to_string());
            }
        }
        Ok(IdentityConfig {
            issuer: self.layout.url(id)?,
            tenant: self.layout.tenant.clone(),
            title: identity.title.clone(),
            clients,
            groups: identity.groups.clone(),
            admin_group: identity.admin_group.clone().unwrap_or_default(),
            workloads: workloads.into_iter().collect(),
            session_seconds: identity.session.as_secs(),
            ..IdentityConfig::default()
        })
    }

    fn postgres(
        &self,
        id: &ResourceId,
        postgres: &model::resource::Postgres,
        workload: &str,
    ) -> Result<Composed, Error> {
        let engines = self.home.engines();
        let engine =
            api::engine::choose(&engines, postgres.version.want, &postgres.version.accept).ok_or_else(|| {
                let accept: Vec<String> = postgres.version.accept.iter().map(u32::to_string).collect();
                Error::NoEngine {
                    workload: workload.to_owned(),
                    want: postgres.version.want,
                    accept: accept.join(", "),
                    looked: vec![engines.display().to_string()],
                }
            })?;
        let port = self.layout.port(postgres.port);
        let mut settings = postgres.settings.clone();
        let slots = postgres.connections.saturating_add(OWN_CONNECTIONS);
        settings.entry("max_connections".into()).or_insert_with(|| slots.to_string());
        let origin = crate::backups::origin(self.journal, self.row, id)?;
        let backup = crate::backups::config(self, id, workload, &origin, postgres)?;
        let mut folders: Vec<PathBuf> =
            [Some(&backup.repository), backup.copy.as_ref()].into_iter().flatten().cloned().collect();
        if postgres.members() > 1 {
            folders.push(crate::lead::records(self.layout, workload));
        }
        let config = PostgresConfig {
            backup: Some(backup),
            template: self.home.templates().join(engine.template_name()),
            bin: engine.bin,
            address: IpAddr::V4(self.layout.ip(workload)?),
            port,
            member: self.member(id, postgres, workload)?,
            socket_dir: self.layout.sockets.join(format!("{workload}.d")),
            databases: postgres.databases.clone(),
            settings,
        };
        // A restored server has the roles and the backups of its origin.
        let mut keys = vec![
            (secret::POSTGRES_ADMIN, format!("postgres-admin/{}", origin.name)),
            (secret::BACKUP_KEY, format!("backup/{}", origin.name)),
        ];
        let several = config.member.is_some();
        if several {
            keys.push((secret::POSTGRES_REPLICATION, format!("postgres-replication/{}", id.name)));
        }
        let template = (config.bin.clone(), config.template.clone());
        let restoring = config.backup.as_ref().is_some_and(|b| b.restore.is_some());
        let mut composed = self.role_as(id, workload.to_owned(), "postgres", config, false, keys)?;
        if several {
            composed.tls_names.push(self.layout.member_name(id, model::plan::number_of(workload)));
            // A standby of a large database takes long to be made.
            composed.start_within = STANDBY_WITHIN;
        }
        composed.template = Some(template);
        composed.folders = folders;
        composed.volume = crate::storage::granted(self.journal, self.row, id, postgres.storage)?;
        composed.shim.keep_orphans = true;
        composed.shim.stop_grace_ms = 60_000;
        if restoring {
            composed.start_within = RESTORE_WITHIN;
        }
        Ok(composed)
    }

    /// What a member of a database knows of the others; None for an only server.
    fn member(
        &self,
        id: &ResourceId,
        postgres: &model::resource::Postgres,
        workload: &str,
    ) -> Result<Option<MemberConfig>, Error> {
        if postgres.members() < 2 {
            return Ok(None);
        }
        let mut all = Vec::new();
        for n in 1..=postgres.members() {
            let name = model::plan::workload(id, n);
            all.push(Member {
                zone: postgres.zone(n),
                address: IpAddr::V4(self.layout.ip(&name)?),
                port: self.layout.port(postgres.port),
                only_reads: postgres.only_reads(n),
                name,
            });
        }
        let standby = postgres.standby;
        Ok(Some(MemberConfig {
            record: Some(crate::lead::records(self.layout, workload)),
            name: workload.to_owned(),
            lead: self.layout.place(workload).join(LEAD),
            ca: self.layout.ca(),
            all,
            synchronous: standby.synchronous && postgres.has_standby(),
            go_on_after_ms: match standby.when_lost {
                WhenLost::GoOn => Some(standby.lost_after.as_millis() as u64),
                WhenLost::Wait => None,
            },
        }))
    }

    /// The program's absolute path and its arguments. Our own binaries are kept by digest; the machine's run where they are.
    fn program(&self, workload: &str, run: &[String]) -> Result<Vec<String>, Error> {
        let Some((program, arguments)) = run.split_first() else {
            return Err(Error::Fault(format!("{workload} runs nothing")));
        };
        let path = self.kept(&format!("program/{workload}/{program}"), || self.find_program(workload, program))?;
        let mut whole = vec![path.display().to_string()];
        whole.extend_from_slice(arguments);
        Ok(whole)
    }

    /// A path found at `up` and kept in the journal: what comes after does not look at the clone again.
    fn kept(&self, fact: &str, find: impl FnOnce() -> Result<PathBuf, Error>) -> Result<PathBuf, Error> {
        let (system, stamp) = (&self.row.system, &self.row.stamp);
        let known = self.journal.fact(system, stamp, fact)?;
        if !self.fresh
            && let Some(path) = &known
        {
            return Ok(path.into());
        }
        let found = find()?;
        let text = found.display().to_string();
        if known.as_deref() != Some(&text) {
            self.journal.set_fact(system, stamp, fact, &text)?;
        }
        Ok(found)
    }

    /// The kept copy of a program, looked up anew.
    pub fn find_program(&self, workload: &str, program: &str) -> Result<PathBuf, Error> {
        let path = if program.contains('/') {
            let path = self.row.folder.join(program);
            path.is_file().then_some(path)
        } else {
            let system = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];
            let ours = self.row.programs.iter().map(|p| p.join(program)).find(|p| p.is_file());
            match ours {
                Some(ours) => Some(ours),
                None => {
                    let found = system.iter().map(|f| Path::new(f).join(program)).find(|p| p.is_file());
                    if let Some(found) = found {
                        return Ok(found);
                    }
                    None
                }
            }
        };
        let path = path.ok_or_else(|| Error::NoProgram {
            workload: workload.into(),
            program: program.to_owned(),
            looked: self.row.programs.iter().chain([&self.row.folder]).map(|p| p.display().to_string()).collect(),
        })?;
        crate::files::keep_program(&self.home.bin(), &path).map_err(Error::file("keep a copy of", path))
    }

    /// Where it runs: its own data folder, or a copy of the system's folder if it runs files of it.
    fn directory(&self, id: &ResourceId, service: &Service, run: &[String], workload: &str) -> Result<PathBuf, Error> {
        self.kept(&format!("directory/{workload}"), || self.find_directory(id, service, run, workload))
    }

    fn find_directory(
        &self,
        id: &ResourceId,
        service: &Service,
        run: &[String],
        workload: &str,
    ) -> Result<PathBuf, Error> {
        let relative = service.program.directory.clone().unwrap_or_else(|| ".".into());
        let from = self.row.folder.join(&relative);
        let uses_files = service.program.directory.is_some() || run.iter().skip(1).any(|a| from.join(a).is_file());
        if !uses_files {
            return Ok(self.layout.place(workload).join("data"));
        }
        // By what the files say: a changed file is another folder, and so another workload.
        let content = crate::files::folder_digest(&from).map_err(Error::file("read", &from))?;
        let name = format!("{}.{}.{}.{}", self.system.name, self.system.stamp, id.name, &content[..12]);
        let to = self.home.apps().join(name);
        if !to.exists() {
            let part = to.with_extension("part");
            // What a cut copy left may hold files that are no longer there.
            match std::fs::remove_dir_all(&part) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::file("remove", part)(e)),
                _ => {}
            }
            crate::files::copy_folder(&from, &part).map_err(Error::file("copy", &from))?;
            std::fs::rename(&part, &to).map_err(Error::file("put in place", &to))?;
        }
        Ok(to)
    }

    fn limits(&self, resource: &Resource) -> drivers::Limits {
        let size = resource.size().and_then(|name| self.system.sizes.get(name));
        let own = match resource {
            Resource::Service(service) => service.limits,
            _ => model::resource::Limits::default(),
        };
        drivers::Limits {
            memory_bytes: own.memory.or(size.and_then(|s| s.memory)).map(|b| b.0),
            cpu_millis: own.cpu_millis.or(size.and_then(|s| s.cpu_millis)).map(u64::from),
            pids: own.pids.map(u64::from),
        }
    }

    fn first(&self, kind: Kind) -> Option<ResourceId> {
        self.system.resources.keys().find(|id| id.kind == kind).cloned()
    }

    /// Every workload's identity name: what may send telemetry.
    fn sources(&self) -> Vec<String> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        for (id, resource) in &self.system.resources {
            if resource.is_provided() {
                all.insert(id.to_string());
            }
            if let Resource::Service(service) = resource
                && service.migrate.is_some()
            {
                all.insert(Principal::Migrate(id.clone()).to_string());
            }
        }
        all.into_iter().collect()
    }

    fn acting_roles(&self) -> Vec<String> {
        self.system.resources.keys().filter(|id| id.kind.keeps_a_record()).map(ToString::to_string).collect()
    }
}

/// The key with which a role's spool ships; derived by the caller from the audit root.
fn ship_key(id: &ResourceId) -> (&'static str, String) {
    (secret::SHIP_KEY, format!("ship:{id}"))
}

fn role(role: model::resource::VaultRole) -> VaultRole {
    match role {
        model::resource::VaultRole::SecretsUser => VaultRole::SecretsUser,
        model::resource::VaultRole::SecretsOfficer => VaultRole::SecretsOfficer,
        model::resource::VaultRole::Reader => VaultRole::Reader,
        model::resource::VaultRole::Administrator => VaultRole::Administrator,
    }
}

fn days(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs().div_ceil(86_400)).unwrap_or(u32::MAX)
}

fn default_telemetry() -> TelemetryConfig {
    TelemetryConfig { body_bytes: 16 * 1024 * 1024, ..TelemetryConfig::default() }
}
