//! One database out of a server and into another, and its taking the place of the one there is.
//!
//! PostgreSQL's own dump and restore carry it, with its owners and rights as they are. It stands beside the one there is under a
//! name of its own, open to the same roles, until a person has the two change names: both in one transaction.

use std::path::Path;

use api::postgres::Exchange;
use tokio_postgres::Client;

use crate::{
    Error,
    admin::Admin,
    backups::blocking,
    config::Checked,
    name::{check, ident, literal},
    tools,
};

/// PostgreSQL cuts longer names.
const LONGEST: usize = 63;

/// What stands beside a database is called.
pub(crate) fn beside(database: &str) -> String {
    format!("{database}-restored")
}

fn long(name: String) -> Result<String, Error> {
    if name.len() <= LONGEST { Ok(name) } else { Err(Error::Name { kind: "database", name }) }
}

fn sql(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |source| Error::Sql { what, source }
}

/// Writes one database into a file.
pub(crate) async fn dump(checked: &Checked, admin: &Admin, database: &str, to: &Path) -> Result<(), Error> {
    check("database", database)?;
    let client = admin.connect("postgres").await.map_err(sql("connect as administrator"))?;
    if !crate::roles::exists(&client, database).await? {
        return Err(Error::NoDatabase(database.into()));
    }
    let (config, password) = (checked.config.clone(), admin.password());
    let (database, to) = (database.to_owned(), to.to_owned());
    blocking(move || tools::dump(&config.bin, &config.socket_dir, config.port, &password, &database, &to)).await
}

/// Makes the database beside `database` out of a file; one that was there from a try before is replaced. Gives its name.
pub(crate) async fn load(checked: &Checked, admin: &Admin, database: &str, from: &Path) -> Result<String, Error> {
    check("database", database)?;
    let name = long(beside(database))?;
    let what = sql("make the restored database");
    let client = admin.connect("postgres").await.map_err(&what)?;
    if !crate::roles::exists(&client, database).await? {
        return Err(Error::NoDatabase(database.into()));
    }
    remove(&client, &name).await?;
    let quoted = ident(&name);
    let group = |right: &str| ident(&format!("{database}:{right}"));
    let (owner, write, read) = (group("owner"), group("read-write"), group("read-only"));
    client.batch_execute(&format!("CREATE DATABASE {quoted} OWNER {owner} TEMPLATE template0")).await.map_err(&what)?;
    let loaded = async {
        // Nobody but the administrator until it is whole.
        client.batch_execute(&format!("REVOKE ALL ON DATABASE {quoted} FROM PUBLIC")).await.map_err(&what)?;
        let (config, password) = (checked.config.clone(), admin.password());
        let (into, from) = (name.clone(), from.to_owned());
        blocking(move || tools::load(&config.bin, &config.socket_dir, config.port, &password, &into, &from)).await?;
        let mut statements = format!("GRANT CONNECT ON DATABASE {quoted} TO {owner}, {write}, {read}; ");
        // Owners act as their group there as well: that lies with the server, not in the dump.
        let owners = "SELECT r.rolname::text, substr(c, 6) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
                      JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c WHERE d.datname = $1 AND c LIKE 'role=%'";
        for row in client.query(owners, &[&database]).await.map_err(&what)? {
            let (role, becomes): (String, String) = (row.get(0), row.get(1));
            let role = ident(&role);
            statements.push_str(&format!("ALTER ROLE {role} IN DATABASE {quoted} SET role TO {}; ", literal(&becomes)));
        }
        client.batch_execute(&statements).await.map_err(&what)
    };
    if let Err(error) = loaded.await {
        // Half a database is of no use to anybody.
        remove(&client, &name).await?;
        return Err(error);
    }
    tracing::info!(database, name, "a database was restored beside the one there is");
    Ok(name)
}

/// Has the restored database take the place of the one there is, which is kept under another name.
pub(crate) async fn swap(admin: &Admin, database: &str, kept: &str) -> Result<Exchange, Error> {
    check("database", database)?;
    let kept = long(kept.to_owned())?;
    let new = beside(database);
    let what = sql("swap two databases");
    let mut client = admin.connect("postgres").await.map_err(&what)?;
    for name in [database, &new] {
        if !crate::roles::exists(&client, name).await? {
            return Err(Error::NoDatabase(name.into()));
        }
    }
    let (old, new_quoted, kept_quoted) = (ident(database), ident(&new), ident(&kept));
    // From here on a keeper that is started anew opens what is declared again.
    for name in [&old, &new_quoted] {
        client.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await.map_err(&what)?;
    }
    let swapped = async {
        let ended = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname IN ($1, $2)";
        client.query(ended, &[&database, &new]).await.map_err(&what)?;
        let transaction = client.transaction().await.map_err(&what)?;
        let renames =
            format!("ALTER DATABASE {old} RENAME TO {kept_quoted}; ALTER DATABASE {new_quoted} RENAME TO {old}");
        transaction.batch_execute(&renames).await.map_err(&what)?;
        transaction.commit().await.map_err(&what)
    };
    let swapped = swapped.await;
    // Whichever has the name now.
    client.batch_execute(&format!("ALTER DATABASE {old} ALLOW_CONNECTIONS true")).await.map_err(&what)?;
    if swapped.is_err() {
        client.batch_execute(&format!("ALTER DATABASE {new_quoted} ALLOW_CONNECTIONS true")).await.map_err(&what)?;
    }
    swapped?;
    tracing::info!(database, kept, "a restored database took its origin's place");
    Ok(Exchange { database: database.into(), kept: vec![kept] })
}

/// Removes the restored database, or those that swaps have kept.
pub(crate) async fn drop_aside(admin: &Admin, database: &str, kept: bool) -> Result<Exchange, Error> {
    check("database", database)?;
    let client = admin.connect("postgres").await.map_err(sql("connect as administrator"))?;
    let names = if kept { kept_of(&client, database).await? } else { vec![beside(database)] };
    let mut removed = Vec::new();
    for name in names {
        if crate::roles::exists(&client, &name).await? {
            remove(&client, &name).await?;
            removed.push(name);
        }
    }
    Ok(Exchange { database: database.into(), kept: removed })
}

/// What swaps have kept of a database.
async fn kept_of(client: &Client, database: &str) -> Result<Vec<String>, Error> {
    let names = "SELECT datname::text FROM pg_database WHERE datname ~ ('^' || $1 || '-old-[0-9]+$') ORDER BY 1";
    let rows = client.query(names, &[&database]).await.map_err(sql("look for kept databases"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn remove(client: &Client, name: &str) -> Result<(), Error> {
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", ident(name));
    client.batch_execute(&statement).await.map_err(sql("remove a database"))
}
