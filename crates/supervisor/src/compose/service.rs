//! What an application's own workloads are started with: the service, its migration, its environment and program.

use super::*;

impl Composer<'_> {
    /// The migration of a service: run once, with an identity and a database role of its own.
    pub fn migration(&self, id: &ResourceId, service: &Service) -> Result<Option<Composed>, Error> {
        let Some(migrate) = &service.migrate else { return Ok(None) };
        let workload = format!("{id}.migrate");
        let mut shim = self.shim(&workload, id, &workload)?;
        shim.run = self.program(&workload, &migrate.run)?;
        shim.directory = self.directory(service.program.directory.as_deref(), &migrate.run, &workload)?;
        shim.env = self.environment(&workload, &migrate.env, None)?;
        shim.once = true;
        shim.unresolved_as_text = false;
        Ok(Some(Composed { ready: Ready::Done, start_within: MIGRATION_WITHIN, ..Composed::plain(workload, shim) }))
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

    pub(super) fn service(&self, id: &ResourceId, service: &Service, workload: &str) -> Result<Composed, Error> {
        let Source::Run(run) = &service.program.source else {
            return Err(Error::NotBuilt(format!("{id}'s image (processes, not containers yet)")));
        };
        let port = service.port.map(|p| self.layout.port(p));
        let mut shim = self.shim(workload, id, &id.to_string())?;
        shim.run = self.program(workload, run)?;
        shim.directory = self.directory(service.program.directory.as_deref(), run, workload)?;
        shim.env = self.environment(workload, &service.env, port)?;
        self.mount_settings(&service.mounts, &mut shim.env);
        let told = crate::border::told(self.home, self.journal, self.row, self.system, self.layout, id)?;
        shim.env.extend(told.env);
        shim.link_keys = told.keys;
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
            if crate::border::into(self.system, id).next().is_some() && model::plan::number_of(workload) == 1 {
                let outer = at(self.layout.outer(workload)?, self.layout.https_port(Kind::Service));
                listeners.push((BORDER.to_owned(), outer));
            }
            tls_names.push(self.layout.name(id));
        }
        Ok(Composed {
            control: !listeners.is_empty(),
            listeners,
            tls_names,
            limits: self.limits(&Resource::Service(service.clone())),
            ready,
            start_within: service.start_within,
            shares: self.shares(&service.mounts)?,
            ..Composed::plain(workload.into(), shim)
        })
    }

    /// Whose certificates a service's front asks for: the edge's, where nobody else calls it. Applications have none to show.
    pub(super) fn callers(&self, id: &ResourceId) -> Vec<String> {
        let calls =
            |other: &ResourceId| other.kind == Kind::Service && other != id && self.system.needs(other).contains(id);
        if self.system.edge().is_none() || self.system.resources.keys().any(calls) {
            return Vec::new();
        }
        vec![self.layout.name(&ResourceId::edge())]
    }

    /// The environment of an application: what App Service gives, what SDKs read to trust the CA, and what is declared.
    pub(super) fn environment(
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
        self.database_environment(workload, &bundle, &mut set)?;
        for (name, value) in declared {
            let text = value.fill(|id, output| self.output(id, output))?;
            set(name, text);
        }
        Ok(env)
    }

    /// libpq's variables for the one database that a workload signs in to by identity: what it needs besides its token.
    fn database_environment(
        &self,
        workload: &str,
        bundle: &str,
        set: &mut impl FnMut(&str, String),
    ) -> Result<(), Error> {
        let who = model::plan::resource_of(workload);
        let mine = |access: &&model::resource::DatabaseAccess| {
            access.sign_in == SignIn::Identity && access.to.to_string() == who
        };
        let found = self.system.databases().flat_map(|(id, p)| p.access.iter().filter(mine).map(move |a| (id, p, a)));
        let found: Vec<_> = found.collect();
        let [(id, postgres, access)] = found.as_slice() else { return Ok(()) };
        set("PGHOST", self.layout.reach(id)?);
        set("PGPORT", self.layout.port(postgres.port).to_string());
        set("PGDATABASE", access.database.clone());
        set("PGUSER", crate::secrets::database_role(&access.to));
        set("PGSSLMODE", "verify-full".into());
        set("PGSSLROOTCERT", bundle.to_owned());
        Ok(())
    }

    /// What a resource gives out.
    pub(super) fn output(&self, id: &ResourceId, output: Output) -> Result<String, Error> {
        let layout = self.layout;
        Ok(match (id.kind, output) {
            (Kind::Edge, Output::Url) => self.people_come_to()?,
            (Kind::Identity | Kind::Registry, Output::Url) | (Kind::Identity, Output::Issuer) => layout.url(id)?,
            (Kind::Identity, Output::Tenant) => layout.tenant.clone(),
            (Kind::Vault | Kind::Blob, Output::Url) => layout.named_url(id),
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
            (Kind::External, output) => self.external(id, output)?,
            (_, Output::Host) => layout.reach(id)?,
            (Kind::Postgres, Output::Port) => match self.system.resources.get(id) {
                Some(Resource::Postgres(p)) => layout.port(p.port).to_string(),
                _ => String::new(),
            },
            (Kind::Redis, Output::Port) => match self.system.resources.get(id) {
                Some(Resource::Redis(redis)) => layout.port(redis.port).to_string(),
                _ => String::new(),
            },
            (Kind::Service, Output::Port) => self.service_port(id).to_string(),
            (kind, Output::Port) => layout.https_port(kind).to_string(),
            (kind, output) => return Err(Error::NotBuilt(format!("`{output}` of {kind}"))),
        })
    }

    /// The port at which others reach a service.
    pub(super) fn service_port(&self, id: &ResourceId) -> u16 {
        if self.layout.closed.is_some() {
            return self.layout.https_port(Kind::Service);
        }
        match self.system.resources.get(id) {
            Some(Resource::Service(s)) => s.port.map_or(0, |p| self.layout.port(p)),
            _ => 0,
        }
    }

    /// The program's absolute path and its arguments. Our own binaries are kept by digest; the machine's run where they are.
    pub(super) fn program(&self, workload: &str, run: &[String]) -> Result<Vec<String>, Error> {
        let Some((program, arguments)) = run.split_first() else {
            return Err(Error::Fault(format!("{workload} runs nothing")));
        };
        let path = self.kept(&format!("program/{workload}/{program}"), || self.find_program(workload, program))?;
        let mut whole = vec![path.display().to_string()];
        whole.extend_from_slice(arguments);
        Ok(whole)
    }

    /// A path found at `up` and kept in the journal: what comes after does not look at the clone again.
    pub(super) fn kept(&self, fact: &str, find: impl FnOnce() -> Result<PathBuf, Error>) -> Result<PathBuf, Error> {
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
    pub(super) fn directory(&self, declared: Option<&str>, run: &[String], workload: &str) -> Result<PathBuf, Error> {
        self.kept(&format!("directory/{workload}"), || self.find_directory(declared, run, workload))
    }

    pub(super) fn find_directory(
        &self,
        declared: Option<&str>,
        run: &[String],
        workload: &str,
    ) -> Result<PathBuf, Error> {
        let from = self.row.folder.join(declared.unwrap_or("."));
        let uses_files = declared.is_some() || run.iter().skip(1).any(|a| from.join(a).is_file());
        if !uses_files {
            return Ok(self.layout.place(workload).join("data"));
        }
        // By what the files say: a changed file is another folder, and so another workload.
        let content = crate::files::folder_digest(&from).map_err(Error::file("read", &from))?;
        let resource = crate::network::resource_of(workload).map(|id| id.name).unwrap_or_default();
        let name = format!("{}.{}.{resource}.{}", self.system.name, self.system.stamp, &content[..12]);
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
}
