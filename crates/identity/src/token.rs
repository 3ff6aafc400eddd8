//! `/token`: codes and refresh tokens for ID and access tokens (RFC 6749, OpenID Connect Core 3.1.3).

use api::{Secret, audit::Outcome, identity::Client};
use axum::{
    Extension, Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Map, Value, json};
use service::Peer;
use uuid::Uuid;

use crate::{
    config::Settings,
    error::Error,
    form::{self, Params},
    grants::{self, Grant, Redeemed},
    people::{self, Person},
    state::App,
    tokens::{self, Kind},
    workload::text_of,
};

/// Life of an ID token, in seconds.
pub const ID_TOKEN_SECONDS: i64 = 3600;
/// Life of an access token, in seconds. Short, though `/userinfo` asks the store as well.
const ACCESS_TOKEN_SECONDS: i64 = 600;

pub async fn exchange(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let settings = app.settings.load_full();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let form = kind.split(';').next().unwrap_or_default().trim();
    let params =
        if form.eq_ignore_ascii_case("application/x-www-form-urlencoded") { Params::parse(&body) } else { None };
    let Some(params) = params else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "invalid_request", "the body is a form that names nothing twice"));
    };
    let client = match authenticate(&app, &settings, &headers, &params) {
        Ok(client) => client,
        Err(answer) => {
            let address = peer.address.map(|a| a.ip());
            if app.refusals.attempt(address, std::time::Instant::now()).is_ok() {
                let detail = [("address", text_of(&address)), ("reason", "client or secret is wrong".into())];
                app.record("anonymous", "token.mint", "clients", Outcome::Denied, &detail).await?;
            }
            return Ok(*answer);
        }
    };
    if let Some(resource) = params.get("resource")
        && !client.resources.iter().any(|known| known == resource.trim_end_matches('/'))
    {
        return Ok(refuse(StatusCode::BAD_REQUEST, "invalid_target", "this client gets no tokens for that resource"));
    }
    match params.get("grant_type") {
        Some("authorization_code") => by_code(&app, &settings, client, &params).await,
        Some("refresh_token") => by_refresh(&app, &settings, client, &params).await,
        Some(_) => Ok(refuse(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "grant_type is authorization_code or refresh_token",
        )),
        None => Ok(refuse(StatusCode::BAD_REQUEST, "invalid_request", "there is no grant_type")),
    }
}

/// The client, by `client_secret_basic` or `client_secret_post`, never both.
fn authenticate<'a>(
    app: &App,
    settings: &'a Settings,
    headers: &HeaderMap,
    params: &Params,
) -> Result<&'a Client, Box<Response>> {
    let header = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let posted = params.get("client_secret");
    let (id, secret) = match (header, posted) {
        (Some(_), Some(_)) => {
            let answer = refuse(StatusCode::BAD_REQUEST, "invalid_request", "authenticate in one way only");
            return Err(Box::new(answer));
        }
        (Some(header), None) => form::basic(header).unwrap_or_else(|| (String::new(), Secret::new(""))),
        (None, Some(secret)) => (params.text("client_id").to_owned(), Secret::new(secret)),
        // It has none to keep; its code is bound to it by PKCE, which every client needs.
        (None, None) => match settings.clients.get(params.text("client_id")) {
            Some(client) if client.native => return Ok(client),
            _ => (String::new(), Secret::new("")),
        },
    };
    // Derived for any id, so that an unknown client takes as long as a wrong secret.
    let proved = app.client_secret(&id).matches(secret.expose());
    match settings.clients.get(&id) {
        Some(client) if proved => Ok(client),
        _ => {
            let mut answer = refuse(StatusCode::UNAUTHORIZED, "invalid_client", "client or secret is wrong");
            let challenge = header::HeaderValue::from_static("Basic realm=\"token\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            Err(Box::new(answer))
        }
    }
}

async fn by_code(app: &App, settings: &Settings, client: &Client, params: &Params) -> Result<Response, Error> {
    let verifier = params.text("code_verifier");
    let possible = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    // A wrong verifier still uses the code up, so it goes on to the store.
    let challenge = if possible { tokens::challenge(verifier) } else { String::new() };
    let code = tokens::hash(params.text("code"));
    let refresh = Secret::random();
    let (uri, id, now) = (params.text("redirect_uri").to_owned(), client.id.clone(), app.now());
    let (hash, life) = (tokens::hash(refresh.expose()), settings.refresh_seconds);
    let redeemed = app
        .store
        .run(move |db| {
            let redeemed = grants::redeem_code(db, &code, &id, &uri, &challenge, now)?;
            with_person(db, redeemed, &hash, now + life)
        })
        .await?;
    finish(app, settings, client, redeemed, &refresh, ("authorization_code", params.get("resource"))).await
}

async fn by_refresh(app: &App, settings: &Settings, client: &Client, params: &Params) -> Result<Response, Error> {
    let presented = tokens::hash(params.text("refresh_token"));
    let refresh = Secret::random();
    let (id, now) = (client.id.clone(), app.now());
    let (hash, life) = (tokens::hash(refresh.expose()), settings.refresh_seconds);
    let redeemed = app
        .store
        .run(move |db| {
            let redeemed = grants::redeem_refresh(db, &presented, &id, now)?;
            with_person(db, redeemed, &hash, now + life)
        })
        .await?;
    finish(app, settings, client, redeemed, &refresh, ("refresh_token", params.get("resource"))).await
}

enum Exchanged {
    Granted(Box<(Grant, Person)>),
    Reused(String),
    Refused,
}

/// Reads the person of what was redeemed, and stores the next refresh token in the same transaction.
fn with_person(
    db: &rusqlite::Connection,
    redeemed: Redeemed,
    next: &[u8],
    expires: i64,
) -> rusqlite::Result<Exchanged> {
    let grant = match redeemed {
        Redeemed::Granted(grant) => grant,
        Redeemed::Reused(person) => return Ok(Exchanged::Reused(person)),
        Redeemed::Refused => return Ok(Exchanged::Refused),
    };
    let Some(person) = people::by_id(db, &grant.person)? else { return Ok(Exchanged::Refused) };
    if grant.scope.split(' ').any(|s| s == "offline_access") {
        grants::add_refresh(db, next, &grant.id, expires)?;
    }
    Ok(Exchanged::Granted(Box::new((grant, person))))
}

async fn finish(
    app: &App,
    settings: &Settings,
    client: &Client,
    redeemed: Exchanged,
    refresh: &Secret,
    (by, resource): (&str, Option<&str>),
) -> Result<Response, Error> {
    let object = format!("clients/{}", client.id);
    let (grant, person) = match redeemed {
        Exchanged::Granted(both) => *both,
        Exchanged::Reused(person) => {
            let detail = [("by", by.into()), ("reason", "used before; the grant is revoked".into())];
            app.record(&person, "token.mint", &object, Outcome::Denied, &detail).await?;
            return Ok(refuse(StatusCode::BAD_REQUEST, "invalid_grant", "it was used before, or is not valid"));
        }
        Exchanged::Refused => {
            let detail = [("by", by.into()), ("reason", "not valid".into())];
            app.record("anonymous", "token.mint", &object, Outcome::Denied, &detail).await?;
            return Ok(refuse(StatusCode::BAD_REQUEST, "invalid_grant", "it was used before, or is not valid"));
        }
    };
    let now = app.now();
    let mut id_claims = json!({
        "iss": settings.issuer, "sub": person.id, "aud": client.id, "exp": now + ID_TOKEN_SECONDS, "iat": now,
        "auth_time": grant.auth_time, "sid": grant.session, "tid": settings.tenant,
    });
    if let Some(all) = id_claims.as_object_mut() {
        if by == "authorization_code"
            && let Some(nonce) = &grant.nonce
        {
            all.insert("nonce".into(), nonce.as_str().into());
        }
        all.extend(person_claims(settings, &person, &grant.scope));
    }
    let access_claims = match resource {
        Some(resource) => resource_claims(settings, client, &person, resource, now),
        None => json!({
            "iss": settings.issuer, "sub": person.id, "aud": settings.issuer, "client_id": client.id,
            "exp": now + ACCESS_TOKEN_SECONDS, "iat": now, "jti": Uuid::new_v4(), "scope": grant.scope,
            "sid": grant.session, "grant": grant.id,
        }),
    };
    let id_token = tokens::sign(&app.keys, Kind::Jwt, &id_claims)?;
    let access_token = tokens::sign(&app.keys, Kind::Access, &access_claims)?;
    let audience = resource.unwrap_or(&settings.issuer);
    let detail = [("by", by.into()), ("session", grant.session.as_str().into()), ("audience", audience.into())];
    app.record(&person.id, "token.mint", &object, Outcome::Ok, &detail).await?;
    let mut answer = json!({
        "access_token": access_token, "token_type": "Bearer", "expires_in": ACCESS_TOKEN_SECONDS,
        "id_token": id_token, "scope": grant.scope,
    });
    if grant.scope.split(' ').any(|s| s == "offline_access") {
        answer["refresh_token"] = refresh.expose().into();
    }
    Ok(([(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(answer)).into_response())
}

/// What the token of a person for another service says: who it is, and the groups that roles there are given to.
fn resource_claims(settings: &Settings, client: &Client, person: &Person, resource: &str, now: i64) -> Value {
    let groups = person_claims(settings, person, "groups").remove("groups").unwrap_or_default();
    json!({
        "iss": settings.issuer, "sub": person.id, "aud": resource.trim_end_matches('/'), "oid": person.id,
        "tid": settings.tenant, "appid": client.id, "idtyp": "user", "scp": "user_impersonation",
        "upn": person.email, "groups": groups, "exp": now + ACCESS_TOKEN_SECONDS, "iat": now, "nbf": now, "ver": "1.0",
        "uti": Uuid::new_v4(),
    })
}

/// What a scope tells of a person.
pub fn person_claims(settings: &Settings, person: &Person, scope: &str) -> Map<String, Value> {
    let mut claims = Map::new();
    for scope in scope.split(' ') {
        match scope {
            "email" => {
                claims.insert("email".into(), person.email.as_str().into());
            }
            "profile" => {
                claims.insert("name".into(), person.name.as_str().into());
                claims.insert("preferred_username".into(), person.email.as_str().into());
            }
            "groups" => {
                // A group that the configuration no longer has gives nobody anything.
                let groups = person.groups.iter().filter(|g| settings.groups.contains(*g)).map(|g| g.as_str().into());
                claims.insert("groups".into(), Value::Array(groups.collect()));
            }
            _ => {}
        }
    }
    claims
}

/// An error as RFC 6749 section 5.2 has it.
pub fn refuse(status: StatusCode, error: &str, description: &str) -> Response {
    let body = json!({ "error": error, "error_description": description });
    (status, [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(body)).into_response()
}
