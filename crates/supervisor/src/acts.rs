//! The record of what people had the supervisor do: who, what, to which stamp, when. Written to a hash-chained spool of the home
//! before the act, so that it outlives the stamp (`destroy` too) and does not depend on any role.

use std::sync::Arc;

use api::{
    audit::{Event, Outcome, Record},
    supervisor::Failure,
};
use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Query, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use service::{Clock, Peer, Spool};

use crate::{Error, Home, files::digest};

/// The largest request of the socket, bytes.
const BODY: usize = 4 * 1024 * 1024;
/// Records that are read to answer one question, the newest.
const LOOKED_AT: u64 = 20_000;
/// What takes something away must work on a full disk, where nothing can be recorded.
const ALWAYS: [&str; 3] = ["/down", "/destroy", "/shutdown"];

/// The record of one home.
#[derive(Clone)]
pub struct Acts(Arc<Spool>);

/// Which acts are asked for.
#[derive(Deserialize)]
pub struct Which {
    system: Option<String>,
    stamp: Option<String>,
    limit: Option<usize>,
}

impl Acts {
    /// Opens the record of a home; there is one supervisor of it.
    pub fn open(home: &Home) -> Result<Self, Error> {
        let folder = home.root().join("acts");
        crate::home::make(&folder, 0o700).map_err(Error::file("make", &folder))?;
        let failed = |e: service::spool::Error| Error::file("open", &folder)(std::io::Error::other(e));
        Ok(Self(Arc::new(Spool::open(&folder, "supervisor", Clock::default()).map_err(failed)?)))
    }

    /// Records what the supervisor does by itself. What cannot be recorded (a full disk) is done all the same: it is what mends.
    pub async fn own(&self, action: &str, object: &str, detail: &[(&str, String)]) {
        let mut event = self.0.event("supervisor", action, "", Outcome::Ok);
        event.object = object.to_owned();
        event.detail = detail.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
        if let Err(error) = self.0.append(event).await {
            tracing::warn!(action, object, error = error.to_string(), "done without a record");
        }
    }

    /// The newest acts that fit, the newest first.
    fn list(&self, which: &Which) -> Vec<Record> {
        let from = self.0.durable().saturating_sub(LOOKED_AT);
        let all = self.0.read(from, LOOKED_AT as usize, usize::MAX).unwrap_or_default();
        let wanted = match (&which.system, &which.stamp) {
            (Some(system), Some(stamp)) => format!("{system}/{stamp}"),
            (Some(system), None) => format!("{system}/"),
            _ => String::new(),
        };
        let exact = which.stamp.is_some();
        let fits = |record: &&Record| {
            let object = serde_json::from_str::<Event>(&record.event).map(|event| event.object).unwrap_or_default();
            wanted.is_empty() || if exact { object == wanted } else { object.starts_with(&wanted) }
        };
        all.iter().rev().filter(fits).take(which.limit.unwrap_or(50)).cloned().collect()
    }
}

/// `GET /acts`.
pub async fn show(State(acts): State<Acts>, Query(which): Query<Which>) -> Json<Vec<Record>> {
    Json(acts.list(&which))
}

/// Records every request that is more than a question, before it is carried out.
pub async fn record(State(acts): State<Acts>, request: Request, next: Next) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    let uid = request.extensions().get::<Peer>().and_then(|peer| peer.uid);
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, BODY).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the request is too large").into_response();
    };
    let mut event = acts.0.event(&actor(uid), &action(&path), "", Outcome::Ok);
    (event.object, event.detail) = about(&path, &serde_json::from_slice(&bytes).unwrap_or_default());
    if let Err(error) = acts.0.append(event).await {
        if !ALWAYS.contains(&path.as_str()) {
            let failure = Failure {
                code: "S0240".into(),
                message: format!("could not record who asked for {path}, so it was not done"),
                causes: vec![error.to_string()],
                hint: Some("is the disk full? `stamp down` works all the same".into()),
                exit: 1,
                ..Failure::default()
            };
            return (StatusCode::CONFLICT, Json(failure)).into_response();
        }
        tracing::warn!(path, error = error.to_string(), "carried out without a record");
    }
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

/// `/secret` is `stamp.secret`, `/network/cut` is `stamp.network.cut`.
fn action(path: &str) -> String {
    format!("stamp{}", path.replace('/', "."))
}

/// The name of the user at the other end.
fn actor(uid: Option<u32>) -> String {
    let Some(uid) = uid else { return "anonymous".into() };
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    format!("os:{}", name.unwrap_or_else(|| uid.to_string()))
}

/// To what, and what else is worth keeping. Only what is named here is taken over: a request may hold a secret.
fn about(path: &str, asked: &Value) -> (String, Map<String, Value>) {
    let text = |key: &str| asked[key].as_str().unwrap_or_default();
    let mut detail = Map::new();
    let mut system = text("system").to_owned();
    if path == "/up" {
        let manifest = text("manifest");
        detail.insert("manifest".into(), digest(manifest.as_bytes()).into());
        if let Ok(parsed) = model::Manifest::parse(manifest) {
            system = parsed.name().to_owned();
        }
    }
    for key in ["service", "vault", "name", "email", "groups", "workload", "resource", "from", "to", "at", "database"] {
        if let Some(value) = asked.get(key).filter(|value| !value.is_null()) {
            detail.insert(key.into(), value.clone());
        }
    }
    if let Some(program) = asked["command"][0].as_str() {
        // Its arguments may hold anything.
        detail.insert("program".into(), program.into());
    }
    let object = if system.is_empty() { "supervisor".into() } else { format!("{system}/{}", text("stamp")) };
    (object, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_says_to_what_and_never_a_secret() {
        let (object, detail) =
            about("/secret", &json!({ "system": "s", "stamp": "dev", "name": "Key", "value": "hidden" }));
        assert_eq!((object.as_str(), detail["name"].as_str()), ("s/dev", Some("Key")));
        assert!(!serde_json::to_string(&detail).unwrap_or_default().contains("hidden"));
        let (object, detail) = about(
            "/exec",
            &json!({ "system": "s", "stamp": "dev", "service": "web", "command": ["psql", "postgresql://u:hidden@h"] }),
        );
        assert_eq!((object.as_str(), detail["program"].as_str()), ("s/dev", Some("psql")));
        assert!(!serde_json::to_string(&detail).unwrap_or_default().contains("hidden"));
        let (object, detail) =
            about("/up", &json!({ "manifest": "stamp = 1\nsystem = \"shop\"\n[stamps.dev]\n", "stamp": "dev" }));
        assert_eq!(object, "shop/dev");
        assert_eq!(detail["manifest"].as_str().map(str::len), Some(64));
        assert_eq!(about("/shutdown", &Value::Null).0, "supervisor");
    }

    #[test]
    fn users_are_named() {
        assert_eq!(actor(Some(0)), "os:root");
        assert_eq!(actor(Some(4_000_000_000)), "os:4000000000");
        assert_eq!(actor(None), "anonymous");
        assert_eq!(action("/network/cut"), "stamp.network.cut");
    }
}
