//! A whole stamp without a password: one server with two databases opened by identity, two vaults of which one has the same
//! secret as the other, and migrations after the deployment.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use testkit::{As, Stage};

const STAMP: &str = env!("CARGO_BIN_EXE_stamp");
const NAME: &str = "duo";

/// Asks for a token as any SDK does, then asks the database as `$AS`, or as the workload's own role.
const ASK: &str = r#"
set -eu
at=${IDENTITY_ENDPOINT#http://}; host=${at%%/*}
if [ -z "${TOKEN:-}" ]; then
  exec 3<>"/dev/tcp/${host%:*}/${host##*:}"
  printf 'GET /msi/token?resource=%s&api-version=2019-08-01 HTTP/1.1\r\nHost: %s\r\nX-IDENTITY-HEADER: %s\r\nConnection: close\r\n\r\n' \
    "${RESOURCE:-https://ossrdbms-aad.database.windows.net}" "$host" "$IDENTITY_HEADER" >&3
  answer=$(cat <&3); TOKEN=${answer#*access_token\":\"}; TOKEN=${TOKEN%%\"*}
fi
[ "${SQL:-}" = token ] && { echo "$TOKEN"; exit 0; }
# PostgreSQL's own tools bring their libraries beside them.
export LD_LIBRARY_PATH="${PSQL%/bin/psql}/lib:${PSQL%/tools/bin/psql}/lib"
export PGPASSWORD=$TOKEN PGUSER=${AS:-$PGUSER} PGDATABASE=${IN:-$PGDATABASE} PGCONNECT_TIMEOUT=10
exec "$PSQL" -X -A -t -v ON_ERROR_STOP=1 -c "$SQL"
"#;

const MIGRATION: &str = r#"
SQL="CREATE TABLE IF NOT EXISTS things (tenant text, word text);
     ALTER TABLE things ENABLE ROW LEVEL SECURITY; ALTER TABLE things FORCE ROW LEVEL SECURITY;
     DROP POLICY IF EXISTS fence ON things;
     CREATE POLICY fence ON things USING (tenant = current_setting('app.tenant', true))"
"#;

fn manifest(psql: &str, network: &str) -> String {
    let access = |who: &str, right: &str| {
        format!(
            "{{ to = \"service.{who}\", right = \"{right}\", database = \"db-duo-{}-{{stamp}}\", sign_in = \"identity\" }}",
            who.split('.').next().unwrap()
        )
    };
    let service = |name: &str| {
        format!(
            r#"
[service.{name}]
run   = ["/bin/sleep", "3600"]
needs = ["postgres.main", "vault.{name}", "identity.main"]
env   = {{ PSQL = "{psql}", SHARED = "@Microsoft.KeyVault(VaultName=kv-duo-{name}-{{stamp}};SecretName=SHARED)" }}

[service.{name}.migrate]
run  = ["/bin/bash", "migrate.sh"]
when = "after"
env  = {{ PSQL = "{psql}" }}

[vault.{name}]
cloud_name = "kv-duo-{name}-{{stamp}}"
access     = [{{ to = "service.{name}", role = "Key Vault Secrets User" }}]
"#
        )
    };
    format!(
        r#"
stamp  = 1
system = "{NAME}"

[stamps.dev]

[names]
cloud = true
{network}
{cloud}
[vault.cloud.secrets]
SHARED = {{ generate = "32B" }}
{manage}
[vault.manage.secrets]
SHARED = {{ same = "vault.cloud/SHARED" }}

[postgres.main]
version   = {{ want = 16, accept = [17, 15, 18] }}
databases = ["db-duo-cloud-{{stamp}}", "db-duo-manage-{{stamp}}"]
access    = [{}, {}, {}, {}]

[identity.main]
[audit.main]
"#,
        access("cloud", "read-write"),
        access("cloud.migrate", "owner"),
        access("manage", "read-write"),
        access("manage.migrate", "owner"),
        cloud = service("cloud"),
        manage = service("manage"),
    )
}

/// What the database said to a service, or how it refused.
fn ask(stage: &Stage, service: &str, sql: &str, more: &[(&str, &str)]) -> Result<String, String> {
    let mut script: String = more.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    script.push_str(&format!("SQL=\"{sql}\"\n{ASK}"));
    let said = stage.stamp(&["exec", NAME, service, "--", "/bin/bash", "-c", &script]);
    if said.code == Some(0) { Ok(said.stdout.trim().to_owned()) } else { Err(said.stderr) }
}

/// The system up in a stage of its own, its folder, and whether its network is closed; None where that cannot be.
fn up() -> Option<(Stage, std::path::PathBuf, bool)> {
    let stage = Stage::new(STAMP, As::Caller)?;
    let engines = stage.home().join("engines");
    let engine = api::engine::choose(&engines, 16, &[15, 17, 18]).unwrap();
    let Some(psql) = api::engine::tool(&engine.bin, "psql") else {
        testkit::skip("tools", "no psql beside the engine; `engines/bring postgresql` brings it");
        return None;
    };
    let closed = drivers::network::probe().is_ok();
    let network = if closed { "[network]\nspace = \"10.0.0.0/16\"\n" } else { "" };
    let folder = stage.scratch().join(NAME);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("system.toml"), manifest(&psql.display().to_string(), network)).unwrap();
    std::fs::write(folder.join("migrate.sh"), format!("{MIGRATION}{ASK}")).unwrap();
    // It is up once the migrations that come after the deployment have run: what follows stands on their tables.
    stage.stamp(&["up", folder.to_str().unwrap()]).ok();
    Some((stage, folder, closed))
}

#[test]
fn two_backends_open_their_databases_by_identity_and_hold_no_password() {
    let Some((stage, folder, closed)) = up() else { return };
    assert_eq!(ask(&stage, "cloud", "SELECT session_user", &[]).unwrap(), "cloud");
    assert_eq!(ask(&stage, "manage", "SELECT session_user", &[]).unwrap(), "manage");
    // The tables that the migrations made, with a right that ends at their schema.
    let sql = "SET app.tenant = 'a'; INSERT INTO things VALUES ('a', 'x'); SELECT count(*) FROM things";
    assert!(ask(&stage, "cloud", sql, &[]).unwrap().ends_with('1'));
    for sql in [
        "ALTER TABLE things DISABLE ROW LEVEL SECURITY",
        "DROP TABLE things",
        "CREATE TABLE own (n int)",
        "SET ROLE cloud_migrate",
    ] {
        let refused = ask(&stage, "cloud", sql, &[]).unwrap_err();
        assert!(refused.contains("must be owner") || refused.contains("permission denied"), "{sql}: {refused}");
    }

    // Nothing across: neither the other's database, nor its role, nor a token of its own for something else.
    let across = ask(&stage, "cloud", "SELECT 1", &[("IN", "db-duo-manage-dev")]).unwrap_err();
    assert!(across.contains("permission denied for database"), "{across}");
    let refused = |more: &[(&str, &str)], from: &str| {
        let said = ask(&stage, from, "SELECT 1", more).unwrap_err();
        assert!(
            said.contains("RADIUS authentication failed") || said.contains("pg_hba.conf rejects"),
            "{more:?}: {said}"
        );
    };
    refused(&[("AS", "manage"), ("IN", "db-duo-manage-dev")], "cloud");
    refused(&[("AS", "cloud_migrate")], "cloud");
    refused(&[("RESOURCE", "https://vault.azure.net")], "cloud");
    refused(&[("TOKEN", "garbage")], "cloud");
    if closed {
        // A stolen token is of no use where its workload is not.
        let stolen = ask(&stage, "cloud", "token", &[]).unwrap();
        assert_eq!(stolen.len(), api::database_token::LENGTH);
        let stolen = [("TOKEN", stolen.as_str()), ("AS", "cloud"), ("IN", "db-duo-cloud-dev")];
        refused(&stolen, "manage");
        assert_eq!(ask(&stage, "cloud", "SELECT 1", &stolen).unwrap(), "1");
    }

    // No password anywhere in what an application is given.
    let said = stage.stamp(&["exec", NAME, "cloud", "--", "/usr/bin/env"]).ok().stdout;
    assert!(said.contains("PGUSER=cloud\n") && said.contains("PGSSLMODE=verify-full\n"), "{said}");
    assert!(!said.to_ascii_lowercase().contains("password"), "{said}");

    // One secret at both ends, by the names that the cloud gives the vaults; it stays so when it is rotated.
    let shared =
        |service: &str| stage.stamp(&["exec", NAME, service, "--", "/bin/sh", "-c", "echo $SHARED"]).ok().stdout;
    let first = shared("cloud");
    assert!(first.trim().len() >= 43, "{first}");
    assert_eq!(first, shared("manage"));
    stage.stamp(&["secret", "rotate", NAME, "SHARED", "--vault", "cloud"]).ok();
    let second = shared("cloud");
    assert_ne!(first, second);
    assert_eq!(second, shared("manage"));
    let said = stage.stamp(&["secret", "rotate", NAME, "SHARED", "--vault", "manage"]);
    assert!(said.code != Some(0) && said.stderr.contains("the same as SHARED of vault.cloud"), "{said:?}");

    // Up again changes nothing, and a workload that is taken back loses its role.
    stage.stamp(&["up", folder.to_str().unwrap()]).ok();
    assert_eq!(ask(&stage, "cloud", "SELECT 1", &[]).unwrap(), "1");
    stage.stamp(&["destroy", NAME, "--yes"]).ok();
}

#[test]
fn one_database_goes_back_beside_the_one_there_is_and_takes_its_place() {
    let Some((stage, _, _)) = up() else { return };
    let database = "db-duo-cloud-dev";
    let count = |name: &str| ask(&stage, "cloud", "SET app.tenant = 'a'; SELECT count(*) FROM things", &[("IN", name)]);
    ask(&stage, "cloud", "SET app.tenant = 'a'; INSERT INTO things VALUES ('a', 'x'), ('a', 'y')", &[]).unwrap();
    ask(&stage, "manage", "SET app.tenant = 'a'; SELECT count(*) FROM things", &[]).unwrap();
    stage.stamp(&["backup", NAME]).ok();
    let backed_up = || {
        let all = stage.stamp(&["backups", NAME, "--json"]).ok().json();
        let there = all[0]["bases"].as_array().is_some_and(|b| !b.is_empty()) && all[0]["running"].is_null();
        if there { Ok(()) } else { Err(all.to_string()) }
    };
    testkit::wait_until("the base backup is there", std::time::Duration::from_secs(60), backed_up);
    stage.stamp(&["backup", NAME, "--point", "before"]).ok();
    ask(&stage, "cloud", "SET app.tenant = 'a'; DELETE FROM things", &[]).unwrap();

    let wrong = stage.stamp(&["restore", NAME, "--database", "none", "--latest"]);
    assert!(wrong.code != Some(0) && wrong.stderr.contains(database), "{wrong:?}");
    let restore = |how: &[&str]| {
        let mut arguments = vec!["restore", NAME, "--database", database, "--json"];
        arguments.extend(how);
        stage.stamp(&arguments)
    };
    let restored = restore(&["--to-point", "before"]).ok().json();
    assert_eq!(
        (restored["state"].as_str(), restored["name"].as_str()),
        (Some("database-beside"), Some("db-duo-cloud-dev-restored"))
    );
    assert!(count(database).unwrap().ends_with('0'), "the origin is as it was");
    assert!(count("db-duo-cloud-dev-restored").unwrap().ends_with('2'));
    let refused = ask(&stage, "manage", "SELECT 1", &[("IN", "db-duo-cloud-dev-restored")]).unwrap_err();
    assert!(refused.contains("permission denied for database"), "{refused}");

    let swapped = restore(&["--swap", "--yes"]).ok().json();
    assert_eq!(swapped["state"], "database-swapped");
    assert!(swapped["notes"][0].as_str().unwrap().starts_with("db-duo-cloud-dev-old-"), "{swapped}");
    assert!(count(database).unwrap().ends_with('2'));
    let again = restore(&["--swap", "--yes"]);
    assert!(again.code != Some(0) && again.stderr.contains("there is no restored database"), "{again:?}");
    assert_eq!(restore(&["--forget-replaced", "--yes"]).ok().json()["state"], "database-forgotten");
    // Nothing stands beside, and nothing is left in the folders by which it went over.
    let status = stage.ready(NAME, "dev");
    assert!(!status.resources.iter().any(|r| r.name.contains("one-database")), "{:?}", status.resources);
}
