//! The record of acts: who, what, from where, with which outcome. Rows are only added and chained by the database
//! (`migrations/0001_schema.sql`); prompts are in it sealed.

use sdk::database::{Error, Queries};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::access::{Caller, Meta};

/// One act.
#[derive(Clone, Debug)]
pub struct Act<'a> {
    event_type: &'static str,
    action: &'static str,
    resource_type: &'static str,
    resource: Option<Uuid>,
    failed: bool,
    error: Option<&'a str>,
    metadata: Value,
}

impl<'a> Act<'a> {
    /// Something done.
    pub fn done(event_type: &'static str, action: &'static str, resource_type: &'static str) -> Act<'a> {
        Act { event_type, action, resource_type, resource: None, failed: false, error: None, metadata: json!({}) }
    }

    /// Something refused or failed.
    pub fn refused(event_type: &'static str, action: &'static str, resource_type: &'static str) -> Act<'a> {
        Act { failed: true, ..Act::done(event_type, action, resource_type) }
    }

    #[must_use]
    pub fn on(self, resource: Uuid) -> Act<'a> {
        Act { resource: Some(resource), ..self }
    }

    #[must_use]
    pub fn error(self, error: &'a str) -> Act<'a> {
        Act { error: Some(error), ..self }
    }

    #[must_use]
    pub fn with(self, metadata: Value) -> Act<'a> {
        Act { metadata, ..self }
    }
}

/// Who acts when it is not a caller: the worker in a person's name, or nobody.
pub struct Actor<'a> {
    pub user: Option<Uuid>,
    pub email: &'a str,
    pub department: Option<Uuid>,
}

/// Adds an act of a caller, or of somebody unknown. In a transaction it is recorded with what it records, or neither is.
///
/// # Errors
/// The database does not answer or refuses.
pub async fn note(queries: &impl Queries, caller: Option<&Caller>, meta: &Meta, act: Act<'_>) -> Result<(), Error> {
    let actor = Actor {
        user: caller.map(|c| c.user),
        email: caller.map_or("", |c| c.email.as_str()),
        department: caller.map(|c| c.department),
    };
    note_as(queries, &actor, meta, act).await
}

/// As [`note`], in another's name.
///
/// # Errors
/// As [`note`].
pub async fn note_as(queries: &impl Queries, actor: &Actor<'_>, meta: &Meta, act: Act<'_>) -> Result<(), Error> {
    let status = if act.failed { "failure" } else { "success" };
    queries
        .execute(
            r#"INSERT INTO audit_logs (sequence, id, "timestamp", event_type, user_id, user_email, action, resource_type,
                   resource_id, ip_address, user_agent, request_id, status, error_message, metadata, department_id, previous, hash)
               VALUES (0, $1, now(), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, '', '')"#,
            &[
                &Uuid::new_v4(),
                &act.event_type,
                &actor.user,
                &actor.email,
                &act.action,
                &act.resource_type,
                &act.resource,
                &meta.ip,
                &meta.agent,
                &meta.request_id,
                &status,
                &act.error,
                &act.metadata,
                &actor.department,
            ],
        )
        .await?;
    Ok(())
}

/// One row, for who may read it. The prompt stays sealed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Entry {
    pub sequence: i64,
    pub id: Uuid,
    pub timestamp: String,
    pub event_type: String,
    pub user_id: Option<Uuid>,
    pub user_email: String,
    pub action: String,
    pub resource_type: String,
    pub resource_id: Option<Uuid>,
    pub ip_address: String,
    pub user_agent: String,
    pub request_id: Uuid,
    pub status: String,
    pub error_message: Option<String>,
    pub metadata: Value,
    pub hash: String,
}

/// What to look for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Filter {
    pub user_id: Option<Uuid>,
    pub resource_id: Option<Uuid>,
    #[serde(default)]
    pub event_type: String,
    /// Rows before this sequence number; newest first.
    pub before: Option<i64>,
}

/// The newest rows of an organisation, or of all (None).
///
/// # Errors
/// The database does not answer.
pub async fn list(
    queries: &impl Queries,
    organization: Option<Uuid>,
    filter: &Filter,
    most: i64,
) -> Result<Vec<Entry>, Error> {
    let rows = queries
        .query(
            r#"SELECT a.sequence, a.id, to_char(a."timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), a.event_type, a.user_id, a.user_email,
                      a.action, a.resource_type, a.resource_id, a.ip_address, a.user_agent, a.request_id, a.status,
                      a.error_message, a.metadata, a.hash
               FROM audit_logs a
               WHERE ($1::uuid IS NULL OR a.department_id IN (SELECT id FROM departments WHERE organization_id = $1))
                 AND ($2::uuid IS NULL OR a.user_id = $2) AND ($3::uuid IS NULL OR a.resource_id = $3)
                 AND ($4 = '' OR a.event_type = $4) AND ($5::bigint IS NULL OR a.sequence < $5)
               ORDER BY a.sequence DESC LIMIT $6"#,
            &[&organization, &filter.user_id, &filter.resource_id, &filter.event_type, &filter.before, &most],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|r| Entry {
            sequence: r.get(0),
            id: r.get(1),
            timestamp: r.get(2),
            event_type: r.get(3),
            user_id: r.get(4),
            user_email: r.get(5),
            action: r.get(6),
            resource_type: r.get(7),
            resource_id: r.get(8),
            ip_address: r.get(9),
            user_agent: r.get(10),
            request_id: r.get(11),
            status: r.get(12),
            error_message: r.get(13),
            metadata: r.get(14),
            hash: r.get(15),
        })
        .collect())
}

/// The first row that does not follow from the one before it; None when the record is whole.
///
/// # Errors
/// The database does not answer.
pub async fn first_break(queries: &impl Queries) -> Result<Option<i64>, Error> {
    Ok(queries.first("SELECT sequence FROM audit_breaks ORDER BY sequence LIMIT 1", &[]).await?.map(|r| r.get(0)))
}
