//! Asking for a tenant, signing in and out.

use axum::{
    Json,
    extract::State,
    response::{AppendHeaders, IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use sdk::{Secret, database::Queries, seal::random_text, telemetry::metrics};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    App,
    access::{Caller, LIFE},
    passwords,
};
use crate::{
    fault::{Body, Fault},
    store,
};

/// The browser insists on TLS for a cookie of this name, and sends it to the paths of signing in only.
const REFRESH_COOKIE: &str = "__Secure-refresh";
const WEEK: u64 = 7 * 24 * 3600;
const WRONG: Fault =
    Fault::Unauthorized("account, e-mail or password is wrong; after ten wrong passwords a sign-in rests for a minute");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    account: String,
    company: String,
    email: String,
    name: String,
    password: String,
}

pub async fn register(State(app): State<App>, Body(asked): Body<Registration>) -> Result<Response, Fault> {
    app.inner.registrations.take("register", 1)?;
    let password = Secret::new(asked.password);
    passwords::judge(&password)?;
    let email = email(&asked.email)?;
    let salt = Uuid::new_v4().as_bytes().to_vec();
    let derived = app.inner.passwords.derive(&password, salt.clone()).await?;
    let (tenant, person) = (Uuid::now_v7(), Uuid::now_v7());
    let sql = "SELECT register_tenant($1, $2, $3, $4, $5, $6, $7, $8)";
    let connection = app.connection().await?;
    connection
        .query(sql, &[&tenant, &asked.account, &asked.company, &person, &email, &asked.name, &salt, &derived])
        .await?;
    drop(connection);
    sdk::event!("tenant-registered", tenant = %tenant);
    app.inner.live.tell_management.notify_one();
    let body = json!({ "tenant_id": tenant, "account": asked.account, "status": "pending" });
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// An address as it is compared: lower case, with something on both sides of its only `@`.
pub fn email(text: &str) -> Result<String, Fault> {
    let text = text.trim().to_lowercase();
    match text.split_once('@') {
        Some((left, right)) if !left.is_empty() && right.contains('.') && !right.contains('@') && text.len() <= 254 => {
            Ok(text)
        }
        _ => Err(Fault::Invalid("email: an address such as ann@example.com".into())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    account: String,
    email: String,
    password: String,
}

pub async fn login(State(app): State<App>, Body(asked): Body<Login>) -> Result<Response, Fault> {
    let password = Secret::new(asked.password);
    let email = asked.email.trim().to_lowercase();
    let salt: Vec<u8> = {
        let connection = app.connection().await?;
        let row = connection.first("SELECT login_salt($1, $2)", &[&asked.account, &email]).await?;
        row.ok_or(WRONG)?.get(0)
    };
    let derived = app.inner.passwords.derive(&password, salt).await?;
    let (ticket, renewal) = secrets()?;
    let connection = app.connection().await?;
    let sql = "SELECT outcome, tenant, person, role FROM sign_in($1, $2, $3, $4, $5)";
    let row = connection.first(sql, &[&asked.account, &email, &derived, &ticket, &renewal]).await?.ok_or(WRONG)?;
    drop(connection);
    let outcome: String = row.get(0);
    metrics().add("sign_ins", 1, &[("result", outcome.as_str())]);
    match outcome.as_str() {
        "good" => {
            let (tenant, person, role): (Uuid, Uuid, String) = (row.get(1), row.get(2), row.get(3));
            sdk::event!("signed-in", tenant = %tenant, user = %person);
            let token = app.inner.tokens.sign(person, tenant, &role, &ticket)?;
            Ok(signed_in(&token, &renewal))
        }
        "tenant_pending" => Err(store::pending()),
        "tenant_suspended" => Err(store::suspended()),
        "licence_expired" => Err(store::expired()),
        _ => Err(WRONG),
    }
}

/// A ticket and a refresh token.
fn secrets() -> Result<(String, String), Fault> {
    Ok((random_text().map_err(Fault::internal)?, random_text().map_err(Fault::internal)?))
}

fn signed_in(token: &str, renewal: &str) -> Response {
    let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": LIFE });
    (AppendHeaders([(header::SET_COOKIE, cookie(renewal, WEEK))]), Json(body)).into_response()
}

fn cookie(value: &str, seconds: u64) -> String {
    format!("{REFRESH_COOKIE}={value}; Path=/api/v1/auth; Secure; HttpOnly; SameSite=Strict; Max-Age={seconds}")
}

pub async fn refresh(State(app): State<App>, headers: HeaderMap) -> Result<Response, Fault> {
    const AGAIN: Fault = Fault::Unauthorized("the refresh token is missing, used or expired; please sign in again");
    let old = sdk::access::cookie(&headers, REFRESH_COOKIE).ok_or(AGAIN)?;
    let (ticket, renewal) = secrets()?;
    let connection = app.connection().await?;
    let sql = "SELECT outcome, tenant, person, role FROM refresh($1, $2, $3)";
    let row = connection.first(sql, &[&old, &ticket, &renewal]).await?.ok_or(AGAIN)?;
    match row.get::<_, String>(0).as_str() {
        "good" => {
            let token = app.inner.tokens.sign(row.get(2), row.get(1), row.get(3), &ticket)?;
            Ok(signed_in(&token, &renewal))
        }
        "reused" => {
            tracing::warn!(
                event.name = "refresh-token-reused",
                "a refresh token came a second time: its sign-in was ended"
            );
            Err(AGAIN)
        }
        _ => Err(AGAIN),
    }
}

pub async fn logout(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    entered.query("SELECT sign_out()", &[]).await?;
    entered.commit().await?;
    Ok((StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, cookie("", 0))])).into_response())
}

pub async fn me(State(app): State<App>, caller: Caller) -> Result<Json<serde_json::Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let sql = "SELECT to_jsonb(u) || jsonb_build_object('account', l.account, 'company', l.name) \
               FROM users u, licence() l WHERE u.id = $1";
    Ok(Json(entered.one(sql, &[&entered.who.subject]).await?.get(0)))
}

pub async fn features(State(app): State<App>, caller: Caller) -> Result<Json<serde_json::Value>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let sql = "SELECT jsonb_build_object('plan', l.plan, 'status', l.status, 'expires_at', l.expires_at, 'features', l.features) FROM licence() l";
    Ok(Json(entered.one(sql, &[]).await?.get(0)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_lower_case_and_whole() {
        assert_eq!(email(" Ann@Example.com ").unwrap(), "ann@example.com");
        for wrong in ["", "ann", "@example.com", "ann@", "ann@x", "a@b@c.d"] {
            assert!(email(wrong).is_err(), "{wrong}");
        }
    }
}
