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
    identity::{Client, Directory, IdentityConfig, OutsideIssuer, VaultSecret},
    member::{LEAD, Member, MemberConfig},
    postgres::PostgresConfig,
    registry::{Grant, RegistryConfig, RegistryRole, Tier},
    shim::{BORDER, FRONT, Front, IdentityEndpoint, ShimConfig, StopSignal},
    telemetry::TelemetryConfig,
    vault::{Assignment, VaultConfig, VaultRole},
};
use model::{
    Kind, Principal, Resource, ResourceId, System,
    resource::{Service, SignIn, Source, Unresolved, WhenLost},
    value::{Output, Value},
};

use crate::{
    Error, Home,
    files::digest,
    journal::{Journal, StampRow},
    layout::{Layout, at},
};

mod blob;
pub mod graph;
mod job;
mod postgres;
mod redis;
mod roles;
mod service;
mod share;
mod stand_in;

pub use share::make as make_shares;
pub use stand_in::port as external_port;

/// Who the supervisor is to the stamp's own roles.
pub const OPERATOR: &str = "supervisor";
/// Connections beyond the declared ones: PostgreSQL keeps three for superusers, and the keeper has two at times.
const OWN_CONNECTIONS: u32 = 5;
/// The upstream of an edge that stands before other stamps.
pub const ORIGINS: &str = "origins";
/// The shim puts the workload's ingestion key in place of this text.
const INGEST_KEY: &str = api::shim::INGEST_KEY_PLACE;

/// The name of a role's own file.
const ROLE_FILE: &str = "config.json";
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
    /// What that file is called.
    pub role_file: &'static str,
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
    /// It makes sockets in a folder of its own.
    pub sockets: bool,
    /// Folders that it has with others.
    pub shares: Vec<drivers::share::Share>,
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
    /// Redis answers PING.
    Redis,
    /// The process runs.
    Running,
    /// It ended with success.
    Done,
}

impl Composed {
    /// A program with nothing but what its shim is told; it is ready when it runs.
    pub fn plain(workload: String, shim: ShimConfig) -> Self {
        Self {
            workload,
            shim,
            role: None,
            role_file: ROLE_FILE,
            listeners: Vec::new(),
            doors: Vec::new(),
            control: false,
            keys: Vec::new(),
            tls_names: Vec::new(),
            limits: drivers::Limits::default(),
            ready: Ready::Running,
            start_within: ROLE_WITHIN,
            reloads: false,
            template: None,
            folders: Vec::new(),
            volume: None,
            sockets: false,
            shares: Vec::new(),
        }
    }

    /// Digest of what needs a new process when it changes.
    pub fn digest(&self) -> String {
        let mut text = serde_json::to_string(&self.shim).unwrap_or_default();
        text.push_str(&format!("{:?}{:?}{:?}{:?}", self.listeners, self.limits, self.tls_names, self.keys));
        if !self.doors.is_empty() {
            text.push_str(&format!("{:?}", self.doors));
        }
        if !self.shares.is_empty() {
            text.push_str(&format!("{:?}", self.shares));
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
            Resource::Blob(blob) => {
                let keys = vec![(secret::BLOB_ROOT, format!("blob-root/{}", id.name)), ship_key(id)];
                self.role(id, "blob", self.blob(id, blob), true, keys)
            }
            Resource::Postgres(postgres) => self.postgres(id, postgres, workload),
            Resource::Redis(redis) => self.redis(id, redis),
            Resource::External(model::resource::External { stand_in: Some(part), .. }) => self.stand_in(id, part),
            Resource::Graph(graph) => self.graph(id, graph, workload),
            other => Err(Error::NotBuilt(format!("{id} ({})", other.kind()))),
        }
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
        let config_path = self.layout.place(&workload).join(ROLE_FILE);
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
                hosts: self.hosts()?,
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
        if let Some(Resource::Blob(blob)) = self.system.resources.get(id)
            && self.system.cloud_names
        {
            tls_names.push(crate::layout::cloud_account(id, blob));
        }
        let limits = self.system.resources.get(id).map(|r| self.limits(r)).unwrap_or_default();
        Ok(Composed {
            role: Some(serde_json::to_vec_pretty(&file).map_err(|e| Error::Fault(e.to_string()))?),
            listeners,
            doors,
            control: true,
            keys,
            tls_names,
            limits,
            ready: Ready::Control,
            // A clock is set once, at the start.
            reloads: reloads && self.clock_offset_ms == 0,
            ..Composed::plain(workload, shim)
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
            link_keys: BTreeMap::new(),
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
            hosts: self.hosts()?,
            unresolved_as_text: false,
            front: None,
            certificate: None,
        })
    }

    /// The names that workloads know. A database that was restored is not among them while it stands beside its origin: every
    /// part would be started anew for it.
    fn hosts(&self) -> Result<BTreeMap<String, IpAddr>, Error> {
        let mut hosts = self.layout.hosts(self.system)?;
        for id in crate::backups::beside(self.journal, self.row)? {
            hosts.remove(&self.layout.name(&id));
        }
        Ok(hosts)
    }

    /// Where a workload's identity endpoint listens: on the loopback of its own network, or at its own loopback address.
    fn endpoint(&self, workload: &str, id: &ResourceId) -> Result<IpAddr, Error> {
        if self.layout.closed.is_some() {
            return Ok(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        }
        self.layout.ip(workload).or_else(|_| self.layout.ip(&id.to_string())).map(IpAddr::V4)
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
