//! Sessions: one row each, so that one can be ended from here. At most two a person, the oldest gives way.

use sdk::{
    database::{Connection, Error, Queries},
    telemetry::metrics,
};
use uuid::Uuid;

use crate::access::Caller;

/// The cookie lives as long as a session at most can; the row ends after thirty minutes without use.
pub const COOKIE_SECONDS: i64 = 7 * 24 * 3600;

/// Who a session belongs to; None when it has ended or its user is no longer active.
///
/// # Errors
/// The database does not answer.
pub async fn find(connection: &impl Queries, hash: &str) -> Result<Option<Caller>, Error> {
    let row = connection
        .first(
            "SELECT u.id, u.display_name, u.email, u.role, u.organization_id, u.department_id, d.name,
                    s.last_used_at < now() - interval '1 minute'
             FROM user_sessions s JOIN users u ON u.id = s.user_id JOIN departments d ON d.id = u.department_id
             JOIN organizations o ON o.id = u.organization_id
             WHERE s.session_hash = $1 AND NOT s.revoked AND s.expires_at > now() AND u.is_active AND o.is_active
               AND s.last_used_at > now() - interval '30 minutes'",
            &[&hash],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.get(7) {
        connection.execute("UPDATE user_sessions SET last_used_at = now() WHERE session_hash = $1", &[&hash]).await?;
    }
    Ok(super::users::caller(&row))
}

/// Begins a session of seven days at most, and ends the person's oldest if there would be three. `id_token` is sealed.
///
/// # Errors
/// The database does not answer.
pub async fn begin(
    connection: &mut Connection,
    hash: &str,
    user: Uuid,
    device: &str,
    id_token: &str,
) -> Result<(), Error> {
    let transaction = connection.begin().await?;
    transaction.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", &[&user]).await?;
    transaction
        .execute(
            "UPDATE user_sessions SET revoked = true, revoked_at = now(), revoked_reason = 'more than two sessions', id_token = NULL
             WHERE id IN (SELECT id FROM user_sessions WHERE user_id = $1 AND NOT revoked ORDER BY created_at DESC OFFSET 1)",
            &[&user],
        )
        .await?;
    transaction
        .execute(
            "INSERT INTO user_sessions (user_id, session_hash, device_info, id_token, expires_at)
             VALUES ($1, $2, $3, $4, now() + interval '7 days')",
            &[&user, &hash, &device, &id_token],
        )
        .await?;
    transaction.commit().await
}

/// Ends a session; gives its sealed ID token.
///
/// # Errors
/// The database does not answer.
pub async fn end(connection: &impl Queries, hash: &str, reason: &str) -> Result<Option<String>, Error> {
    let token = connection.first("SELECT id_token FROM user_sessions WHERE session_hash = $1", &[&hash]).await?;
    connection
        .execute(
            "UPDATE user_sessions SET revoked = true, revoked_at = now(), revoked_reason = $2, id_token = NULL
             WHERE session_hash = $1 AND NOT revoked",
            &[&hash, &reason],
        )
        .await?;
    Ok(token.and_then(|r| r.get(0)))
}

/// Deletes sessions that ended more than thirty days ago.
///
/// # Errors
/// The database does not answer.
pub async fn expire(connection: &impl Queries) -> Result<(), Error> {
    connection.execute("DELETE FROM user_sessions WHERE expires_at < now() - interval '30 days'", &[]).await?;
    Ok(())
}

/// Reports the number of sessions that are alive as the gauge `active_sessions`.
///
/// # Errors
/// The database does not answer.
pub async fn measure(connection: &impl Queries) -> Result<(), Error> {
    let count = "SELECT count(*)::integer FROM user_sessions WHERE NOT revoked AND expires_at > now() AND last_used_at > now() - interval '30 minutes'";
    let row = connection.first(count, &[]).await?;
    metrics().set("active_sessions", f64::from(row.map_or(0, |r| r.get::<_, i32>(0))), &[]);
    Ok(())
}
