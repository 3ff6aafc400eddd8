//! Tokens of workloads: `POST /workload/token`, answered as App Service's identity endpoint does.

use api::{audit::Outcome, database_token, identity::WorkloadTokenRequest};
use aws_lc_rs::digest;
use axum::{
    Extension, Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use service::Peer;
use uuid::Uuid;

use crate::{error::Error, form, state::App, tokens};

/// Longer audiences are nobody's.
const RESOURCE_BYTES: usize = 512;

/// The stable GUID of a workload, its `oid` and `client_id`: by name within the tenant (UUID version 8, RFC 9562, over
/// SHA-256, so that it is the same after every restart and on every machine).
pub fn guid(tenant: Uuid, workload: &str) -> Uuid {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(tenant.as_bytes());
    context.update(workload.as_bytes());
    let hash = context.finish();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

pub async fn token(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let key = headers.get(header::AUTHORIZATION).and_then(|h| h.to_str().ok()).and_then(form::bearer);
    let Some(key) = key else {
        return Ok(refuse(StatusCode::UNAUTHORIZED, "unauthorized", "A workload key is needed as bearer token."));
    };
    let Ok(request) = serde_json::from_slice::<WorkloadTokenRequest>(&body) else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "bad_request", "The body is JSON with `workload` and `resource`."));
    };
    let settings = app.settings.load_full();
    // The key first: who has none learns nothing about which workloads there are.
    let proved = app.root.derive(&format!("workload:{}", request.workload)).matches(key);
    if !proved || !settings.workloads.contains(&request.workload) {
        let address = peer.address.map(|a| a.ip());
        if app.refusals.attempt(address, std::time::Instant::now()).is_ok() {
            let claimed: String = request.workload.chars().take(100).collect();
            let detail = [("address", text_of(&address)), ("claimed", claimed.into())];
            app.record("anonymous", "token.mint", "workloads", Outcome::Denied, &detail).await?;
        }
        return Ok(refuse(StatusCode::UNAUTHORIZED, "unauthorized", "This is not the key of that workload."));
    }
    let resource = request.resource.as_str();
    let usable = !resource.is_empty()
        && resource.len() <= RESOURCE_BYTES
        && resource.chars().all(|c| c.is_ascii_graphic())
        && resource != settings.issuer;
    if !usable {
        return Ok(refuse(StatusCode::BAD_REQUEST, "invalid_resource", "The resource asked for cannot be one."));
    }

    let for_database = resource.trim_end_matches('/') == database_token::AUDIENCE;
    let id = guid(settings.tenant, &request.workload);
    let now = app.now();
    let life = settings.workload_token_seconds;
    let expires = now + if for_database { life.min(database_token::LIFE_SECONDS) } else { life };
    let uti = Uuid::new_v4().to_string();
    let (kind, name) = request.workload.split_once('.').unwrap_or(("workload", &request.workload));
    let claims = json!({
        "iss": settings.issuer, "sub": request.workload, "aud": resource, "oid": id, "appid": id,
        "tid": settings.tenant, "iat": now, "nbf": now, "exp": expires, "ver": "1.0", "uti": uti,
        "idtyp": "app",
        "xms_mirid": format!(
            "/subscriptions/{}/resourcegroups/rg-{}-{}/providers/Stampwright/{kind}/{name}",
            settings.tenant, app.system, app.stamp
        ),
    });
    let token = match for_database {
        true => {
            let signer = database_token::Signer::new(&app.root);
            signer.sign(&settings.tenant.to_string(), &request.workload, now, expires).expose().to_owned()
        }
        false => tokens::sign(&app.keys, tokens::Kind::Jwt, &claims)?,
    };
    let detail = [("uti", uti.into()), ("audience", resource.into()), ("expires", expires.into())];
    let object = format!("workloads/{}", request.workload);
    app.record(&request.workload, "token.mint", &object, Outcome::Ok, &detail).await?;
    let answer = json!({
        "access_token": token, "expires_on": expires.to_string(), "resource": resource,
        "token_type": "Bearer", "client_id": id,
    });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let mut answer = service::answer::error(status, code, message);
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}

/// An address for the record.
pub fn text_of(address: &Option<std::net::IpAddr>) -> Value {
    address.map_or(Value::Null, |ip| ip.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workloads_guid_is_stable_and_its_own() {
        let tenant = Uuid::from_u128(1);
        assert_eq!(guid(tenant, "service.web"), guid(tenant, "service.web"));
        assert_ne!(guid(tenant, "service.web"), guid(tenant, "service.api"));
        assert_ne!(guid(tenant, "service.web"), guid(Uuid::from_u128(2), "service.web"));
        assert_eq!(guid(tenant, "service.web").to_string(), "6249f091-41fb-8639-8f29-de68fe6eee3d");
    }
}
