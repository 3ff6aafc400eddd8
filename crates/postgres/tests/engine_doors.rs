//! Who gets in, and what they may do, on a real server.

mod bed;

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use api::{
    Secret,
    postgres::{Right, RoleRequest},
};
use bed::Bed;
use tokio_postgres::error::SqlState;

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("no code", SqlState::code)
}

const NO_RIGHT: &str = "42501";

#[tokio::test]
async fn each_right_allows_its_own_and_nothing_more() -> anyhow::Result<()> {
    let bed = Bed::up(&["app", "other"]).await?;
    let owner = bed.connect("app-owner", &bed.role("app-owner", "app", Right::Owner).await?, "app").await?;
    owner
        .batch_execute(
            "CREATE TABLE note (id bigint GENERATED ALWAYS AS IDENTITY, said text); \
             CREATE SCHEMA inner_part; CREATE TABLE inner_part.deep (id serial, said text)",
        )
        .await?;

    let write_password = bed.role("web", "app", Right::ReadWrite).await?;
    let write = bed.connect("web", &write_password, "app").await?;
    write
        .batch_execute(
            "INSERT INTO note (said) VALUES ('a'), ('b'); UPDATE note SET said = 'c' WHERE id = 1; \
             DELETE FROM note WHERE id = 2; INSERT INTO inner_part.deep (said) VALUES ('d')",
        )
        .await?;
    for refused in [
        "CREATE TABLE mine (n int)",
        "CREATE TEMP TABLE mine (n int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE note ADD COLUMN more int",
        "DROP TABLE note",
        "TRUNCATE note",
        "CREATE ROLE friend",
        "CREATE DATABASE mine",
        "SET ROLE \"app:owner\"",
        "SET ROLE postgres",
        "COPY note TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT rolpassword FROM pg_authid",
        "ALTER ROLE web SUPERUSER",
        "ALTER SYSTEM SET fsync = off",
    ] {
        let error = write.batch_execute(refused).await.expect_err(refused);
        assert_eq!(code(&error), NO_RIGHT, "{refused}: {error:?}");
    }
    for database in ["other", "postgres", "template1"] {
        let error = bed.connect("web", &write_password, database).await.map(drop).expect_err(database);
        assert_eq!(code(&error), NO_RIGHT, "{database}: {error:?}");
    }

    let read = bed.connect("report", &bed.role("report", "app", Right::ReadOnly).await?, "app").await?;
    assert_eq!(read.query_one("SELECT count(*) FROM note", &[]).await?.get::<_, i64>(0), 1);
    assert_eq!(read.query_one("SELECT count(*) FROM inner_part.deep", &[]).await?.get::<_, i64>(0), 1);
    for refused in
        ["INSERT INTO note (said) VALUES ('x')", "DELETE FROM note", "SELECT nextval('inner_part.deep_id_seq')"]
    {
        let error = read.batch_execute(refused).await.expect_err(refused);
        assert_eq!(code(&error), NO_RIGHT, "{refused}: {error:?}");
    }

    // A second owner can change what the first made: the next migration may run under another name.
    let second = bed.connect("migrate", &bed.role("migrate", "app", Right::Owner).await?, "app").await?;
    second.batch_execute("ALTER TABLE note ADD COLUMN more int").await?;
    // A right that is taken back is gone at once.
    bed.role("migrate", "app", Right::ReadOnly).await?;
    let error = second.batch_execute("ALTER TABLE note ADD COLUMN again int").await.map(drop);
    let fresh = bed.connect("migrate", &bed.role("migrate", "app", Right::ReadOnly).await?, "app").await?;
    assert_eq!(code(&fresh.batch_execute("DROP TABLE note").await.expect_err("read only")), NO_RIGHT, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_changed_password_replaces_the_old_one_and_no_log_has_either() -> anyhow::Result<()> {
    let bed = Bed::up(&["app"]).await?;
    let old = bed.role("web", "app", Right::ReadWrite).await?;
    bed.connect("web", &old, "app").await?;
    // The same request again changes nothing.
    let request = RoleRequest { database: "app".into(), right: Right::ReadWrite, password: old.clone() };
    api::postgres::set_role(&bed.control(), "web", &request).await?;
    bed.connect("web", &old, "app").await?;
    let new = bed.role("web", "app", Right::ReadWrite).await?;
    bed.connect("web", &new, "app").await?;
    let error = bed.connect("web", &old, "app").await.map(drop).expect_err("the old password");
    assert_eq!(code(&error), "28P01");

    api::postgres::remove_role(&bed.control(), "web").await?;
    api::postgres::remove_role(&bed.control(), "web").await?;
    assert!(bed.connect("web", &new, "app").await.is_err());

    let log = bed.log();
    assert!(log.contains("connection authorized: user=web"), "the log does not say who came:\n{log}");
    assert!(log.contains("disconnection:"), "the log does not say who went");
    for secret in bed.secrets.iter().map(|(_, s)| s).chain([&old, &new]) {
        assert!(!log.contains(secret.expose()), "a secret is in the log");
    }
    assert!(!log.contains("SCRAM-SHA-256$"), "a verifier is in the log");
    for pid in bed.processes().into_iter().chain([i32::try_from(bed.keeper_pid())?]) {
        for seen in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{seen}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            assert!(bed.secrets.iter().all(|(_, s)| !text.contains(s.expose())), "a secret is in {seen}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn odd_requests_are_refused_by_name() -> anyhow::Result<()> {
    let bed = Bed::up(&["app"]).await?;
    let control = bed.control();
    let ask =
        |database: &str| RoleRequest { database: database.into(), right: Right::Owner, password: Secret::random() };
    for (name, database, status) in [
        ("postgres", "app", 400),
        ("pg_monitor", "app", 400),
        ("app:owner", "app", 400),
        ("web%22%3B%20DROP", "app", 400),
        ("web", "none-such", 404),
        ("web", "postgres", 400),
        ("web", "app\"; DROP ROLE x; --", 400),
    ] {
        let error = api::postgres::set_role(&control, name, &ask(database)).await.expect_err(name);
        assert_eq!(error.status(), Some(status), "{name} on {database}: {error}");
    }
    let empty = RoleRequest { password: Secret::new(""), ..ask("app") };
    assert_eq!(api::postgres::set_role(&control, "web", &empty).await.expect_err("empty").status(), Some(400));
    assert_eq!(control.get::<serde_json::Value>("/").await.expect_err("no route").status(), Some(404));
    api::postgres::set_database(&control, "second").await?;
    api::postgres::set_database(&control, "second").await?;
    let password = bed.role("web", "second", Right::Owner).await?;
    bed.connect("web", &password, "second").await?.batch_execute("CREATE TABLE t (n int)").await?;
    Ok(())
}

/// Asks for TLS and offers the version given; what kind of record comes back (0x16 handshake, 0x15 alert).
fn offer(address: SocketAddr, version: [u8; 2]) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?; // SSLRequest
    let mut yes = [0];
    stream.read_exact(&mut yes)?;
    anyhow::ensure!(yes == *b"S", "the server has no TLS");
    let mut hello = version.to_vec();
    hello.extend([7; 32]); // random
    hello.push(0); // no session
    // ECDHE-ECDSA with AES-CBC-SHA (any version) and with AES-GCM (1.2 only).
    hello.extend([0, 4, 0xc0, 0x0a, 0xc0, 0x2b]);
    hello.extend([1, 0]); // no compression
    // Extensions: groups (P-256), point formats, signature algorithms (ECDSA with SHA-256, with SHA-1).
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 6, 0, 4, 4, 3, 2, 3];
    hello.extend(u16::try_from(extensions.len())?.to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![0x16, 3, 1];
    record.extend(u16::try_from(hello.len() + 4)?.to_be_bytes());
    record.extend([1, 0]);
    record.extend(u16::try_from(hello.len())?.to_be_bytes());
    record.extend(hello);
    stream.write_all(&record)?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

#[tokio::test]
async fn nobody_comes_in_without_tls_or_by_an_old_version_or_as_administrator() -> anyhow::Result<()> {
    let bed = Bed::up(&["app"]).await?;
    let password = bed.role("web", "app", Right::ReadWrite).await?;
    let address = SocketAddr::new(bed.config.address, bed.config.port);

    let plain = tokio_postgres::Config::new()
        .host(address.ip().to_string())
        .port(address.port())
        .user("web")
        .password(password.expose())
        .dbname("app")
        .ssl_mode(tokio_postgres::config::SslMode::Disable)
        .connect(tokio_postgres::NoTls)
        .await
        .map(drop)
        .expect_err("without TLS");
    assert_eq!(code(&plain), "28000", "{plain:?}");

    assert_eq!(offer(address, [3, 3])?.0, 0x16, "TLS 1.2 is spoken");
    for old in [[3, 2], [3, 1]] {
        let (kind, body) = offer(address, old)?;
        assert_eq!((kind, body.get(1)), (0x15, Some(&70)), "version {old:?} must be answered with protocol_version");
    }

    let admin = bed.secrets.get(api::context::secret::POSTGRES_ADMIN).unwrap();
    let refused = bed.connect("postgres", admin, "app").await.map(drop).expect_err("the administrator from outside");
    assert_eq!(code(&refused), "28000", "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_listens_but_the_declared_address() -> anyhow::Result<()> {
    let bed = Bed::up(&["app"]).await?;
    let mut own = HashSet::new();
    for pid in bed.processes().into_iter().chain([i32::try_from(bed.keeper_pid())?]) {
        for fd in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            let to = fs::read_link(fd.path()).unwrap_or_default();
            if let Some(inode) = to.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')) {
                own.insert(inode.to_owned());
            }
        }
    }
    let mut listening = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A listens; a UDP socket without a peer takes from anybody.
            let open = fields[3] == "0A" || (table.starts_with("udp") && fields[2].ends_with(":0000"));
            if open && own.contains(fields[9]) {
                listening.push((table, fields[1].to_owned()));
            }
        }
    }
    // 127.77.1.9 in the byte order of the machine, as the kernel prints it.
    let octets: [u8; 4] = [127, 77, 1, 9];
    let declared = format!("{:08X}:{:04X}", u32::from_ne_bytes(octets), bed.config.port);
    assert_eq!(listening, [("tcp", declared)]);
    Ok(())
}
