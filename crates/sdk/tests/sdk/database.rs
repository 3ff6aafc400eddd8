//! The pool against a real PostgreSQL: limits, restarts, TLS; and migrations.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use crate::support::scratch::Scratch;
use sdk::{
    Settings,
    database::{Database, Queries},
    migrations::{Applied, Migration, MigrationError, apply},
};
use tokio_postgres::{Client, NoTls};

pub fn open(text: &str) -> Database {
    Database::from_settings(&Settings::from_pairs([("DB", text)]), "DB").unwrap()
}

async fn one(database: &Database) -> Result<i32, sdk::database::Error> {
    let row = database.get().await?.first("SELECT 1", &[]).await?;
    Ok(row.map_or(0, |r| r.get(0)))
}

async fn wait_until(condition: impl AsyncFn() -> bool) {
    let started = std::time::Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(10), "waited ten seconds in vain");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_pool_survives_a_restart_of_the_database() {
    let mut postgres = Scratch::start();
    let database = open(&postgres.connection("postgres", "postgres"));
    assert_eq!(one(&database).await.unwrap(), 1);
    postgres.stop();
    assert!(one(&database).await.is_err());
    wait_until(async || !database.answers_within(Duration::from_secs(1)).await).await;
    postgres.run();
    assert_eq!(one(&database).await.unwrap(), 1);
    wait_until(async || database.answers_within(Duration::from_secs(1)).await).await;
}

#[tokio::test]
async fn no_more_connections_are_opened_than_allowed_and_waiting_ends() {
    let postgres = Scratch::start();
    let database = open(&format!("{};Maximum Pool Size=2", postgres.connection("postgres", "postgres")));
    let (one, two) = (database.get().await.unwrap(), database.get().await.unwrap());
    assert_eq!(database.connections(), (2, 2));
    assert!(tokio::time::timeout(Duration::from_millis(50), database.get()).await.is_err(), "the third waits");
    assert!(database.answers_within(Duration::from_secs(1)).await, "a full pool is not a sick database");
    drop(one);
    drop(database.get().await.unwrap());
    drop(two);
    assert_eq!(database.connections().0, 2);
}

#[tokio::test]
async fn a_transaction_that_is_not_committed_leaves_nothing_and_faults_name_their_constraint() {
    let postgres = Scratch::start();
    postgres.sql("postgres", "postgres", "CREATE TABLE t (a int CONSTRAINT small CHECK (a < 10))");
    let database = open(&postgres.connection("postgres", "postgres"));
    let mut connection = database.get().await.unwrap();
    let transaction = connection.begin().await.unwrap();
    transaction.execute("INSERT INTO t VALUES ($1)", &[&1]).await.unwrap();
    drop(transaction);
    let error = connection.execute("INSERT INTO t VALUES ($1)", &[&11]).await.unwrap_err();
    assert_eq!((error.constraint(), error.code().map(|c| c.code())), (Some("small"), Some("23514")));
    assert_eq!(postgres.sql("postgres", "postgres", "SELECT count(*) FROM t"), "0");
}

/// A certificate authority and a server certificate of it, for `name`.
pub fn certificates(name: &str) -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    (ca.pem(), server.pem(), server_key.serialize_pem())
}

#[tokio::test]
async fn tls_is_verified_in_full() {
    let mut postgres = Scratch::start();
    postgres.stop();
    let (ca, certificate, key) = certificates("127.0.0.1");
    let folder = postgres.folder().to_owned();
    for (file, text) in
        [("ca.pem", &ca), ("server.crt", &certificate), ("server.key", &key), ("other.pem", &certificates("x").0)]
    {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&folder).unwrap());
    std::os::unix::fs::chown(folder.join("server.key"), Some(owner), None).unwrap();
    std::fs::set_permissions(folder.join("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    postgres.set("listen_addresses=127.0.0.1".into());
    postgres.set(format!("port={port}"));
    postgres.set("ssl=on".into());
    postgres.set(format!("ssl_cert_file={}/server.crt", folder.display()));
    postgres.set(format!("ssl_key_file={}/server.key", folder.display()));
    postgres.run_at(port);
    let text = |host: &str, root: &str| {
        let root = folder.join(root);
        format!(
            "Host={host};Port={port};Database=postgres;Username=postgres;SSL Mode=VerifyFull;Root Certificate={}",
            root.display()
        )
    };
    let good = open(&text("127.0.0.1", "ca.pem"));
    let row =
        good.get().await.unwrap().first("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
    let row = row.unwrap().unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, &str>(1).starts_with("TLSv1."));
    assert!(one(&open(&text("127.0.0.1", "other.pem"))).await.is_err(), "another authority");
    assert!(one(&open(&text("localhost", "ca.pem"))).await.is_err(), "another name");
    let url = format!(
        "postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=require&sslrootcert={}/ca.pem",
        folder.display()
    );
    assert_eq!(one(&open(&url)).await.unwrap(), 1);
}

async fn owner(postgres: &Scratch) -> Client {
    let text = format!("host={} user=postgres dbname=postgres", postgres.folder().display());
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

const ONE: Migration =
    Migration { version: 1, name: "0001_one", sql: "CREATE TABLE one (a int); INSERT INTO one VALUES (1)" };
const TWO: Migration = Migration { version: 2, name: "0002_two", sql: "INSERT INTO one VALUES (2)" };

#[tokio::test]
async fn migrations_run_once_in_order_and_may_be_repeated() {
    let postgres = Scratch::start();
    let mut client = owner(&postgres).await;
    let first = apply(&mut client, &[ONE]).await.unwrap();
    assert_eq!(first, Applied { applied: vec![1], ..Applied::default() });
    assert_eq!(
        apply(&mut client, &[ONE, TWO]).await.unwrap(),
        Applied { applied: vec![2], already: 1, unknown: vec![] }
    );
    assert_eq!(
        apply(&mut client, &[ONE, TWO]).await.unwrap(),
        Applied { applied: vec![], already: 2, unknown: vec![] }
    );
    // After a roll-back the older program meets a database that is ahead of it, and leaves it alone.
    assert_eq!(apply(&mut client, &[ONE]).await.unwrap(), Applied { applied: vec![], already: 1, unknown: vec![2] });
    assert_eq!(postgres.sql("postgres", "postgres", "SELECT sum(a) FROM one"), "3");
}

#[tokio::test]
async fn a_changed_a_missing_and_a_failing_migration_change_nothing() {
    let postgres = Scratch::start();
    let mut client = owner(&postgres).await;
    apply(&mut client, &[ONE]).await.unwrap();
    let changed = Migration { sql: "CREATE TABLE one (a bigint)", ..ONE };
    assert!(matches!(apply(&mut client, &[changed]).await, Err(MigrationError::Changed { version: 1, .. })));
    let failing = Migration { sql: "INSERT INTO one VALUES (5); SELECT 1/0", ..TWO };
    assert!(matches!(apply(&mut client, &[ONE, failing]).await, Err(MigrationError::Failed { version: 2, .. })));
    assert_eq!(postgres.sql("postgres", "postgres", "SELECT sum(a) FROM one"), "1", "rolled back whole");
    let three = Migration { version: 3, ..TWO };
    apply(&mut client, &[ONE, three]).await.unwrap();
    assert!(matches!(apply(&mut client, &[ONE, TWO, three]).await, Err(MigrationError::Gap { version: 2 })));
    assert!(matches!(apply(&mut client, &[TWO, ONE]).await, Err(MigrationError::Order { .. })));
}

#[tokio::test]
async fn two_runners_at_once_apply_each_migration_once() {
    let postgres = Scratch::start();
    let (mut one, mut two) = (owner(&postgres).await, owner(&postgres).await);
    let (first, second) = tokio::join!(apply(&mut one, &[ONE, TWO]), apply(&mut two, &[ONE, TWO]));
    let mut counts = [first.unwrap().applied.len(), second.unwrap().applied.len()];
    counts.sort_unstable();
    assert_eq!(counts, [0, 2]);
    assert_eq!(postgres.sql("postgres", "postgres", "SELECT sum(a) FROM one"), "3");
}
