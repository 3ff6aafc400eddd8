//! Who is calling Cloud. Every route names the right it needs; there is no route without one.
//!
//! An access token is a JWT (HS256, 60 minutes) that carries a ticket. The token lets its bearer past this door; what they
//! see is decided by the database, which knows the ticket. So a token that somebody signs with a stolen `SECRET_KEY` opens
//! nothing without a ticket.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header, request::Parts};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sdk::{Secret, SettingsError, access::bearer, database::Connection};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::App;
use crate::{
    fault::Fault,
    store::{self, Entered, Kind},
};

const ISSUER: &str = "monozu-cloud";
/// Seconds that an access token is good for, and its ticket with it.
pub const LIFE: u64 = 3600;

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nobody needs to be known.
    Public,
    /// A person of a tenant, by access token.
    Person,
    /// An administrator of a tenant.
    Admin,
    /// A device, by `X-Device-Key`.
    Device,
    PersonOrDevice,
    /// Management, by `X-Internal-Token`, or who publishes snaps.
    InternalOrPublisher,
    /// Management, by `X-Hmac-Signature`.
    Webhook,
    /// Who publishes snaps, by `SNAP_PUBLISH_TOKEN` as bearer.
    Publisher,
    /// An operator who signed in with Microsoft.
    Staff,
}

/// What an access token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    pub iss: String,
    pub sub: Uuid,
    pub tid: Uuid,
    pub role: String,
    /// The ticket that the database knows.
    pub tkt: String,
    pub iat: u64,
    pub exp: u64,
}

/// Signs and checks access tokens.
pub struct Tokens {
    sign: EncodingKey,
    check: DecodingKey,
}

impl Tokens {
    /// # Errors
    /// A key of less than 32 characters.
    pub fn new(key: &Secret) -> Result<Tokens, SettingsError> {
        let bytes = key.reveal().as_bytes();
        if bytes.len() < 32 {
            return Err(SettingsError::Wrong { name: "SECRET_KEY", expected: "at least 32 characters" });
        }
        Ok(Tokens { sign: EncodingKey::from_secret(bytes), check: DecodingKey::from_secret(bytes) })
    }

    /// # Errors
    /// Signing failed.
    pub fn sign(&self, person: Uuid, tenant: Uuid, role: &str, ticket: &str) -> Result<String, Fault> {
        let iat = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let token = Token {
            iss: ISSUER.into(),
            sub: person,
            tid: tenant,
            role: role.to_owned(),
            tkt: ticket.to_owned(),
            iat,
            exp: iat + LIFE,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &token, &self.sign).map_err(Fault::internal)
    }

    fn check(&self, token: &str) -> Result<Token, Fault> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        rules.validate_aud = false;
        rules.leeway = 0;
        let checked = jsonwebtoken::decode::<Token>(token, &self.check, &rules);
        checked.map(|t| t.claims).map_err(|_| Fault::Unauthorized("the access token is not acceptable or has expired"))
    }
}

/// Who calls, with the secret that the database is shown.
#[derive(Clone, Debug)]
pub struct Caller {
    secret: Secret,
    kind: Kind,
}

impl Caller {
    /// A transaction in the caller's name.
    ///
    /// # Errors
    /// The secret is no longer good, the tenant has no licence, or the database does not answer.
    pub async fn enter<'a>(&self, connection: &'a mut Connection) -> Result<Entered<'a>, Fault> {
        store::enter(connection, &self.secret, &[self.kind]).await
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Caller, Fault> {
        parts.extensions.get::<Caller>().cloned().ok_or(Fault::Unauthorized("nobody is signed in"))
    }
}

/// The middleware of every route.
pub async fn guard(State((app, right)): State<(App, Right)>, mut request: Request, next: Next) -> Response {
    match admit(&app, right, request.headers()) {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(fault) => fault.into_response(),
    }
}

fn admit(app: &App, right: Right, headers: &HeaderMap) -> Result<Option<Caller>, Fault> {
    match right {
        // A webhook's signature is over its body: the handler reads it and checks.
        Right::Public | Right::Webhook => Ok(None),
        Right::Person | Right::Admin => person(app, headers, right == Right::Admin).map(Some),
        Right::Device => device(headers).map(Some),
        Right::PersonOrDevice if headers.contains_key(DEVICE_KEY) => device(headers).map(Some),
        Right::PersonOrDevice => person(app, headers, false).map(Some),
        Right::InternalOrPublisher if headers.contains_key(INTERNAL_TOKEN) => {
            let given = text(headers, INTERNAL_TOKEN).unwrap_or_default();
            let ok = app.inner.internal_token.matches(given);
            ok.then_some(None).ok_or(Fault::Unauthorized("X-Internal-Token is wrong"))
        }
        Right::Publisher | Right::InternalOrPublisher => {
            let ok = app.inner.publish_token.matches(bearer(headers).unwrap_or_default());
            ok.then_some(None).ok_or(Fault::Unauthorized("this needs SNAP_PUBLISH_TOKEN as bearer"))
        }
        Right::Staff => app.inner.staff.caller(headers).map(|_| None),
    }
}

fn person(app: &App, headers: &HeaderMap, admin: bool) -> Result<Caller, Fault> {
    let token = bearer(headers).or_else(|| protocol_token(headers));
    let token = app.inner.tokens.check(token.ok_or(Fault::Unauthorized("an access token is needed"))?)?;
    if admin && token.role != "admin" {
        return Err(Fault::Forbidden("forbidden", "this needs an administrator of the tenant"));
    }
    tracing::Span::current().record("enduser.id", token.sub.to_string());
    Ok(Caller { secret: Secret::new(token.tkt), kind: Kind::Person })
}

/// What Cloud and Management show each other.
pub const INTERNAL_TOKEN: &str = "x-internal-token";
/// Where devices show their key.
pub const DEVICE_KEY: &str = "x-device-key";

fn device(headers: &HeaderMap) -> Result<Caller, Fault> {
    let key = text(headers, DEVICE_KEY).filter(|k| plausible(k));
    let key = key.ok_or(Fault::Unauthorized("X-Device-Key is missing or no key of a device"))?;
    Ok(Caller { secret: Secret::new(key), kind: Kind::Device })
}

/// Whether a text can be one of our random secrets: what cannot be does not reach the database.
pub fn plausible(key: &str) -> bool {
    (20..=100).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A browser's WebSocket can send no header but the sub-protocols: `bearer` and the token.
fn protocol_token(headers: &HeaderMap) -> Option<&str> {
    let list = text(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str())?;
    let mut words = list.split(',').map(str::trim);
    (words.next() == Some("bearer")).then(|| words.next())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn tokens(key: &str) -> Tokens {
        Tokens::new(&Secret::new(key)).unwrap()
    }

    #[test]
    fn a_token_is_good_under_its_own_key_only() {
        let ours = tokens("a key of at least thirty-two characters");
        let token = ours.sign(Uuid::nil(), Uuid::nil(), "admin", "ticket").unwrap();
        assert_eq!(ours.check(&token).unwrap().tkt, "ticket");
        assert!(tokens("another key of thirty-two characters or so").check(&token).is_err());
        assert!(Tokens::new(&Secret::new("short")).is_err());
    }

    #[test]
    fn a_token_without_signature_or_of_another_algorithm_is_refused() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let ours = tokens("a key of at least thirty-two characters");
        let token = ours.sign(Uuid::nil(), Uuid::nil(), "admin", "ticket").unwrap();
        let body = token.split('.').nth(1).unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        assert!(ours.check(&format!("{none}.{body}.")).is_err());
        let key = EncodingKey::from_secret(b"a key of at least thirty-two characters");
        let claims: Token = ours.check(&token).unwrap();
        let other = jsonwebtoken::encode(&Header::new(Algorithm::HS512), &claims, &key).unwrap();
        assert!(ours.check(&other).is_err());
        let late = Token { exp: 1, ..claims };
        let late = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &late, &key).unwrap();
        assert!(ours.check(&late).is_err());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_is_no_token(text in ".{0,200}") {
            proptest::prop_assert!(tokens("a key of at least thirty-two characters").check(&text).is_err());
        }
    }
}
