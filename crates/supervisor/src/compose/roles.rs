//! What the platform's roles are configured with: made from the declaration, never kept.

use super::*;

impl Composer<'_> {
    pub(super) fn gateway(&self, edge: &model::resource::Edge) -> Result<GatewayConfig, Error> {
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
    pub(super) fn origins(&self, edge: &model::resource::Edge) -> Result<Upstream, Error> {
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
    pub(super) fn people_come_to(&self) -> Result<String, Error> {
        if let Some(front) = self.system.front()
            && let Some(address) = crate::doors::address(self.journal, &self.system.name, front)?
        {
            return Ok(crate::layout::https(&address.to_string(), self.layout.https_port(Kind::Edge)));
        }
        self.layout.url(&ResourceId::edge())
    }

    pub(super) fn vault(&self, id: &ResourceId, vault: &model::resource::Vault) -> VaultConfig {
        let mut assignments: Vec<Assignment> = vault
            .access
            .iter()
            .map(|a| Assignment { principal: a.to.to_string(), role: role(a.role), secrets: a.secrets.clone() })
            .collect();
        // An identity reads what it needs outside, each secret by its name, and no other.
        for (name, resource) in &self.system.resources {
            let Resource::Identity(identity) = resource else { continue };
            let secrets: Vec<String> =
                identity.secrets().filter(|s| s.vault == *id).map(|s| s.secret.clone()).collect();
            if !secrets.is_empty() {
                let role = VaultRole::SecretsUser;
                assignments.push(Assignment { principal: name.to_string(), role, secrets });
            }
        }
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

    pub(super) fn registry(
        &self,
        id: &ResourceId,
        registry: &model::resource::Registry,
    ) -> Result<RegistryConfig, Error> {
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

    pub(super) fn identity(
        &self,
        id: &ResourceId,
        identity: &model::resource::Identity,
    ) -> Result<IdentityConfig, Error> {
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
                resources: vec!["https://vault.azure.net".into(), api::blob::AUDIENCE.into()],
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
        workloads.extend(self.system.jobs().map(|(job, _)| job.to_string()));
        Ok(IdentityConfig {
            issuer: self.layout.url(id)?,
            tenant: self.layout.tenant.clone(),
            title: identity.title.clone(),
            clients,
            groups: identity.groups.clone(),
            admin_group: identity.admin_group.clone().unwrap_or_default(),
            workloads: workloads.into_iter().collect(),
            session_seconds: identity.session.as_secs(),
            issuers: self.outside_issuers(identity)?,
            directory: self.outside_directory(identity)?,
            ..IdentityConfig::default()
        })
    }

    fn outside_issuers(&self, identity: &model::resource::Identity) -> Result<Vec<OutsideIssuer>, Error> {
        let issuer = |(name, issuer): (&String, &model::resource::OutsideIssuer)| {
            Ok(OutsideIssuer {
                name: name.clone(),
                title: issuer.title.clone(),
                issuer: issuer.issuer.fill(|id, output| self.output(id, output))?,
                client_id: issuer.client.clone(),
                secret: issuer.secret.as_ref().map(|secret| self.kept_in(secret)),
                domains: issuer.domains.clone(),
                groups_claim: issuer.groups_claim.clone(),
                groups: issuer.groups.clone(),
            })
        };
        identity.issuers.iter().map(issuer).collect()
    }

    fn outside_directory(&self, identity: &model::resource::Identity) -> Result<Option<Directory>, Error> {
        let Some(directory) = &identity.directory else { return Ok(None) };
        Ok(Some(Directory {
            url: directory.url.fill(|id, output| self.output(id, output))?,
            base: directory.base.clone(),
            bind: directory.bind.clone(),
            secret: self.kept_in(&directory.secret),
            domains: directory.domains.clone(),
            login: directory.login.clone(),
            groups: directory.groups.clone(),
        }))
    }

    fn kept_in(&self, secret: &model::value::VaultReference) -> VaultSecret {
        VaultSecret { vault: self.layout.named_url(&secret.vault), name: secret.secret.clone() }
    }

    /// Every workload's identity name: what may send telemetry.
    pub(super) fn sources(&self) -> Vec<String> {
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

    pub(super) fn acting_roles(&self) -> Vec<String> {
        self.system.resources.keys().filter(|id| id.kind.keeps_a_record()).map(ToString::to_string).collect()
    }
}
