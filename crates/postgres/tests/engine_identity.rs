//! A real server whose roles sign in by a token of their workload's identity, and rights that end where they should.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bed;

use std::collections::BTreeMap;

use api::{
    Secret,
    context::secret,
    database_token::Signer,
    postgres::{IdentityRole, IdentityRoles, Right, set_identity_roles},
};
use bed::Bed;

const TENANT: &str = "7f3c2a90-0000-4000-8000-000000000001";

fn now() -> i64 {
    service::Clock::default().now_s()
}

/// A server that takes identities, and who signs its tokens.
async fn up(databases: &[&str]) -> anyhow::Result<(Bed, Signer)> {
    let signer = Signer::new(&Secret::new("the root key of a test's identity"));
    let mut bed = Bed::new(databases)?;
    bed.config.tenant = Some(TENANT.into());
    bed.secrets.insert(secret::DATABASE_TOKENS, Secret::new(signer.public_key()));
    bed.start()?;
    bed.ready().await?;
    Ok((bed, signer))
}

fn role(name: &str, workload: &str, rights: &[(&str, Right)]) -> IdentityRole {
    let rights = rights.iter().map(|(database, right)| ((*database).to_owned(), *right)).collect::<BTreeMap<_, _>>();
    IdentityRole { name: name.into(), workload: workload.into(), from: Vec::new(), rights }
}

fn token(signer: &Signer, workload: &str) -> Secret {
    signer.sign(TENANT, workload, now(), now() + 600)
}

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| format!("{error:?}"), |c| c.code().to_owned())
}

async fn refused(bed: &Bed, user: &str, password: &Secret, database: &str, why: &str) -> String {
    let error = bed.connect(user, password, database).await.map(drop).expect_err(why);
    code(&error)
}

#[tokio::test]
async fn a_token_of_its_workload_opens_a_role_and_nothing_else_does() -> anyhow::Result<()> {
    let (bed, signer) = up(&["cloud-db", "manage-db"]).await?;
    let roles = vec![
        role("cloud", "service.cloud", &[("cloud-db", Right::ReadWrite)]),
        role("cloud_migrate", "service.cloud.migrate", &[("cloud-db", Right::Owner)]),
        role("manage", "service.manage", &[("manage-db", Right::ReadWrite)]),
    ];
    set_identity_roles(&bed.control(), &IdentityRoles { roles: roles.clone() }).await?;

    let cloud = token(&signer, "service.cloud");
    let client = bed.connect("cloud", &cloud, "cloud-db").await?;
    let who: String = client.query_one("SELECT session_user::text", &[]).await?.get(0);
    assert_eq!(who, "cloud");

    // What is no token of it.
    let expired = signer.sign(TENANT, "service.cloud", now() - 900, now() - 1);
    let elsewhere = Signer::new(&Secret::new("another stamp's")).sign(TENANT, "service.cloud", now(), now() + 600);
    let tenant = signer.sign("another tenant", "service.cloud", now(), now() + 600);
    let jwt = Secret::new("eyJhbGciOiJSUzI1NiJ9.".to_owned() + &"A".repeat(900));
    for (password, why) in [
        (&expired, "expired"),
        (&elsewhere, "of another identity"),
        (&tenant, "of another tenant"),
        (&token(&signer, "service.manage"), "another workload's"),
        (&token(&signer, "service.cloud.migrate"), "its own migration's"),
        (&jwt, "for another audience: a JWT is longer than any token for a database"),
        (&Secret::random(), "garbage"),
        (&Secret::new("x".repeat(128)), "garbage of the right length"),
    ] {
        assert_eq!(refused(&bed, "cloud", password, "cloud-db", why).await, "28000", "{why}");
    }
    assert_eq!(refused(&bed, "cloud", &cloud, "manage-db", "no right there").await, "42501");
    assert_eq!(refused(&bed, "manage", &cloud, "manage-db", "another's role").await, "28000");

    // The reason is the keeper's to tell, not the server's; and no token is in the log.
    let log = bed.log();
    for why in ["expired", "another workload's", "not signed by this stamp's identity", "no token for a database"] {
        assert!(log.contains(why), "the log says nothing of: {why}");
    }
    assert!(!log.contains(cloud.expose()) && !log.contains(expired.expose()), "a token is in the log");

    // Nothing is stored that would open them.
    let admin = bed.connect_locally(bed.secrets.get(secret::POSTGRES_ADMIN).unwrap().expose()).await?;
    let stored = "SELECT rolname::text FROM pg_authid WHERE rolcanlogin AND rolpassword IS NULL ORDER BY 1";
    let names: Vec<String> = admin.query(stored, &[]).await?.iter().map(|r| r.get(0)).collect();
    assert_eq!(names, ["cloud", "cloud_migrate", "manage"]);

    // Somebody who gives such a role a password gains nothing by it.
    admin.batch_execute("ALTER ROLE cloud PASSWORD 'known'").await?;
    assert_eq!(refused(&bed, "cloud", &Secret::new("known"), "cloud-db", "a password").await, "28000");

    // Whoever is no longer declared is put out and has no role.
    set_identity_roles(&bed.control(), &IdentityRoles { roles: roles[1..].to_vec() }).await?;
    assert!(client.simple_query("SELECT 1").await.is_err(), "its session was ended");
    assert_ne!(refused(&bed, "cloud", &cloud, "cloud-db", "gone").await, "");
    bed.connect("manage", &token(&signer, "service.manage"), "manage-db").await?;
    Ok(())
}

#[tokio::test]
async fn identities_sign_in_again_once_a_new_keeper_judges_and_not_before() -> anyhow::Result<()> {
    let (mut bed, signer) = up(&["app"]).await?;
    let mut one = role("web", "service.web", &[("app", Right::ReadWrite)]);
    set_identity_roles(&bed.control(), &IdentityRoles { roles: vec![one.clone()] }).await?;
    let held = bed.connect("web", &token(&signer, "service.web"), "app").await?;

    bed.kill_keeper()?;
    let asked = refused(&bed, "web", &token(&signer, "service.web"), "app", "nobody judges").await;
    assert_eq!(asked, "28000", "nobody who judges, nobody in");
    held.simple_query("SELECT 1").await?;

    bed.start()?;
    bed.ready().await?;
    bed.connect("web", &token(&signer, "service.web"), "app").await?;
    held.simple_query("SELECT 1").await?;

    // From elsewhere than where its workload is, a good token is of no use.
    one.from = vec!["10.9.9.9".parse()?];
    set_identity_roles(&bed.control(), &IdentityRoles { roles: vec![one.clone()] }).await?;
    assert_eq!(refused(&bed, "web", &token(&signer, "service.web"), "app", "from elsewhere").await, "28000");
    // On loopback a connection comes from 127.0.0.1, wherever in 127.0.0.0/8 it goes.
    one.from.push("127.0.0.1".parse()?);
    set_identity_roles(&bed.control(), &IdentityRoles { roles: vec![one] }).await?;
    bed.connect("web", &token(&signer, "service.web"), "app").await?;

    // A role that gets a password signs in by that from then on.
    let password = bed.role("web", "app", Right::ReadOnly).await?;
    bed.stop_keeper()?;
    bed.config.tenant = None;
    bed.start()?;
    bed.ready().await?;
    bed.connect("web", &password, "app").await?;
    let refusal = set_identity_roles(&bed.control(), &IdentityRoles::default()).await.expect_err("no tenant");
    assert_eq!(refusal.status(), Some(400), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn a_reader_and_writer_cannot_change_the_schema_or_leave_its_fence() -> anyhow::Result<()> {
    let (bed, signer) = up(&["app", "other"]).await?;
    let roles = vec![
        role("web", "service.web", &[("app", Right::ReadWrite)]),
        role("reader", "service.reader", &[("app", Right::ReadOnly)]),
        role("web_migrate", "service.web.migrate", &[("app", Right::Owner)]),
        role("both", "service.both", &[("app", Right::ReadOnly), ("other", Right::Owner)]),
    ];
    set_identity_roles(&bed.control(), &IdentityRoles { roles }).await?;
    let owner = bed.connect("web_migrate", &token(&signer, "service.web.migrate"), "app").await?;
    owner
        .batch_execute(
            "CREATE TABLE things (id int PRIMARY KEY, tenant text NOT NULL, word text); \
             ALTER TABLE things ENABLE ROW LEVEL SECURITY; ALTER TABLE things FORCE ROW LEVEL SECURITY; \
             CREATE POLICY fence ON things USING (tenant = current_setting('app.tenant', true)) \
             WITH CHECK (tenant = current_setting('app.tenant', true)); \
             CREATE SCHEMA more; CREATE TABLE more.notes (id bigint GENERATED ALWAYS AS IDENTITY, word text)",
        )
        .await?;

    let web = bed.connect("web", &token(&signer, "service.web"), "app").await?;
    // What it may.
    web.batch_execute(
        "SET app.tenant = 'a'; INSERT INTO things VALUES (1, 'a', 'x'); INSERT INTO more.notes (word) VALUES ('y'); \
         UPDATE things SET word = 'z'; SET app.tenant = 'b'; INSERT INTO things VALUES (2, 'b', 'y')",
    )
    .await?;
    let seen: i64 = web.query_one("SELECT count(*) FROM things", &[]).await?.get(0);
    assert_eq!(seen, 1, "its own tenant's rows only");
    let stranger = web.batch_execute("INSERT INTO things VALUES (3, 'a', 'not its tenant')").await.unwrap_err();
    assert_eq!(code(&stranger), "42501");

    // What it may not, and with which refusal.
    for (statement, refusal) in [
        ("CREATE TABLE own (n int)", "42501"),
        ("CREATE TABLE more.own (n int)", "42501"),
        ("CREATE TEMP TABLE own (n int)", "42501"),
        ("CREATE SCHEMA own", "42501"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "42501"),
        ("CREATE EXTENSION pgcrypto", "42501"),
        ("ALTER TABLE things ADD COLUMN more text", "42501"),
        ("ALTER TABLE things DISABLE ROW LEVEL SECURITY", "42501"),
        ("ALTER TABLE things NO FORCE ROW LEVEL SECURITY", "42501"),
        ("DROP POLICY fence ON things", "42501"),
        ("CREATE POLICY open ON things USING (true)", "42501"),
        ("DROP TABLE things", "42501"),
        ("TRUNCATE things", "42501"),
        ("CREATE INDEX ON things (word)", "42501"),
        ("CREATE TRIGGER t BEFORE INSERT ON things EXECUTE FUNCTION suppress_redundant_updates_trigger()", "42501"),
        ("ALTER ROLE web BYPASSRLS", "42501"),
        ("CREATE ROLE another LOGIN", "42501"),
        ("ALTER DATABASE app SET row_security = off", "42501"),
        ("SET ROLE web_migrate", "42501"),
        ("SET ROLE postgres", "42501"),
        ("SET ROLE \"app:owner\"", "42501"),
        ("SET ROLE \"app:read-write\"", "42501"),
        ("SET ROLE \"sign-in:identity\"", "42501"),
        ("SET SESSION AUTHORIZATION postgres", "42501"),
        ("GRANT \"app:owner\" TO web", "42501"),
        ("COMMENT ON ROLE web IS '{\"workload\":\"service.other\"}'", "42501"),
        ("SELECT pg_read_file('/etc/passwd')", "42501"),
        ("SELECT rolpassword FROM pg_authid", "42501"),
        ("SELECT * FROM pg_hba_file_rules", "42501"),
        ("SELECT pg_reload_conf()", "42501"),
        ("COPY things TO PROGRAM 'cat'", "42501"),
    ] {
        let error = web.batch_execute(statement).await.expect_err(statement);
        assert_eq!(code(&error), refusal, "{statement}: {error:?}");
    }
    // Switching the fence off in its own session makes reading an error, not a way around it.
    web.batch_execute("SET row_security = off").await?;
    assert_eq!(code(&web.query("SELECT * FROM things", &[]).await.unwrap_err()), "42501");

    let reader = bed.connect("reader", &token(&signer, "service.reader"), "app").await?;
    reader.batch_execute("SET app.tenant = 'a'; SELECT * FROM things; SELECT * FROM more.notes").await?;
    for statement in ["INSERT INTO more.notes (word) VALUES ('y')", "UPDATE things SET word = ''", "SET ROLE web"] {
        assert_eq!(code(&reader.batch_execute(statement).await.expect_err(statement)), "42501", "{statement}");
    }

    // The owner itself is inside the fence that it forced, and owns through its group: another owner can go on.
    let seen: i64 = owner.query_one("SELECT count(*) FROM things", &[]).await?.get(0);
    assert_eq!(seen, 0, "the owner has no tenant");
    let owned: String =
        owner.query_one("SELECT tableowner::text FROM pg_tables WHERE tablename = 'things'", &[]).await?.get(0);
    assert_eq!(owned, "app:owner");

    // One role, two databases, two rights; and nothing across.
    let both = token(&signer, "service.both");
    bed.connect("both", &both, "other").await?.batch_execute("CREATE TABLE own (n int)").await?;
    let error = bed.connect("both", &both, "app").await?.batch_execute("CREATE TABLE own (n int)").await.unwrap_err();
    assert_eq!(code(&error), "42501");
    for name in ["web", "reader", "web_migrate"] {
        let workload = format!("service.{}", name.replace('_', "."));
        assert_eq!(refused(&bed, name, &token(&signer, &workload), "other", "no right there").await, "42501");
    }
    Ok(())
}
