//! Checks the keeper's configuration before anything is touched.

use std::{collections::BTreeMap, path::PathBuf};

use api::postgres::PostgresConfig;

use crate::{Error, name};

/// Settings that the keeper alone decides: where the server listens and who gets in, where its files lie, and what makes an
/// acknowledged row safe.
const OURS: [&str; 23] = [
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "config_file",
    "data_directory",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "password_encryption",
    "port",
    "primary_conninfo",
    "recovery_end_command",
    "restore_command",
    "ssl",
    "standard_conforming_strings",
    "unix_socket_directories",
    "unix_socket_permissions",
    "wal_level",
];

/// A unix socket's path is at most 107 bytes (`sun_path` less its final zero).
const SOCKET_PATH: usize = 107;

/// A configuration that was checked.
pub(crate) struct Checked {
    pub config: PostgresConfig,
    pub settings: BTreeMap<String, String>,
    pub pgdata: PathBuf,
    /// Configuration, access file, certificate and key; outside of `pgdata`, so that no backup of it holds the key.
    pub conf: PathBuf,
}

pub(crate) fn check(config: PostgresConfig, data: PathBuf) -> Result<Checked, Error> {
    let refuse = |text: String| Err(Error::Config(text));
    if config.address.is_unspecified() || config.address.is_multicast() {
        return refuse(format!("address {} is not one address; declare where the server listens", config.address));
    }
    if config.port == 0 {
        return refuse("port 0 is no declared port".into());
    }
    let socket = config.socket_dir.join(format!(".s.PGSQL.{}", config.port));
    if !config.socket_dir.is_absolute() || socket.as_os_str().len() > SOCKET_PATH {
        return refuse(format!("socket path {} must be absolute and at most {SOCKET_PATH} bytes", socket.display()));
    }
    if config.socket_dir.starts_with(data.join("pgdata")) {
        return refuse(format!(
            "socket folder {} is inside the data directory, where a backup would copy it",
            config.socket_dir.display()
        ));
    }
    if socket.to_string_lossy().contains([',', '\'', '\n', '@']) {
        return refuse(format!(
            "socket path {} has a character that PostgreSQL reads as a list or a quote",
            socket.display()
        ));
    }
    for database in &config.databases {
        name::check("database", database)?;
    }
    for (key, value) in &config.settings {
        let plain = key.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.');
        if !plain {
            return refuse(format!("'{key}' is no name of a setting"));
        }
        if OURS.contains(&key.as_str()) || key.starts_with("ssl_") || key.starts_with("recovery_target") {
            return refuse(format!("setting '{key}' is the keeper's own and cannot be declared"));
        }
        if value.chars().any(char::is_control) {
            return refuse(format!("the value of setting '{key}' has a control character"));
        }
    }
    if let Some(backup) = &config.backup {
        for path in [Some(&backup.repository), backup.copy.as_ref()].into_iter().flatten() {
            if !path.is_absolute() || path.starts_with(data.join("pgdata")) {
                return refuse(format!("backups in {} would be lost with the data they are of", path.display()));
            }
        }
        if backup.every_s == 0 || backup.archive_timeout_s == 0 {
            return refuse("a backup every 0 s is none".into());
        }
    }
    let settings = config.settings.clone();
    Ok(Checked { config, settings, pgdata: data.join("pgdata"), conf: data.join("conf") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)]) -> PostgresConfig {
        PostgresConfig {
            bin: "/engine/bin".into(),
            template: "/template".into(),
            address: [127, 0, 0, 2].into(),
            port: 5432,
            socket_dir: "/run/pg".into(),
            databases: vec!["app".into()],
            backup: None,
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            member: None,
            tenant: None,
        }
    }

    fn refused(config: PostgresConfig) -> bool {
        check(config, "/data".into()).is_err()
    }

    #[test]
    fn settings_that_would_open_or_unsafe_the_server_are_refused() {
        assert!(!refused(with(&[("work_mem", "8MB"), ("app.tenant", "it's")])));
        for (key, value) in [
            ("listen_addresses", "*"),
            ("fsync", "off"),
            ("hba_file", "/open"),
            ("ssl", "off"),
            ("ssl_min_protocol_version", "TLSv1"),
            ("work_mem", "8MB'\nfsync = off"),
            ("work_mem = 1\nfsync", "off"),
            ("FSYNC", "off"),
        ] {
            assert!(refused(with(&[(key, value)])), "{key} was let through");
        }
    }

    #[test]
    fn an_address_that_was_not_declared_is_refused() {
        assert!(refused(PostgresConfig { address: [0, 0, 0, 0].into(), ..with(&[]) }));
        assert!(refused(PostgresConfig { port: 0, ..with(&[]) }));
        assert!(refused(PostgresConfig { socket_dir: "/data/pgdata/run".into(), ..with(&[]) }));
        assert!(refused(PostgresConfig { socket_dir: format!("/{}", "d".repeat(100)).into(), ..with(&[]) }));
        assert!(refused(PostgresConfig { socket_dir: "/run/a,b".into(), ..with(&[]) }));
        assert!(refused(PostgresConfig { databases: vec!["a\"; drop".into()], ..with(&[]) }));
    }
}
