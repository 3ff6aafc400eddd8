//! Makes the roles that sign in by identity, and removes those that no longer do. May be repeated and cut anywhere.

use std::collections::BTreeSet;

use api::postgres::IdentityRole;
use tokio_postgres::Client;

use crate::{
    Error,
    admin::Admin,
    identities::{Belongs, GROUP},
    name::{check, ident, literal},
    roles::{ATTRIBUTES, Roles, can_bind, exists, make_group, rights},
};

const SQL: &str = "set the roles of identities";

impl Roles {
    /// All roles that sign in by identity, each with its rights and no others.
    pub async fn set_identities(&self, admin: &Admin, wanted: &[IdentityRole]) -> Result<(), Error> {
        let client = admin.connect("postgres").await.map_err(Error::sql(SQL))?;
        for role in wanted {
            check("role", &role.name)?;
            for database in role.rights.keys() {
                check("database", database)?;
                if !exists(&client, database).await? {
                    return Err(Error::NoDatabase(database.clone()));
                }
            }
        }
        {
            let _changing = self.changing.lock().await;
            make_group(&client, GROUP).await.map_err(Error::sql(SQL))?;
            let databases = databases(&client).await?;
            let binds = can_bind(&client).await?;
            for role in wanted {
                set(&client, role, &databases, binds).await?;
            }
        }
        let names: BTreeSet<&str> = wanted.iter().map(|role| role.name.as_str()).collect();
        for name in members(&client).await?.iter().filter(|name| !names.contains(name.as_str())) {
            self.remove_role(admin, name).await?;
        }
        Ok(())
    }
}

async fn set(client: &Client, role: &IdentityRole, databases: &[String], binds: bool) -> Result<(), Error> {
    let name = ident(&role.name);
    let known = client.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role.name]).await;
    let verb = if known.map_err(Error::sql(SQL))?.is_some() { "ALTER" } else { "CREATE" };
    let belongs = Belongs { workload: role.workload.clone(), from: role.from.clone() };
    let comment = serde_json::to_string(&belongs).expect("a comment is JSON");
    // In one transaction: no moment in which it is there and not in the group that is asked for tokens.
    let mut all = format!("BEGIN; {verb} ROLE {name} {ATTRIBUTES} PASSWORD NULL; ");
    let alone = if binds { " WITH INHERIT FALSE, SET FALSE" } else { "" };
    all.push_str(&format!("GRANT {} TO {name}{alone}; ", ident(GROUP)));
    all.push_str(&format!("COMMENT ON ROLE {name} IS {}; ", literal(&comment)));
    for database in databases {
        all.push_str(&rights(database, role.rights.get(database).copied(), &name, binds));
    }
    all.push_str("COMMIT");
    client.batch_execute(&all).await.map_err(Error::sql(SQL))?;
    tracing::info!(role = role.name, workload = role.workload, rights = ?role.rights, "set a role that signs in by identity");
    Ok(())
}

/// Databases that have groups of ours.
async fn databases(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "SELECT datname::text FROM pg_database WHERE EXISTS (SELECT 1 FROM pg_roles WHERE rolname = datname || ':owner')";
    let rows = client.query(sql, &[]).await.map_err(Error::sql(SQL))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Who signs in by identity now.
async fn members(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "SELECT m.rolname::text FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid \
               JOIN pg_roles m ON m.oid = a.member WHERE g.rolname = $1";
    let rows = client.query(sql, &[&GROUP]).await.map_err(Error::sql(SQL))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
