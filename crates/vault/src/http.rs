//! From a request to an operation and back. The token comes first: nothing else is looked at without one.

use std::{convert::Infallible, sync::Arc};

use aws_lc_rs::rand;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use percent_encoding::percent_decode_str;
use service::{Denied, Peer, answer};
use zeroize::Zeroizing;

use crate::{
    acts,
    operation::Operation,
    refusal::Refusal,
    vault::{Answer, Ask, Query, Vault},
};

/// Bodies that set a secret are small, even with every byte of the value escaped.
const BODY_BYTES: usize = 256 * 1024;
/// A backup holds all versions.
const RESTORE_BYTES: usize = 8 * 1024 * 1024;

/// The Key Vault API.
pub fn public(vault: Arc<Vault>) -> Router {
    Router::new().fallback(handle).with_state(vault)
}

/// What the owner of the control socket meets.
pub fn control(vault: Arc<Vault>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/renew-data-key", post(renew))
        .with_state(vault)
}

async fn handle(State(vault): State<Arc<Vault>>, request: Request) -> Result<Response, Infallible> {
    let id = request_id();
    let echo = request.headers().get("x-ms-client-request-id").cloned();
    let mut response = match ask(&vault, request, &id).await {
        Ok(Answer { status, body, .. }) => {
            let mut response = (status, Body::from(body)).into_response();
            if status != StatusCode::NO_CONTENT {
                let json = HeaderValue::from_static("application/json; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
            }
            response
        }
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000;includeSubDomains"));
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(HeaderName::from_static("x-ms-request-id"), id);
    }
    if let Some(echo) = echo {
        headers.insert(HeaderName::from_static("x-ms-client-request-id"), echo);
    }
    Ok(response)
}

async fn ask(vault: &Arc<Vault>, request: Request, id: &str) -> Result<Answer, Refusal> {
    let (head, body) = request.into_parts();
    let settings = vault.settings();
    let text = |name: HeaderName| head.headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(header::HOST).or_else(|| head.uri.authority().map(|a| a.as_str()));
    let authority = settings.authority(host).to_owned();
    let client = head.extensions.get::<Peer>().and_then(|p| p.address).map_or_else(String::new, |a| a.to_string());
    let operation = Operation::parse(&head.method, head.uri.path());

    let caller = match vault.callers.verify(text(header::AUTHORIZATION), &settings).await {
        Ok(caller) => caller,
        Err(denied) => {
            let action = operation.as_ref().map_or("secret.unknown", Operation::action);
            return Err(unauthorized(vault, &settings, &authority, action, &client, denied).await);
        }
    };
    let (operation, fault) = match operation {
        Ok(operation) => (Some(operation), None),
        Err(fault) => (None, Some(fault)),
    };
    let allowed = operation.as_ref().is_none_or(|o| settings.allows(&caller, o));
    let limit = if operation == Some(Operation::Restore) { RESTORE_BYTES } else { BODY_BYTES };
    let query = query(head.uri.query().unwrap_or_default());
    let mut ask = Ask {
        caller,
        settings,
        operation,
        authority,
        client,
        request: id.to_owned(),
        query,
        body: Zeroizing::default(),
    };

    let refused = match (&ask.operation, fault) {
        (_, Some(fault)) => Some(fault),
        (Some(operation), None) if !allowed => {
            let object = operation.name().unwrap_or("vault");
            Some(Refusal::no_role(&ask.caller.subject, operation.action(), object))
        }
        _ => None,
    };
    if let Some(refusal) = refused {
        let result = Err(refusal);
        vault.record(&ask, &result).await?;
        return result;
    }
    if head.method != Method::GET {
        match to_bytes(body, limit).await {
            Ok(bytes) => ask.body = Zeroizing::new(bytes.into()),
            Err(_) => {
                let result = Err(Refusal::too_large());
                vault.record(&ask, &result).await?;
                return result;
            }
        }
    }
    acts::answer(vault, ask).await
}

/// The challenge. A first request without any token is how clients ask for it, and no access: it is not recorded.
async fn unauthorized(
    vault: &Vault,
    settings: &crate::config::Settings,
    authority: &str,
    action: &str,
    client: &str,
    denied: Denied,
) -> Refusal {
    let message = match &denied {
        Denied::Missing => "AKV10000: Request is missing a Bearer or PoP token.".to_owned(),
        Denied::Keys(error) => {
            tracing::error!(error = &**error as &dyn std::error::Error, "tokens cannot be checked");
            return Refusal::unavailable("Tokens cannot be checked now; send the request again.");
        }
        other => format!("AKV10022: {other}."),
    };
    if !matches!(denied, Denied::Missing) && !settings.config.audit_off {
        // What the token says is not repeated: it is not known to be true.
        let why = match denied {
            Denied::Audience => "audience",
            Denied::Expired => "expired",
            Denied::Signature => "signature",
            _ => "malformed",
        };
        if let Err(refusal) = vault.record_bad_token(action, client, why).await {
            return refusal;
        }
    }
    let zone = authority.split_once('.').map_or(authority, |(_, zone)| zone);
    let (issuer, tenant) = vault.callers.issuer();
    let challenge = format!("Bearer authorization=\"{issuer}/{tenant}\", resource=\"https://{zone}\"");
    Refusal::unauthorized(message, challenge)
}

/// Reads what the API knows of a query; keys may be percent-encoded too.
fn query(text: &str) -> Query {
    let mut query = Query::default();
    for pair in text.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |t: &str| percent_decode_str(t).decode_utf8_lossy().into_owned();
        match decode(key).to_ascii_lowercase().as_str() {
            "api-version" => query.api_version = Some(decode(value)),
            "maxresults" => query.max_results = Some(decode(value)),
            "$skiptoken" => query.skip_token = Some(decode(value)),
            _ => {}
        }
    }
    query
}

/// A random GUID.
fn request_id() -> String {
    let mut bytes = [0u8; 16];
    if rand::fill(&mut bytes).is_err() {
        return String::new();
    }
    let hex = api::audit::hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

async fn health() -> Json<serde_json::Value> {
    // The role does not start unless the key-encryption key opens the data keys.
    Json(serde_json::json!({ "status": "ready" }))
}

async fn status(State(vault): State<Arc<Vault>>) -> Response {
    match tokio::task::spawn_blocking(move || vault.status()).await {
        Ok(Ok(status)) => Json(status).into_response(),
        _ => answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the vault's storage does not answer"),
    }
}

async fn renew(State(vault): State<Arc<Vault>>) -> Response {
    match tokio::task::spawn_blocking(move || vault.renew_data_key()).await {
        Ok(Ok(id)) => Json(serde_json::json!({ "data_key": id })).into_response(),
        Ok(Err(refusal)) => answer::error(refusal.status, "not_renewed", refusal.message),
        Err(_) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the vault failed; its log says why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_keys_may_be_encoded() {
        let read = query("api%2Dversion=2025-07-01&%24skiptoken=YQ&maxresults=3&x");
        assert_eq!(read.api_version.as_deref(), Some("2025-07-01"));
        assert_eq!(read.skip_token.as_deref(), Some("YQ"));
        assert_eq!(read.max_results.as_deref(), Some("3"));
    }
}
