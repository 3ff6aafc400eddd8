//! What the keepers of a database's members are started with.

use super::*;

impl Composer<'_> {
    pub(super) fn postgres(
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
            tenant: postgres.takes_identities().then(|| self.layout.tenant.clone()),
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
        if config.tenant.is_some() {
            keys.push((secret::DATABASE_TOKENS, "identity-root".into()));
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
        composed.sockets = true;
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
    pub(super) fn member(
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
}
