//! Databases and roles, with the least right that serves.
//!
//! A database `app` has three groups that cannot sign in: `app:owner`, `app:read-write` and `app:read-only`. A role that can
//! sign in is a member of one of them. What an owner makes belongs to the group, whoever made it, and the other groups get
//! their rights on it by default privileges. `PUBLIC` gets nothing. Every function here may be repeated and cut anywhere.

use api::postgres::{Right, RoleRequest};
use tokio::sync::Mutex;
use tokio_postgres::{Client, error::SqlState};

use crate::{
    Error,
    admin::{Admin, set_verifier},
    identities::GROUP,
    name::{check, ident, literal},
    scram,
};

/// Serialises changes: two that make the same thing at once would hinder each other.
#[derive(Default)]
pub(crate) struct Roles {
    pub(crate) changing: Mutex<()>,
}

fn group(database: &str, right: Right) -> String {
    let suffix = match right {
        Right::Owner => "owner",
        Right::ReadWrite => "read-write",
        Right::ReadOnly => "read-only",
    };
    format!("{database}:{suffix}")
}

/// What a role that signs in is, and is not.
pub(crate) const ATTRIBUTES: &str = "LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";

const RIGHTS: [Right; 3] = [Right::Owner, Right::ReadWrite, Right::ReadOnly];

impl Roles {
    /// The administrator's own databases are nobody else's.
    pub async fn close_defaults(&self, admin: &Admin) -> Result<(), Error> {
        let client = admin.connect("postgres").await.map_err(Error::sql("connect as administrator"))?;
        client
            .batch_execute("REVOKE ALL ON DATABASE postgres FROM PUBLIC; REVOKE ALL ON DATABASE template1 FROM PUBLIC")
            .await
            .map_err(Error::sql("close the default databases"))
    }

    /// Makes a database if it is not there, and sets its groups' rights anew.
    pub async fn set_database(&self, admin: &Admin, database: &str) -> Result<(), Error> {
        check("database", database)?;
        let _changing = self.changing.lock().await;
        let client = admin.connect("postgres").await.map_err(Error::sql("connect as administrator"))?;
        for right in RIGHTS {
            make_group(&client, &group(database, right)).await.map_err(Error::sql("make the groups of a database"))?;
        }
        let quoted = ident(database);
        let owner = ident(&group(database, Right::Owner));
        if !exists(&client, database).await? {
            let statement = format!("CREATE DATABASE {quoted} OWNER {owner}");
            client.batch_execute(&statement).await.map_err(Error::sql("create a database"))?;
            tracing::info!(database, "made a database");
        }
        // One whose swap was cut is closed.
        let open = format!("ALTER DATABASE {quoted} ALLOW_CONNECTIONS true");
        client.batch_execute(&open).await.map_err(Error::sql("open a database"))?;
        let (write, read) = (ident(&group(database, Right::ReadWrite)), ident(&group(database, Right::ReadOnly)));
        client
            .batch_execute(&format!(
                "REVOKE ALL ON DATABASE {quoted} FROM PUBLIC; GRANT CONNECT ON DATABASE {quoted} TO {owner}, {write}, {read}"
            ))
            .await
            .map_err(Error::sql("grant rights on a database"))?;
        let inside = admin.connect(database).await.map_err(Error::sql("connect to a database"))?;
        let defaults = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {owner}");
        inside
            .batch_execute(&format!(
                "REVOKE ALL ON SCHEMA public FROM PUBLIC; \
                 GRANT USAGE ON SCHEMA public TO {write}, {read}; \
                 {defaults} GRANT USAGE ON SCHEMAS TO {write}, {read}; \
                 {defaults} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {write}; \
                 {defaults} GRANT SELECT ON TABLES TO {read}; \
                 {defaults} GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO {write}; \
                 {defaults} GRANT SELECT ON SEQUENCES TO {read}"
            ))
            .await
            .map_err(Error::sql("grant rights in a database"))
    }

    /// Makes a role that can sign in, or changes its password and its right on the request's database.
    pub async fn set_role(&self, admin: &Admin, name: &str, request: &RoleRequest) -> Result<(), Error> {
        check("role", name)?;
        let database = check("database", &request.database)?;
        let _changing = self.changing.lock().await;
        let sql = || Error::sql("set a role");
        let mut client = admin.connect("postgres").await.map_err(sql())?;
        if !exists(&client, database).await? {
            return Err(Error::NoDatabase(database.into()));
        }
        let role = ident(name);
        // All attributes each time: a role that somebody gave more is put right.
        let stored =
            client.query_opt("SELECT rolpassword FROM pg_authid WHERE rolname = $1", &[&name]).await.map_err(sql())?;
        match &stored {
            Some(row) => {
                let stored: Option<String> = row.get(0);
                client.batch_execute(&format!("ALTER ROLE {role} {ATTRIBUTES}")).await.map_err(sql())?;
                if !stored.is_some_and(|s| scram::matches(&request.password, &s)) {
                    let verifier = scram::verifier(&request.password)?;
                    set_verifier(&mut client, &format!("ALTER ROLE {role}"), &verifier).await.map_err(sql())?;
                    tracing::info!(role = name, "changed a role's password");
                }
            }
            None => {
                let verifier = scram::verifier(&request.password)?;
                set_verifier(&mut client, &format!("CREATE ROLE {role} {ATTRIBUTES}"), &verifier)
                    .await
                    .map_err(sql())?;
                tracing::info!(role = name, "made a role");
            }
        }
        let acts = can_bind(&client).await?;
        let by_identity = signs_in_by_identity(&client, name).await?;
        let transaction = client.transaction().await.map_err(sql())?;
        let mut statements = String::new();
        if by_identity {
            // It had no password before.
            statements.push_str(&format!("REVOKE {} FROM {role}; COMMENT ON ROLE {role} IS NULL; ", ident(GROUP)));
        }
        statements.push_str(&rights(database, Some(request.right), &role, acts));
        transaction.batch_execute(&statements).await.map_err(sql())?;
        transaction.commit().await.map_err(sql())?;
        tracing::info!(role = name, database = request.database, right = ?request.right, "set a role's right");
        Ok(())
    }

    /// Removes a role and ends its sessions.
    pub async fn remove_role(&self, admin: &Admin, name: &str) -> Result<(), Error> {
        check("role", name)?;
        let _changing = self.changing.lock().await;
        let sql = || Error::sql("remove a role");
        let client = admin.connect("postgres").await.map_err(sql())?;
        let known = client.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&name]).await.map_err(sql())?;
        if known.is_none() {
            return Ok(());
        }
        // No new session may come between the end of the last and the drop.
        client.batch_execute(&format!("ALTER ROLE {} NOLOGIN", ident(name))).await.map_err(sql())?;
        client
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", &[&name])
            .await
            .map_err(sql())?;
        match client.batch_execute(&format!("DROP ROLE {}", ident(name))).await {
            Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                Err(Error::OwnsObjects(name.into()))
            }
            other => {
                other.map_err(sql())?;
                tracing::info!(role = name, "removed a role");
                Ok(())
            }
        }
    }
}

/// The statements that give a role its right on a database, and take others.
///
/// A role has what its group may do and cannot become it, where the server knows the difference (`binds`, since 16): only an
/// owner does, from its first statement on, so that what it makes is the group's.
pub(crate) fn rights(database: &str, right: Option<Right>, role: &str, binds: bool) -> String {
    let mut statements = String::new();
    for one in RIGHTS {
        let group = ident(&group(database, one));
        let how = match one {
            _ if !binds => "",
            Right::Owner => " WITH INHERIT TRUE, SET TRUE",
            Right::ReadWrite | Right::ReadOnly => " WITH INHERIT TRUE, SET FALSE",
        };
        statements.push_str(&match Some(one) == right {
            true => format!("GRANT {group} TO {role}{how}; "),
            false => format!("REVOKE {group} FROM {role}; "),
        });
    }
    let becomes = match right {
        Some(Right::Owner) => format!("SET role TO {}", literal(&group(database, Right::Owner))),
        _ => "RESET role".into(),
    };
    statements.push_str(&format!("ALTER ROLE {role} IN DATABASE {} {becomes}; ", ident(database)));
    statements
}

/// Whether the server can have a member that may not become its group.
pub(crate) async fn can_bind(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT current_setting('server_version_num')::int >= 160000";
    Ok(client.query_one(sql, &[]).await.map_err(Error::sql("ask for the server's version"))?.get(0))
}

async fn signs_in_by_identity(client: &Client, name: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member \
               WHERE g.rolname = $1 AND m.rolname = $2";
    let row = client.query_opt(sql, &[&GROUP, &name]).await;
    Ok(row.map_err(Error::sql("look a role up"))?.is_some())
}

pub(crate) async fn exists(client: &Client, database: &str) -> Result<bool, Error> {
    let row = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&database]).await;
    Ok(row.map_err(Error::sql("look a database up"))?.is_some())
}

pub(crate) async fn make_group(client: &Client, group: &str) -> Result<(), tokio_postgres::Error> {
    if client.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&group]).await?.is_none() {
        client.batch_execute(&format!("CREATE ROLE {} NOLOGIN", ident(group))).await?;
    }
    Ok(())
}
