//! Who sends a request, and whether they may: first the credentials, then the configuration.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST};

use crate::{
    config::{Settings, Who},
    operation::{Operation, Right},
    parse,
    refusal::Refusal,
    registry::Registry,
    token::{self, Use},
};

/// Somebody, and the rights that they took with them.
pub struct Caller {
    pub who: Who,
    claims: Option<token::Claims>,
}

impl Caller {
    /// Whether this may be done; a token that was asked for less is not enough.
    pub fn may(&self, settings: &Settings, right: Right, name: &str) -> bool {
        settings.allows(&self.who, right, Some(name))
            && self.claims.as_ref().is_none_or(|c| c.covers(right, Some(name)))
    }
}

/// The caller of a request. The challenge says where a token is had, and for what to ask.
pub async fn authenticate(
    registry: &Registry,
    settings: &Settings,
    headers: &HeaderMap,
    operation: Option<&Operation>,
    client: &str,
) -> Result<Caller, Refusal> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let challenge = |error: Option<&str>| challenge(settings, text(HOST), operation, error);
    let Some(authorization) = text(AUTHORIZATION) else {
        return Err(Refusal::unauthorized("authentication is needed", challenge(None)));
    };
    if let Some((user, password)) = parse::basic(authorization) {
        return match token::by_password(registry, settings, &user, &password, client).await {
            Ok(who) => Ok(Caller { who, claims: None }),
            Err(refusal) if refusal.is_denial() => Err(Refusal::unauthorized(refusal.message, challenge(None))),
            Err(other) => Err(other),
        };
    }
    let bearer = authorization.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = bearer.map(|(_, token)| token.trim()).unwrap_or_default();
    match registry.tokens.read(token, Use::AccessToken, registry.clock.now_s()) {
        Some(claims) => Ok(Caller { who: claims.who(), claims: Some(claims) }),
        None => {
            let action = operation.map_or("registry.look", Operation::action);
            registry.record_bad(action, "token", client).await?;
            Err(Refusal::unauthorized("the token is not valid, or no longer", challenge(Some("invalid_token"))))
        }
    }
}

/// Refuses what the caller may not do: without a role 403, with a role and a token that was asked for less 401.
pub fn authorize(
    settings: &Settings,
    caller: &Caller,
    headers: &HeaderMap,
    operation: &Operation,
) -> Result<(), Refusal> {
    let right = operation.right();
    if !settings.allows(&caller.who, right, operation.name()) {
        let what = operation.name().map_or_else(|| "the registry".to_owned(), |name| format!("repository {name}"));
        return Err(Refusal::denied(&caller.who.subject, right.word(), &what));
    }
    if caller.claims.as_ref().is_some_and(|claims| !claims.covers(right, operation.name())) {
        let host = headers.get(HOST).and_then(|v| v.to_str().ok());
        let challenge = challenge(settings, host, Some(operation), Some("insufficient_scope"));
        return Err(Refusal::unauthorized("the token was not asked for this", challenge));
    }
    Ok(())
}

fn challenge(settings: &Settings, host: Option<&str>, operation: Option<&Operation>, error: Option<&str>) -> String {
    let authority = settings.authority(host);
    let mut text = format!("Bearer realm=\"https://{authority}/oauth2/token\",service=\"{authority}\"");
    match operation.map(|o| (o.right(), o.name())) {
        Some((Right::Catalog, _)) => text.push_str(",scope=\"registry:catalog:*\""),
        Some((Right::Push, Some(name))) => text.push_str(&format!(",scope=\"repository:{name}:pull,push\"")),
        Some((right, Some(name))) => text.push_str(&format!(",scope=\"repository:{name}:{}\"", right.word())),
        _ => {}
    }
    if let Some(error) = error {
        text.push_str(&format!(",error=\"{error}\""));
    }
    text
}
