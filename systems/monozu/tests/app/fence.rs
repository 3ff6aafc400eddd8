//! The fence, attacked from inside: somebody who runs any SQL as the application's own role.

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::common::Yard;

/// Tables that hold what is tenants'.
const FENCED: [&str; 8] =
    ["users", "sites", "assets", "incidents", "registration_keys", "devices", "ingest_events", "security_alerts"];

/// A session of the application's role, as whoever took the application has it.
async fn inside(yard: &Yard) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(yard.postgres.folder()).user("app_rw").dbname("app");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

/// Two tenants with a row in every table, and a session of the application's role.
async fn yard() -> (Yard, Client, Vec<String>) {
    let yard = Yard::start().await;
    let mut ids = Vec::new();
    for account in ["acme", "other"] {
        let tenant = yard.tenant(account).await;
        for (path, body) in [
            ("/api/v1/sites", json!({ "name": "Works" })),
            ("/api/v1/assets", json!({ "name": "Pump" })),
            ("/api/v1/incidents", json!({ "title": "Leak", "severity": "high" })),
        ] {
            let made = yard.call(&tenant.token, "POST", path, &body).await;
            assert_eq!(made.status, http::StatusCode::CREATED, "{}", made.text);
        }
        let (_, key) = yard.device(&tenant).await;
        let batch = json!([{ "kind": "security_alert", "severity": "low", "title": "x" }]);
        assert_eq!(yard.ingest(&key, &batch).await.status, http::StatusCode::NO_CONTENT);
        ids.push(tenant.id);
    }
    for table in FENCED {
        assert_eq!(yard.sql("app", &format!("SELECT count(DISTINCT tenant_id) FROM {table}")), "2", "{table}");
    }
    let client = inside(&yard).await;
    (yard, client, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_applications_own_role_sees_and_changes_nothing_without_a_ticket() {
    let (yard, client, ids) = yard().await;
    for table in FENCED {
        assert_eq!(count(&client, table).await, 0, "{table}");
        assert_eq!(client.execute(&format!("DELETE FROM {table}"), &[]).await.unwrap(), 0, "{table}");
        assert_eq!(
            client.execute(&format!("UPDATE {table} SET tenant_id = tenant_id"), &[]).await.unwrap(),
            0,
            "{table}"
        );
    }
    // Made up settings: the tenant's id, its account, nothing, the hash that is kept.
    let hash = yard.sql("app", "SELECT encode(hash, 'hex') FROM guard.tickets WHERE kind = 'person' LIMIT 1");
    for forged in [ids[1].as_str(), "other", "", hash.as_str()] {
        client.execute("SELECT set_config('app.ticket', $1, false)", &[&forged]).await.unwrap();
        client.execute("SELECT set_config('app.tenant', $1, false)", &[&ids[1]]).await.unwrap();
        for table in FENCED {
            assert_eq!(count(&client, table).await, 0, "{table} by {forged:?}");
        }
        let row = format!("INSERT INTO sites (tenant_id, id, name) VALUES ('{}', gen_random_uuid(), 'forged')", ids[1]);
        assert!(client.batch_execute(&row).await.is_err(), "{forged:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_cannot_be_switched_off_from_inside() {
    let (yard, client, ids) = yard().await;
    // PostgreSQL takes the word, and then refuses the read instead of showing what is fenced.
    client.batch_execute("SET row_security = off").await.unwrap();
    for table in FENCED {
        let refused = client.query(&format!("SELECT * FROM {table}"), &[]).await.unwrap_err();
        assert_eq!(refused.code().map(|c| c.code()), Some("42501"), "{table}: {refused}");
    }
    client.batch_execute("SET row_security = on").await.unwrap();
    let attempts = [
        "ALTER TABLE sites DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE sites NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE sites OWNER TO CURRENT_USER",
        "DROP POLICY person ON sites",
        "ALTER POLICY person ON sites USING (true)",
        "CREATE POLICY open ON sites USING (true)",
        "TRUNCATE sites CASCADE",
        "DROP TABLE sites CASCADE",
        "CREATE OR REPLACE FUNCTION tenant(VARIADIC kinds text[]) RETURNS uuid LANGUAGE sql AS $$ SELECT gen_random_uuid() $$",
        "CREATE FUNCTION mine() RETURNS uuid LANGUAGE sql AS $$ SELECT gen_random_uuid() $$",
        "CREATE SCHEMA mine",
        "CREATE TABLE mine (x int)",
        "CREATE VIEW all_sites AS SELECT * FROM sites",
        "SET ROLE app_owner",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE CURRENT_USER BYPASSRLS",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "CREATE ROLE mine SUPERUSER",
        "GRANT app_owner TO CURRENT_USER",
        "COPY sites TO PROGRAM 'cat'",
        "COPY sites FROM '/etc/passwd'",
        "SELECT * FROM guard.tickets",
        "SELECT * FROM guard.tenants",
        "SELECT * FROM guard.logins",
        "SELECT * FROM guard.refreshes",
        "SELECT * FROM guard.secret",
        "SELECT * FROM guard.outbox",
        "INSERT INTO guard.tickets (hash, tenant_id, kind, subject) SELECT sha256('x'), gen_random_uuid(), 'person', gen_random_uuid()",
        "SELECT guard.shown()",
        "SELECT guard.admin()",
        "SELECT guard.close()",
        "SELECT issue_registration_key(gen_random_uuid(), 'x', 'x', 1, now())",
        "SELECT add_person(gen_random_uuid(), 'x@y.z', 'x', 'admin', sha256('x'), sha256('x'))",
        "SELECT change_person(gen_random_uuid(), 'admin', true)",
        "SELECT revoke(gen_random_uuid())",
        "DELETE FROM \"SchemaMigrations\"",
        "INSERT INTO \"SchemaMigrations\" SELECT 99, 'x', 'x', now(), 1",
        "LOAD 'plpgsql'; SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "ALTER SYSTEM SET row_security = off",
        "ALTER DATABASE app SET row_security = off",
    ];
    for attempt in attempts {
        let refused = client.batch_execute(attempt).await;
        assert!(refused.is_err(), "{attempt} was carried out");
    }
    for table in FENCED {
        assert_eq!(count(&client, table).await, 0, "{table}");
        let kept = format!(
            "SELECT count(*) FROM pg_class WHERE relname = '{table}' AND relrowsecurity AND relforcerowsecurity"
        );
        assert_eq!(yard.sql("app", &kept), "1", "{table}");
    }
    // Statistics of fenced columns hold samples of them.
    let looks = client.query_one("SELECT count(*) FROM pg_stats WHERE tablename = ANY ($1)", &[&FENCED.to_vec()]).await;
    yard.sql("app", "ANALYZE");
    assert_eq!(looks.unwrap().get::<_, i64>(0), 0);
    assert_eq!(
        client
            .query_one("SELECT count(*) FROM pg_stats WHERE tablename = ANY ($1)", &[&FENCED.to_vec()])
            .await
            .unwrap()
            .get::<_, i64>(0),
        0
    );
    // A registration key used with another tenant's account gives no device.
    assert_eq!(ids.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_opens_its_own_tenant_and_only_within_its_transaction() {
    let (yard, mut client, ids) = yard().await;
    // The application holds a ticket only while it serves its bearer: taken from a token that came by.
    let ticket = ticket_of(&yard.login("acme").await.said("access_token"));
    let transaction = client.transaction().await.unwrap();
    transaction.query("SELECT enter($1)", &[&ticket]).await.unwrap();
    for table in FENCED {
        let row = transaction
            .query_one(&format!("SELECT count(*), count(DISTINCT tenant_id), min(tenant_id::text) FROM {table}"), &[])
            .await
            .unwrap();
        assert!(row.get::<_, i64>(0) >= 1, "{table}");
        assert_eq!((row.get::<_, i64>(1), row.get::<_, String>(2)), (1, ids[0].clone()), "{table}");
    }
    // Unfiltered changes touch what is its own.
    let changed = transaction.execute("UPDATE sites SET address = 'changed'", &[]).await.unwrap();
    assert_eq!(changed, 1);
    assert_eq!(transaction.execute("DELETE FROM incidents", &[]).await.unwrap(), 1);
    transaction.commit().await.unwrap();
    assert_eq!(count(&client, "sites").await, 0, "the transaction is over, and so is what was shown");
    assert_eq!(
        yard.sql("app", "SELECT count(*) FILTER (WHERE address = 'changed') || '/' || count(*) FROM sites"),
        "1/2"
    );
    assert_eq!(yard.sql("app", "SELECT count(*) FROM incidents"), "1");
    // A row is neither made for another tenant nor moved to one, and leads to nothing of another's.
    let foreign_site = yard.sql("app", &format!("SELECT id FROM sites WHERE tenant_id = '{}'", ids[1]));
    for attempt in [
        format!("INSERT INTO sites (tenant_id, id, name) VALUES ('{}', gen_random_uuid(), 'planted')", ids[1]),
        format!("UPDATE sites SET tenant_id = '{}'", ids[1]),
        format!("INSERT INTO assets (id, site_id, name) VALUES (gen_random_uuid(), '{foreign_site}', 'spy')"),
    ] {
        let transaction = client.transaction().await.unwrap();
        transaction.query("SELECT enter($1)", &[&ticket]).await.unwrap();
        assert!(transaction.batch_execute(&attempt).await.is_err(), "{attempt}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_devices_key_adds_and_reads_nothing_but_itself() {
    let yard = Yard::start().await;
    let tenant = yard.tenant("acme").await;
    let (id, key) = yard.device(&tenant).await;
    let (other, _) = yard.device(&tenant).await;
    yard.call(&tenant.token, "POST", "/api/v1/sites", &json!({ "name": "Works" })).await;
    assert_eq!(yard.ingest(&key, &json!([{ "kind": "log" }])).await.status, http::StatusCode::NO_CONTENT);
    let client = inside(&yard).await;
    client.query("SELECT set_config('app.ticket', $1, false)", &[&key]).await.unwrap();
    for table in FENCED.iter().filter(|t| **t != "devices") {
        assert_eq!(count(&client, table).await, 0, "{table}");
    }
    let own = client.query("SELECT id::text FROM devices", &[]).await.unwrap();
    assert_eq!(own.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), [id]);
    for attempt in [
        format!("INSERT INTO ingest_events (device_id, kind, at, body) VALUES ('{other}', 'log', now(), '{{}}')"),
        "INSERT INTO sites (id, name) VALUES (gen_random_uuid(), 'x')".to_owned(),
        "SELECT issue_registration_key(gen_random_uuid(), 'x', 'x', 1, now())".to_owned(),
        format!("SELECT revoke('{other}')"),
    ] {
        assert!(client.batch_execute(&attempt).await.is_err(), "{attempt}");
    }
}

/// Every table with a tenant is fenced, whoever adds one and forgets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_table_of_tenants_is_without_forced_policies() {
    let yard = Yard::start().await;
    let open = "SELECT string_agg(c.relname, ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE n.nspname = 'public' AND c.relkind = 'r'
          AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))";
    assert_eq!(yard.sql("app", open), "");
    let fenced = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relrowsecurity";
    assert_eq!(yard.sql("app", fenced), FENCED.len().to_string());
    let reached = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'guard' AND c.relkind = 'r' AND has_table_privilege('app_rw', c.oid, 'SELECT, INSERT, UPDATE, DELETE')";
    assert_eq!(yard.sql("app", reached), "0");
}

fn ticket_of(token: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    body["tkt"].as_str().unwrap().to_owned()
}
