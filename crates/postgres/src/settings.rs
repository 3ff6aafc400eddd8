//! The files the server is configured by, written anew at each start of the keeper.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use api::Secret;

use crate::{Error, config::Checked};

/// Defaults that the declared settings may replace. Memory and wake-ups are kept low: most stamps idle.
const DEFAULTS: &[(&str, &str)] = &[
    ("max_connections", "100"),
    ("superuser_reserved_connections", "3"),
    ("shared_buffers", "32MB"),
    ("huge_pages", "off"),
    ("jit", "off"),
    ("max_worker_processes", "4"),
    ("max_parallel_workers", "2"),
    ("max_logical_replication_workers", "0"),
    ("tcp_keepalives_idle", "60"),
    ("client_connection_check_interval", "10s"),
    // Ready for archiving, replicas and pg_rewind without another restart.
    ("wal_level", "replica"),
    ("wal_log_hints", "on"),
    ("max_wal_senders", "5"),
    ("max_replication_slots", "5"),
    ("max_wal_size", "512MB"),
    ("min_wal_size", "48MB"),
    ("synchronous_commit", "on"),
    ("restart_after_crash", "on"),
    // After a crash the whole data directory is flushed first: by one call instead of one a file.
    ("recovery_init_sync_method", "syncfs"),
    // Who came, who went, and what changed the schema, each line with user and database.
    ("log_connections", "on"),
    ("log_disconnections", "on"),
    ("log_statement", "ddl"),
    ("log_min_duration_statement", "500ms"),
    ("log_lock_waits", "on"),
    ("log_checkpoints", "off"),
    ("log_line_prefix", "%m [%p] user=%u db=%d client=%h app=%a "),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
    ("lc_messages", "C"),
    ("shared_preload_libraries", ""),
];

/// Who may come in by the unix socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The administrator, with the password.
    Password,
    /// The administrator, without: for the moment in which the password is set. The socket's folder is the keeper's
    /// user's alone, and whoever is that user could read the data files anyway.
    Trust,
}

/// Options for the server's command line: there, even an `ALTER SYSTEM` by the administrator cannot replace them.
pub(crate) fn fixed(checked: &Checked) -> Vec<(String, String)> {
    let conf = |file: &str| checked.conf.join(file).display().to_string();
    let pairs = [
        ("config_file", conf("postgresql.conf")),
        ("hba_file", conf("pg_hba.conf")),
        ("ident_file", conf("pg_ident.conf")),
        ("listen_addresses", checked.config.address.to_string()),
        ("port", checked.config.port.to_string()),
        ("unix_socket_directories", checked.config.socket_dir.display().to_string()),
        ("unix_socket_permissions", "0700".into()),
        ("ssl", "on".into()),
        ("ssl_min_protocol_version", "TLSv1.2".into()),
        ("ssl_cert_file", conf("server.crt")),
        ("ssl_key_file", conf("server.key")),
        ("password_encryption", "scram-sha-256".into()),
        ("fsync", "on".into()),
        ("full_page_writes", "on".into()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Writes all files and makes the socket's folder.
///
/// `further` are the keeper's own for this start.
pub(crate) fn write(
    checked: &Checked,
    cert: &Secret,
    key: &Secret,
    door: Door,
    further: &[(&str, String)],
) -> Result<(), Error> {
    for folder in [&checked.conf, &checked.config.socket_dir] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Error::io("make", folder))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(Error::io("close", folder))?;
    }
    let conf = &checked.conf;
    replace(&conf.join("postgresql.conf"), settings(checked, further).as_bytes())?;
    replace(&conf.join("pg_ident.conf"), b"")?;
    write_certificate(checked, cert, key)?;
    // Who signs in by identity is known once the server can be asked.
    write_access(checked, door, "").map(drop)
}

/// Writes certificate and key alone; the server reads them at SIGHUP, and keeps the old pair should they not fit.
pub(crate) fn write_certificate(checked: &Checked, cert: &Secret, key: &Secret) -> Result<(), Error> {
    replace(&checked.conf.join("server.crt"), cert.expose().as_bytes())?;
    replace(&checked.conf.join("server.key"), key.expose().as_bytes())
}

/// Writes the access file alone; the server reads it at SIGHUP. `identities` are the lines of those who sign in by identity.
/// Gives whether it says anything new.
pub(crate) fn write_access(checked: &Checked, door: Door, identities: &str) -> Result<bool, Error> {
    let path = checked.conf.join("pg_hba.conf");
    let text = access(door, checked.config.member.is_some(), identities);
    let news = fs::read_to_string(&path).ok().is_none_or(|known| known != text);
    if news {
        replace(&path, text.as_bytes())?;
    }
    Ok(news)
}

fn settings(checked: &Checked, further: &[(&str, String)]) -> String {
    let mut text = String::from("# Written by the keeper at each start; declare settings in the manifest.\n");
    let defaults = DEFAULTS.iter().filter(|(name, _)| !checked.settings.contains_key(*name));
    let declared = checked.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let tools = crate::tools::client(&checked.config.bin, "pg_basebackup").is_ok();
    let archive = crate::archive::settings(checked.config.backup.as_ref(), tools);
    let own = archive.iter().chain(further).map(|(name, value)| (*name, value.as_str()));
    for (name, value) in defaults.copied().chain(declared).chain(own) {
        text.push_str(&line(name, value));
    }
    // What changes while it runs: who leads, and with whom writes are safe.
    text.push_str("include_if_exists = 'member.conf'\n");
    // And whether the disk has room for writes.
    text.push_str(&format!("include_if_exists = '{}'\n", crate::space::FILE));
    text
}

/// A setting as a line of `postgresql.conf`.
pub(crate) fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// First match wins, no match is a refusal.
fn access(door: Door, members: bool, identities: &str) -> String {
    let local = match door {
        Door::Password => "scram-sha-256",
        Door::Trust => "trust",
    };
    // `replication` is the stream; `postgres` is where pg_rewind reads from. The others' addresses are not compared: on
    // loopback a connection comes from the address it goes to.
    let members = match members {
        true => {
            "hostssl   replication replicator all scram-sha-256\n\
             hostssl   postgres replicator all scram-sha-256\n"
        }
        false => "",
    };
    format!(
        "# Written by the keeper. type, database, user, address, method\n\
         local     all postgres      {local}\n\
         local     replication postgres {local}\n\
         local     all all           reject\n\
         hostnossl all all       all reject\n\
         {members}\
         hostssl   all replicator all reject\n\
         hostssl   all postgres  all reject\n\
         {identities}\
         hostssl   all +{} all reject\n\
         hostssl   all all       all scram-sha-256\n",
        crate::identities::GROUP
    )
}

/// Puts a file in place whole, readable by this user only (PostgreSQL insists on it for the key).
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temp = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temp, path)
    };
    write().map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use api::postgres::PostgresConfig;
    use proptest::prelude::*;

    use super::*;

    fn checked(settings: &[(&str, &str)]) -> Checked {
        let config = PostgresConfig {
            bin: "/engine/bin".into(),
            template: "/template".into(),
            address: [127, 0, 0, 2].into(),
            port: 5432,
            socket_dir: "/run/pg".into(),
            databases: vec![],
            backup: None,
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            member: None,
            tenant: None,
        };
        crate::config::check(config, "/data".into()).unwrap()
    }

    #[test]
    fn a_declared_setting_replaces_the_default() {
        let text = settings(&checked(&[("shared_buffers", "64MB")]), &[]);
        assert_eq!(
            text.lines().filter(|l| l.starts_with("shared_buffers ")).collect::<Vec<_>>(),
            ["shared_buffers = '64MB'"]
        );
    }

    #[test]
    fn nobody_comes_in_without_tls_or_as_administrator() {
        let text = access(Door::Password, true, "");
        let rules: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
        assert!(rules.iter().all(|r| r[0] != "host"));
        assert!(rules.iter().filter(|r| r[0] == "hostnossl").all(|r| r.last() == Some(&"reject")));
        let first = rules.iter().find(|r| r[0] == "hostssl" && matches!(r[2], "postgres" | "all")).unwrap();
        assert_eq!((first[2], *first.last().unwrap()), ("postgres", "reject"));
        assert!(!text.contains("trust"));
    }

    #[test]
    fn who_signs_in_by_identity_is_asked_for_no_password_of_the_servers_own() {
        let lines = "hostssl   all \"cloud\" 10.0.1.4/32 radius radiusservers=\"127.0.0.1\"\n";
        let text = access(Door::Password, false, lines);
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("postgres  all reject") < at("\"cloud\""), "the administrator is refused whatever follows");
        assert!(at("\"cloud\"") < at("+sign-in:identity all reject"), "from elsewhere such a role is refused");
        assert!(at("+sign-in:identity all reject") < at("all all       all scram-sha-256"));
    }

    proptest! {
        #[test]
        fn a_value_cannot_leave_its_line_or_its_quotes(value in "[^\\p{Cc}]{0,40}") {
            let text = settings(&checked(&[("application_name", &value)]), &[]);
            let line = text.lines().find(|l| l.starts_with("application_name")).unwrap();
            let inside = line.strip_prefix("application_name = '").unwrap().strip_suffix('\'').unwrap();
            prop_assert_eq!(inside.replace("''", "'").replace("\\\\", "\\"), value);
            prop_assert!(!inside.replace("''", "").contains('\''));
        }
    }
}
