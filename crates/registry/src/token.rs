//! The registry's own tokens, and the three ways to one: the admin user's password, a token of identity exchanged for a
//! refresh token, and a refresh token for an access token.
//!
//! A token says whose it is. What its bearer may do is asked of the configuration at each request, so that a role that is
//! taken away counts at once, however long the token lives.

use std::sync::Arc;

use api::{Secret, audit::Outcome, registry::TOKEN_USER};
use axum::{
    Json,
    body::to_bytes,
    extract::Request,
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use service::Denied;

use crate::{
    config::{Settings, Who},
    operation::Right,
    parse::{self, Access},
    refusal::Refusal,
    registry::Registry,
};

/// A form holds a token of identity at most.
const FORM_BYTES: usize = 64 * 1024;
/// Life of an access token: a client asks for one for each push or pull.
const ACCESS_SECONDS: i64 = 600;
/// Life of a refresh token, as on Azure.
const REFRESH_SECONDS: i64 = 3 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    AccessToken,
    RefreshToken,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub sub: String,
    pub iat: i64,
    pub exp: i64,
    pub jti: String,
    pub grant_type: Use,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub admin: bool,
    #[serde(default)]
    pub access: Vec<Access>,
}

impl Claims {
    pub fn who(&self) -> Who {
        Who { subject: self.sub.clone(), groups: self.groups.clone(), admin: self.admin }
    }

    /// Whether it was made for this act.
    pub fn covers(&self, right: Right, name: Option<&str>) -> bool {
        let (kind, name) = match right {
            Right::Known => return true,
            Right::Catalog => ("registry", "catalog"),
            _ => ("repository", name.unwrap_or_default()),
        };
        let word = right.word();
        let has = |a: &Access| a.kind == kind && a.name == name && a.actions.iter().any(|w| w == word || w == "*");
        self.access.iter().any(has)
    }
}

/// Signs and reads the registry's own tokens.
pub struct Tokens {
    key: Secret,
    issuer: String,
}

impl Tokens {
    /// `root` is the registry's root key.
    pub fn new(root: &Secret, resource: &str) -> Self {
        Self { key: root.derive("tokens"), issuer: resource.to_owned() }
    }

    pub fn sign(&self, who: &Who, of: Use, access: Vec<Access>, now_s: i64) -> Secret {
        let life = if of == Use::AccessToken { ACCESS_SECONDS } else { REFRESH_SECONDS };
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.issuer.clone(),
            sub: who.subject.clone(),
            iat: now_s,
            exp: now_s + life,
            jti: uuid::Uuid::new_v4().to_string(),
            grant_type: of,
            groups: who.groups.clone(),
            admin: who.admin,
            access,
        };
        let key = EncodingKey::from_secret(self.key.expose().as_bytes());
        Secret::new(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("claims are JSON"))
    }

    /// The claims of a token that is ours, of this use, and not expired.
    pub fn read(&self, token: &str, of: Use, now_s: i64) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked below by our own clock, which a scratch stamp can move.
        validation.validate_exp = false;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.issuer]);
        let key = DecodingKey::from_secret(self.key.expose().as_bytes());
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation).ok()?.claims;
        (claims.grant_type == of && claims.exp > now_s && claims.iat <= now_s + 30).then_some(claims)
    }
}

/// `GET` and `POST /oauth2/token`, `POST /oauth2/exchange`.
pub async fn answer(registry: &Arc<Registry>, request: Request, client: &str) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let settings = registry.settings();
    let form = match head.method {
        Method::GET => head.uri.query().unwrap_or_default().to_owned(),
        Method::POST => {
            let bytes = to_bytes(body, FORM_BYTES).await.map_err(|_| bad("the form is too large"))?;
            String::from_utf8(bytes.into()).map_err(|_| bad("the form is not text"))?
        }
        _ => return Err(Refusal::no_method()),
    };
    let exchange = head.uri.path() == "/oauth2/exchange";
    let grant = parse::value(&form, "grant_type").unwrap_or_default();
    let field = |name: &str| parse::value(&form, name).map(Secret::new);
    let basic = head.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(parse::basic);
    let who = match (&head.method, exchange, grant.as_str()) {
        (&Method::POST, true, "access_token" | "access_token_refresh_token") => {
            let token = field("access_token").ok_or_else(|| bad("`access_token` is missing"))?;
            by_identity(registry, &settings, &token, client).await?
        }
        (&Method::POST, false, "refresh_token") => {
            let token = field("refresh_token").ok_or_else(|| bad("`refresh_token` is missing"))?;
            by_password(registry, &settings, TOKEN_USER, &token, client).await?
        }
        (&Method::POST, false, "password") => {
            let user = parse::value(&form, "username").unwrap_or_default();
            let password = field("password").ok_or_else(|| bad("`password` is missing"))?;
            by_password(registry, &settings, &user, &password, client).await?
        }
        (&Method::GET, false, _) => match basic {
            Some((user, password)) => by_password(registry, &settings, &user, &password, client).await?,
            None => return Err(no_one("credentials are needed; nobody pulls without")),
        },
        _ => return Err(bad("this grant_type is not known here")),
    };
    let now = registry.clock.now_s();
    if exchange {
        registry.record(&who.subject, "registry.exchange", "", Outcome::Ok, client, None).await?;
        let token = registry.tokens.sign(&who, Use::RefreshToken, Vec::new(), now);
        return Ok(tell(&json!({ "refresh_token": token.expose() })));
    }
    let asked = parse::values(&form, "scope");
    let access = granted(&settings, &who, parse::scopes(asked.iter().map(String::as_str)));
    let token = registry.tokens.sign(&who, Use::AccessToken, access, now);
    let mut answer = json!({ "access_token": token.expose(), "token": token.expose(), "expires_in": ACCESS_SECONDS });
    if who.admin {
        // A login by password is recorded; that a refresh token is used shows in what is done with it.
        registry.record(&who.subject, "registry.login", "", Outcome::Ok, client, None).await?;
    }
    if parse::value(&form, "access_type").is_some_and(|t| t == "offline") {
        let refresh = registry.tokens.sign(&who, Use::RefreshToken, Vec::new(), now);
        answer["refresh_token"] = refresh.expose().into();
    }
    Ok(tell(&answer))
}

/// Of what is asked for, what is allowed.
fn granted(settings: &Settings, who: &Who, asked: Vec<Access>) -> Vec<Access> {
    let repository = |access: Access| {
        let rights = [Right::Pull, Right::Push, Right::Delete];
        let wants = |right: &Right| access.actions.iter().any(|a| a == right.word() || a == "*");
        let may = |right: &Right| settings.allows(who, *right, Some(&access.name));
        let actions = rights.iter().filter(|r| wants(r) && may(r)).map(|r| r.word().to_owned()).collect();
        Access { actions, ..access }
    };
    let one = |access: Access| match access.kind.as_str() {
        "repository" => Some(repository(access)),
        "registry" if access.name == "catalog" && settings.allows(who, Right::Catalog, None) => Some(access),
        _ => None,
    };
    asked.into_iter().filter_map(one).filter(|access| !access.actions.is_empty()).collect()
}

/// Whose password, or refresh token, this is.
pub async fn by_password(
    registry: &Registry,
    settings: &Settings,
    user: &str,
    password: &Secret,
    client: &str,
) -> Result<Who, Refusal> {
    let now = registry.clock.now_s();
    if user == TOKEN_USER {
        if let Some(claims) = registry.tokens.read(password.expose(), Use::RefreshToken, now) {
            return Ok(claims.who());
        }
    } else if registry.admin.matches(password.expose()) && user == settings.config.name {
        if settings.config.admin_user {
            return Ok(Who::admin(user));
        }
        registry.record_bad("registry.login", "admin-user-off", client).await?;
        return Err(no_one("the admin user is switched off"));
    }
    registry.record_bad("registry.login", "password", client).await?;
    Err(no_one("this user and this password do not belong together"))
}

async fn by_identity(registry: &Registry, settings: &Settings, token: &Secret, client: &str) -> Result<Who, Refusal> {
    let authorization = Secret::new(format!("Bearer {}", token.expose()));
    let verified = registry.verifier.verify(Some(authorization.expose()), |a| settings.is_audience(a)).await;
    let why = match verified {
        Ok(caller) => return Ok(Who { subject: caller.subject, groups: caller.groups, admin: false }),
        Err(Denied::Keys(error)) => {
            tracing::error!(error = &*error as &dyn std::error::Error, "tokens cannot be checked");
            return Err(Refusal::unavailable("tokens cannot be checked now; send the request again"));
        }
        Err(Denied::Audience) => "audience",
        Err(Denied::Expired) => "expired",
        Err(Denied::Signature) => "signature",
        Err(_) => "malformed",
    };
    registry.record_bad("registry.exchange", why, client).await?;
    Err(no_one(&format!("the token is not one that this registry takes ({why})")))
}

fn bad(why: &str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, code: "UNSUPPORTED", message: why.into(), headers: Vec::new() }
}

/// Of the token endpoint: the client knows how to ask, so there is no challenge.
fn no_one(why: &str) -> Refusal {
    Refusal { status: StatusCode::UNAUTHORIZED, code: "UNAUTHORIZED", message: why.into(), headers: Vec::new() }
}

fn tell(answer: &serde_json::Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}
