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
    name::{check, ident, literal},
    scram,
};

/// Serialises changes: two that make the same thing at once would hinder each other.
#[derive(Default)]
pub(crate) struct Roles {
    changing: Mutex<()>,
}

fn group(database: &str, right: Right) -> String {
    let suffix = match right {
        Right::Owner => "owner",
        Right::ReadWrite => "read-write",
        Right::ReadOnly => "read-only",
    };
    format!("{database}:{suffix}")
}

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
        let attributes = "LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
        let stored =
            client.query_opt("SELECT rolpassword FROM pg_authid WHERE rolname = $1", &[&name]).await.map_err(sql())?;
        match &stored {
            Some(row) => {
                let stored: Option<String> = row.get(0);
                client.batch_execute(&format!("ALTER ROLE {role} {attributes}")).await.map_err(sql())?;
                if !stored.is_some_and(|s| scram::matches(&request.password, &s)) {
                    let verifier = scram::verifier(&request.password)?;
                    set_verifier(&mut client, &format!("ALTER ROLE {role}"), &verifier).await.map_err(sql())?;
                    tracing::info!(role = name, "changed a role's password");
                }
            }
            None => {
                let verifier = scram::verifier(&request.password)?;
                set_verifier(&mut client, &format!("CREATE ROLE {role} {attributes}"), &verifier)
                    .await
                    .map_err(sql())?;
                tracing::info!(role = name, "made a role");
            }
        }
        let transaction = client.transaction().await.map_err(sql())?;
        let mut statements = String::new();
        for right in RIGHTS {
            let group = ident(&group(database, right));
            statements.push_str(&match right == request.right {
                true => format!("GRANT {group} TO {role}; "),
                false => format!("REVOKE {group} FROM {role}; "),
            });
        }
        // An owner acts as the group from its first statement on, so that what it makes is the group's.
        let database = ident(database);
        statements.push_str(&match request.right {
            Right::Owner => {
                format!(
                    "ALTER ROLE {role} IN DATABASE {database} SET role TO {}",
                    literal(&group(&request.database, Right::Owner))
                )
            }
            Right::ReadWrite | Right::ReadOnly => format!("ALTER ROLE {role} IN DATABASE {database} RESET role"),
        });
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

async fn exists(client: &Client, database: &str) -> Result<bool, Error> {
    let row = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&database]).await;
    Ok(row.map_err(Error::sql("look a database up"))?.is_some())
}

async fn make_group(client: &Client, group: &str) -> Result<(), tokio_postgres::Error> {
    if client.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&group]).await?.is_none() {
        client.batch_execute(&format!("CREATE ROLE {} NOLOGIN", ident(group))).await?;
    }
    Ok(())
}
