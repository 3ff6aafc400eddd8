//! Sign-in at an outside OpenID Connect issuer: this role is then a relying party of it (code flow, PKCE, `state` and `nonce` bound
//! to the browser). Only a token that the issuer signed for us, in answer to this very question, is believed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    Secret,
    audit::Outcome,
    client::{Client, Target},
    identity::{OutsideIssuer, VaultSecret},
};
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::{
    error::Error,
    outsiders::{self, Outsider, Settled},
    pages, people, sign_in,
    state::App,
    tokens,
    visit::{OUTSIDE, Visit, append_cookie, see_other},
    workload::{self, text_of},
};

/// How long a person may take at the issuer.
const MOST_SECONDS: i64 = 600;
/// What an issuer says of itself is asked again after so long.
const FRESH: Duration = Duration::from_secs(600);
const WITHIN: Duration = Duration::from_secs(5);
/// Cookies are small: a longer request is not gone on with after the sign-in.
const QUERY_BYTES: usize = 2500;
const CLOCKS_DIFFER: i64 = 60;

/// How the role reaches what is outside of it.
pub struct Ways {
    /// Trusts the machine's authorities and the stamp's own.
    pub tls: Arc<rustls::ClientConfig>,
    pub hosts: Arc<BTreeMap<String, IpAddr>>,
    known: Mutex<HashMap<String, (Instant, Discovered)>>,
}

/// What an issuer says of itself.
#[derive(Clone, Deserialize)]
struct Discovered {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Answer(String),
    #[error("the issuer does not answer as it should: {0}")]
    Down(String),
}

impl Ways {
    pub fn new(tls: Arc<rustls::ClientConfig>, hosts: Arc<BTreeMap<String, IpAddr>>) -> Self {
        Self { tls, hosts, known: Mutex::default() }
    }

    fn client(&self, url: &str) -> Result<(Client, String), Refused> {
        let parsed = url::Url::parse(url).ok().filter(|url| url.scheme() == "https");
        let parsed = parsed.ok_or_else(|| Refused::Down(format!("`{url}` is not https://")))?;
        let base = parsed[..url::Position::BeforePath].parse();
        let base = base.map_err(|_| Refused::Down(format!("`{url}` cannot be called")))?;
        let target = Target::Https { base, tls: self.tls.clone(), hosts: self.hosts.clone() };
        Ok((Client::new(target).timeout(WITHIN), parsed[url::Position::BeforePath..].to_owned()))
    }

    async fn get<A: serde::de::DeserializeOwned>(&self, url: &str) -> Result<A, Refused> {
        let (client, path) = self.client(url)?;
        client.get(&path).await.map_err(|e| Refused::Down(e.to_string()))
    }

    async fn discover(&self, issuer: &str) -> Result<Discovered, Refused> {
        let mut known = self.known.lock().await;
        if let Some((_, found)) = known.get(issuer).filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(found.clone());
        }
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let found: Discovered = self.get(&url).await?;
        if found.issuer != issuer {
            return Err(Refused::Down(format!("it calls itself `{}`", found.issuer)));
        }
        known.insert(issuer.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }
}

/// A secret of the stamp's vault, read with a token of our own.
pub async fn secret(app: &App, place: &VaultSecret) -> Result<Secret, Refused> {
    let settings = app.settings.load_full();
    let now = app.now();
    let claims = json!({
        "iss": settings.issuer, "sub": app.resource, "aud": "https://vault.azure.net",
        "oid": workload::guid(settings.tenant, &app.resource), "tid": settings.tenant,
        "iat": now, "nbf": now, "exp": now + 300, "ver": "1.0", "idtyp": "app",
    });
    let failed = |what: String| Refused::Down(format!("the vault's secret {}: {what}", place.name));
    let token = tokens::sign(&app.keys, tokens::Kind::Jwt, &claims).map_err(|e| failed(e.to_string()))?;
    let (client, _) = app.ways.client(&place.vault)?;
    let client = client.bearer(Secret::new(token));
    let path = format!("/secrets/{}?api-version=7.4", place.name);
    let answer: SecretAnswer = client.get(&path).await.map_err(|e| failed(e.to_string()))?;
    Ok(answer.value)
}

#[derive(Deserialize)]
struct SecretAnswer {
    value: Secret,
}

/// Sends a browser to the issuer.
pub async fn begin(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Path(name): Path<String>,
) -> Result<Response, Error> {
    lead(&app, &name, visit.query.text("authorize"), visit.query.text("login_hint")).await
}

pub async fn lead(app: &App, name: &str, query: &str, hint: &str) -> Result<Response, Error> {
    let settings = app.settings.load_full();
    let Some(issuer) = settings.issuers.get(name) else {
        return Ok(pages::refused(app, StatusCode::NOT_FOUND, "Nobody is signed in by that name here."));
    };
    let there = match app.ways.discover(&issuer.issuer).await {
        Ok(there) => there,
        Err(refused) => return down(app, issuer, &refused),
    };
    let state = Secret::random();
    let callback = format!("{}/outside/{name}/callback", settings.issuer);
    let nonce = bound(app, "nonce", name, state.expose());
    let challenge = tokens::challenge(bound(app, "verifier", name, state.expose()).expose());
    let fields: [(&str, &str); 8] = [
        ("client_id", &issuer.client_id),
        ("redirect_uri", &callback),
        ("response_type", "code"),
        ("scope", "openid email profile groups"),
        ("state", state.expose()),
        ("nonce", nonce.expose()),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    let to = url::Url::parse_with_params(&there.authorization_endpoint, fields);
    let Some(mut to) = to.ok().filter(|url| url.scheme() == "https") else {
        return down(app, issuer, &Refused::Down("its authorization_endpoint is not https://".into()));
    };
    if !hint.is_empty() {
        to.query_pairs_mut().append_pair("login_hint", hint);
    }
    let query = if query.len() > QUERY_BYTES { "" } else { query };
    let until = app.now() + MOST_SECONDS;
    let waits = format!("{name}.{until}.{}.{}", state.expose(), URL_SAFE_NO_PAD.encode(query));
    let mut answer = see_other(to.as_str());
    append_cookie(&mut answer, OUTSIDE, &waits, Some(MOST_SECONDS));
    Ok(answer)
}

/// A value that only we can make of a state, and only for one issuer: so nothing is kept while a person is there.
fn bound(app: &App, what: &str, issuer: &str, state: &str) -> Secret {
    app.form_key.derive(&format!("outside-{what}|{issuer}|{state}"))
}

/// Where the issuer sends the browser back to.
pub async fn callback(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Path(name): Path<String>,
) -> Result<Response, Error> {
    let settings = app.settings.load_full();
    let Some(issuer) = settings.issuers.get(&name) else {
        return Ok(pages::refused(&app, StatusCode::NOT_FOUND, "Nobody is signed in by that name here."));
    };
    let waits: Vec<&str> = visit.outside.as_deref().unwrap_or_default().split('.').collect();
    let (state, query) = match waits.as_slice() {
        [of, until, state, query]
            if *of == name
                && until.parse::<i64>().is_ok_and(|until| until > app.now())
                && Secret::new(*state).matches(visit.query.text("state")) =>
        {
            let query = URL_SAFE_NO_PAD.decode(query).ok().and_then(|query| String::from_utf8(query).ok());
            ((*state).to_owned(), query.unwrap_or_default())
        }
        _ => {
            let sentence = "This sign-in was not begun in this browser, or took too long. Begin again.";
            return Ok(pages::refused(&app, StatusCode::UNAUTHORIZED, sentence));
        }
    };
    let mut answer = match vouched(&app, issuer, &visit, &state).await {
        Ok(outsider) => admit(&app, &visit, &outsider, &issuer.groups, &query).await?,
        Err(refused) => {
            record(&app, &visit, &issuer.issuer, &refused.to_string()).await?;
            match &refused {
                Refused::Down(_) => down(&app, issuer, &refused)?,
                Refused::Answer(_) => {
                    let sentence = format!("{} did not sign you in. Begin again.", issuer.title);
                    pages::refused(&app, StatusCode::UNAUTHORIZED, &sentence)
                }
            }
        }
    };
    // Used up, whatever came of it.
    append_cookie(&mut answer, OUTSIDE, "", Some(0));
    Ok(answer)
}

/// Redeems the code and judges the token.
async fn vouched(app: &App, issuer: &OutsideIssuer, visit: &Visit, state: &str) -> Result<Outsider, Refused> {
    let there = app.ways.discover(&issuer.issuer).await?;
    match visit.query.get("iss") {
        Some(iss) if iss != issuer.issuer => return Err(Refused::Answer("the answer is another issuer's".into())),
        None if there.authorization_response_iss_parameter_supported => {
            return Err(Refused::Answer("the answer does not say whose it is".into()));
        }
        _ => {}
    }
    if let Some(error) = visit.query.get("error") {
        let short: String = error.chars().filter(char::is_ascii_graphic).take(60).collect();
        return Err(Refused::Answer(format!("the issuer refused: {short}")));
    }
    let code = visit.query.get("code").ok_or_else(|| Refused::Answer("there is no code".into()))?;
    let settings = app.settings.load_full();
    let callback = format!("{}/outside/{}/callback", settings.issuer, issuer.name);
    let verifier = bound(app, "verifier", &issuer.name, state);
    let secret = match &issuer.secret {
        Some(place) => Some(secret(app, place).await?),
        None => None,
    };
    let (client, path) = app.ways.client(&there.token_endpoint)?;
    let mut fields = vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", callback.as_str()),
        ("code_verifier", verifier.expose()),
    ];
    // Unless the issuer says otherwise it takes `Basic` (OpenID Connect Discovery, section 3).
    let methods = &there.token_endpoint_auth_methods_supported;
    let basic = methods.is_empty() || methods.iter().any(|method| method == "client_secret_basic");
    let client = match &secret {
        Some(secret) if basic => {
            let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encode(&issuer.client_id), encode(secret.expose()));
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            client.header(http::header::AUTHORIZATION, &format!("Basic {pair}"))
        }
        Some(secret) => {
            fields.extend([("client_id", issuer.client_id.as_str()), ("client_secret", secret.expose())]);
            client
        }
        None => {
            fields.push(("client_id", issuer.client_id.as_str()));
            client
        }
    };
    let form: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let body = Some(("application/x-www-form-urlencoded", form.into()));
    let answer = client.send("POST", &path, body).await.map_err(|e| Refused::Down(e.to_string()))?;
    if !answer.status.is_success() {
        let what = format!("the code was not taken ({})", answer.status.as_u16());
        return Err(if answer.status.is_server_error() { Refused::Down(what) } else { Refused::Answer(what) });
    }
    let answer: TokenAnswer =
        serde_json::from_slice(&answer.body).map_err(|_| Refused::Down("its token answer cannot be read".into()))?;
    let keys: JwkSet = app.ways.get(&there.jwks_uri).await?;
    let nonce = bound(app, "nonce", &issuer.name, state);
    judge(issuer, &keys, answer.id_token.expose(), &nonce, app.now())
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: Secret,
}

/// Who an ID token is of (OpenID Connect Core, 3.1.3.7).
fn judge(issuer: &OutsideIssuer, keys: &JwkSet, token: &str, nonce: &Secret, now: i64) -> Result<Outsider, Refused> {
    let no = |what: &str| Refused::Answer(what.to_owned());
    let header = decode_header(token).map_err(|_| no("its token is no token"))?;
    // Never `none`, and never a key that both sides hold.
    if ![Algorithm::RS256, Algorithm::PS256, Algorithm::ES256].contains(&header.alg) {
        return Err(no("its token is signed in a way that is not taken"));
    }
    let key = match &header.kid {
        Some(kid) => keys.find(kid),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    };
    let key = key.and_then(|jwk| DecodingKey::from_jwk(jwk).ok()).ok_or_else(|| no("its token has a key of nobody"))?;
    // Times are judged below by our own clock, which a scratch stamp can move.
    let mut rules = Validation::new(header.alg);
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.set_issuer(&[&issuer.issuer]);
    rules.set_audience(&[&issuer.client_id]);
    rules.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    let claims = decode::<Map<String, Value>>(token, &key, &rules).map_err(|_| no("its token is not for us"))?.claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let at = |name: &str| claims.get(name).and_then(Value::as_i64);
    if at("exp").is_none_or(|exp| exp <= now - CLOCKS_DIFFER) || at("iat").is_some_and(|iat| iat > now + CLOCKS_DIFFER)
    {
        return Err(no("its token has expired, or is not yet good"));
    }
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    if text("azp").map_or(several, |azp| azp != issuer.client_id) {
        return Err(no("its token was given to another"));
    }
    if !text("nonce").is_some_and(|given| nonce.matches(given)) {
        return Err(no("its token answers another question"));
    }
    let subject = text("sub").filter(|sub| !sub.is_empty()).ok_or_else(|| no("its token is of nobody"))?;
    let email = text("email").filter(|email| people::is_email(email)).ok_or_else(|| no("its token has no e-mail"))?;
    if claims.get("email_verified") == Some(&Value::Bool(false)) {
        return Err(no("its e-mail is not verified"));
    }
    let groups: BTreeSet<String> = match claims.get(&issuer.groups_claim) {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(one)) => BTreeSet::from([one.clone()]),
        _ => BTreeSet::new(),
    };
    Ok(Outsider {
        issuer: issuer.issuer.clone(),
        subject: subject.to_owned(),
        email: email.to_owned(),
        name: text("name").unwrap_or(email).to_owned(),
        groups,
    })
}

/// Lets in whom somebody outside vouches for.
pub async fn admit(
    app: &App,
    visit: &Visit,
    outsider: &Outsider,
    mapped: &BTreeMap<String, String>,
    query: &str,
) -> Result<Response, Error> {
    let (asked, mapped, now) = (outsider.clone(), mapped.clone(), app.now());
    let settled = app.store.run(move |db| outsiders::settle(db, &asked, &mapped, now)).await?;
    match settled {
        Settled::Person(person) => {
            app.accounts.succeeded(&people::email_key(&person.email));
            app.addresses.forgive(&visit.address);
            let detail = [("issuer", outsider.issuer.as_str().into()), ("subject", outsider.subject.as_str().into())];
            app.record(&person.id, "session.vouched", &format!("people/{}", person.id), Outcome::Ok, &detail).await?;
            sign_in::go_on(app, visit, &person, query).await
        }
        Settled::Disabled(_) => {
            record(app, visit, &outsider.issuer, "disabled here").await?;
            Ok(pages::refused(app, StatusCode::UNAUTHORIZED, "Your account here is disabled. Ask an administrator."))
        }
        Settled::Taken => {
            record(app, visit, &outsider.issuer, "the e-mail is another account's").await?;
            let sentence = "There is an account with your e-mail address already, and it is not tied to your organisation's \
                            sign-in. Ask an administrator.";
            Ok(pages::refused(app, StatusCode::CONFLICT, sentence))
        }
    }
}

/// Records that nobody was signed in.
pub async fn record(app: &App, visit: &Visit, issuer: &str, reason: &str) -> Result<(), Error> {
    let detail = [("address", text_of(&visit.address)), ("issuer", issuer.into()), ("reason", reason.into())];
    app.record("anonymous", "session.start", "people", Outcome::Denied, &detail).await
}

/// The page for an issuer that is down. Nobody is let in in a weaker way.
fn down(app: &App, issuer: &OutsideIssuer, refused: &Refused) -> Result<Response, Error> {
    tracing::warn!(issuer = issuer.name, error = %refused, "an outside issuer does not answer");
    let sentence =
        format!("{} does not answer just now, so nobody can be signed in by it. Try again in a moment.", issuer.title);
    Ok(pages::unavailable(app, &sentence))
}
