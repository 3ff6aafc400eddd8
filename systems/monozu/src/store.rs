//! Work in a tenant's name: a transaction in which a secret is shown to the database, and nothing outside of one.

use sdk::{
    Secret,
    database::{Connection, Param, Queries, Transaction},
};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::fault::Fault;

/// What the database says of a shown secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Person,
    Device,
    Registration,
}

/// Whose secret it is.
#[derive(Clone, Debug)]
pub struct Who {
    pub kind: Kind,
    pub tenant: Uuid,
    pub subject: Uuid,
    pub admin: bool,
}

/// A transaction that sees what the shown secret opens. Rolled back unless [`Entered::commit`] is called.
pub struct Entered<'a> {
    transaction: Transaction<'a>,
    pub who: Who,
}

const UNKNOWN: Fault = Fault::Unauthorized("the key or token is not known, has expired or was revoked");

/// Begins a transaction and shows `secret` in it.
///
/// # Errors
/// The secret is not one of `kinds` or no longer good, the tenant has no licence, or the database does not answer.
pub async fn enter<'a>(connection: &'a mut Connection, secret: &Secret, kinds: &[Kind]) -> Result<Entered<'a>, Fault> {
    let transaction = connection.begin().await?;
    let sql = "SELECT state, kind, tenant_id, subject, role FROM enter($1)";
    let row = transaction.first(sql, &[&secret.reveal()]).await?.ok_or(UNKNOWN)?;
    let state: String = row.get(0);
    match state.as_str() {
        "good" => {}
        "pending" => return Err(pending()),
        "suspended" => return Err(suspended()),
        "expired" => return Err(expired()),
        _ => return Err(UNKNOWN),
    }
    let kind = match row.get::<_, String>(1).as_str() {
        "person" => Kind::Person,
        "device" => Kind::Device,
        _ => Kind::Registration,
    };
    if !kinds.contains(&kind) {
        return Err(UNKNOWN);
    }
    let who = Who { kind, tenant: row.get(2), subject: row.get(3), admin: row.get::<_, String>(4) == "admin" };
    Ok(Entered { transaction, who })
}

pub const fn pending() -> Fault {
    Fault::Forbidden("tenant_pending", "this tenant is not let in yet")
}

pub const fn suspended() -> Fault {
    Fault::Forbidden("tenant_suspended", "this tenant is suspended")
}

pub const fn expired() -> Fault {
    Fault::Forbidden("licence_expired", "this tenant's licence has ended")
}

impl Entered<'_> {
    /// # Errors
    /// A constraint, or the database went away: then it is unknown whether the changes were made.
    pub async fn commit(self) -> Result<(), Fault> {
        Ok(self.transaction.commit().await?)
    }

    /// # Errors
    /// The database refuses the statement or does not answer.
    pub async fn query(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, Fault> {
        Ok(self.transaction.query(sql, params).await?)
    }

    /// # Errors
    /// As [`Entered::query`].
    pub async fn execute(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Fault> {
        Ok(self.transaction.execute(sql, params).await?)
    }

    /// The first row, or the fault that there is none.
    ///
    /// # Errors
    /// As [`Entered::query`], and no row.
    pub async fn one(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Row, Fault> {
        self.transaction.first(sql, params).await?.ok_or(Fault::NotFound)
    }
}
