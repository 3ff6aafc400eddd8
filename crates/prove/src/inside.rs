//! The half of a check that runs in the place of a service: `stamp probe ASKS`, ASKS as JSON. It prints what it saw on one
//! line and never a secret: of a value it tells length and SHA-256.

use std::{collections::BTreeMap, time::Duration};

use api::client::{Client, Target};
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::{Miss, bolt, sql};

/// What begins the line that holds the answer.
pub const MARK: &str = "inside: ";

/// How many characters of an answer are told.
const MOST_TOLD: usize = 65_536;

/// One look.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// A token of the service's own identity.
    Token { resource: String },
    /// A request with the stamp's CA; `resource`: with a token of the own identity for it. `$NAME` in URL, headers and body is a
    /// variable of the service's environment, and `$HMAC_SHA256(NAME, TEXT)` at the end of one the hex code of TEXT under it.
    /// `told`: the answer's text comes back, so only where no answer is a secret.
    Http {
        method: String,
        url: String,
        resource: Option<String>,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        body: Option<String>,
        #[serde(default)]
        told: bool,
    },
    /// Variables of the environment.
    Environment { names: Vec<String> },
    /// Statements on the database that a variable names, one connection; in Cypher, if it is the address of a graph store. Without
    /// a name libpq's variables say where it is, and a token of the own identity opens it; with `@DATABASE` another database of
    /// the same server.
    Sql { variable: String, statements: Vec<String> },
    /// Connections to that database, all at once, one more each time until one is refused or there are `most`.
    Connections { variable: String, most: usize },
    /// Whether an address takes a connection.
    Reach { address: String, milliseconds: u64 },
    /// The addresses of a name.
    Resolve { name: String },
    /// Commands to the Redis that a variable names (`rediss://...`), one connection.
    Redis { variable: String, commands: Vec<Vec<String>> },
    /// Whether a path opens for reading or, a new file, for writing.
    Open { path: String, write: bool },
}

/// What was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saw {
    Token {
        status: u16,
        claims: serde_json::Value,
        sha256: String,
    },
    Http {
        status: u16,
        /// Of a JSON answer with a `value`, as a vault gives: the answer itself may be a secret.
        value: Option<Value>,
        /// The answer's first characters, if they were asked for.
        #[serde(default)]
        text: Option<String>,
    },
    Environment(BTreeMap<String, Option<Value>>),
    /// Rows of each statement, as text.
    Sql(Vec<Vec<Vec<String>>>),
    /// How many came through, how many others of the same role were there, how many were at work at the same moment, and what
    /// refused the next (None: nothing).
    Connections {
        open: usize,
        others: usize,
        clients: usize,
        refused: Option<String>,
    },
    Reach(Result<(), String>),
    Resolve(Vec<std::net::IpAddr>),
    /// What each command was answered, each value on a line.
    Redis(Vec<String>),
    Open(Result<(), String>),
    Failed(String),
}

/// Of a value, what may be told.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Value {
    pub length: usize,
    pub sha256: String,
}

impl Value {
    pub fn of(text: &str) -> Self {
        Self { length: text.len(), sha256: sha256(text.as_bytes()) }
    }
}

/// SHA-256, lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Answers the asks in `words`; the line to print.
pub async fn answer(words: &str) -> String {
    let saw: Vec<Saw> = match serde_json::from_str::<Vec<Ask>>(words) {
        Ok(asks) => {
            let mut saw = Vec::new();
            for ask in asks {
                saw.push(look(ask).await.unwrap_or_else(|m| Saw::Failed(words_of(m))));
            }
            saw
        }
        Err(error) => vec![Saw::Failed(error.to_string())],
    };
    format!("{MARK}{}", serde_json::to_string(&saw).unwrap_or_default())
}

fn words_of(miss: Miss) -> String {
    match miss {
        Miss::Failed(text) | Miss::Substituted(text) => text,
        Miss::NotHere { why, command } => format!("{why} ({command})"),
    }
}

async fn look(ask: Ask) -> Result<Saw, Miss> {
    match ask {
        Ask::Token { resource } => {
            let (status, token) = token(&resource).await?;
            let claims = token.as_deref().and_then(claims).unwrap_or_default();
            Ok(Saw::Token { status, claims, sha256: sha256(token.unwrap_or_default().as_bytes()) })
        }
        Ask::Http { method, url, resource, headers, body, told } => {
            let parsed: url::Url = resolved(&url)?.parse().map_err(|e| Miss::Failed(format!("{url}: {e}")))?;
            let mut client = Client::new(match parsed.scheme() {
                // Outside of a closed network services, and the stand-ins of outside providers, speak plainly.
                "http" => Target::Http { base: parsed.clone() },
                _ => Target::Https {
                    base: parsed.clone(),
                    tls: api::client::trust(&std::fs::read(variable("SSL_CERT_FILE")?)?)?,
                    hosts: Default::default(),
                },
            });
            if let Some(resource) = resource {
                let (_, token) = token(&resource).await?;
                let token = token.ok_or_else(|| Miss::Failed("the identity endpoint gave no token".into()))?;
                client = client.bearer(api::Secret::new(token));
            }
            let mut kind = "application/json".to_owned();
            for (name, value) in headers {
                if name.eq_ignore_ascii_case("content-type") {
                    kind = value;
                    continue;
                }
                let named = name.parse().map_err(|_| Miss::Failed(format!("`{name}` is no header's name")))?;
                client = client.header(named, &resolved(&value)?);
            }
            let path = parsed.query().map_or(parsed.path().to_owned(), |q| format!("{}?{q}", parsed.path()));
            let body = body.map(|b| resolved(&b)).transpose()?.map(|b| (kind.as_str(), b.into()));
            let answer = client.send(&method, &path, body).await?;
            let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let text = told.then(|| String::from_utf8_lossy(&answer.body).chars().take(MOST_TOLD).collect());
            Ok(Saw::Http { status: answer.status.as_u16(), value: json["value"].as_str().map(Value::of), text })
        }
        Ask::Environment { names } => {
            let of = |name: &String| (name.clone(), std::env::var(name).ok().map(|v| Value::of(&v)));
            Ok(Saw::Environment(names.iter().map(of).collect()))
        }
        Ask::Sql { variable: name, statements } => {
            if let Some(graph) = variable(&name).ok().and_then(|text| bolt::Address::parse(&text)) {
                return Ok(Saw::Sql(
                    bolt::rows(&graph, &std::fs::read(variable("SSL_CERT_FILE")?)?, &statements).await?,
                ));
            }
            let client = match name.as_str() {
                "" => by_identity(&variable("PGDATABASE")?).await?,
                name if name.starts_with('@') => by_identity(&name[1..]).await?,
                name => sql::connect(&variable(name)?).await?,
            };
            let mut all = Vec::new();
            for statement in statements {
                all.push(sql::rows(&client, &statement).await?);
            }
            Ok(Saw::Sql(all))
        }
        Ask::Connections { variable: name, most } => connections(&variable(&name)?, most).await,
        Ask::Reach { address, milliseconds } => {
            let connect = tokio::net::TcpStream::connect(&address);
            let reached = match tokio::time::timeout(Duration::from_millis(milliseconds), connect).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer in {milliseconds} ms")),
            };
            Ok(Saw::Reach(reached))
        }
        Ask::Resolve { name } => {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            Ok(Saw::Resolve(found.map(|all| all.map(|at| at.ip()).collect()).unwrap_or_default()))
        }
        Ask::Redis { variable: name, commands } => {
            let authority = std::fs::read(variable("SSL_CERT_FILE")?)?;
            Ok(Saw::Redis(crate::redis::answers(&variable(&name)?, &authority, &commands).await?))
        }
        Ask::Open { path, write } => {
            let path = resolved(&path)?;
            let opened = match write {
                true => std::fs::File::create_new(&path).and_then(|_| std::fs::remove_file(&path)),
                false => std::fs::metadata(&path).and_then(|m| match m.is_dir() {
                    true => std::fs::read_dir(&path).map(drop),
                    false => std::fs::File::open(&path).map(drop),
                }),
            };
            Ok(Saw::Open(opened.map_err(|e| e.to_string())))
        }
    }
}

/// How long connections are held without a word: who drops them meanwhile does not support them.
const HELD: Duration = Duration::from_secs(4);
/// Sorts some megabytes, as a report does, and lasts a second, so that all run at the same time.
const AT_WORK: &str = "SELECT count(*) FROM (SELECT md5(g::text) AS t FROM generate_series(1, 20000) g ORDER BY 1) s, \
                       (SELECT pg_sleep(1)) p";

/// All open at once, then held, then all at work at the same time: `open` are those that came through all of it.
async fn connections(text: &str, most: usize) -> Result<Saw, Miss> {
    let mut open = Vec::new();
    let mut refused = None;
    while open.len() < most {
        match sql::connect(text).await {
            Ok(client) => open.push(client),
            Err(miss) => {
                refused = Some(words_of(miss));
                break;
            }
        }
    }
    let Some(last) = open.pop() else { return Err(Miss::Failed(refused.unwrap_or_default())) };
    tokio::time::sleep(HELD).await;
    let own = "SELECT count(*) FROM pg_stat_activity WHERE usename = current_user";
    let all = sql::rows(&last, own).await?.first().and_then(|r| r.first()?.parse::<usize>().ok()).unwrap_or_default();
    let others = all.saturating_sub(open.len() + 1);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' \
               AND query LIKE 'SELECT count(*) FROM (SELECT md5%'";
    let busy = async {
        // While the last of them looks, the others are at work.
        let mut most = 0;
        for _ in 0..20 {
            let counted = sql::rows(&last, sql).await?.first().and_then(|r| r.first()?.parse::<usize>().ok());
            most = most.max(counted.unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, Miss>(most)
    };
    let mut work = tokio::task::JoinSet::new();
    for client in open {
        work.spawn(async move { sql::rows(&client, AT_WORK).await.is_ok_and(|rows| rows == [["20000"]]) });
    }
    let (busy, answered) = tokio::join!(busy, work.join_all());
    let clients = busy?;
    let open = answered.into_iter().filter(|good| *good).count() + 1;
    Ok(Saw::Connections { open, others, clients, refused })
}

/// `text` with each `$NAME` replaced by that variable, and `$HMAC_SHA256(NAME, TEXT)` at its end by the code of TEXT.
fn resolved(text: &str) -> Result<String, Miss> {
    if let Some((before, call)) = text.split_once("$HMAC_SHA256(") {
        let call = call.strip_suffix(')').and_then(|call| call.split_once(", "));
        let (name, signed) =
            call.ok_or_else(|| Miss::Failed(format!("`{text}`: $HMAC_SHA256(NAME, TEXT) ends a text")))?;
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, variable(name)?.as_bytes());
        let code = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        return Ok(format!("{}{}", resolved(before)?, api::audit::hex(code.as_ref())));
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let name: String =
            after.chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_').collect();
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(variable(&name)?.trim_end_matches('/'));
        }
        rest = &after[name.len()..];
    }
    out.push_str(rest);
    Ok(out)
}

/// A database of the server that libpq's variables name, opened by the service's own token.
async fn by_identity(database: &str) -> Result<tokio_postgres::Client, Miss> {
    let (_, token) = token(api::database_token::AUDIENCE).await?;
    let token = token.ok_or_else(|| Miss::Failed("the identity endpoint gave no token for the database".into()))?;
    let of = |name: &str| variable(name);
    let text = format!(
        "Host={};Port={};Database={database};Username={};Password={token};Root Certificate={}",
        of("PGHOST")?,
        of("PGPORT")?,
        of("PGUSER")?,
        of("SSL_CERT_FILE")?
    );
    sql::connect(&text).await
}

fn variable(name: &str) -> Result<String, Miss> {
    std::env::var(name).map_err(|_| Miss::Failed(format!("{name} is not set in the service's place")))
}

/// Asks the App Service identity endpoint, as the Azure SDKs do.
async fn token(resource: &str) -> Result<(u16, Option<String>), Miss> {
    let endpoint: url::Url = variable("IDENTITY_ENDPOINT")?.parse().map_err(|e| Miss::Failed(format!("{e}")))?;
    let header = http::HeaderName::from_static("x-identity-header");
    let client = Client::new(Target::Http { base: endpoint.clone() }).header(header, &variable("IDENTITY_HEADER")?);
    let path = format!("{}?resource={resource}&api-version=2019-08-01", endpoint.path());
    let answer = client.send("GET", &path, None).await?;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    Ok((answer.status.as_u16(), body["access_token"].as_str().map(str::to_owned)))
}

/// The claims of a JWT, unverified: whether it is good is for its receiver to say.
pub fn claims(token: &str) -> Option<serde_json::Value> {
    let middle = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(middle).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_named_by_capitals_and_one_that_is_not_set_is_a_miss() {
        assert_eq!(resolved("5 $ and $lower").ok().as_deref(), Some("5 $ and $lower"));
        assert!(matches!(resolved("$NO_SUCH_VARIABLE_IS_SET/path"), Err(Miss::Failed(why)) if why.contains("NO_SUCH")));
        // Every test has this one.
        let home = std::env::var("PATH").unwrap_or_default();
        assert_eq!(resolved("a $PATH b").ok(), Some(format!("a {} b", home.trim_end_matches('/'))));
    }
}
